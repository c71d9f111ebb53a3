//! Who is asked: over connections that are kept from one question to the next.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::authenticate::keys::fetch::{Connection, Fault, Source};
use crate::clock;

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// For how long a connection that nobody uses is taken for one that works.
const IDLE: Duration = Duration::from_secs(15);

/// An introspection endpoint, and as whom it is asked.
pub struct Server {
    source: Source,
    /// `Basic ...` (RFC 6749 §2.3.1).
    authorization: HeaderValue,
    /// The one that was used last is used next; as many as there were questions at one time.
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl Server {
    /// One that has not been asked yet.
    #[must_use]
    pub fn new(source: Source, authorization: HeaderValue) -> Self {
        Self { source, authorization, idle: Mutex::default() }
    }

    /// Posts a form; the answer, whatever its status is.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn post(&self, form: Bytes) -> Result<(StatusCode, Bytes), Fault> {
        let question = || self.source.form(&self.authorization, form.clone());
        if let Some(mut kept) = self.kept() {
            match kept.send(question()?, MAX_ANSWER).await {
                Ok(answer) => {
                    self.keep(kept);
                    return Ok(answer);
                }
                Err(Fault::TooLong(status)) => return Err(Fault::TooLong(status)),
                // One that the server has closed meanwhile says nothing about the server: a question can be asked twice.
                Err(Fault::Failed(_)) => self.forget(),
            }
        }
        let mut fresh = self.source.connect().await?;
        let answer = fresh.send(question()?, MAX_ANSWER).await?;
        self.keep(fresh);
        Ok(answer)
    }

    /// Closes what nobody uses.
    pub fn forget(&self) {
        self.idle().clear();
    }

    fn kept(&self) -> Option<Connection> {
        let now = clock::monotonic();
        let mut idle = self.idle();
        idle.retain(|(connection, since)| !connection.is_closed() && now.duration_since(*since) < IDLE);
        idle.pop().map(|(connection, _)| connection)
    }

    /// Its answer was read to its end: nothing of it is taken for the answer to the next question.
    fn keep(&self, connection: Connection) {
        if !connection.is_closed() {
            self.idle().push((connection, clock::monotonic()));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
