//! Tracking of a cluster: each primary tells of its keys, on a connection of its own.
//!
//! 1. A token's keys are split by primary; it is clear only where all parts are.
//! 2. A primary's word counts for the slots that it has, and that are not on their way to another: with
//!    each proof it says which those are, and what was known of keys in others is forgotten. Such a key
//!    is asked for in a look-up of its own, which follows it (`Fleet`).
//! 3. When slots change hands, tokens are split anew; what is known of keys that stay is kept.
//! 4. A primary that has been replaced may not know it: nothing counts while the map of who has what is
//!    not fresh, nor before a map that is as fresh as `--ack all` needs has been acted upon.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::super::Lease;
use super::super::cluster::{Fleet, Map, Primary, Seen, Watched};
use super::group::Group;
use super::source::{Counted, Limits, Share, Source};
use crate::clock;
use crate::store::{Slot, Standing, StandingKeys};

/// The way to standings that the primaries of a cluster keep up to date.
#[derive(Clone)]
pub(super) struct Parts {
    routes: Arc<Routes>,
    group: Arc<Group>,
    max_staleness: Duration,
    /// Ends the tracker with the last user.
    _alive: mpsc::Sender<()>,
}

/// Who tells of what, now.
#[derive(Default)]
pub(super) struct Routes {
    current: ArcSwap<Routing>,
    /// Which map has been acted upon, and how fresh it is.
    seen: ArcSwap<Seen>,
    changed: Notify,
}

#[derive(Default)]
struct Routing {
    map: Arc<Map>,
    /// As the primaries of the map.
    sources: Vec<Source>,
}

/// A token's keys by primary.
pub struct Split {
    /// By which they were split; who holds on to it would hold on to its map.
    routing: Weak<Routing>,
    parts: SmallVec<[Part; 2]>,
}

/// Those at one primary.
struct Part {
    place: usize,
    keys: StandingKeys,
    slot: Slot,
}

impl Parts {
    /// The way, and what keeps it; `lease` is renewed as long as all that is said is applied.
    pub(super) fn new(
        fleet: Fleet,
        limits: Limits,
        probe: Arc<StandingKeys>,
        lease: Option<Lease>,
        counted: Arc<Counted>,
    ) -> (Self, PartsTracker) {
        let (alive, users) = mpsc::channel(1);
        let (routes, group) = (Arc::<Routes>::default(), Group::new(lease));
        let max_staleness = limits.max_staleness;
        let parts = Self { routes: Arc::clone(&routes), group: Arc::clone(&group), max_staleness, _alive: alive };
        let running = HashMap::new();
        (parts, PartsTracker { fleet, limits, probe, counted, routes, group, users, running })
    }

    /// The standing of a token at `now`; see `Tracking::standing`.
    pub(super) async fn standing(&self, keys: &StandingKeys, slot: &Slot, now: Instant) -> Option<Standing> {
        if !self.counts(now) {
            return Some(Standing::Unknown);
        }
        if let Some(split) = slot.split.peek()
            && let Some(split) = &*split
            && let routing = self.routes.current.load()
            && split.is_by(&routing)
            && let Some(standing) = split.known(&routing, now)
        {
            return Some(standing);
        }
        let asked = self.ask(keys, slot).await;
        // It may have taken a while.
        if self.counts(clock::monotonic()) { asked } else { Some(Standing::Unknown) }
    }

    async fn ask(&self, keys: &StandingKeys, slot: &Slot) -> Option<Standing> {
        let routing = self.routes.current.load_full();
        let kept = slot.split.get().filter(|split| split.is_by(&routing));
        let split = if let Some(split) = kept {
            split
        } else {
            let Some(split) = Split::new(keys, &routing).map(Arc::new) else { return Some(Standing::Unknown) };
            split.start(&routing);
            // The one before leaves only now: what both need stays known.
            slot.split.set(Arc::clone(&split));
            split
        };
        let asked = split.ask(&routing).await;
        // Slots that changed hands meanwhile may have been those of the token.
        if Arc::ptr_eq(&routing, &*self.routes.current.load()) { asked } else { None }
    }

    /// Whether what primaries say counts, as far as the map and the lease go.
    fn counts(&self, now: Instant) -> bool {
        self.routes.seen.load().is_fresh(now, self.max_staleness) && self.group.is_leased(now, self.max_staleness)
    }

    /// Whether any primary's word is fresh.
    pub(super) fn is_fresh(&self) -> bool {
        self.counts(clock::monotonic()) && self.routes.current.load().sources.iter().any(Source::is_fresh)
    }

    /// How old the oldest last proof is; nothing where a primary is not connected.
    pub(super) fn age(&self) -> Option<Duration> {
        let ages: Option<Vec<Duration>> = self.routes.current.load().sources.iter().map(Source::age).collect();
        ages?.into_iter().max()
    }

    /// Keys that are known or asked for.
    pub(super) fn len(&self) -> usize {
        self.routes.current.load().sources.iter().map(Source::len).sum()
    }
}

