//! A request's body on its way from the client to the upstream.
//!
//! 1. It streams piece by piece, within its limits: of bytes, of silence, and of how slowly it may come.
//! 2. Only the time counts in which the client is waited for: a slow upstream makes no slow client.
//! 3. A body of HTTP/2 without a length whose answer has begun is one half of a conversation: how long it lasts is for both
//!    sides to say, and what ends it is the silence of both.
//! 4. One that lasts is asked about again, like an answer, and ends with what permitted it.
//! 5. Trailers are dropped: they could carry header fields past every check.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;

use super::headers::BodyFraming;
use super::leash::{Leash, Leashes};
use crate::accept::Busy;
use crate::alarm::{Alarm, Alarms};
use crate::authenticate::Caller;
use crate::clock;
use crate::route::RevocationPolicy;

/// Why a request body was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFault {
    /// Longer than the route's limit.
    TooLarge,
    /// The client was silent for longer than the route's `body_timeout`.
    TooSlow,
    /// The client went away or its framing is broken.
    Gone,
    /// What permitted it does not hold any more.
    TakenBack,
    /// Whether that holds is not known, time and again.
    Doubted,
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
    /// How long its client was waited for, and how much has come: it may be slow, not endless.
    waited: Duration,
    waits_since: Option<Instant>,
    come: u64,
    silence: Duration,
    alarm: Alarm,
    /// Whether its answer is coming.
    is_answered: bool,
    moved_at: Instant,
    is_touched: bool,
    /// By what it is watched, once it lasts.
    watch: Watch,
    /// Held until the body has ended or was given up.
    busy: Busy,
}

/// Whose permission a body that lasts is watched by.
enum Watch {
    /// Nobody's.
    Nobody,
    /// It has not been waited for: most have come with their head, and are looked at by nobody.
    Later(Leashes, Caller, RevocationPolicy),
    /// It is watched.
    Held(Leash),
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
            waited: Duration::ZERO,
            waits_since: None,
            come: 0,
            silence,
            alarm: alarms.alarm(),
            is_answered: false,
            moved_at: now,
            is_touched: false,
            watch: Watch::Nobody,
            busy,
        }))
    }

    /// Has it end with what permitted it, if it lasts.
    pub fn permitted_by(&mut self, leashes: &Leashes, caller: &Caller, policy: RevocationPolicy) {
        if let (Self::Streaming(stream), Caller::Known(_)) = (self, caller) {
            stream.watch = Watch::Later(leashes.clone(), caller.clone(), policy);
        }
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

    /// Says that its answer is coming, or that this is through while the body is not.
    pub fn answered(&mut self, is_coming: bool) {
        if let Self::Streaming(stream) = self {
            stream.is_answered = is_coming;
            stream.waited = Duration::ZERO;
            stream.waits_since = None;
            stream.alarm.clear();
        }
    }

    /// Says that what is left of it will go nowhere once its answer is through.
    pub fn ends_with_answer(&self) {
        if let Self::Streaming(stream) = self {
            stream.busy.lets_go();
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
        if let Watch::Held(leash) = &self.watch
            && leash.poll(cx).is_ready()
        {
            let fault = if leash.is_doubted() { UploadFault::Doubted } else { UploadFault::TakenBack };
            return Poll::Ready(Err(fault));
        }
        loop {
            // Where the answer is through before the body is, the parser says no more than this after the last piece.
            if self.incoming.is_end_stream() {
                return Poll::Ready(self.end());
            }
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => {
                    self.watch(cx);
                    return self.poll_silence(cx).map(|()| Err(UploadFault::TooSlow));
                }
                Poll::Ready(None) => return Poll::Ready(self.end()),
                Poll::Ready(Some(frame)) => frame.map_err(|_| UploadFault::Gone)?,
            };
            // Trailers are dropped; what comes after them is the end.
            let Ok(data) = frame.into_data() else { continue };
            if !data.is_empty() {
                return Poll::Ready(self.take(data).map(Some));
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes, UploadFault> {
        let length = data.len() as u64;
        self.moved_at = clock::monotonic();
        if let Some(since) = self.waits_since.take() {
            self.alarm.clear();
            self.waited += self.moved_at.saturating_duration_since(since);
        }
        self.left = self.left.checked_sub(length).ok_or(UploadFault::TooLarge)?;
        if let Some(owed) = &mut self.owed {
            *owed = owed.checked_sub(length).ok_or(UploadFault::Gone)?;
        }
        self.come += length;
        // Why: byte by byte just within each silence a body would last for ever.
        let most = self.silence + Duration::from_secs(self.come / SLOWEST);
        if self.waited > most && !self.is_conversation() {
            return Err(UploadFault::TooSlow);
        }
        Ok(data)
    }

    /// Whether both sides are talking, for as long as they like.
    const fn is_conversation(&self) -> bool {
        // Of HTTP/1 no client has one, and whoever begins to answer early would be held for nothing.
        self.is_http2 && self.is_answered && self.owed.is_none()
    }

    /// The end of the body, if it is one.
    fn end(&self) -> Result<Option<Bytes>, UploadFault> {
        // SECURITY: the library takes a stream that its client has reset with `NO_ERROR` for one that has ended. A
        // request with less than its length would have the next one on the connection read as its rest.
        let is_whole = self.owed.is_none_or(|owed| owed == 0) && (!self.is_http2 || self.incoming.is_end_stream());
        if !is_whole {
            return Err(UploadFault::Gone);
        }
        self.busy.has_read();
        Ok(None)
    }

    /// From now on it is watched: its client is waited for.
    fn watch(&mut self, cx: &Context<'_>) {
        let Watch::Later(leashes, caller, policy) = &self.watch else { return };
        self.watch = leashes.hold(caller, *policy, clock::recent()).map_or(Watch::Nobody, |leash| {
            let _not_cut_yet = leash.poll(cx);
            Watch::Held(leash)
        });
    }

    fn poll_silence(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_conversation() {
            return Poll::Pending;
        }
        if self.alarm.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.waits_since.is_none() {
            let now = clock::monotonic();
            self.waits_since = Some(now);
            self.alarm.set(now + self.silence);
        }
        Poll::Pending
    }
}
