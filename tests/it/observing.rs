//! What operators see: access lines, metrics, health, revocations.

use serde_json::json;

use crate::support::gateway::{customer, get, token};
use crate::support::{Client, Gateway, Upstream, config, until};

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    (upstream, gateway)
}

#[test]
fn every_request_has_one_access_line_that_says_what_was_decided() {
    let (_upstream, gateway) = start();
    let answer = gateway.get("/orders/1?x=secret", Some(&token(&json!({ "roles": ["admin"], "sub": "홍길동" }))));
    let line = gateway.line_of(&answer);
    for (field, value) in [
        ("method", json!("GET")),
        ("path", json!("/orders/1")),
        ("status", json!(200)),
        ("outcome", json!("ok")),
        ("route", json!("order")),
        ("subject", json!("홍길동")),
        ("client", json!("127.0.0.1")),
        ("level", json!("INFO")),
        ("bytes", json!(answer.body.len())),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(line["duration_us"].as_u64().is_some_and(|us| us > 0));
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.len() == 24));
    let mut client = gateway.client();
    for number in 0..100 {
        client.send(get(&format!("/open/{number}"), None));
    }
    until("all lines are written", || gateway.access_lines().len() == 101);
}

#[test]
fn metrics_are_in_the_text_format_and_grow_with_nothing_that_a_client_sends() {
    let (_upstream, gateway) = start();
    let count = |page: &str, line: &str| -> Option<f64> {
        page.lines().find_map(|known| known.strip_prefix(line)).and_then(|value| value.trim().parse().ok())
    };
    for _ in 0..3 {
        gateway.get("/open/x", None);
    }
    gateway.get("/me/x", None);
    gateway.get("/me/x", Some("bad"));
    gateway.get("/nowhere", None);
    until("all are counted", || {
        let page = gateway.admin("GET", "/metrics", "").text();
        count(&page, "bearward_requests_total{route=\"\",code=\"4xx\"}") == Some(1.0)
            && count(&page, "bearward_requests_total{route=\"open\",code=\"2xx\"}") == Some(3.0)
            && count(&page, "bearward_requests_total{route=\"me\",code=\"4xx\"}") == Some(2.0)
    });
    let before = gateway.admin("GET", "/metrics", "");
    assert_eq!(before.header("content-type"), Some("text/plain; version=0.0.4"));
    let page = before.text();
    assert_eq!(count(&page, "bearward_denials_total{reason=\"missing_token\"}"), Some(1.0));
    assert_eq!(count(&page, "bearward_denials_total{reason=\"malformed_token\"}"), Some(1.0));
    assert_eq!(count(&page, "bearward_denials_total{reason=\"no_route\"}"), Some(1.0));
    assert_eq!(count(&page, "bearward_request_duration_seconds_count{route=\"open\"}"), Some(3.0));
    assert_eq!(count(&page, "bearward_request_duration_seconds_bucket{route=\"open\",le=\"+Inf\"}"), Some(3.0));
    assert_eq!(count(&page, "bearward_store_available"), Some(1.0));
    // Each sample belongs to a metric that was declared once.
    let declared: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(declared.iter().any(|known| name.starts_with(known)), "{line}");
    }
    let lines = page.lines().count();
    for number in 0..200 {
        gateway.send(format!("X{number} /{number} HTTP/1.1\r\nhost: h{number}.test\r\nuser-agent: a{number}\r\n\r\n"));
    }
    assert!(gateway.admin("GET", "/metrics", "").text().lines().count() <= lines + 1);
}

