//! What a step of the wall clock must not change: what has ended stays ended, and nothing is forgotten before its time.
//!
//! 1. The latest second that was ever shown is remembered. Where the clock shows less, it was set back: what ended by
//!    then does not begin again, however wrong the clock is now.
//! 2. Unless it was wrong before: beside it runs what the monotonic clock says since the start. Where a clock that was
//!    set forward is put right within ten minutes, that says so, and nothing stays ended that never was.
//! 3. What the store may forget is over by both ([`over_by`]).
//! 4. Each step of more than five seconds is told and counted ([`Watch`]).

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::{millis, monotonic, unix_millis, unix_seconds, wall};

/// Less than this is what clocks are corrected by day and night.
const TOLERATED: i64 = 5_000;
/// A clock that has stood by what it says for so long is believed.
const SETTLED: i64 = 600_000;

static PROCESS: LazyLock<Steps> =
    LazyLock::new(|| Steps::new(signed(unix_millis(wall())), signed(millis(monotonic()))));

/// The latest second at `at`, where the wall clock shows `unix`: what ended by then has ended.
pub(super) fn latest(unix: i64, at: Instant) -> i64 {
    PROCESS.latest(unix, at)
}

/// What ended by then, in unix milliseconds, ended by every clock that there is: it may be forgotten.
#[must_use]
pub fn over_by(wall: SystemTime, at: Instant) -> u64 {
    unix_millis(wall).min(u64::try_from(PROCESS.steady(signed(millis(at)))).unwrap_or(0))
}

/// How many steps there were.
#[must_use]
pub fn count() -> u64 {
    PROCESS.count.load(Ordering::Relaxed)
}

/// What one process has seen of the wall clock.
#[derive(Debug)]
struct Steps {
    /// The latest second that it showed.
    latest: AtomicI64,
    /// What it is ahead of the monotonic clock where it is believed, in milliseconds.
    ahead: AtomicI64,
    count: AtomicU64,
}

/// What became of the wall clock since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was set forward by so much, or the machine slept.
    Forward(Duration),
    /// It was set back by so much, behind what it showed before.
    Back(Duration),
    /// It goes on from before the last step.
    Undone,
}

/// Looks at the wall clock; one for the process.
#[derive(Debug, Default)]
pub struct Watch {
    /// By how many milliseconds it left what is believed, and when.
    left: Option<(i64, i64)>,
}

impl Watch {
    /// Looks now; to be called every second or so.
    pub fn look(&mut self) -> Option<Step> {
        let (wall, at) = (wall(), monotonic());
        PROCESS.latest(unix_seconds(wall), at);
        self.see(&PROCESS, signed(unix_millis(wall)), signed(millis(at)))
    }

    fn see(&mut self, steps: &Steps, wall: i64, at: i64) -> Option<Step> {
        let by = wall - at - steps.ahead.load(Ordering::Relaxed);
        let before = self.left;
        let step = match before {
            _ if is_near(by, 0) => {
                steps.ahead.fetch_add(by, Ordering::Relaxed);
                self.left = None;
                before.map(|_| Step::Undone)
            }
            Some((left_by, since)) if is_near(by, left_by) => {
                // Once it shows what it showed before, nothing is held by the step any more.
                let is_behind = wall / 1000 < steps.latest.load(Ordering::Relaxed);
                if at - since >= SETTLED && !is_behind {
                    steps.ahead.fetch_add(by, Ordering::Relaxed);
                    self.left = None;
                }
                None
            }
            _ => {
                self.left = Some((by, at));
                let moved = by - before.map_or(0, |(left_by, _)| left_by);
                let size = Duration::from_millis(moved.unsigned_abs());
                Some(if moved > 0 { Step::Forward(size) } else { Step::Back(size) })
            }
        };
        steps.count.fetch_add(u64::from(step.is_some()), Ordering::Relaxed);
        step
    }
}

impl Steps {
    const fn new(wall: i64, at: i64) -> Self {
        Self { latest: AtomicI64::new(wall / 1000), ahead: AtomicI64::new(wall - at), count: AtomicU64::new(0) }
    }

