//! Requests that come in together go out together.
//!
//! Where many are under way, a request waits until the worker has read and judged what else has come, and goes out with
//! the others, one write after the other.
//!
//! Why: a service on this machine that has nothing to do sleeps, and whoever writes to it pays for waking it. One
//! request at a time, with the next one read and judged in between, finds it asleep again each time. Where few are under
//! way there is nothing to gather, and the wait would only cost.

use std::cell::Cell;

use tokio::task::yield_now;

/// From so many requests under way on one worker on they are gathered. Measured: with 8 connections under load it
/// costs more than it gives, with 32 it gives more.
const MANY: usize = 16;

/// Requests of one worker that are not answered yet.
#[derive(Default)]
pub struct Gathering(Cell<usize>);

/// Counts a request until it is answered.
pub struct UnderWay<'c>(&'c Cell<usize>);

impl Gathering {
    /// Counts a request, and waits for others where many are under way.
    pub async fn join(&self) -> UnderWay<'_> {
        self.0.set(self.0.get() + 1);
        let counted = UnderWay(&self.0);
        if self.0.get() >= MANY {
            yield_now().await;
        }
        counted
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn only_where_many_are_under_way_one_more_waits_for_a_turn() {
        let gathering = Gathering::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut under_way = Vec::new();
        for _ in 1..MANY {
            match pin!(gathering.join()).poll(cx) {
                Poll::Ready(counted) => under_way.push(counted),
                Poll::Pending => panic!("few are under way"),
            }
        }
        {
            let mut one_more = pin!(gathering.join());
            assert!(one_more.as_mut().poll(cx).is_pending());
            assert!(one_more.as_mut().poll(cx).is_ready(), "one turn is enough");
        }
        // One that is given up while it waits is not counted any longer either.
        assert_eq!(gathering.0.get(), MANY - 1);
        drop(under_way);
        assert_eq!(gathering.0.get(), 0);
    }
}
