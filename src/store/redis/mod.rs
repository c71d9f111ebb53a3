//! The store in Redis: one pipelined connection for each worker, one for the control runtime; to a
//! cluster as many for each primary.
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
mod cluster;
mod driver;
mod hello;
mod lease;
mod node;
mod record;
mod replication;
mod revoke;
mod text;
mod tracking;
mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, RedisError, Value};

use self::cluster::{Fleet, FleetDriver};
pub use self::lease::{Lease, LeaseKeys};
use self::node::{Node, NodeDriver};
use self::replication::Replication;
pub use self::tracking::{Split, Tracked, Tracker, Tracking, TrackingNumbers};
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

/// The way to the store.
pub struct Link {
    url: RedisUrl,
    deadline: Duration,
    way: Way,
    tracking: Option<Tracking>,
    lease_keys: LeaseKeys,
    /// What this gateway's lease is called, where it has one.
    leased_as: Option<Arc<str>>,
    /// Where writes wait for replicas.
    replication: Replication,
}

/// How many ways there are.
enum Way {
    /// One Redis has all keys.
    One(Node),
    /// Each primary of a cluster has some.
    Many(Fleet),
}

/// Connects, reconnects and sends; one for each [`Link`], run where the link is used.
#[derive(Debug)]
pub struct Driver(Drives);

#[derive(Debug)]
enum Drives {
    One(NodeDriver),
    Many(FleetDriver),
}

