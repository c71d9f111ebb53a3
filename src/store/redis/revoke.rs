//! Writes a revocation and waits for what was asked for: the primary, its replicas (`replication`),
//! every gateway.

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::{Cmd, Value};

use super::cluster::Fleet;
use super::{Link, Way, lease};
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

/// First and longest pause between two looks at the leases.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How often one revocation is written to a cluster whose slots go elsewhere meanwhile.
const WRITES: usize = 5;
/// Longest wait for leases: `max_staleness` is at most 60 s, and each of them says so or runs out.
const LEASES: Duration = Duration::from_secs(75);

impl Link {
    /// Writes a mark, or strengthens the one that is there, in one step.
    pub(in crate::store) async fn mark(&self, key: &str, mark: Mark, expires_at: u64) -> Result<(), StoreError> {
        self.command(key, strengthen(key, mark, expires_at, false)).await.map(drop)
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
            Ack::Replica => self.replicated(key, strengthen(key, mark, expires_at, true)).await,
            Ack::All => match &self.way {
                Way::One(_) => self.revoke_here(key, (mark, expires_at)).await,
                Way::Many(fleet) => self.revoke_in(fleet, key, (mark, expires_at)).await,
            },
        }
    }

    /// The same at the one primary. Behind Sentinels another one may have taken its place that never had the mark, before every
    /// gateway has said that it applied what it was told: then it is written again.
    async fn revoke_here(&self, key: &str, (mark, expires_at): (Mark, u64)) -> Result<Acknowledged, StoreError> {
        for _ in 0..WRITES {
            self.mark(key, mark, expires_at).await?;
            let acknowledged = self.applied().await?;
            if self.says(key, mark).await? || expires_at <= clock::unix_millis(clock::wall()) {
                return Ok(acknowledged);
            }
        }
        Err(StoreError::Unconfirmed("the store loses what it is told".to_owned()))
    }

    /// Whether a key says what a mark says.
    async fn says(&self, key: &str, mark: Mark) -> Result<bool, StoreError> {
        let mut look = ::redis::cmd(match mark {
            Mark::Presence => "EXISTS",
            Mark::NotBefore(_) => "GET",
        });
        look.arg(key);
        let said = self.command(key, look).await.map_err(|error| StoreError::Unconfirmed(error.to_string()))?;
        Ok(match mark {
            Mark::Presence => matches!(said, Value::Int(1)),
            Mark::NotBefore(_) => matches!(said, Value::BulkString(said)
                if std::str::from_utf8(&said).is_ok_and(|said| mark.is_said_by(said))),
        })
    }

    /// The same in a cluster. A slot may get another primary, one that has not heard of what was written a moment ago, before
    /// every gateway has said that it applied what it was told: then it has been told nothing, and it is written again.
    async fn revoke_in(
        &self,
        fleet: &Fleet,
        key: &str,
        (mark, expires_at): (Mark, u64),
    ) -> Result<Acknowledged, StoreError> {
        for _ in 0..WRITES {
            let before = fleet.owner_of(key);
            self.mark(key, mark, expires_at).await?;
            let acknowledged = self.applied().await?;
            let after = fleet.owner_since(key, clock::monotonic()).await;
            let after = after.ok_or_else(|| StoreError::Unconfirmed("nobody says who has its slot".to_owned()))?;
            if before.is_some_and(|before| before == after) {
                return Ok(acknowledged);
            }
        }
        Err(StoreError::Unconfirmed("its slot goes from primary to primary".to_owned()))
    }

    /// Waits until every gateway with a live lease has applied what was written before.
    pub(in crate::store) async fn applied(&self) -> Result<Acknowledged, StoreError> {
        let odd = || StoreError::Unconfirmed("an odd answer".to_owned());
        let unconfirmed = |error: StoreError| StoreError::Unconfirmed(error.to_string());
        let moved = self.command(&self.lease_keys.epoch, self.lease_keys.move_epoch()).await.map_err(unconfirmed)?;
        let epoch = lease::epoch(&moved).ok_or_else(odd)?;
        let (started, mut pause) = (clock::monotonic(), LOOK_AGAIN.0);
        let mut awaited = BTreeSet::new();
        loop {
            let live = self.command(&self.lease_keys.leases, self.lease_keys.live()).await.map_err(unconfirmed)?;
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
