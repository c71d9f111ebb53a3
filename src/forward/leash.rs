//! What lasts: cut off when what permitted it does not hold any more.
//!
//! An answer that is still coming after a while (a stream of events, a long download), and a body that is still on its
//! way, was permitted once, at its beginning. Its leash says by whom and how; whoever looks at all of them now and then
//! asks again, and cuts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::authenticate::Caller;
use crate::route::RevocationPolicy;
use crate::waiter::Waiter;

/// How old an answer is before it is looked at.
const LASTS: Duration = Duration::from_millis(250);
/// How often in a row nothing can be known before it is cut: a store that is away for a moment ends
/// no stream.
const DOUBTS: u8 = 3;

/// The leashes of one worker's answers, permitted by one snapshot.
#[derive(Clone, Default)]
pub struct Leashes(Rc<Shelf>);

#[derive(Default)]
struct Shelf {
    held: RefCell<HashMap<u64, Rc<Held>>>,
    next: Cell<u64>,
}

/// An answer's permission.
pub struct Held {
    /// For whom.
    pub caller: Caller,
    /// How the store is asked.
    pub policy: RevocationPolicy,
    since: Instant,
    is_cut: Cell<bool>,
    is_doubted: Cell<bool>,
    doubts: Cell<u8>,
    waiter: Waiter,
}

/// Kept by the answer; dropping it ends the watch.
pub struct Leash {
    held: Rc<Held>,
    number: u64,
    shelf: Rc<Shelf>,
}

impl Leashes {
    /// Watches an answer that begins at `now`; nobody's needs no watch.
    #[must_use]
    pub fn hold(&self, caller: &Caller, policy: RevocationPolicy, now: Instant) -> Option<Leash> {
        let Caller::Known(_) = caller else { return None };
        let number = self.0.next.get();
        self.0.next.set(number.wrapping_add(1));
        let (is_cut, is_doubted, doubts, waiter) = Default::default();
        let held = Rc::new(Held { caller: caller.clone(), policy, since: now, is_cut, is_doubted, doubts, waiter });
        self.0.held.borrow_mut().insert(number, Rc::clone(&held));
        Some(Leash { held, number, shelf: Rc::clone(&self.0) })
    }

    /// Whether there is no answer to be watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.held.borrow().is_empty()
    }

    /// The answers that have lasted long enough to be looked at.
    #[must_use]
    pub fn lasting(&self, now: Instant) -> Vec<Rc<Held>> {
        let held = self.0.held.borrow();
        held.values().filter(|held| now.saturating_duration_since(held.since) >= LASTS).cloned().collect()
    }
}

impl Held {
    /// What permitted the answer holds.
    pub fn holds(&self) {
        self.doubts.set(0);
    }

    /// It is not known whether it holds; time and again is too often.
    pub fn doubt(&self) {
        self.doubts.set(self.doubts.get().saturating_add(1));
        if self.doubts.get() >= DOUBTS {
            self.is_doubted.set(true);
            self.cut();
        }
    }

    /// It does not hold: the answer ends here.
    pub fn cut(&self) {
        self.is_cut.set(true);
        self.waiter.wake();
    }
}

impl Leash {
    /// Whether it was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.held.is_cut.get()
    }

    /// Whether it was cut because nobody knew.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.held.is_doubted.get()
    }

    /// Ready once it was cut.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.held.is_cut.get() {
            return Poll::Ready(());
        }
        self.held.waiter.wait(cx);
        Poll::Pending
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.shelf.held.borrow_mut().remove(&self.number);
    }
}
