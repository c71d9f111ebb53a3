//! Many connections at once on the route that asks the store: nothing is lost, nothing is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::gateway::{get, token, with_store};
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
