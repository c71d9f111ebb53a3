//! The store in Redis: one pipelined connection for each worker, one for the control runtime.
//!
//! 1. A look-up is handed to a task of the same worker that owns the connection, so that it crosses
//!    no thread; what arrives while that is busy goes out as one pipeline, and many requests share a
//!    round trip.
//! 2. Every look-up has a deadline. A batch that misses it is answered `Unknown` and its connection
//!    is dropped: a late reply must never be taken for the reply to a later question.
//! 3. While there is no connection every look-up is answered `Unknown` at once, without waiting.
//! 4. It reconnects for ever, with jitter. A connection counts only once it has answered `PING`:
//!    a stopped Redis still accepts connections.
//!
//! What it does not do: cache an answer, or guess one. `EXISTS` is asked, not `GET`, where presence
//! is the question, so that a key of any type counts; a not-before key of another type is an error
//! and so `Unknown`.

mod batch;
mod driver;
mod hello;
mod lease;
mod revoke;
mod tracking;
mod url;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ConnectionInfo, RedisError, Value};
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

pub use self::lease::{Lease, LeaseKeys};
pub use self::tracking::{Tracked, Tracker, Tracking, TrackingNumbers};
pub use self::url::RedisUrl;
use super::{Entry, KeyPattern, PAGE, Page, Standing, StandingKeys, StoreError, Trouble};

/// What the names of the gateways' own keys begin with, unless said otherwise.
const PREFIX: &str = "bearward:";
/// Look-ups that may wait for the connection's task; one more is answered `Unknown`.
const QUEUE: usize = 16_384;
/// Look-ups in one pipeline at the most.
const BATCH: usize = 256;
/// How often an idle connection is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// First and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));

/// One way to Redis; the connection itself is held by its [`Driver`].
pub struct Link {
    url: RedisUrl,
    deadline: Duration,
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
    tracking: Option<Tracking>,
    lease_keys: LeaseKeys,
    /// Where writes wait for replicas; made when the first one does.
    replicated: tokio::sync::Mutex<revoke::Replicated>,
}

/// Connects, reconnects and sends; one for each [`Link`], run where the link is used.
#[derive(Debug)]
pub struct Driver {
    url: RedisUrl,
    deadline: Duration,
    inbox: mpsc::Receiver<Ask>,
    shared: Arc<Shared>,
    /// What the link that tells the log about the store asks now and then; the others, which would
    /// only repeat it, have none.
    probe: Option<Arc<StandingKeys>>,
}

/// What the driver and the users of a link share. `connection` is empty while Redis is away.
#[derive(Default)]
struct Shared {
    connection: ArcSwapOption<Connected>,
    /// Whether the last probe was refused.
    is_refused: AtomicBool,
    broken: Notify,
}

/// One connection, and which one it is: a late failure of an earlier one must not end a later one.
#[derive(Clone)]
struct Connected {
    generation: u64,
    /// Where it leads.
    info: Arc<ConnectionInfo>,
    connection: MultiplexedConnection,
}

/// One look-up on its way.
#[derive(Debug)]
struct Ask {
    keys: Arc<StandingKeys>,
    answer: oneshot::Sender<Standing>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("connected", &self.connection.load().is_some()).finish()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Link {
    /// A link and the driver that connects it. `deadline` bounds every answer; `probe` is what is
    /// asked to learn whether look-ups are answered.
    #[must_use]
    pub fn new(url: RedisUrl, deadline: Duration, probe: StandingKeys) -> (Self, Driver) {
        Self::open(url, deadline, Some(Arc::new(probe)))
    }

    fn open(url: RedisUrl, deadline: Duration, probe: Option<Arc<StandingKeys>>) -> (Self, Driver) {
        let (asks, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let link = Self {
            url: url.clone(),
            deadline,
            asks,
            shared: Arc::clone(&shared),
            tracking: None,
            lease_keys: LeaseKeys::new(PREFIX),
            replicated: tokio::sync::Mutex::default(),
        };
        (link, Driver { url, deadline, inbox, shared, probe })
    }

    /// The same with standings that are kept up to date (`mode: tracked`).
    #[must_use]
    pub fn with_tracking(self, tracking: Option<Tracking>) -> Self {
        Self { tracking, ..self }
    }

    /// The same with other names for the gateways' own keys.
    #[must_use]
    pub fn with_lease_keys(self, lease_keys: LeaseKeys) -> Self {
        Self { lease_keys, ..self }
    }

    /// Another link to the same store.
    pub(super) fn sibling(&self) -> (Self, Driver) {
        let (link, driver) = Self::open(self.url.clone(), self.deadline, None);
        (link.with_tracking(self.tracking.clone()), driver)
    }

    /// What keeps standings up to date, where a route wants that.
    pub(super) const fn tracking(&self) -> Option<&Tracking> {
        self.tracking.as_ref()
    }

    fn is_connected(&self) -> bool {
        self.shared.connection.load().is_some()
    }

    /// Why look-ups are not answered, as far as is known.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        match (self.is_connected(), self.shared.is_refused.load(Ordering::Relaxed)) {
            (false, _) => Some(Trouble::Away),
            (true, true) => Some(Trouble::Refuses),
            (true, false) if self.tracking.as_ref().is_some_and(|tracking| !tracking.is_fresh()) => {
                Some(Trouble::Stale)
            }
            (true, false) => None,
        }
    }

