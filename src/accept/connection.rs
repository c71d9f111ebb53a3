//! One client connection, from its first byte to its last.
//!
//! It is always in one of these phases; a worker's watch looks at all of them a few times a second,
//! so that no request sets or resets a timer of its own:
//!
//! 1. waiting for a request, no longer than `keep_alive_timeout`: then closed; after a second of it
//!    a connection of HTTP/1 is parked, so that it holds a socket and no buffers;
//! 2. inside a request's head, no longer than `header_timeout`: then 408 and closed (slow loris);
//! 3. busy with a request, whose own limits apply.
//!
//! Over TLS its protocol is what ALPN settled on; else its first bytes say: those of HTTP/2 with prior
//! knowledge are no request of HTTP/1 (RFC 9113 §3.4).

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::peer::Peer;
use super::phase::{Entry, Order, State};
use super::tls::{Refused, Tls};
use super::watched::Watched;
use super::{http1, http2, proxy_protocol};
use crate::certificate::ClientCertificate;
use crate::gateway::{LiveGateway, Worker};
use crate::observe::metrics::HeadFault;
use crate::stream::Stream;

/// How long, and for how many bytes, a client is listened to that sends on after its answer.
pub(super) const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGERED: usize = 64 * 1024 * 1024;

/// Room for what comes first; most heads fit.
const FIRST: usize = 4 * 1024;

/// Who is on the other end, as each snapshot sees them.
pub struct Client {
    pub(super) address: IpAddr,
    is_tls: bool,
    certificate: Option<Arc<ClientCertificate>>,
    /// The number of the snapshot, and the peer to it.
    seen: RefCell<(u64, Rc<Peer>)>,
}

impl Client {
    /// A client that connected from `address`, over TLS or plain.
    #[must_use]
    pub fn new(address: IpAddr, is_tls: bool, live: &LiveGateway) -> Self {
        let peer = Rc::new(Peer::new(address, &live.gateway.trusted_proxies, is_tls));
        Self { address, is_tls, certificate: None, seen: RefCell::new((live.number, peer)) }
    }

    /// The client, with the certificate that it has proved to be its own.
    fn with(self, certificate: Option<Arc<ClientCertificate>>) -> Self {
        let (number, peer) = self.seen.into_inner();
        let peer = Rc::new(Peer { certificate: certificate.clone(), ..Rc::unwrap_or_clone(peer) });
        Self { certificate, seen: RefCell::new((number, peer)), ..self }
    }

    /// The peer, to a request that `live` serves: another snapshot may trust others.
    pub(super) fn peer(&self, live: &LiveGateway) -> Rc<Peer> {
        let mut seen = self.seen.borrow_mut();
        if seen.0 != live.number {
            let peer = Peer::new(self.address, &live.gateway.trusted_proxies, self.is_tls);
            *seen = (live.number, Rc::new(Peer { certificate: self.certificate.clone(), ..peer }));
        }
        Rc::clone(&seen.1)
    }
}

/// Serves one connection until it ends.
pub async fn serve(socket: TcpStream, tls: Option<Arc<Tls>>, mut client: Client, worker: Rc<Worker>, entry: Entry) {
    let state = Rc::clone(&entry.state);
    let (stream, first) = match tls {
        None => {
            let first = first(&socket, &state).await;
            (Stream::Plain(socket), first)
        }
        Some(tls) => match Box::pin(open(socket, &tls, &state)).await {
            Ok((stream, certificate)) => {
                client = client.with(certificate);
                let is_http2 = stream.is_http2();
                (stream, if is_http2 { First::Http2(BytesMut::new()) } else { First::Http1(BytesMut::new()) })
            }
            Err(refusal) => return not_opened(refusal, &client, &worker),
        },
    };
    let longest = worker.live().limits.head;
    let http1 = |early| http1::reader(longest, early);
    match first {
        First::Http1(early) => http1::serve(Watched::new(stream, state, http1(early)), &client, &worker).await,
        First::Http2(early) => Box::pin(http2::serve(stream, early, Rc::new(client), worker, state)).await,
        First::None(order) => {
            let io = Watched::new(stream, state, http1(BytesMut::new()));
            http1::leave(io, order, &client, &worker).await;
        }
    }
}