#[test]
fn health_pages_and_unknown_pages() {
    let (_upstream, gateway) = start();
    assert_eq!(gateway.admin("GET", "/livez", "").status, 200);
    let ready = gateway.admin("GET", "/readyz", "");
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)));
    assert_eq!(gateway.admin("GET", "/", "").status, 404);
    let refused = gateway.admin("DELETE", "/revocations", "");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD, POST")));
    // RFC 9110 §9.1: whoever has GET has HEAD.
    for page in ["/livez", "/readyz", "/metrics", "/revocations?jti=x"] {
        let mut client = Client::connect(gateway.admin);
        client.write(format!("HEAD {page} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        assert_eq!(client.read_to_head().status, 200, "{page}");
    }
    // The pages are not on the clients' address.
    for path in ["/livez", "/readyz", "/metrics", "/revocations"] {
        assert_eq!(gateway.get(path, None).status, 404, "{path}");
    }
}

#[test]
fn revocations_are_written_and_read_at_the_admin_address() {
    let (upstream, gateway) = start();
    let (one, two) = (token(&json!({ "jti": "a 1/ü", "sid": "s-1" })), token(&json!({ "sid": "s-1" })));
    gateway.takes(&one);
    let absent = gateway.admin("GET", "/revocations?jti=a%201%2F%C3%BC", "");
    assert_eq!((absent.status, absent.json()["present"].as_bool()), (200, Some(false)));
    let done = gateway.admin("POST", "/revocations", r#"{"jti":"a 1/ü"}"#);
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(
        (done.json()["revoked"].as_str(), done.json()["acknowledged_by"].as_str()),
        (Some("jti"), Some("primary"))
    );
    gateway.refuses(&upstream, &one, &["revoked"]);
    let present = gateway.admin("GET", "/revocations?jti=a%201%2F%C3%BC", "");
    assert_eq!(
        (present.json()["present"].as_bool(), present.json()["key"].as_str()),
        (Some(true), Some("blacklist:a 1/ü"))
    );
    assert!(present.json()["remaining_ms"].as_u64().is_some_and(|left| left > 86_000_000));
    gateway.takes(&two);
    assert_eq!(gateway.admin("POST", "/revocations", r#"{"sid":"s-1"}"#).status, 200);
    gateway.refuses(&upstream, &two, &["revoked"]);
    // By token: for as long as the token would have lived.
    let three = token(&json!({ "jti": "t-3" }));
    assert_eq!(gateway.admin("POST", "/revocations", &json!({ "token": three }).to_string()).status, 200);
    gateway.refuses(&upstream, &three, &["revoked"]);
    let left = gateway.admin("GET", "/revocations?jti=t-3", "").json()["remaining_ms"].as_u64().expect("a life");
    assert!((600_000..700_000).contains(&left), "{left}");
}

#[test]
fn an_order_that_cannot_be_carried_out_says_why_and_changes_nothing() {
    let (_upstream, gateway) = start();
    let good = customer();
    let expired = token(&json!({ "exp": crate::support::now() - 100 }));
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let nameless = token(&json!({ "jti": null }));
    for (body, reason) in [
        (String::new(), "no JSON object"),
        ("[]".to_owned(), "no JSON object"),
        (r#"{"jti":"a","jti":"b"}"#.to_owned(), "twice"),
        ("{}".to_owned(), "exactly one of"),
        (r#"{"jti":"a","sub":"b"}"#.to_owned(), "exactly one of"),
        (r#"{"jti":7}"#.to_owned(), "exactly one of"),
        (r#"{"jti":""}"#.to_owned(), "exactly one of"),
        (r#"{"jit":"a"}"#.to_owned(), "unknown member `jit`"),
        (r#"{"jti":"a","before":5}"#.to_owned(), "`before` goes with `sub`"),
        (r#"{"sub":"a","before":"now"}"#.to_owned(), "no unix time"),
        (format!(r#"{{"sub":"a","before":{}}}"#, crate::support::now() + 3600), "in the future"),
        (format!(r#"{{"sub":"kim","before":{}}}"#, i64::MAX), "in the future"),
        (r#"{"jti":"a","issuer":"nobody"}"#.to_owned(), "unknown issuer; declared issuers: `rsa`, `ec`, `hmac`"),
        (r#"{"token":"garbage"}"#.to_owned(), "this is no token"),
        (json!({ "token": good, "sub": "x" }).to_string(), "`token` stands alone"),
        (json!({ "token": expired }).to_string(), "has expired"),
        (json!({ "token": forged }).to_string(), "bad_signature"),
        (json!({ "token": nameless }).to_string(), "no `jti`"),
        (json!({ "token": token(&json!({ "iss": "https://nobody.test" })) }).to_string(), "no configured issuer"),
    ] {
        let answer = gateway.admin("POST", "/revocations", &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(
            answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(reason)),
            "{body}: {}",
            answer.text()
        );
    }
    gateway.takes(&good);
    assert_eq!(gateway.admin("GET", "/revocations", "").status, 400);
    assert_eq!(gateway.admin("GET", "/revocations?jti=a&sub=b", "").status, 400);
}

#[test]
fn a_page_in_a_browser_cannot_revoke() {
    let (_upstream, gateway) = start();
    let post = |fields: &str| {
        let body = r#"{"sub":"kim"}"#;
        let head = format!(
            "POST /revocations HTTP/1.1\r\nhost: admin\r\n{fields}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Client::connect(gateway.admin).send(head).status
    };
    assert_eq!(post("content-type: application/json\r\norigin: http://evil.test"), 403);
    assert_eq!(post("content-type: application/json\r\norigin: null"), 403);
    assert_eq!(post("content-type: text/plain"), 415);
    assert_eq!(post("accept: */*"), 415);
    gateway.takes(&token(&json!({ "iat": crate::support::now() - 5 })));
    assert_eq!(post("content-type: application/json; charset=utf-8"), 200);
}

// A page of a name that was made to lead here (DNS rebinding) is of the same origin, to its browser.
#[test]
fn on_loopback_the_admin_pages_answer_to_no_other_name() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    for (host, status) in [
        ("127.0.0.1:9901", 200),
        ("[::1]:9901", 200),
        ("localhost", 200),
        ("gw.localhost:1", 200),
        ("edge-1:9901", 200),
        ("evil.test", 403),
        ("evil.test:9901", 403),
        ("127.0.0.1.evil.test", 403),
        ("localhost.evil.test:9901", 403),
        ("a b", 403),
    ] {
        for path in ["/livez", "/revocations?jti=x", "/metrics"] {
            let answer = Client::connect(gateway.admin).send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert!(
                answer.status == status || (status == 200 && answer.status != 403),
                "{host} {path}: {}",
                answer.text()
            );
        }
    }
}
