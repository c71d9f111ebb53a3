//! Bodies on their way: from the client to the upstream, and back.
//!
//! Both stream piece by piece; whoever reads slowly slows the other side down, nothing is gathered
//! here. Trailers of HTTP/1, and of requests, are dropped: they could carry header fields past every check.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::answer::{Framing, Piece};
use super::error::ForwardError;
use super::exchange::Exchange;
use super::headers::BodyFraming;
use super::http2::answer::StreamAnswer;
use super::leash::Leash;
use super::pool::Pool;
use super::upgrade::Tunnel;
use crate::accept::Busy;
use crate::alarm::{Alarm, Alarms};
use crate::clock;

/// Why a request body was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFault {
    /// Longer than the route's limit.
    TooLarge,
    /// The client was silent for longer than the route's `body_timeout`.
    TooSlow,
    /// The client went away or its framing is broken.
    Gone,
}

/// A request body on its way to the upstream.
pub enum Upload {
    /// No body.
    Empty,
    /// A body with its limits.
    Streaming(Box<Stream>),
}

/// A request body with its limits.
pub struct Stream {
    incoming: Incoming,
    left: u64,
    /// What is still to come of the length that was announced.
    owed: Option<u64>,
    /// Of HTTP/2 the end of a stream can be told from its being taken back.
    is_http2: bool,
    /// When it began, and how much has come: it may be slow, not endless.
    began: Instant,
    come: u64,
    silence: Duration,
    alarm: Alarm,
    moved_at: Instant,
    is_touched: bool,
    /// Held until the body has ended or was given up.
    _busy: Busy,
}

/// How much of a body is taken, and how slowly.
#[derive(Clone, Copy)]
pub struct UploadLimits {
    /// Most bytes.
    pub bytes: u64,
    /// Longest silence.
    pub silence: Duration,
    /// Whether it comes in HTTP/2.
    pub is_http2: bool,
}

/// The slowest that a body may come once it has taken longer than one silence may, in bytes a second.
const SLOWEST: u64 = 1024;

impl Upload {
    /// Wraps a client's body.
    #[must_use]
    pub fn new(incoming: Incoming, limits: UploadLimits, now: Instant, busy: Busy, alarms: &Alarms) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let UploadLimits { bytes, silence, is_http2 } = limits;
        Self::Streaming(Box::new(Stream {
            owed: incoming.size_hint().exact(),
            incoming,
            left: bytes,
            is_http2,
            began: now,
            come: 0,
            silence,
            alarm: alarms.alarm(),
            moved_at: now,
            is_touched: false,
            _busy: busy,
        }))
    }

    /// How it is framed upstream.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        match self {
            Self::Empty => BodyFraming::Empty,
            Self::Streaming(stream) => {
                stream.incoming.size_hint().exact().map_or(BodyFraming::Chunked, BodyFraming::Length)
            }
        }
    }

    /// When the last piece went through, at first when the request began; `None` without a body.
    #[must_use]
    pub fn moved_at(&self) -> Option<Instant> {
        match self {
            Self::Empty => None,
            Self::Streaming(stream) => Some(stream.moved_at),
        }
    }

    /// Whether any of it was taken from the client.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Streaming(stream) => stream.is_touched,
        }
    }

    /// The next piece, never an empty one; `None` is the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UploadFault>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(stream) => stream.poll_next(cx).map(Result::transpose),
        }
    }
}

impl Stream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, UploadFault>> {
        self.is_touched = true;
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => return self.poll_silence(cx).map(|()| Err(UploadFault::TooSlow)),
                Poll::Ready(None) => return Poll::Ready(self.end()),
                Poll::Ready(Some(frame)) => frame.map_err(|_| UploadFault::Gone)?,
            };
            // Trailers are dropped; what comes after them is the end.
            let Ok(data) = frame.into_data() else { continue };
            if !data.is_empty() {
                self.alarm.clear();
                return Poll::Ready(self.take(data).map(Some));
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes, UploadFault> {
        let length = data.len() as u64;
        self.moved_at = clock::monotonic();
        self.left = self.left.checked_sub(length).ok_or(UploadFault::TooLarge)?;
        if let Some(owed) = &mut self.owed {
            *owed = owed.checked_sub(length).ok_or(UploadFault::Gone)?;
        }
        self.come += length;
        // Why: byte by byte just within each silence a body would last for ever.
        let most = self.silence + Duration::from_secs(self.come / SLOWEST);
        if self.moved_at.saturating_duration_since(self.began) > most {
            return Err(UploadFault::TooSlow);
        }
        Ok(data)
    }

    /// The end of the body, if it is one.
    fn end(&self) -> Result<Option<Bytes>, UploadFault> {
        // SECURITY: the library takes a stream that its client has reset with `NO_ERROR` for one that has ended. A
        // request with less than its length would have the next one on the connection read as its rest.
        let is_whole = self.owed.is_none_or(|owed| owed == 0) && (!self.is_http2 || self.incoming.is_end_stream());
        if is_whole { Ok(None) } else { Err(UploadFault::Gone) }
    }

    fn poll_silence(&self, cx: &Context<'_>) -> Poll<()> {
        if self.alarm.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !self.alarm.is_set() {
            self.alarm.set(clock::monotonic() + self.silence);
        }
        Poll::Pending
    }
}

