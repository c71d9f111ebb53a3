//! How often somebody may: a limit on a route, by address before anybody is asked who calls, by subject or claim after it
//! was decided that they may.
//!
//! 1. A limit is a bucket that holds `burst` requests and gets one back each time that its share of the period has passed
//!    (GCRA): who has waited may do several at once, nobody more than the limit for long.
//! 2. Each process has buckets of its own. A limit that all gateways share is asked of the store as well, once ours
//!    allows it; while the store is silent, ours decides.
//! 3. What buckets are by is never kept: a keyed hash here, a digest in the store.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::unsync::Cache;

use crate::authenticate::Caller;
use crate::authenticate::claims::ClaimPath;
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::store::Asker;

/// Parts of the buckets, each with a lock of its own.
const SHARDS: usize = 16;
/// Most buckets in one part; one more pushes another one out.
const BUCKETS: usize = 8192;

/// A limit on one route.
#[derive(Debug)]
pub struct RateLimit {
    /// What there is a bucket for each of.
    pub key: RateKey,
    /// How often.
    pub rate: Rate,
    /// Where gateways share it: what the names of its keys begin with.
    pub shared: Option<String>,
    /// The buckets of this process.
    pub buckets: std::sync::Arc<Buckets>,
}

/// What there is a bucket for each of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address; of IPv6 the network of 64 bits, which one customer has.
    ClientIp,
    /// The caller's subject, of its issuer.
    Subject,
    /// A claim of the caller; who has none shares a bucket with all others that have none.
    Claim(ClaimPath),
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Microseconds after which a bucket has one request more.
    pub interval: u64,
    /// How many a bucket holds.
    pub burst: u64,
}

impl Rate {
    /// What a bucket is after one request at `now`, in microseconds; or how long it has to be waited for that.
    ///
    /// # Errors
    /// How many microseconds.
    pub fn take(self, bucket: u64, now: u64) -> Result<u64, u64> {
        let next = bucket.max(now).saturating_add(self.interval);
        let most = now.saturating_add(self.interval.saturating_mul(self.burst));
        if next > most { Err(next - most) } else { Ok(next) }
    }
}

/// Buckets: when each is full again, by the monotonic clock in microseconds. Those that are used stay; new ones push others
/// out.
pub struct Buckets {
    hasher: RandomState,
    shards: [Mutex<Cache<u64, u64>>; SHARDS],
}

impl std::fmt::Debug for Buckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::new(Cache::new(BUCKETS))) }
    }
}

impl Buckets {
    fn take(&self, value: &[u8], rate: Rate, now: u64) -> Result<(), u64> {
        let Some((name, mut buckets)) = self.shard(value) else { return Ok(()) };
        let next = rate.take(buckets.get(&name).copied().unwrap_or(0), now)?;
        buckets.insert(name, next);
        Ok(())
    }

    /// Gives back what was taken for a request that was refused all the same: it costs nothing here.
    fn give_back(&self, value: &[u8], rate: Rate) {
        let Some((name, mut buckets)) = self.shard(value) else { return };
        let before = buckets.get(&name).map(|next| next.saturating_sub(rate.interval));
        if let Some(before) = before {
            buckets.insert(name, before);
        }
    }

