//! A client's bytes on their way to the HTTP/2 parser: counted by the meter.
//!
//! 1. The end of what comes is told a turn after what came before it: the parser forgets requests that nobody has taken from
//!    it yet, and they can be recorded, or done though nobody waits for the answer.
//! 2. Who floods is told so (GOAWAY, `ENHANCE_YOUR_CALM`) where that can be written, and the connection ends.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::meter::{Credit, Flood, Meter};
use crate::accept::connection::LINGER;
use crate::accept::phase::{Phase, State};
use crate::accept::watched::Reader;
use crate::clock;
use crate::stream::Stream;

/// GOAWAY with `ENHANCE_YOUR_CALM`; of the requests nothing is promised (RFC 9113 §§ 6.8, 7).
const CALM_DOWN: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

/// Most bytes that a client is listened to after the end.
const MAX_LINGERED: usize = 1024 * 1024;

/// Counts the frames that go by.
pub(super) struct Metered {
    meter: Meter,
    credit: Rc<Credit>,
    /// What has come already.
    early: BytesMut,
    /// Whether something was handed on in this turn.
    has_handed_on: bool,
    closing: Option<Closing>,
}

/// This side sends no more, and listens for a while: closing the socket on what a client still sends
/// would reset the connection, and the client might lose an answer.
struct Closing {
    is_told: bool,
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Metered {
    pub(super) fn new(credit: Rc<Credit>, early: BytesMut) -> Self {
        Self { meter: Meter::default(), credit, early, has_handed_on: false, closing: None }
    }

    /// Takes what has come into account.
    fn count(&mut self, state: &State, come: &[u8]) -> Result<(), Flood> {
        let had_begun = self.meter.has_begun();
        self.meter.count(come, &self.credit)?;
        if !had_begun && self.meter.has_begun() {
            state.enter(Phase::Waiting);
        }
        let since = self.meter.is_in_block().then(|| state.block.get().unwrap_or_else(clock::monotonic));
        state.block.set(since);
        Ok(())
    }
}

impl Reader for Metered {
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        state: &Rc<State>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.early.is_empty() {
            let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, buf) else {
                self.has_handed_on = false;
                return Poll::Pending;
            };
            let is_end = read.is_err() || buf.filled().len() == before;
            if is_end {
                state.has_left.set(true);
            }
            if is_end && std::mem::take(&mut self.has_handed_on) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.has_handed_on = !is_end;
            read?;
        } else {
            let here = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(here));
            if self.early.is_empty() {
                self.early = BytesMut::new();
            }
            self.has_handed_on = true;
        }
        if self.count(state, buf.filled().get(before..).unwrap_or_default()).is_ok() {
            return Poll::Ready(Ok(()));
        }
        state.is_flooded.set(true);
        // In the middle of another frame it would be read as a part of that.
        if state.is_flushed.get() {
            let _written = Pin::new(&mut *stream).poll_write(cx, &CALM_DOWN);
            let _flushed = Pin::new(&mut *stream).poll_flush(cx);
        }
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }

    fn poll_close(&mut self, stream: &mut Stream, state: &State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self.closing.get_or_insert_with(|| Closing {
            is_told: false,
            left: MAX_LINGERED,
            until: Box::pin(sleep(LINGER)),
        });
        if !closing.is_told {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            closing.is_told = true;
            state.is_shut.set(true);
        }
        let mut waste = [0; 4 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut waste);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len());
            match read {
                Poll::Ready(Ok(read @ 1..)) if read < closing.left => closing.left -= read,
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
