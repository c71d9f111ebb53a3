//! A connection's bytes, to a client or to a target: as they are, or out of TLS.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Up to so many bytes are put together before they are written: a head and a short body.
const SMALL: usize = 1024;

/// One connection's bytes.
#[derive(Debug)]
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Out of TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether nothing has come that was not read, as far as the runtime knew at its last turn. Of TLS nobody knows.
    pub fn is_silent(&self) -> bool {
        match self {
            // Not `poll_read_ready`: that says pending as well where its task has had its turn, and takes a lock.
            Self::Plain(socket) => socket.try_io(Interest::READABLE, || Ok(())).is_err(),
            Self::Tls(_) => false,
        }
    }

    /// Whether the handshake has settled on HTTP/2.
    pub fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Has the connection end in a reset when it is dropped: what was sent has no good end.
    pub fn reset(&self) {
        // Where that cannot be set, the connection has ended already.
        let _ended = self.socket().set_zero_linger();
    }

    /// Says the last, as [`say`] does.
    pub async fn say(&mut self, text: &'static [u8]) {
        say(self, text).await;
    }
}

/// Writes what is taken at once, and that nothing follows; a client that does not read is not waited for.
pub async fn say<S: AsyncWrite + Unpin>(stream: &mut S, text: &'static [u8]) {
    poll_fn(|cx| {
        let _written = Pin::new(&mut *stream).poll_write(cx, text);
        let _flushed = Pin::new(&mut *stream).poll_flush(cx);
        let _closed = Pin::new(&mut *stream).poll_shutdown(cx);
        Poll::Ready(())
    })
    .await;
}

/// Writes parts as one piece where they are small: the kernel takes one piece with less to do, and by more than it costs
/// to put them together.
fn poll_write_parts(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    parts: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mut filled = parts.iter().filter(|part| !part.is_empty());
    let (first, second) = (filled.next(), filled.next());
    match (first, second) {
        (Some(only), None) => Pin::new(socket).poll_write(cx, only),
        _ if parts.iter().map(|part| part.len()).sum::<usize>() <= SMALL => {
            let mut whole = SmallVec::<[u8; SMALL]>::new();
            for part in parts {
                whole.extend_from_slice(part);
            }
            Pin::new(socket).poll_write(cx, &whole)
        }
        _ => Pin::new(socket).poll_write_vectored(cx, parts),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => poll_write_parts(socket, cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn parts_arrive_as_they_are_whether_they_are_put_together_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (mut other, _) = listener.accept().await.expect("accepted");
        let mut stream = Stream::Plain(socket);
        for (head, body) in [(0, 0), (5, 0), (0, 5), (5, 7), (SMALL - 1, 1), (SMALL, 1), (100, 4 * SMALL)] {
            let whole: Vec<u8> = (0_u8..=250).cycle().take(head + body).collect();
            let (first, second) = whole.split_at(head);
            let parts = [first, &[], second].map(IoSlice::new);
            let written = stream.write_vectored(&parts).await.expect("written");
            assert_eq!(written, whole.len(), "an empty socket takes as much");
            let mut come = vec![0; written];
            other.read_exact(&mut come).await.expect("read");
            assert_eq!(come, whole);
        }
    }
}
