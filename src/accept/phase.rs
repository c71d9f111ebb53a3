//! What a worker sees of its connections: in which phase each is, for how long, and what it is told.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::Limits;
use super::bell::Bell;
use crate::clock;
use crate::forward::body::Hold;

/// How long a connection waits before it is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// How long a client takes, at the most, from an answer to its next request where it has one.
const BETWEEN: Duration = Duration::from_millis(500);

/// At how many connections a look looks in one turn of the runtime, and how many it tells something: those that are
/// answered meanwhile wait for no more than that.
const STEP: usize = 256;
const TOLD: usize = 8;

/// The connections of one worker.
#[derive(Default)]
pub struct Watch {
    connections: RefCell<Slab<Rc<State>>>,
}

/// What the watch sees of one connection.
pub(super) struct State {
    /// The number of the listener that it came through.
    door: u64,
    pub(super) phase: Cell<Phase>,
    pub(super) since: Cell<Instant>,
    pub(super) order: Cell<Order>,
    /// Whether all that was written is with the kernel.
    pub(super) is_flushed: Cell<bool>,
    /// What keeps it busy ([`Busy`](super::busy::Busy)): an upload may outlast its answer, and the next request begin.
    pub(super) under_way: Cell<usize>,
    /// Whether the last request had a body: the client may still be sending it.
    pub(super) had_body: Cell<bool>,
    /// The number of that request, and what keeps it busy that is of it: the upload of one before it may outlast its answer.
    pub(super) request: Cell<u32>,
    pub(super) of_request: Cell<usize>,
    /// Whether somebody has begun to answer it.
    pub(super) is_begun: Cell<bool>,
    /// Whether its body has not been read to its end.
    pub(super) is_unread: Cell<bool>,
    /// Whether the rest of it goes nowhere once its answer is through.
    pub(super) is_let_go: Cell<bool>,
    /// Whether nothing of the last message is still to come.
    pub(super) has_come: Cell<bool>,
    /// Whether an answer is under way whose end is that of the connection, and whether all of it has been handed over to be
    /// written.
    pub(super) ends_by_close: Cell<bool>,
    pub(super) is_through: Cell<bool>,
    /// Whether this side has said that it sends no more.
    pub(super) is_shut: Cell<bool>,
    /// Whether its buffers can be given back while it waits.
    pub(super) can_park: Cell<bool>,
    /// Since when a header block of HTTP/2 has not come to its end.
    pub(super) block: Cell<Option<Instant>>,
    /// Whether the client sent more frames that bring nothing than it may.
    pub(super) is_flooded: Cell<bool>,
    /// Whether a client of HTTP/2 has said that it sends no more, or is gone.
    pub(super) has_left: Cell<bool>,
    /// Whether it is to end as soon as nothing is lost by it.
    is_ending: Cell<bool>,
    /// Since when it is told to finish.
    finishing: Cell<Option<Instant>>,
    /// Since when nothing that was to be written could be.
    pub(super) stalled: Cell<Option<Instant>>,
    /// What cuts the answer of a client of HTTP/1, and whether it did not hold at the last look: by itself it is not cut while
    /// what comes before waits for the client.
    pub(super) hold: Cell<Option<Rc<Hold>>>,
    was_cut: Cell<bool>,
    /// Whether a request is not answered to its end: what follows it is held back.
    pub(super) is_answering: Cell<bool>,
    /// Whom the end of that answer wakes.
    pub(super) reader: Cell<Option<Waker>>,
    /// Rings when it is told something.
    pub(super) woken: Bell,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    /// Waiting, with its buffers given back.
    Parked,
    Head,
    Busy,
}

/// What a connection is told to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    GoOn,
    /// Give the buffers back and wait for the socket alone.
    Park,
    /// Answer what is under way, then close.
    Finish,
    /// Say 408 and close.
    TimeOut,
    /// Close: what is written is not read.
    Abort,
}

impl Watch {
    /// The places of a part of the connections, of so many.
    pub fn places(&self, (part, parts): (usize, usize)) -> Range<usize> {
        let all = self.connections.borrow().capacity();
        all * part / parts..all * (part + 1) / parts
    }

