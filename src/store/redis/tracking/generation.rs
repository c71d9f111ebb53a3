//! What one tracking connection has been told: the state of keys, and how fresh it is.
//!
//! 1. A connection lives as long as it proves itself; then everything that it said is void at once.
//! 2. A key is known from the reply to a read on that connection until Redis says that it changed.
//!    A reply that was overtaken by such a message is not kept: what was asked before the change is
//!    no answer after it.
//! 3. Freshness is looked at before the keys: a proof that is seen has every change before it applied.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::clock;
use crate::store::{Standing, StandingKeys};

/// What is known of a key is one number: a time, or one of these.
const UNKNOWN: i64 = i64::MIN;
const ABSENT: i64 = i64::MIN + 1;
const PRESENT: i64 = i64::MIN + 2;
const UNREADABLE: i64 = i64::MIN + 3;

/// All that one connection has said.
pub(super) struct Generation {
    born: Instant,
    is_alive: AtomicBool,
    /// When the last read that was answered had been sent, in microseconds from `born`.
    proved: AtomicU64,
    keys: Mutex<HashMap<Arc<str>, Weak<Key>>>,
}

/// What is known of one key; shared by every token that it concerns.
pub(super) struct Key {
    pub(super) name: Arc<str>,
    known: AtomicI64,
    /// Counts what Redis said of changes; read and written under the lock of `Generation::keys`.
    version: AtomicU64,
    generation: Weak<Generation>,
}

/// What a read said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Present,
    Time(i64),
    Unreadable,
}

/// The keys of one token on one connection.
pub struct Tracked {
    pub(super) generation: Arc<Generation>,
    /// Keys whose presence kills the token.
    pub(super) present: SmallVec<[Arc<Key>; 2]>,
    /// Keys whose time kills it, where its `iat` is at or before that.
    pub(super) times: SmallVec<[Arc<Key>; 1]>,
    issued_at: i64,
    /// Who waits for the look-up that is under way.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

/// What can be said of a token without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Known(Standing),
    /// Some key has to be asked for.
    Ask,
    /// The connection has not proved itself for too long, or is gone.
    Stale,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generation {
    /// A connection that is about to be made.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            born: clock::monotonic(),
            is_alive: AtomicBool::new(true),
            proved: AtomicU64::new(0),
            keys: Mutex::default(),
        })
    }

    /// Voids everything.
    pub(super) fn end(&self) {
        self.is_alive.store(false, Ordering::Release);
    }

    /// A read that was sent at `sent` has been answered.
    pub(super) fn prove(&self, sent: Instant) {
        let micros = u64::try_from(sent.saturating_duration_since(self.born).as_micros()).unwrap_or(0);
        self.proved.fetch_max(micros, Ordering::AcqRel);
    }

    /// How long ago the last proof was sent.
    pub(super) fn age(&self, now: Instant) -> Duration {
        let proved = self.born + Duration::from_micros(self.proved.load(Ordering::Acquire));
        now.saturating_duration_since(proved)
    }

    /// Whether what it said still counts.
    pub(super) fn is_fresh(&self, now: Instant, max_staleness: Duration) -> bool {
        self.is_alive() && self.age(now) <= max_staleness
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Acquire)
    }

    /// How many keys are known or asked for.
    pub(super) fn len(&self) -> usize {
        lock(&self.keys).len()
    }

    /// The keys of one token, shared with other tokens.
    pub(super) fn track(self: &Arc<Self>, keys: &StandingKeys) -> Tracked {
        Tracked {
            generation: Arc::clone(self),
            present: keys.present.iter().map(|name| self.key(name)).collect(),
            times: keys.times.iter().map(|name| self.key(name)).collect(),
            issued_at: keys.issued_at,
            waiting: Mutex::default(),
        }
    }

    fn key(self: &Arc<Self>, name: &Arc<str>) -> Arc<Key> {
        let mut keys = lock(&self.keys);
        if let Some(known) = keys.get(name).and_then(Weak::upgrade) {
            return known;
        }
        let key = Arc::new(Key {
            name: Arc::clone(name),
            known: AtomicI64::new(UNKNOWN),
            version: AtomicU64::new(0),
            generation: Arc::downgrade(self),
        });
        keys.insert(Arc::clone(name), Arc::downgrade(&key));
        key
    }

    /// Redis says that a key changed.
    pub(super) fn changed(&self, name: &str) {
        let keys = lock(&self.keys);
        let key = keys.get(name).and_then(Weak::upgrade);
        if let Some(key) = &key {
            key.forget();
        }
        // Why: a key that is dropped takes the lock.
        drop(keys);
        drop(key);
    }

    /// Redis says that everything changed (`FLUSHALL`, or its table is full).
    pub(super) fn all_changed(&self) {
        let keys = lock(&self.keys);
        let all: Vec<Arc<Key>> = keys.values().filter_map(Weak::upgrade).collect();
        for key in &all {
            key.forget();
        }
        drop(keys);
        drop(all);
    }

    /// Keeps what a read said, unless the key changed since `version`.
    pub(super) fn learn(&self, key: &Key, version: u64, found: Found) {
        let _keys = lock(&self.keys);
        if key.version.load(Ordering::Relaxed) == version {
            key.known.store(found.word(), Ordering::Release);
        }
    }

    /// What `learn` wants to know, taken before the read is sent.
    pub(super) fn version(&self, key: &Key) -> u64 {
        let _keys = lock(&self.keys);
        key.version.load(Ordering::Relaxed)
    }
}

impl Key {
    /// Only under the lock.
    fn forget(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
        self.known.store(UNKNOWN, Ordering::Release);
    }

