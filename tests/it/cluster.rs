//! A cluster: each primary tells of its keys, and what changes hands is never taken for clear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::gateway::{signal, token, with_store};
use crate::support::{Gateway, Upstream, until};

const ROUTES: &str = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: money, match: { path: "/money" }, upstream: echo, access: authenticated, revocation: { mode: lookup } }
"#;

fn start(cluster: &Cluster) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = beside(cluster, &upstream);
    (upstream, gateway)
}

fn beside(cluster: &Cluster, upstream: &Upstream) -> Gateway {
    Gateway::start(&with_store(upstream.address, &cluster.url(), "", ROUTES))
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.get(path, Some(token)).status
}

fn blacklisted(jti: &str) -> String {
    format!("blacklist:{jti}")
}

#[test]
fn a_token_is_clear_only_where_every_primary_that_has_a_key_of_it_says_so() {
    let cluster = Cluster::start(3, 0);
    let (_upstream, gateway) = start(&cluster);
    // One key at each primary.
    let claims = json!({
        "jti": cluster.name_at(0, 3, blacklisted),
        "sid": cluster.name_at(1, 3, |sid| format!("session-revoked:{sid}")),
        "sub": cluster.name_at(2, 3, |sub| format!("logout:{sub}")),
    });
    let good = token(&claims);
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(&gateway, path, &good) == 200);
    }
    let later = (crate::support::now() + 1).to_string();
    for (key, value) in [
        (blacklisted(claims["jti"].as_str().expect("text")), "1"),
        (format!("session-revoked:{}", claims["sid"].as_str().expect("text")), "1"),
        (format!("logout:{}", claims["sub"].as_str().expect("text")), &*later),
    ] {
        assert_eq!(cluster.command(&["SET", &key, value]), "OK");
        for path in ["/me/x", "/money"] {
            until("it is refused", || status(&gateway, path, &good) == 401);
        }
        assert_eq!(cluster.command(&["DEL", &key]), "1");
        for path in ["/me/x", "/money"] {
            until("it is taken again", || status(&gateway, path, &good) == 200);
        }
    }
}

#[test]
fn a_cluster_is_revoked_in_read_and_listed_through_the_gateway() {
    let cluster = Cluster::start(3, 0);
    let (_upstream, gateway) = start(&cluster);
    let (_other_upstream, other) = start(&cluster);
    until("both serve", || [&gateway, &other].iter().all(|it| status(it, "/me/x", &token(&json!({}))) == 200));
    let jtis: Vec<String> = (0..60).map(|number| format!("c-{number}")).collect();
    for (number, jti) in jtis.iter().enumerate() {
        let held = token(&json!({ "jti": jti }));
        assert_eq!((status(&gateway, "/me/x", &held), status(&other, "/me/x", &held)), (200, 200), "{jti}");
        let ack = if number % 2 == 0 { "primary" } else { "all" };
        let answer = gateway.admin("POST", "/revocations", &json!({ "jti": jti, "ack": ack }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        if ack == "all" {
            assert_eq!(answer.json()["confirmed"].as_array().map(Vec::len), Some(2), "{}", answer.text());
            // From now on, and not a little later.
            assert_eq!((status(&gateway, "/me/x", &held), status(&other, "/me/x", &held)), (401, 401), "{jti}");
        }
        until("it is refused", || status(&other, "/me/x", &held) == 401);
    }
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = gateway.admin("GET", &format!("/revocations?kind=jti&after={after}"), "");
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        listed.extend(page["revocations"].as_array().expect("a list").iter().map(|entry| entry["key"].clone()));
        match page["after"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    for jti in &jtis {
        assert!(listed.contains(&json!(blacklisted(jti))), "{jti} of {listed:?}");
    }
    let ready = gateway.admin("GET", "/readyz", "");
    assert_eq!(ready.status, 200, "{}", ready.text());
}

// A key that is absent where its slot was may be written where the slot goes: what is known of it is
// worth nothing from then on, although nobody tells.
#[test]
fn a_key_whose_slot_is_on_its_way_is_asked_for_where_it_is() {
    let cluster = Cluster::start(2, 0);
    let (_upstream, gateway) = start(&cluster);
    let jti = cluster.name_at(0, 2, blacklisted);
    let (key, good) = (blacklisted(&jti), token(&json!({ "jti": jti })));
    let slot = cluster.slot(&key);
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(&gateway, path, &good) == 200);
    }
    cluster.open(slot, 0, 1);
    let wait = Instant::now() + Duration::from_secs(1);
    while Instant::now() < wait {
        assert_eq!(status(&gateway, "/me/x", &good), 200, "a slot that is on its way is no outage");
        assert_eq!(status(&gateway, "/money", &good), 200);
    }
    // At the other node, which the one that told of it hears nothing of.
    assert_eq!(cluster.command(&["SET", &key, "1"]), "OK");
    assert_eq!(cluster.nodes[0].command(&["EXISTS", &key]).split(' ').next(), Some("ASK"));
    for path in ["/me/x", "/money"] {
        assert_eq!(status(&gateway, path, &good), 401);
    }
    // By the gateway itself as well.
    let hash = format!("{{{key}}}");
    let other = json!({ "jti": hash, "ack": "all" });
    assert_eq!(cluster.slot(&blacklisted(&hash)), slot);
    let answer = gateway.admin("POST", "/revocations", &other.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(status(&gateway, "/me/x", &token(&json!({ "jti": hash }))), 401);
    cluster.move_keys(slot, 0, 1);
    cluster.close(slot, 0, 1);
    for path in ["/me/x", "/money"] {
        assert_eq!(status(&gateway, path, &good), 401);
    }
    assert_eq!(cluster.command(&["DEL", &key]), "1");
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(&gateway, path, &good) == 200);
    }
    assert_eq!(cluster.command(&["SET", &key, "1"]), "OK");
    until("it is told of at the new place", || status(&gateway, "/me/x", &good) == 401);
}

