//! A conversation in HTTP/1: one request after another.

pub mod guard;
mod reader;

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue};
use http::{Request as HttpRequest, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use self::guard::Fault;
pub(super) use self::reader::Guarded;
use super::busy::{Answering, Busy};
use super::connection::{Client, linger, refused};
use super::phase::{Order, Phase, State};
use super::watched::Watched;
use crate::forward::body::AnswerCut;
use crate::forward::upgrade::Tunnel;
use crate::gateway::{Gateway, Worker};
use crate::observe::exchange::Recorded;
use crate::observe::metrics::HeadFault;

/// What is sent to a client whose head takes too long (RFC 9110 §15.5.9).
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// To one whose bytes are no request.
const MALFORMED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// To one whose head is longer than is parsed at all.
const TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// hyper's read buffer is not allowed to be smaller.
const MIN_BUFFER: usize = 16 * 1024;

/// What reads heads of at most so many bytes; `early` has come already.
pub(super) fn reader(longest: usize, early: BytesMut) -> Guarded {
    Guarded::new(longest.max(MIN_BUFFER), early)
}

/// Serves requests until the connection ends.
pub(super) async fn serve(mut io: Watched<Guarded>, client: &Client, worker: &Rc<Worker>) {
    // Why boxed: what a conversation holds is given back while the connection is parked.
    while let Some(mut parked) = Box::pin(converse(io, client, worker)).await {
        if !parked.reader.is_clear() {
            // It has not been waiting: the beginning of a head came together with what was before it.
            parked.state.phase.set(if parked.reader.has_begun() { Phase::Head } else { Phase::Waiting });
            parked.state.order.set(Order::GoOn);
            io = parked;
            continue;
        }
        let counters = Rc::clone(&worker.live().counters);
        counters.connection_parked();
        let goes_on = parked.wait().await;
        counters.connection_resumed();
        if !goes_on {
            return parked.close().await;
        }
        io = parked;
    }
}

/// Serves requests until the connection ends, `None`, or is parked.
async fn converse(io: Watched<Guarded>, client: &Client, worker: &Rc<Worker>) -> Option<Watched<Guarded>> {
    let state = Rc::clone(&io.state);
    let changed = Cell::new(None);
    let service = service_fn(|request: HttpRequest<Incoming>| {
        let asked = Asked::begin(&request, &state);
        let busy = Busy::begin(&state);
        let answering = Answering::begin(&state);
        // What is live now is what this request sees, whatever takes its place meanwhile.
        let live = worker.live();
        let peer = client.peer(&live);
        let (changed, state) = (&changed, &state);
        async move {
            state.is_begun.set(true);
            let mut answer = Gateway::answer(live, worker, peer, busy.clone(), request).await;
            say_if_last(&mut answer, state, asked);
            Ok::<_, Infallible>(answer.map(|mut body| match body.tunnel() {
                None => Sending::begin(body, busy, answering, (asked, state)),
                // What comes from now on is no request: it is held back until the tunnel takes it.
                Some(tunnel) => {
                    changed.set(Some(Changed { tunnel, recorded: body, _answering: answering }));
                    Sending { body: None, _busy: busy, answering: None }
                }
            }))
        }
    });
    let head = worker.live().limits.head;
    // Fields, and those after a chunked body: as many as hyper has room for without asking for memory, 100; the file allows
    // no more (`header_count`), and up to that `admit` has the better answer.
    let mut connection = http1::Builder::new()
        .header_read_timeout(None::<Duration>)
        .max_header_size(head)
        .max_buf_size(head.max(MIN_BUFFER))
        .serve_connection(TokioIo::new(io), service);
    let order = loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                ended.unwrap_or_else(|error| failed(&error, &state, client, worker));
                break Order::Finish;
            }
            () = state.woken.rung() => match state.due() {
                None => {}
                Some(Order::Finish) => Pin::new(&mut connection).graceful_shutdown(),
                Some(order) => break order,
            },
        }
    };
    let parts = connection.into_parts();
    if let Some(changed) = changed.take() {
        changed.go_on(parts.io.into_inner()).await;
        return None;
    }
    let parked = leave(parts.io.into_inner(), order, client, worker).await;
    // The guard lets no part of a head through: nothing is left with the parser of a connection that waits.
    parked.filter(|_| parts.read_buf.is_empty())
}

