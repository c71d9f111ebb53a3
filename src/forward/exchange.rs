//! One exchange on one connection: a request goes out while its answer comes in.
//!
//! 1. The head and the first piece of the body leave in one write where both are there.
//! 2. The answer is waited for no longer than its limit, counted from the last piece of the client's
//!    body: the clock stands while a body moves.
//! 3. An answer may come before the body is through; both then go on beside each other.
//! 4. A connection that takes no more bytes may still have an answer to give.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Method;

use super::answer::{Head, HeadReader, Malformed};
use super::connection::{Connection, Outgoing};
use super::headers::BodyFraming;
use super::upload::{Upload, UploadFault};
use crate::alarm::Alarm;
use crate::clock;
use crate::route::Protocol;

/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A request as it goes out, and again where it may.
pub struct Message {
    /// The request's head, to the empty line.
    pub head: Vec<u8>,
    /// The client's body, as far as it has not been sent.
    pub upload: Upload,
}

/// One exchange on one connection.
pub struct Exchange {
    /// The connection; nobody else uses it before the answer's end.
    pub connection: Box<Connection>,
    /// The client's body, as far as it has not been sent.
    pub upload: Upload,
    pub(super) outgoing: Outgoing,
    sending: Sending,
    is_chunked: bool,
    upgrade: Option<Protocol>,
    /// What came when it began in somebody else's hands.
    come: Option<io::Result<usize>>,
}

/// How far the request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Body,
    /// The body has ended; its last bytes are on their way.
    Rest,
    Done,
    /// The connection takes no more, or the client's body has no good end.
    Broken,
}