    /// Asks for a token's standing. Waits no longer than the deadline, and not at all while there
    /// is no connection. Dropping the future abandons the answer, never the connection's order.
    pub(super) async fn standing(&self, keys: &Arc<StandingKeys>) -> Standing {
        if keys.is_empty() || !self.is_connected() {
            return Standing::Unknown;
        }
        let (answer, wait) = oneshot::channel();
        if self.asks.try_send(Ask { keys: Arc::clone(keys), answer }).is_err() {
            return Standing::Unknown;
        }
        wait.await.unwrap_or(Standing::Unknown)
    }

    /// The value of one key (its type, where it is no text) and its remaining life.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut get = ::redis::cmd("GET");
        get.arg(key);
        let mut life = ::redis::cmd("PTTL");
        life.arg(key);
        let value = match self.command(get).await {
            Ok(Value::Nil) => return Ok(None),
            Ok(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(other) => format!("{other:?}"),
            Err(StoreError::Refused(code)) if code == "WRONGTYPE" => "(not a string)".to_owned(),
            Err(error) => return Err(error),
        };
        let life = self.command(life).await?;
        let remaining = if let Value::Int(millis) = life { u64::try_from(millis).ok() } else { None };
        Ok(Some(Entry { value, remaining }))
    }

    /// One step of a scan over all keys; what is a page is for Redis to say.
    pub(super) async fn list(&self, pattern: &KeyPattern, after: &str) -> Result<Page, StoreError> {
        let odd = || StoreError::Refused("an odd answer to SCAN".to_owned());
        let text = |value: Value| ::redis::from_redis_value::<String>(value).map_err(|_| odd());
        let mut scan = ::redis::cmd("SCAN");
        scan.arg(if after.is_empty() { "0" } else { after }).arg("MATCH").arg(pattern.glob()).arg("COUNT").arg(PAGE);
        let Value::Array(parts) = self.command(scan).await? else { return Err(odd()) };
        let Ok([cursor, Value::Array(keys)]) = <[Value; 2]>::try_from(parts) else { return Err(odd()) };
        let next = text(cursor)?;
        let keys = keys.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(Page { keys, next: (next != "0").then_some(next) })
    }

    async fn command(&self, command: ::redis::Cmd) -> Result<Value, StoreError> {
        let connected = self.shared.connection.load_full().ok_or(StoreError::Away)?;
        let mut connection = connected.connection.clone();
        match timeout(self.deadline, connection.send_packed_command(&command)).await {
            Err(_) => {
                self.shared.give_up(connected.generation);
                Err(StoreError::TimedOut)
            }
            Ok(Ok(Value::ServerError(error))) => Err(StoreError::Refused(error.code().to_owned())),
            Ok(Ok(value)) => Ok(value),
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
    fn give_up(&self, generation: u64) {
        if self.connection.load().as_ref().is_some_and(|current| current.generation == generation) {
            self.connection.store(None);
            self.broken.notify_one();
        }
    }
}

/// An error's code, or its category: the full text may quote what was sent.
fn reason(error: &RedisError) -> String {
    error.code().unwrap_or_else(|| error.category()).to_owned()
}

/// The code of an error that was answered: `LOADING`, `NOAUTH`, `MASTERDOWN` and kin are answers too,
/// but not ones to build on.
fn code(reply: &Value) -> Option<String> {
    if let Value::ServerError(error) = reply { Some(error.code().to_owned()) } else { None }
}
