//! Cookie sessions whose records services write: one identity for browser and app, and a logout that is the record's end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::json;

use crate::support::gateway::{customer, with_store};
use crate::support::h2::{H2, request};
use crate::support::redis::Redis;
use crate::support::{Answer, Gateway, Upstream, now, until};

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, auth: [rsa, web], access: authenticated, upgrade: [websocket] }
  - { id: only, match: { path: "/only/**" }, upstream: echo, auth: [web], access: authenticated }
  - { id: bearer, match: { path: "/bearer/**" }, upstream: echo, auth: [rsa], access: authenticated }
  - { id: admin, match: { path: "/admin" }, upstream: echo, auth: [web], access: { roles: [admin] } }
  - { id: member, match: { path: "/members/{id}" }, upstream: echo, auth: [web], access: { claims: { sub: "{id}" } } }
  - { id: tier, match: { path: "/tier" }, upstream: echo, auth: [web], access: { claims: { plan.tier: gold } } }
  - { id: lax, match: { path: "/lax" }, upstream: echo, auth: [web], access: authenticated, revocation: { when_unavailable: allow } }
  - { id: off, match: { path: "/off" }, upstream: echo, auth: [web], access: authenticated, revocation: { mode: off } }
  - { id: money, match: { path: "/money" }, upstream: echo, auth: [web], access: authenticated, revocation: { mode: lookup } }
  - { id: spring, match: { path: "/spring" }, upstream: echo, auth: [spring], access: { roles: [customer] } }
  - { id: express, match: { path: "/express" }, upstream: echo, auth: [express], access: { roles: [customer] } }
"#;

const SESSIONS: &str = r#"
sessions:
  web:
    cookie: { name: SID }
    key: "session:{id}"
    claims: { name: profile.name }
    csrf: { allowed_origins: ["https://shop.test"] }
    idle_timeout: 30m
    absolute_timeout: 12h
  spring:
    cookie: { name: SESSION, encoding: base64 }
    key: "spring:session:sessions:{id}"
    record: spring
    claims: { sub: "sessionAttr:userId", roles: "sessionAttr:roles", iat: creationTime }
    absolute_timeout: 12h
  express:
    cookie: { name: connect.sid, encoding: express, secret_file: hmac.secret }
    key: "sess:{id}"
    claims: { sub: userId }
"#;

fn start(redis: &Redis) -> (Upstream, Gateway) {
    start_with(redis, SESSIONS)
}

fn start_with(redis: &Redis, sessions: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&with_store(upstream.address, &redis.url(), sessions, ROUTES));
    until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    (upstream, gateway)
}

fn put(redis: &Redis, id: &str, record: &serde_json::Value) {
    redis.command(&["SET", &format!("session:{id}"), &record.to_string(), "EX", "1800"]);
}

fn login(sub: &str, roles: &[&str]) -> serde_json::Value {
    json!({ "sub": sub, "roles": roles, "iat": now() - 60, "profile": { "name": "홍길동" } })
}

fn ask(gateway: &Gateway, method: &str, path: &str, fields: &str) -> Answer {
    let length = if method == "GET" { "" } else { "content-length: 0\r\n" };
    gateway.send(format!("{method} {path} HTTP/1.1\r\nhost: gw.test\r\n{length}{fields}\r\n"))
}

fn get(gateway: &Gateway, path: &str, id: &str) -> Answer {
    ask(gateway, "GET", path, &format!("cookie: SID={id}\r\n"))
}

