//! One client connection, from its first byte to its last.
//!
//! It is always in one of these phases; a worker's watch looks at all of them a few times a second,
//! so that no request sets or resets a timer of its own:
//!
//! 1. waiting for a request, no longer than `keep_alive_timeout`: then closed; after a second of it
//!    the connection is parked, so that it holds a socket and no buffers;
//! 2. inside a request's head, no longer than `header_timeout`: then 408 and closed (slow loris);
//! 3. busy with a request, whose own limits apply.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request as HttpRequest;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::guard::Fault;
use super::peer::Peer;
use super::phase::{Answering, Busy, Entry, Order, Phase, State};
use super::tls::{Refused, Tls};
use super::watched::Watched;
use crate::forward::body::AnswerCut;
use crate::forward::upgrade::Tunnel;
use crate::gateway::{Gateway, LiveGateway, Worker};
use crate::observe::exchange::Recorded;
use crate::observe::metrics::HeadFault;
use crate::stream::Stream;

/// What is sent to a client whose head takes too long (RFC 9110 §15.5.9).
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// To one whose bytes are no request.
const MALFORMED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// To one whose head is longer than is parsed at all.
const TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Header fields that are parsed at all; `admit` has the finer limit, and a better answer.
const MAX_FIELDS: usize = 256;

/// How long, and for how many bytes, a client is listened to that sends on after its answer.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGERED: usize = 64 * 1024 * 1024;

/// Who is on the other end, as each snapshot sees them.
pub struct Client {
    address: IpAddr,
    is_tls: bool,
    /// The number of the snapshot, and the peer to it.
    seen: RefCell<(u64, Rc<Peer>)>,
}

impl Client {
    /// A client that connected from `address`, over TLS or plain.
    #[must_use]
    pub fn new(address: IpAddr, is_tls: bool, live: &LiveGateway) -> Self {
        let peer = Rc::new(Peer::new(address, &live.gateway.trusted_proxies, is_tls));
        Self { address, is_tls, seen: RefCell::new((live.number, peer)) }
    }

    /// The peer, to a request that `live` serves: another snapshot may trust others.
    fn peer(&self, live: &LiveGateway) -> Rc<Peer> {
        let mut seen = self.seen.borrow_mut();
        if seen.0 != live.number {
            *seen = (live.number, Rc::new(Peer::new(self.address, &live.gateway.trusted_proxies, self.is_tls)));
        }
        Rc::clone(&seen.1)
    }
}

/// Serves one connection until it ends.
pub async fn serve(socket: TcpStream, tls: Option<Arc<Tls>>, client: Client, worker: &Worker, entry: Entry) {
    let stream = match tls {
        None => Stream::Plain(socket),
        Some(tls) => match Box::pin(open(socket, &tls, &entry.state)).await {
            Ok(stream) => stream,
            Err(refusal) => return not_opened(refusal, &client, worker),
        },
    };
    let longest = worker.live().limits.head.max(MIN_BUFFER);
    let mut io = Watched::new(stream, Rc::clone(&entry.state), longest);
    // Why boxed: what a conversation holds is given back while the connection is parked.
    while let Some(mut parked) = Box::pin(converse(io, &client, worker)).await {
        if !parked.is_clear() {
            // It has not been waiting: the beginning of a head came together with what was before it.
            parked.state.phase.set(if parked.has_begun() { Phase::Head } else { Phase::Waiting });
            parked.state.order.set(Order::GoOn);
            io = parked;
            continue;
        }
        let counters = Arc::clone(&worker.live().counters);
        counters.connection_parked();
        let goes_on = parked.wait().await;
        counters.connection_resumed();
        if !goes_on {
            return parked.close().await;
        }
        io = parked;
    }
}

