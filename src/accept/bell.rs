//! Wakes the task of a connection, from its own thread.
//!
//! Whoever waits leaves its waker, and finds out that it was rung meanwhile; the last one to wait is woken. A bell that
//! was rung twice before anybody came has rung once.
//!
//! Why not `tokio::sync::Notify`: that is for other threads as well, and takes a lock at each turn of the task.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::waiter::Waiter;

#[derive(Default)]
pub(super) struct Bell {
    has_rung: Cell<bool>,
    listener: Waiter,
}

impl Bell {
    /// Wakes whoever waits, or comes next.
    pub(super) fn ring(&self) {
        self.has_rung.set(true);
        self.listener.wake();
    }

    /// Waits until it has rung since the last time that somebody heard it.
    pub(super) async fn rung(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_rung.take() {
            return Poll::Ready(());
        }
        self.listener.wait(cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_waits_is_woken_once_and_whoever_comes_late_hears_it_too() {
        let (bell, woken) = (Bell::default(), Arc::new(Woken::default()));
        let waker = Arc::clone(&woken).into();
        let cx = Context::from_waker(&waker);
        assert!(bell.poll(&cx).is_pending() && bell.poll(&cx).is_pending());
        bell.ring();
        bell.ring();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(bell.poll(&cx).is_ready() && bell.poll(&cx).is_pending(), "heard once");
        // Somebody else waits in its place.
        assert!(bell.poll(&Context::from_waker(Waker::noop())).is_pending());
        bell.ring();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(bell.poll(&cx).is_ready());
        bell.ring();
        assert!(bell.poll(&cx).is_ready(), "nobody was waiting");
    }
}
