//! One way to one Redis: look-ups and single commands over a connection that a [`NodeDriver`] holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, ConnectionInfo, Pipeline, Value};
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::cluster::Redirect;
use super::{QUEUE, RedisUrl};
use crate::store::{Standing, StandingKeys, StoreError};

/// One way to one Redis; the connection itself is held by its [`NodeDriver`].
#[derive(Clone)]
pub(super) struct Node {
    deadline: Duration,
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
}

/// Connects, reconnects and sends; one for each [`Node`], run where the node is used.
#[derive(Debug)]
pub(super) struct NodeDriver {
    pub(super) url: RedisUrl,
    pub(super) deadline: Duration,
    pub(super) inbox: mpsc::Receiver<Ask>,
    pub(super) shared: Arc<Shared>,
    /// What the one that tells the log about the store asks now and then; the others, which would
    /// only repeat it, have none.
    pub(super) probe: Option<Arc<StandingKeys>>,
}

/// What the driver and the users of a node share. `connection` is empty while Redis is away.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) connection: ArcSwapOption<Connected>,
    /// Whether the last probe was refused.
    pub(super) is_refused: AtomicBool,
    pub(super) broken: Notify,
}

/// One connection, and which one it is: a late failure of an earlier one must not end a later one.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) generation: u64,
    /// Where it leads.
    pub(super) info: Arc<ConnectionInfo>,
    pub(super) connection: MultiplexedConnection,
}

/// One look-up on its way.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) keys: Arc<StandingKeys>,
    /// Whether another node sent us, for a slot that is on its way; then there is one key.
    pub(super) is_asking: bool,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What came of a look-up.
#[derive(Debug)]
pub(super) enum Answer {
    Said(Standing),
    /// Another node of the cluster knows.
    Elsewhere(Redirect),
}

impl Answer {
    /// The standing; where another node knows, this one does not.
    pub(super) fn standing(self) -> Standing {
        match self {
            Self::Said(standing) => standing,
            Self::Elsewhere(_) => Standing::Unknown,
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("connected", &self.connection.load().is_some()).finish()
    }
}

impl Node {
    /// A way and the driver that connects it. `deadline` bounds every answer; `probe` is what is
    /// asked to learn whether look-ups are answered.
    pub(super) fn new(url: RedisUrl, deadline: Duration, probe: Option<Arc<StandingKeys>>) -> (Self, NodeDriver) {
        let (asks, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let node = Self { deadline, asks, shared: Arc::clone(&shared) };
        (node, NodeDriver { url, deadline, inbox, shared, probe })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.shared.connection.load().is_some()
    }

    /// Whether it asks there; also where it asks nobody, and says so itself.
    pub(super) fn asks_at(&self, place: &ConnectionInfo) -> bool {
        self.shared.connection.load().as_ref().is_none_or(|connected| connected.info.addr() == place.addr())
    }

    /// Whether it answered the last probe with an error.
    pub(super) fn is_refused(&self) -> bool {
        self.shared.is_refused.load(Ordering::Relaxed)
    }

    /// Asks for a token's standing. Waits no longer than the deadline, and not at all while there
    /// is no connection. Dropping the future abandons the answer, never the connection's order.
    pub(super) async fn standing(&self, keys: &Arc<StandingKeys>) -> Standing {
        match self.ask(keys, false) {
            Some(wait) => wait.await.map_or(Standing::Unknown, Answer::standing),
            None => Standing::Unknown,
        }
    }

    /// Asks, and leaves the waiting to the caller; nothing where there is no connection.
    pub(super) fn ask(&self, keys: &Arc<StandingKeys>, is_asking: bool) -> Option<oneshot::Receiver<Answer>> {
        if keys.is_empty() || !self.is_connected() {
            return None;
        }
        let (answer, wait) = oneshot::channel();
        self.asks.try_send(Ask { keys: Arc::clone(keys), is_asking, answer }).ok()?;
        Some(wait)
    }

    /// Sends one command. An error that is answered is a value here: it may be a redirect.
    pub(super) async fn command(&self, command: Cmd, is_asking: bool) -> Result<Value, StoreError> {
        let connected = self.shared.connection.load_full().ok_or(StoreError::Away)?;
        let mut connection = connected.connection.clone();
        let mut pipeline = Pipeline::new();
        if is_asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command);
        let count = pipeline.len();
        match timeout(self.deadline, connection.send_packed_commands(&pipeline, 0, count)).await {
            Err(_) => {
                self.shared.give_up(connected.generation);
                Err(StoreError::TimedOut)
            }
            Ok(Ok(mut replies)) if replies.len() == count => replies.pop().ok_or(StoreError::Away),
            Ok(Ok(_)) => {
                self.shared.give_up(connected.generation);
                Err(StoreError::Refused("too few answers".to_owned()))
            }
            Ok(Err(error)) => {
                let Some(code) = error.code() else {
                    self.shared.give_up(connected.generation);
                    return Err(StoreError::Away);
                };
                Err(StoreError::Refused(code.to_owned()))
            }
        }
    }
}

impl Shared {
    /// Drops the connection, so that no later answer can come from it.
    pub(super) fn give_up(&self, generation: u64) {
        if self.connection.load().as_ref().is_some_and(|current| current.generation == generation) {
            self.connection.store(None);
            self.broken.notify_one();
        }
    }
}