    /// Ends what has been waiting, or inside a head, for too long; those places are left that are for another turn.
    pub fn look(&self, limits: &Limits, places: Range<usize>) -> Range<usize> {
        let (now, connections) = (clock::monotonic(), self.connections.borrow());
        let mut told = 0;
        for place in places.clone().take(STEP) {
            let Some(state) = connections.get(place) else { continue };
            if state.is_ending.get() {
                state.end(now);
            }
            told += usize::from(state.overdue(limits, now).is_some_and(|order| state.tell(order)));
            if told == TOLD {
                return place + 1..places.end;
            }
        }
        places.end.min(places.start + STEP)..places.end
    }

    /// Tells every connection to finish; one of HTTP/1 that has waited for a moment only is told later, with its
    /// next answer or when the moment is over.
    pub fn finish(&self) {
        let now = clock::monotonic();
        for (_, state) in self.connections.borrow().iter() {
            state.end(now);
        }
    }

    /// Breaks off what would come to its end with its connection; whether there is any.
    pub fn break_off(&self) -> bool {
        let mut is_any = false;
        for (_, state) in self.connections.borrow().iter().filter(|(_, state)| state.ends_by_close.get()) {
            state.tell(Order::Abort);
            is_any = true;
        }
        is_any
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Tells every connection that came through this listener to finish.
    pub(super) fn finish_at(&self, door: u64) {
        let now = clock::monotonic();
        for (_, state) in self.connections.borrow().iter().filter(|(_, state)| state.door == door) {
            state.end(now);
        }
    }

    /// A new connection, through the listener with this number.
    pub fn enter(self: &Rc<Self>, door: u64) -> Entry {
        let state = Rc::new(State {
            door,
            phase: Cell::new(Phase::Head),
            since: Cell::new(clock::monotonic()),
            order: Cell::new(Order::GoOn),
            is_flushed: Cell::new(true),
            under_way: Cell::new(0),
            had_body: Cell::new(false),
            request: Cell::new(0),
            of_request: Cell::new(0),
            is_begun: Cell::new(true),
            is_unread: Cell::new(false),
            is_let_go: Cell::new(false),
            has_come: Cell::new(true),
            ends_by_close: Cell::new(false),
            is_through: Cell::new(false),
            is_shut: Cell::new(false),
            can_park: Cell::new(true),
            block: Cell::new(None),
            is_flooded: Cell::new(false),
            has_left: Cell::new(false),
            is_ending: Cell::new(false),
            finishing: Cell::new(None),
            stalled: Cell::new(None),
            hold: Cell::new(None),
            was_cut: Cell::new(false),
            is_answering: Cell::new(false),
            reader: Cell::new(None),
            woken: Bell::default(),
        });
        let place = self.connections.borrow_mut().insert(Rc::clone(&state));
        Entry { watch: Rc::clone(self), place, state }
    }
}

/// A connection's place in the watch; leaving is dropping it.
pub struct Entry {
    watch: Rc<Watch>,
    place: usize,
    pub(super) state: Rc<State>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.watch.connections.borrow_mut().try_remove(self.place);
    }
}

impl State {
    /// Tells it to finish, now or when nothing is lost by it.
    fn end(&self, now: Instant) {
        let is_new = !self.is_ending.replace(true);
        // Where it was told to finish already, it was for another reason.
        if !self.is_between(now) && !self.tell(Order::Finish) && is_new {
            self.woken.ring();
        }
    }

    /// Whether it is to end: the next answer says so.
    pub(super) const fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    /// Whether the rest of a body is read by nobody, so that nothing after it can be: asked where there is an answer. The
    /// parser reads what nobody wants in one go, where it has come and is no chunks.
    pub(super) const fn is_left_unread(&self, is_chunked: bool) -> bool {
        let is_read_by_nobody = self.of_request.get() == 1 || self.is_let_go.get();
        self.is_unread.get() && is_read_by_nobody && (is_chunked || !self.has_come.get())
    }

