//! Forced logout without a call to Redis per request: asked once, then told. Against a real Redis.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{get, token, with_store};
use crate::support::redis::Redis;
use crate::support::sign::{self, Claims};
use crate::support::{Gateway, Upstream, now, until};

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: lax, match: { path: "/lax" }, upstream: echo, access: authenticated, revocation: { when_unavailable: allow } }
  - { id: money, match: { path: "/money" }, upstream: echo, access: authenticated, revocation: { mode: lookup } }
"#;

/// What `max_staleness` is here.
const STALE: Duration = Duration::from_secs(1);

fn start(redis: &Redis) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&with_store(upstream.address, &redis.url(), "", ROUTES));
    until("revocations are tracked", || gateway.admin("GET", "/readyz", "").status == 200);
    (upstream, gateway)
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.get(path, Some(token)).status
}

fn number(gateway: &Gateway, name: &str) -> f64 {
    let page = gateway.admin("GET", "/metrics", "").text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("bearward_{name} ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("{name}: {page}")).parse().expect("a number")
}

#[test]
fn a_key_that_a_service_writes_ends_a_token_that_is_in_use() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    for (write, undo) in [
        (["SET", "blacklist:a-1", "1"].as_slice(), "blacklist:a-1"),
        (&["HSET", "blacklist:a-1", "by", "admin"], "blacklist:a-1"),
        (&["SET", "session-revoked:s-1", "", "EX", "60"], "session-revoked:s-1"),
        (&["SET", "logout:kim", &(now() + 5).to_string()], "logout:kim"),
    ] {
        let token = token(&json!({ "jti": "a-1", "sid": "s-1" }));
        for _ in 0..20 {
            assert_eq!(status(&gateway, "/me/x", &token), 200);
        }
        redis.command(write);
        until("it is refused", || status(&gateway, "/me/x", &token) == 401);
        gateway.refuses(&upstream, &token, &["revoked"]);
        redis.command(&["DEL", undo]);
        until("it is taken again", || status(&gateway, "/me/x", &token) == 200);
    }
    // Written before it was ever asked for.
    redis.command(&["SET", "blacklist:b-1", "1"]);
    gateway.refuses(&upstream, &token(&json!({ "jti": "b-1" })), &["revoked"]);
    // Other keys of other tokens do not matter.
    let other = token(&json!({ "jti": "c-1" }));
    assert_eq!(status(&gateway, "/me/x", &other), 200);
    redis.command(&["SET", "blacklist:c-2", "1"]);
    assert_eq!(status(&gateway, "/me/x", &other), 200);
}

#[test]
fn a_token_in_use_costs_no_call_to_the_store() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let tokens: Vec<String> = (0..10).map(|n| token(&json!({ "sub": format!("user-{n}") }))).collect();
    tokens.iter().for_each(|token| assert_eq!(status(&gateway, "/me/x", token), 200));
    let (exists, started) = (redis.calls("exists"), Instant::now());
    let mut client = gateway.client();
    for round in 0..2000 {
        assert_eq!(client.send(get("/me/x", Some(&tokens[round % 10]))).status, 200);
    }
    // What is left are the proofs of two links, four a second and one a second, and a key that is
    // read again with each.
    let beats = started.elapsed().as_secs() as usize * 5 + 10;
    let more = redis.calls("exists") - exists;
    assert!(more <= beats * 3, "{more} look-ups for 2000 requests");
    assert_eq!(number(&gateway, "revocation_look_ups_total") as usize, 10);
    assert_eq!(number(&gateway, "revocation_tracked_keys") as usize, 20);
    assert!(number(&gateway, "revocation_staleness_seconds") < 1.0);
    // A route for money asks every time.
    let before = redis.calls("exists");
    for _ in 0..50 {
        assert_eq!(status(&gateway, "/money", &tokens[0]), 200);
    }
    assert!(redis.calls("exists") - before >= 50);
}