    fn latest(&self, unix: i64, at: Instant) -> i64 {
        let latest = self.latest.load(Ordering::Relaxed);
        if unix > latest {
            // Once a second.
            self.latest.fetch_max(unix, Ordering::Relaxed);
        }
        if unix >= latest { unix } else { self.held(unix, latest, signed(millis(at))) }
    }

    /// The clock shows less than it did.
    fn held(&self, unix: i64, latest: i64, at: i64) -> i64 {
        unix.max(latest.min(self.steady(at) / 1000))
    }

    /// The time by the monotonic clock, in unix milliseconds.
    fn steady(&self, at: i64) -> i64 {
        self.ahead.load(Ordering::Relaxed).saturating_add(at)
    }
}

const fn is_near(one: i64, other: i64) -> bool {
    (one - other).abs() <= TOLERATED
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_800_000_000_000;
    const HOUR: i64 = 3_600_000;

    /// The latest second, counted from the start, where the clock shows this after so long.
    fn latest(steps: &Steps, shown: i64, after: i64) -> i64 {
        let unix = (START + shown) / 1000;
        steps.latest.fetch_max(unix, Ordering::Relaxed);
        steps.held(unix, steps.latest.load(Ordering::Relaxed), after) - START / 1000
    }

    #[test]
    fn what_ended_stays_ended_when_the_clock_is_set_back_until_it_shows_that_time_again() {
        let (steps, mut watch) = (Steps::new(START, 0), Watch::default());
        assert_eq!(latest(&steps, 60_000, 60_000), 60);
        assert_eq!(watch.see(&steps, START + 60_000, 60_000), None);
        let back = |after: i64| after - HOUR;
        assert_eq!(latest(&steps, back(70_000), 70_000), 60);
        assert_eq!(watch.see(&steps, START + back(70_000), 70_000), Some(Step::Back(Duration::from_secs(3600))));
        for after in [80_000, SETTLED * 2, HOUR] {
            assert_eq!(watch.see(&steps, START + back(after), after), None);
            assert_eq!(latest(&steps, back(after), after), 60, "{after}");
        }
        assert_eq!(latest(&steps, back(HOUR + 70_000), HOUR + 70_000), 70);
        assert_eq!(watch.see(&steps, START + back(HOUR + 70_000), HOUR + 70_000), None);
        assert_eq!(watch.left, None, "that is the time now");
    }

    #[test]
    fn a_clock_that_is_put_right_soon_has_ended_nothing() {
        let (steps, mut watch) = (Steps::new(START, 0), Watch::default());
        for ahead in [HOUR, 10 * 365 * 24 * HOUR] {
            assert_eq!(latest(&steps, ahead, 60_000), ahead / 1000);
            let forward = Step::Forward(Duration::from_millis(ahead.unsigned_abs()));
            assert_eq!(watch.see(&steps, START + 60_000 + ahead, 60_000), Some(forward));
            assert_eq!(latest(&steps, 70_000, 70_000), 70);
            assert_eq!(watch.see(&steps, START + 70_000, 70_000), Some(Step::Undone));
        }
        assert_eq!(steps.count.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_clock_that_stands_by_what_it_says_is_believed() {
        let (steps, mut watch) = (Steps::new(START, 0), Watch::default());
        latest(&steps, HOUR, 0);
        assert!(watch.see(&steps, START + HOUR, 0).is_some());
        assert_eq!(steps.steady(0), START);
        latest(&steps, HOUR + SETTLED, SETTLED);
        assert_eq!(watch.see(&steps, START + HOUR + SETTLED, SETTLED), None);
        assert_eq!(steps.steady(SETTLED), START + HOUR + SETTLED);
        assert_eq!(latest(&steps, SETTLED, SETTLED), (HOUR + SETTLED) / 1000);
    }

    #[test]
    fn small_corrections_are_followed_and_not_told() {
        let (steps, mut watch) = (Steps::new(START, 0), Watch::default());
        for second in 1..100 {
            let (at, shown) = (second * 1000, second * 1000 - second * 100);
            assert_eq!(watch.see(&steps, START + shown, at), None, "{second}");
        }
        assert_eq!(steps.steady(100_000), START + 90_100);
    }
}
