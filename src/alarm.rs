//! Time limits without a timer each: a worker looks at them a few times a second.
//!
//! 1. An alarm is made once for whatever has a limit, and set and cleared as often as it is wanted: that is writing a number
//!    down, and for limits of more than a second putting it on a shelf once in that time.
//! 2. The shelf has a box for each hundredth of the next second. An alarm that is set lies in the box of its time, or in
//!    the last one where that is farther off; a look opens the boxes whose time has come, and puts on what is not due yet.
//! 3. It rings at the first look after the end of its box, never before its time. What is gone leaves with its box.
//!
//! Why: a timer of the runtime is entered into and taken out of a wheel, under a lock, for every request, and almost none of
//! them ever goes off. And thousands of clients that do nothing cost the others nothing: each is looked at once a second.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock;
use crate::waiter::Waiter;

/// Boxes for one second.
const A_SECOND: u64 = 100;
/// Boxes on the shelf: those, and the one that was opened last.
const BOXES: u64 = A_SECOND + 1;

/// The alarms of one worker.
#[derive(Clone)]
pub struct Alarms(Rc<Shelf>);

struct Shelf {
    boxes: RefCell<Vec<Laid>>,
    /// What has been opened: the number of the box, counted from `began`.
    opened: Cell<u64>,
    began: Instant,
}

/// What lies in one, with its number: one place is that of many in turn.
type Laid = Vec<(u64, Rc<Clock>)>;

#[derive(Default)]
struct Clock {
    at: Cell<Option<Instant>>,
    has_rung: Cell<bool>,
    waiter: Waiter,
    /// The box that it lies in; it may lie in later ones as well, which say nothing then.
    lies_in: Cell<Option<u64>>,
}

/// One alarm; not set at first.
pub struct Alarm {
    clock: Rc<Clock>,
    shelf: Rc<Shelf>,
}

impl Default for Alarms {
    fn default() -> Self {
        let boxes = RefCell::new((0..BOXES).map(|_| Vec::new()).collect());
        Self(Rc::new(Shelf { boxes, opened: Cell::new(0), began: clock::monotonic() }))
    }
}

impl Alarms {
    /// A new alarm.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        Alarm { clock: Rc::default(), shelf: Rc::clone(&self.0) }
    }

    /// Rings what is due.
    pub fn look(&self, now: Instant) {
        let shelf = &self.0;
        let (last, due) = (shelf.opened.get(), whole(now.saturating_duration_since(shelf.began)));
        let mut found = Vec::new();
        // However long nobody has looked, no box is opened twice.
        for number in last.saturating_add(1)..=due.min(last.saturating_add(BOXES)) {
            if let Some(opened) = shelf.boxes.borrow_mut().get_mut(place(number)) {
                found.extend(std::mem::take(opened));
            }
        }
        shelf.opened.set(due.max(last));
        for (number, clock) in found {
            // One that was moved lies elsewhere as well.
            if clock.lies_in.get() == Some(number) {
                clock.lies_in.set(None);
                shelf.judge(clock, now, number);
            }
        }
    }
}

impl Shelf {
    /// Rings one of a box that is due, and puts one that is not into another.
    fn judge(&self, clock: Rc<Clock>, now: Instant, found_in: u64) {
        match clock.at.get() {
            Some(at) if at <= now => {
                clock.at.set(None);
                clock.has_rung.set(true);
                clock.waiter.wake();
            }
            // A second after the last one: those that met in one look need not meet again.
            Some(at) => {
                let next = found_in.saturating_add(A_SECOND).max(self.opened.get().saturating_add(1));
                self.put(clock, self.number(at).min(next));
            }
            None => {}
        }
    }

    /// Puts an alarm into a box.
    fn put(&self, clock: Rc<Clock>, number: u64) {
        clock.lies_in.set(Some(number));
        if let Some(found) = self.boxes.borrow_mut().get_mut(place(number)) {
            found.push((number, clock));
        }
    }