#[test]
fn a_session_is_an_identity_like_a_tokens_under_the_same_rules() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    put(&redis, "s-1", &login("kim", &["customer", "admin"]));
    let mut tiered = login("lee", &[]);
    tiered["plan"] = json!({ "tier": "gold" });
    put(&redis, "s-2", &tiered);
    put(&redis, "pending:s-1", &login("kim", &[]));
    put(&redis, "{s-1}", &login("kim", &[]));
    put(&redis, "future", &json!({ "sub": "kim", "iat": now() + 600 }));
    put(&redis, "micros", &json!({ "sub": "kim", "iat": now() * 1_000_000 }));
    for (path, id, status) in [
        ("/me/x", "s-1", 200),
        ("/only/x", "s-1", 200),
        ("/admin", "s-1", 200),
        ("/admin", "s-2", 403),
        ("/members/kim", "s-1", 200),
        ("/members/lee", "s-1", 403),
        ("/tier", "s-2", 200),
        ("/tier", "s-1", 403),
        ("/money", "s-1", 200),
        ("/off", "s-1", 200),
        ("/me/x", "s-3", 401),
        ("/me/x", "", 401),
        ("/me/x", "s 1", 401),
        // What would name another kind of record.
        ("/me/x", "pending:s-1", 401),
        ("/me/x", "{s-1}", 401),
        ("/me/x", "future", 401),
        ("/me/x", "micros", 401),
        ("/me/x", &"x".repeat(300), 401),
        // Where sessions are not taken the cookie is nothing.
        ("/bearer/x", "s-1", 401),
        ("/open/x", "s-3", 200),
    ] {
        assert_eq!(get(&gateway, path, id).status, status, "{path} {id}");
    }
    let answer = get(&gateway, "/me/x", "s-1");
    let told = answer.text();
    assert!(told.contains("x-user-id: kim\r\n") && told.contains("x-user-roles: customer,admin\r\n"), "{told}");
    assert!(told.contains("x-user-name: %ED%99%8D%EA%B8%B8%EB%8F%99\r\n"), "{told}");
    assert_eq!(gateway.line_of(&answer)["subject"], "kim");
    let refused = get(&gateway, "/me/x", "s-3");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"test\""));
    assert_eq!(gateway.line_of(&refused)["outcome"], "unknown_session");
    // The cookie goes no further, on no route; others do, over HTTP/2 as well.
    for path in ["/me/x", "/open/x", "/bearer/x"] {
        let token =
            if path == "/bearer/x" { format!("authorization: Bearer {}\r\n", customer()) } else { String::new() };
        let answer = ask(&gateway, "GET", path, &format!("{token}cookie: a=1; SID=s-1; b=2\r\n"));
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(upstream.last().values("cookie"), ["a=1; b=2"], "{path}");
        assert_eq!(ask(&gateway, "GET", path, &format!("{token}cookie: SID=s-1\r\n")).status, 200);
        assert!(upstream.last().values("cookie").is_empty(), "{path}");
        // Nor in a form that only some servers read.
        let odd = format!("{token}cookie: a=1,SID=s-1; b=2\r\n");
        if path != "/me/x" {
            assert_eq!(ask(&gateway, "GET", path, &odd).status, 200);
            assert_eq!(upstream.last().values("cookie"), ["b=2"], "{path}");
        }
    }
    let mut h2 = H2::connect(gateway.address);
    let fields = [("cookie", "a=1"), ("cookie", "SID=s-1")];
    assert_eq!(h2.send(&request("GET", "/me/x", &fields), None).status, 200);
    assert_eq!(upstream.last().values("cookie"), ["a=1"]);
}

