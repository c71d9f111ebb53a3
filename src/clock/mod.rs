//! The one place where clocks are read.
//!
//! The wall clock says whether a token is in its time; the monotonic clock says how long something
//! took and when a limit is over. A step of the wall clock never moves a time limit, nor brings back what has ended
//! (`steps`).

pub mod steps;

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The wall clock.
#[allow(clippy::disallowed_methods, reason = "this is the one place where the wall clock is read")]
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this is the one place where the monotonic clock is read")]
#[must_use]
pub fn monotonic() -> Instant {
    let now = Instant::now();
    LAST.set(Some(now));
    now
}

/// The monotonic clock as this thread last read it. A worker reads it with every request, and when nothing comes 20
/// times a second: for what is a matter of seconds.
#[must_use]
pub fn recent() -> Instant {
    LAST.get().unwrap_or_else(monotonic)
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the wall clock.
    pub wall: SystemTime,
    /// The same in whole seconds since 1970.
    pub unix: i64,
    /// The latest second that there is reason to believe: what ended by then has ended, though the wall clock was set
    /// back. Nothing else is judged by it.
    pub latest: i64,
    /// By the monotonic clock.
    pub monotonic: Instant,
}

/// Now, on both clocks.
#[must_use]
pub fn now() -> Moment {
    let (wall, monotonic) = (wall(), monotonic());
    let unix = unix_seconds(wall);
    Moment { wall, unix, latest: steps::latest(unix, monotonic), monotonic }
}

/// Whole seconds since 1970; 0 for a time before it.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX)
}

/// Whole milliseconds since 1970; 0 for a time before it.
#[must_use]
pub fn unix_millis(time: SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whole milliseconds from a moment shortly before the first call; never 0. For what is kept in an atomic.
#[must_use]
pub fn millis(at: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(|| at.checked_sub(Duration::from_secs(1)).unwrap_or(at));
    u64::try_from(at.saturating_duration_since(*start).as_millis()).unwrap_or(u64::MAX).max(1)
}
