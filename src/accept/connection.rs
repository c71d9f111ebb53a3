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
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::Limits;
use super::peer::Peer;
use crate::clock;
use crate::forward::body::AnswerCut;
use crate::gateway::{Gateway, Worker};
use crate::observe::exchange::Recorded;
use crate::observe::metrics::HeadFault;

/// What is sent to a client whose head takes too long (RFC 9110 §15.5.9).
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Header fields that are parsed at all; `admit` has the finer limit, and a better answer.
const MAX_FIELDS: usize = 256;

/// How long a connection waits before it is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// The connections of one worker.
#[derive(Default)]
pub struct Watch {
    connections: RefCell<HashMap<u64, Rc<State>>>,
    next: Cell<u64>,
}

/// What the watch sees of one connection.
struct State {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    order: Cell<Order>,
    /// Whether all that was written is with the kernel.
    is_flushed: Cell<bool>,
    woken: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Waiting, with its buffers given back.
    Parked,
    Head,
    Busy,
}

/// What a connection is told to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    GoOn,
    /// Give the buffers back and wait for the socket alone.
    Park,
    /// Answer what is under way, then close.
    Finish,
    /// Say 408 and close.
    TimeOut,
}

impl Watch {
    /// Ends what has been waiting, or inside a head, for too long.
    pub fn look(&self, limits: &Limits) {
        let now = clock::monotonic();
        for state in self.connections.borrow().values() {
            let age = now.saturating_duration_since(state.since.get());
            match state.phase.get() {
                Phase::Waiting | Phase::Parked if age > limits.keep_alive_timeout => state.tell(Order::Finish),
                Phase::Waiting if age > PARK_AFTER => state.tell(Order::Park),
                Phase::Head if age > limits.header_timeout => state.tell(Order::TimeOut),
                Phase::Waiting | Phase::Parked | Phase::Head | Phase::Busy => {}
            }
        }
    }

    /// Tells every connection to finish.
    pub fn finish(&self) {
        for state in self.connections.borrow().values() {
            state.tell(Order::Finish);
        }
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.connections.borrow().len()
    }

    fn enter(self: &Rc<Self>) -> Entry {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let state = Rc::new(State {
            phase: Cell::new(Phase::Head),
            since: Cell::new(clock::monotonic()),
            order: Cell::new(Order::GoOn),
            is_flushed: Cell::new(true),
            woken: Notify::new(),
        });
        self.connections.borrow_mut().insert(number, Rc::clone(&state));
        Entry { watch: Rc::clone(self), number, state }
    }
}

/// A connection's place in the watch; leaving is dropping it.
struct Entry {
    watch: Rc<Watch>,
    number: u64,
    state: Rc<State>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.watch.connections.borrow_mut().remove(&self.number);
    }
}

