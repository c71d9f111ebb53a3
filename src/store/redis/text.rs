//! Texts of the gateway's own in Redis: sessions, logins that can be refreshed, buckets of limits.

use ::redis::Value;

use super::Link;
use crate::store::{StoreError, Timed};

/// SECURITY: in one step, so that of two gateways that turn the same login on only one does.
const SWAP: &str = r"
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[4]) then return redis.error_reply('LATE') end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// One request out of a bucket (see `rate`), by the store's clock; how many microseconds it comes too early.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local bucket = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
local most = now + interval * burst
-- More than it can be: the clock was put back.
if bucket > most then bucket = most - interval end
local next = math.max(bucket, now) + interval
if next > most then return string.format('%.0f', next - most) end
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000))
return '0'";

/// The time is the store's, which is the same for every gateway.
const TIME: &str = r"return redis.call('TIME')";
const TIMED: &str = r"return {redis.call('GET', KEYS[1]), redis.call('TIME')}";

impl Link {
    /// Writes a text that lives for so many milliseconds, whatever is there.
    pub(in crate::store) async fn put(&self, key: &str, value: &str, life: u64) -> Result<(), StoreError> {
        let mut set = ::redis::cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(life.max(1));
        self.command(key, set).await.map(drop)
    }

    /// Puts the second in the place of the first, if that is what is there and it is not later than `by`.
    pub(in crate::store) async fn swap(
        &self,
        key: &str,
        (old, new): (&str, &str),
        life: u64,
        by: u64,
    ) -> Result<bool, StoreError> {
        let mut eval = ::redis::cmd("EVAL");
        eval.arg(SWAP).arg(1).arg(key).arg(old).arg(new).arg(life.max(1)).arg(by);
        Ok(self.command(key, eval).await? == Value::Int(1))
    }

    /// Takes a key away; whether it was there.
    pub(in crate::store) async fn remove(&self, key: &str) -> Result<bool, StoreError> {
        let mut del = ::redis::cmd("DEL");
        del.arg(key);
        Ok(self.command(key, del).await? == Value::Int(1))
    }

    /// Takes one request out of a bucket; how many microseconds it comes too early.
    pub(in crate::store) async fn take(&self, key: &str, interval: u64, burst: u64) -> Result<u64, StoreError> {
        let mut eval = ::redis::cmd("EVAL");
        eval.arg(TAKE).arg(1).arg(key).arg(interval).arg(burst);
        let said = self.command(key, eval).await?;
        let said: String =
            ::redis::from_redis_value(said).map_err(|_| StoreError::Refused("an odd answer".to_owned()))?;
        said.parse().map_err(|_| StoreError::Refused("an odd answer".to_owned()))
    }

    /// What time it is where a key is, in unix milliseconds.
    pub(in crate::store) async fn time(&self, key: &str) -> Result<u64, StoreError> {
        // Not `TIME`, which says nothing of where the key is.
        let mut eval = ::redis::cmd("EVAL");
        eval.arg(TIME).arg(1).arg(key);
        let odd = || StoreError::Refused("an odd answer".to_owned());
        let (seconds, micros) = ::redis::from_redis_value(self.command(key, eval).await?).map_err(|_| odd())?;
        Ok(millis(seconds, micros))
    }

    /// Reads a text, and what time it is there.
    pub(in crate::store) async fn timed(&self, key: &str) -> Result<Timed, StoreError> {
        let mut eval = ::redis::cmd("EVAL");
        eval.arg(TIMED).arg(1).arg(key);
        let said = self.command(key, eval).await?;
        let odd = || StoreError::Refused("an odd answer".to_owned());
        let (text, (seconds, micros)): (Option<String>, (u64, u64)) =
            ::redis::from_redis_value(said).map_err(|_| odd())?;
        Ok(Timed { text, now: millis(seconds, micros) })
    }
}

/// What `TIME` says, in milliseconds.
const fn millis(seconds: u64, micros: u64) -> u64 {
    seconds.saturating_mul(1000).saturating_add(micros / 1000)
}