/// Does the handshake: no longer than the first head may take, and not beyond the order to finish.
async fn open(socket: TcpStream, tls: &Tls, state: &State) -> Result<Stream, Refused> {
    let opened = tls.open(socket);
    tokio::pin!(opened);
    loop {
        tokio::select! {
            biased;
            opened = &mut opened => return opened,
            () = state.woken.notified() => match state.order.get() {
                Order::TimeOut | Order::Abort => return Err(Refused::Handshake("it took too long".to_owned())),
                Order::Finish => return Err(Refused::Gone),
                Order::GoOn | Order::Park => {}
            },
        }
    }
}

/// Records a connection that never came to a conversation.
fn not_opened(refusal: Refused, client: &Client, worker: &Worker) {
    let (fault, reason) = match refusal {
        Refused::Gone => return,
        Refused::Plain => (HeadFault::PlainHttp, "plain HTTP where TLS is spoken".to_owned()),
        Refused::Handshake(reason) => (HeadFault::Handshake, reason),
    };
    worker.live().counters.head_refused(fault);
    tracing::info!(outcome = fault.label(), reason, client = %client.address, "a connection was refused");
}

/// Serves requests until the connection ends, `None`, or is parked.
async fn converse(io: Watched, client: &Client, worker: &Worker) -> Option<Watched> {
    let state = Rc::clone(&io.state);
    let changed = Cell::new(None);
    let service = service_fn(|request: HttpRequest<Incoming>| {
        let busy = Busy::begin(&state);
        let answering = Answering::begin(&state);
        state.had_body.set(!request.body().is_end_stream());
        // What is live now is what this request sees, whatever takes its place meanwhile.
        let live = worker.live();
        let peer = client.peer(&live);
        let changed = &changed;
        async move {
            let answer = Gateway::handle(&live, &worker.connections, &peer, busy.clone(), request).await;
            Ok::<_, Infallible>(answer.map(|mut body| match body.tunnel() {
                None => Sending { body: Some(body), _busy: busy, _answering: Some(answering) },
                // What comes from now on is no request: it is held back until the tunnel takes it.
                Some(tunnel) => {
                    changed.set(Some(Changed { tunnel, recorded: body, _answering: answering }));
                    Sending { body: None, _busy: busy, _answering: None }
                }
            }))
        }
    });
    let head = worker.live().limits.head;
    let mut connection = http1::Builder::new()
        .header_read_timeout(None::<Duration>)
        .max_header_size(head)
        .max_headers(MAX_FIELDS)
        .max_buf_size(head.max(MIN_BUFFER))
        .serve_connection(TokioIo::new(io), service);
    // Boxed, so that it can be let go: whoever waits on would be woken in the place of what comes after.
    let mut woken = Box::pin(state.woken.notified());
    let order = loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Some(fault) = ended.err().and_then(head_fault) {
                    // What comes after it may be on its way: a reset would take the answer with it.
                    state.had_body.set(true);
                    refused(fault, "the parser does not take it", client, worker);
                }
                break Order::Finish;
            }
            () = &mut woken => {
                woken.set(state.woken.notified());
                match state.due() {
                    None => {}
                    Some(Order::Finish) => Pin::new(&mut connection).graceful_shutdown(),
                    Some(order) => break order,
                }
            }
        }
    };
    drop(woken);
    let parts = connection.into_parts();
    if let Some(changed) = changed.take() {
        changed.go_on(parts.io.into_inner()).await;
        return None;
    }
    let parked = leave(parts.io.into_inner(), order, client, worker).await;
    // The guard lets no part of a head through: nothing is left with the parser of a connection that waits.
    parked.filter(|_| parts.read_buf.is_empty())
}

