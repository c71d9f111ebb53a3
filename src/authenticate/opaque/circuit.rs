//! When somebody who has failed is asked again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crate::clock;

/// Failures in a row after which nobody is asked for a while.
const FAILURES: u32 = 5;
/// For how long, first and at the most, in milliseconds.
const PAUSE: (u64, u64) = (500, 10_000);

/// Open while whoever is asked has failed time and again.
#[derive(Debug, Default)]
pub struct Circuit {
    failures: AtomicU32,
    /// By the monotonic clock in milliseconds; 0: closed.
    open_until: AtomicU64,
    /// When it was opened last, in the same way.
    opened_at: AtomicU64,
}

/// Leave to ask: until when nobody else has it; 0: everybody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass(u64);

impl Circuit {
    /// Whether somebody may ask: while it is open one at a time, when its time is over.
    pub fn lets_through(&self, now: Instant) -> Option<Pass> {
        let until = self.open_until.load(Ordering::Acquire);
        if until == 0 {
            return Some(Pass(0));
        }
        let now = clock::millis(now);
        // Who asks moves the time, so that the next one waits for what comes of it.
        let next = now.saturating_add(self.pause());
        let is_first = || self.open_until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok();
        (now >= until && is_first()).then_some(Pass(next))
    }

    /// Whoever was let through will not hear: where that was the one that tries it, the next one may.
    pub fn given_up(&self, pass: Pass) {
        if pass.0 != 0 {
            let _other = self.open_until.compare_exchange(pass.0, 1, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// It answered; whether that is news.
    pub fn answered(&self) -> bool {
        self.failures.store(0, Ordering::Release);
        self.open_until.swap(0, Ordering::AcqRel) != 0
    }

    /// A question that began then has failed; whether nobody is asked from now on. Of many that were under way together the
    /// one that opens it has said it all.
    pub fn failed(&self, began: Instant, now: Instant) -> bool {
        if clock::millis(began) < self.opened_at.load(Ordering::Acquire) {
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if failures < FAILURES {
            return false;
        }
        self.opened_at.store(clock::millis(now), Ordering::Release);
        let until = clock::millis(now).saturating_add(self.pause());
        self.open_until.swap(until, Ordering::AcqRel) == 0
    }

    fn pause(&self) -> u64 {
        let doubled = self.failures.load(Ordering::Acquire).saturating_sub(FAILURES).min(10);
        (PAUSE.0 << doubled).min(PAUSE.1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_failed_time_and_again_is_asked_by_one_at_a_time() {
        let (circuit, start) = (Circuit::default(), clock::monotonic());
        let at = |millis| start + Duration::from_millis(millis);
        let asks = |millis| circuit.lets_through(at(millis));
        let early = asks(0).expect("it is closed");
        for _ in 0..FAILURES - 1 {
            assert!(!circuit.failed(start, start) && asks(0).is_some());
        }
        assert!(circuit.failed(start, at(100)) && asks(599).is_none());
        // Those that were under way say nothing more, whatever becomes of them.
        for _ in 0..50 {
            assert!(!circuit.failed(start, at(100)));
            circuit.given_up(early);
        }
        assert!(asks(599).is_none());
        let first = asks(601).expect("its time is over");
        assert!(asks(602).is_none(), "one at a time");
        // Who was let through and went away leaves it to the next one.
        circuit.given_up(first);
        let second = asks(603).expect("the next one");
        circuit.given_up(first);
        assert!(asks(604).is_none(), "once");
        assert!(!circuit.failed(at(603), at(610)) && asks(1600).is_none(), "twice as long");
        circuit.given_up(second);
        assert!(asks(1600).is_none(), "it has failed");
        assert!(asks(1611).is_some());
        assert!(circuit.answered() && !circuit.answered());
        assert!(asks(1612).is_some() && asks(1612).is_some());
    }
}
