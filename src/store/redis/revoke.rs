//! Writes a revocation and waits for what was asked for: the primary, a replica, every gateway.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, Value};
use tokio::time::timeout;

use super::{Link, code, lease, reason};
use crate::clock;
use crate::store::{Ack, Acknowledged, Mark, StoreError};

/// SECURITY: a plain `SET` would shorten a ban that a service wrote without an end, or put a later
/// logout time back, and so revive tokens. A value of another type than text is replaced where a time
/// is needed: it could not be read anyway. Needs Redis 6.2 (`PXAT`).
///
/// Where replicas are waited for it writes in any case: `WAIT` counts from this connection's own last
/// write, and what is there already may not be everywhere yet. A ban without an end gets one for a
/// moment, by the clock of the store: one that has passed would delete it.
const STRENGTHEN: &str = r"
local key, value, at, kind, touch = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == 'touch'
local there = redis.call('TYPE', key).ok
if there == 'none' or (kind == 'not-before' and there ~= 'string') then
  redis.call('SET', key, value, 'PXAT', ARGV[2])
  return 1
end
if kind == 'not-before' then
  local old = tonumber(redis.call('GET', key))
  if old == nil or old < tonumber(value) then redis.call('SET', key, value, 'KEEPTTL') end
end
local left = redis.call('PTTL', key)
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.ceil(time[2] / 1000) + left
if left >= 0 and ends < at then
  redis.call('PEXPIREAT', key, ARGV[2])
elseif left >= 0 and touch then
  redis.call('PEXPIREAT', key, string.format('%.0f', ends))
elseif touch then
  redis.call('PEXPIRE', key, 86400000)
  redis.call('PERSIST', key)
end
return 1";

/// How long a replica that was connected is waited for: after a failover the others come back to the
/// new primary one by one, and the next failover may choose any of them.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Longest wait for a replica.
const REPLICA: Duration = Duration::from_secs(1);
/// First and longest pause between two looks at the leases.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// Longest wait for leases: `max_staleness` is at most 60 s, and each of them says so or runs out.
const LEASES: Duration = Duration::from_secs(75);

/// Where writes wait for replicas.
#[derive(Default)]
pub(super) struct Replicated {
    connection: Option<MultiplexedConnection>,
    /// How many were connected at the best, and when that was seen.
    most: Option<(u32, Instant)>,
}

impl Replicated {
    /// How many have to have a write, where this many are connected now.
    fn wanted(&mut self, connected: u32, now: Instant) -> u32 {
        let kept = self.most.filter(|(_, seen)| now.saturating_duration_since(*seen) < REMEMBERED);
        let most = kept.filter(|(most, _)| *most > connected).unwrap_or((connected, now));
        self.most = Some(most);
        most.0.max(1)
    }
}

impl Link {
    /// Writes a mark, or strengthens the one that is there, in one step.
    pub(in crate::store) async fn mark(&self, key: &str, mark: Mark, expires_at: u64) -> Result<(), StoreError> {
        self.command(strengthen(key, mark, expires_at, false)).await.map(drop)
    }

    /// The same, and waits until what `ack` asks for is true.
    pub(in crate::store) async fn revoke(
        &self,
        key: &str,
        mark: Mark,
        expires_at: u64,
        ack: Ack,
    ) -> Result<Acknowledged, StoreError> {
        match ack {
            Ack::Primary => {
                self.mark(key, mark, expires_at).await?;
                Ok(Acknowledged::default())
            }
            Ack::Replica => self.replicated(strengthen(key, mark, expires_at, true)).await,
            Ack::All => {
                self.mark(key, mark, expires_at).await?;
                self.applied().await
            }
        }
    }