/// What the answer depends on of how a request came.
#[derive(Clone, Copy)]
struct Asked {
    is_chunked: bool,
    is_http_10: bool,
}

impl Asked {
    fn begin(request: &HttpRequest<Incoming>, state: &State) -> Self {
        let body = request.body();
        state.asked(!body.is_end_stream());
        Self { is_chunked: body.size_hint().exact().is_none(), is_http_10: request.version() == Version::HTTP_10 }
    }
}

/// Says that nothing comes after an answer, where that is so.
fn say_if_last(answer: &mut Response<Recorded>, state: &State, asked: Asked) {
    let is_last = state.is_ending() || state.is_left_unread(asked.is_chunked);
    if is_last && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Takes what ended a conversation. How else a connection ends is the client's affair, and requests log themselves.
fn failed(error: &hyper::Error, state: &State, client: &Client, worker: &Worker) {
    if let Some(fault) = head_fault(error) {
        // What comes after it may be on its way: a reset would take the answer with it.
        state.had_body.set(true);
        refused(fault, "the parser does not take it", client, worker);
    }
}

/// Ends a conversation; the connection where it is only parked.
pub(super) async fn leave(
    mut io: Watched<Guarded>,
    order: Order,
    client: &Client,
    worker: &Worker,
) -> Option<Watched<Guarded>> {
    match (order, io.reader.fault()) {
        (Order::Park | Order::GoOn, _) => return Some(io),
        // A clean end would be that of the answer.
        (Order::Finish, _) if io.state.ends_by_close.get() => io.stream.reset(),
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
            tracing::info!(client = %client.address, "a client does not read, or reads too slowly, or its answer has no end while draining: its connection is closed");
            // Nor is that the end of an answer.
            if io.state.ends_by_close.get() {
                io.stream.reset();
            }
        }
    }
    None
}

/// What was wrong with a head that hyper has answered by itself.
fn head_fault(error: &hyper::Error) -> Option<HeadFault> {
    match (error.is_parse_too_large(), error.is_parse()) {
        (true, _) => Some(HeadFault::TooLarge),
        (false, true) => Some(HeadFault::Malformed),
        (false, false) => None,
    }
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

/// An answer's body with what it keeps busy.
struct Sending {
    /// Nothing of a change of protocol: it is recorded when that ends.
    body: Option<Recorded>,
    _busy: Busy,
    answering: Option<Answering>,
}

impl Sending {
    fn begin(body: Recorded, busy: Busy, answering: Answering, (asked, state): (Asked, &State)) -> Self {
        state.hold.set(body.hold().cloned());
        state.ends_by_close.set(asked.is_http_10 && body.size_hint().exact().is_none());
        Self { body: Some(body), _busy: busy, answering: Some(answering) }
    }
}

/// A connection that changes its protocol.
struct Changed {
    tunnel: Box<Tunnel>,
    recorded: Recorded,
    _answering: Answering,
}

impl Changed {
    /// Moves bytes both ways until the end.
    async fn go_on(self, mut io: Watched<Guarded>) {
        let state = Rc::clone(&io.state);
        // Of a 101 that is not through nobody knows how much is.
        if !state.is_flushed.get() {
            return;
        }
        let busy = Busy::begin(&state);
        let told = async {
            while state.order.get() != Order::Finish {
                state.woken.rung().await;
            }
        };
        let early = io.reader.take();
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
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let is_last = matches!(polled, Poll::Ready(None)) || body.is_end_stream();
        if let Some(answering) = self.answering.as_ref().filter(|_| is_last) {
            answering.is_through();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
