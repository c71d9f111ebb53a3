//! One stream of a connection that changes its protocol (RFC 8441); the others go on as they are.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::meter::Credit;
use crate::accept::busy::Busy;
use crate::forward::upgrade::Tunnel;
use crate::observe::exchange::Recorded;

/// What a stream needs to change its protocol.
pub(super) struct Change {
    pub(super) upgrade: OnUpgrade,
    /// Keeps the connection busy.
    pub(super) busy: Busy,
    pub(super) credit: Rc<Credit>,
    /// Becomes `true`, or closed, when the connection ends.
    pub(super) finishing: watch::Receiver<bool>,
}

impl Change {
    /// Moves bytes both ways until the end.
    pub(super) async fn go_on(self, tunnel: Box<Tunnel>, recorded: Recorded) {
        let Self { upgrade, busy, credit, mut finishing } = self;
        // Of an answer that is not through nobody knows how much is.
        let Ok(upgraded) = upgrade.await else { return };
        let mut stream = Paid { stream: TokioIo::new(upgraded), credit };
        let told = async move {
            let _or_gone = finishing.wait_for(|&is_finishing| is_finishing).await;
        };
        let tunnelled = tunnel.run(&mut stream, &[], told).await;
        recorded.tunnelled(&tunnelled);
        drop(busy);
    }
}

/// A tunnel's stream: what the client takes of it is what it is there for.
struct Paid {
    stream: TokioIo<Upgraded>,
    credit: Rc<Credit>,
}

impl AsyncRead for Paid {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paid {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = written {
            self.credit.send(written);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
