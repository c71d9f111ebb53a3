//! A client's bytes on their way to the parser: past the guard, and seen by the watch.
//!
//! 1. What is read goes on at once where the guard lets it, which is nearly always: a head that came
//!    in one piece is not copied.
//! 2. The beginning of a head is held until it is whole. So is all that comes after a message that is
//!    not answered yet.
//! 3. Of what is no request the parser sees nothing, but the end of the connection; the fault stays
//!    here for whoever answers it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{Fault, Guard};
use super::phase::{Order, Phase, State};
use crate::stream::Stream;

/// A socket that says when the first byte of a head has come, and when all is written.
pub(super) struct Watched {
    pub(super) stream: Stream,
    pub(super) state: Rc<State>,
    guard: Guard,
    /// What has come and may not go on, or not yet.
    held: BytesMut,
    /// How much of it may go on.
    cleared: usize,
    fault: Option<Fault>,
}

impl Watched {
    /// Watches a connection whose heads have at most `longest` bytes.
    pub(super) fn new(stream: Stream, state: Rc<State>, longest: usize) -> Self {
        Self { stream, state, guard: Guard::new(longest), held: BytesMut::new(), cleared: 0, fault: None }
    }

    /// All that has come and was not taken; it is no request.
    pub(super) fn take(&mut self) -> BytesMut {
        self.cleared = 0;
        std::mem::take(&mut self.held)
    }

    /// Whether nothing has come that was not taken.
    pub(super) fn is_clear(&self) -> bool {
        self.held.is_empty()
    }

    /// Why the connection came to its end, where what came is no head.
    pub(super) const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Says that nothing more is sent, unless the parser has.
    pub(super) async fn close(&mut self) {
        if !self.state.is_shut.replace(true) {
            self.stream.say(b"").await;
        }
    }

    /// Waits, parked, for something to read; `false` is the order to close. Nothing has come yet.
    pub(super) async fn wait(&self) -> bool {
        let state = &self.state;
        state.phase.set(Phase::Parked);
        loop {
            state.order.set(Order::GoOn);
            tokio::select! {
                biased;
                ready = self.stream.socket().readable() => {
                    // It has been waiting all the time; its first byte makes it a head.
                    state.phase.set(Phase::Waiting);
                    return ready.is_ok();
                }
                () = state.woken.notified() => {
                    if matches!(state.order.get(), Order::Finish | Order::Abort) {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether a head has begun in what is held; an empty line is none yet.
    pub(super) fn has_begun(&self) -> bool {
        has_begun(&self.held)
    }

    /// Hands on what may go on of what is held; `None` where there is nothing.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if self.cleared == 0 && self.fault.is_none() && !self.held.is_empty() {
            if self.state.phase.get() == Phase::Waiting && self.has_begun() {
                self.state.enter(Phase::Head);
            }
            match self.guard.take(&self.held) {
                Ok(taken) => self.cleared = taken,
                Err(fault) => self.fault = Some(fault),
            }
        }
        if self.cleared > 0 {
            let here = self.cleared.min(buf.remaining());
            buf.put_slice(self.held.get(..here).unwrap_or_default());
            self.held.advance(here);
            self.cleared -= here;
            if self.held.is_empty() {
                self.held = BytesMut::new();
            }
            return Some(Poll::Ready(Ok(())));
        }
        // To the parser it is the end of the connection.
        self.fault.is_some().then_some(Poll::Ready(Ok(())))
    }
}

fn has_begun(bytes: &[u8]) -> bool {
    !b"\r\n".starts_with(bytes)
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // What follows a message waits until all of that one's answer is with the kernel: to the parser
            // a fault is the end of the connection, and then it throws away what it has not written.
            let is_answered = !this.state.is_answering.get() && this.state.is_flushed.get();
            let is_early = this.cleared == 0 && this.guard.is_in_head() && !is_answered;
            if !is_early && let Some(handed) = this.hand_on(buf) {
                return handed;
            }
            if is_early && !this.held.is_empty() {
                this.state.reader.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let come = buf.filled().get(before..).unwrap_or_default();
            if come.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.state.phase.get() == Phase::Waiting && has_begun(come) {
                this.state.enter(Phase::Head);
            }
            let taken = match &this.fault {
                None if !is_early && this.held.is_empty() => this.guard.take(come),
                None | Some(_) => Ok(0),
            };
            let taken = taken.unwrap_or_else(|fault| {
                this.fault = Some(fault);
                0
            });
            if taken == come.len() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(come.get(taken..).unwrap_or_default());
            buf.set_filled(before + taken);
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.state.is_flushed.set(false);
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.state.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state.is_flushed.set(false);
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.state.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The fault is still to be answered.
        if self.fault.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.state.is_shut.set(true);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
