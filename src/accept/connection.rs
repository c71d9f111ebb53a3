//! One client connection, from its first byte to its last.
//!
//! It is always in one of three phases; a worker's watch looks at all of them a few times a second,
//! so that no request sets or resets a timer of its own:
//!
//! 1. waiting for a request, no longer than `keep_alive_timeout`: then closed;
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

/// What is sent to a client whose head takes too long (RFC 9110 §15.5.9).
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

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
    woken: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Head,
    Busy,
}

/// What a connection is told to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    GoOn,
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
                Phase::Waiting if age > limits.keep_alive_timeout => state.tell(Order::Finish),
                Phase::Head if age > limits.header_timeout => state.tell(Order::TimeOut),
                Phase::Waiting | Phase::Head | Phase::Busy => {}
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
    pub fn len(&self) -> usize {
        self.connections.borrow().len()
    }

    fn enter(self: &Rc<Self>) -> Entry {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let state = Rc::new(State {
            phase: Cell::new(Phase::Head),
            since: Cell::new(clock::monotonic()),
            order: Cell::new(Order::GoOn),
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
    let state = Rc::clone(&entry.state);
    let io = Watched { stream, state: Rc::clone(&entry.state) };
    let service = service_fn(|request| {
        let busy = Busy::begin(&state);
        let (worker, peer) = (&worker, &peer);
        async move {
            let answer = Gateway::handle(worker, peer, busy.clone(), request).await;
            Ok::<_, Infallible>(answer.map(|body| Sending { body, _busy: busy }))
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None::<Duration>)
        .max_header_size(limits.head)
        .max_buf_size(limits.head.max(MIN_BUFFER))
        .serve_connection(TokioIo::new(io), service);
    let woken = entry.state.woken.notified();
    tokio::pin!(woken);
    loop {
        tokio::select! {
            biased;
            // What went wrong with a connection is the client's affair; requests log themselves.
            _ended = &mut connection => return,
            () = &mut woken => {
                woken.set(entry.state.woken.notified());
                match entry.state.order.get() {
                    Order::GoOn => {}
                    Order::Finish => Pin::new(&mut connection).graceful_shutdown(),
                    // The head may have come to its end in this very turn.
                    Order::TimeOut if entry.state.phase.get() == Phase::Head => break,
                    Order::TimeOut => entry.state.order.set(Order::GoOn),
                }
            }
        }
    }
    let mut stream = connection.into_parts().io.into_inner().stream;
    drop(stream.write_all(TIMED_OUT).await);
    drop(stream.shutdown().await);
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

/// A socket that says when the first byte of a head has come.
struct Watched {
    stream: TcpStream,
    state: Rc<State>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
