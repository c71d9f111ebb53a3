//! An issuer says that a login has ended (OpenID Connect Back-Channel Logout 1.0), and every gateway refuses it.

use serde_json::{Value, json};

use crate::support::gateway::{customer, token, with_store};
use crate::support::redis::Redis;
use crate::support::sign::{self, Claims};
use crate::support::{Answer, Gateway, Upstream, now, until};

const ROUTES: &str = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
"#;

fn start(upstream: &Upstream, store: &str) -> Gateway {
    start_with(upstream, store, "")
}

fn start_with(upstream: &Upstream, store: &str, more: &str) -> Gateway {
    let yaml = with_store(upstream.address, store, "", ROUTES).replace(
        "revocation: { keys",
        &format!("revocation: {{ backchannel_logout: {{ path: /auth/backchannel-logout, issuers: {{ rsa: [shop-web, shop-app], ec: [shop-web] }}{more} }}, keys"),
    );
    let gateway = Gateway::start(&yaml);
    until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    gateway
}

/// A good logout token's claims, with these in their place.
fn claims(more: &Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": "https://rsa.test", "aud": "shop-web", "iat": now, "exp": now + 120, "jti": "l-1",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    for (name, value) in more.as_object().expect("an object") {
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn signed(more: &Value) -> String {
    sign::rsa_as(r#"{"alg":"RS256","kid":"rsa-1","typ":"logout+jwt"}"#, &claims(more).to_string())
}

fn post(gateway: &Gateway, body: &str) -> Answer {
    let length = body.len();
    gateway.send(format!(
        "POST /auth/backchannel-logout HTTP/1.1\r\nhost: gw.test\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

fn say(gateway: &Gateway, token: &str) -> Answer {
    post(gateway, &format!("logout_token={token}"))
}

/// The same with a letter of its signature changed.
fn flipped(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').expect("three parts");
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{rest}.{other}{}", signature.split_at(1).1)
}

#[test]
fn what_an_issuer_says_has_ended_is_refused_everywhere_when_it_is_answered() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateways = [start(&upstream, &redis.url()), start(&upstream, &redis.url())];
    let status = |token: &str| gateways.each_ref().map(|gateway| gateway.get("/me/x", Some(token)).status);
    let of = |sub: &str, sid: &str, iat: i64| token(&json!({ "sub": sub, "sid": sid, "iat": iat, "exp": iat + 900 }));
    // By its login.
    let (one, other) = (of("kim", "s-1", now()), of("kim", "s-2", now()));
    assert_eq!((status(&one), status(&other)), ([200, 200], [200, 200]));
    let answer = say(&gateways[0], &signed(&json!({ "sid": "s-1", "sub": "kim" })));
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{}", answer.text());
    assert_eq!((status(&one), status(&other)), ([401, 401], [200, 200]));
    assert_eq!(gateways[0].line_of(&answer)["subject"], "kim");
    // By its subject: what was issued up to then, whatever comes of it later.
    let said = signed(&json!({ "sub": "kim", "iat": now() - 10 }));
    let (old, later) = (of("kim", "s-3", now() - 20), of("kim", "s-4", now() - 5));
    assert_eq!((status(&old), status(&later)), ([200, 200], [200, 200]));
    for _ in 0..2 {
        assert_eq!(say(&gateways[1], &said).status, 200);
        assert_eq!((status(&old), status(&later)), ([401, 401], [200, 200]));
    }
}

/// What was issued and when it ended are told by one clock, whichever way that one differs from the store's.
#[test]
fn an_issuer_whose_clock_is_ahead_ends_what_it_issued_before_and_nothing_after() {
    let upstream = Upstream::echo();
    let gateway = start(&upstream, "memory:");
    let of = |iat: i64| token(&json!({ "sub": "kim", "iat": iat, "exp": iat + 900 }));
    let status = |token: &str| gateway.get("/me/x", Some(token)).status;
    let began = now();
    let (before, after) = (of(began + 15), of(began + 22));
    assert_eq!((status(&before), status(&after)), (200, 200));
    let said = signed(&json!({ "sub": "kim", "iat": began + 20 }));
    for _ in 0..2 {
        assert_eq!(say(&gateway, &said).status, 200);
        assert_eq!((status(&before), status(&after)), (401, 200));
    }
}

/// Where access tokens have no `sid`, the login that a logout token names could not be told from others.
#[test]
fn a_login_that_has_ended_ends_all_of_its_subject_where_that_is_configured() {
    let upstream = Upstream::echo();
    for (more, expected) in [("", 200), (", ends: login", 200), (", ends: subject", 401)] {
        let gateway = start_with(&upstream, "memory:", more);
        let of = |claims: Value| token(&claims);
        let (nameless, named) = (of(json!({ "sub": "kim" })), of(json!({ "sub": "kim", "sid": "s-1" })));
        let later = of(json!({ "sub": "kim", "iat": now() + 5, "exp": now() + 900 }));
        let stranger = of(json!({ "sub": "lee" }));
        let status = |token: &str| gateway.get("/me/x", Some(token)).status;
        for token in [&nameless, &named, &later, &stranger] {
            assert_eq!(status(token), 200);
        }
        // One that names no subject is about the login alone.
        assert_eq!(say(&gateway, &signed(&json!({ "sid": "s-0" }))).status, 200);
        assert_eq!((status(&nameless), status(&named)), (200, 200));
        assert_eq!(say(&gateway, &signed(&json!({ "sid": "s-1", "sub": "kim" }))).status, 200);
        assert_eq!((status(&nameless), status(&named)), (expected, 401), "{more}");
        assert_eq!((status(&later), status(&stranger)), (200, 200));
    }
}

#[test]
fn a_logout_token_that_is_none_ends_nothing() {
    let upstream = Upstream::echo();
    let gateway = start(&upstream, "memory:");
    let good = token(&json!({ "sub": "kim", "sid": "s-1" }));
    assert_eq!(gateway.get("/me/x", Some(&good)).status, 200);
    let headed = |header: &str| sign::rsa_as(header, &claims(&json!({ "sid": "s-1" })).to_string());
    let nobody = json!({ "iss": "https://hmac.test", "sid": "s-1" });
    for (token, reason) in [
        (signed(&json!({ "sid": "s-1", "aud": "other" })), "wrong_audience"),
        (signed(&json!({ "sid": "s-1", "aud": null })), "wrong_audience"),
        (signed(&json!({ "sid": "s-1", "events": null })), "unsupported_token"),
        (signed(&json!({ "sid": "s-1", "events": { "other": {} } })), "unsupported_token"),
        (signed(&json!({ "sid": "s-1", "nonce": "x" })), "unsupported_token"),
        (signed(&json!({ "sid": "s-1", "exp": now() - 60 })), "expired"),
        (signed(&json!({ "sid": "s-1", "exp": null })), "missing_claim"),
        (signed(&json!({ "sid": "s-1", "iat": now() + 600 })), "not_yet_valid"),
        (signed(&json!({ "sid": "s-1", "nbf": now() + 600 })), "not_yet_valid"),
        (signed(&json!({ "sid": "s-1", "nbf": "soon" })), "malformed_token"),
        (signed(&json!({ "sid": "s-1", "iat": now() - 90_000, "exp": now() + 600 })), "lifetime_too_long"),
        (signed(&json!({ "sid": "s-1", "jti": null })), "missing_claim"),
        (signed(&json!({})), "missing_claim"),
        (signed(&json!({ "sid": 7 })), "malformed_token"),
        (signed(&nobody), "wrong_issuer"),
        (headed(r#"{"alg":"RS256","kid":"rsa-1","typ":"at+jwt"}"#), "unsupported_token"),
        (headed(r#"{"alg":"RS256","kid":"rsa-2","typ":"logout+jwt"}"#), "unknown_key"),
        (flipped(&signed(&json!({ "sid": "s-1" }))), "bad_signature"),
        // What says who calls says nothing of an end.
        (customer(), "wrong_audience"),
        ("rubbish".to_owned(), "malformed_token"),
    ] {
        let answer = say(&gateway, &token);
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_request")), "{reason}");
        let told = format!("\"reason\":\"{reason}\"");
        until(reason, || gateway.lines().iter().any(|line| line.contains("not accepted") && line.contains(&told)));
    }
    for body in ["", "logout_token=", "token=x", "logout_token=a&logout_token=b"] {
        assert_eq!(post(&gateway, body).status, 400, "{body}");
    }
    assert_eq!(gateway.get("/me/x", Some(&good)).status, 200);
    // And the other way round: it lets nobody in.
    let said = sign::rsa_as(
        r#"{"alg":"RS256","kid":"rsa-1","typ":"logout+jwt"}"#,
        &Claims::of("https://rsa.test").with(&json!({ "sub": "kim" })).json(),
    );
    assert_eq!(gateway.get("/me/x", Some(&said)).status, 401);
    let api = json!({ "sid": "s-1", "sub": "kim", "aud": "api" });
    for header in [r#"{"alg":"RS256","kid":"rsa-1","typ":"JWT"}"#, r#"{"alg":"RS256","kid":"rsa-1"}"#] {
        let said = sign::rsa_as(header, &claims(&api).to_string());
        assert_eq!(gateway.get("/me/x", Some(&said)).status, 401, "{header}");
    }
    assert_eq!(say(&gateway, &signed(&json!({ "sid": "s-1" }))).status, 200);
    assert_eq!(gateway.get("/me/x", Some(&good)).status, 401);
}

// Everybody may post to it, and each time a signature is checked.
#[test]
fn how_often_one_client_says_that_a_login_has_ended_can_be_limited() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = start_with(&upstream, &redis.url(), ", rate_limit: { key: client_ip, limit: 3/hour }");
    for _ in 0..3 {
        assert_eq!(say(&gateway, "rubbish").status, 400);
    }
    let answer = say(&gateway, &signed(&json!({ "sid": "s-1" })));
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(gateway.line_of(&answer)["route"], "issuers.backchannel_logout");
}
