//! Writes that wait until the replicas have them too.
//!
//! 1. On connections of their own: `WAIT` holds up what comes behind it.
//! 2. All replicas are waited for that are connected, or were a moment ago: after a failover the others
//!    come back to the new primary one by one, and the next failover may choose any of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, Value};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cluster::{Redirect, redirect};
use super::{Link, RedisUrl, Way, code, reason};
use crate::clock;
use crate::store::{Acknowledged, StoreError};

/// How long a replica that was connected is waited for.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Longest wait for a replica.
const REPLICA: Duration = Duration::from_secs(1);
/// Writes that wait at the same time at the most, each on a connection of its own.
const AT_ONCE: usize = 16;

/// Where writes wait for replicas.
pub(super) struct Replication {
    room: Semaphore,
    primaries: Mutex<Primaries>,
}

/// By the URL's own words: one for what is behind Sentinels, one for each primary of a cluster.
type Primaries = BTreeMap<String, Primary>;

#[derive(Default)]
struct Primary {
    /// Connections that wait for nothing.
    idle: Vec<MultiplexedConnection>,
    /// How many replicas were connected at the best, and when that was seen.
    most: Option<(u32, Instant)>,
}

/// Why a write did not get through.
enum Missed {
    Elsewhere(Redirect),
    Failed(StoreError),
}

impl From<StoreError> for Missed {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Default for Replication {
    fn default() -> Self {
        Self { room: Semaphore::new(AT_ONCE), primaries: Mutex::default() }
    }
}

impl Replication {
    fn primaries(&self) -> MutexGuard<'_, Primaries> {
        self.primaries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many replicas have to have a write, where this many are connected now. One that took over in a
    /// cluster has another address: what was seen at those that are primaries no more counts as well.
    fn wanted(&self, place: &str, connected: u32, now: Instant, is_primary: impl Fn(&str) -> bool) -> u32 {
        let mut primaries = self.primaries();
        let is_recent = |(_, seen): &(u32, Instant)| now.saturating_duration_since(*seen) < REMEMBERED;
        primaries.retain(|other, primary| is_primary(other) || primary.most.is_some_and(|most| is_recent(&most)));
        let related = primaries.iter().filter(|(other, _)| *other == place || !is_primary(other));
        let before = related.filter_map(|(_, primary)| primary.most).filter(is_recent).max();
        let most = before.filter(|(most, _)| *most > connected).unwrap_or((connected, now));
        primaries.entry(place.to_owned()).or_default().most = Some(most);
        most.0.max(1)
    }

    fn take(&self, place: &str) -> Option<MultiplexedConnection> {
        self.primaries().get_mut(place)?.idle.pop()
    }

    fn give_back(&self, place: &str, connection: MultiplexedConnection) {
        self.primaries().entry(place.to_owned()).or_default().idle.push(connection);
    }

    /// The others may lead to what is no primary any more, as well.
    fn forget(&self, place: &str) {
        if let Some(primary) = self.primaries().get_mut(place) {
            primary.idle.clear();
        }
    }
}

impl Link {
    /// Writes a key, and waits for the replicas of who has it.
    pub(super) async fn replicated(&self, key: &str, write: Cmd) -> Result<Acknowledged, StoreError> {
        let _permit = self.replication.room.acquire().await.map_err(|_| StoreError::Away)?;
        let url = match &self.way {
            Way::One(_) => self.url.clone(),
            Way::Many(fleet) => fleet.url_of(key).ok_or(StoreError::Away)?,
        };
        let redirect = match self.waits_at(&url, &write, false).await {
            Ok(acknowledged) => return Ok(acknowledged),
            Err(Missed::Failed(error)) => return Err(error),
            Err(Missed::Elsewhere(redirect)) => redirect,
        };
        let Way::Many(fleet) = &self.way else { return Err(StoreError::Refused("MOVED".to_owned())) };
        fleet.doubt(&redirect);
        let address = redirect.address.as_ref().ok_or(StoreError::Away)?;
        match self.waits_at(&fleet.url_at(address), &write, redirect.is_asking).await {
            Ok(acknowledged) => Ok(acknowledged),
            Err(Missed::Failed(error)) => Err(error),
            Err(Missed::Elsewhere(_)) => Err(StoreError::Refused("sent on too often".to_owned())),
        }
    }

    /// The same at one primary.
    async fn waits_at(&self, url: &RedisUrl, write: &Cmd, is_asking: bool) -> Result<Acknowledged, Missed> {
        let place = url.to_string();
        let taken = self.replication.take(&place);
        let mut connection = match taken {
            Some(connection) => connection,
            None => self.connect_apart(url).await?,
        };
        let waited = self.wait_on(&mut connection, &place, write, is_asking).await;
        match &waited {
            Ok(_) | Err(Missed::Elsewhere(_)) => self.replication.give_back(&place, connection),
            // All of the others took it, and are as good as before.
            Err(Missed::Failed(StoreError::Unconfirmed(_))) => {}
            // It may be a replica by now: the next one asks anew where the primary is.
            Err(Missed::Failed(_)) => self.replication.forget(&place),
        }
        waited
    }