impl Routes {
    /// Waits until a map counts that was asked for at `moment` or later.
    async fn see_since(&self, moment: Instant) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look: what changes in between is not missed.
            changed.as_mut().enable();
            if self.seen.load().at.is_some_and(|at| at >= moment) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until all that was said before `moment` has been proved since, or does not count any more:
    /// by those that had the slots at that moment, or later. What is connected later than `moment` says
    /// nothing that is older.
    pub(super) async fn prove_since(&self, moment: Instant, watched: &Watched) {
        watched.hurry();
        self.see_since(moment).await;
        let routing = self.current.load_full();
        for source in &routing.sources {
            source.shared.is_awaited.notify_one();
        }
        for source in &routing.sources {
            source.prove_since(moment).await;
        }
    }
}

impl Split {
    /// Nothing where there is no key, or one that no primary has.
    fn new(keys: &StandingKeys, routing: &Arc<Routing>) -> Option<Self> {
        let mut parts: SmallVec<[Part; 2]> = SmallVec::new();
        for key in keys.each() {
            let name = key.names().next()?;
            let place = routing.map.place_of(name)?;
            if let Some(part) = parts.iter_mut().find(|part| part.place == place) {
                part.keys.present.extend(key.present);
                part.keys.times.extend(key.times);
                part.keys.record = part.keys.record.take().or(key.record);
            } else {
                parts.push(Part { place, keys: key, slot: Slot::default() });
            }
        }
        (!parts.is_empty()).then(|| Self { routing: Arc::downgrade(routing), parts })
    }

    fn is_by(&self, routing: &Arc<Routing>) -> bool {
        std::ptr::eq(self.routing.as_ptr(), Arc::as_ptr(routing))
    }

    fn known(&self, routing: &Routing, now: Instant) -> Option<Standing> {
        let known = |part: &Part| routing.sources.get(part.place)?.known(&part.slot, now);
        self.parts.iter().map(known).try_fold(Standing::Clear, |all, one| Some(all.worse(one?)))
    }

    /// Has all primaries asked, before the first of them is waited for.
    fn start(&self, routing: &Routing) {
        for part in &self.parts {
            if let Some(source) = routing.sources.get(part.place) {
                source.start(&part.keys, &part.slot);
            }
        }
    }

    async fn ask(&self, routing: &Routing) -> Option<Standing> {
        let mut all = Some(Standing::Clear);
        for part in &self.parts {
            let Some(source) = routing.sources.get(part.place) else { return Some(Standing::Unknown) };
            match source.ask(&part.keys, &part.slot).await {
                // Nothing that the others say makes it better.
                Some(Standing::Revoked) => return Some(Standing::Revoked),
                Some(standing) => all = all.map(|all| all.worse(standing)),
                None => all = None,
            }
        }
        // While one was waited for, another may have changed: all of them, at one moment.
        if all == Some(Standing::Clear) { self.known(routing, clock::monotonic()) } else { all }
    }
}

/// Has a source for each primary that the map names; run on the control runtime.
pub(super) struct PartsTracker {
    fleet: Fleet,
    limits: Limits,
    probe: Arc<StandingKeys>,
    counted: Arc<Counted>,
    routes: Arc<Routes>,
    group: Arc<Group>,
    users: mpsc::Receiver<()>,
    running: HashMap<Primary, (Source, AbortHandle)>,
}

impl std::fmt::Debug for PartsTracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartsTracker").finish_non_exhaustive()
    }
}

impl PartsTracker {
    /// Keeps the connections until every user of them is gone.
    pub(super) async fn run(mut self) {
        let mut watched = self.fleet.watched().clone();
        let mut keeping = JoinSet::new();
        loop {
            tokio::select! {
                next = watched.next() => match next {
                    Some(seen) => self.act_upon(seen),
                    None => break,
                },
                _ = self.users.recv() => break,
            }
            if keeping.is_empty() {
                keeping.spawn(Arc::clone(&self.group).keep(self.fleet.clone(), Arc::clone(&self.routes), self.limits));
            }
        }
        self.act_upon(Seen::default());
    }

    fn act_upon(&mut self, seen: Seen) {
        if !Arc::ptr_eq(&seen.map, &self.routes.seen.load().map) {
            self.route(Arc::clone(&seen.map));
        }
        // Only now: who waits for it relies on the routes.
        self.routes.seen.store(Arc::new(seen));
        self.routes.changed.notify_waiters();
    }

    /// New primaries get a source; what one that is none any more has said is void.
    fn route(&mut self, map: Arc<Map>) {
        let mut gone = std::mem::take(&mut self.running);
        let mut sources = Vec::with_capacity(map.primaries.len());
        let mut new = Vec::new();
        for primary in &map.primaries {
            if let Some(kept) = gone.remove(primary) {
                sources.push(kept.0.clone());
                self.running.insert(primary.clone(), kept);
                continue;
            }
            let url = self.fleet.url_at(&primary.address);
            let share = Share::Part(Arc::clone(&self.group), primary.id.clone());
            let (probe, counted) = (Arc::clone(&self.probe), Arc::clone(&self.counted));
            let (source, tracker) = Source::new(url, self.limits, probe, share, counted);
            sources.push(source.clone());
            new.push((primary.clone(), source, tracker));
        }
        // Before the new ones connect: who has their proofs awaited sees them.
        self.routes.current.store(Arc::new(Routing { map, sources }));
        for (primary, source, tracker) in new {
            let running = tokio::spawn(tracker.run()).abort_handle();
            self.running.insert(primary, (source, running));
        }
        for (source, running) in gone.into_values() {
            running.abort();
            source.shared.end();
        }
    }
}
