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
//! 5. Of a cluster each primary has a connection of its own, and tells of its keys (`cluster`).

mod cluster;
mod generation;
mod group;
#[cfg(test)]
mod model;
mod reads;
mod source;
mod tracked;
mod tracker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use self::cluster::Split;
use self::cluster::{Parts, PartsTracker};
use self::source::{Counted, Limits, Share, Source};
pub use self::tracked::Tracked;
use super::node::Node;
use super::{Lease, Link, Way};
use crate::store::{Slot, Standing, StandingKeys};

/// The way to standings that are kept up to date; shared by all workers.
#[derive(Clone)]
pub struct Tracking {
    sources: Sources,
    counted: Arc<Counted>,
    /// Whether whoever revokes can wait for this gateway.
    is_leased: bool,
}

/// Who tells.
#[derive(Clone)]
enum Sources {
    One(Source),
    /// Each primary of a cluster, of its keys.
    Many(Parts),
}

/// Connects, asks and proves; run on the control runtime.
#[derive(Debug)]
pub struct Tracker(Tracks);

#[derive(Debug)]
enum Tracks {
    One(tracker::Tracker),
    Many(PartsTracker),
}

/// Numbers about the tracking connections.
#[derive(Clone, Copy, Debug)]
pub struct TrackingNumbers {
    /// How old the last proof is, of a cluster the oldest; `None` without a connection, or where one is
    /// missing.
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

impl Tracker {
    /// Keeps the connections until every user of them is gone.
    pub async fn run(self) {
        match self.0 {
            Tracks::One(tracker) => tracker.run().await,
            Tracks::Many(tracker) => tracker.run().await,
        }
    }
}

impl std::fmt::Debug for Tracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracking").field("numbers", &self.numbers()).finish()
    }
}

impl Tracking {
    /// The way to standings in the store of `link`, and what keeps them up to date. `probe` is what is
    /// read to prove freshness; the link's deadline bounds every look-up; `lease` is renewed with each
    /// proof.
    #[must_use]
    pub fn new(link: &Link, max_staleness: Duration, probe: StandingKeys, lease: Option<Lease>) -> (Self, Tracker) {
        let limits = Limits { deadline: reads::deadline(link.deadline, max_staleness), max_staleness };
        let (probe, counted, is_leased) = (Arc::new(probe), Arc::new(Counted::default()), lease.is_some());
        let (sources, tracks) = match &link.way {
            Way::One(_) => {
                let share = Share::Whole(lease);
                let (source, tracker) = Source::new(link.url.clone(), limits, probe, share, Arc::clone(&counted));
                (Sources::One(source), Tracks::One(tracker))
            }
            Way::Many(fleet) => {
                let (parts, tracker) = Parts::new(fleet.clone(), limits, probe, lease, Arc::clone(&counted));
                (Sources::Many(parts), Tracks::Many(tracker))
            }
        };
        (Self { sources, counted, is_leased }, Tracker(tracks))
    }

    /// The standing of a token at `now`; asks where it is not known. `None` where changes overtook
    /// every answer (keys that change all the time, or that Redis has no room to remember), or where a
    /// key is on its way between primaries: then only a look-up for this one request says what holds.
    pub async fn standing(&self, keys: &StandingKeys, slot: &Slot, now: Instant) -> Option<Standing> {
        match &self.sources {
            Sources::One(source) => match source.known(slot, now) {
                Some(standing) => Some(standing),
                None => source.ask(keys, slot).await,
            },
            Sources::Many(parts) => parts.standing(keys, slot, now).await,
        }
    }

    /// Whether standings are known to be fresh now; of a cluster, whether any are.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        match &self.sources {
            Sources::One(source) => source.is_fresh(),
            Sources::Many(parts) => parts.is_fresh(),
        }
    }

    /// Whether this gateway may let nobody in: its lease has run out, so that whoever revokes has not waited for it. It may
    /// be talking to a primary that another one has taken the place of.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.is_leased && !self.is_fresh()
    }

    /// Whether this gateway's lease is where `node` asks, as far as it has one.
    pub(super) fn is_at(&self, node: &Node) -> bool {
        match &self.sources {
            Sources::One(source) if self.is_leased => source.is_at(node),
            Sources::One(_) | Sources::Many(_) => true,
        }
    }

    /// Numbers for the metrics.
    #[must_use]
    pub fn numbers(&self) -> TrackingNumbers {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (staleness, keys) = match &self.sources {
            Sources::One(source) => (source.age(), source.len()),
            Sources::Many(parts) => (parts.age(), parts.len()),
        };
        TrackingNumbers {
            staleness,
            keys,
            look_ups: read(&self.counted.look_ups),
            invalidations: read(&self.counted.invalidations),
            connections: read(&self.counted.connections),
        }
    }
}
