//! How a target is doing: what it has to do, what requests to it came to, what checks of it say.
//!
//! 1. Requests under way are counted over all workers, and bounded: past `max_requests` a target gets no
//!    more, so that a slow one holds up what it holds up and nothing else. Those whose clients are still sending
//!    are bounded by themselves, by the same number: with bodies that never end nobody keeps out those that have
//!    none.
//! 2. A target that gives no usable answer several times in a row is passed over for a while (*ejected*). Then
//!    one request tries it; the others go on passing it over until that one is answered. Each time it
//!    fails again the while is twice as long.
//! 3. Where checks are asked for they have the last word: what they call down gets no request at all.
//!
//! What a service answers, errors included, is its own affair: it has answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock;

/// How a target is doing.
#[derive(Debug, Default)]
pub struct Health {
    requests: AtomicU32,
    /// Of those, the ones whose clients are still sending.
    uploads: AtomicU32,
    /// Requests without a usable answer, since the last one that had one.
    failures: AtomicU32,
    /// Until when it is passed over, in milliseconds; 0 where it is not.
    ejected_until: AtomicU64,
    /// How often it was ejected, since the last answer.
    ejected: AtomicU32,
    ejections: AtomicU64,
    retries: AtomicU64,
    checked: AtomicU8,
}

/// What checks of a target say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Nothing, or not yet.
    Unknown,
    /// It is there.
    Up,
    /// It is not: it gets no request.
    Down,
}

/// Whether a target gets a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Open,
    /// One request may try it.
    Trial,
    /// It is passed over, unless there is no other.
    Ejected,
    /// It is down.
    Down,
}

/// When a target is passed over, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Ejection {
    /// After so many requests in a row without a usable answer.
    pub failures: u32,
    /// For how long at first.
    pub time: Duration,
    /// For how long at most.
    pub max_time: Duration,
}

/// A target's numbers, for the page of metrics.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Requests under way.
    pub requests: u32,
    /// How often it was ejected.
    pub ejections: u64,
    /// Requests that failed here and were sent to another target.
    pub retries: u64,
    /// What checks say.
    pub checked: Checked,
}

impl Health {
    /// Counts a request that begins, with a body or without; `None` where there are `most` already.
    #[must_use]
    pub fn begin(self: &Arc<Self>, most: u32, has_body: bool) -> Option<InFlight> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let uploads = if has_body {
            self.uploads.fetch_add(1, Ordering::Relaxed)
        } else if before < most {
            // Why not looked at: however many there are, there is room.
            0
        } else {
            self.uploads.load(Ordering::Relaxed)
        };
        // Dropped where it is one too many.
        let counted = InFlight { health: Arc::clone(self), is_uploading: has_body };
        let is_room = before.saturating_sub(uploads) < most && (!has_body || uploads < most);
        is_room.then_some(counted)
    }

    /// Requests under way, of all workers.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether it gets a request now.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if self.checked() == Checked::Down {
            return Standing::Down;
        }
        match self.ejected_until.load(Ordering::Relaxed) {
            0 => Standing::Open,
            until if until <= clock::millis(now) => Standing::Trial,
            _ => Standing::Ejected,
        }
    }

    /// Takes the one try that an ejected target has, where nobody else has. Until it is answered the target is passed
    /// over as before, and for longer.
    #[must_use]
    pub fn try_again(self: &Arc<Self>, ejection: Ejection, now: Instant) -> Option<Trial> {
        let (until, now_millis) = (self.ejected_until.load(Ordering::Relaxed), clock::millis(now));
        let next = clock::millis(now + self.time(ejection));
        let is_taken = until != 0
            && until <= now_millis
            && self.ejected_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_taken.then(|| {
            self.ejected.fetch_add(1, Ordering::Relaxed);
            Trial { health: Some(Arc::clone(self)), until: next }
        })
    }

    /// It gave a usable answer; whether it was passed over before.
    pub fn answered(&self) -> bool {
        // Why looked at first: nearly always there is nothing to take back, and nothing is written then.
        if self.failures.load(Ordering::Relaxed) == 0 && self.ejected_until.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.ejected.store(0, Ordering::Relaxed);
        self.ejected_until.swap(0, Ordering::Relaxed) != 0
    }

    /// It gave no usable answer; for how long it is passed over, where that begins with this one.
    pub fn failed(&self, ejection: Ejection, now: Instant) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < ejection.failures {
            return None;
        }
        let time = self.time(ejection);
        let until = clock::millis(now + time);
        // Where it is ejected already, the one try that failed has moved the time.
        self.ejected_until.compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.ejected.fetch_add(1, Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Some(time)
    }

    /// A request that failed here goes out again, to this target or to another.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// What checks say.
    #[must_use]
    pub fn checked(&self) -> Checked {
        match self.checked.load(Ordering::Relaxed) {
            1 => Checked::Up,
            2 => Checked::Down,
            _ => Checked::Unknown,
        }
    }

    /// Takes what checks say, or that nothing is checked any more; what they said before.
    pub fn check(&self, checked: Checked) -> Checked {
        let before = self.checked();
        let number = match checked {
            Checked::Unknown => 0,
            Checked::Up => 1,
            Checked::Down => 2,
        };
        self.checked.store(number, Ordering::Relaxed);
        before
    }

    /// Its numbers now.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        Numbers {
            requests: self.requests(),
            ejections: self.ejections.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            checked: self.checked(),
        }
    }

    /// For how long it is passed over the next time.
    fn time(&self, ejection: Ejection) -> Duration {
        let factor = 1_u32.checked_shl(self.ejected.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        ejection.time.saturating_mul(factor).min(ejection.max_time.max(ejection.time))
    }
}

