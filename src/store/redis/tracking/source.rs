//! One primary that tells: the way to what one tracking connection has said.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ::redis::ConnectionInfo;
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::super::node::Node;
use super::super::{Lease, RedisUrl};
use super::generation::Generation;
use super::group::Group;
use super::tracked::{Tracked, Verdict};
use super::tracker::Tracker;
use crate::clock;
use crate::store::{Slot, Standing, StandingKeys};

/// Look-ups that may wait; one more is `Unknown`.
pub(super) const QUEUE: usize = 65_536;
/// How often a look-up that a change overtook is repeated for one request.
const TRIES: usize = 2;

/// The way to one primary; shared by all workers.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) shared: Arc<Shared>,
    asks: mpsc::Sender<Arc<Tracked>>,
}

/// What the tracker and the users of a source share.
pub(super) struct Shared {
    pub(super) current: ArcSwapOption<Generation>,
    /// Where the last connection led.
    pub(super) place: ArcSwapOption<ConnectionInfo>,
    pub(super) broken: Notify,
    /// A proof came, or a connection ended.
    pub(super) proved: Notify,
    pub(super) limits: Limits,
    pub(super) share: Share,
    /// Somebody waits until this gateway says what it has applied.
    pub(super) is_awaited: Notify,
    pub(super) counted: Arc<Counted>,
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of a look-up.
    pub(super) deadline: Duration,
    /// Of what was said.
    pub(super) max_staleness: Duration,
}

/// How much of the store one primary is.
pub(super) enum Share {
    /// All; the lease is renewed with each proof.
    Whole(Option<Lease>),
    /// Some hash slots of a cluster, which has one lease for all its primaries; and which node has to be there.
    Part(Arc<Group>, String),
}

/// What has happened since the start.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) look_ups: AtomicU64,
    pub(super) invalidations: AtomicU64,
    pub(super) connections: AtomicU64,
}

impl Source {
    pub(super) fn new(
        url: RedisUrl,
        limits: Limits,
        probe: Arc<StandingKeys>,
        share: Share,
        counted: Arc<Counted>,
    ) -> (Self, Tracker) {
        let (asks, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            current: ArcSwapOption::empty(),
            place: ArcSwapOption::empty(),
            broken: Notify::new(),
            proved: Notify::new(),
            limits,
            share,
            is_awaited: Notify::new(),
            counted,
        });
        (Self { shared: Arc::clone(&shared), asks }, Tracker::new(url, probe, inbox, shared))
    }

    /// What is known of a token without asking.
    pub(super) fn known(&self, slot: &Slot, now: Instant) -> Option<Standing> {
        let tracked = slot.tracked.peek()?;
        match tracked.as_ref()?.judge(now, self.shared.limits.max_staleness) {
            Verdict::Known(standing) => Some(standing),
            Verdict::Ask | Verdict::Stale => None,
        }
    }

    /// The standing of a token; asks where it is not known, and says nothing where changes overtook
    /// every answer.
    pub(super) async fn ask(&self, keys: &StandingKeys, slot: &Slot) -> Option<Standing> {
        let limits = self.shared.limits;
        for is_last in (0..=TRIES).map(|tries| tries == TRIES) {
            let Some(tracked) = self.tracked(keys, slot) else { return Some(Standing::Unknown) };
            match tracked.judge(clock::monotonic(), limits.max_staleness) {
                Verdict::Known(standing) => return Some(standing),
                Verdict::Stale => return Some(Standing::Unknown),
                Verdict::Ask if is_last => break,
                // Of a slot that is on its way nothing is kept.
                Verdict::Ask if !tracked.is_settled() => break,
                Verdict::Ask => {}
            }
            let Some(done) = self.send(&tracked) else { return Some(Standing::Unknown) };
            if timeout(limits.deadline, done).await.is_err() {
                return Some(Standing::Unknown);
            }
        }
        None
    }

    /// Has a look-up sent that is waited for later, with `ask`.
    pub(super) fn start(&self, keys: &StandingKeys, slot: &Slot) {
        if let Some(tracked) = self.tracked(keys, slot)
            && tracked.judge(clock::monotonic(), self.shared.limits.max_staleness) == Verdict::Ask
        {
            let _later = self.send(&tracked);
        }
    }

    /// Sends a look-up, unless one is under way; nothing where there are too many.
    fn send(&self, tracked: &Arc<Tracked>) -> Option<oneshot::Receiver<()>> {
        let (done, is_first) = tracked.wait();
        if is_first && self.asks.try_send(Arc::clone(tracked)).is_err() {
            tracked.answered();
            return None;
        }
        Some(done)
    }

    /// The token's keys on the present connection.
    fn tracked(&self, keys: &StandingKeys, slot: &Slot) -> Option<Arc<Tracked>> {
        let current = self.shared.current.load_full()?;
        if keys.is_empty() {
            return None;
        }
        if let Some(tracked) = slot.tracked.get().filter(|tracked| Arc::ptr_eq(&tracked.generation, &current)) {
            return Some(tracked);
        }
        let tracked = Arc::new(current.track(keys));
        slot.tracked.set(Arc::clone(&tracked));
        Some(tracked)
    }

    /// Whether standings are known to be fresh now.
    pub(super) fn is_fresh(&self) -> bool {
        let current = self.shared.current.load();
        current.as_ref().is_some_and(|current| current.is_fresh(clock::monotonic(), self.shared.limits.max_staleness))
    }

    /// Whether `node` asks the one that tells.
    pub(super) fn is_at(&self, node: &Node) -> bool {
        self.shared.place.load().as_ref().is_some_and(|place| node.asks_at(place))
    }

    /// How old the last proof is; nothing without a connection.
    pub(super) fn age(&self) -> Option<Duration> {
        self.shared.current.load().as_ref().map(|current| current.age(clock::monotonic()))
    }

    /// Keys that are known or asked for.
    pub(super) fn len(&self) -> usize {
        self.shared.current.load().as_ref().map_or(0, |current| current.len())
    }

    /// Waits until a read that was sent at `moment` or later has been answered, or nothing that was
    /// said before counts any more.
    pub(super) async fn prove_since(&self, moment: Instant) {
        loop {
            let told = self.shared.proved.notified();
            tokio::pin!(told);
            // Before the look: what is told in between is not missed.
            told.as_mut().enable();
            match &*self.shared.current.load() {
                Some(current) if current.is_alive() && current.proved_at() < moment => {}
                Some(_) | None => return,
            }
            self.shared.is_awaited.notify_one();
            told.await;
        }
    }
}

impl Shared {
    /// The key whose change means that somebody waits for this gateway.
    pub(super) fn epoch_key(&self) -> Option<&str> {
        match &self.share {
            Share::Whole(lease) => lease.as_ref().map(Lease::epoch_key),
            Share::Part(group, _) => group.epoch_key(),
        }
    }

    /// Has the lease renewed at once.
    pub(super) fn hurry(&self) {
        match &self.share {
            Share::Whole(_) => self.is_awaited.notify_one(),
            Share::Part(group, _) => group.is_awaited.notify_one(),
        }
    }

    /// Voids what was said for good.
    pub(super) fn end(&self) {
        if let Some(current) = self.current.swap(None) {
            current.end();
        }
        self.proved.notify_waiters();
    }
}