#[test]
fn exactly_one_credential_is_taken_and_a_foreign_page_sends_nothing_that_changes_something() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    put(&redis, "s-1", &login("kim", &[]));
    let bearer = format!("authorization: Bearer {}\r\n", customer());
    let cookie = "cookie: SID=s-1\r\n";
    for (method, path, fields, status) in [
        ("GET", "/me/x", format!("{bearer}{cookie}"), 400),
        ("GET", "/only/x", format!("{bearer}{cookie}"), 400),
        ("GET", "/only/x", bearer.clone(), 400),
        ("GET", "/bearer/x", format!("{bearer}{cookie}"), 200),
        ("GET", "/me/x", "cookie: SID=s-1; SID=s-1\r\n".to_owned(), 400),
        ("GET", "/me/x", format!("{cookie}{cookie}"), 400),
        ("GET", "/me/x", "cookie: SIDX=s-1; sid=s-1\r\n".to_owned(), 401),
        // What changes something comes from a page of ours.
        ("POST", "/me/x", cookie.to_owned(), 403),
        ("DELETE", "/me/x", cookie.to_owned(), 403),
        ("POST", "/me/x", format!("{cookie}origin: https://shop.test\r\n"), 200),
        ("POST", "/me/x", format!("{cookie}origin: https://evil.test\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: https://shop.test.evil.test\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: http://shop.test\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: null\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: https://shop.test\r\norigin: https://evil.test\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: https://gw.test\r\nsec-fetch-site: same-origin\r\n"), 200),
        ("POST", "/me/x", format!("{cookie}origin: https://evil.test\r\nsec-fetch-site: cross-site\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: https://evil.test\r\nsec-fetch-site: same-origin\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}origin: null\r\nsec-fetch-site: same-origin\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}sec-fetch-site: same-origin\r\nsec-fetch-site: cross-site\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}sec-fetch-site: same-origin\r\n"), 200),
        ("POST", "/me/x", format!("{cookie}sec-fetch-site: same-site\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}sec-fetch-site: cross-site\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}sec-fetch-site: none\r\n"), 403),
        ("POST", "/me/x", format!("{cookie}referer: https://shop.test/\r\n"), 403),
        // Who sends a token has it from a page of its own.
        ("POST", "/me/x", bearer.clone(), 200),
        ("POST", "/me/x", format!("{bearer}origin: https://evil.test\r\n"), 200),
        ("GET", "/me/x", format!("{cookie}origin: https://evil.test\r\n"), 200),
    ] {
        upstream.clear();
        let answer = ask(&gateway, method, path, &fields);
        assert_eq!(answer.status, status, "{method} {path} {fields}: {}", answer.text());
        assert_eq!(upstream.seen().len(), usize::from(status == 200), "{method} {path} {fields}");
    }
    let answer = ask(&gateway, "POST", "/me/x", cookie);
    assert_eq!(gateway.line_of(&answer)["outcome"], "cross_site");
    // A WebSocket begins with a GET that any page may send.
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(ask(&gateway, "GET", "/me/x", &format!("{cookie}{upgrade}origin: https://evil.test\r\n")).status, 403);
    assert_eq!(ask(&gateway, "GET", "/me/x", &format!("{cookie}{upgrade}")).status, 403);
    // So does one on a stream of HTTP/2 (RFC 8441); the service, which answers it like any GET, is asked by its own alone.
    for (origin, status) in [("https://evil.test", 403), ("https://shop.test", 502)] {
        let asks = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/me/x")];
        let more = [(":authority", "gw.test"), ("cookie", "SID=s-1"), ("origin", origin)];
        assert_eq!(
            H2::connect(gateway.address)
                .send(&[asks, [more[0], more[1], more[2], ("sec-websocket-version", "13")]].concat(), None)
                .status,
            status,
            "{origin}"
        );
    }
}

#[test]
fn what_becomes_of_a_record_counts_at_once_without_asking_the_store_for_each_request() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    put(&redis, "s-1", &login("kim", &["customer"]));
    for path in ["/me/x", "/money"] {
        assert_eq!(get(&gateway, path, "s-1").status, 200);
        let (mut client, before) = (gateway.client(), redis.calls("get"));
        let request = format!("GET {path} HTTP/1.1\r\nhost: gw.test\r\ncookie: SID=s-1\r\n\r\n");
        for _ in 0..500 {
            assert_eq!(client.send(&request).status, 200);
        }
        let asked = redis.calls("get") - before;
        // Proofs that nothing was missed read a few keys, four times a second.
        assert!(if path == "/money" { asked >= 500 } else { asked < 100 }, "{path}: {asked}");
    }
    // What stands in the value of another cookie is what a visitor has brought along.
    for odd in ["q=http://x/?SID=s-1", "q=x SID=s-1", "q=a,SID=s-1", r#"q={"a":"b","SID=s-1"#] {
        let answer = gateway.send(format!("GET /me/x HTTP/1.1\r\nhost: gw.test\r\ncookie: {odd}\r\n\r\n"));
        assert_eq!(answer.status, 401, "{odd}");
    }
    // Another role, and none; another owner; rubbish; gone.
    assert_eq!(get(&gateway, "/admin", "s-1").status, 403);
    put(&redis, "s-1", &login("kim", &["admin"]));
    until("the role is there", || get(&gateway, "/admin", "s-1").status == 200);
    put(&redis, "s-1", &login("kim", &[]));
    until("the role is gone", || get(&gateway, "/admin", "s-1").status == 403);
    put(&redis, "s-1", &login("lee", &[]));
    until("it is somebody else's", || get(&gateway, "/members/lee", "s-1").status == 200);
    for (rubbish, outcome) in
        [("{", "malformed_session"), ("[]", "malformed_session"), (r#"{"roles":[]}"#, "missing_claim")]
    {
        redis.command(&["SET", "session:s-1", rubbish]);
        until(rubbish, || {
            let answer = get(&gateway, "/me/x", "s-1");
            answer.status == 401 && gateway.line_of(&answer)["outcome"] == outcome
        });
    }
    redis.command(&["DEL", "session:s-1"]);
    redis.command(&["HSET", "session:s-1", "sub", "kim"]);
    until("it is of another kind", || get(&gateway, "/me/x", "s-1").status == 401);
    redis.command(&["DEL", "session:s-1"]);
    put(&redis, "s-1", &login("kim", &[]));
    until("it is back", || get(&gateway, "/me/x", "s-1").status == 200);
    let deleted = Instant::now();
    redis.command(&["DEL", "session:s-1"]);
    until("it is logged out", || get(&gateway, "/me/x", "s-1").status == 401);
    assert!(deleted.elapsed() < Duration::from_millis(500), "{:?}", deleted.elapsed());
    // Whoever logs in again has another session; logging the subject out ends those that began before.
    put(&redis, "s-4", &login("kim", &[]));
    assert_eq!(get(&gateway, "/me/x", "s-4").status, 200);
    redis.command(&["SET", "logout:kim", &(now() - 30).to_string()]);
    until("the subject is logged out", || get(&gateway, "/me/x", "s-4").status == 401);
    let mut later = login("kim", &[]);
    later["iat"] = (now() - 10).into();
    put(&redis, "s-5", &later);
    assert_eq!(get(&gateway, "/me/x", "s-5").status, 200);
}

#[test]
fn a_store_that_is_silent_is_503_for_a_session_whatever_the_route_says() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    put(&redis, "s-1", &login("kim", &[]));
    let paths = ["/me/x", "/lax", "/off", "/money"];
    for path in paths {
        assert_eq!(get(&gateway, path, "s-1").status, 200, "{path}");
    }
    redis.freeze();
    for path in paths {
        until(path, || get(&gateway, path, "s-1").status == 503);
        assert_eq!(get(&gateway, path, "s-9").status, 503, "{path}");
    }
    assert_eq!(get(&gateway, "/open/x", "s-1").status, 200);
    redis.thaw();
    for path in paths {
        until(path, || get(&gateway, path, "s-1").status == 200);
    }
}

