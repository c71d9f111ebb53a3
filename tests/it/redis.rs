//! Forced logout by keys that other services write into a real Redis, and what a Redis that is away
//! does to requests: 503, never 200, never 401.

use std::process::Command;
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
  - { id: off, match: { path: "/off" }, upstream: echo, access: authenticated, revocation: { mode: off } }
"#;

/// A configuration that asks the store for every request.
fn asking(upstream: &Upstream, store: &str, routes: &str) -> String {
    with_store(upstream.address, store, "", routes).replace("revocation: { keys", "revocation: { mode: lookup, keys")
}

fn start(redis: &Redis) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&asking(&upstream, &redis.url(), ROUTES));
    until("the store is connected", || gateway.admin("GET", "/readyz", "").status == 200);
    (upstream, gateway)
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.get(path, Some(token)).status
}

fn settled(gateway: &Gateway, token: &str) {
    // So many that they do not all come to one of the two.
    until("every worker has its link", || (0..24).all(|_| status(gateway, "/me/x", token) == 200));
}

#[test]
fn a_key_that_a_service_writes_ends_a_token_with_the_very_next_request() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    let (token, other) = (token(&json!({ "jti": "a-1" })), token(&json!({ "jti": "a-2" })));
    settled(&gateway, &token);
    redis.command(&["SET", "blacklist:a-1", "1", "EX", "60"]);
    gateway.refuses(&upstream, &token, &["revoked"]);
    assert_eq!(status(&gateway, "/me/x", &other), 200);
    assert_eq!(status(&gateway, "/off", &token), 200);
    redis.command(&["DEL", "blacklist:a-1"]);
    assert_eq!(status(&gateway, "/me/x", &token), 200);
    // Presence counts, whatever the key holds.
    for write in [
        ["HSET", "blacklist:a-1", "by", "admin"].as_slice(),
        &["SET", "blacklist:a-1", ""],
        &["SADD", "blacklist:a-1", "x"],
    ] {
        redis.command(write);
        gateway.refuses(&upstream, &token, &["revoked"]);
        redis.command(&["DEL", "blacklist:a-1"]);
    }
}

#[test]
fn a_logout_time_ends_older_tokens_and_not_newer_ones() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    let now = now();
    let issued = |at: i64| token(&json!({ "sub": "hong", "iat": at }));
    let (older, same, newer) = (issued(now - 100), issued(now - 50), issued(now - 49));
    settled(&gateway, &older);
    redis.command(&["SET", "logout:hong", &(now - 50).to_string()]);
    gateway.refuses(&upstream, &older, &["revoked"]);
    gateway.refuses(&upstream, &same, &["revoked"]);
    assert_eq!(status(&gateway, "/me/x", &newer), 200);
    assert_eq!(status(&gateway, "/me/x", &token(&json!({ "iat": now - 100 }))), 200);
    // A time that cannot be read says nothing that could be relied on.
    redis.command(&["SET", "logout:hong", "yesterday"]);
    assert_eq!(status(&gateway, "/me/x", &newer), 503);
    redis.command(&["DEL", "logout:hong"]);
    redis.command(&["HSET", "logout:hong", "at", "1"]);
    assert_eq!(status(&gateway, "/me/x", &newer), 503);
    assert_eq!(status(&gateway, "/me/x", &token(&json!({}))), 200);
}

#[test]
fn a_login_that_is_ended_takes_all_its_tokens_with_it() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    let of_login = |sid: &str| token(&json!({ "sid": sid }));
    let (one, two, other) = (of_login("s-1"), of_login("s-1"), of_login("s-2"));
    settled(&gateway, &one);
    redis.command(&["SET", "session-revoked:s-1", "1"]);
    gateway.refuses(&upstream, &one, &["revoked"]);
    gateway.refuses(&upstream, &two, &["revoked"]);
    assert_eq!(status(&gateway, "/me/x", &other), 200);
}

#[test]
fn tokens_of_another_library_pass_and_are_revoked() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    let folder = gateway.folder().to_path_buf();
    let script = r#"
