//! Leases: how a revoker learns that every gateway refuses (DESIGN §5, `--ack all`).
//!
//! 1. A revocation that wants to know moves the *epoch*, a key that every gateway tracks.
//! 2. A gateway that has read an epoch on its tracking connection has applied every change before
//!    it, and says so in its lease.
//! 3. A lease is renewed with each proof of freshness, and a proof counts only if its lease was taken.
//!    So a gateway that is cut off ends by its own clock before its lease does: what has no lease
//!    serves no protected route.
//! 4. A revoker waits until every live lease has said the epoch, or has run out.
//!
//! Trade-off: an epoch is never smaller than the store's clock in microseconds, so that a store that
//! was emptied does not begin again with numbers that gateways have said before.

use std::time::Duration;

use ::redis::{Cmd, Value, cmd};

use super::RedisUrl;

/// KEYS: epoch. Returns the new epoch as text.
const MOVE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local old = tonumber(redis.call('GET', KEYS[1])) or 0
local epoch = string.format('%.0f', math.max(old + 1, now))
redis.call('SET', KEYS[1], epoch)
return epoch";

/// KEYS: leases. ARGV: gateway, epoch, life in milliseconds.
const RENEW: &str = r"
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', ends))
return 1";

/// KEYS: leases. Returns gateway and epoch, in turn, of those that have not run out; those that have
/// for a minute leave.
const LIVE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, live = redis.call('HGETALL', KEYS[1]), {}
for at = 1, #all, 2 do
  local epoch, ends = string.match(all[at + 1], '^(%d+) (%d+)$')
  if epoch == nil or tonumber(ends) + 60000 < now then
    redis.call('HDEL', KEYS[1], all[at])
  elseif tonumber(ends) >= now then
    live[#live + 1] = all[at]
    live[#live + 1] = epoch
  end
end
return live";

/// The keys that leases need; shared by all gateways of one store.
#[derive(Clone, Debug)]
pub struct LeaseKeys {
    /// What moves with a revocation that waits.
    pub(super) epoch: String,
    /// A hash: gateway to epoch and end.
    pub(super) leases: String,
}

/// One gateway's lease.
#[derive(Clone, Debug)]
pub struct Lease {
    keys: LeaseKeys,
    gateway: String,
    life: Duration,
}

impl LeaseKeys {
    /// Keys that begin with `prefix`; of a cluster in one hash slot, whose tag the prefix is unless it
    /// has one.
    #[must_use]
    pub fn new(prefix: &str, url: &RedisUrl) -> Self {
        let is_tagged = url.seeds().is_none() || prefix.is_empty() || prefix.contains('{');
        let prefix = if is_tagged { prefix.to_owned() } else { format!("{{{prefix}}}") };
        Self { epoch: format!("{prefix}epoch"), leases: format!("{prefix}leases") }
    }

    /// Moves the epoch.
    pub(super) fn move_epoch(&self) -> Cmd {
        eval(MOVE, &self.epoch)
    }

    /// Takes a lease away.
    pub(super) fn leave(&self, gateway: &str) -> Cmd {
        let mut leave = cmd("HDEL");
        leave.arg(&self.leases).arg(gateway);
        leave
    }

    /// Asks for the leases that have not run out.
    pub(super) fn live(&self) -> Cmd {
        eval(LIVE, &self.leases)
    }
}

impl Lease {
    /// The lease of a gateway that serves for `max_staleness` after a proof.
    #[must_use]
    pub fn new(keys: LeaseKeys, gateway: String, max_staleness: Duration) -> Self {
        // Longer than the gateway itself goes on: its clock may be slower than the store's by a tenth.
        Self { keys, gateway, life: max_staleness.mul_f64(1.1) + Duration::from_millis(100) }
    }

    /// The key that is tracked.
    pub(super) fn epoch_key(&self) -> &str {
        &self.keys.epoch
    }

    /// The key of all leases.
    pub(super) fn leases_key(&self) -> &str {
        &self.keys.leases
    }

    /// Reads the epoch.
    pub(super) fn read_epoch(&self) -> Cmd {
        let mut get = cmd("GET");
        get.arg(&self.keys.epoch);
        get
    }

    /// Says that everything up to `epoch` is applied.
    pub(super) fn renew(&self, epoch: u64) -> Cmd {
        let mut renew = eval(RENEW, &self.keys.leases);
        renew.arg(&self.gateway).arg(epoch).arg(u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX));
        renew
    }
}

fn eval(script: &str, key: &str) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(script).arg(1).arg(key);
    eval
}

/// An epoch from its key or from [`LeaseKeys::move_epoch`]; 0 is none so far.
pub(super) fn epoch(reply: &Value) -> Option<u64> {
    if *reply == Value::Nil { Some(0) } else { text(reply)?.parse().ok() }
}

/// Gateways and their epochs, from [`LeaseKeys::live`].
pub(super) fn leases(reply: &Value) -> Option<Vec<(String, u64)>> {
    let Value::Array(parts) = reply else { return None };
    parts.chunks(2).map(|pair| Some((text(pair.first()?)?.to_owned(), text(pair.get(1)?)?.parse().ok()?))).collect()
}

fn text(value: &Value) -> Option<&str> {
    if let Value::BulkString(bytes) = value { std::str::from_utf8(bytes).ok() } else { None }
}
