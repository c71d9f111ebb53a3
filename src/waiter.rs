//! Who waits for something that happens on its own thread.

use std::cell::Cell;
use std::task::{Context, Waker};

/// The one task that waits, if one does; whoever comes later waits in its place.
#[derive(Default)]
pub struct Waiter(Cell<Option<Waker>>);

impl Waiter {
    /// This task waits.
    pub fn wait(&self, cx: &Context<'_>) {
        // Nearly always it is the one that waited before, and a copy of its waker is counted by atomics.
        let known = self.0.take().filter(|known| known.will_wake(cx.waker()));
        self.0.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Wakes who waits, once.
    pub fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }

    /// Nobody waits any more.
    pub fn clear(&self) {
        self.0.set(None);
    }
}
