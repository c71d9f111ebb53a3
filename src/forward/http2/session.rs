//! The connections of one worker to its HTTP/2 targets.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use crate::clock;
use crate::forward::error::ForwardError;
use crate::stream::Stream;

/// Most requests at one time on one connection.
const STREAMS: usize = 100;
/// What a target takes that has said nothing yet, and one that takes no request now: both are waited for.
const NOTHING_SAID: usize = 0;
/// The longest that one connection gets new requests.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// How long it is known that a target settled on HTTP/1, once no connection to it is made.
const SETTLED: Duration = Duration::from_secs(10 * 60);
/// How much of one answer is taken before the client has, in bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The same of all answers of a connection: enough for each, so that clients that read nothing hold up no others.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// What frames that bring little may cost the parser, by its own measure, before it ends the connection: answers of many
/// clients that read slowly come together here.
const FRAMES: usize = 256 * 1024 * 1024;
/// Streams that were taken back, and that the target may still be answering.
const TAKEN_BACK: usize = 10_000;
/// How much of a body is taken before the target has, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Largest header list of an answer, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// One connection.
pub struct Session {
    sender: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

/// Room for one request on a connection, for as long as it is under way.
pub struct Seat {
    /// Begins its stream.
    pub sender: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

struct Shared {
    /// Requests under way.
    requests: Cell<usize>,
    is_closed: Cell<bool>,
    opened: Instant,
    /// When it last had a request.
    used: Cell<Instant>,
}

/// A worker's connections by target.
#[derive(Clone, Default)]
pub struct Sessions(Rc<RefCell<HashMap<Arc<str>, Known>>>);

/// What is known of one target.
struct Known {
    sessions: Vec<Session>,
    /// When it settled on HTTP/1, if it did the last time.
    http1_at: Option<Instant>,
    /// One connection is made at a time: who waits for it can use it too.
    gate: Rc<Semaphore>,
}

impl Default for Known {
    fn default() -> Self {
        Self { sessions: Vec::new(), http1_at: None, gate: Rc::new(Semaphore::new(1)) }
    }
}

impl Session {
    /// A conversation on a new connection, as soon as the target has said how many streams it takes: none at all is
    /// waited for like a connection. RFC 9113 §3.4 lets a client begin before that; what is too many is then refused,
    /// and a target that does not speak HTTP/2 has been sent a request. `None` where the target has ended it with
    /// nothing wrong, as one does that is about to stop: the next connection may come to another process.
    ///
    /// # Errors
    /// `Unreachable`; `Broken` where what is spoken is not HTTP/2.
    pub async fn open(stream: Stream) -> Result<Option<Self>, ForwardError> {
        let (sender, mut connection) = Builder::new()
            .initial_max_send_streams(NOTHING_SAID)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD)
            .enable_push(false)
            .data_frame_budget(FRAMES)
            .max_concurrent_reset_streams(TAKEN_BACK)
            // What our clients have taken back is not the target's fault.
            .max_local_error_reset_streams(None)
            .handshake(stream)
            .await
            .map_err(|_| ForwardError::Unreachable)?;
        let settings = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(false)),
            Poll::Ready(Err(error)) if error.is_io() => Poll::Ready(Err(ForwardError::Unreachable)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(ForwardError::Broken)),
            Poll::Pending if sender.current_max_send_streams() == NOTHING_SAID => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(true)),
        });
        if !settings.await? {
            return Ok(None);
        }
        let now = clock::monotonic();
        let requests = Cell::new(0);
        let shared = Rc::new(Shared { requests, is_closed: Cell::new(false), opened: now, used: Cell::new(now) });
        let driven = Rc::clone(&shared);
        spawn_local(async move {
            // How it ended, each of its streams is told.
            drop(connection.await);
            driven.is_closed.set(true);
        });
        Ok(Some(Self { sender, shared }))
    }

    /// Room for one more request.
    #[must_use]
    pub fn seat(&self) -> Seat {
        self.shared.requests.set(self.shared.requests.get() + 1);
        Seat { sender: self.sender.clone(), shared: Rc::clone(&self.shared) }
    }

    fn has_room(&self, now: Instant) -> bool {
        let most = self.sender.current_max_send_streams().min(STREAMS);
        !self.shared.is_closed.get()
            && self.shared.requests.get() < most
            && now.saturating_duration_since(self.shared.opened) < MAX_AGE
    }
}

impl Seat {
    /// Gives its connection no new request from now on; whether that is news.
    pub fn retire(&self) -> bool {
        !self.shared.is_closed.replace(true)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.requests.set(self.shared.requests.get().saturating_sub(1));
    }
}

impl Sessions {
    /// Room on a connection to the target, if there is any.
    #[must_use]
    pub fn take(&self, key: &Arc<str>, now: Instant) -> Option<Seat> {
        let mut known = self.0.borrow_mut();
        let sessions = &mut known.get_mut(key)?.sessions;
        sessions.retain(|session| !session.shared.is_closed.get());
        let session = sessions.iter().find(|session| session.has_room(now))?;
        session.shared.used.set(now);
        Some(session.seat())
    }

    /// Where one request at a time may make a connection; `None` where each makes its own, because the target
    /// settles on HTTP/1.
    #[must_use]
    pub fn gate(&self, key: &Arc<str>) -> Option<Rc<Semaphore>> {
        let mut known = self.0.borrow_mut();
        let known = known.entry(Arc::clone(key)).or_default();
        known.http1_at.is_none().then(|| Rc::clone(&known.gate))
    }

    /// A connection was made: one of HTTP/2, or another.
    pub fn made(&self, key: &Arc<str>, session: Option<Session>) {
        let mut known = self.0.borrow_mut();
        let known = known.entry(Arc::clone(key)).or_default();
        known.http1_at = session.is_none().then(clock::monotonic);
        known.sessions.extend(session);
    }

    /// Lets go of what is closed, and of what nobody has used for `keep_alive`: it closes with its last stream.
    pub fn sweep(&self, keep_alive: Duration, now: Instant) {
        self.0.borrow_mut().retain(|_, known| {
            known.sessions.retain(|session| {
                let is_idle = session.shared.requests.get() == 0
                    && now.saturating_duration_since(session.shared.used.get()) > keep_alive;
                let is_old = now.saturating_duration_since(session.shared.opened) > MAX_AGE;
                !session.shared.is_closed.get() && !is_idle && !is_old
            });
            // It may be one of a configuration that is no more; if not, the next connection says so again.
            let is_http1 = known.http1_at.is_some_and(|at| now.saturating_duration_since(at) <= SETTLED);
            // Who waits at the gate has it too.
            !known.sessions.is_empty() || is_http1 || Rc::strong_count(&known.gate) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each reading of a configuration has keys of its own for targets over TLS.
    #[test]
    fn that_a_target_settled_on_http_1_is_forgotten_after_a_while() {
        let (sessions, keep_alive) = (Sessions::default(), Duration::from_secs(60));
        let key = Arc::from("https://order 1");
        assert!(sessions.gate(&key).is_some());
        sessions.made(&key, None);
        sessions.sweep(keep_alive, clock::monotonic());
        assert!(sessions.gate(&key).is_none(), "each makes its own");
        sessions.sweep(keep_alive, clock::monotonic() + SETTLED + Duration::from_secs(1));
        assert!(sessions.0.borrow().is_empty());
    }
}