/// An upstream's body on its way to the client.
pub enum Answer {
    /// It was all there with its head; empty once it was taken.
    Whole(Bytes),
    /// It is still coming.
    Streaming(Box<Streaming>),
    /// It is still coming, on a stream of HTTP/2.
    Stream(Box<StreamAnswer>),
    /// There is none: the connection changes its protocol.
    Tunnel(Box<Tunnel>),
}

/// A body that is still coming. When it has come to its end the connection goes back to the pool;
/// when it is dropped before, the connection is closed.
pub struct Streaming {
    /// What came with the head.
    first: Bytes,
    framing: Framing,
    exchange: Option<Box<Exchange>>,
    goes_back_to: Option<Pool>,
    silence: Duration,
    /// Cut when what permitted the answer does not hold any more.
    pub(super) leash: Option<Leash>,
}

/// Why an answer does not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerCut {
    /// The upstream broke off, or fell silent, inside it.
    BrokeOff,
    /// The token that it was permitted for has ended or was taken back.
    TakenBack,
}

impl Answer {
    /// The body that follows a head; `pool` is where the connection goes when it is through, `None`
    /// where it ends with this answer.
    ///
    /// # Errors
    /// `Broken` where the body's first bytes are not what the head said.
    pub(super) fn new(
        mut exchange: Box<Exchange>,
        mut framing: Framing,
        pool: Option<Pool>,
        silence: Duration,
    ) -> Result<Self, ForwardError> {
        let piece = framing.next(&mut exchange.connection.buffer).map_err(|_| ForwardError::Broken)?;
        let first = match piece {
            Piece::Data(data) => data,
            Piece::More | Piece::End => Bytes::new(),
        };
        let is_over = framing.is_over();
        let mut streaming = Streaming {
            first: Bytes::new(),
            framing,
            exchange: Some(exchange),
            goes_back_to: pool,
            silence,
            leash: None,
        };
        if is_over {
            streaming.settle();
            return Ok(Self::Whole(first));
        }
        streaming.first = first;
        Ok(Self::Streaming(Box::new(streaming)))
    }
}

impl Streaming {
    /// Gives the connection back, when nothing more is to be read from it.
    fn settle(&mut self) {
        let (Some(mut exchange), Some(pool)) = (self.exchange.take(), self.goes_back_to.take()) else { return };
        if exchange.is_sent() {
            pool.give_back(exchange.connection, clock::monotonic());
            return;
        }
        // The answer came early, and the client is still sending.
        let silence = self.silence;
        tokio::task::spawn_local(async move {
            exchange.finish_upload(silence).await;
            if exchange.is_sent() {
                pool.give_back(exchange.connection, clock::monotonic());
            }
        });
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, AnswerCut>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        if self.leash.as_ref().is_some_and(|leash| leash.poll(cx).is_ready()) {
            return Poll::Ready(Err(AnswerCut::TakenBack));
        }
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Ok(None)) };
        // A fault of the client's body ends the sending, not what is already being answered.
        let _sent = exchange.poll_send(cx);
        loop {
            match self.framing.next(&mut exchange.connection.buffer).map_err(|_| AnswerCut::BrokeOff)? {
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::Data(data) => return Poll::Ready(Ok(Some(data))),
                Piece::More => {}
            }
            let connection = &mut exchange.connection;
            match (connection.poll_fill(cx, self.framing.still_to_come()), &self.framing) {
                (Poll::Ready(Ok(1..)), _) => connection.alarm.clear(),
                (Poll::Ready(Ok(0)), Framing::Close) => return Poll::Ready(Ok(None)),
                (Poll::Ready(Ok(0) | Err(_)), _) => return Poll::Ready(Err(AnswerCut::BrokeOff)),
                (Poll::Pending, _) => {
                    if connection.alarm.poll(cx).is_ready() {
                        return Poll::Ready(Err(AnswerCut::BrokeOff));
                    }
                    if !connection.alarm.is_set() {
                        connection.alarm.set(clock::monotonic() + self.silence);
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        match self.get_mut() {
            Self::Tunnel(_) => Poll::Ready(None),
            Self::Whole(text) if text.is_empty() => Poll::Ready(None),
            Self::Whole(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::Stream(stream) => stream.poll_next(cx),
            Self::Streaming(streaming) => {
                let polled = streaming.poll_next(cx);
                match &polled {
                    Poll::Ready(Err(_) | Ok(None)) if !streaming.framing.is_over() => streaming.exchange = None,
                    Poll::Ready(_) if streaming.framing.is_over() => streaming.settle(),
                    Poll::Ready(_) | Poll::Pending => {}
                }
                polled.map(|piece| piece.map(|data| data.map(Frame::data)).transpose())
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Tunnel(_) => true,
            Self::Whole(text) => text.is_empty(),
            Self::Stream(stream) => stream.is_over(),
            Self::Streaming(streaming) => streaming.first.is_empty() && streaming.framing.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Whole(text) => SizeHint::with_exact(text.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
            Self::Streaming(streaming) => match streaming.framing {
                Framing::Length(left) => SizeHint::with_exact(left + streaming.first.len() as u64),
                Framing::Chunked(_) | Framing::Close => SizeHint::default(),
            },
        }
    }
}

impl std::fmt::Display for AnswerCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BrokeOff => "the upstream broke off inside its answer",
            Self::TakenBack => "the token was taken back",
        })
    }
}

impl std::error::Error for AnswerCut {}
