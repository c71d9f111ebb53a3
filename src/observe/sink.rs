//! Log lines on their way out: gathered under a lock that is held for a copy, written by one thread.
//!
//! 1. A worker never waits for whoever reads the log. What does not fit into the buffer is dropped
//!    and counted, and the count is on `/metrics`.
//! 2. The writer wakes when there is something, and gathers for a moment before it writes, so that
//!    under load one system call carries hundreds of lines.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may wait to be written.
const CAPACITY: usize = 8 * 1024 * 1024;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);

static SINK: Sink =
    Sink { waiting: Mutex::new(Waiting { lines: Vec::new(), is_running: false }), filled: Condvar::new() };
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Held while lines are written, so that two threads never mix theirs.
static OUTPUT: Mutex<()> = Mutex::new(());

struct Sink {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    is_running: bool,
}

/// Hands over one line with its line break.
pub fn push(line: &[u8]) {
    let mut waiting = lock();
    if waiting.lines.len() + line.len() > CAPACITY {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let was_empty = waiting.lines.is_empty();
    waiting.lines.extend_from_slice(line);
    if !waiting.is_running {
        waiting.is_running = thread::Builder::new().name("log".to_owned()).spawn(write_forever).is_ok();
    }
    drop(waiting);
    if was_empty {
        SINK.filled.notify_one();
    }
}

/// Writes what is waiting, now; for the end of the process.
pub fn flush() {
    let _output = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = std::mem::take(&mut lock().lines);
    write(&lines);
}

/// How many lines did not fit.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

#[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do while lines gather")]
fn write_forever() {
    let mut lines = Vec::new();
    loop {
        let mut waiting = lock();
        while waiting.lines.is_empty() {
            waiting = SINK.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        drop(waiting);
        thread::sleep(GATHER);
        let output = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut lines, &mut lock().lines);
        write(&lines);
        drop(output);
        lines.clear();
    }
}

// A log that cannot be written (closed pipe, full disk) is lost; requests go on.
fn write(lines: &[u8]) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(lines).and_then(|()| out.flush()));
}

fn lock() -> MutexGuard<'static, Waiting> {
    SINK.waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
