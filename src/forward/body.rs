//! Bodies on their way: from the client to the upstream, and back.
//!
//! Both stream frame by frame; whoever reads slowly slows the other side down, nothing is gathered
//! here. A request's trailers are dropped: they could carry header fields past every check.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::pool::Lease;
use crate::accept::Busy;
use crate::clock;

/// What became of a request body, seen by the one who waits for the answer.
#[derive(Debug)]
pub struct Progress {
    fault: Cell<Option<UploadFault>>,
    moved_at: Cell<Instant>,
    touched: Cell<bool>,
}

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

impl Progress {
    fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self { fault: Cell::new(None), moved_at: Cell::new(now), touched: Cell::new(false) })
    }

    /// Why the body was cut off, if it was.
    pub fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// When the last frame went through; at first, when the request began.
    pub fn moved_at(&self) -> Instant {
        self.moved_at.get()
    }

    /// Whether any of the body was taken from the client.
    pub fn is_touched(&self) -> bool {
        self.touched.get()
    }
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
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    progress: Rc<Progress>,
    /// Held until the body has ended or was given up.
    _busy: Busy,
}

impl Upload {
    /// Wraps a client's body: at most `limit` bytes, never silent for longer than `silence`.
    pub fn new(incoming: Incoming, limit: u64, silence: Duration, now: Instant, busy: Busy) -> (Self, Rc<Progress>) {
        let progress = Progress::new(now);
        if incoming.is_end_stream() {
            return (Self::Empty, progress);
        }
        let stream =
            Stream { incoming, left: limit, silence, timer: None, progress: Rc::clone(&progress), _busy: busy };
        (Self::Streaming(Box::new(stream)), progress)
    }
}

impl Stream {
    fn fail(&self, fault: UploadFault) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        self.progress.touched.set(true);
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.silence)));
                ready!(timer.as_mut().poll(cx));
                return self.fail(UploadFault::TooSlow);
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(_))) => return self.fail(UploadFault::Gone),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        self.timer = None;
        self.progress.moved_at.set(clock::monotonic());
        let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => self.left = left,
            None => return self.fail(UploadFault::TooLarge),
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(stream) => stream.incoming.size_hint(),
        }
    }
}

impl std::fmt::Display for UploadFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request body is longer than the limit",
            Self::TooSlow => "the request body came too slowly",
            Self::Gone => "the request body broke off",
        })
    }
}

impl std::error::Error for UploadFault {}

/// An upstream's body on its way to the client. When it has come to its end the connection goes
/// back to the pool; when it is dropped before, the connection is closed.
pub struct Answer {
    incoming: Incoming,
    lease: Option<Lease>,
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The upstream broke off, or fell silent, inside its answer.
#[derive(Debug)]
pub struct AnswerCut;

impl Answer {
    pub(super) fn new(incoming: Incoming, lease: Lease, silence: Duration) -> Self {
        let mut answer = Self { incoming, lease: Some(lease), silence, timer: None };
        answer.settle();
        answer
    }

    /// Gives the connection back once nothing more is to be read from it.
    fn settle(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Pending => {
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(this.silence)));
                ready!(timer.as_mut().poll(cx));
                this.lease = None;
                Poll::Ready(Some(Err(AnswerCut)))
            }
            Poll::Ready(None) => {
                if let Some(lease) = this.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => {
                this.lease = None;
                Poll::Ready(Some(Err(AnswerCut)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                this.settle();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl std::fmt::Display for AnswerCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream broke off inside its answer")
    }
}

impl std::error::Error for AnswerCut {}