    /// Waits until every gateway with a live lease has applied what was written before.
    async fn applied(&self) -> Result<Acknowledged, StoreError> {
        let odd = || StoreError::Unconfirmed("an odd answer".to_owned());
        let unconfirmed = |error: StoreError| StoreError::Unconfirmed(error.to_string());
        let moved = self.command(self.lease_keys.move_epoch()).await.map_err(unconfirmed)?;
        let epoch = lease::epoch(&moved).ok_or_else(odd)?;
        let (started, mut pause) = (clock::monotonic(), LOOK_AGAIN.0);
        let mut awaited = BTreeSet::new();
        loop {
            let live = self.command(self.lease_keys.live()).await.map_err(unconfirmed)?;
            let live = lease::leases(&live).ok_or_else(odd)?;
            let (confirmed, pending): (Vec<_>, Vec<_>) = live.into_iter().partition(|(_, applied)| *applied >= epoch);
            let confirmed: BTreeSet<String> = confirmed.into_iter().map(|(gateway, _)| gateway).collect();
            if pending.is_empty() {
                let outwaited = awaited.difference(&confirmed).cloned().collect();
                return Ok(Acknowledged { confirmed: confirmed.into_iter().collect(), outwaited });
            }
            awaited.extend(pending.into_iter().map(|(gateway, _)| gateway));
            if clock::monotonic().saturating_duration_since(started) > LEASES {
                let names = awaited.into_iter().collect::<Vec<_>>().join(", ");
                return Err(StoreError::Unconfirmed(format!("not by {names}")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// Writes on a connection that waits for replicas: `WAIT` holds up what comes behind it. Waits for
    /// all that are connected, or were a moment ago: any of them may be the one that takes over.
    async fn replicated(&self, write: Cmd) -> Result<Acknowledged, StoreError> {
        let mut kept = self.replicated.lock().await;
        let mut connection = match kept.connection.take() {
            Some(connection) => connection,
            None => self.connect_apart().await?,
        };
        let mut pipeline = Pipeline::new();
        pipeline.add_command(write).add_command(::redis::cmd("ROLE"));
        let said = self.say(&mut connection, pipeline, 2).await?;
        if let Some(code) = said.first().and_then(code) {
            // It may be a replica by now: the next one asks anew where the primary is.
            return Err(StoreError::Refused(code));
        }
        let odd = || StoreError::Unconfirmed("an odd answer".to_owned());
        if let Some(code) = said.get(1).and_then(code) {
            return Err(StoreError::Unconfirmed(format!("ROLE is refused: {code}")));
        }
        let connected = said.get(1).and_then(replicas).ok_or_else(odd)?;
        let wanted = kept.wanted(connected, clock::monotonic());
        let mut pipeline = Pipeline::new();
        pipeline.cmd("WAIT").arg(wanted).arg(u64::try_from(REPLICA.as_millis()).unwrap_or(1000));
        let said = self.say(&mut connection, pipeline, 1).await;
        let said = said.map_err(|error| StoreError::Unconfirmed(error.to_string()))?;
        if let Some(code) = said.first().and_then(code) {
            return Err(StoreError::Unconfirmed(format!("WAIT is refused: {code}")));
        }
        kept.connection = Some(connection);
        match said.as_slice() {
            [Value::Int(taken)] if *taken >= i64::from(wanted) => Ok(Acknowledged::default()),
            [Value::Int(_)] if connected == 0 => Err(StoreError::Unconfirmed("no replica is connected".to_owned())),
            [Value::Int(taken)] => {
                Err(StoreError::Unconfirmed(format!("{taken} of {wanted} replicas took it in time")))
            }
            _ => Err(odd()),
        }
    }

    /// Sends on a connection that may wait.
    async fn say(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: Pipeline,
        count: usize,
    ) -> Result<Vec<Value>, StoreError> {
        match timeout(REPLICA + self.deadline, connection.send_packed_commands(&pipeline, 0, count)).await {
            Err(_) => Err(StoreError::TimedOut),
            Ok(Err(error)) => Err(StoreError::Refused(reason(&error))),
            Ok(Ok(replies)) => Ok(replies),
        }
    }

    async fn connect_apart(&self) -> Result<MultiplexedConnection, StoreError> {
        let info = self.url.primary().await.map_err(|_| StoreError::Away)?;
        let client = Client::open(info).map_err(|error| StoreError::Refused(reason(&error)))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.deadline.max(Duration::from_millis(500))))
            .set_response_timeout(None);
        let opened = client.get_multiplexed_async_connection_with_config(&config).await;
        opened.map_err(|_| StoreError::Away)
    }
}

/// How many replicas are connected, from the answer of a primary to `ROLE`.
fn replicas(role: &Value) -> Option<u32> {
    let Value::Array(parts) = role else { return None };
    let [Value::BulkString(name), _, Value::Array(replicas)] = parts.as_slice() else { return None };
    if name == b"master" { u32::try_from(replicas.len()).ok() } else { None }
}

fn strengthen(key: &str, mark: Mark, expires_at: u64, touch: bool) -> Cmd {
    let kind = match mark {
        Mark::Presence => "presence",
        Mark::NotBefore(_) => "not-before",
    };
    let mut command = ::redis::cmd("EVAL");
    command.arg(STRENGTHEN).arg(1).arg(key).arg(mark.value()).arg(expires_at).arg(kind);
    command.arg(if touch { "touch" } else { "" });
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_was_connected_is_waited_for_a_while() {
        let (mut replicated, now) = (Replicated::default(), clock::monotonic());
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        assert_eq!(replicated.wanted(0, now), 1);
        assert_eq!(replicated.wanted(2, after(1)), 2);
        assert_eq!(replicated.wanted(1, after(2)), 2);
        assert_eq!(replicated.wanted(1, after(12)), 1, "long gone");
        assert_eq!((replicated.wanted(3, after(13)), replicated.wanted(0, after(14))), (3, 3));
    }
}