#[test]
fn a_session_ends_when_nobody_uses_it_and_when_it_has_lasted_long_enough() {
    let redis = Redis::start();
    let quick = SESSIONS.replace("idle_timeout: 30m", "idle_timeout: 2s").replacen(
        "absolute_timeout: 12h",
        "absolute_timeout: 8s",
        1,
    );
    let (_upstream, gateway) = start_with(&redis, &quick);
    let record = |began: i64| json!({ "sub": "kim", "iat": began }).to_string();
    redis.command(&["SET", "session:used", &record(now()), "EX", "2"]);
    redis.command(&["SET", "session:idle", &record(now()), "EX", "2"]);
    let started = Instant::now();
    assert_eq!(get(&gateway, "/me/x", "idle").status, 200);
    // Used, it lives on for longer than it would idle; and no longer than it may at all.
    until("it has been used for a while", || {
        assert_eq!(get(&gateway, "/me/x", "used").status, 200);
        started.elapsed() > Duration::from_secs(5)
    });
    assert_eq!(get(&gateway, "/me/x", "idle").status, 401);
    until("it has lasted long enough", || get(&gateway, "/me/x", "used").status == 401);
    assert!(started.elapsed() > Duration::from_secs(6), "{:?}", started.elapsed());
    until("the store has forgotten it", || redis.command(&["EXISTS", "session:used"]).trim() == "0");
    // One that does not say when it began could last for ever.
    redis.command(&["SET", "session:ageless", r#"{"sub":"kim"}"#, "EX", "60"]);
    let answer = get(&gateway, "/me/x", "ageless");
    assert_eq!((answer.status, gateway.line_of(&answer)["missing_claim"].as_str()), (401, Some("iat")));
}

/// As Spring Session writes it with `GenericJackson2JsonRedisSerializer`: a hash, each field JSON with its Java type.
#[test]
fn a_session_of_spring_is_taken() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let id = "2f1e7c44-7a3c-4bb0-9e4f-0f2f6b9d8a11";
    let millis = (now() - 60) * 1000;
    let time = format!("[\"java.lang.Long\",{millis}]");
    redis.command(&[
        "HSET",
        &format!("spring:session:sessions:{id}"),
        "creationTime",
        &time,
        "lastAccessedTime",
        &millis.to_string(),
        "maxInactiveInterval",
        "1800",
        "sessionAttr:userId",
        "42",
        "sessionAttr:roles",
        r#"["java.util.ArrayList",["customer","vip"]]"#,
        "sessionAttr:note",
        r#"["java.suspended",["x"]]"#,
    ]);
    let ask = |value: &str| ask(&gateway, "GET", "/spring", &format!("cookie: SESSION={value}\r\n"));
    for value in [STANDARD.encode(id), STANDARD_NO_PAD.encode(id)] {
        let answer = ask(&value);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.text();
        assert!(told.contains("x-user-id: 42\r\n") && told.contains("x-user-roles: customer,vip\r\n"), "{told}");
    }
    assert_eq!(ask(id).status, 401, "not in base64");
    redis.command(&[
        "HSET",
        &format!("spring:session:sessions:{id}"),
        "sessionAttr:roles",
        r#"["java.util.ArrayList",[]]"#,
    ]);
    until("the roles are gone", || ask(&STANDARD.encode(id)).status == 403);
    // The indexed repository ends a session by its times, and keeps it for a while.
    let key = format!("spring:session:sessions:{id}");
    let roles = r#"["java.util.ArrayList",["customer"]]"#;
    redis.command(&["HSET", &key, "sessionAttr:roles", roles]);
    until("they are back", || ask(&STANDARD.encode(id)).status == 200);
    redis.command(&["HSET", &key, "maxInactiveInterval", "0"]);
    until("it has ended", || ask(&STANDARD.encode(id)).status == 401);
    redis.command(&["HSET", &key, "maxInactiveInterval", "60"]);
    redis.command(&["HSET", &key, "lastAccessedTime", &((now() - 61) * 1000).to_string()]);
    assert_eq!(ask(&STANDARD.encode(id)).status, 401);
    redis.command(&["HSET", &key, "lastAccessedTime", &((now() - 30) * 1000).to_string()]);
    until("it goes on", || ask(&STANDARD.encode(id)).status == 200);
    // What is no JSON was written by something else.
    redis.command(&["HSET", &key, "sessionAttr:note", "plain"]);
    until("it cannot be read", || ask(&STANDARD.encode(id)).status == 401);
    redis.command(&["HDEL", &key, "sessionAttr:note"]);
    until("it can", || ask(&STANDARD.encode(id)).status == 200);
    redis.command(&["DEL", &key]);
    until("it is gone", || ask(&STANDARD.encode(id)).status == 401);
}

#[test]
fn a_cookie_of_express_is_taken_with_its_signature_alone() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let secret = std::fs::read(gateway.folder().join("hmac.secret")).expect("a file");
    let record =
        json!({ "cookie": { "originalMaxAge": null, "httpOnly": true }, "userId": "kim", "roles": ["customer"] });
    redis.command(&["SET", "sess:abc.def", &record.to_string()]);
    let sign = |secret: &[u8], id: &str| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), id.as_bytes());
        format!("s:{id}.{}", STANDARD_NO_PAD.encode(tag))
    };
    let ask = |value: &str| {
        let value = value.replace(':', "%3A").replace('+', "%2B").replace('/', "%2F");
        ask(&gateway, "GET", "/express", &format!("cookie: connect.sid={value}\r\n")).status
    };
    assert_eq!(ask(&sign(secret.trim_ascii_end(), "abc.def")), 200);
    for wrong in [
        sign(b"another-secret", "abc.def"),
        sign(secret.trim_ascii_end(), "abc.deg").replace("abc.deg", "abc.def"),
        "s:abc.def".to_owned(),
        "abc.def".to_owned(),
        "s:abc.def.".to_owned(),
        sign(secret.trim_ascii_end(), ""),
    ] {
        assert_eq!(ask(&wrong), 401, "{wrong}");
    }
}

