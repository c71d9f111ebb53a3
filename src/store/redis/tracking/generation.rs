//! What one tracking connection has been told: the state of keys, and how fresh it is.
//!
//! 1. A connection lives as long as it proves itself; then everything that it said is void at once.
//! 2. A key is known from the reply to a read on that connection until Redis says that it changed.
//!    A reply that was overtaken by such a message is not kept: what was asked before the change is
//!    no answer after it.
//! 3. Freshness is looked at before the keys: a proof that is seen has every change before it applied.
//! 4. What is known is read again now and then, in turn: a store that changed without telling (`SWAPDB`,
//!    a proxy in between that lost its own connection) is found out.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::cluster::{Slots, slot_of};
use super::tracked::Tracked;
use crate::clock;
use crate::store::{Fingerprint, RecordForm, StandingKeys};

/// What is known of a key is one number: a time, or one of these.
pub(super) const UNKNOWN: i64 = i64::MIN;
pub(super) const ABSENT: i64 = i64::MIN + 1;
pub(super) const PRESENT: i64 = i64::MIN + 2;
pub(super) const UNREADABLE: i64 = i64::MIN + 3;

/// All that one connection has said.
pub(super) struct Generation {
    born: Instant,
    is_alive: AtomicBool,
    /// When the last read that was answered had been sent, in microseconds from `born`.
    proved: AtomicU64,
    /// Every change before this epoch is applied.
    epoch: AtomicU64,
    /// What Redis calls the connection; 0 before it said so.
    client: AtomicI64,
    keys: Mutex<Keys>,
}

/// How a key is read, and so what of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Whether it is there.
    Presence,
    /// The time that it holds.
    Time,
    /// All that it holds.
    Record(RecordForm),
}

/// Every key that a token needs. A name may stand for a presence and for a time: two keys, of which
/// each knows only what its own kind of read said.
#[derive(Default)]
struct Keys {
    present: HashMap<Arc<str>, Weak<Key>>,
    times: HashMap<Arc<str>, Weak<Key>>,
    texts: HashMap<Arc<str>, Weak<Key>>,
    hashes: HashMap<Arc<str>, Weak<Key>>,
    /// Of a cluster, the slots for which this primary can speak.
    settled: Option<Slots>,
    /// All of them, those first that were not read again for the longest time.
    round: VecDeque<Weak<Key>>,
}