/// The same for a connection that begins with a header of the PROXY protocol.
pub async fn serve_proxied(
    mut socket: TcpStream,
    tls: Option<Arc<Tls>>,
    mut client: Client,
    worker: Rc<Worker>,
    entry: Entry,
) {
    let state = Rc::clone(&entry.state);
    let read = until_told(Box::pin(proxy_protocol::read(&mut socket)), &state).await;
    let reason = match read {
        Ok(Ok(address)) => {
            if let Some(address) = address {
                client = Client::new(address, client.is_tls, &worker.live());
            }
            return serve(socket, tls, client, worker, entry).await;
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => "it is none, and one has to come first here",
        Err(Order::TimeOut | Order::Abort) => "it took too long",
        // The balancer has left, or is told to.
        Ok(Err(_)) | Err(Order::Finish | Order::GoOn | Order::Park) => return,
    };
    refused(HeadFault::ProxyHeader, reason, &client, &worker);
}

/// What a connection begins with.
enum First {
    /// With this, which is of HTTP/1 or of nothing.
    Http1(BytesMut),
    /// With this, the preface of HTTP/2 and what came after it.
    Http2(BytesMut),
    /// With nothing, until it was told to end.
    None(Order),
}

/// Reads until the protocol is known.
async fn first(socket: &TcpStream, state: &State) -> First {
    let mut early = BytesMut::new();
    loop {
        tokio::select! {
            biased;
            _ready = socket.readable() => {
                early.reserve(FIRST);
                match socket.try_read_buf(&mut early) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    // Whoever reads on meets the same end.
                    Ok(0) | Err(_) => return First::Http1(early),
                    Ok(_) => {}
                }
                if early.starts_with(http2::PREFACE) {
                    return First::Http2(early);
                }
                if !http2::PREFACE.starts_with(&early) {
                    return First::Http1(early);
                }
            }
            () = state.woken.rung() => match state.due() {
                None => {}
                Some(order) if early.is_empty() => return First::None(order),
                Some(order) => {
                    // It is for whoever reads on.
                    state.order.set(Order::GoOn);
                    state.tell(order);
                    return First::Http1(early);
                }
            },
        }
    }
}

/// Does the handshake: no longer than the first head may take, and not beyond the order to finish.
async fn open(
    socket: TcpStream,
    tls: &Tls,
    state: &State,
) -> Result<(Stream, Option<Arc<ClientCertificate>>), Refused> {
    match until_told(tls.open(socket), state).await {
        Ok(opened) => opened,
        Err(Order::TimeOut | Order::Abort) => Err(Refused::Handshake("it took too long".to_owned())),
        Err(Order::Finish | Order::GoOn | Order::Park) => Err(Refused::Gone),
    }
}

/// What comes of something, or the order to end that came before.
async fn until_told<T>(something: impl Future<Output = T>, state: &State) -> Result<T, Order> {
    tokio::pin!(something);
    loop {
        tokio::select! {
            biased;
            done = &mut something => return Ok(done),
            () = state.woken.rung() => match state.order.get() {
                order @ (Order::TimeOut | Order::Abort | Order::Finish) => return Err(order),
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

/// Reads what a client still sends to a connection that is closed on this side, for a while: closing
/// the socket on it would reset the connection, and the client might lose the answer (RFC 9112 §9.6).
pub(super) async fn linger(stream: &TcpStream, had_body: bool) {
    let read = async {
        let mut left = MAX_LINGERED;
        loop {
            match waste(stream) {
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

/// Reads what there is; no buffer is held while it is waited for.
fn waste(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; 16 * 1024])
}

/// Records a head that never became a request: it has no path, no id and no route.
pub(super) fn refused(fault: HeadFault, reason: &str, client: &Client, worker: &Worker) {
    worker.live().counters.head_refused(fault);
    tracing::info!(outcome = fault.label(), reason, client = %client.address, "a head was refused");
}
