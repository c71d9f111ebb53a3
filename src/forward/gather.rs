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
mod tests {
    use std::mem::MaybeUninit;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use http::Method;
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::{Builder, LocalOptions};

    use super::super::connection::Connection;
    use super::super::exchange::{Again, Fault, Message};
    use super::super::headers::BodyFraming;
    use super::super::health::Health;
    use super::super::target::{Speaks, Target};
    use super::super::upload::Upload;
    use super::*;
    use crate::alarm::Alarms;
    use crate::clock;

    const LONG: Duration = Duration::from_secs(20);
    const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    /// Runs as a worker does, for no longer than a test may take.
    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async { tokio::time::timeout(LONG, test).await.expect("in time") });
    }

    /// An exchange that has not begun, the service's end of its connection, and who looks at its time limit.
    async fn exchange(listener: &TcpListener, path: &str) -> (Box<Exchange>, TcpStream, Alarms) {
        let address: Arc<str> = listener.local_addr().expect("an address").to_string().into();
        let (key, health, speaks) = (Arc::clone(&address), Arc::new(Health::default()), Speaks::Http1);
        let target = Target { address, key, tls: None, speaks, weight: 1, health };
        let alarms = Alarms::default();
        let mut connection = Connection::open(&target, LONG, &alarms).await.expect("a connection");
        let (service, _) = listener.accept().await.expect("a connection");
        connection.is_reused = true;
        let head = format!("GET {path} HTTP/1.1\r\n\r\n").into_bytes();
        let message = Message { head, upload: Upload::Empty };
        let (way, limits) = ((BodyFraming::Empty, None), (LONG, clock::monotonic() + LONG));
        (Box::new(Exchange::new(Box::new(connection), message, way, limits)), service, alarms)
    }

    async fn service() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("a port")
    }

    fn nothing_has_come(service: &TcpStream) -> bool {
        // The kernel is asked, and not the runtime.
        let peeked = SockRef::from(service).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[test]
    fn those_that_wait_go_out_together_and_each_gets_its_own_answer() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let cx = &mut Context::from_waker(Waker::noop());
            let (mut waiting, mut services) = (Vec::new(), Vec::new());
            // More than go out at once.
            for number in 0..AT_ONCE + 3 {
                let (exchange, service, _) = exchange(&listener, &format!("/{number}")).await;
                services.push(service);
                waiting.push(Box::pin(gathering.begin(exchange)));
            }
            assert!(waiting.iter_mut().all(|one| one.as_mut().poll(cx).is_pending()));
            assert!(services.iter().all(nothing_has_come), "nobody has had a turn to send them");
            for (number, service) in services.iter_mut().enumerate().rev() {
                let expected = format!("GET /{number} HTTP/1.1\r\n\r\n");
                let mut head = vec![0; expected.len()];
                service.read_exact(&mut head).await.expect("a request");
                assert_eq!(String::from_utf8_lossy(&head), expected);
                service.write_all(ANSWER).await.expect("an answer");
            }
            for one in waiting {
                let head = one.await.answer(&Method::GET, LONG).await.expect("an answer");
                assert_eq!(head.status, 204);
            }
            assert!(gathering.0.waiting.borrow().is_empty() && gathering.0.next.borrow().is_empty());
        });
    }

    #[test]
    fn who_waits_is_woken_by_its_own_answer_alone() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let (first, mut service, _) = exchange(&listener, "/first").await;
            let (second, mut silent, _) = exchange(&listener, "/second").await;
            let others = gathering.clone();
            let second = spawn_local(async move { others.begin(second).await.is_sent() });
            let task = spawn_local(async move { gathering.begin(first).await.answer(&Method::GET, LONG).await });
            for service in [&mut silent, &mut service] {
                assert!(service.read(&mut [0; 64]).await.expect("a request") > 0);
            }
            service.write_all(ANSWER).await.expect("an answer");
            assert_eq!(task.await.expect("no panic").map(|head| head.status.as_u16()), Ok(204));
            assert!(!second.is_finished());
        });
    }

    // What a service says unasked would be taken for the answer to the next request.
    #[test]
    fn what_came_before_a_request_went_out_is_no_answer_to_it() {
        on_a_worker(async {
            for ends in [false, true] {
                let (gathering, listener) = (Gathering::default(), service().await);
                let (exchange, mut service, _) = exchange(&listener, "/").await;
                let mut waiting = pin!(gathering.begin(exchange));
                assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                if ends {
                    service.shutdown().await.expect("an end");
                } else {
                    service.write_all(ANSWER).await.expect("an answer");
                }
                let mut exchange = waiting.await;
                let fault = exchange.answer(&Method::GET, LONG).await.map(|head| head.status);
                assert_eq!(fault, Err(Fault::Unanswered));
                assert_eq!(exchange.again(Fault::Unanswered, &Method::POST), Again::Here, "it never went out");
                assert!(nothing_has_come(&service));
            }
        });
    }

    #[test]
    fn one_that_is_given_up_sends_nothing() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let (exchange, mut service, _) = exchange(&listener, "/").await;
            let mut given_up = Box::pin(gathering.begin(exchange));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(given_up);
            assert!(gathering.0.waiting.borrow().is_empty());
            assert_eq!(service.read(&mut [0; 64]).await.ok(), Some(0), "its connection is closed");
        });
    }

    #[test]
    fn who_has_the_place_of_one_that_was_given_up_goes_out_once() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let cx = &mut Context::from_waker(Waker::noop());
            let (first, _closed, _) = exchange(&listener, "/first").await;
            let (second, mut service, _) = exchange(&listener, "/second").await;
            let mut given_up = Box::pin(gathering.begin(first));
            assert!(given_up.as_mut().poll(cx).is_pending());
            drop(given_up);
            let mut waiting = pin!(gathering.begin(second));
            assert!(waiting.as_mut().poll(cx).is_pending());
            assert_eq!(gathering.0.next.borrow().as_slice(), [0, 0]);
            let mut head = [0; 64];
            let read = service.read(&mut head).await.expect("a request");
            assert_eq!(head.get(..read), Some(&b"GET /second HTTP/1.1\r\n\r\n"[..]));
            service.write_all(ANSWER).await.expect("an answer");
            assert_eq!(waiting.await.answer(&Method::GET, LONG).await.map(|head| head.status.as_u16()), Ok(204));
            assert_eq!(service.read(&mut head).await.ok(), Some(0), "once, and then its connection is closed");
            assert!(!gathering.0.is_sending.get());
        });
    }

    #[test]
    fn those_that_nobody_begins_any_more_begin_by_themselves() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let (exchange, mut service, _) = exchange(&listener, "/").await;
            gathering.0.is_sending.set(true);
            let others = gathering.clone();
            let answer = async move { others.begin(exchange).await.answer(&Method::GET, LONG).await };
            let task = spawn_local(answer);
            yield_now().await;
            assert!(nothing_has_come(&service) && !gathering.0.waiting.borrow().is_empty());
            drop(Sender(gathering));
            assert!(service.read(&mut [0; 64]).await.expect("a request") > 0);
            service.write_all(ANSWER).await.expect("an answer");
            assert_eq!(task.await.expect("no panic").map(|head| head.status.as_u16()), Ok(204));
        });
    }

    /// Panics the first time that it is woken.
    #[derive(Default)]
    struct Panics(AtomicUsize);

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            assert_ne!(self.0.fetch_add(1, Ordering::Relaxed), 0, "as asked for");
        }
    }

    #[test]
    fn where_one_panics_as_it_begins_it_and_the_others_are_given_back() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let (first, mut unasked, _) = exchange(&listener, "/first").await;
            let (second, mut service, _) = exchange(&listener, "/second").await;
            let panics = Arc::new(Panics::default());
            let mut panicking = pin!(gathering.begin(first));
            let waker = Arc::clone(&panics).into();
            assert!(panicking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            unasked.write_all(ANSWER).await.expect("an answer");
            let others = gathering.clone();
            let answer = async move { others.begin(second).await.answer(&Method::GET, LONG).await };
            let task = spawn_local(answer);
            assert!(service.read(&mut [0; 64]).await.expect("a request") > 0);
            service.write_all(ANSWER).await.expect("an answer");
            assert_eq!(task.await.expect("no panic").map(|head| head.status.as_u16()), Ok(204));
            assert_eq!(panics.0.load(Ordering::Relaxed), 2, "it was woken again");
            assert!(panicking.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        });
    }

    #[test]
    fn one_whose_time_is_over_is_told() {
        on_a_worker(async {
            let (gathering, listener) = (Gathering::default(), service().await);
            let (exchange, mut service, alarms) = exchange(&listener, "/").await;
            let answer = async move { gathering.begin(exchange).await.answer(&Method::GET, LONG).await };
            let task = spawn_local(answer);
            let _request = service.read(&mut [0; 64]).await.expect("a request");
            alarms.look(clock::monotonic() + LONG * 2);
            assert_eq!(task.await.expect("no panic").map(|head| head.status), Err(Fault::TimedOut));
        });
    }

    #[test]
    fn only_where_many_are_under_way_is_it_worth_while_to_wait() {
        let gathering = Gathering::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut under_way = Vec::new();
        for _ in 1..MANY {
            match pin!(gathering.join(true)).poll(cx) {
                Poll::Ready(counted) => under_way.push(counted),
                Poll::Pending => panic!("few are under way"),
            }
        }
        assert!(!gathering.is_worth_it());
        {
            let mut one_more = pin!(gathering.join(true));
            assert!(one_more.as_mut().poll(cx).is_pending() && gathering.is_worth_it());
            assert!(one_more.as_mut().poll(cx).is_ready(), "one turn is enough");
        }
        // One that is given up while it waits is not counted any longer either.
        assert_eq!(gathering.0.under_way.get(), MANY - 1);
        drop(under_way);
        assert_eq!(gathering.0.under_way.get(), 0);
    }
}