/// Ends a conversation; the connection where it is only parked.
async fn leave(mut io: Watched, order: Order, client: &Client, worker: &Worker) -> Option<Watched> {
    match (order, io.fault()) {
        (Order::Park | Order::GoOn, _) => return Some(io),
        (Order::Finish, None) => {
            io.close().await;
            linger(io.stream.socket(), io.state.had_body.get()).await;
        }
        (Order::Finish, Some(fault)) => {
            let (kind, farewell) = farewell(fault);
            if let Some(kind) = kind {
                refused(kind, fault.reason(), client, worker);
            }
            // Into an answer that is not through nothing may be written.
            if io.state.is_flushed.get() {
                io.stream.say(farewell).await;
            }
            linger(io.stream.socket(), true).await;
        }
        (Order::TimeOut, _) => {
            refused(HeadFault::TooSlow, "it took too long", client, worker);
            io.stream.say(TIMED_OUT).await;
            linger(io.stream.socket(), true).await;
        }
        (Order::Abort, _) => {
            tracing::info!(client = %client.address, "a client does not read: its connection is closed");
        }
    }
    None
}

/// Reads what a client still sends to a connection that is closed on this side, for a while: closing
/// the socket on it would reset the connection, and the client might lose the answer (RFC 9112 §9.6).
async fn linger(stream: &TcpStream, had_body: bool) {
    let mut waste = vec![0; 16 * 1024];
    let read = async {
        let mut left = MAX_LINGERED;
        loop {
            match stream.try_read(&mut waste) {
                Ok(0) => return,
                Ok(read) if read < left => left -= read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && had_body => {
                    if stream.readable().await.is_err() {
                        return;
                    }
                }
                Ok(_) | Err(_) => return,
            }
        }
    };
    drop(timeout(LINGER, read).await);
}

/// What was wrong with a head that hyper has answered by itself; how else a connection ends is the
/// client's affair, and requests log themselves.
fn head_fault(error: hyper::Error) -> Option<HeadFault> {
    match (error.is_parse_too_large(), error.is_parse()) {
        (true, _) => Some(HeadFault::TooLarge),
        (false, true) => Some(HeadFault::Malformed),
        (false, false) => None,
    }
}

/// Records a head that never became a request: it has no path, no id and no route.
fn refused(fault: HeadFault, reason: &str, client: &Client, worker: &Worker) {
    worker.live().counters.head_refused(fault);
    tracing::info!(outcome = fault.label(), reason, client = %client.address, "a head was refused");
}

/// What is counted, and said, where the guard let nothing through; of a body's fault its request was
/// told.
const fn farewell(fault: Fault) -> (Option<HeadFault>, &'static [u8]) {
    match fault {
        Fault::Chunk => (None, b""),
        Fault::LongTarget => (Some(HeadFault::TooLarge), TOO_LONG),
        Fault::LongHead => (Some(HeadFault::TooLarge), TOO_LARGE),
        Fault::LineEnd
        | Fault::Folded
        | Fault::EmptyLines
        | Fault::RequestLine
        | Fault::Fragment
        | Fault::Length
        | Fault::Coding
        | Fault::TwoFramings => (Some(HeadFault::Malformed), MALFORMED),
    }
}

/// hyper's read buffer is not allowed to be smaller.
const MIN_BUFFER: usize = 16 * 1024;

/// An answer's body with what it keeps busy.
struct Sending {
    /// Nothing of a change of protocol: it is recorded when that ends.
    body: Option<Recorded>,
    _busy: Busy,
    _answering: Option<Answering>,
}

/// A connection that changes its protocol.
struct Changed {
    tunnel: Box<Tunnel>,
    recorded: Recorded,
    _answering: Answering,
}

impl Changed {
    /// Moves bytes both ways until the end.
    async fn go_on(self, mut io: Watched) {
        let state = Rc::clone(&io.state);
        // Of a 101 that is not through nobody knows how much is.
        if !state.is_flushed.get() {
            return;
        }
        let busy = Busy::begin(&state);
        let told = async {
            while state.order.get() != Order::Finish {
                state.woken.notified().await;
            }
        };
        let early = io.take();
        let tunnelled = self.tunnel.run(&mut io.stream, &early, told).await;
        self.recorded.tunnelled(&tunnelled);
        linger(io.stream.socket(), true).await;
        drop(busy);
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
