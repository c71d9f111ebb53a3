//! One exchange on one stream: a request goes out while its answer comes in.
//!
//! What holds of an exchange in HTTP/1 holds here: the clock stands while the client's body moves, an
//! answer may come before that is through, and who is to blame is told apart.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::response::Parts;
use http::uri::Scheme;
use http::{Method, Response};

use super::head;
use super::session::Seat;
use crate::alarm::Alarm;
use crate::clock;
use crate::forward::exchange::{Again, Fault, is_idempotent, poll_time_out};
use crate::forward::health::InFlight;
use crate::forward::upload::{Upload, UploadFault};

/// One exchange on one stream.
pub struct StreamExchange {
    /// The client's body, as far as it has not been sent.
    pub upload: Upload,
    /// The request that it carries, as its target counts it.
    pub load: Option<InFlight>,
    pub(super) alarm: Alarm,
    seat: Seat,
    /// Nothing until the request is out.
    stream: Option<(ResponseFuture, SendStream<Bytes>)>,
    /// A piece of the body that the target has no window for yet.
    piece: Bytes,
    is_sent: bool,
    is_unseen: bool,
    is_answered: bool,
    /// Whether a fault is counted against the target: of a connection that ends one is, whatever it carried.
    counts: bool,
}

impl StreamExchange {
    /// An exchange that is about to begin.
    #[must_use]
    pub fn new(seat: Seat, alarm: Alarm, upload: Upload, load: Option<InFlight>) -> Self {
        Self {
            upload,
            load,
            alarm,
            seat,
            stream: None,
            piece: Bytes::new(),
            is_sent: false,
            is_unseen: true,
            is_answered: false,
            counts: true,
        }
    }

