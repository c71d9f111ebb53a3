//! Time limits without a timer each: a worker looks at all of them a few times a second.
//!
//! 1. An alarm is made once per connection or upload, and set and cleared as often as it is wanted:
//!    that is writing a number down.
//! 2. It rings at the first look after its time, so at most one look late, never early.
//!
//! Why: a timer of the runtime is entered into and taken out of a wheel, under a lock, for every
//! request, and almost none of them ever goes off.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The alarms of one worker.
#[derive(Clone, Default)]
pub struct Alarms(Rc<Shelf>);

#[derive(Default)]
struct Shelf {
    clocks: RefCell<HashMap<u64, Rc<Clock>>>,
    next: Cell<u64>,
}

#[derive(Default)]
struct Clock {
    at: Cell<Option<Instant>>,
    has_rung: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// One alarm; not set at first.
pub struct Alarm {
    clock: Rc<Clock>,
    number: u64,
    shelf: Rc<Shelf>,
}

impl Alarms {
    /// A new alarm.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        let number = self.0.next.get();
        self.0.next.set(number.wrapping_add(1));
        let clock = Rc::new(Clock::default());
        self.0.clocks.borrow_mut().insert(number, Rc::clone(&clock));
        Alarm { clock, number, shelf: Rc::clone(&self.0) }
    }

    /// Rings what is due.
    pub fn look(&self, now: Instant) {
        for clock in self.0.clocks.borrow().values() {
            if clock.at.get().is_some_and(|at| at <= now) {
                clock.at.set(None);
                clock.has_rung.set(true);
                if let Some(waker) = clock.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl Alarm {
    /// Sets the alarm, or moves it.
    pub fn set(&self, at: Instant) {
        self.clock.at.set(Some(at));
        self.clock.has_rung.set(false);
    }

    /// Whether it is set and has not rung.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.clock.at.get().is_some()
    }

    /// Whether it has rung.
    #[must_use]
    pub fn has_rung(&self) -> bool {
        self.clock.has_rung.get()
    }

    /// Stops the alarm.
    pub fn clear(&self) {
        self.clock.at.set(None);
        self.clock.has_rung.set(false);
    }

    /// Ready once it has rung.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.clock.has_rung.get() {
            return Poll::Ready(());
        }
        let waker = self.clock.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.clock.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.shelf.clocks.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_after_it_was_moved_or_cleared() {
        let alarms = Alarms::default();
        let alarm = alarms.alarm();
        let cx = Context::from_waker(Waker::noop());
        let (now, second) = (clock::monotonic(), Duration::from_secs(1));
        alarms.look(now + second * 9);
        assert!(alarm.poll(&cx).is_pending(), "not set");
        alarm.set(now + second);
        alarms.look(now);
        assert!(alarm.poll(&cx).is_pending(), "not yet");
        alarm.set(now + second * 3);
        alarms.look(now + second * 2);
        assert!(alarm.poll(&cx).is_pending() && alarm.is_set(), "moved");
        alarms.look(now + second * 3);
        assert!(alarm.poll(&cx).is_ready() && !alarm.is_set());
        alarm.set(now + second * 4);
        assert!(alarm.poll(&cx).is_pending(), "set again");
        alarm.clear();
        alarms.look(now + second * 9);
        assert!(alarm.poll(&cx).is_pending(), "cleared");
        drop(alarm);
        assert!(alarms.0.clocks.borrow().is_empty());
    }
}
