//! Who is asked: over connections that are kept from one question to the next.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;

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
        if let Some(kept) = self.kept() {
            let mut trying = Trying { server: self, connection: Some(kept) };
            match trying.send(question()?).await {
                // One that the server has closed meanwhile says nothing about the server: a question can be asked twice.
                Err(Fault::Failed(_)) => {}
                answer => return answer,
            }
        }
        let mut trying = Trying { server: self, connection: Some(self.source.connect().await?) };
        trying.send(question()?).await
    }

    fn kept(&self) -> Option<Connection> {
        let now = clock::monotonic();
        let mut idle = self.idle();
        idle.retain(|(connection, since)| !connection.is_closed() && now.duration_since(*since) < IDLE);
        idle.pop().map(|(connection, _)| connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question over a connection, until it is known what came of it.
struct Trying<'s> {
    server: &'s Server,
    connection: Option<Connection>,
}

impl Trying<'_> {
    async fn send(&mut self, question: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Fault> {
        let Some(connection) = &mut self.connection else { return Err(Fault::Failed("no connection".to_owned())) };
        let answer = connection.send(question, MAX_ANSWER).await?;
        // It was read to its end: nothing of it is taken for the answer to the next question.
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            self.server.idle().push((connection, clock::monotonic()));
        }
        Ok(answer)
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        // It broke, or nobody has waited for it: the others go where this one went, and may be as dead.
        if self.connection.is_some() {
            self.server.idle().clear();
        }
    }
}
