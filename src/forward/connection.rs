//! One connection to a target: bytes out, bytes in, and whether it may be used again.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::timeout;

use super::error::{ForwardError, Phase};
use super::health::InFlight;
use super::target::Target;
use crate::alarm::{Alarm, Alarms};
use crate::clock;
use crate::stream::Stream;

/// What is read at once inside a head, and of a short body.
const SMALL_READ: usize = 8 * 1024;
/// What is read at once of a long body; also what one connection may hold back while its client
/// reads slowly.
const LARGE_READ: usize = 64 * 1024;

/// One connection to a target.
pub struct Connection {
    pub(super) stream: Stream,
    /// What has come and was not taken.
    pub buffer: BytesMut,
    /// The time limit of what is waited for.
    pub alarm: Alarm,
    /// Whose connections this is one of.
    pub key: Arc<str>,
    /// Whether it has served an exchange before.
    pub is_reused: bool,
    /// When it was made.
    pub opened: Instant,
    /// The request that it carries, where its target counts that.
    pub load: Option<InFlight>,
}

impl Connection {
    /// A new connection; the handshake of TLS is within `limit`.
    ///
    /// # Errors
    /// `Unreachable`, `Insecure`, or `TimedOut(Connect)`.
    pub async fn open(target: &Target, limit: Duration, alarms: &Alarms) -> Result<Self, ForwardError> {
        let stream = timeout(limit, reach(target)).await.map_err(|_| ForwardError::TimedOut(Phase::Connect))??;
        let (key, alarm) = (Arc::clone(&target.key), alarms.alarm());
        let opened = clock::monotonic();
        Ok(Self { stream, buffer: BytesMut::new(), alarm, key, is_reused: false, opened, load: None })
    }

    /// Whether nothing has come since the last answer: no byte, no end.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return false;
        }
        // SECURITY: the kernel is asked, and not the runtime, which knows what was so at its last turn: an
        // answer that came unasked would be taken for the one to the next request.
        let peeked = SockRef::from(self.stream.socket()).peek(&mut [MaybeUninit::uninit()]);
        let is_empty = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        match &mut self.stream {
            Stream::Plain(_) => is_empty,
            // What has come may be no more than a new ticket; and where nothing has, something may have been deciphered
            // before that nobody has read.
            Stream::Tls(stream) => {
                let mut byte = [0];
                let cx = &mut Context::from_waker(Waker::noop());
                let is_asked = is_empty || has_budget_remaining();
                is_asked && Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }

    /// The same, as far as the runtime knew at its last turn; never of TLS.
    #[must_use]
    pub fn seems_quiet(&self) -> bool {
        self.buffer.is_empty() && self.stream.is_silent()
    }

    /// Prepares the connection for its next exchange.
    pub fn rest(&mut self) {
        self.alarm.clear();
        self.load = None;
        self.is_reused = true;
        if self.buffer.capacity() > SMALL_READ {
            self.buffer = BytesMut::new();
        }
    }

    /// Reads what there is; 0 bytes are the end. `more` is what is still to come, where that is known.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, more: u64) -> Poll<io::Result<usize>> {
        let wanted = if more > SMALL_READ as u64 { LARGE_READ } else { SMALL_READ };
        // Room for half of it will do: a buffer is only replaced when it has run low.
        if self.buffer.capacity() - self.buffer.len() < wanted / 2 {
            self.buffer.reserve(wanted);
        }
        pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)
    }

    /// Writes until nothing is left of `outgoing`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, outgoing: &mut Outgoing) -> Poll<io::Result<()>> {
        while !outgoing.is_empty() {
            let slices = outgoing.slices();
            let written = match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => written?,
            };
            outgoing.advance(written);
        }
        // TLS holds records back.
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// A way to the target.
///
/// # Errors
/// `Unreachable`, `Insecure`.
pub(super) async fn reach(target: &Target) -> Result<Stream, ForwardError> {
    let socket = TcpStream::connect(&*target.address).await.map_err(|_| ForwardError::Unreachable)?;
    socket.set_nodelay(true).map_err(|_| ForwardError::Unreachable)?;
    match &target.tls {
        None => Ok(Stream::Plain(socket)),
        Some(tls) => tls.open(socket, &target.address).await.map_err(|_| ForwardError::Insecure),
    }
}

/// What is on its way out: a head, and one piece of a body in its framing.
#[derive(Default)]
pub struct Outgoing {
    head: Vec<u8>,
    /// How much of the head is out.
    written: usize,
    size: Bytes,
    data: Bytes,
    tail: &'static [u8],
    /// Whether any of it is out.
    pub has_begun: bool,
}

impl Outgoing {
    /// Begins with a head.
    #[must_use]
    pub fn new(head: Vec<u8>) -> Self {
        Self { head, ..Self::default() }
    }

    /// The head that it began with, whole.
    #[must_use]
    pub fn into_head(self) -> Vec<u8> {
        self.head
    }

    fn left_of_head(&self) -> &[u8] {
        self.head.get(self.written..).unwrap_or_default()
    }

    /// Whether all of it is out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.written == self.head.len() && self.has_room()
    }

    /// Whether there is room for a piece of the body.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.size.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Adds a piece of the body; as a chunk where the body is chunked (RFC 9112 §7.1).
    pub fn push(&mut self, data: Bytes, is_chunked: bool) {
        // A chunk of no bytes would be the last one.
        if data.is_empty() {
            return;
        }
        if is_chunked {
            self.size = format!("{:x}\r\n", data.len()).into();
            self.tail = b"\r\n";
        }
        self.data = data;
    }

    /// Adds the last chunk.
    pub const fn end(&mut self) {
        self.tail = b"0\r\n\r\n";
    }

    fn slices(&self) -> [IoSlice<'_>; 4] {
        [self.left_of_head(), &self.size, &self.data, self.tail].map(IoSlice::new)
    }

    fn advance(&mut self, mut written: usize) {
        self.has_begun |= written > 0;
        let of_head = written.min(self.left_of_head().len());
        self.written += of_head;
        written -= of_head;
        for part in [&mut self.size, &mut self.data] {
            let here = written.min(part.len());
            part.advance(here);
            written -= here;
        }
        self.tail = self.tail.get(written..).unwrap_or_default();
    }
}