// A node that was just added has no slots, and the first one may be the one of the lease.
#[test]
fn a_slot_may_be_on_its_way_to_a_primary_without_any() {
    let cluster = Cluster::start_with_spare(2, 0, 1);
    let (_upstream, gateway) = start(&cluster);
    for key in [blacklisted("{lease}"), "{bearward:}epoch".to_owned()] {
        let slot = cluster.slot(&key);
        let from = usize::from(slot >= 8192);
        let jti = key.strip_prefix("blacklist:").unwrap_or("other").to_owned();
        let held = token(&json!({ "jti": jti }));
        for path in ["/me/x", "/money"] {
            until("it is taken", || status(&gateway, path, &held) == 200);
        }
        cluster.open(slot, from, 2);
        let opened = Instant::now();
        while opened.elapsed() < Duration::from_millis(1500) {
            assert_eq!((status(&gateway, "/me/x", &held), status(&gateway, "/money", &held)), (200, 200), "{key}");
        }
        for ack in ["primary", "all"] {
            let answer = gateway.admin("POST", "/revocations", &json!({ "jti": jti, "ack": ack }).to_string());
            assert_eq!(answer.status, 200, "{key}: {}", answer.text());
        }
        for path in ["/me/x", "/money"] {
            assert_eq!(status(&gateway, path, &held), 401, "{key}");
        }
        cluster.move_keys(slot, from, 2);
        cluster.close(slot, from, 2);
        assert_eq!(status(&gateway, "/me/x", &held), 401, "{key}");
        let good = token(&json!({ "jti": format!("after-{slot}") }));
        until("it goes on", || status(&gateway, "/me/x", &good) == 200);
    }
}

#[test]
fn a_slot_that_nobody_has_is_an_outage_of_its_own_keys_alone() {
    let cluster = Cluster::start(2, 0);
    let (_upstream, gateway) = start(&cluster);
    let good = token(&json!({}));
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    // Where the gateway's own probes are, and one of a token.
    let lost = token(&json!({ "jti": "lost" }));
    for key in ["blacklist:bearward-probe", "session-revoked:bearward-probe", "blacklist:lost"] {
        let slot = cluster.slot(key).to_string();
        for node in &cluster.nodes {
            node.command(&["CLUSTER", "DELSLOTS", &slot]);
        }
    }
    until("it is nobody's", || status(&gateway, "/me/x", &lost) == 503);
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        assert_eq!((status(&gateway, "/me/x", &good), status(&gateway, "/money", &good)), (200, 200));
        assert_eq!((status(&gateway, "/me/x", &lost), status(&gateway, "/money", &lost)), (503, 503));
    }
}