import jwt, sys, time, uuid
folder, now = sys.argv[1], int(time.time())
for alg, file, kid, iss in (("HS256", "hmac.secret", None, "hmac"), ("RS256", "rsa.private.pem", "rsa-1", "rsa"), ("ES256", "ec.private.pem", "ec-1", "ec")):
    claims = {"iss": f"https://{iss}.test", "aud": ["api"], "sub": "hong", "name": "홍길동", "iat": now, "exp": now + 600, "jti": str(uuid.uuid4())}
    headers = {"kid": kid} if kid else {}
    print(claims["jti"], jwt.encode(claims, open(f"{folder}/{file}", "rb").read(), algorithm=alg, headers=headers))
"#;
    let out = Command::new(python())
        .args(["-c", script])
        .arg(&folder)
        .output()
        .expect("python3 with PyJWT (tests/run.sh makes it)");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let tokens = String::from_utf8(out.stdout).expect("text");
    assert_eq!(tokens.lines().count(), 3);
    for line in tokens.lines() {
        let (jti, token) = line.split_once(' ').expect("two words");
        settled(&gateway, token);
        assert_eq!(bearward::percent::decode(upstream.last().value("x-user-name").expect("a name")), "홍길동");
        redis.command(&["SET", &format!("blacklist:{jti}"), "1", "EX", "60"]);
        gateway.refuses(&upstream, token, &["revoked"]);
    }
}

/// The interpreter that has PyJWT.
pub fn python() -> String {
    std::env::var("BEARWARD_TEST_PYTHON")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-python/bin/python3").to_owned())
}

#[test]
fn a_silent_redis_is_503_within_its_deadline_and_heals_by_itself() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let good = token(&json!({}));
    settled(&gateway, &good);
    redis.freeze();
    for _ in 0..20 {
        let started = Instant::now();
        let answer = gateway.get("/me/x", Some(&good));
        assert_eq!(
            (answer.status, answer.header("retry-after"), answer.header("www-authenticate")),
            (503, Some("1"), None)
        );
        // The deadline is 250 ms; the rest is room for a busy machine.
        assert!(started.elapsed() < Duration::from_millis(250 + 750), "{:?}", started.elapsed());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    assert_eq!(gateway.get("/open/x", None).status, 200);
    assert_eq!((status(&gateway, "/lax", &good), status(&gateway, "/off", &good)), (200, 200));
    until("not ready", || gateway.admin("GET", "/readyz", "").status == 503);
    assert!(gateway.admin("GET", "/metrics", "").text().contains("bearward_store_available 0"));
    redis.thaw();
    settled(&gateway, &good);
    until("ready", || gateway.admin("GET", "/readyz", "").status == 200);
    let told = |what: &str| gateway.lines().iter().filter(|line| line.contains(what)).count();
    until("both changes of state are written", || told("store connected") == 2);
    assert_eq!(told("store away"), 1, "one line for one change of state");
}

#[test]
fn a_redis_that_dies_comes_back_empty_or_was_never_there_is_503_and_heals() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let good = token(&json!({ "jti": "z-1" }));
    settled(&gateway, &good);
    let port = redis.kill();
    until("refused", || status(&gateway, "/me/x", &good) == 503);
    for _ in 0..50 {
        assert_eq!(status(&gateway, "/me/x", &good), 503);
    }
    let redis = Redis::start_on(port);
    settled(&gateway, &good);
    redis.command(&["SET", "blacklist:z-1", "1"]);
    // On a busy machine one question may take too long, which is a refusal as well, and never 200.
    until("it is taken back", || {
        let status = status(&gateway, "/me/x", &good);
        assert!(matches!(status, 401 | 503), "{status}");
        status == 401
    });
    drop(gateway);

    let port = redis.kill();
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&asking(&upstream, &format!("redis://127.0.0.1:{port}"), ROUTES));
    assert_eq!(gateway.get("/open/x", None).status, 200);
    assert_eq!(status(&gateway, "/me/x", &good), 503);
    let _redis = Redis::start_on(port);
    settled(&gateway, &good);
}

