//! A worker's connections to the upstreams: no lock, no other thread.
//!
//! 1. The connection that came back last goes out first, so that the rest grow old and are closed.
//! 2. One that is closed, on which something came unasked, or that is older than `keep_alive` is not
//!    used again. The kernel is asked; for what can be sent twice, the runtime about one that has rested for no more
//!    than a moment: what came in it could as well come in the next. `keep_alive` is shorter than what servers usually grant (5 s), so that they rarely
//!    close first.
//! 3. Connections of one target never serve another.
//! 4. None is used for longer than some minutes, so that names are looked up again while there is load.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::connection::Connection;
use super::error::ForwardError;
use super::http2::session::Sessions;
use super::target::Target;
use crate::alarm::Alarms;
use crate::clock;

/// Idle connections that are kept for one target by one worker.
const MAX_IDLE: usize = 512;

/// How long a connection has rested at most that is taken on the runtime's word.
const MOMENT: Duration = Duration::from_millis(2);

/// The longest that one connection is used again.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// A worker's idle connections by target.
#[derive(Clone, Default)]
pub struct Pool {
    idle: Rc<RefCell<IdleByTarget>>,
    sessions: Sessions,
    alarms: Alarms,
}

type IdleByTarget = HashMap<Arc<str>, Vec<Idle>, RandomState>;

struct Idle {
    /// Boxed for as long as it lives: it goes through many hands, and is too large to be copied into each.
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// An idle connection to the target, if there is a usable one.
    #[must_use]
    pub fn take(
        &self,
        target: &Target,
        keep_alive: Duration,
        is_repeatable: bool,
        now: Instant,
    ) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(&target.key)?;
        while let Some(Idle { mut connection, since }) = stack.pop() {
            let rested = now.saturating_duration_since(since);
            if rested > keep_alive {
                // Those below came back even earlier.
                stack.clear();
                return None;
            }
            if (is_repeatable && rested < MOMENT && connection.seems_quiet()) || connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// A new connection to the target.
    ///
    /// # Errors
    /// `Unreachable`, `Insecure`, or `TimedOut(Connect)`.
    pub async fn connect(&self, target: &Target, limit: Duration) -> Result<Box<Connection>, ForwardError> {
        Connection::open(target, limit, &self.alarms).await.map(Box::new)
    }

    /// Puts a connection back for the next exchange.
    pub fn give_back(&self, mut connection: Box<Connection>, now: Instant) {
        // What came after the answer belongs to nobody.
        if !connection.buffer.is_empty() || now.saturating_duration_since(connection.opened) > MAX_AGE {
            return;
        }
        connection.rest();
        let mut idle = self.idle.borrow_mut();
        if let Some(stack) = idle.get_mut(&connection.key) {
            if stack.len() < MAX_IDLE {
                stack.push(Idle { connection, since: now });
            }
        } else {
            idle.insert(Arc::clone(&connection.key), vec![Idle { connection, since: now }]);
        }
    }

    /// Closes what has been idle for longer than `keep_alive`.
    pub fn sweep(&self, keep_alive: Duration) {
        let now = clock::monotonic();
        self.sessions.sweep(keep_alive, now);
        self.idle.borrow_mut().retain(|_, stack| {
            stack.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) <= keep_alive && idle.connection.is_quiet()
            });
            !stack.is_empty()
        });
    }

    /// Those of HTTP/2.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The time limits of this worker's exchanges.
    #[must_use]
    pub const fn alarms(&self) -> &Alarms {
        &self.alarms
    }
}
