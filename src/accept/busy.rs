//! What keeps a connection busy, and what its answer holds back.

use std::rc::Rc;

use super::phase::{Phase, State};

/// Keeps a connection busy. When the last one has gone, with the answer's body and with what was
/// still read of the request's, the connection waits for the next request.
pub struct Busy {
    state: Rc<State>,
    /// The number of its request.
    request: u32,
}

impl Busy {
    pub(super) fn begin(state: &Rc<State>) -> Self {
        // Since when is nobody's question: a request has limits of its own.
        state.phase.set(Phase::Busy);
        Self::counted(state, state.request.get())
    }

    fn counted(state: &Rc<State>, request: u32) -> Self {
        let counted = Self { state: Rc::clone(state), request };
        state.under_way.set(state.under_way.get() + 1);
        if counted.is_last() {
            state.of_request.set(state.of_request.get() + 1);
        }
        counted
    }

    /// Whether no other request has come since its own.
    fn is_last(&self) -> bool {
        self.request == self.state.request.get()
    }

    /// The request's body was read to its end.
    pub fn has_read(&self) {
        if self.is_last() {
            self.state.is_unread.set(false);
        }
    }

    /// The rest of the body will go nowhere once its answer is through.
    pub fn lets_go(&self) {
        if self.is_last() {
            self.state.is_let_go.set(true);
        }
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        Self::counted(&self.state, self.request)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let state = &self.state;
        if self.is_last() {
            state.of_request.set(state.of_request.get().saturating_sub(1));
        }
        let left = state.under_way.get().saturating_sub(1);
        state.under_way.set(left);
        // The end of an earlier request says nothing of the one that has begun since.
        if left == 0 {
            state.enter(Phase::Waiting);
        }
    }
}

/// Kept by an answer until its last byte is handed over to be written.
pub(super) struct Answering(Rc<State>);

impl Answering {
    pub(super) fn begin(state: &Rc<State>) -> Self {
        state.is_answering.set(true);
        Self(Rc::clone(state))
    }

    /// The answer has come to its end; it is the client's once it is with the kernel.
    pub(super) fn is_through(&self) {
        self.0.is_through.set(true);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.hold.set(None);
        self.0.is_answering.set(false);
        if let Some(reader) = self.0.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::phase::Watch;

    /// What still waits to be written when the connection is broken off would look whole to a client of HTTP/1.0.
    #[test]
    fn an_answer_that_ends_by_close_has_ended_when_it_is_written() {
        let entry = Rc::new(Watch::default()).enter(0);
        let state = &entry.state;
        state.asked(false);
        let answering = Answering::begin(state);
        state.ends_by_close.set(true);
        state.flushed();
        assert!(state.ends_by_close.get(), "more comes");
        answering.is_through();
        assert!(state.ends_by_close.get(), "it is still to be written");
        state.flushed();
        assert!(!state.ends_by_close.get());
    }

    /// What an upload does that outlasts its answer says nothing of the request after it.
    #[test]
    fn whose_body_is_left_unread_is_told_apart() {
        let entry = Rc::new(Watch::default()).enter(0);
        let state = &entry.state;
        state.asked(true);
        let (first, upload) = (Busy::begin(state), Busy::begin(state));
        let early = upload.clone();
        assert!(!state.is_left_unread(true), "it is on its way");
        drop((first, early));
        state.asked(true);
        let second = Busy::begin(state);
        assert!(state.is_left_unread(true), "nobody has it");
        upload.has_read();
        assert!(state.is_left_unread(true), "that was another one");
        let clone = second.clone();
        assert!(!state.is_left_unread(true));
        drop((clone, upload));
        assert!(state.is_left_unread(true));
        state.has_come.set(true);
        assert!(!state.is_left_unread(false), "the parser passes it over");
        state.has_come.set(false);
        assert!(state.is_left_unread(false));
        second.has_read();
        assert!(!state.is_left_unread(false));
    }
}
