//! The table of answers: status, challenge, body, and what the upstream saw.

use std::io::Write;
use std::net::SocketAddr;

use bearward::denial::Denial;
use bearward::forward::{ForwardError, Phase};
use serde_json::json;

use crate::support::gateway::{ROUTES, customer, get, token, with_store};
use crate::support::h2::H2;
use crate::support::redis::Redis;
use crate::support::sign::{self, Claims};
use crate::support::tls::Authority;
use crate::support::upstream::deaf;
use crate::support::{Answer, Gateway, Upstream, config, until};

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    (upstream, gateway)
}

/// A refusal in the agreed form, with nothing upstream.
#[track_caller]
fn refused(
    gateway: &Gateway,
    upstream: &Upstream,
    request: impl AsRef<[u8]>,
    status: u16,
    challenge: Option<&str>,
    label: &str,
) -> Answer {
    let answer = match request.as_ref().strip_prefix(b"CONNECT ") {
        None => gateway.send(&request),
        // A client of HTTP/2 that asks for a WebSocket at this path.
        Some(path) => {
            let fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")];
            let path = std::str::from_utf8(path).expect("text");
            H2::connect(gateway.address)
                .send(&[&fields[..], &[(":path", path), (":authority", "gw.test")]].concat(), None)
        }
    };
    let sent = String::from_utf8_lossy(request.as_ref()).into_owned();
    let sent = sent.lines().next().unwrap_or_default();
    assert_eq!(answer.status, status, "{sent}: {}", answer.text());
    assert_eq!(answer.header("www-authenticate"), challenge, "{sent}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{sent}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{sent}");
    match status {
        503 => assert_eq!(answer.header("retry-after"), Some("1"), "{sent}"),
        429 => assert!(answer.header("retry-after").is_some(), "{sent}"),
        _ => assert_eq!(answer.header("retry-after"), None, "{sent}"),
    }
    assert_eq!(answer.header("allow").is_some(), status == 405, "{sent}");
    let body = answer.json();
    assert_eq!(body["status"], status, "{sent}");
    assert!(body["type"].as_str().expect("text").starts_with("urn:bearward:problem:"), "{sent}");
    assert!(!body["title"].as_str().expect("text").is_empty() && !body["detail"].as_str().expect("text").is_empty());
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{sent}");
    assert!(upstream.seen().is_empty(), "{sent}: nothing goes upstream");
    let line = gateway.line_of(&answer);
    assert_eq!((&line["outcome"], &line["status"]), (&json!(label), &json!(status)), "{sent}");
    answer
}

