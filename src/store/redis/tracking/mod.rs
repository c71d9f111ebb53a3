//! Ask once, then be told: the standing of a token without a call to Redis per request (DESIGN §5).
//!
//! 1. A connection of its own, with `CLIENT TRACKING` (RESP3): Redis remembers what was read on it
//!    and says when one of those keys changes, whoever changes it.
//! 2. The first request with a token asks there; what was said is kept beside the verified token, so
//!    that later requests read a few numbers of this process.
//! 3. Freshness is proved: every quarter of `max_staleness` a read goes over the same connection. Its
//!    reply comes after every message about a write before it, so that nothing older is missing.
//!    Counted from when it was sent, by the monotonic clock.
//! 4. Silence, an error, a lost connection: everything is stale at once, and a standing `Unknown`.
//!    Nothing that an earlier connection said survives it.
//!
//! What it does not do: follow a failover, or several primaries.

mod generation;
#[cfg(test)]
mod model;
mod reads;
mod tracker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

pub use self::generation::Tracked;
use self::generation::{Generation, Verdict};
pub use self::tracker::Tracker;
use super::{Lease, RedisUrl};
use crate::clock;
use crate::store::{Slot, Standing, StandingKeys};

/// Look-ups that may wait; one more is `Unknown`.
const QUEUE: usize = 65_536;
/// How often a look-up that a change overtook is repeated for one request.
const TRIES: usize = 2;

/// The way to standings that are kept up to date; shared by all workers.
#[derive(Clone)]
pub struct Tracking {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Arc<Tracked>>,
}

struct Shared {
    current: ArcSwapOption<Generation>,
    broken: Notify,
    deadline: Duration,
    max_staleness: Duration,
    lease: Option<Lease>,
    /// Somebody waits until this gateway says what it has applied.
    is_awaited: Notify,
    counted: Counted,
}

/// What has happened since the start.
#[derive(Default)]
struct Counted {
    look_ups: AtomicU64,
    invalidations: AtomicU64,
    connections: AtomicU64,
}

/// Numbers about the tracking connection.
#[derive(Clone, Copy, Debug)]
pub struct TrackingNumbers {
    /// How old the last proof is; `None` without a connection.
    pub staleness: Option<Duration>,
    /// Keys that are known or asked for.
    pub keys: usize,
    /// Tokens that were looked up.
    pub look_ups: u64,
    /// Changes that Redis told of.
    pub invalidations: u64,
    /// Connections that were made.
    pub connections: u64,
}

impl std::fmt::Debug for Tracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracking").field("numbers", &self.numbers()).finish()
    }
}

impl Tracking {
    /// The way to standings, and what keeps them up to date. `probe` is what is read to prove
    /// freshness; `deadline` bounds every look-up; `lease` is renewed with each proof.
    #[must_use]
    pub fn new(
        url: RedisUrl,
        deadline: Duration,
        max_staleness: Duration,
        probe: StandingKeys,
        lease: Option<Lease>,
    ) -> (Self, Tracker) {
        let (asks, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            current: ArcSwapOption::empty(),
            broken: Notify::new(),
            deadline: reads::deadline(deadline, max_staleness),
            max_staleness,
            lease,
            is_awaited: Notify::new(),
            counted: Counted::default(),
        });
        (Self { shared: Arc::clone(&shared), asks }, Tracker::new(url, probe, inbox, shared))
    }

    /// The standing of a token at `now`; asks where it is not known. `None` where changes overtook
    /// every answer (keys that change all the time, or that Redis has no room to remember): then only
    /// a look-up for this one request says what holds.
    pub async fn standing(&self, keys: &StandingKeys, slot: &Slot, now: Instant) -> Option<Standing> {
        if let Some(tracked) = &*slot.tracked.load()
            && let Verdict::Known(standing) = tracked.judge(now, self.shared.max_staleness)
        {
            return Some(standing);
        }
        self.ask(keys, slot).await
    }

    async fn ask(&self, keys: &StandingKeys, slot: &Slot) -> Option<Standing> {
        for is_last in (0..=TRIES).map(|tries| tries == TRIES) {
            let Some(tracked) = self.tracked(keys, slot) else { return Some(Standing::Unknown) };
            match tracked.judge(clock::monotonic(), self.shared.max_staleness) {
                Verdict::Known(standing) => return Some(standing),
                Verdict::Stale => return Some(Standing::Unknown),
                Verdict::Ask if is_last => break,
                Verdict::Ask => {}
            }
            let (done, is_first) = tracked.wait();
            if is_first && self.asks.try_send(Arc::clone(&tracked)).is_err() {
                tracked.answered();
                return Some(Standing::Unknown);
            }
            if timeout(self.shared.deadline, done).await.is_err() {
                return Some(Standing::Unknown);
            }
        }
        None
    }

    /// The token's keys on the present connection.
    fn tracked(&self, keys: &StandingKeys, slot: &Slot) -> Option<Arc<Tracked>> {
        let current = self.shared.current.load_full()?;
        if keys.is_empty() {
            return None;
        }
        if let Some(tracked) = slot.tracked.load_full().filter(|tracked| Arc::ptr_eq(&tracked.generation, &current)) {
            return Some(tracked);
        }
        let tracked = Arc::new(current.track(keys));
        slot.tracked.store(Some(Arc::clone(&tracked)));
        Some(tracked)
    }

    /// Whether standings are known to be fresh now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        let current = self.shared.current.load();
        current.as_ref().is_some_and(|current| current.is_fresh(clock::monotonic(), self.shared.max_staleness))
    }

    /// Numbers for the metrics.
    #[must_use]
    pub fn numbers(&self) -> TrackingNumbers {
        let current = self.shared.current.load();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrackingNumbers {
            staleness: current.as_ref().map(|current| current.age(clock::monotonic())),
            keys: current.as_ref().map_or(0, |current| current.len()),
            look_ups: read(&self.shared.counted.look_ups),
            invalidations: read(&self.shared.counted.invalidations),
            connections: read(&self.shared.counted.connections),
        }
    }
}