#[test]
fn a_redis_that_answers_errors_is_503() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "gw", "on", ">pw", "~*", "+@all"]);
    let upstream = Upstream::echo();
    let url = format!("redis://gw:pw@127.0.0.1:{}", redis.port);
    let gateway = Gateway::start(&asking(&upstream, &url, ROUTES));
    let good = token(&json!({}));
    settled(&gateway, &good);
    redis.command(&["ACL", "SETUSER", "gw", "-exists"]);
    assert_eq!(status(&gateway, "/me/x", &good), 503);
    until("it is told", || gateway.admin("GET", "/readyz", "").text().contains("the store refuses look-ups"));
    assert!(gateway.admin("GET", "/metrics", "").text().contains("bearward_store_available 0"));
    let told = |what: &str| gateway.lines().iter().filter(|line| line.contains(what)).count();
    until("one line is written", || told("store refuses look-ups") == 1);
    (0..20).for_each(|_| assert_eq!(status(&gateway, "/me/x", &good), 503));
    redis.command(&["ACL", "SETUSER", "gw", "+exists", "-get"]);
    assert_eq!(status(&gateway, "/me/x", &good), 503);
    redis.command(&["ACL", "SETUSER", "gw", "+get", "resetkeys"]);
    assert_eq!(status(&gateway, "/me/x", &good), 503);
    redis.command(&["ACL", "SETUSER", "gw", "~*"]);
    settled(&gateway, &good);
    until("it is told", || gateway.admin("GET", "/readyz", "").status == 200);
    until("one line is written", || told("store answers look-ups again") == 1);
    assert_eq!(told("store refuses look-ups"), 1, "one line for one change of state");
    redis.command(&["ACL", "SETUSER", "gw", ">new", "<pw"]);
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("the password is wrong", || status(&gateway, "/me/x", &good) == 503);
    redis.command(&["ACL", "SETUSER", "gw", ">pw"]);
    settled(&gateway, &good);
    assert!(
        !gateway.lines().iter().any(|line| line.contains("gw:pw") || line.contains(":pw@")),
        "no password in the log"
    );
}

// Row 78: a client that leaves in the middle leaves no answer behind for another one.
#[test]
fn threat_78_requests_that_are_abandoned_never_cross_answers() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis);
    let (good, dead) = (token(&json!({ "jti": "g" })), token(&json!({ "jti": "d" })));
    settled(&gateway, &good);
    redis.command(&["SET", "blacklist:d", "1"]);
    for round in 0..500 {
        let mut leaving = gateway.client();
        leaving.write(get("/me/x", Some(if round % 2 == 0 { &dead } else { &good })));
        drop(leaving);
        if round % 10 == 0 {
            assert_eq!((status(&gateway, "/me/x", &dead), status(&gateway, "/me/x", &good)), (401, 200));
        }
    }
}