#[test]
fn no_credential_is_401_with_a_bare_challenge() {
    let (upstream, gateway) = start();
    let bare = Some(r#"Bearer realm="test""#);
    for path in ["/me/x", "/orders/1", "/pay", "/members/kim/orders"] {
        refused(&gateway, &upstream, get(path, None), 401, bare, "missing_token");
    }
    let basic = get("/me/x", None).replace("\r\n\r\n", "\r\nauthorization: Basic eDp5\r\n\r\n");
    refused(&gateway, &upstream, basic, 401, bare, "missing_token");
}

#[test]
fn a_bad_token_is_401_with_invalid_token_and_two_credentials_are_400() {
    let (upstream, gateway) = start();
    let invalid = Some(r#"Bearer realm="test", error="invalid_token""#);
    refused(&gateway, &upstream, get("/me/x", Some("a.b.c")), 401, invalid, "malformed_token");
    for text in ["", "=", "a=b", "a b", "a,b", "\"a.b.c\"", "a.b.c d", "a.b.c, Bearer a.b.c"] {
        refused(&gateway, &upstream, get("/me/x", Some(text)), 401, invalid, "malformed_token");
    }
    let request = Some(r#"Bearer realm="test", error="invalid_request""#);
    for path in ["/me/x?access_token=x", "/me/x?a=1&access%5ftoken=x"] {
        refused(&gateway, &upstream, get(path, None), 400, request, "duplicate_credentials");
        refused(&gateway, &upstream, get(path, Some(&customer())), 400, request, "duplicate_credentials");
    }
}

#[test]
fn a_missing_scope_is_403_with_the_scopes_and_a_missing_role_or_relation_is_plain_403() {
    let (upstream, gateway) = start();
    let scopes = Some(r#"Bearer realm="test", error="insufficient_scope", scope="pay:write pay:read""#);
    for claims in [
        json!({}),
        json!({ "scope": "pay:write" }),
        json!({ "scope": ["pay:read"] }),
        json!({ "scope": "pay:write pay:reader" }),
    ] {
        refused(&gateway, &upstream, get("/pay", Some(&token(&claims))), 403, scopes, "missing_scope");
    }
    refused(
        &gateway,
        &upstream,
        get("/orders/1", Some(&token(&json!({ "roles": ["guest"] })))),
        403,
        None,
        "missing_role",
    );
    refused(&gateway, &upstream, get("/members/lee/orders", Some(&customer())), 403, None, "claim_mismatch");
    for (path, claims) in [
        ("/pay", json!({ "scope": "x pay:read pay:write" })),
        ("/pay", json!({ "scope": ["pay:read", "pay:write"] })),
        ("/orders/1", json!({ "roles": "admin" })),
        ("/members/kim/orders", json!({})),
        ("/members/%6bim/orders", json!({})),
        ("/members/lee/orders", json!({ "roles": ["admin"] })),
    ] {
        assert_eq!(gateway.get(path, Some(&token(&claims))).status, 200, "{path} {claims}");
    }
}

#[test]
fn unknown_paths_methods_and_odd_requests() {
    let (upstream, gateway) = start();
    refused(&gateway, &upstream, get("/nowhere", None), 404, None, "no_route");
    let allow =
        refused(&gateway, &upstream, get("/orders/1", None).replace("GET", "POST"), 405, None, "method_not_allowed");
    assert_eq!(allow.header("allow"), Some("GET, PUT"));
    refused(&gateway, &upstream, get("/open/../me", None), 400, None, "ambiguous_path");
    refused(&gateway, &upstream, "GET /open/x HTTP/1.1\r\n\r\n", 400, None, "malformed_request");
    refused(&gateway, &upstream, get(&format!("/open/{}", "x".repeat(9000)), None), 414, None, "target_too_long");
    let heavy = get("/open/x", None).replace("\r\n\r\n", &format!("\r\nx-heavy: {}\r\n\r\n", "x".repeat(40_000)));
    refused(&gateway, &upstream, heavy, 431, None, "headers_too_large");
    for count in [80, 99] {
        let many: String = (0..count).map(|n| format!("x-{n}: 1\r\n")).collect();
        let many = get("/open/x", None).replace("\r\n\r\n", &format!("\r\n{many}\r\n"));
        refused(&gateway, &upstream, many, 431, None, "headers_too_large");
    }
    let large = "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 2000000\r\n\r\n";
    refused(&gateway, &upstream, large, 413, None, "body_too_large");
}

#[test]
fn the_order_of_checks_is_path_route_credential_rule() {
    let (upstream, gateway) = start();
    // A doubtful path is 400 and an unknown one 404 before anybody asks for a token.
    refused(&gateway, &upstream, get("/me/%2e%2e/x", Some("bad")), 400, None, "ambiguous_path");
    refused(&gateway, &upstream, get("/nowhere", Some("bad")), 404, None, "no_route");
    refused(
        &gateway,
        &upstream,
        get("/orders/1", Some("bad")).replace("GET", "DELETE"),
        405,
        None,
        "method_not_allowed",
    );
}

#[test]
fn an_answer_that_is_none_is_502() {
    let broken = Upstream::scripted(|seen, stream| {
        use std::io::Write;
        let answer: &[u8] = match seen.line() {
            "GET /open/close HTTP/1.1" => b"",
            "GET /open/garbage HTTP/1.1" => b"garbage\r\n\r\n",
            "GET /open/upgrade HTTP/1.1" => {
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
            }
            "GET /open/half HTTP/1.1" => b"HTTP/1.1 200 OK\r\ncontent-le",
            _ => b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        };
        drop(stream.write_all(answer));
        false
    });
    let gateway = Gateway::start(&config(broken.address, ""));
    for path in ["/open/close", "/open/garbage", "/open/upgrade", "/open/half", "/open/nul"] {
        let answer = gateway.get(path, None);
        assert_eq!(
            (answer.status, gateway.line_of(&answer)["outcome"].as_str()),
            (502, Some("upstream_broken")),
            "{path}"
        );
    }
}

const BARE: Option<&str> = Some(r#"Bearer realm="test""#);
const INVALID_REQUEST: Option<&str> = Some(r#"Bearer realm="test", error="invalid_request""#);
const INVALID_TOKEN: Option<&str> = Some(r#"Bearer realm="test", error="invalid_token""#);
const PAY: Option<&str> = Some(r#"Bearer realm="test", error="insufficient_scope", scope="pay:write pay:read""#);

/// One gateway for each state of what is around it.
struct World {
    upstream: Upstream,
    whole: Gateway,
    without_store: Gateway,
    without_keys: Gateway,
    redis: Redis,
    with_sessions: Gateway,
    issuing: (Upstream, Gateway),
    asking: (Upstream, Gateway),
}

impl World {
    fn start() -> Self {
        let upstream = Upstream::echo();
        let routes = format!(
            "{ROUTES}  - {{ id: guest, match: {{ path: \"/guests\" }}, upstream: echo, access: {{ not: {{ roles: [guest] }} }} }}\n  - {{ id: shop, match: {{ path: \"/shop\" }}, upstream: echo, access: public, cors: {{ origins: [\"https://shop.test\"] }} }}\n  - {{ id: rare, match: {{ path: \"/rare\" }}, upstream: echo, access: public, rate_limit: {{ key: client_ip, limit: 1/day }} }}\n"
        );
        let closed = closed();
        let away = with_store(upstream.address, &format!("redis://{closed}"), "", &routes);
        let keys = config(upstream.address, &routes).replace(
            "algorithms: [RS256], jwks_file: rsa.jwks.json",
            &format!("algorithms: [RS256], jwks_uri: \"http://{closed}/keys\""),
        );
        // A listener that asks for certificates, beside the one that the requests go to.
        let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new());
        sign::write_keys(folder.path());
        authority.write(folder.path(), "gw", &["gw.test"]);
        authority.write_own(&folder.path().join("mesh.pem"));
        let tls = "{ address: \"127.0.0.1:0\", tls: { certificates: [{ cert_file: gw.crt, key_file: gw.key }], client_auth: { by: mesh } } }";
        let mesh =
            "  - { id: mesh, match: { path: \"/mesh\" }, upstream: echo, auth: [mesh], access: authenticated }\n";
        let yaml = config(upstream.address, &format!("{routes}{mesh}"))
            .replacen("\"127.0.0.1:0\" }]", &format!("\"127.0.0.1:0\" }}, {tls}]"), 1)
            .replace("issuers:", "client_certificates: { mesh: { ca_file: mesh.pem } }\nissuers:");
        std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
        let whole = Gateway::start_in(folder, &[]);
        let redis = Redis::start();
        let sessions = "sessions: { web: { cookie: { name: SID }, key: \"session:{id}\" } }";
        let cookies =
            "  - { id: web, match: { path: \"/web\" }, upstream: echo, auth: [web], access: authenticated }\n";
        let yaml = with_store(upstream.address, &redis.url(), sessions, &format!("{routes}{cookies}"));
        let with_sessions = Gateway::start(&yaml);
        until("it is ready", || with_sessions.admin("GET", "/readyz", "").status == 200);
        Self {
            whole,
            redis,
            with_sessions,
            asking: crate::introspection::start(&upstream),
            issuing: crate::support::logins::start(crate::support::logins::member()),
            without_store: Gateway::start(&away),
            without_keys: Gateway::start(&keys),
            upstream,
        }
    }

    /// The request that is refused for this reason, the gateway that refuses it, and how: the table
    /// of answers in the words of the contract. A new reason does not compile without its line.
    fn provoke(&self, denial: &Denial) -> (&Gateway, String, u16, Option<&'static str>) {
        let good = customer();
        let with = |claims: serde_json::Value| get("/me/x", Some(&token(&claims)));
        let headed = |header: &str| get("/me/x", Some(&sign::rsa_as(header, &Claims::of("https://rsa.test").json())));
        let cookie = |id: &str| get("/web", None).replace("\r\n\r\n", &format!("\r\ncookie: SID={id}\r\n\r\n"));
        let whole = &self.whole;
        let now = crate::support::now();
        match denial {
            Denial::AmbiguousPath => (whole, get("/open/%2e%2e/x", None), 400, None),
            Denial::DuplicateCredentials => {
                let field = format!("\r\nauthorization: Bearer {good}\r\n\r\n");
                (whole, get("/me/x", Some(&good)).replace("\r\n\r\n", &field), 400, INVALID_REQUEST)
            }
            Denial::InvalidGrant => (&self.issuing.1, crate::support::logins::refreshing("unknown"), 400, None),
            Denial::MalformedGrant(_) => (&self.issuing.1, crate::support::logins::refreshing(""), 400, None),
            Denial::ReusedGrant => {
                let gateway = &self.issuing.1;
                let token = crate::support::logins::used(gateway);
                (gateway, crate::support::logins::refreshing(&token), 400, None)
            }
            Denial::Barred => {
                let gateway = &self.issuing.1;
                let ban = json!({ "sub": "kim", "before": now + 20 }).to_string();
                assert_eq!(gateway.admin("POST", "/revocations", &ban).status, 200);
                (gateway, crate::support::logins::logging_in("kim"), 403, None)
            }
            Denial::MalformedRequest => (whole, "GET /open/x HTTP/1.1\r\n\r\n".to_owned(), 400, None),
            Denial::AlgorithmNotAllowed => (whole, headed(r#"{"alg":"RS512","kid":"rsa-1"}"#), 401, INVALID_TOKEN),
            Denial::BadSignature => {
                (whole, get("/me/x", Some(&format!("{}AAAA", &good[..good.len() - 4]))), 401, INVALID_TOKEN)
            }
            Denial::Expired => (whole, with(json!({ "exp": now - 60, "iat": now - 600 })), 401, INVALID_TOKEN),
            Denial::InactiveToken => (&self.asking.1, get("/me/x", Some("unknown")), 401, INVALID_TOKEN),
            Denial::LifetimeTooLong => (whole, with(json!({ "exp": now + 200_000 })), 401, INVALID_TOKEN),
            Denial::MalformedSession => {
                self.redis.command(&["SET", "session:odd", "rubbish"]);
                (&self.with_sessions, cookie("odd"), 401, BARE)
            }
            Denial::MalformedToken => (whole, get("/me/x", Some("a.b.c")), 401, INVALID_TOKEN),
            Denial::MissingClaim(_) => (whole, with(json!({ "exp": null })), 401, INVALID_TOKEN),
            Denial::MissingToken => (whole, get("/me/x", None), 401, BARE),
            Denial::NotYetValid => (whole, with(json!({ "nbf": now + 300 })), 401, INVALID_TOKEN),
            Denial::Revoked => {
                assert_eq!(whole.admin("POST", "/revocations", r#"{"jti":"taken-back"}"#).status, 200);
                (whole, with(json!({ "jti": "taken-back" })), 401, INVALID_TOKEN)
            }
            Denial::UnknownKey => (whole, headed(r#"{"alg":"RS256","kid":"rsa-2"}"#), 401, INVALID_TOKEN),
            Denial::UnknownSession => (&self.with_sessions, cookie("nobody"), 401, BARE),
            Denial::UnprovenToken => (whole, with(json!({ "cnf": { "jkt": "x" } })), 401, INVALID_TOKEN),
            Denial::UnsupportedToken => {
                (whole, headed(r#"{"alg":"RS256","kid":"rsa-1","crit":["x"],"x":1}"#), 401, INVALID_TOKEN)
            }
            Denial::WrongAudience => (whole, with(json!({ "aud": "elsewhere" })), 401, INVALID_TOKEN),
            Denial::WrongIssuer => (whole, with(json!({ "iss": "https://nobody.test" })), 401, INVALID_TOKEN),
            Denial::ClaimMismatch => (whole, get("/members/lee/orders", Some(&good)), 403, None),
            Denial::CrossSite => (&self.with_sessions, cookie("nobody").replace("GET", "DELETE"), 403, None),
            Denial::Excluded => (whole, get("/guests", Some(&token(&json!({ "roles": ["guest"] })))), 403, None),
            Denial::MissingCertificate => (whole, get("/mesh", None), 403, None),
            Denial::MissingRole => (whole, get("/orders/1", Some(&token(&json!({})))), 403, None),
            Denial::MissingScope(_) => (whole, get("/pay", Some(&good)), 403, PAY),
            Denial::OriginNotAllowed => {
                let asks = "OPTIONS /shop HTTP/1.1\r\nhost: gw.test\r\norigin: https://evil.test\r\naccess-control-request-method: PUT\r\n\r\n";
                (whole, asks.to_owned(), 403, None)
            }
            Denial::NoRoute => (whole, get("/nowhere", None), 404, None),
            Denial::MethodNotAllowed(_) => (whole, get("/orders/1", None).replace("GET", "POST"), 405, None),
            Denial::BodyTooLarge => {
                let head = "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 2000000\r\n\r\n";
                (whole, head.to_owned(), 413, None)
            }
            Denial::TargetTooLong => (whole, get(&format!("/open/{}", "x".repeat(9000)), None), 414, None),
            Denial::HeadersTooLarge => {
                let heavy = format!("\r\nx-heavy: {}\r\n\r\n", "x".repeat(40_000));
                (whole, get("/open/x", None).replace("\r\n\r\n", &heavy), 431, None)
            }
            Denial::RateLimited(_) => {
                assert_eq!(whole.get("/rare", None).status, 200);
                self.upstream.clear();
                (whole, get("/rare", None), 429, None)
            }
            Denial::ProtocolNotOffered => (whole, "CONNECT /open/x".to_owned(), 501, None),
            Denial::KeysUnavailable => (&self.without_keys, get("/me/x", Some(&good)), 503, None),
            Denial::StandingUnknown => (&self.without_store, get("/me/x", Some(&good)), 503, None),
        }
    }
}

/// Each reason has a request that meets it, and a label of its own.
#[test]
fn every_denial_is_forced_by_a_request_and_answered_by_the_table() {
    let name: std::sync::Arc<str> = "x".into();
    let all = [
        Denial::AmbiguousPath,
        Denial::DuplicateCredentials,
        Denial::InvalidGrant,
        Denial::MalformedGrant("invalid_request"),
        Denial::MalformedRequest,
        Denial::ReusedGrant,
        Denial::AlgorithmNotAllowed,
        Denial::BadSignature,
        Denial::Expired,
        Denial::InactiveToken,
        Denial::LifetimeTooLong,
        Denial::MalformedSession,
        Denial::MalformedToken,
        Denial::MissingClaim(name.clone()),
        Denial::MissingToken,
        Denial::NotYetValid,
        Denial::Revoked,
        Denial::UnknownKey,
        Denial::UnknownSession,
        Denial::UnprovenToken,
        Denial::UnsupportedToken,
        Denial::WrongAudience,
        Denial::WrongIssuer,
        Denial::Barred,
        Denial::ClaimMismatch,
        Denial::CrossSite,
        Denial::Excluded,
        Denial::MissingCertificate,
        Denial::MissingRole,
        Denial::MissingScope(name.clone()),
        Denial::OriginNotAllowed,
        Denial::NoRoute,
        Denial::MethodNotAllowed(name),
        Denial::BodyTooLarge,
        Denial::TargetTooLong,
        Denial::HeadersTooLarge,
        Denial::RateLimited(1),
        Denial::ProtocolNotOffered,
        Denial::KeysUnavailable,
        Denial::StandingUnknown,
    ];
    assert_eq!(all.len(), Denial::COUNT);
    let mut labels = Denial::LABELS.to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Denial::COUNT);
    let world = World::start();
    for (number, denial) in all.iter().enumerate() {
        assert_eq!((denial.number(), denial.label()), (number, Denial::LABELS[number]));
        let (gateway, request, status, challenge) = world.provoke(denial);
        refused(gateway, &world.upstream, request, status, challenge, denial.label());
    }
}

fn closed() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port")
}

/// The same for what goes wrong after a permit.
#[test]
fn every_forward_error_is_forced_by_a_request_and_answered_by_the_table() {
    let silent = Upstream::scripted(|_, _| {
        std::thread::park();
        false
    });
    let broken = Upstream::scripted(|_, _| false);
    let (_held, deaf) = deaf();
    let gateway = |upstream: SocketAddr, keys: &str| {
        let scheme = if keys.contains("tls:") { "https://" } else { "http://" };
        let yaml = config(upstream, "")
            .replace("\"] } }\ndefaults", &format!("\"], connect_timeout: 200ms, {keys} }} }}\ndefaults"))
            .replace(&format!("http://{upstream}"), &format!("{scheme}{upstream}"))
            .replace("realm: test }", "realm: test, limits: { body: 1KiB, body_timeout: 200ms } }");
        let folder = tempfile::tempdir().expect("a folder");
        Authority::new().write_own(&folder.path().join("services.pem"));
        sign::write_keys(folder.path());
        std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
        Gateway::start_in(folder, &[])
    };
    let post = |framing: &str| format!("POST /open/x HTTP/1.1\r\nhost: gw.test\r\n{framing}");
    let over = post(&format!("transfer-encoding: chunked\r\n\r\n401\r\n{}\r\n", "x".repeat(0x401)));
    for error in [
        ForwardError::Unreachable,
        ForwardError::Insecure,
        ForwardError::Unhealthy,
        ForwardError::Saturated,
        ForwardError::TimedOut(Phase::Connect),
        ForwardError::TimedOut(Phase::Response),
        ForwardError::Broken,
        ForwardError::BodyOverflow,
        ForwardError::BodyTooSlow,
        ForwardError::ClientGone,
        ForwardError::MalformedLogin,
    ] {
        if error == ForwardError::MalformedLogin {
            let (_upstream, gateway) = crate::support::logins::start(Upstream::echo());
            let request = crate::support::logins::logging_in("kim");
            refused(&gateway, &Upstream::echo(), request, 502, None, error.label());
            continue;
        }
        let (upstream, request, status) = match error {
            ForwardError::Unreachable => (closed(), get("/open/x", None), 502),
            // Plain HTTP where TLS is wanted.
            ForwardError::Insecure => (crate::secure::plain(), get("/open/x", None), 502),
            ForwardError::Unhealthy => (closed(), get("/open/x", None), 503),
            ForwardError::Saturated => (silent.address, get("/open/x", None), 503),
            ForwardError::TimedOut(Phase::Connect) => (deaf, get("/open/x", None), 504),
            ForwardError::TimedOut(Phase::Response) => (silent.address, get("/open/x", None), 504),
            ForwardError::Broken => (broken.address, get("/open/x", None), 502),
            ForwardError::BodyOverflow => (silent.address, over.clone(), 413),
            ForwardError::BodyTooSlow => (silent.address, post("content-length: 10\r\n\r\nhello"), 408),
            // Their tests are those of what lasts.
            ForwardError::TakenBack | ForwardError::Doubted => continue,
            ForwardError::ClientGone | ForwardError::MalformedLogin => {
                (silent.address, post("transfer-encoding: chunked\r\n\r\nzz\r\n"), 400)
            }
        };
        let gateway = gateway(
            upstream,
            match error {
                ForwardError::Insecure => "timeout: 300ms, tls: { ca_file: services.pem }",
                ForwardError::Unhealthy => "health_check: { path: /healthz }",
                ForwardError::Saturated => "max_requests: 1",
                ForwardError::Unreachable
                | ForwardError::TimedOut(_)
                | ForwardError::Broken
                | ForwardError::BodyOverflow
                | ForwardError::BodyTooSlow
                | ForwardError::ClientGone
                | ForwardError::TakenBack
                | ForwardError::Doubted
                | ForwardError::MalformedLogin => "timeout: 300ms",
            },
        );
        let target = format!("{{upstream=\"echo\",target=\"{upstream}\"}}");
        let mut first = gateway.client();
        if error == ForwardError::Unhealthy {
            until("it is down", || gateway.metric(&format!("target_up{target}")) == 0.0);
        }
        if error == ForwardError::Saturated {
            first.write(get("/open/first", None));
            until("it is busy", || gateway.metric(&format!("target_requests{target}")) == 1.0);
        }
        refused(&gateway, &Upstream::echo(), request, status, None, error.label());
    }
}

// What the parser refuses has no request to answer: a bare status, the connection closed, one line
// in the log and a number.
#[test]
fn a_head_that_never_becomes_a_request_is_closed_counted_and_logged() {
    let (upstream, gateway) = start();
    let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let heads = [
        ("nonsense\r\n\r\n".to_owned(), 400, "malformed_head"),
        ("GET /open/x HTTP/1.1\r\nbad name: x\r\n\r\n".to_owned(), 400, "malformed_head"),
        ("GET /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: x\r\n\r\n".to_owned(), 400, "malformed_head"),
        (get("/open/x", None).replace("\r\n\r\n", &format!("\r\n{many}\r\n")), 431, "head_too_large"),
        (
            get("/open/x", None).replace("\r\n\r\n", &format!("\r\nx: {}\r\n\r\n", "x".repeat(200_000))),
            431,
            "head_too_large",
        ),
        (get(&format!("/open/{}", "x".repeat(70_000)), None), 414, "head_too_large"),
    ];
    for (head, status, label) in &heads {
        let count = || gateway.lines().iter().filter(|line| line.contains(label)).count();
        let before = count();
        let mut client = gateway.client();
        drop(client.stream.write_all(head.as_bytes()));
        let answer = client.read();
        assert_eq!((answer.status, answer.body.len()), (*status, 0), "{label}: {}", answer.text());
        assert!(client.try_read(false).is_none(), "closed");
        until("it is logged", || count() == before + 1);
    }
    assert!(upstream.seen().is_empty());
    let page = gateway.admin("GET", "/metrics", "").text();
    for (label, count) in [("malformed_head", 3), ("head_too_large", 3), ("head_timeout", 0)] {
        let line = format!("bearward_heads_refused_total{{reason=\"{label}\"}} {count}\n");
        assert!(page.contains(&line), "{line}: {page}");
    }
}