impl State {
    fn tell(&self, order: Order) {
        if self.order.get() != order {
            self.order.set(order);
            self.woken.notify_one();
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(clock::monotonic());
    }
}

/// Serves one connection until it ends.
pub async fn serve(stream: TcpStream, peer: Peer, worker: Rc<Worker>, watch: Rc<Watch>, limits: Limits) {
    let entry = watch.enter();
    let mut io = Watched { stream, before: Bytes::new(), state: Rc::clone(&entry.state) };
    // Why boxed: what a conversation holds is given back while the connection is parked.
    while let Some(parked) = Box::pin(converse(io, &peer, &worker, limits)).await {
        if !parked.before.is_empty() {
            // It has not been waiting: the beginning of a head came together with what was before it.
            parked.state.phase.set(Phase::Head);
            parked.state.order.set(Order::GoOn);
            io = parked;
            continue;
        }
        worker.counters.connection_parked();
        let goes_on = parked.wait().await;
        worker.counters.connection_resumed();
        if !goes_on {
            return;
        }
        io = parked;
    }
}

/// Serves requests until the connection ends, `None`, or is parked.
async fn converse(io: Watched, peer: &Peer, worker: &Worker, limits: Limits) -> Option<Watched> {
    let state = Rc::clone(&io.state);
    let service = service_fn(|request| {
        let busy = Busy::begin(&state);
        async move {
            let answer = Gateway::handle(worker, peer, busy.clone(), request).await;
            Ok::<_, Infallible>(answer.map(|body| Sending { body, _busy: busy }))
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None::<Duration>)
        .max_header_size(limits.head)
        .max_headers(MAX_FIELDS)
        .max_buf_size(limits.head.max(MIN_BUFFER))
        .serve_connection(TokioIo::new(io), service);
    let woken = state.woken.notified();
    tokio::pin!(woken);
    let order = loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Some(fault) = ended.err().and_then(head_fault) {
                    refused(fault, peer, worker);
                }
                return None;
            }
            () = &mut woken => {
                woken.set(state.woken.notified());
                match (state.order.get(), state.phase.get()) {
                    (Order::GoOn, _) => {}
                    (Order::Finish, _) => Pin::new(&mut connection).graceful_shutdown(),
                    (order @ Order::TimeOut, Phase::Head) if state.is_flushed.get() => break order,
                    (order @ Order::Park, Phase::Waiting) if state.is_flushed.get() => break order,
                    // A head has come to its end, or begun, in this very turn; or the answer before
                    // it is still on its way, and nothing may be written into that.
                    (Order::TimeOut | Order::Park, _) => state.order.set(Order::GoOn),
                }
            }
        }
    };
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if order == Order::Park {
        return Some(Watched { before: parts.read_buf, ..io });
    }
    refused(HeadFault::TooSlow, peer, worker);
    // A client that does not read is not waited for.
    drop(io.stream.try_write(TIMED_OUT));
    drop(io.stream.shutdown().await);
    None
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
fn refused(fault: HeadFault, peer: &Peer, worker: &Worker) {
    worker.counters.head_refused(fault);
    tracing::info!(outcome = fault.label(), client = %peer.address, "a head was refused");
}

/// hyper's read buffer is not allowed to be smaller.
const MIN_BUFFER: usize = 16 * 1024;

/// Keeps a connection busy. When the last clone has gone, with the answer's body and with what was
/// still read of the request's, the connection waits for the next request.
#[derive(Clone)]
pub struct Busy(#[expect(dead_code, reason = "held for what its end does")] Rc<Request>);

struct Request(Rc<State>);

impl Busy {
    fn begin(state: &Rc<State>) -> Self {
        state.enter(Phase::Busy);
        Self(Rc::new(Request(Rc::clone(state))))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.enter(Phase::Waiting);
    }
}

/// An answer's body with what it keeps busy.
struct Sending {
    body: Recorded,
    _busy: Busy,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that says when the first byte of a head has come, and when all is written.
struct Watched {
    stream: TcpStream,
    /// What came before the connection was parked and was not taken.
    before: Bytes,
    state: Rc<State>,
}

impl Watched {
    /// Waits, parked, for something to read; `false` is the order to close. Nothing has come yet.
    async fn wait(&self) -> bool {
        let state = &self.state;
        state.phase.set(Phase::Parked);
        loop {
            state.order.set(Order::GoOn);
            tokio::select! {
                biased;
                ready = self.stream.readable() => {
                    // It has been waiting all the time; its first byte makes it a head.
                    state.phase.set(Phase::Waiting);
                    return ready.is_ok();
                }
                () = state.woken.notified() => {
                    if state.order.get() == Order::Finish {
                        return false;
                    }
                }
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let here = self.before.len().min(buf.remaining());
            buf.put_slice(&self.before.split_to(here));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.state.phase.get() == Phase::Waiting && buf.filled().len() > before {
            self.state.enter(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.state.is_flushed.set(false);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state.is_flushed.set(false);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.state.is_flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
