//! A client's connection as the watch sees it: when something is written, and when all is.
//!
//! How its bytes are read is the protocol's affair: [`Reader`].

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::phase::{Order, Phase, State};
use crate::stream::Stream;

/// A socket whose bytes come by way of `R`.
pub(super) struct Watched<R> {
    pub(super) stream: Stream,
    pub(super) state: Rc<State>,
    pub(super) reader: R,
}

/// What stands between a connection's bytes and the parser.
pub(super) trait Reader: Unpin {
    /// Reads what may go on.
    ///
    /// # Errors
    /// Those of the connection.
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        state: &Rc<State>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>;

    /// Says that nothing more is sent.
    ///
    /// # Errors
    /// Those of the connection.
    fn poll_close(&mut self, stream: &mut Stream, state: &State, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl<R> Watched<R> {
    pub(super) const fn new(stream: Stream, state: Rc<State>, reader: R) -> Self {
        Self { stream, state, reader }
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
                () = state.woken.rung() => {
                    if matches!(state.order.get(), Order::Finish | Order::Abort) {
                        return false;
                    }
                }
            }
        }
    }
}

impl<R: Reader> AsyncRead for Watched<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reader.poll_read(&mut this.stream, &this.state, cx, buf)
    }
}

impl<R: Reader> AsyncWrite for Watched<R> {
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

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reader.poll_close(&mut this.stream, &this.state, cx)
    }
}