/// The one try of an ejected target. Where it comes to nothing, because its client left, another one may try.
#[derive(Debug)]
pub struct Trial {
    health: Option<Arc<Health>>,
    /// Until when the target is passed over if this try fails.
    until: u64,
}

impl Trial {
    /// It was answered, or failed.
    pub fn settle(mut self) {
        self.health = None;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let Some(health) = &self.health else { return };
        let now = clock::millis(clock::monotonic());
        // Somebody else's answer may have come meanwhile: then there is nothing to take back.
        if health.ejected_until.compare_exchange(self.until, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let less = |ejected: u32| ejected.checked_sub(1);
            let _none = health.ejected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Counts a request for as long as it is under way.
#[derive(Debug)]
pub struct InFlight {
    health: Arc<Health>,
    is_uploading: bool,
}

impl InFlight {
    /// All of its body has come.
    pub fn uploaded(&mut self) {
        if std::mem::take(&mut self.is_uploading) {
            self.health.uploads.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.uploaded();
        self.health.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTION: Ejection =
        Ejection { failures: 3, time: Duration::from_secs(10), max_time: Duration::from_secs(30) };

    #[test]
    fn a_target_that_fails_is_passed_over_and_tried_by_one_request_at_a_time() {
        let (health, now) = (Arc::new(Health::default()), clock::monotonic());
        let tries = |at| health.try_again(EJECTION, at).map(Trial::settle).is_some();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!((health.failed(EJECTION, now), health.failed(EJECTION, now)), (None, None));
        assert!(!health.answered(), "an answer between them begins the count again");
        assert_eq!((health.failed(EJECTION, now), health.failed(EJECTION, now)), (None, None));
        assert_eq!(health.standing(now), Standing::Open);
        assert_eq!(health.failed(EJECTION, now), Some(Duration::from_secs(10)));
        assert_eq!(health.failed(EJECTION, now), None, "what was under way is no news");
        assert_eq!((health.standing(after(9)), health.standing(after(10))), (Standing::Ejected, Standing::Trial));
        assert!(!tries(after(9)));
        assert!(tries(after(10)) && !tries(after(10)));
        assert_eq!(health.failed(EJECTION, after(11)), None);
        assert_eq!((health.standing(after(29)), health.standing(after(30))), (Standing::Ejected, Standing::Trial));
        // A client that leaves has tried nothing.
        drop(health.try_again(EJECTION, after(30)).expect("a trial"));
        assert_eq!(health.standing(after(30)), Standing::Trial);
        assert!(tries(after(30)));
        // Never longer than the most.
        assert_eq!((health.standing(after(59)), health.standing(after(60))), (Standing::Ejected, Standing::Trial));
        assert!(health.answered());
        assert_eq!(health.standing(after(31)), Standing::Open);
        assert_eq!(health.numbers().ejections, 1);
    }

    #[test]
    fn a_try_whose_client_leaves_takes_no_answer_back() {
        let (health, now) = (Arc::new(Health::default()), clock::monotonic());
        let after = |seconds| now + Duration::from_secs(seconds);
        let fails = || (0..3).find_map(|_| health.failed(EJECTION, now));
        assert_eq!(fails(), Some(Duration::from_secs(10)));
        let trial = health.try_again(EJECTION, after(10)).expect("a trial");
        assert!(health.answered(), "what was under way is answered after all");
        drop(trial);
        assert_eq!(health.standing(now), Standing::Open);
        assert_eq!(fails(), Some(Duration::from_secs(10)), "as the first time");
    }

    #[test]
    fn what_is_under_way_is_counted_to_its_end_and_bounded() {
        let health = Arc::new(Health::default());
        let first = health.begin(2, false).expect("room");
        let second = health.begin(2, false);
        assert!(second.is_some() && health.begin(2, false).is_none());
        assert_eq!(health.requests(), 2);
        drop(first);
        // Those that are still sending keep out nobody but each other.
        let mut sending: Vec<InFlight> = (0..9).filter_map(|_| health.begin(2, true)).collect();
        assert_eq!((sending.len(), health.requests()), (2, 3));
        let third = health.begin(2, false);
        assert!(third.is_some() && health.begin(2, false).is_none());
        drop(third);
        sending.iter_mut().for_each(InFlight::uploaded);
        assert!(health.begin(2, false).is_none());
        drop((second, sending));
        assert_eq!((health.requests(), health.uploads.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_check_has_the_last_word() {
        let (health, now) = (Health::default(), clock::monotonic());
        assert_eq!(health.check(Checked::Down), Checked::Unknown);
        assert_eq!(health.standing(now), Standing::Down);
        assert_eq!(health.check(Checked::Up), Checked::Down);
        assert_eq!(health.standing(now), Standing::Open);
    }
}