    /// A request has come; what keeps the connection busy from now on is its own.
    pub(super) fn asked(&self, has_body: bool) {
        self.request.set(self.request.get().wrapping_add(1));
        self.of_request.set(0);
        self.had_body.set(has_body);
        self.is_begun.set(false);
        self.is_unread.set(has_body);
        self.is_let_go.set(false);
        self.is_through.set(false);
    }

    /// Whether the next request of a client of HTTP/1 may be on its way: it would be lost.
    fn is_between(&self, now: Instant) -> bool {
        matches!(self.phase.get(), Phase::Waiting | Phase::Head)
            && self.can_park.get()
            && now.saturating_duration_since(self.since.get()) < BETWEEN
    }

    /// Whether its answer was to be cut at the last look already, and is not.
    fn is_cut(&self) -> bool {
        let hold = self.hold.take();
        let is_cut = hold.as_ref().is_some_and(|hold| hold.cut().is_some());
        self.hold.set(hold);
        self.was_cut.replace(is_cut) && is_cut
    }

    /// What a connection is to be told that has taken too long for something.
    fn overdue(&self, limits: &Limits, now: Instant) -> Option<Order> {
        let since = |since: Instant| now.saturating_duration_since(since);
        let age = since(self.since.get());
        // Nothing is under way, and yet it does not end: its client waits with the last of it.
        let is_waiting = self.phase.get() == Phase::Waiting && self.order.get() == Order::Finish;
        let finishing = self.finishing.get().filter(|_| is_waiting).map(|told| since(told).min(age));
        let stalled = self.stalled.get().map(since);
        if [stalled, finishing].iter().flatten().any(|age| *age > limits.send_timeout) || self.is_cut() {
            return Some(Order::Abort);
        }
        if self.block.get().is_some_and(|begun| since(begun) > limits.header_timeout) {
            return Some(Order::TimeOut);
        }
        match self.phase.get() {
            Phase::Waiting | Phase::Parked if age > limits.keep_alive_timeout => Some(Order::Finish),
            Phase::Waiting if age > PARK_AFTER && self.can_park.get() => Some(Order::Park),
            Phase::Head if age > limits.header_timeout => Some(Order::TimeOut),
            Phase::Waiting | Phase::Parked | Phase::Head | Phase::Busy => None,
        }
    }

    /// Tells it something; whether that is new.
    pub(super) fn tell(&self, order: Order) -> bool {
        if self.order.get() == order {
            return false;
        }
        self.order.set(order);
        if order == Order::Finish {
            self.finishing.set(Some(clock::monotonic()));
        }
        self.woken.ring();
        true
    }

    /// What is to be done of what was told, in the phase that the connection is in by now.
    pub(super) fn due(&self) -> Option<Order> {
        match (self.order.get(), self.phase.get()) {
            (Order::GoOn, _) => None,
            // Its answer went out in this very turn, without the word that nothing comes after it.
            (Order::Finish, _) if self.is_ending.get() && self.is_between(clock::monotonic()) => {
                self.order.set(Order::GoOn);
                None
            }
            (order @ (Order::Finish | Order::Abort), _) => Some(order),
            (Order::TimeOut, _) if self.block.get().is_some() => Some(Order::TimeOut),
            (order @ Order::TimeOut, Phase::Head) if self.is_flushed.get() => Some(order),
            (order @ Order::Park, Phase::Waiting) if self.is_flushed.get() => Some(order),
            // A head has come to its end, or begun, in this very turn; or the answer before it is still on
            // its way, and nothing may be written into that.
            (Order::TimeOut | Order::Park, _) => {
                self.order.set(Order::GoOn);
                None
            }
        }
    }

    /// Takes what a write came to.
    pub(super) fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(_) => self.stalled.set(None),
            Poll::Pending if self.stalled.get().is_none() => self.stalled.set(Some(clock::monotonic())),
            Poll::Pending => {}
        }
    }

    /// All that was written is with the kernel.
    pub(super) fn flushed(&self) {
        self.is_flushed.set(true);
        self.stalled.set(None);
        if self.is_through.get() {
            self.ends_by_close.set(false);
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(clock::recent());
    }
}
