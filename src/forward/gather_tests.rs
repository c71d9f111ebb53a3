//! Exchanges that are begun together, in a runtime of their own.

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
