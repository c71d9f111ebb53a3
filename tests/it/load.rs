//! Many connections at once on the route that asks the store: nothing is lost, nothing is refused.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{config, customer, get, token, with_store};
use crate::support::redis::Redis;
use crate::support::{Gateway, Upstream, until};

/// What wrk does with 64 connections, without its statistics.
#[test]
fn sixty_four_connections_with_a_look_up_for_each_request_lose_none() {
    const REQUESTS: usize = 300;
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let routes = "  - { id: me, match: { path: \"/me/**\" }, upstream: echo, access: authenticated }";
    let yaml = with_store(upstream.address, &redis.url(), "", routes);
    let gateway = Gateway::start(&yaml.replace("revocation: { keys", "revocation: { mode: lookup, keys"));
    let tokens: Vec<String> = (0..8).map(|number| token(&json!({ "sub": format!("user-{number}") }))).collect();
    // So many that they do not all come to one of the two.
    until("every worker has its link", || (0..24).all(|_| gateway.get("/me/x", Some(&tokens[0])).status == 200));
    let asked = redis.command(&["INFO", "commandstats"]);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..64 {
            let (gateway, token, answered) = (&gateway, &tokens[number % 8], &answered);
            scope.spawn(move || {
                let mut client = gateway.client();
                for _ in 0..REQUESTS {
                    let answer = client.send(get("/me/x", Some(token)));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let whose = format!("x-user-id: user-{}\r\n", number % 8);
                    assert!(answer.text().contains(&whose), "somebody else's identity: {}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answered.load(Ordering::Relaxed), 64 * REQUESTS);
    // The store was really asked for each of them.
    let calls = |info: &str| -> usize {
        let line = info.lines().find(|line| line.starts_with("cmdstat_exists:")).expect("look-ups");
        line.split(['=', ',']).nth(1).and_then(|text| text.parse().ok()).expect("a number")
    };
    let now = redis.command(&["INFO", "commandstats"]);
    assert!(calls(&now) - calls(&asked) >= 64 * REQUESTS, "{asked} {now}");
}

/// All of a burst are under way at once, so that they go out together; every other connection to the service ends with its
/// answer without a word, and some clients leave before theirs.
#[test]
fn bursts_over_connections_that_end_between_them_lose_no_request() {
    const CLIENTS: usize = 48;
    const ROUNDS: usize = 12;
    let come = AtomicUsize::new(0);
    let upstream = Upstream::scripted(move |seen, stream| {
        // Nobody is answered before half of a burst is here; a deadline, since some of it may never come.
        let mine = come.fetch_add(1, Ordering::SeqCst) / CLIENTS * CLIENTS;
        until_or_late(|| come.load(Ordering::SeqCst) >= mine + CLIENTS / 2);
        let line = seen.line();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        stream.write_all(answer.as_bytes()).is_ok() && !seen.connection.is_multiple_of(2)
    });
    let gateway = Gateway::start_with(&config(upstream.address, ""), &["--workers", "1"]);
    let (token, ready) = (customer(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (gateway, token, ready) = (&gateway, &token, &ready);
            scope.spawn(move || {
                let mut client = gateway.client();
                for round in 0..ROUNDS {
                    let path = format!("/orders/{number}-{round}");
                    ready.fetch_add(1, Ordering::SeqCst);
                    until_or_late(|| ready.load(Ordering::SeqCst) >= (round + 1) * CLIENTS);
                    if (number + round).is_multiple_of(9) {
                        client.write(get(&path, Some(token)));
                        client = gateway.client();
                        continue;
                    }
                    let answer = client.send(get(&path, Some(token)));
                    assert_eq!((answer.status, answer.text()), (200, format!("GET {path} HTTP/1.1")));
                }
            });
        }
    });
}

/// Waits for a condition, for no longer than a burst may need.
fn until_or_late(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_millis(300);
    while !holds() && Instant::now() < end {
        std::thread::yield_now();
    }
}