    /// Whether it has to be asked for.
    pub(super) fn is_unknown(&self) -> bool {
        self.known.load(Ordering::Acquire) == UNKNOWN
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let Some(generation) = self.generation.upgrade() else { return };
        let mut keys = lock(&generation.keys);
        // Another one of this name may have been made meanwhile.
        if keys.get(&self.name).is_some_and(|known| known.strong_count() == 0) {
            keys.remove(&self.name);
        }
    }
}

impl Found {
    const fn word(self) -> i64 {
        match self {
            Self::Absent => ABSENT,
            Self::Present => PRESENT,
            Self::Unreadable => UNREADABLE,
            Self::Time(time) if time <= UNREADABLE => UNREADABLE + 1,
            Self::Time(time) => time,
        }
    }
}

impl Tracked {
    /// What is known of the token at `now`.
    pub(super) fn judge(&self, now: Instant, max_staleness: Duration) -> Verdict {
        if !self.generation.is_fresh(now, max_staleness) {
            return Verdict::Stale;
        }
        let mut verdict = Verdict::Known(Standing::Clear);
        for key in &self.present {
            match key.known.load(Ordering::Acquire) {
                ABSENT => {}
                UNKNOWN => verdict = Verdict::Ask,
                _ => return Verdict::Known(Standing::Revoked),
            }
        }
        for key in &self.times {
            match key.known.load(Ordering::Acquire) {
                ABSENT => {}
                UNKNOWN => verdict = Verdict::Ask,
                UNREADABLE if verdict == Verdict::Known(Standing::Clear) => verdict = Verdict::Known(Standing::Unknown),
                PRESENT | UNREADABLE => {}
                time if self.issued_at <= time => return Verdict::Known(Standing::Revoked),
                _ => {}
            }
        }
        verdict
    }

    /// Every key of the token, and whether its time is what counts.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&Arc<Key>, bool)> {
        let times = self.times.iter().map(|key| (key, true));
        self.present.iter().map(|key| (key, false)).chain(times)
    }

    /// Waits for the look-up that is under way; `true` where there was none, and it has to be sent.
    pub(super) fn wait(&self) -> (oneshot::Receiver<()>, bool) {
        let (done, wait) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        waiting.push(done);
        (wait, waiting.len() == 1)
    }

    /// Tells everybody who waits that the look-up is over.
    pub(super) fn answered(&self) {
        for done in std::mem::take(&mut *lock(&self.waiting)) {
            // A caller that has gone away does not want the answer any more.
            let _gone = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(1);

    fn keys() -> StandingKeys {
        StandingKeys { present: vec!["blacklist:a".into()], times: vec!["logout:kim".into()], issued_at: 100 }
    }

    fn learn(generation: &Generation, key: &Key, found: Found) {
        generation.learn(key, generation.version(key), found);
    }

    #[test]
    fn a_token_is_known_when_all_its_keys_are_and_stale_with_its_connection() {
        let generation = Generation::new();
        let now = clock::monotonic();
        generation.prove(now);
        let tracked = generation.track(&keys());
        let (presence, time) = (&tracked.present[0], &tracked.times[0]);
        assert_eq!(tracked.judge(now, MAX), Verdict::Ask);
        learn(&generation, presence, Found::Absent);
        assert_eq!(tracked.judge(now, MAX), Verdict::Ask);
        for (found, standing) in [
            (Found::Absent, Standing::Clear),
            (Found::Time(99), Standing::Clear),
            (Found::Time(100), Standing::Revoked),
            (Found::Time(i64::MIN), Standing::Clear),
            (Found::Unreadable, Standing::Unknown),
        ] {
            learn(&generation, time, found);
            assert_eq!(tracked.judge(now, MAX), Verdict::Known(standing), "{found:?}");
        }
        // A key that kills is enough, whatever is not known of the other.
        learn(&generation, presence, Found::Present);
        assert_eq!(tracked.judge(now, MAX), Verdict::Known(Standing::Revoked));
        let late = now + Duration::from_millis(999);
        assert_eq!(tracked.judge(late, MAX), Verdict::Known(Standing::Revoked));
        assert_eq!(tracked.judge(now + MAX + Duration::from_millis(1), MAX), Verdict::Stale);
        generation.end();
        assert_eq!(tracked.judge(now, MAX), Verdict::Stale);
    }

    #[test]
    fn a_reply_that_a_change_overtook_is_not_kept() {
        let generation = Generation::new();
        let tracked = generation.track(&keys());
        let presence = &tracked.present[0];
        let asked_at = generation.version(presence);
        generation.changed("blacklist:a");
        generation.learn(presence, asked_at, Found::Absent);
        assert!(presence.is_unknown());
        let asked_at = generation.version(presence);
        generation.all_changed();
        generation.learn(presence, asked_at, Found::Absent);
        assert!(presence.is_unknown());
        learn(&generation, presence, Found::Absent);
        assert!(!presence.is_unknown());
        generation.changed("blacklist:b");
        assert!(!presence.is_unknown());
    }

    #[test]
    fn tokens_share_what_is_known_of_a_key_and_leave_nothing_behind() {
        let generation = Generation::new();
        let (one, two) = (generation.track(&keys()), generation.track(&keys()));
        learn(&generation, &one.present[0], Found::Present);
        assert!(!two.present[0].is_unknown());
        assert_eq!(generation.len(), 2);
        drop(one);
        assert_eq!(generation.len(), 2);
        drop(two);
        assert_eq!(generation.len(), 0);
    }
}