/// What is known of one key; shared by every token that it concerns.
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) reading: Reading,
    pub(super) known: AtomicI64,
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
    Record(Fingerprint),
    Unreadable,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// It is what is known now.
    Kept,
    /// Redis has told of a change since the read was sent.
    Overtaken,
    /// It is not what is known, and Redis has told of no change.
    Untold,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generation {
    /// A connection that is about to be made to one that has all keys.
    pub(super) fn new() -> Arc<Self> {
        Self::of(Keys::default())
    }

    /// The same to one of a cluster, that has not said for which slots it can speak.
    pub(super) fn of_a_part() -> Arc<Self> {
        Self::of(Keys { settled: Some(Slots::new()), ..Keys::default() })
    }

    fn of(keys: Keys) -> Arc<Self> {
        Arc::new(Self {
            born: clock::monotonic(),
            is_alive: AtomicBool::new(true),
            proved: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            client: AtomicI64::new(0),
            keys: Mutex::new(keys),
        })
    }

    /// Voids everything. What tokens that are not used still hold of it is small.
    pub(super) fn end(&self) {
        self.is_alive.store(false, Ordering::Release);
        let keys = std::mem::take(&mut *lock(&self.keys));
        drop(keys);
    }

    /// Whether this is the client that it has been: a proxy may have connected anew behind us.
    pub(super) fn is_client(&self, id: i64) -> bool {
        let before = self.client.swap(id, Ordering::AcqRel);
        before == 0 || before == id
    }

    /// A read that was sent at `sent` has been answered.
    pub(super) fn prove(&self, sent: Instant) {
        let micros = u64::try_from(sent.saturating_duration_since(self.born).as_micros()).unwrap_or(0);
        self.proved.fetch_max(micros, Ordering::AcqRel);
    }

    /// The epoch up to which all is applied.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// An epoch was read on this connection: every change before it has been told before.
    pub(super) fn applied(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// When the last proof was sent; before the first, when the connection was begun.
    pub(super) fn proved_at(&self) -> Instant {
        self.born + Duration::from_micros(self.proved.load(Ordering::Acquire))
    }

    /// How long ago the last proof was sent.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.proved_at())
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

    /// Up to `count` keys whose turn it is to be read again.
    pub(super) fn next_round(&self, count: usize) -> Vec<Arc<Key>> {
        let mut keys = lock(&self.keys);
        let mut due = Vec::new();
        for _ in 0..count.min(keys.round.len()) {
            let Some(key) = keys.round.pop_front() else { break };
            if let Some(alive) = key.upgrade() {
                keys.round.push_back(key);
                due.push(alive);
            }
        }
        due
    }

    /// The keys of one token, shared with other tokens.
    pub(super) fn track(self: &Arc<Self>, keys: &StandingKeys) -> Tracked {
        let present = keys.present.iter().map(|name| self.key(name, Reading::Presence)).collect();
        let times = keys.times.iter().map(|name| self.key(name, Reading::Time)).collect();
        let record = keys.record.as_ref();
        let record = record.map(|key| (self.key(&key.name, Reading::Record(key.form)), key.fingerprint.number()));
        Tracked::new(Arc::clone(self), (present, times, record), keys.issued_at)
    }

    fn key(self: &Arc<Self>, name: &Arc<str>, reading: Reading) -> Arc<Key> {
        let mut keys = lock(&self.keys);
        if let Some(known) = keys.of(reading).get(name).and_then(Weak::upgrade) {
            return known;
        }
        let key = Arc::new(Key {
            name: Arc::clone(name),
            reading,
            known: AtomicI64::new(UNKNOWN),
            version: AtomicU64::new(0),
            generation: Arc::downgrade(self),
        });
        keys.of(reading).insert(Arc::clone(name), Arc::downgrade(&key));
        // Why not a record: all of it would be read, with a proof that must not be late.
        if !matches!(reading, Reading::Record(_)) {
            keys.round.push_back(Arc::downgrade(&key));
        }
        if keys.round.len() > 1024 + 2 * keys.len() {
            keys.round.retain(|key| key.strong_count() > 0);
        }
        key
    }

    /// Redis says that a key changed.
    pub(super) fn changed(&self, name: &str) {
        // Why first: a key that is dropped takes the lock.
        let found: [Option<Arc<Key>>; 4];
        let keys = lock(&self.keys);
        found = keys.all().map(|kind| kind.get(name).and_then(Weak::upgrade));
        found.iter().flatten().for_each(|key| key.forget());
        drop(keys);
    }

    /// Redis says that everything changed (`FLUSHALL`, or its table is full).
    pub(super) fn all_changed(&self) {
        let found: Vec<Arc<Key>>;
        let keys = lock(&self.keys);
        found = keys.all().into_iter().flat_map(HashMap::values).filter_map(Weak::upgrade).collect();
        for key in &found {
            key.forget();
        }
        drop(keys);
    }

    /// The primary says for which slots it can speak: what it said of keys in others is void. It is told
    /// of no write that another one takes.
    pub(super) fn settle(&self, settled: Slots) {
        let found: Vec<Arc<Key>>;
        let mut keys = lock(&self.keys);
        if keys.settled.as_ref() == Some(&settled) {
            return;
        }
        // By name first: a key that was upgraded in vain would be dropped under the lock.
        let all = keys.all().into_iter().flatten();
        let all = all.filter(|(name, _)| !settled.contains(slot_of(name)));
        found = all.filter_map(|(_, key)| key.upgrade()).collect();
        for key in &found {
            key.forget();
        }
        keys.settled = Some(settled);
        drop(keys);
    }

    /// Whether the primary can speak for a key.
    pub(super) fn is_settled(&self, name: &str) -> bool {
        lock(&self.keys).is_settled(name)
    }

    /// Whether it can speak for all of them.
    pub(super) fn are_settled<'k>(&self, mut asked: impl Iterator<Item = &'k Arc<Key>>) -> bool {
        let keys = lock(&self.keys);
        keys.settled.is_none() || asked.all(|key| keys.is_settled(&key.name))
    }

    /// Keeps what a read said, unless the key changed since `version`, or its slot does.
    pub(super) fn learn(&self, key: &Key, version: u64, found: Found) -> Learned {
        let keys = lock(&self.keys);
        if key.version.load(Ordering::Relaxed) != version || !keys.is_settled(&key.name) {
            return Learned::Overtaken;
        }
        let before = key.known.swap(found.word(), Ordering::AcqRel);
        // A key that is over leaves with the read that finds it so, and that reply comes before the message.
        if before == UNKNOWN || before == found.word() || found == Found::Absent {
            return Learned::Kept;
        }
        // Fields of a hash may end by themselves, and are not there any more before Redis says so.
        if matches!(key.reading, Reading::Record(_)) {
            return Learned::Kept;
        }
        Learned::Untold
    }

    /// What `learn` wants to know, taken before the read is sent.
    pub(super) fn version(&self, key: &Key) -> u64 {
        let _keys = lock(&self.keys);
        key.version.load(Ordering::Relaxed)
    }
}

impl Keys {
    const fn of(&mut self, reading: Reading) -> &mut HashMap<Arc<str>, Weak<Key>> {
        match reading {
            Reading::Presence => &mut self.present,
            Reading::Time => &mut self.times,
            Reading::Record(RecordForm::Text) => &mut self.texts,
            Reading::Record(RecordForm::Hash) => &mut self.hashes,
        }
    }

    const fn all(&self) -> [&HashMap<Arc<str>, Weak<Key>>; 4] {
        [&self.present, &self.times, &self.texts, &self.hashes]
    }

    fn len(&self) -> usize {
        self.all().into_iter().map(HashMap::len).sum()
    }

    fn is_settled(&self, name: &str) -> bool {
        self.settled.as_ref().is_none_or(|settled| settled.contains(slot_of(name)))
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
        let keys = keys.of(self.reading);
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
            Self::Record(fingerprint) => fingerprint.number(),
        }
    }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
