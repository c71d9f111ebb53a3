//! One request of a connection that has several: its answer goes out as fast as the client takes it.
//!
//! 1. A piece of an answer is watched until the parser's buffer has let go of it. Where the client's
//!    window keeps it there for longer than `send_timeout`, this stream alone is reset.
//! 2. The last piece cannot be taken back any more; then the connection is told to finish, and ends
//!    when nothing but such pieces is left.
//! 3. What the whole socket does not take is the connection's affair (`State::stalled`).

use std::cell::Cell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::task::spawn_local;

use super::meter::{ANSWERED, Credit};
use crate::accept::busy::Busy;
use crate::accept::phase::{Order, State};
use crate::alarm::Alarm;
use crate::clock;
use crate::forward::body::{AnswerCut, Hold};
use crate::observe::exchange::Recorded;

/// A request that is taken back sooner than this was work for nothing.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What has been handed over of one answer, and not written.
pub(super) struct Flow {
    unsent: Cell<usize>,
    began: Instant,
    is_answered: Cell<bool>,
    alarm: Alarm,
    limit: Duration,
    drained: Cell<Option<Waker>>,
    state: Rc<State>,
    credit: Rc<Credit>,
    /// What cuts its answer: the parser does not look at that while a piece waits for the client.
    hold: Cell<Option<Rc<Hold>>>,
}

impl Flow {
    /// Of an answer of whose pieces none may wait for longer than `limit`.
    pub(super) fn new(state: &Rc<State>, credit: &Rc<Credit>, alarm: Alarm, limit: Duration) -> Self {
        Self {
            unsent: Cell::new(0),
            began: clock::monotonic(),
            is_answered: Cell::new(false),
            alarm,
            limit,
            drained: Cell::new(None),
            state: Rc::clone(state),
            credit: Rc::clone(credit),
            hold: Cell::new(None),
        }
    }

    /// Its answer, watched.
    pub(super) fn send(self: Rc<Self>, body: Recorded) -> Sending {
        self.hold.set(body.hold().cloned());
        Sending { body: Some(body), flow: self }
    }

    /// No answer that has a body: its stream goes on as a tunnel. It earns nothing by itself; what goes through it does.
    pub(super) const fn change(self: Rc<Self>) -> Sending {
        Sending { body: None, flow: self }
    }

    /// Ready when its answer is to be cut.
    fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(hold) = self.hold.take() else { return Poll::Pending };
        let polled = hold.poll(cx).map(drop);
        self.hold.set(Some(hold));
        polled
    }

    fn hand_over(self: &Rc<Self>, bytes: Bytes) -> Piece {
        self.credit.send(bytes.len());
        self.unsent.set(self.unsent.get() + bytes.len());
        self.alarm.set(clock::monotonic() + self.limit);
        Piece { bytes, flow: Rc::clone(self) }
    }

    /// So much of it has been written, or thrown away.
    fn let_go(&self, bytes: usize) {
        let left = self.unsent.get().saturating_sub(bytes);
        self.unsent.set(left);
        if left > 0 {
            return self.alarm.set(clock::monotonic() + self.limit);
        }
        self.alarm.clear();
        if let Some(waker) = self.drained.take() {
            waker.wake();
        }
    }

    /// Ready when the client's window has kept a piece for too long.
    fn poll_stalled(&self, cx: &Context<'_>) -> Poll<()> {
        if self.alarm.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.state.stalled.get().is_none() {
            return Poll::Ready(());
        }
        // It is the socket that takes nothing, for all of them.
        self.alarm.set(clock::monotonic() + self.limit);
        self.alarm.poll(cx)
    }

    /// Ready when nothing is left to be written, `true`, or the last piece stands still.
    fn poll_drained(&self, cx: &Context<'_>) -> Poll<bool> {
        if self.unsent.get() == 0 {
            return Poll::Ready(true);
        }
        self.drained.set(Some(cx.waker().clone()));
        self.poll_stalled(cx).map(|()| false)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if self.is_answered.get() || clock::monotonic().saturating_duration_since(self.began) > AT_ONCE {
            self.credit.earn(ANSWERED);
        }
    }
}

/// A piece of an answer, until it is written.
pub(super) struct Piece {
    bytes: Bytes,
    flow: Rc<Flow>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.flow.let_go(count);
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(to)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.flow.let_go(self.bytes.len());
        }
    }
}

/// An answer's body, watched.
pub(super) struct Sending {
    /// Nothing of a change of protocol.
    body: Option<Recorded>,
    flow: Rc<Flow>,
}

impl Body for Sending {
    type Data = Piece;
    type Error = AnswerCut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, AnswerCut>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || body.is_end_stream() {
            this.flow.is_answered.set(true);
        }
        polled.map_ok(|frame| frame.map_data(|bytes| this.flow.hand_over(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.body.as_ref().is_none_or(Body::is_end_stream);
        if is_over {
            self.flow.is_answered.set(true);
        }
        is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// What the task of a request is for, and what it keeps busy.
type Announced = (Rc<Flow>, Busy);

/// Gives every request of one connection a task of its own.
#[derive(Clone, Default)]
pub(super) struct Streams {
    /// Of the request whose task comes next: the parser makes that in the same turn.
    next: Rc<Cell<Option<Announced>>>,
}

impl Streams {
    /// Tells what the next task is for.
    pub(super) fn announce(&self, flow: Rc<Flow>, busy: Busy) {
        self.next.set(Some((flow, busy)));
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some((flow, busy)) = self.next.take() else { return drop(spawn_local(stream)) };
        drop(spawn_local(async move {
            answer(stream, &flow).await;
            drop(busy);
        }));
    }
}

/// Answers one request; when its last piece is written, or never will be, it has been.
async fn answer(stream: impl Future<Output = ()>, flow: &Flow) {
    {
        let mut stream = pin!(stream);
        poll_fn(|cx| {
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let stalled = flow.poll_stalled(cx);
            if stalled.is_ready() {
                tracing::info!("a client does not take an answer: its stream is reset");
            }
            if stalled.is_ready() { stalled } else { flow.poll_cut(cx) }
        })
        .await;
        // What is not through is dropped here, which resets the stream.
    }
    if !poll_fn(|cx| flow.poll_drained(cx)).await {
        flow.state.tell(Order::Finish);
    }
}
