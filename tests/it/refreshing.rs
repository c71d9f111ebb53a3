//! A refresh token becomes the next one once, whoever sends it however often, and a copy of it ends the login.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fault::Fault;
use crate::support::logins::*;
use crate::support::redis::Redis;
use crate::support::until;

#[test]
fn many_refreshes_of_one_token_give_one_successor_and_a_copy_that_is_used_later_ends_the_login() {
    on_each_store(|store| {
        let member = member();
        let gateway = Setup { store, ..Setup::default() }.start(member.address);
        let one = login(&gateway, &hong());
        let gate = Arc::new(Barrier::new(64));
        let threads: Vec<_> = (0..64)
            .map(|_| {
                let (gate, token, address) = (Arc::clone(&gate), one.refresh.clone(), gateway.address);
                std::thread::spawn(move || {
                    gate.wait();
                    let answer = refresh(address, &token);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    body(&answer)["refresh_token"].as_str().expect("text").to_owned()
                })
            })
            .collect();
        let successors: HashSet<String> = threads.into_iter().map(|thread| thread.join().expect("200")).collect();
        assert_eq!(successors.len(), 1, "{store}");
        let successor = successors.into_iter().next().expect("one");
        assert_ne!(successor, one.refresh);
        assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 200);
        // A made-up token of the same login ends nothing.
        let forged = format!("{}{}", &one.refresh[..40], &one.refresh[40..].chars().rev().collect::<String>());
        for odd in [forged.as_str(), "", "x", &format!("{}A", one.refresh)] {
            assert_eq!(refresh(gateway.address, odd).status, 400);
        }
        let answer = refresh(gateway.address, &successor);
        assert_eq!(answer.status, 200);
        let third = body(&answer);
        let fresh = third["access_token"].as_str().expect("text");
        assert_eq!(by_token(&gateway, "/me/x", fresh).status, 200);
        // When the grace is over.
        let mut replayed = refresh(gateway.address, &one.refresh);
        until("the grace is over", || {
            replayed = refresh(gateway.address, &one.refresh);
            replayed.status != 200
        });
        assert_eq!((replayed.status, &body(&replayed)["error"]), (400, &json!("invalid_grant")));
        assert_eq!(gateway.line_of(&replayed)["outcome"], "reused_grant");
        assert!(gateway.lines().iter().any(|line| line.contains("a refresh token was used again: its login ends")));
        for token in [&one.access, fresh] {
            until("its access tokens are dead", || by_token(&gateway, "/me/x", token).status == 401);
        }
        until("its session is dead", || by_cookie(&gateway, "/me/x", &one.cookie).status == 401);
        for token in [&successor, third["refresh_token"].as_str().expect("text")] {
            let answer = refresh(gateway.address, token);
            assert_eq!(answer.status, 400);
            assert_eq!(gateway.line_of(&answer)["outcome"], "invalid_grant");
        }
    });
}

/// A token of the last days before `refresh.ttl` was made shorter is no better than one of today.
#[test]
fn a_life_that_is_made_shorter_counts_for_logins_of_before() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    let setup = Setup { store: &url, refresh: "refresh: { ttl: 1h }", ..Setup::default() };
    let first = setup.start(member.address);
    let one = login(&first, &hong());
    assert_eq!(refresh(first.address, &one.refresh).status, 200);
    let one = login(&first, &hong());
    let short = Setup { refresh: "refresh: { ttl: 2s }", issuer: "access_ttl: 1s", ..setup };
    let second = short.start_beside(&first, member.address);
    let started = Instant::now();
    until("two seconds have passed", || started.elapsed() > Duration::from_secs(2));
    assert_eq!(refresh(second.address, &one.refresh).status, 400);
    assert_eq!(refresh(first.address, &one.refresh).status, 200, "it is not over for who says one hour");
    let bounded = Setup { refresh: "refresh: { ttl: 1h, max_life: 3s }", issuer: "access_ttl: 2s", ..setup };
    let third = bounded.start_beside(&first, member.address);
    let first_pair = login(&third, &hong());
    let began = claims(&first_pair.access).1["iat"].as_i64().expect("a time");
    let mut token = first_pair.refresh;
    until("it is over, however often it is refreshed", || {
        let answer = refresh(third.address, &token);
        if answer.status == 200 {
            let pair = body(&answer);
            assert!(pair["refresh_expires_in"].as_u64().expect("seconds") <= 3);
            // Nor does an access token outlive its login.
            let (ends, life) =
                (claims(pair["access_token"].as_str().expect("text")).1["exp"].as_i64(), &pair["expires_in"]);
            assert!(
                ends.is_some_and(|ends| ends <= began + 3) && life.as_i64().is_some_and(|life| life <= 2),
                "{pair}"
            );
            pair["refresh_token"].as_str().expect("text").clone_into(&mut token);
        }
        answer.status == 400
    });
}

/// What is not known of a login costs it nothing, and one that has been taken back leaves nothing that could live on.
#[test]
fn a_refresh_that_is_not_answered_turns_nothing_on_and_one_that_is_refused_keeps_nothing() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    for rotate in [true, false] {
        let refreshing = format!("refresh: {{ ttl: 1h, reuse_grace: 0s, rotate: {rotate} }}");
        let gateway = Setup { store: &url, refresh: &refreshing, ..Setup::default() }.start(member.address);
        let one = login(&gateway, &hong());
        redis.command(&["SET", "logout:hong", "not a time"]);
        for _ in 0..3 {
            assert_eq!(refresh(gateway.address, &one.refresh).status, 503);
        }
        redis.command(&["DEL", "logout:hong"]);
        let answer = refresh(gateway.address, &one.refresh);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let next = body(&answer)["refresh_token"].as_str().expect("text").to_owned();
        assert_eq!(next != one.refresh, rotate);
        let sid = claims(&one.access).1["sid"].as_str().expect("text").to_owned();
        let family = format!("bearward:family:{sid}");
        assert_eq!(redis.command(&["EXISTS", &family]).trim(), "1");
        redis.command(&["SET", &format!("session-revoked:{sid}"), "1"]);
        assert_eq!(refresh(gateway.address, &next).status, 400);
        assert_eq!(redis.command(&["EXISTS", &family]).trim(), "0");
        redis.command(&["DEL", &format!("session-revoked:{sid}")]);
        assert_eq!(refresh(gateway.address, &next).status, 400);
    }
}

/// A turn that reaches the store when the client has long given it up is none: the token that it has is still good.
#[test]
fn a_turn_that_comes_too_late_to_the_store_is_not_made() {
    let (redis, member) = (Redis::start(), member());
    let fault = Fault::before(redis.port);
    let url = fault.url();
    let setup = Setup { store: &url, refresh: "refresh: { ttl: 1h, reuse_grace: 1s }", ..Setup::default() };
    let gateway = setup.start(member.address);
    let one = login(&gateway, &hong());
    fault.delay(Duration::from_millis(350));
    let answer = refresh(gateway.address, &one.refresh);
    assert_eq!(answer.status, 503, "{}", answer.text());
    fault.delay(Duration::ZERO);
    let started = Instant::now();
    until("the grace would be over", || started.elapsed() > Duration::from_secs(2));
    until("the store says something", || {
        let answer = refresh(gateway.address, &one.refresh);
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        answer.status == 200
    });
}
