//! Requests that come in together go out together.
//!
//! Where many are under way, a request waits until the worker has read and judged what else has come, and goes out with
//! the others, one write after the other.
//!
//! Why: a service on this machine that has nothing to do sleeps, and whoever writes to it pays for waking it. One
//! request at a time, with the next one read and judged in between, finds it asleep again each time. Where few are under
//! way there is nothing to gather, and the wait would only cost.
//!
//! Who waits leaves its exchange here, with its connection, and all of them are begun in one go, each in the name of its own
//! task: a turn of each task only for that would go through all that is between the worker and the exchange. What may not
//! go out twice waits by itself, before it takes a connection. What goes out in HTTP/2 is gathered by its session.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::task::coop::unconstrained;
use tokio::task::{spawn_local, yield_now};

use super::exchange::Exchange;

/// From so many requests under way on one worker on they are gathered. Measured: with 8 connections under load it
/// costs more than it gives, with 32 it gives more.
const MANY: usize = 16;
/// Most that go out before others have their turn.
const AT_ONCE: usize = 64;

/// Requests of one worker that are not answered yet.
#[derive(Clone, Default)]
pub struct Gathering(Rc<Gathered>);

#[derive(Default)]
struct Gathered {
    under_way: Cell<usize>,
    waiting: RefCell<Slab<Waiting>>,
    /// The places of those that are to begin, the first to come first.
    next: RefCell<Vec<usize>>,
    /// Whether somebody is about to begin them.
    is_sending: Cell<bool>,
}

/// An exchange that is begun by somebody else than who waits for its answer.
struct Waiting {
    exchange: Box<Exchange>,
    /// Until it has begun, or is given back to begin by itself.
    task: Option<Waker>,
}

/// Whoever begins those that wait; they are given back where it cannot go on.
struct Sender(Gathering);

/// Counts a request until it is answered.
pub struct UnderWay<'c>(&'c Cell<usize>);

/// An exchange that goes out with others; it comes back when there is something to be done about it.
pub struct Together<'g> {
    gathering: &'g Gathering,
    exchange: Option<Box<Exchange>>,
    place: Option<usize>,
}

impl Gathering {
    /// Counts a request; one that has to go out by itself waits for others here.
    pub async fn join(&self, is_by_itself: bool) -> UnderWay<'_> {
        let under_way = &self.0.under_way;
        under_way.set(under_way.get() + 1);
        let counted = UnderWay(under_way);
        if is_by_itself && self.is_worth_it() {
            yield_now().await;
        }
        counted
    }

    /// Whether so many are under way that it is worth while to wait for others.
    #[must_use]
    pub fn is_worth_it(&self) -> bool {
        self.0.under_way.get() >= MANY
    }

    /// Begins an exchange together with others.
    #[must_use]
    pub const fn begin(&self, exchange: Box<Exchange>) -> Together<'_> {
        Together { gathering: self, exchange: Some(exchange), place: None }
    }

    fn put(&self, exchange: Box<Exchange>, cx: &Context<'_>) -> usize {
        let place = self.0.waiting.borrow_mut().insert(Waiting { exchange, task: Some(cx.waker().clone()) });
        self.0.next.borrow_mut().push(place);
        if !self.0.is_sending.replace(true) {
            spawn_local(unconstrained(Sender(self.clone()).send()));
        }
        place
    }
}

impl Sender {
    /// Begins all that wait, after those that come until then; many of them in several goes.
    async fn send(self) {
        let gathered = &self.0.0;
        loop {
            yield_now().await;
            let (mut next, mut waiting) = (gathered.next.borrow_mut(), gathered.waiting.borrow_mut());
            let here = next.len().min(AT_ONCE);
            for place in next.drain(..here) {
                // One that was given up has left its place; whoever has it now may as well begin now.
                if let Some(Waiting { exchange, task }) = waiting.get_mut(place)
                    && let Some(waker) = task
                {
                    exchange.begin(&mut Context::from_waker(waker));
                    // Not before: where that panics, it is given back as well.
                    *task = None;
                }
            }
            if next.is_empty() {
                gathered.is_sending.set(false);
                return;
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let gathered = &self.0.0;
        if !gathered.is_sending.replace(false) {
            return;
        }
        // It has panicked, or the worker ends.
        gathered.next.borrow_mut().clear();
        for (_, left) in &mut *gathered.waiting.borrow_mut() {
            if let Some(task) = left.task.take() {
                task.wake();
            }
        }
    }
}

impl Future for Together<'_> {
    type Output = Box<Exchange>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(exchange) = self.exchange.take() {
            self.place = Some(self.gathering.put(exchange, cx));
            return Poll::Pending;
        }
        let mut waiting = self.gathering.0.waiting.borrow_mut();
        let Some(place) = self.place else { return Poll::Pending };
        if let Some(task) = waiting.get_mut(place).and_then(|one| one.task.as_mut()) {
            task.clone_from(cx.waker());
            return Poll::Pending;
        }
        let begun = waiting.try_remove(place);
        drop(waiting);
        self.place = None;
        begun.map_or(Poll::Pending, |begun| Poll::Ready(begun.exchange))
    }
}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        let given_up = self.place.and_then(|place| self.gathering.0.waiting.borrow_mut().try_remove(place));
        drop(given_up);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