/// Where a request may go out a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nowhere.
    No,
    /// At the same target: the connection had been waiting, and was dead.
    Here,
    /// At another target.
    Elsewhere,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's body is to blame.
    Upload(UploadFault),
    /// It took too long.
    TimedOut,
    /// The connection ended without a byte of an answer.
    Unanswered,
    /// It ended inside a head, or what came is no answer.
    Malformed,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Exchange {
    /// An exchange that is about to begin. From now on its answer may take no longer than `limit`, and not beyond `until`
    /// unless its body is moving.
    #[must_use]
    pub fn new(
        connection: Box<Connection>,
        message: Message,
        way: (BodyFraming, Option<Protocol>),
        (limit, until): (Duration, Instant),
    ) -> Self {
        connection.alarm.set(until.min(clock::monotonic() + limit));
        let Message { head, upload } = message;
        let (framing, upgrade) = way;
        let sending = if matches!(upload, Upload::Empty) { Sending::Rest } else { Sending::Body };
        let is_chunked = framing == BodyFraming::Chunked;
        Self { connection, upload, outgoing: Outgoing::new(head), sending, is_chunked, upgrade, come: None }
    }

    /// Begins in the name of the task that waits for the answer, which is woken when there is something to be done. For
    /// a request without a body, which could be at fault itself.
    pub fn begin(&mut self, cx: &mut Context<'_>) {
        debug_assert!(matches!(self.upload, Upload::Empty), "a body is sent by who waits for the answer");
        // SECURITY: what has come since the connection was taken is no answer to this request. It was taken a turn ago at
        // the most, so that the runtime's word will do where it says that nothing has.
        let connection = &mut self.connection;
        self.come = if !connection.is_reused || connection.seems_quiet() || connection.is_quiet() {
            let _sent = self.poll_send(cx);
            ready(self.connection.poll_fill(cx, 0))
        } else {
            self.sending = Sending::Broken;
            Some(Ok(0))
        };
        if self.come.is_some() || self.connection.alarm.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Sends the request, if it has not begun, and waits for the head of its answer; `limit` is what it was given.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn answer(&mut self, method: &Method, limit: Duration) -> Result<Head, Fault> {
        let mut reader = HeadReader::new(self.upgrade);
        let head = poll_fn(|cx| self.poll_answer(cx, &mut reader, method, limit)).await?;
        self.connection.alarm.clear();
        self.upload.answered(true);
        Ok(head)
    }

    /// Where the request may go out a second time after this fault. Only if it never went out, or if it had no
    /// body and doing it twice is doing it once (RFC 9110 §9.2.2).
    #[must_use]
    pub fn again(&self, fault: Fault, method: &Method) -> Again {
        let is_unsent = !self.was_seen() && !self.upload.is_touched();
        let has_no_body = matches!(self.upload, Upload::Empty);
        match fault {
            Fault::Unanswered | Fault::Malformed if !is_unsent && !(has_no_body && is_idempotent(method)) => Again::No,
            Fault::Unanswered if self.connection.is_reused => Again::Here,
            Fault::Unanswered | Fault::Malformed => Again::Elsewhere,
            Fault::Upload(_) | Fault::TimedOut => Again::No,
        }
    }

    /// Whether the target may have seen something of the request.
    #[must_use]
    pub const fn was_seen(&self) -> bool {
        self.outgoing.has_begun
    }

    /// Whether a fault is the target's, as far as it can be told: not while the client's body is waited for.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.sending != Sending::Body || !self.outgoing.is_empty()
    }

    /// Whether all of the request is out.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sending == Sending::Done
    }

    /// Sends the rest of the request, whose answer is through, unless it stands still for `limit`.
    pub async fn finish_upload(&mut self, limit: Duration) {
        self.connection.alarm.set(clock::monotonic() + limit);
        poll_fn(|cx| match self.poll_send(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.poll_time_out(cx, limit),
        })
        .await;
    }

    /// Sends what can be sent now; ready when nothing more will be.
    ///
    /// # Errors
    /// The fault of the client's body.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFault>> {
        loop {
            if self.sending == Sending::Body && self.outgoing.has_room() {
                self.poll_load(cx)?;
            }
            if matches!(self.sending, Sending::Done | Sending::Broken) {
                return Poll::Ready(Ok(()));
            }
            let was_empty = self.outgoing.is_empty();
            match self.connection.poll_write(cx, &mut self.outgoing) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => self.sending = Sending::Broken,
                Poll::Ready(Ok(())) if self.sending == Sending::Rest => self.sending = Sending::Done,
                // Nothing to write, and nothing has come from the client.
                Poll::Ready(Ok(())) if was_empty => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    /// Takes a piece of the client's body, if there is one.
    fn poll_load(&mut self, cx: &mut Context<'_>) -> Result<(), UploadFault> {
        match self.upload.poll_next(cx) {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(data))) => self.outgoing.push(data, self.is_chunked),
            Poll::Ready(Some(Err(fault))) => {
                // What is out is half a request: nothing may follow it, and no end is sent for it.
                self.sending = Sending::Broken;
                return Err(fault);
            }
            Poll::Ready(None) => {
                self.sending = Sending::Rest;
                if let Some(load) = &mut self.connection.load {
                    load.uploaded();
                }
                if self.is_chunked {
                    self.outgoing.end();
                }
            }
        }
        Ok(())
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut HeadReader,
        method: &Method,
        limit: Duration,
    ) -> Poll<Result<Head, Fault>> {
        if let Poll::Ready(Err(fault)) = self.poll_send(cx) {
            return Poll::Ready(Err(Fault::Upload(fault)));
        }
        loop {
            let come = self.come.take();
            match come.map_or_else(|| self.connection.poll_fill(cx, 0), Poll::Ready) {
                Poll::Pending => break,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) if self.connection.buffer.is_empty() => {
                    return Poll::Ready(Err(Fault::Unanswered));
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::Malformed)),
            }
            let come = self.connection.buffer.len();
            let head = reader.read(&mut self.connection.buffer, method)?;
            // What is left after a head is its body's.
            let read = if head.is_some() { come - self.connection.buffer.len() } else { come };
            if read > MAX_HEAD {
                return Poll::Ready(Err(Fault::Malformed));
            }
            if let Some(head) = head {
                return Poll::Ready(Ok(head));
            }
        }
        self.poll_time_out(cx, limit).map(|()| Err(Fault::TimedOut))
    }

    /// Ready when nothing has happened for `limit`.
    fn poll_time_out(&self, cx: &Context<'_>, limit: Duration) -> Poll<()> {
        let waits_for_client = self.sending == Sending::Body && self.outgoing.is_empty();
        poll_time_out(&self.connection.alarm, &self.upload, waits_for_client, limit, cx)
    }
}

/// What is there, if it is.
fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(there) => Some(there),
        Poll::Pending => None,
    }
}

/// Whether doing it twice is doing it once (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

/// Ready when nothing has happened for `limit`, and it is not the client that is waited for.
pub(super) fn poll_time_out(
    alarm: &Alarm,
    upload: &Upload,
    waits_for_client: bool,
    limit: Duration,
    cx: &Context<'_>,
) -> Poll<()> {
    if alarm.poll(cx).is_pending() {
        return Poll::Pending;
    }
    if waits_for_client {
        // Its body has a limit of its own.
        alarm.set(clock::monotonic() + limit);
        return alarm.poll(cx);
    }
    match upload.moved_at().map(|moved| moved + limit) {
        Some(until) if until > clock::monotonic() => {
            alarm.set(until);
            alarm.poll(cx)
        }
        Some(_) | None => Poll::Ready(()),
    }
}