/// A login by the library itself, and its own way of logging out.
#[test]
fn a_session_of_the_real_express_session_is_taken_and_ends_with_it() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let secret = std::fs::read_to_string(gateway.folder().join("hmac.secret")).expect("a file");
    let mut service = Command::new("node")
        .args(["tests/it/support/express_session.cjs", &redis.url(), secret.trim_end()])
        .env("NODE_PATH", "target/test-node/node_modules")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/run.sh installs node");
    let mut lines = BufReader::new(service.stdout.take().expect("piped")).lines();
    let cookie = lines.next().expect("tests/run.sh installs express-session").expect("text");
    let mut input = service.stdin.take().expect("piped");
    let ask = || ask(&gateway, "GET", "/express", &format!("cookie: {cookie}\r\n"));
    let answer = ask();
    assert_eq!(answer.status, 200, "{cookie}: {}", answer.text());
    assert!(answer.text().contains("x-user-id: kim\r\n"), "{}", answer.text());
    input.write_all(b"destroy\n").expect("it is told");
    assert_eq!(lines.next().expect("a line").expect("text"), "destroyed");
    until("it is logged out", || ask().status == 401);
    drop(input);
    assert!(service.wait().expect("a child").success());
}

/// Who reads logs or metrics has nobody's cookie, whatever becomes of it.
#[test]
fn no_cookie_is_in_a_log_or_on_a_page() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let (good, bad) = ("Zm9yZ290dGVuLXNlY3JldA", "bm9ib2R5LWtub3dzLWl0");
    put(&redis, good, &login("kim", &[]));
    for id in [good, bad] {
        for path in ["/me/x", "/admin", "/open/x", "/nowhere", "/money"] {
            let _any = get(&gateway, path, id);
            let _any = ask(&gateway, "POST", path, &format!("cookie: SID={id}; SID={id}\r\n"));
        }
    }
    redis.freeze();
    until("it is noticed", || get(&gateway, "/me/x", good).status == 503);
    redis.thaw();
    let pages = ["/metrics", "/readyz"].map(|page| gateway.admin("GET", page, "").text());
    for text in gateway.lines().iter().chain(&pages) {
        assert!(!text.contains(good) && !text.contains(bad), "{text}");
    }
}