impl Driver {
    /// Keeps the link alive until every user of it is gone.
    pub async fn run(self) {
        match self.0 {
            Drives::One(driver) => driver.run().await,
            Drives::Many(driver) => driver.run().await,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Link {
    /// A link and the driver that connects it. `deadline` bounds every answer; of a cluster nothing counts
    /// that is not known to be so for `max_staleness`; `probe` is what is asked to learn whether look-ups
    /// are answered.
    #[must_use]
    pub fn new(url: RedisUrl, deadline: Duration, max_staleness: Duration, probe: StandingKeys) -> (Self, Driver) {
        let probe = Arc::new(probe);
        if url.seeds().is_some() {
            let (fleet, driver) = Fleet::new(url.clone(), deadline, max_staleness, probe);
            return (Self::over(Way::Many(fleet), url, deadline), Driver(Drives::Many(driver)));
        }
        let (node, driver) = Node::new(url.clone(), deadline, Some(probe));
        (Self::over(Way::One(node), url, deadline), Driver(Drives::One(driver)))
    }

    fn over(way: Way, url: RedisUrl, deadline: Duration) -> Self {
        let lease_keys = LeaseKeys::new(PREFIX, &url);
        Self { url, deadline, way, tracking: None, lease_keys, leased_as: None, replication: Replication::default() }
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

    /// The same of a gateway that says in a lease of this name what it has applied.
    #[must_use]
    pub fn leased_as(self, name: Option<Arc<str>>) -> Self {
        Self { leased_as: name, ..self }
    }

    /// Takes this gateway's lease away, which serves nobody any more: who revokes need not wait for its end.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        let Some(name) = &self.leased_as else { return Ok(()) };
        self.command(&self.lease_keys.leases, self.lease_keys.leave(name)).await.map(drop)
    }

    /// Another link to the same store.
    pub(super) fn sibling(&self) -> (Self, Driver) {
        let (way, drives) = match &self.way {
            Way::One(_) => {
                let (node, driver) = Node::new(self.url.clone(), self.deadline, None);
                (Way::One(node), Drives::One(driver))
            }
            Way::Many(fleet) => {
                let (fleet, driver) = fleet.sibling();
                (Way::Many(fleet), Drives::Many(driver))
            }
        };
        let link = Self::over(way, self.url.clone(), self.deadline);
        (link.with_tracking(self.tracking.clone()), Driver(drives))
    }

    /// What keeps standings up to date, where a route wants that.
    pub(super) const fn tracking(&self) -> Option<&Tracking> {
        self.tracking.as_ref()
    }

    /// Why look-ups are not answered, as far as is known; of a cluster, why none is.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let (is_connected, is_refused) = match &self.way {
            Way::One(node) => (node.is_connected(), node.is_refused()),
            Way::Many(fleet) => (fleet.is_connected(), fleet.is_refused()),
        };
        match (is_connected, is_refused) {
            (false, _) => Some(Trouble::Away),
            (true, true) => Some(Trouble::Refuses),
            (true, false) if self.tracking.as_ref().is_some_and(|tracking| !tracking.is_fresh()) => {
                Some(Trouble::Stale)
            }
            (true, false) => None,
        }
    }

    /// Asks for a token's standing. Waits no longer than the deadline, and not at all while there
    /// is no connection.
    pub(super) async fn standing(&self, keys: &Arc<StandingKeys>) -> Standing {
        let said = match &self.way {
            // SECURITY: a primary that was left behind answers, and knows of no revocation that came after it. Before the
            // question: whoever revokes waits for the one that the lease is at, from then on.
            Way::One(node) if self.tracking.as_ref().is_some_and(|tracking| !tracking.is_at(node)) => Standing::Unknown,
            Way::One(node) => node.standing(keys).await,
            // Its map has to be confirmed by most primaries.
            Way::Many(fleet) => fleet.standing(keys).await,
        };
        let is_cut_off = self.tracking.as_ref().is_some_and(Tracking::is_cut_off);
        if is_cut_off { said.worse(Standing::Unknown) } else { said }
    }

    /// The value of one key (its type, where it is no text) and its remaining life.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut get = ::redis::cmd("GET");
        get.arg(key);
        let mut life = ::redis::cmd("PTTL");
        life.arg(key);
        let value = match self.command(key, get).await {
            Ok(Value::Nil) => return Ok(None),
            Ok(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(other) => format!("{other:?}"),
            Err(StoreError::Refused(code)) if code == "WRONGTYPE" => "(not a string)".to_owned(),
            Err(error) => return Err(error),
        };
        let life = self.command(key, life).await?;
        let remaining = if let Value::Int(millis) = life { u64::try_from(millis).ok() } else { None };
        Ok(Some(Entry { value, remaining }))
    }

    /// One step of a scan over all keys; what is a page is for Redis to say.
    pub(super) async fn list(&self, pattern: &KeyPattern, after: &str) -> Result<Page, StoreError> {
        let scan = |cursor: &str| {
            let mut scan = ::redis::cmd("SCAN");
            let cursor = if cursor.is_empty() { "0" } else { cursor };
            scan.arg(cursor).arg("MATCH").arg(pattern.glob()).arg("COUNT").arg(PAGE);
            scan
        };
        match &self.way {
            Way::One(node) => scanned(node.command(scan(after), false).await?),
            Way::Many(fleet) => fleet.list(after, scan, scanned).await,
        }
    }

    /// Sends a command about one key.
    async fn command(&self, key: &str, command: Cmd) -> Result<Value, StoreError> {
        let said = match &self.way {
            Way::One(node) => node.command(command, false).await?,
            Way::Many(fleet) => fleet.command(key, command).await?,
        };
        code(&said).map_or(Ok(said), |code| Err(StoreError::Refused(code)))
    }
}

/// A page from an answer to `SCAN`.
fn scanned(said: Value) -> Result<Page, StoreError> {
    let odd = || StoreError::Refused("an odd answer to SCAN".to_owned());
    if let Some(code) = code(&said) {
        return Err(StoreError::Refused(code));
    }
    let text = |value: Value| ::redis::from_redis_value::<String>(value).map_err(|_| odd());
    let Value::Array(parts) = said else { return Err(odd()) };
    let Ok([cursor, Value::Array(keys)]) = <[Value; 2]>::try_from(parts) else { return Err(odd()) };
    let next = text(cursor)?;
    let keys = keys.into_iter().map(text).collect::<Result<_, _>>()?;
    Ok(Page { keys, next: (next != "0").then_some(next) })
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
