//! A client's bytes on their way to the HTTP/1 parser: past the guard.
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
use crate::accept::phase::{Phase, State};
use crate::accept::watched::Reader;
use crate::stream::Stream;

/// Hands on what the guard lets through.
pub(in crate::accept) struct Guarded {
    guard: Guard,
    /// What has come and may not go on, or not yet.
    held: BytesMut,
    /// How much of it may go on.
    cleared: usize,
    fault: Option<Fault>,
}

impl Guarded {
    /// Takes heads of at most `longest` bytes; `early` has come already.
    pub(in crate::accept) fn new(longest: usize, early: BytesMut) -> Self {
        Self { guard: Guard::new(longest), held: early, cleared: 0, fault: None }
    }

    /// All that has come and was not taken; it is no request.
    pub(super) fn take(&mut self) -> BytesMut {
        self.cleared = 0;
        std::mem::take(&mut self.held)
    }

    /// Whether nothing has come that was not taken.
    pub(in crate::accept) fn is_clear(&self) -> bool {
        self.held.is_empty()
    }

    /// Why the connection came to its end, where what came is no head.
    pub(in crate::accept) const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a head has begun in what is held; an empty line is none yet.
    pub(in crate::accept) fn has_begun(&self) -> bool {
        has_begun(&self.held)
    }

    /// Hands on what may go on of what is held; `None` where there is nothing.
    fn hand_on(&mut self, state: &State, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if self.cleared == 0 && self.fault.is_none() && !self.held.is_empty() {
            if state.phase.get() == Phase::Waiting && self.has_begun() {
                state.enter(Phase::Head);
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

impl Reader for Guarded {
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        state: &Rc<State>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // What follows a message waits until all of that one's answer is with the kernel: to the parser
            // a fault is the end of the connection, and then it throws away what it has not written.
            let is_answered = !state.is_answering.get() && state.is_flushed.get();
            let is_early = self.cleared == 0 && self.guard.is_in_head() && !is_answered;
            if !is_early && let Some(handed) = self.hand_on(state, buf) {
                return handed;
            }
            if is_early && !self.held.is_empty() {
                state.reader.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
            let come = buf.filled().get(before..).unwrap_or_default();
            if come.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if state.phase.get() == Phase::Waiting && has_begun(come) {
                state.enter(Phase::Head);
            }
            let taken = match &self.fault {
                None if !is_early && self.held.is_empty() => self.guard.take(come),
                None | Some(_) => Ok(0),
            };
            let taken = taken.unwrap_or_else(|fault| {
                self.fault = Some(fault);
                0
            });
            if taken == come.len() {
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(come.get(taken..).unwrap_or_default());
            buf.set_filled(before + taken);
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_close(&mut self, stream: &mut Stream, state: &State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The fault is still to be answered.
        if self.fault.is_some() {
            return Poll::Ready(Ok(()));
        }
        state.is_shut.set(true);
        Pin::new(stream).poll_shutdown(cx)
    }
}