    /// The box of a time: the first that is opened when it has come; at the farthest the last one.
    fn number(&self, at: Instant) -> u64 {
        let number = whole(at.saturating_duration_since(self.began)).saturating_add(1);
        let opened = self.opened.get();
        number.clamp(opened.saturating_add(1), opened.saturating_add(A_SECOND))
    }
}

/// How many boxes that is, the last one not to its end.
fn whole(time: Duration) -> u64 {
    time.as_secs().saturating_mul(A_SECOND).saturating_add(u64::from(time.subsec_nanos()) / (1_000_000_000 / A_SECOND))
}

fn place(number: u64) -> usize {
    usize::try_from(number % BOXES).unwrap_or(0)
}

impl Alarm {
    /// Sets the alarm, or moves it.
    pub fn set(&self, at: Instant) {
        self.clock.at.set(Some(at));
        self.clock.has_rung.set(false);
        // Nearly always it lies in an earlier box already.
        let number = self.shelf.number(at);
        if self.clock.lies_in.get().is_none_or(|own| own > number) {
            self.shelf.put(Rc::clone(&self.clock), number);
        }
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
        self.clock.waiter.wait(cx);
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // It leaves the shelf when its box is opened.
        self.clear();
        self.clock.waiter.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BOX: Duration = Duration::from_millis(1000 / A_SECOND);

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_after_it_was_moved_or_cleared() {
        let alarms = Alarms::default();
        let alarm = alarms.alarm();
        let cx = Context::from_waker(Waker::noop());
        let now = alarms.0.began;
        alarms.look(now + SECOND * 9);
        assert!(alarm.poll(&cx).is_pending(), "not set");
        let now = now + SECOND * 9;
        alarm.set(now + SECOND);
        alarms.look(now);
        assert!(alarm.poll(&cx).is_pending(), "not yet");
        alarm.set(now + SECOND * 3);
        alarms.look(now + SECOND * 2);
        assert!(alarm.poll(&cx).is_pending() && alarm.is_set(), "moved");
        alarms.look(now + SECOND * 3 + BOX);
        assert!(alarm.poll(&cx).is_ready() && !alarm.is_set());
        alarm.set(now + SECOND * 4);
        assert!(alarm.poll(&cx).is_pending(), "set again");
        alarm.clear();
        alarms.look(now + SECOND * 9);
        assert!(alarm.poll(&cx).is_pending(), "cleared");
        drop(alarm);
        assert!(alarms.0.boxes.borrow().iter().all(Vec::is_empty));
    }

    proptest! {
        /// Whatever is set, moved, cleared and dropped: each rings at the first look that is a box after its time, none
        /// earlier than its time, and nobody who is gone keeps anything.
        #[test]
        fn alarms_ring_in_time_whatever_is_done_with_them(
            steps in proptest::collection::vec((0_usize..6, 0_u64..4000, 0_u64..400), 1..200),
        ) {
            let alarms = Alarms::default();
            let cx = Context::from_waker(Waker::noop());
            let mut now = alarms.0.began;
            let mut all: Vec<(Alarm, Option<Instant>)> = (0..4).map(|_| (alarms.alarm(), None)).collect();
            for (what, far, wait) in steps {
                let at = now + Duration::from_millis(far);
                if let Some((alarm, due)) = all.get_mut(what) {
                    if far % 7 == 0 {
                        alarm.clear();
                        *due = None;
                    } else {
                        alarm.set(at);
                        *due = Some(at);
                    }
                } else {
                    now += Duration::from_millis(wait * if far % 31 == 0 { 100 } else { 1 });
                    alarms.look(now);
                    for (alarm, due) in &mut all {
                        let has_rung = alarm.poll(&cx).is_ready();
                        prop_assert!(!has_rung || due.is_some_and(|due| due <= now), "early");
                        prop_assert!(has_rung || due.is_none_or(|due| due + BOX > now), "late");
                        if has_rung {
                            alarm.clear();
                            *due = None;
                        }
                    }
                }
            }
            drop(all);
            alarms.look(now + SECOND * 2);
            prop_assert!(alarms.0.boxes.borrow().iter().all(Vec::is_empty));
        }
    }
}