    async fn wait_on(
        &self,
        connection: &mut MultiplexedConnection,
        place: &str,
        write: &Cmd,
        is_asking: bool,
    ) -> Result<Acknowledged, Missed> {
        let mut pipeline = Pipeline::new();
        if is_asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(write.clone()).add_command(::redis::cmd("ROLE"));
        let said = self.say(connection, pipeline).await?;
        let [.., written, role] = said.as_slice() else { return Err(odd().into()) };
        if let Some(redirect) = redirect(written) {
            return Err(Missed::Elsewhere(redirect));
        }
        if let Some(code) = code(written) {
            return Err(StoreError::Refused(code).into());
        }
        if let Some(code) = code(role) {
            return Err(StoreError::Unconfirmed(format!("ROLE is refused: {code}")).into());
        }
        let connected = replicas(role).ok_or_else(odd)?;
        let is_primary = |other: &str| match &self.way {
            Way::One(_) => true,
            Way::Many(fleet) => fleet.has(other),
        };
        let wanted = self.replication.wanted(place, connected, clock::monotonic(), is_primary);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("WAIT").arg(wanted).arg(u64::try_from(REPLICA.as_millis()).unwrap_or(1000));
        let said = self.say(connection, pipeline).await;
        let said = said.map_err(|error| StoreError::Unconfirmed(error.to_string()))?;
        if let Some(code) = said.first().and_then(code) {
            return Err(StoreError::Unconfirmed(format!("WAIT is refused: {code}")).into());
        }
        let why = match said.as_slice() {
            [Value::Int(taken)] if *taken >= i64::from(wanted) => return Ok(Acknowledged::default()),
            [Value::Int(_)] if connected == 0 => "no replica is connected".to_owned(),
            [Value::Int(taken)] => format!("{taken} of {wanted} replicas took it in time"),
            _ => return Err(odd().into()),
        };
        Err(StoreError::Unconfirmed(why).into())
    }

    /// Sends on a connection that may wait.
    async fn say(&self, connection: &mut MultiplexedConnection, pipeline: Pipeline) -> Result<Vec<Value>, StoreError> {
        let count = pipeline.len();
        match timeout(REPLICA + self.deadline, connection.send_packed_commands(&pipeline, 0, count)).await {
            Err(_) => Err(StoreError::TimedOut),
            Ok(Err(error)) => Err(StoreError::Refused(reason(&error))),
            Ok(Ok(replies)) => Ok(replies),
        }
    }

    async fn connect_apart(&self, url: &RedisUrl) -> Result<MultiplexedConnection, StoreError> {
        let info = url.primary().await.map_err(|_| StoreError::Away)?;
        let client = Client::open(info).map_err(|error| StoreError::Refused(reason(&error)))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.deadline.max(Duration::from_millis(500))))
            .set_response_timeout(None);
        let opened = client.get_multiplexed_async_connection_with_config(&config).await;
        opened.map_err(|_| StoreError::Away)
    }
}

fn odd() -> StoreError {
    StoreError::Unconfirmed("an odd answer".to_owned())
}

/// How many replicas are connected, from the answer of a primary to `ROLE`.
fn replicas(role: &Value) -> Option<u32> {
    let Value::Array(parts) = role else { return None };
    let [Value::BulkString(name), _, Value::Array(replicas)] = parts.as_slice() else { return None };
    if name == b"master" { u32::try_from(replicas.len()).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_was_connected_is_waited_for_a_while() {
        let (replication, now) = (Replication::default(), clock::monotonic());
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        let wanted = |connected, now| replication.wanted("a", connected, now, |_| true);
        assert_eq!(wanted(0, now), 1);
        assert_eq!(wanted(2, after(1)), 2);
        assert_eq!(wanted(1, after(2)), 2);
        assert_eq!(wanted(1, after(12)), 1, "long gone");
        assert_eq!((wanted(3, after(13)), wanted(0, after(14))), (3, 3));
        // Another shard has what it has.
        assert_eq!(replication.wanted("other", 1, after(14), |_| true), 1);
        // What has taken over from `a` needs what `a` had; and so does `a` when it comes back, late.
        assert_eq!(replication.wanted("b", 0, after(15), |place| place != "a"), 3);
        assert_eq!(replication.wanted("b", 2, after(30), |place| place != "a"), 2);
        assert_eq!(replication.wanted("a", 1, after(31), |place| place != "b"), 2);
        assert_eq!(replication.wanted("a", 1, after(60), |place| place != "b"), 1);
    }
}