#[test]
fn a_silent_redis_is_503_once_it_is_stale_and_heals_by_itself() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let good = token(&json!({}));
    assert_eq!(status(&gateway, "/me/x", &good), 200);
    redis.freeze();
    let frozen = Instant::now();
    until("it is stale", || match status(&gateway, "/me/x", &good) {
        200 => {
            // Counted from before the request: a standing is never older than the limit when it is looked at.
            assert!(frozen.elapsed() < STALE + Duration::from_millis(300), "{:?}", frozen.elapsed());
            false
        }
        503 => true,
        other => panic!("{other}"),
    });
    for _ in 0..20 {
        let started = Instant::now();
        let answer = gateway.get("/me/x", Some(&good));
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert!(started.elapsed() < Duration::from_millis(500), "nobody waits for it");
    }
    assert_eq!((status(&gateway, "/lax", &good), gateway.get("/open/x", None).status), (200, 200));
    until("not ready", || gateway.admin("GET", "/readyz", "").status == 503);
    redis.thaw();
    until("it heals", || status(&gateway, "/me/x", &good) == 200);
    until("ready", || gateway.admin("GET", "/readyz", "").status == 200);
    let told = |what: &str| gateway.lines().iter().filter(|line| line.contains(what)).count();
    until("both changes are told", || told("revocations are tracked") == 2);
    assert_eq!(told("revocations are not tracked"), 1, "one line for one change of state");
}

// What was written while nobody listened is seen by the first request after it.
#[test]
fn nothing_that_a_lost_connection_said_survives_it() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    for round in 0..10 {
        let jti = format!("r-{round}");
        let good = token(&json!({ "jti": jti }));
        until("it is taken", || status(&gateway, "/me/x", &good) == 200);
        redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        redis.command(&["SET", &format!("blacklist:{jti}"), "1"]);
        until("it is refused", || match status(&gateway, "/me/x", &good) {
            401 => true,
            200 | 503 => false,
            other => panic!("{other}"),
        });
        gateway.refuses(&upstream, &good, &["revoked"]);
    }
    // Dead and back with nothing in it: what is asked anew is what counts.
    let good = token(&json!({ "jti": "z-1" }));
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    let port = redis.kill();
    until("it is refused", || status(&gateway, "/me/x", &good) == 503);
    for _ in 0..50 {
        assert_eq!(status(&gateway, "/me/x", &good), 503);
    }
    let redis = Redis::start_on(port);
    until("it heals", || status(&gateway, "/me/x", &good) == 200);
    redis.command(&["SET", "blacklist:z-1", "1"]);
    until("it is refused", || status(&gateway, "/me/x", &good) == 401);
}

#[test]
fn flushing_evicting_and_rights_that_are_taken_are_never_a_guess() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "gw", "on", ">pw", "~*", "+@all"]);
    let upstream = Upstream::echo();
    let url = format!("redis://gw:pw@127.0.0.1:{}", redis.port);
    let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    let good = token(&json!({ "jti": "f-1" }));
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    redis.command(&["SET", "blacklist:f-1", "1"]);
    until("it is refused", || status(&gateway, "/me/x", &good) == 401);
    // Whoever empties the store takes revocations back; the gateway knows at once.
    redis.command(&["FLUSHALL"]);
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    until("it is told", || gateway.lines().iter().any(|line| line.contains("the store was emptied")));
    redis.command(&["SET", "blacklist:f-1", "1"]);
    until("it is refused", || status(&gateway, "/me/x", &good) == 401);
    redis.command(&["DEL", "blacklist:f-1"]);
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    // A table of one key: Redis forgets by telling, so that nothing is missed.
    redis.command(&["CONFIG", "SET", "tracking-table-max-keys", "1"]);
    let many: Vec<String> = (0..20).map(|n| token(&json!({ "jti": format!("t-{n}"), "sub": "lee" }))).collect();
    many.iter().for_each(|token| assert_eq!(status(&gateway, "/me/x", token), 200));
    for (number, token) in many.iter().enumerate() {
        redis.command(&["SET", &format!("blacklist:t-{number}"), "1"]);
        until("it is refused", || status(&gateway, "/me/x", token) == 401);
    }
    redis.command(&["CONFIG", "SET", "tracking-table-max-keys", "1000000"]);
    // A live connection loses a command, or a key: what it said is void, not kept.
    for (take, give) in [("-exists", "+exists"), ("-get", "+get"), ("resetkeys", "~*")] {
        redis.command(&["ACL", "SETUSER", "gw", take]);
        until("it is refused", || status(&gateway, "/me/x", &good) == 503);
        (0..20).for_each(|_| assert_eq!(status(&gateway, "/me/x", &good), 503));
        redis.command(&["ACL", "SETUSER", "gw", give]);
        until("it heals", || status(&gateway, "/me/x", &good) == 200);
    }
    // A time of another type says nothing, for that subject alone, until it is mended.
    redis.command(&["SADD", "logout:kim", "x"]);
    until("it is not known", || status(&gateway, "/me/x", &good) == 503);
    assert_eq!(status(&gateway, "/me/x", &token(&json!({ "sub": "park" }))), 200);
    redis.command(&["DEL", "logout:kim"]);
    until("it is mended", || status(&gateway, "/me/x", &good) == 200);
    assert!(!gateway.lines().iter().any(|line| line.contains(":pw")), "no password in the log");
}

