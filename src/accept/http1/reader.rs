//! A client's bytes on their way to the HTTP/1 parser: past the guard.
//!
//! 1. What is read goes on at once where the guard lets it, which is nearly always: a head that came
//!    in one piece is not copied.
//! 2. The beginning of a head is held until it is whole. So is all that comes after a message that is
//!    not answered yet.
//! 3. The end of what comes is told once the request before it has begun to be answered.
//! 4. Of what is no request the parser sees nothing, but the end of the connection; the fault stays
//!    here for whoever answers it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use super::guard::{Fault, Guard};
use crate::accept::phase::{Phase, State};
use crate::accept::watched::Reader;
use crate::stream::Stream;

/// Hands on what the guard lets through.
pub(in crate::accept) struct Guarded {
    guard: Guard,
    /// What has come and may not go on, or not yet.
    held: BytesMut,
    /// How much of it may go on.
    cleared: usize,
    fault: Option<Fault>,
    /// Who was left at the socket to be woken by it, while nothing has come since: the parser asks at every turn of the
    /// connection's task whether the client has gone, and need not leave itself again.
    waiter: Option<Waker>,
}

impl Guarded {
    /// Takes heads of at most `longest` bytes; `early` has come already.
    pub(in crate::accept) fn new(longest: usize, early: BytesMut) -> Self {
        Self { guard: Guard::new(longest), held: early, cleared: 0, fault: None, waiter: None }
    }

    /// All that has come and was not taken; it is no request.
    pub(super) fn take(&mut self) -> BytesMut {
        self.cleared = 0;
        std::mem::take(&mut self.held)
    }

    /// Whether nothing has come that was not taken.
    pub(in crate::accept) fn is_clear(&self) -> bool {
        self.held.is_empty()
    }

    /// Why the connection came to its end, where what came is no head.
    pub(in crate::accept) const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a head has begun in what is held; an empty line is none yet.
    pub(in crate::accept) fn has_begun(&self) -> bool {
        has_begun(&self.held)
    }

    /// Hands on what may go on of what is held; `None` where there is nothing.
    fn hand_on(&mut self, state: &State, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if self.cleared == 0 && self.fault.is_none() && !self.held.is_empty() {
            if state.phase.get() == Phase::Waiting && self.has_begun() {
                state.enter(Phase::Head);
            }
            match self.guard.take(&self.held) {
                Ok(taken) => self.cleared = taken,
                Err(fault) => self.fault = Some(fault),
            }
            state.has_come.set(self.guard.is_in_head());
        }
        if self.cleared > 0 {
            let here = self.cleared.min(buf.remaining());
            buf.put_slice(self.held.get(..here).unwrap_or_default());
            self.held.advance(here);
            self.cleared -= here;
            if self.held.is_empty() {
                self.held = BytesMut::new();
            }
            return Some(Poll::Ready(Ok(())));
        }
        // To the parser it is the end of the connection.
        self.fault.is_some().then_some(Poll::Ready(Ok(())))
    }
}

fn has_begun(bytes: &[u8]) -> bool {
    !b"\r\n".starts_with(bytes)
}

impl Reader for Guarded {
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        state: &Rc<State>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // What follows a message waits until all of that one's answer is with the kernel: to the parser
            // a fault is the end of the connection, and then it throws away what it has not written.
            let is_answered = !state.is_answering.get() && state.is_flushed.get();
            let is_early = self.cleared == 0 && self.guard.is_in_head() && !is_answered;
            if !is_early && let Some(handed) = self.hand_on(state, buf) {
                return handed;
            }
            if is_early && !self.held.is_empty() {
                state.reader.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            if self.waiter.as_ref().is_some_and(|waiter| waiter.will_wake(cx.waker())) && stream.is_silent() {
                return Poll::Pending;
            }
            let before = buf.filled().len();
            let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, buf) else {
                // What has used up its turn was not left at the socket, but has another one at once; asked afterwards, since
                // it may be used up on the way. Whoever was left there has got back what it took of it.
                let is_left = has_budget_remaining() && matches!(stream, Stream::Plain(_));
                self.waiter = is_left.then(|| cx.waker().clone());
                return Poll::Pending;
            };
            self.waiter = None;
            let come = buf.filled().get(before..).unwrap_or_default();
            if come.is_empty() && !state.is_begun.get() {
                // The parser would throw a request away that nobody has seen yet: told at the next turn, and it can be
                // recorded, or done though nobody waits for the answer.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            read?;
            if come.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if state.phase.get() == Phase::Waiting && has_begun(come) {
                state.enter(Phase::Head);
            }
            let taken = match &self.fault {
                None if !is_early && self.held.is_empty() => self.guard.take(come),
                None | Some(_) => Ok(0),
            };
            let taken = taken.unwrap_or_else(|fault| {
                self.fault = Some(fault);
                0
            });
            state.has_come.set(self.guard.is_in_head());
            if taken == come.len() {
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(come.get(taken..).unwrap_or_default());
            buf.set_filled(before + taken);
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_close(&mut self, stream: &mut Stream, state: &State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The fault is still to be answered.
        if self.fault.is_some() {
            return Poll::Ready(Ok(()));
        }
        state.is_shut.set(true);
        Pin::new(stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::coop::{RestoreOnPending, poll_proceed};
    use tokio::time::sleep;

    use super::*;
    use crate::accept::phase::Watch;

    /// The first turns come of themselves, as when a service answers that the request was sent to. One of them is used up,
    /// or all of it but what one more question takes.
    fn take_turn(number: usize, (used_up, leaves_one): (usize, bool), cx: &mut Context<'_>) {
        if number < 4 {
            cx.waker().wake_by_ref();
        }
        let mut taken = Vec::new();
        while number == used_up
            && let Poll::Ready(question) = poll_proceed(cx)
        {
            taken.push(question);
        }
        // Gives back what it took, where it is not made use of.
        let last = if leaves_one { taken.pop() } else { None };
        taken.iter().for_each(RestoreOnPending::made_progress);
        drop((taken, last));
    }

    /// Whoever asks with its turn used up is not left at the socket: taken for one that is, it would never be woken.
    #[tokio::test(flavor = "current_thread")]
    async fn who_asks_again_and_again_is_woken_by_what_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let mut stream = Stream::Plain(listener.accept().await.expect("accepted").0);
        let entry = Rc::new(Watch::default()).enter(0);
        let mut reader = Guarded::new(1000, BytesMut::new());
        for used_up in [(1, true), (0, false), (1, false), (2, false), (1, true), (2, true)] {
            let (mut room, mut turns) = ([0; 100], 0);
            let mut buf = ReadBuf::new(&mut room);
            let read = poll_fn(|cx| {
                turns += 1;
                take_turn(turns, used_up, cx);
                reader.poll_read(&mut stream, &entry.state, cx, &mut buf)
            });
            let written = async {
                // After those turns: a timer's time comes when there is nothing else to do.
                sleep(Duration::from_millis(20)).await;
                client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
            };
            tokio::select! {
                biased;
                () = sleep(Duration::from_secs(5)) => panic!("nobody was woken"),
                (read, ()) = async { tokio::join!(read, written) } => read.expect("read"),
            }
            assert!(buf.filled().ends_with(b"\r\n\r\n") && turns > 4);
        }
    }
}