/// A field of a hash is text, whatever it looks like: a name that somebody chose is nobody else's.
#[test]
fn a_hash_is_read_as_text_and_what_is_mapped_is_found_there_alone() {
    let redis = Redis::start();
    let sessions = SESSIONS
        .replace("key: \"session:{id}\"", "key: \"session:{id}\"\n    record: hash")
        .replace("claims: { name: profile.name }", "claims: { sub: userId, iat: createdAt }");
    let (_upstream, gateway) = start_with(&redis, &sessions);
    let began = now().to_string();
    let put = |id: &str, fields: &[&str]| {
        let key = format!("session:{id}");
        redis.command(&[&["HSET", &key, "createdAt", &began], fields].concat());
    };
    put("plain", &["userId", "kim", "roles", "customer, admin"]);
    put("quoted", &["userId", "\"admin\"", "roles", r#"["admin"]"#]);
    put("number", &["userId", "42"]);
    put("other", &["sub", "kim", "roles", "admin"]);
    let told = get(&gateway, "/admin", "plain").text();
    assert!(told.contains("x-user-id: kim\r\n") && told.contains("x-user-roles: customer,admin\r\n"), "{told}");
    let answer = get(&gateway, "/me/x", "quoted");
    assert_eq!(gateway.line_of(&answer)["subject"], "\"admin\"");
    assert_eq!(get(&gateway, "/admin", "quoted").status, 403);
    assert!(get(&gateway, "/me/x", "number").text().contains("x-user-id: 42\r\n"));
    let answer = get(&gateway, "/me/x", "other");
    assert_eq!((answer.status, gateway.line_of(&answer)["missing_claim"].as_str()), (401, Some("sub")));
}

/// A kind of sessions that is not taken any more takes what it permitted with it, and one without a limit gets one.
#[test]
fn an_answer_that_lasts_ends_with_its_kind_of_sessions_and_a_record_without_an_end_gets_one() {
    let redis = Redis::start();
    let upstream = Upstream::trickles();
    let yaml = with_store(upstream.address, &redis.url(), SESSIONS, ROUTES);
    let gateway = Gateway::start(&yaml);
    until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    redis.command(&["SET", "session:s-1", &login("kim", &[]).to_string()]);
    let mut client = gateway.client();
    client.write("GET /me/x HTTP/1.1\r\nhost: gw.test\r\ncookie: SID=s-1\r\n\r\n");
    assert_eq!(client.read_to_head().status, 200);
    let left: i64 = redis.command(&["PTTL", "session:s-1"]).trim().parse().expect("a number");
    assert!((1_700_000..=1_800_000).contains(&left), "{left}");
    assert!(gateway.reload(&yaml.replace("absolute_timeout: 12h", "absolute_timeout: 11h")));
    let cut = |line: &serde_json::Value| line["outcome"] == "taken_back";
    until("it is cut", || gateway.access_lines().iter().any(cut));
}
