//! Log lines on their way out: gathered under a lock that is held for a copy, written by one thread.
//!
//! 1. A worker never waits for whoever reads the log. What does not fit into the buffer is dropped
//!    and counted, and the count is on `/metrics`.
//! 2. The writer wakes when there is something, and gathers for a moment before it writes, so that
//!    under load one system call carries hundreds of lines.
//! 3. While another process writes to the same place a call carries no more than a pipe takes as a whole: no line
//!    lands inside another one.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may wait to be written.
const CAPACITY: usize = 8 * 1024 * 1024;
/// What a pipe takes as a whole (`PIPE_BUF`), in bytes.
const WHOLE: usize = 4096;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);

static SINK: Sink =
    Sink { waiting: Mutex::new(Waiting { lines: Vec::new(), is_running: false }), filled: Condvar::new() };
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Whether another process writes to the same place.
static SHARED: AtomicBool = AtomicBool::new(false);
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

/// Says that another process writes to the same place from now on.
pub fn share() {
    SHARED.store(true, Ordering::Relaxed);
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
    let most = if SHARED.load(Ordering::Relaxed) { WHOLE } else { usize::MAX };
    for piece in pieces(lines, most) {
        drop(out.write_all(piece).and_then(|()| out.flush()));
    }
}

/// Whole lines, as many of them together as have room in `most` bytes; a longer one by itself.
fn pieces(lines: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    let mut left = lines;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let fits = left.get(..most).unwrap_or(left);
        let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
        let first = || left.iter().position(|byte| *byte == b'\n');
        let end = if fits.len() == left.len() { None } else { end(fits).or_else(first) };
        let (piece, rest) = left.split_at_checked(end.map_or(left.len(), |end| end + 1))?;
        left = rest;
        Some(piece)
    })
}

fn lock() -> MutexGuard<'static, Waiting> {
    SINK.waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn a_piece_is_of_whole_lines_and_nothing_is_lost() {
        for (lines, most, expected) in [
            ("", 4, vec![]),
            ("a\nb\n", usize::MAX, vec!["a\nb\n"]),
            ("a\nb\n", 4, vec!["a\nb\n"]),
            ("a\nb\nc\n", 5, vec!["a\nb\n", "c\n"]),
            ("long line\nb\n", 4, vec!["long line\n", "b\n"]),
            ("a\nlong line\nb\n", 4, vec!["a\n", "long line\n", "b\n"]),
            ("no end", 4, vec!["no end"]),
        ] {
            let found: Vec<&[u8]> = pieces(lines.as_bytes(), most).collect();
            assert_eq!(found, expected.iter().map(|text| text.as_bytes()).collect::<Vec<_>>(), "{lines:?} {most}");
        }
    }
}