// One write ends what was issued up to now by one issuer, or by all; the next login is good.
#[test]
fn one_write_ends_an_issuer_or_everybody_up_to_now() {
    let redis = Redis::start();
    let upstream = Upstream::echo();
    let wide = r#"keys: { iss: "logout-issuer:{iss}", all: logout-everybody, jti"#;
    let yaml = with_store(upstream.address, &redis.url(), "", ROUTES).replace("keys: { jti", wide);
    let gateway = Gateway::start(&yaml);
    until("revocations are tracked", || gateway.admin("GET", "/readyz", "").status == 200);
    let old = now() - 10;
    let rsa = |iat: i64| token(&json!({ "iat": iat, "sub": format!("user-{iat}") }));
    let other = sign::ec(&Claims::of("https://ec.test").with(&json!({ "iat": old })).json());
    for (token, path) in [(&rsa(old), "/me/x"), (&rsa(old), "/money"), (&other, "/me/x")] {
        assert_eq!(status(&gateway, path, token), 200);
    }
    let revoke = |body: &serde_json::Value| gateway.admin("POST", "/revocations", &body.to_string());
    let answer = revoke(&json!({ "issuer": "rsa", "before": old }));
    assert_eq!((answer.status, answer.json()["key"].as_str()), (200, Some("logout-issuer:https://rsa.test")));
    until("the issuer is refused", || status(&gateway, "/me/x", &rsa(old)) == 401);
    assert_eq!(status(&gateway, "/money", &rsa(old)), 401);
    assert_eq!((status(&gateway, "/me/x", &rsa(old + 1)), status(&gateway, "/me/x", &other)), (200, 200));
    let answer = revoke(&json!({ "all": true }));
    assert_eq!((answer.status, answer.json()["revoked"].as_str()), (200, Some("all")));
    until("everybody is refused", || status(&gateway, "/me/x", &other) == 401);
    until("the others too", || status(&gateway, "/me/x", &rsa(old + 1)) == 401);
    until("a login after it is good", || status(&gateway, "/me/x", &rsa(now())) == 200);
    let page = gateway.admin("GET", "/revocations?all=true", "").json();
    assert_eq!(page["key"], "logout-everybody");
    assert_eq!(gateway.admin("GET", "/revocations?issuer=rsa", "").json()["value"], old.to_string());
    for odd in [json!({ "all": false }), json!({ "all": true, "sub": "x" }), json!({ "issuer": "who" }), json!({})] {
        assert_eq!(revoke(&odd).status, 400, "{odd}");
    }
}

// From the store's OK to the first refusal: 200 revocations under load, none of them lost.
#[test]
fn under_load_every_revocation_is_refused_at_once_and_none_is_lost() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let tokens: Vec<String> = (0..200).map(|n| token(&json!({ "jti": format!("l-{n}") }))).collect();
    tokens.iter().for_each(|token| assert_eq!(status(&gateway, "/me/x", token), 200));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let busy = token(&json!({ "sub": "busy" }));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = gateway.client();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(client.send(get("/me/x", Some(&busy))).status, 200);
                }
            });
        }
        let mut client = gateway.client();
        let mut slowest = Duration::ZERO;
        for (number, token) in tokens.iter().enumerate() {
            redis.command(&["SET", &format!("blacklist:l-{number}"), "1"]);
            let acknowledged = Instant::now();
            while client.send(get("/me/x", Some(token))).status != 401 {
                assert!(acknowledged.elapsed() < STALE, "lost");
            }
            slowest = slowest.max(acknowledged.elapsed());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("slowest of 200: {slowest:?}");
    });
    tokens.iter().for_each(|token| assert_eq!(status(&gateway, "/me/x", token), 401));
}