#[test]
fn the_admin_address_revokes_into_redis_with_the_remaining_life() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    let good = token(&json!({ "jti": "by-token", "sub": "hong" }));
    settled(&gateway, &good);
    let answer = gateway.admin("POST", "/revocations", &json!({ "token": good }).to_string());
    assert_eq!((answer.status, answer.json()["key"].as_str()), (200, Some("blacklist:by-token")), "{}", answer.text());
    gateway.refuses(&upstream, &good, &["revoked"]);
    let life: i64 = redis.command(&["TTL", "blacklist:by-token"]).parse().expect("seconds");
    assert!((600..=700).contains(&life), "{life}");
    let other = token(&json!({ "sub": "hong" }));
    assert_eq!(status(&gateway, "/me/x", &other), 200);
    assert_eq!(gateway.admin("POST", "/revocations", r#"{"sub":"hong"}"#).status, 200);
    gateway.refuses(&upstream, &other, &["revoked"]);
    let at: i64 = redis.command(&["GET", "logout:hong"]).parse().expect("a unix time");
    assert!((now() - at).abs() < 5);
    redis.freeze();
    let answer = gateway.admin("POST", "/revocations", r#"{"jti":"x"}"#);
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("not revoked"), "{}", answer.text());
}

// Logins have their times of the store: by the clock of a gateway that is behind it one would outlive its logout.
#[test]
fn what_is_taken_back_by_time_is_by_that_of_the_store() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = Gateway::start_behind(&asking(&upstream, &redis.url(), ""), 100);
    until("the store is there", || gateway.admin("GET", "/readyz", "").status == 200);
    for (body, key) in [(r#"{"sub":"hong"}"#, "logout:hong"), (r#"{"sub":"lee","ack":"all"}"#, "logout:lee")] {
        let answer = gateway.admin("POST", "/revocations", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let at: i64 = redis.command(&["GET", key]).parse().expect("a unix time");
        assert!((now() - 10..now() + 10).contains(&at), "{at}, and it is {}", now());
        let life: i64 = redis.command(&["TTL", key]).parse().expect("seconds");
        let said = answer.json()["expires_at"].as_i64().expect("a time");
        assert!((said - at - life).abs() < 5, "{said}, {at}, {life}");
    }
}

#[test]
fn several_issuers_share_a_key_space_only_where_keys_name_the_issuer() {
    let redis = Redis::start();
    let upstream = Upstream::echo();
    let yaml = asking(&upstream, &redis.url(), ROUTES).replace("blacklist:{jti}", "{iss}|{jti}");
    let gateway = Gateway::start(&yaml);
    let rsa = token(&json!({ "jti": "same" }));
    let ec = sign::ec(&Claims::of("https://ec.test").with(&json!({ "jti": "same" })).json());
    settled(&gateway, &rsa);
    redis.command(&["SET", "https://rsa.test|same", "1"]);
    assert_eq!((status(&gateway, "/me/x", &rsa), status(&gateway, "/me/x", &ec)), (401, 200));
    assert_eq!(gateway.admin("POST", "/revocations", r#"{"jti":"same"}"#).status, 400);
    assert_eq!(gateway.admin("POST", "/revocations", r#"{"jti":"same","issuer":"ec"}"#).status, 200);
    assert_eq!(status(&gateway, "/me/x", &ec), 401);
}

#[test]
fn a_token_that_no_configured_key_can_name_is_refused() {
    let redis = Redis::start();
    let upstream = Upstream::echo();
    let keys = "revocation: { keys: { sid: \"session-revoked:{sid}\" } }";
    let yaml = with_store(upstream.address, &redis.url(), "", ROUTES).replace(
        "revocation: { keys: { jti: \"blacklist:{jti}\", sub: \"logout:{sub}\", sid: \"session-revoked:{sid}\" } }",
        keys,
    );
    assert!(yaml.contains(keys));
    let gateway = Gateway::start(&yaml);
    let of_login = token(&json!({ "sid": "s" }));
    settled(&gateway, &of_login);
    gateway.refuses(&upstream, &token(&json!({})), &["missing_claim"]);
    gateway.refuses(&upstream, &token(&json!({ "sid": "s", "iat": null })), &["missing_claim"]);
    assert_eq!(status(&gateway, "/off", &token(&json!({}))), 200);
}

#[test]
fn revoking_never_weakens_what_a_service_wrote() {
    let redis = Redis::start();
    let (upstream, gateway) = start(&redis);
    // Banned for ever, and as of the far future.
    redis.command(&["SET", "logout:hong", "4102444800"]);
    redis.command(&["SET", "session-revoked:s-9", "banned"]);
    let order = |body: &str| assert_eq!(gateway.admin("POST", "/revocations", body).status, 200, "{body}");
    order(r#"{"sub":"hong"}"#);
    order(r#"{"sub":"hong","before":5}"#);
    order(r#"{"sid":"s-9"}"#);
    assert_eq!(redis.command(&["GET", "logout:hong"]), "4102444800");
    assert_eq!(
        (redis.command(&["TTL", "logout:hong"]), redis.command(&["TTL", "session-revoked:s-9"])),
        ("-1".into(), "-1".into())
    );
    gateway.refuses(&upstream, &token(&json!({ "sub": "hong" })), &["revoked"]);
    // What could not be read is replaced by what can.
    redis.command(&["HSET", "logout:lee", "x", "1"]);
    order(r#"{"sub":"lee"}"#);
    gateway.refuses(&upstream, &token(&json!({ "sub": "lee" })), &["revoked"]);
}