// It may be cut off from the others, and go on as if nothing were.
#[test]
fn a_primary_that_does_not_know_that_it_was_replaced_is_not_believed() {
    let cluster = Cluster::start(3, 1);
    let (_upstream, gateway) = start(&cluster);
    let place = (cluster.slot("{bearward:}epoch") / 5462 + 1) % 3;
    let (jti, another) = (cluster.name_at(place, 3, blacklisted), cluster.name_at((place + 1) % 3, 3, blacklisted));
    let held = token(&json!({ "jti": jti }));
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(&gateway, path, &held) == 200);
    }
    // From now on it hears nothing of the others, and has all that it had.
    let (old, new) = (&cluster.nodes[place], &cluster.nodes[place + 3]);
    for other in (0..6).filter(|other| *other != place) {
        assert_eq!(old.command(&["CLUSTER", "FORGET", &cluster.id(other)]), "OK");
    }
    assert_eq!(new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    until("it has taken over", || new.command(&["SET", &blacklisted(&jti), "1"]) == "OK");
    let written = Instant::now();
    assert!(old.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    assert_eq!(old.command(&["EXISTS", &blacklisted(&jti)]), "0");
    let answer = gateway.admin("POST", "/revocations", &json!({ "jti": another, "ack": "all" }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    for path in ["/me/x", "/money"] {
        assert_ne!(status(&gateway, path, &held), 200, "all that was written before is applied");
        until("it is refused", || status(&gateway, path, &held) == 401);
    }
    println!("refused {:?} after it was written", written.elapsed());
}

#[test]
fn another_node_at_the_address_of_a_dead_one_is_not_believed() {
    let mut cluster = Cluster::start(3, 0);
    let (_upstream, gateway) = start(&cluster);
    let place = (cluster.slot("{bearward:}epoch") / 5462 + 1) % 3;
    let jti = cluster.name_at(place, 3, blacklisted);
    let held = token(&json!({ "jti": jti }));
    cluster.command(&["SET", &blacklisted(&jti), "1"]);
    for path in ["/me/x", "/money"] {
        until("it is refused", || status(&gateway, path, &held) == 401);
    }
    let port = cluster.nodes.remove(place).kill();
    let foreign = crate::support::cluster::node_on(Some(port));
    foreign.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("it serves", || foreign.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for path in ["/me/x", "/money"] {
            assert_ne!(status(&gateway, path, &held), 200);
        }
    }
}

// `BEARWARD_TURNS` sets how often the slot moves.
#[test]
fn a_slot_that_moves_under_load_loses_no_revocation() {
    let turns = std::env::var("BEARWARD_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let cluster = Cluster::start(2, 0);
    let (_upstream, gateway) = start(&cluster);
    // The hash tag puts all of them into one slot.
    let jti = |number: usize| format!("{{moving}}-{number}");
    let slot = cluster.slot(&blacklisted(&jti(0)));
    let mut owner = usize::from(slot >= 8192);
    until("it serves", || status(&gateway, "/me/x", &token(&json!({ "jti": jti(0) }))) == 200);
    let is_over = AtomicBool::new(false);
    let (mut moved, mut slowest) = (0, Duration::ZERO);
    let count = std::thread::scope(|scope| {
        let revoking = [0, 1].map(|lane| {
            let (gateway, cluster, is_over) = (&gateway, &cluster, &is_over);
            scope.spawn(move || {
                let (mut count, mut slowest) = (0, Duration::ZERO);
                while !is_over.load(Ordering::Relaxed) {
                    let jti = jti(2 * count + lane);
                    let held = token(&json!({ "jti": jti }));
                    // A slot on its way may cost an answer, and never gives a wrong one.
                    let mut seen = 0;
                    until("it is taken", || {
                        seen = status(gateway, "/me/x", &held);
                        assert!(matches!(seen, 200 | 503), "{jti}: {seen}");
                        seen == 200
                    });
                    if lane == 0 {
                        // As a service does that knows nothing of gateways.
                        assert_eq!(cluster.command(&["SET", &blacklisted(&jti), "1"]), "OK");
                    } else {
                        let order = json!({ "jti": jti, "ack": "primary" }).to_string();
                        until("it is revoked", || gateway.admin("POST", "/revocations", &order).status == 200);
                    }
                    let revoked = Instant::now();
                    loop {
                        let (asked, seen) = (revoked.elapsed(), status(gateway, "/me/x", &held));
                        if seen == 401 {
                            break;
                        }
                        assert!(seen == 503 || asked < Duration::from_secs(1), "{jti} is lost: {seen} after {asked:?}");
                        if seen == 200 {
                            slowest = slowest.max(revoked.elapsed());
                        }
                    }
                    count += 1;
                }
                (count, slowest)
            })
        });
        while moved < turns {
            let to = 1 - owner;
            cluster.open(slot, owner, to);
            // Long enough that what is let in is let in after its deadline.
            let opened = Instant::now();
            until("it has been open for a while", || opened.elapsed() > Duration::from_millis(1300));
            cluster.move_keys(slot, owner, to);
            cluster.close(slot, owner, to);
            (owner, moved) = (to, moved + 1);
        }
        is_over.store(true, Ordering::Relaxed);
        revoking.map(|lane| {
            let (count, longest) = lane.join().expect("no token is lost");
            slowest = slowest.max(longest);
            count
        })
    });
    for (lane, count) in count.into_iter().enumerate() {
        for number in 0..count {
            let held = token(&json!({ "jti": jti(2 * number + lane) }));
            until("it is still refused", || {
                let seen = status(&gateway, "/me/x", &held);
                assert!(matches!(seen, 401 | 503), "{number}: {seen}");
                seen == 401
            });
        }
    }
    println!("{count:?} revocations while the slot moved {moved} times; last let in after {slowest:?}");
}

#[test]
fn what_a_replica_has_acknowledged_outlives_the_primary_of_its_slot() {
    let mut cluster = Cluster::start(3, 1);
    let (_upstream, gateway) = start(&cluster);
    // The lease is at one primary, the key at another.
    let lease = cluster.slot("{bearward:}epoch") / 5462;
    let (place, third) = ((lease + 1) % 3, (lease + 2) % 3);
    let jti = cluster.name_at(place, 3, blacklisted);
    let elsewhere = |kind: &'static str| cluster.name_at(third, 3, |name| format!("{kind}:{name}"));
    let (login, subject) = (elsewhere("session"), elsewhere("logout"));
    let held = token(&json!({ "jti": jti, "sid": login, "sub": subject }));
    let good = token(&json!({ "jti": elsewhere("blacklist"), "sid": login, "sub": subject }));
    until("both are taken", || [&held, &good].iter().all(|it| status(&gateway, "/me/x", it) == 200));
    let answer = gateway.admin("POST", "/revocations", &json!({ "jti": jti, "ack": "replica" }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    until("it is refused", || status(&gateway, "/me/x", &held) == 401);
    cluster.nodes.remove(place).kill();
    until("its replica has taken over, and says the same", || {
        // What other primaries have is not touched; what it had is never clear.
        assert_eq!(status(&gateway, "/me/x", &good), 200);
        match status(&gateway, "/me/x", &held) {
            401 => cluster.nodes[0].command(&["CLUSTER", "INFO"]).contains("cluster_slots_ok:16384"),
            503 => false,
            other => panic!("{other}"),
        }
    });
    for path in ["/me/x", "/money"] {
        until("it is refused", || {
            let seen = status(&gateway, path, &held);
            assert!(matches!(seen, 401 | 503), "{seen}");
            seen == 401
        });
    }
    let answer = gateway.admin("POST", "/revocations", &json!({ "jti": jti, "ack": "all" }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_primary_that_is_silent_makes_its_tokens_stale_and_no_others() {
    let cluster = Cluster::start(3, 0);
    let (_upstream, gateway) = start(&cluster);
    let lease = cluster.slot("{bearward:}epoch") / 5462;
    let (place, third) = ((lease + 1) % 3, (lease + 2) % 3);
    let at = |place: usize, kind: &'static str| cluster.name_at(place, 3, |name| format!("{kind}:{name}"));
    let (login, subject) = (at(third, "session"), at(third, "logout"));
    let silent = token(&json!({ "jti": at(place, "blacklist"), "sid": login, "sub": subject }));
    let good = token(&json!({ "jti": at(third, "blacklist"), "sid": login, "sub": subject }));
    until("both are taken", || [&silent, &good].iter().all(|it| status(&gateway, "/me/x", it) == 200));
    cluster.nodes[place].freeze();
    let frozen = Instant::now();
    until("its tokens are stale", || match (status(&gateway, "/me/x", &silent), frozen.elapsed()) {
        (503, _) => true,
        (200, since) => {
            assert!(since < Duration::from_secs(2), "served for {since:?}");
            false
        }
        (other, _) => panic!("{other}"),
    });
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(status(&gateway, "/me/x", &good), 200, "others go on");
        assert_eq!(status(&gateway, "/me/x", &silent), 503);
    }
    cluster.nodes[place].thaw();
    until("it heals", || match status(&gateway, "/me/x", &silent) {
        200 => true,
        503 => false,
        other => panic!("{other}"),
    });
    // The one that has the leases: then nobody may say anything.
    cluster.nodes[lease].freeze();
    until("all are stale", || status(&gateway, "/me/x", &good) == 503);
    cluster.nodes[lease].thaw();
    until("it heals", || status(&gateway, "/me/x", &good) == 200);
}

#[test]
fn a_cluster_says_in_words_what_it_lacks() {
    let cluster = Cluster::start(2, 0);
    // The line in docs/revocation.md with what the page says of a cluster.
    let page = std::fs::read_to_string("docs/revocation.md").expect("the page");
    assert!(
        page.contains("`+cluster|nodes +asking`") && page.contains("`~{bearward:}*` in the place of `~bearward:*`")
    );
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER bearward")).expect("the line");
    let line = line.replace("~bearward:*", "~{bearward:}*");
    let line = format!("{line} +cluster|nodes +asking");
    let allow: Vec<&str> = line.split(' ').collect();
    for node in &cluster.nodes {
        assert_eq!(node.command(&allow), "OK");
    }
    let upstream = Upstream::echo();
    let url = cluster.url().replace("://", "://bearward:password@");
    let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    let good = token(&json!({}));
    for path in ["/me/x", "/money"] {
        until("what is documented is enough", || status(&gateway, path, &good) == 200);
    }
    let answer = gateway.admin("POST", "/revocations", &json!({ "jti": "a", "ack": "all" }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    for node in &cluster.nodes {
        assert_eq!(node.command(&["ACL", "SETUSER", "bearward", "-cluster|nodes"]), "OK");
    }
    until("it is stale", || status(&gateway, "/me/x", &good) == 503);
    let says = |gateway: &Gateway, words: &str| gateway.lines().iter().any(|line| line.contains(words));
    until("it is told", || says(&gateway, "CLUSTER NODES is refused: NOPERM"));
    // The wrong kind of URL, both ways.
    let alone = crate::support::redis::Redis::start();
    for (url, words) in [
        (cluster.nodes[0].url(), "it is one node of a cluster: the URL is to be `redis+cluster://"),
        (format!("redis+cluster://127.0.0.1:{}", alone.port), "CLUSTER NODES is refused: ERR"),
    ] {
        let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
        until("it is told", || says(&gateway, words));
        assert_eq!(status(&gateway, "/me/x", &good), 503);
    }
}

// What was written a moment before another primary took the slot over is not there; gateways that ask that one by then would
// let the token in that they have just been said to refuse.
#[test]
fn a_revocation_that_all_have_confirmed_is_where_they_ask() {
    let cluster = Cluster::start(3, 1);
    let (upstream, gateway) = start(&cluster);
    let other = beside(&cluster, &upstream);
    let place = (cluster.slot("{bearward:}epoch") / 5462 + 1) % 3;
    let jti = cluster.name_at(place, 3, blacklisted);
    let held = token(&json!({ "jti": jti }));
    for gateway in [&gateway, &other] {
        until("it is taken", || status(gateway, "/me/x", &held) == 200);
    }
    // The replica hears nothing any more, and another gateway has everybody wait for its lease to run out.
    let (old, new) = (&cluster.nodes[place], &cluster.nodes[place + 3]);
    old.command(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
    old.command(&["CLIENT", "KILL", "TYPE", "replica"]);
    signal(other.id(), "STOP");
    let body = json!({ "jti": jti, "ack": "all" }).to_string();
    std::thread::scope(|scope| {
        let revoked = scope.spawn(|| gateway.admin("POST", "/revocations", &body));
        until("it is written", || old.command(&["EXISTS", &blacklisted(&jti)]) == "1");
        assert_eq!(new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
        assert_eq!(new.command(&["EXISTS", &blacklisted(&jti)]), "0");
        let answer = revoked.join().expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    for path in ["/me/x", "/money"] {
        assert_eq!(status(&gateway, path, &held), 401, "{path}");
    }
    signal(other.id(), "CONT");
    until("it is refused there, too", || status(&other, "/me/x", &held) == 401);
}

#[test]
fn a_gateway_without_a_lease_lets_nobody_in_by_a_look_up_either() {
    let cluster = Cluster::start(3, 0);
    let (_upstream, gateway) = start(&cluster);
    let good = token(&json!({ "jti": "good" }));
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(&gateway, path, &good) == 200);
    }
    for node in &cluster.nodes {
        let rules = ["resetkeys", "%R~{bearward:}*", "%R~bearward:*", "~blacklist:*", "~session:*", "~logout:*"];
        node.command(&[&["ACL", "SETUSER", "default"][..], &rules].concat());
    }
    for path in ["/me/x", "/money"] {
        until("nobody is let in", || status(&gateway, path, &good) == 503);
    }
}