    /// Sends the request and waits for the head of its answer: no longer than `limit`, and not beyond `until`
    /// unless its body is moving.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn answer(
        &mut self,
        head: &[u8],
        scheme: Scheme,
        times: (Duration, Instant),
    ) -> Result<(Parts, RecvStream), Fault> {
        let (limit, until) = times;
        self.alarm.set(until.min(clock::monotonic() + limit));
        let mut request = Some(head::request(head, scheme).ok_or(Fault::Malformed)?);
        let answered = poll_fn(|cx| self.poll_answer(cx, &mut request, limit)).await;
        if matches!(answered, Err(Fault::TimedOut)) {
            // Whether it is this request or the connection nobody knows.
            self.retire();
        }
        let (mut parts, body) = answered?.into_parts();
        self.alarm.clear();
        self.is_answered = true;
        self.upload.answered(true);
        head::fit(&mut parts).ok_or(Fault::Malformed)?;
        Ok((parts, body))
    }

    /// Where the request may go out a second time after this fault.
    #[must_use]
    pub fn again(&self, fault: Fault, method: &Method) -> Again {
        let has_no_body = matches!(self.upload, Upload::Empty);
        let is_unseen = self.is_unseen && !self.upload.is_touched();
        match fault {
            // The target has said that it did nothing, or never heard of it (RFC 9113 §8.7).
            Fault::Unanswered if is_unseen => Again::Here,
            Fault::Unanswered | Fault::Malformed if has_no_body && is_idempotent(method) => Again::Elsewhere,
            Fault::Unanswered | Fault::Malformed | Fault::Upload(_) | Fault::TimedOut => Again::No,
        }
    }

    /// Whether the target may have seen the request.
    #[must_use]
    pub const fn was_seen(&self) -> bool {
        !self.is_unseen
    }

    /// Whether this fault is the target's, as far as it can be told: not while the client's body is waited for.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.counts && self.is_sent
    }

    /// Gives its connection no new request.
    pub fn retire(&self) {
        let _is_news = self.seat.retire();
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Option<http::Request<()>>,
        limit: Duration,
    ) -> Poll<Result<Response<RecvStream>, Fault>> {
        if let Some(request) = request.take() {
            self.is_sent = matches!(self.upload, Upload::Empty);
            let Ok(stream) = self.seat.sender.send_request(request, self.is_sent) else {
                self.counts = self.seat.retire();
                return Poll::Ready(Err(Fault::Unanswered));
            };
            self.stream = Some(stream);
        }
        if let Poll::Ready(Err(fault)) = self.poll_send(cx) {
            return Poll::Ready(Err(Fault::Upload(fault)));
        }
        let Some((response, _)) = &mut self.stream else { return Poll::Ready(Err(Fault::Unanswered)) };
        match Pin::new(response).poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.blame(&error))),
            Poll::Pending => {
                let waits_for_client = !self.is_sent && self.piece.is_empty();
                poll_time_out(&self.alarm, &self.upload, waits_for_client, limit, cx).map(|()| Err(Fault::TimedOut))
            }
        }
    }

    /// What an error of the stream means.
    fn blame(&mut self, error: &h2::Error) -> Fault {
        self.is_unseen = error.reason() == Some(Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR));
        if error.is_io() || error.is_go_away() {
            self.counts = self.seat.retire();
        }
        // What the parser does not take is no answer; else there is none.
        if error.is_library() { Fault::Malformed } else { Fault::Unanswered }
    }

    /// Sends what can be sent now; ready when nothing more will be.
    ///
    /// # Errors
    /// The fault of the client's body.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFault>> {
        while !self.is_sent {
            if self.piece.is_empty() {
                match self.upload.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(data))) => self.piece = data,
                    Poll::Ready(Some(Err(fault))) => {
                        self.break_off();
                        return Poll::Ready(Err(fault));
                    }
                    Poll::Ready(None) => {
                        self.end();
                        break;
                    }
                }
            }
            let Some((_, sending)) = &mut self.stream else { break };
            sending.reserve_capacity(self.piece.len());
            match sending.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(room))) => {
                    let piece = self.piece.split_to(room.min(self.piece.len()));
                    self.is_sent = sending.send_data(piece, false).is_err();
                }
                // It takes no more; it may still have an answer to give.
                Poll::Ready(Some(Err(_)) | None) => self.is_sent = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the rest of the request, whose answer is through, beside what comes after it, and waits for the stream's end on
    /// the other side: whoever lets go of it before takes the request back. Unless nothing moves for `silence`, or the target
    /// says that it wants no more (RFC 9113 §8.1).
    pub(in crate::forward) fn settle(mut self, mut body: RecvStream, silence: Duration) {
        if self.is_sent && body.is_end_stream() {
            return;
        }
        self.upload.answered(false);
        tokio::task::spawn_local(async move {
            self.alarm.set(clock::monotonic() + silence);
            poll_fn(|cx| {
                let is_through = self.poll_send(cx).is_ready();
                if is_through && has_ended(&mut body, cx) || !is_through && self.wants_no_more(cx) {
                    return Poll::Ready(());
                }
                let waits_for_client = !is_through && self.piece.is_empty();
                poll_time_out(&self.alarm, &self.upload, waits_for_client, silence, cx)
            })
            .await;
        });
    }

    /// Whether the target has ended the stream.
    fn wants_no_more(&mut self, cx: &mut Context<'_>) -> bool {
        self.stream.as_mut().is_none_or(|(_, sending)| sending.poll_reset(cx).is_ready())
    }

    /// What is out is half a request: nothing may follow it, and no end is sent for it. What has come of an answer is
    /// still handed on.
    fn break_off(&mut self) {
        self.is_sent = true;
        if let Some((_, sending)) = self.stream.as_mut().filter(|_| !self.is_answered) {
            sending.send_reset(Reason::CANCEL);
        }
    }

    /// The body has come to its end.
    fn end(&mut self) {
        self.is_sent = true;
        if let Some(load) = &mut self.load {
            load.uploaded();
        }
        if let Some((_, sending)) = &mut self.stream {
            // Where the target has reset the stream, its answer says so.
            let _reset = sending.send_data(Bytes::new(), true);
        }
    }
}

/// Whether there is nothing to wait for of a body whose answer is through: its end has come, or more than that, which nobody
/// reads. Trailers are nobody's any more.
fn has_ended(body: &mut RecvStream, cx: &mut Context<'_>) -> bool {
    loop {
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
            Poll::Ready(_) => return true,
            Poll::Pending => return false,
        }
    }
}
