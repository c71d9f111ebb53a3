//! An answer's body on its way from a stream of HTTP/2 to the client, and its trailers.
//!
//! Trailers go on to clients of HTTP/2, without fields that belong to a connection or say where a body ends;
//! gRPC has its status there.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HeaderName};
use http_body::{Frame, SizeHint};

use super::exchange::StreamExchange;
use crate::forward::body::{AnswerCut, Hold, poll_silence};
use crate::forward::headers::is_hop_by_hop;

/// Most fields of trailers.
const MAX_TRAILERS: usize = 64;

/// A body that is still coming.
pub struct StreamAnswer {
    /// Nothing once it is through.
    coming: Option<(StreamExchange, RecvStream)>,
    /// What is still to come, where that was said.
    left: Option<u64>,
    /// What was handed on, and is not taken into account in the window yet.
    taken: usize,
    silence: Duration,
    /// Whether the request's body came to no good end.
    is_cut: bool,
    pub(in crate::forward) hold: Rc<Hold>,
}

impl StreamAnswer {
    /// The body that follows a head.
    #[must_use]
    pub fn new(exchange: StreamExchange, body: RecvStream, length: Option<u64>, silence: Duration) -> Self {
        let left = if body.is_end_stream() { Some(0) } else { length };
        Self { coming: Some((exchange, body)), left, taken: 0, silence, is_cut: false, hold: Rc::default() }
    }

    /// Whether nothing more comes, trailers included.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.coming.as_ref().is_none_or(|(_, body)| body.is_end_stream())
    }

    /// How much is still to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The next piece, or the trailers; `None` is the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        let polled = self.poll_frame(cx);
        match &polled {
            Poll::Ready(Err(_)) => self.coming = None,
            // It came early, where the client is still sending.
            Poll::Ready(Ok(_)) if self.is_over() => self.settle(),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        polled.map(Result::transpose)
    }

    fn settle(&mut self) {
        if let Some((exchange, body)) = self.coming.take() {
            exchange.settle(body, self.silence);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, AnswerCut>> {
        let Some((exchange, body)) = &mut self.coming else { return Poll::Ready(Ok(None)) };
        if let Poll::Ready(cut) = self.hold.poll(cx) {
            return Poll::Ready(Err(cut));
        }
        self.is_cut |= matches!(exchange.poll_send(cx), Poll::Ready(Err(_)));
        // The last piece has been taken: there is room for another.
        if self.taken > 0 {
            let _gone = body.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                exchange.alarm.clear();
                self.taken = data.len();
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Ok(Some(Frame::data(data))));
            }
            Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(AnswerCut::BrokeOff)),
            Poll::Ready(None) => match body.poll_trailers(cx) {
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(Some(trailers))) => {
                    let trailers = fit(trailers).ok_or(AnswerCut::BrokeOff)?;
                    self.left = Some(0);
                    return Poll::Ready(Ok(Some(Frame::trailers(trailers))));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(AnswerCut::BrokeOff)),
                Poll::Pending => {}
            },
            Poll::Pending => {}
        }
        // What has come is handed on. What has not may wait for a body that will never end.
        if self.is_cut {
            return Poll::Ready(Err(AnswerCut::UploadFailed));
        }
        poll_silence(&exchange.alarm, &exchange.upload, self.silence, cx).map(|()| Err(AnswerCut::BrokeOff))
    }
}

impl Drop for StreamAnswer {
    fn drop(&mut self) {
        // Whoever was told a length looks for no end after it: the answer is through, and the client may still be sending.
        if self.left == Some(0) {
            self.settle();
        }
    }
}

/// The trailers that go on; `None` where there are too many.
fn fit(mut trailers: HeaderMap) -> Option<HeaderMap> {
    if trailers.len() > MAX_TRAILERS {
        return None;
    }
    let unfit: Vec<HeaderName> =
        trailers.keys().filter(|name| is_hop_by_hop(name.as_str()) || **name == CONTENT_LENGTH).cloned().collect();
    for name in unfit {
        trailers.remove(name);
    }
    Some(trailers)
}
