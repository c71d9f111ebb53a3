//! The table of answers: status, challenge, body, and what the upstream saw.

use bearward::denial::Denial;
use serde_json::json;

use crate::support::gateway::{customer, get, token};
use crate::support::{Answer, Gateway, Upstream, config};

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
    let answer = gateway.send(&request);
    let sent = String::from_utf8_lossy(request.as_ref()).into_owned();
    let sent = sent.lines().next().unwrap_or_default();
    assert_eq!(answer.status, status, "{sent}: {}", answer.text());
    assert_eq!(answer.header("www-authenticate"), challenge, "{sent}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{sent}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{sent}");
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
    let many: String = (0..90).map(|n| format!("x-{n}: 1\r\n")).collect();
    refused(
        &gateway,
        &upstream,
        get("/open/x", None).replace("\r\n\r\n", &format!("\r\n{many}\r\n")),
        431,
        None,
        "headers_too_large",
    );
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
fn upstream_faults_are_502_and_504_and_the_log_says_which() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let gateway = Gateway::start(&config(closed, ""));
    let answer = gateway.get("/open/x", None);
    assert_eq!((answer.status, gateway.line_of(&answer)["outcome"].as_str()), (502, Some("upstream_unreachable")));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));

    let silent = Upstream::scripted(|_, _| {
        std::thread::park();
        false
    });
    let yaml = config(silent.address, "").replace("\"] } }\ndefaults", "\"], timeout: 200ms } }\ndefaults");
    let gateway = Gateway::start(&yaml);
    let answer = gateway.get("/open/x", None);
    assert_eq!((answer.status, gateway.line_of(&answer)["outcome"].as_str()), (504, Some("upstream_response_timeout")));

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

/// Every reason has a label of its own, and the list of labels is the list of reasons.
#[test]
fn every_denial_has_its_label() {
    let name: std::sync::Arc<str> = "x".into();
    let all = [
        Denial::AmbiguousPath,
        Denial::DuplicateCredentials,
        Denial::MalformedRequest,
        Denial::AlgorithmNotAllowed,
        Denial::BadSignature,
        Denial::Expired,
        Denial::LifetimeTooLong,
        Denial::MalformedToken,
        Denial::MissingClaim(name.clone()),
        Denial::MissingToken,
        Denial::NotYetValid,
        Denial::Revoked,
        Denial::UnknownKey,
        Denial::UnsupportedToken,
        Denial::WrongAudience,
        Denial::WrongIssuer,
        Denial::ClaimMismatch,
        Denial::Excluded,
        Denial::MissingRole,
        Denial::MissingScope(name.clone()),
        Denial::NoRoute,
        Denial::MethodNotAllowed(name),
        Denial::BodyTooLarge,
        Denial::TargetTooLong,
        Denial::HeadersTooLarge,
        Denial::KeysUnavailable,
        Denial::StandingUnknown,
    ];
    assert_eq!(all.len(), Denial::COUNT);
    for (number, denial) in all.iter().enumerate() {
        assert_eq!((denial.number(), denial.label()), (number, Denial::LABELS[number]));
    }
    let mut labels = Denial::LABELS.to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Denial::COUNT);
}
