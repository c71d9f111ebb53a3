//! The store inside this process: exact, immediate, forgotten when the process ends.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    Entry, KeyPattern, Mark, Page, Record, RecordForm, Standing, StandingKeys, judge_not_before, judge_text, page,
    read_record, strengthened,
};
use crate::clock::{self, steps::over_by};

/// Expired entries are looked for after this many writes.
const SWEEP_EVERY: usize = 1024;

/// Keys, values and ends of life behind one lock: reads share it, writes are rare.
#[derive(Debug, Default)]
pub struct Memory {
    entries: RwLock<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<String, Stored>,
    writes: usize,
}

#[derive(Debug)]
struct Stored {
    value: String,
    expires_at: u64,
}

impl Memory {
    /// What the entries say of a token.
    pub(super) fn standing(&self, keys: &StandingKeys) -> Standing {
        if keys.is_empty() {
            return Standing::Unknown;
        }
        let now = clock::unix_millis(clock::wall());
        let entries = self.read_lock();
        if keys.present.iter().any(|key| entries.live(key, now).is_some()) {
            return Standing::Revoked;
        }
        let times = keys.times.iter().filter_map(|key| entries.live(key, now));
        let judged = times.map(|stored| judge_not_before(&stored.value, keys.issued_at));
        let record = keys
            .record
            .as_ref()
            .map(|record| judge_text(record, entries.live(&record.name, now).map(|stored| &*stored.value)));
        judged.chain(record).fold(Standing::Clear, Standing::worse)
    }

    /// Reads the record of a session.
    pub(super) fn record(&self, key: &str, form: RecordForm) -> Option<Record> {
        let Entry { value, remaining } = self.read(key)?;
        Some(Record { value: read_record(&value, form)?, remaining })
    }

    /// Has an entry live for so many milliseconds from now on; whether it is there.
    pub(super) fn touch(&self, key: &str, life: u64) -> bool {
        let now = clock::unix_millis(clock::wall());
        let mut entries = self.write_lock();
        let there = entries.by_key.get_mut(key).filter(|stored| stored.expires_at > now);
        there.map(|stored| stored.expires_at = now.saturating_add(life)).is_some()
    }

    /// Writes an entry that lives for so many milliseconds from now on, whatever is there.
    pub(super) fn put(&self, key: &str, value: &str, life: u64) {
        let now = clock::unix_millis(clock::wall());
        self.write_lock().put(key, value.to_owned(), now.saturating_add(life));
    }

    /// Puts `new` in the place of `old`, to live for so many milliseconds from now on, if that is what is there
    /// and it is not later than `by`.
    pub(super) fn swap(&self, key: &str, (old, new): (&str, &str), life: u64, by: u64) -> bool {
        let now = clock::unix_millis(clock::wall());
        let mut entries = self.write_lock();
        let is_there = now <= by && entries.live(key, now).is_some_and(|stored| stored.value == old);
        if is_there {
            entries.put(key, new.to_owned(), now.saturating_add(life));
        }
        is_there
    }

    /// Takes an entry away; whether it was there.
    pub(super) fn remove(&self, key: &str) -> bool {
        let now = clock::unix_millis(clock::wall());
        self.write_lock().by_key.remove(key).is_some_and(|stored| stored.expires_at > now)
    }

    /// Writes one entry, or strengthens the one that is there.
    pub(super) fn mark(&self, key: &str, mark: Mark, expires_at: u64) {
        let now = clock::unix_millis(clock::wall());
        let mut entries = self.write_lock();
        let there = entries.live(key, now);
        let there = there.map(|stored| (&*stored.value, stored.expires_at));
        let (value, expires_at) = strengthened(there, mark, expires_at);
        entries.put(key, value, expires_at);
    }

    /// The keys that a pattern gives, after one of them, in order.
    pub(super) fn list(&self, pattern: &KeyPattern, after: &str) -> Page {
        let now = clock::unix_millis(clock::wall());
        let entries = self.read_lock();
        let live = entries.by_key.iter().filter(|(_, stored)| stored.expires_at > now).map(|(key, _)| key);
        let mut keys: Vec<String> = live.filter(|key| key.as_str() > after && pattern.gives(key)).cloned().collect();
        keys.sort_unstable();
        page(keys.into_iter())
    }

    /// Reads one entry.
    pub(super) fn read(&self, key: &str) -> Option<Entry> {
        let now = clock::unix_millis(clock::wall());
        self.read_lock()
            .live(key, now)
            .map(|stored| Entry { value: stored.value.clone(), remaining: Some(stored.expires_at.saturating_sub(now)) })
    }

    // Why: a panic while the lock is held cannot leave a half-made entry (each write is one
    // insert), so a poisoned lock is still whole.
    fn read_lock(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn put(&mut self, key: &str, value: String, expires_at: u64) {
        self.writes += 1;
        if self.writes.is_multiple_of(SWEEP_EVERY) {
            let over_by = over_by(clock::wall(), clock::monotonic());
            self.by_key.retain(|_, stored| stored.expires_at > over_by);
        }
        self.by_key.insert(key.to_owned(), Stored { value, expires_at });
    }

    fn live(&self, key: &str, now: u64) -> Option<&Stored> {
        self.by_key.get(key).filter(|stored| stored.expires_at > now)
    }
}
