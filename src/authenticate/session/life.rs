//! How long a session lives: until its record ends, and on from there whenever it is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{self, Moment};

/// How often a session that is used is written at the most, in milliseconds.
const TOUCH_EVERY: u64 = 60_000;

/// How long a session lives, as far as is known here.
#[derive(Debug)]
pub struct Life {
    key: Arc<str>,
    idle: Option<u64>,
    /// Until when, by the monotonic clock in milliseconds.
    until: AtomicU64,
    /// When it is written next, in the same way.
    due_at: AtomicU64,
}

impl Life {
    /// Of a session whose record lives so many milliseconds more, or for ever.
    pub(in crate::authenticate) fn new(key: Arc<str>, remaining: Option<u64>, idle: Option<u64>, now: Moment) -> Self {
        let now = clock::millis(now.monotonic);
        let until = remaining.map_or(u64::MAX, |left| now.saturating_add(left));
        // Of one that would live longer than it may idle, or for ever, it is written at once.
        let (until, due_at) = match idle {
            None => (until, 0),
            Some(idle) if until > now.saturating_add(idle) => (now.saturating_add(idle), 0),
            // It was written when it had all of its time.
            Some(idle) => (until, until.saturating_add(every(idle)).saturating_sub(idle)),
        };
        Self { key, idle, until: AtomicU64::new(until), due_at: AtomicU64::new(due_at) }
    }

    /// Whether it may have ended: somebody else may have let it live on.
    pub(in crate::authenticate) fn is_over(&self, now: Moment) -> bool {
        clock::millis(now.monotonic) >= self.until.load(Ordering::Relaxed)
    }

    /// Its key and for how long it is to live on, where it is time to write that; one request at a time is told.
    pub(in crate::authenticate) fn due(&self, now: Moment, expires_at: i64) -> Option<(&str, u64)> {
        let idle = self.idle?;
        let (now_millis, due_at) = (clock::millis(now.monotonic), self.due_at.load(Ordering::Relaxed));
        if now_millis < due_at {
            return None;
        }
        let next = now_millis.saturating_add(every(idle));
        let told = self.due_at.compare_exchange(due_at, next, Ordering::Relaxed, Ordering::Relaxed);
        let left = u64::try_from(expires_at.saturating_sub(now.unix)).unwrap_or(0).saturating_mul(1000);
        told.ok().map(|_| (&*self.key, idle.min(left).max(1)))
    }

    /// Its key.
    pub(in crate::authenticate) const fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// It lives so many milliseconds from `now` on.
    pub(in crate::authenticate) fn lives_on(&self, now: Moment, life: u64) {
        self.until.store(clock::millis(now.monotonic).saturating_add(life), Ordering::Relaxed);
    }
}

/// How often one that may idle for so long is written at the most.
fn every(idle: u64) -> u64 {
    TOUCH_EVERY.min(idle / 4)
}