    fn shard(&self, value: &[u8]) -> Option<(u64, MutexGuard<'_, Cache<u64, u64>>)> {
        let name = self.hasher.hash_one(value);
        let place = usize::try_from(name % SHARDS as u64).unwrap_or(0);
        Some((name, self.shards.get(place)?.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl RateLimit {
    /// Whether this address may, where addresses are limited.
    ///
    /// # Errors
    /// `RateLimited`.
    pub async fn check_address(&self, address: IpAddr, now: Moment, store: &Asker) -> Result<(), Denial> {
        match (&self.key, address) {
            (RateKey::ClientIp, IpAddr::V4(address)) => self.check(&address.octets(), now, store).await,
            (RateKey::ClientIp, IpAddr::V6(address)) => {
                let network = address.octets();
                let (network, _host) = network.split_at(8);
                self.check(network, now, store).await
            }
            (RateKey::Subject | RateKey::Claim(_), _) => Ok(()),
        }
    }

    /// Whether this caller may, where callers are limited.
    ///
    /// # Errors
    /// `RateLimited`.
    pub async fn check_caller(&self, caller: &Caller, now: Moment, store: &Asker) -> Result<(), Denial> {
        match (&self.key, caller) {
            (RateKey::ClientIp, _) | (_, Caller::Anonymous) => Ok(()),
            // The same subject is somebody else's at another issuer.
            (RateKey::Subject, Caller::Known(identity)) => {
                let whose = format!("{}\0{}", identity.issuer(), identity.subject());
                self.check(whose.as_bytes(), now, store).await
            }
            (RateKey::Claim(path), Caller::Known(identity)) => {
                let claim = identity.claims().at(path).map(ToString::to_string).unwrap_or_default();
                self.check(claim.as_bytes(), now, store).await
            }
        }
    }

    async fn check(&self, value: &[u8], now: Moment, store: &Asker) -> Result<(), Denial> {
        self.buckets.take(value, self.rate, clock::millis(now.monotonic).saturating_mul(1000)).map_err(limited)?;
        let Some(prefix) = &self.shared else { return Ok(()) };
        let key = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, value)));
        match store.take(&key, self.rate.interval, self.rate.burst).await {
            Ok(0) => Ok(()),
            Ok(wait) => {
                // Else who comes back in time would come too early here.
                self.buckets.give_back(value, self.rate);
                Err(limited(wait))
            }
            Err(error) => {
                tracing::debug!(%error, "a limit that gateways share is this one's alone for now");
                Ok(())
            }
        }
    }
}

/// So many microseconds too early.
fn limited(wait: u64) -> Denial {
    Denial::RateLimited(u32::try_from(wait.div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_bucket_gives_what_it_holds_at_once_and_then_one_by_one() {
        let (buckets, rate) = (Buckets::default(), Rate { interval: 12 * SECOND, burst: 5 });
        let now = 1000 * SECOND;
        for _ in 0..5 {
            assert_eq!(buckets.take(b"kim", rate, now), Ok(()));
        }
        assert_eq!(buckets.take(b"kim", rate, now), Err(12 * SECOND));
        assert_eq!(buckets.take(b"kim", rate, now + SECOND), Err(11 * SECOND));
        assert_eq!(buckets.take(b"lee", rate, now), Ok(()));
        assert_eq!(buckets.take(b"kim", rate, now + 12 * SECOND), Ok(()));
        assert_eq!(buckets.take(b"kim", rate, now + 12 * SECOND), Err(12 * SECOND));
    }

    /// Who was refused by the bucket that all share, and told when to come back, is not refused then by this one.
    #[test]
    fn a_request_that_is_given_back_has_cost_nothing() {
        let (buckets, rate) = (Buckets::default(), Rate { interval: 4 * SECOND, burst: 1 });
        let now = 1000 * SECOND;
        assert_eq!(buckets.take(b"kim", rate, now), Ok(()));
        buckets.give_back(b"kim", rate);
        assert_eq!(buckets.take(b"kim", rate, now + SECOND), Ok(()));
        assert_eq!(buckets.take(b"kim", rate, now + SECOND), Err(4 * SECOND));
        buckets.give_back(b"lee", rate);
        assert_eq!(buckets.take(b"lee", rate, now), Ok(()));
    }

    #[test]
    fn there_is_a_bounded_number_of_buckets() {
        let (buckets, rate) = (Buckets::default(), Rate { interval: SECOND, burst: 1 });
        for number in 0..(SHARDS * BUCKETS * 2) as u64 {
            assert_eq!(buckets.take(&number.to_be_bytes(), rate, 5), Ok(()));
        }
        let all: usize = buckets.shards.iter().map(|shard| shard.lock().map_or(0, |buckets| buckets.len())).sum();
        assert!(all <= SHARDS * BUCKETS);
    }

    proptest! {
        // In no stretch of time more than it holds and what came back meanwhile.
        #[test]
        fn nobody_gets_more_than_the_limit(gaps in prop::collection::vec(0_u64..3_000_000, 1..200), burst in 1_u64..10) {
            let rate = Rate { interval: SECOND, burst };
            let (mut bucket, mut now, mut taken) = (0, 7 * SECOND, Vec::new());
            for gap in gaps {
                now += gap;
                if let Ok(next) = rate.take(bucket, now) {
                    bucket = next;
                    taken.push(now);
                }
            }
            for (place, first) in taken.iter().enumerate() {
                for (count, last) in taken.iter().skip(place).enumerate() {
                    prop_assert!(count as u64 <= burst + (last - first) / SECOND);
                }
            }
        }
    }
}
