//! An answer's body on its way from the upstream to the client.
//!
//! It streams piece by piece; whoever reads slowly slows the other side down, nothing is gathered
//! here. Trailers of HTTP/1 are dropped: they could carry header fields past every check.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::answer::{Framing, Piece};
use super::error::ForwardError;
use super::exchange::{Exchange, poll_time_out};
use super::http2::answer::StreamAnswer;
use super::leash::Leash;
use super::pool::Pool;
use super::upgrade::Tunnel;
use super::upload::Upload;
use crate::alarm::Alarm;
use crate::clock;

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
    pub(super) hold: Rc<Hold>,
}

/// What cuts an answer that lasts.
#[derive(Default)]
pub struct Hold {
    /// When what permitted it does not hold any more.
    pub leash: Option<Leash>,
    /// When it has taken as long as it may.
    pub end: Option<Alarm>,
}

impl Hold {
    /// Why it is to be cut, if it is.
    #[must_use]
    pub fn cut(&self) -> Option<AnswerCut> {
        if self.leash.as_ref().is_some_and(Leash::is_cut) {
            return Some(AnswerCut::TakenBack);
        }
        self.end.as_ref().is_some_and(Alarm::has_rung).then_some(AnswerCut::TookTooLong)
    }

    /// Ready when it is to be cut.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<AnswerCut> {
        if self.leash.as_ref().is_some_and(|leash| leash.poll(cx).is_ready()) {
            return Poll::Ready(AnswerCut::TakenBack);
        }
        if self.end.as_ref().is_some_and(|end| end.poll(cx).is_ready()) {
            return Poll::Ready(AnswerCut::TookTooLong);
        }
        Poll::Pending
    }
}

/// Why an answer does not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerCut {
    /// The upstream broke off, or fell silent, inside it.
    BrokeOff,
    /// The client's body, which it waits for, came to no good end.
    UploadFailed,
    /// It took longer than the route's `answer_timeout`.
    TookTooLong,
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
        if pool.is_none() {
            exchange.upload.ends_with_answer();
        }
        let piece = framing.next(&mut exchange.connection.buffer).map_err(|_| ForwardError::Broken)?;
        let first = match piece {
            Piece::Data(data) => data,
            Piece::More | Piece::End => Bytes::new(),
        };
        if framing.is_over() {
            if let Some(pool) = pool {
                settle(exchange, pool, silence);
            }
            return Ok(Self::Whole(first));
        }
        let (exchange, goes_back_to) = (Some(exchange), pool);
        let streaming = Streaming { first, framing, exchange, goes_back_to, silence, hold: Rc::default() };
        Ok(Self::Streaming(Box::new(streaming)))
    }
}

impl Answer {
    /// What cuts it, whether or not the client takes what comes.
    #[must_use]
    pub fn hold(&self) -> Option<&Rc<Hold>> {
        match self {
            Self::Streaming(streaming) => Some(&streaming.hold),
            Self::Stream(stream) => Some(&stream.hold),
            // What is whole is with the client's connection; a tunnel looks for itself.
            Self::Whole(_) | Self::Tunnel(_) => None,
        }
    }
}

/// Gives a connection back from which nothing more is to be read.
fn settle(mut exchange: Box<Exchange>, pool: Pool, silence: Duration) {
    if exchange.is_sent() {
        pool.give_back(exchange.connection, clock::recent());
        return;
    }
    exchange.upload.answered(false);
    // The answer came early, and the client is still sending.
    tokio::task::spawn_local(async move {
        exchange.finish_upload(silence).await;
        if exchange.is_sent() {
            pool.give_back(exchange.connection, clock::recent());
        }
    });
}

impl Streaming {
    fn settle(&mut self) {
        if let (Some(exchange), Some(pool)) = (self.exchange.take(), self.goes_back_to.take()) {
            settle(exchange, pool, self.silence);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, AnswerCut>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        if let Poll::Ready(cut) = self.hold.poll(cx) {
            return Poll::Ready(Err(cut));
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
                    return poll_silence(&connection.alarm, &exchange.upload, self.silence, cx)
                        .map(|()| Err(AnswerCut::BrokeOff));
                }
            }
        }
    }
}

/// Ready when nothing has come of an answer, and nothing has gone of its request's body, for `silence`.
pub(super) fn poll_silence(alarm: &Alarm, upload: &Upload, silence: Duration, cx: &Context<'_>) -> Poll<()> {
    let polled = poll_time_out(alarm, upload, false, silence, cx);
    if polled.is_pending() && !alarm.is_set() {
        alarm.set(clock::monotonic() + silence);
    }
    polled
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
            Self::UploadFailed => "the body that the answer waits for came to no good end",
            Self::TookTooLong => "the answer took longer than the route lets it",
            Self::TakenBack => "the token was taken back",
        })
    }
}

impl std::error::Error for AnswerCut {}
