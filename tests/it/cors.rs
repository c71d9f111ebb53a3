//! Which pages of other origins may read answers, as browsers ask (Fetch standard, "CORS protocol").

use std::io::Write;

use crate::support::client::Answer;
use crate::support::gateway::{config, customer};
use crate::support::{Gateway, Upstream};

const ROUTES: &str = r#"
  - { id: read, match: { path: "/shop/{id}", methods: [GET, PUT] }, upstream: echo, access: { roles: [customer] },
      cors: { origins: ["https://shop.test", "https://*.pages.test", "http://localhost:3000"], credentials: true, expose: [X-Service], max_age: 5m } }
  - { id: any, match: { path: "/any" }, upstream: echo, access: public, cors: { origins: ["*"], headers: [X-One, X-Two] } }
  - { id: own, match: { path: "/own" }, upstream: echo, access: public }
  - { id: off, match: { path: "/off" }, upstream: echo, access: public, cors: { origins: [] } }
"#;

/// A service that answers every request, with words of its own about who may read it.
fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::scripted(|_, stream| {
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n\
                  access-control-max-age: 9\r\nx-service: yes\r\nvary: Accept\r\ncontent-length: 2\r\n\r\nok",
            )
            .is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ROUTES));
    (upstream, gateway)
}

fn asks(path: &str, fields: &str) -> String {
    format!("OPTIONS {path} HTTP/1.1\r\nhost: gw.test\r\n{fields}\r\n")
}

fn said(answer: &Answer) -> Vec<(&str, &str)> {
    let said = answer.headers.iter().filter(|(name, _)| name.starts_with("access-control-"));
    let mut said: Vec<_> =
        said.map(|(name, value)| (name["access-control-".len()..].as_ref(), value.as_str())).collect();
    said.sort_unstable();
    said
}

#[test]
fn a_preflight_is_answered_before_authentication_and_goes_no_further() {
    let (upstream, gateway) = start();
    let answer = gateway.send(asks("/shop/1", "origin: https://shop.test\r\naccess-control-request-method: PUT\r\naccess-control-request-headers: authorization\r\n"));
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(
        said(&answer),
        [
            ("allow-credentials", "true"),
            ("allow-headers", "authorization, content-type"),
            ("allow-methods", "GET, PUT"),
            ("allow-origin", "https://shop.test"),
            ("expose-headers", "x-service"),
            ("max-age", "300"),
        ]
    );
    assert!(answer.header("vary").is_some_and(|vary| vary.eq_ignore_ascii_case("origin")));
    let line = gateway.line_of(&answer);
    assert_eq!((line["outcome"].as_str(), line["route"].as_str()), (Some("ok"), Some("read")));
    let answer = gateway.send(asks("/any", "origin: null\r\naccess-control-request-method: PURGE\r\n"));
    assert_eq!(
        said(&answer),
        [("allow-headers", "x-one, x-two"), ("allow-methods", "PURGE"), ("allow-origin", "*"), ("max-age", "600")]
    );
    assert!(upstream.seen().is_empty());
}

#[test]
fn threat_49_no_origin_but_a_named_one_is_ever_repeated() {
    let (upstream, gateway) = start();
    let good = ["https://shop.test", "https://a.pages.test", "https://a.b-c.pages.test", "http://localhost:3000"];
    let bad = [
        "null",
        "",
        "https://shop.test.evil.test",
        "https://evilshop.test",
        "https://shop.test:443",
        "https://shop.test:8443",
        "http://shop.test",
        "https://SHOP.test",
        "HTTPS://shop.test",
        "https://shop.test/",
        "https://shop.test.",
        "shop.test",
        "https://pages.test",
        "https://evilpages.test",
        "https://.pages.test",
        "https://a..pages.test",
        "https://evil.test/.pages.test",
        "https://evil.test#.pages.test",
        "https://evil.test:1.pages.test",
        "https://evil@a.pages.test",
        "https://a.pages.test:8443",
        "http://a.pages.test",
        "http://localhost",
        "http://localhost:30000",
        "http://127.0.0.1:3000",
        "https://shop.test https://evil.test",
        "https://shop.test, https://evil.test",
        "*",
        "https://*.pages.test",
    ];
    let token = customer();
    for (origin, is_good) in good.iter().map(|it| (it, true)).chain(bad.iter().map(|it| (it, false))) {
        let preflight =
            gateway.send(asks("/shop/1", &format!("origin: {origin}\r\naccess-control-request-method: GET\r\n")));
        let request = format!(
            "GET /shop/1 HTTP/1.1\r\nhost: gw.test\r\norigin: {origin}\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let answer = gateway.send(request);
        assert_eq!((preflight.status, answer.status), (if is_good { 204 } else { 403 }, 200), "{origin}");
        if is_good {
            assert_eq!(preflight.header("access-control-allow-origin"), Some(*origin));
            assert_eq!(
                said(&answer),
                [("allow-credentials", "true"), ("allow-origin", origin), ("expose-headers", "x-service")]
            );
        } else {
            assert_eq!((said(&preflight), said(&answer)), (Vec::new(), Vec::new()), "{origin}");
        }
        let vary: Vec<_> =
            answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str()).collect();
        assert_eq!(vary, ["Accept", "Origin"], "{origin}: whoever keeps answers has to tell them apart");
    }
    // Two of them are none.
    let two = "origin: https://shop.test\r\norigin: https://shop.test\r\naccess-control-request-method: GET\r\n";
    assert_eq!(gateway.send(asks("/shop/1", two)).status, 403);
    assert_eq!(upstream.seen().len(), good.len() + bad.len());
}

/// An answer that is for pages of any origin says so to whoever asks: what is kept of it may be given to a page.
#[test]
fn what_any_page_may_read_says_so_without_an_origin_too() {
    let (_upstream, gateway) = start();
    let answer = gateway.get("/any", None);
    assert_eq!(said(&answer), [("allow-origin", "*")]);
    let vary: Vec<_> =
        answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str()).collect();
    assert_eq!(vary, ["Accept"]);
    assert_eq!(said(&gateway.get("/own", None)).len(), 3, "what the service says");
    assert_eq!(said(&gateway.get("/shop/1", None)), [], "others are told apart");
}

#[test]
fn a_page_can_read_why_it_was_refused() {
    let (_upstream, gateway) = start();
    let request = "GET /shop/1 HTTP/1.1\r\nhost: gw.test\r\norigin: https://shop.test\r\n\r\n";
    let answer = gateway.send(request);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some("https://shop.test")));
}

#[test]
fn where_no_cors_is_said_the_service_says_it() {
    let (upstream, gateway) = start();
    for path in ["/own", "/off"] {
        let fields = "origin: https://shop.test\r\naccess-control-request-method: PUT\r\n";
        let answer = gateway.send(asks(path, fields));
        assert_eq!((answer.status, answer.header("access-control-max-age")), (200, Some("9")), "{path}");
        assert!(upstream.last().line().starts_with("OPTIONS"));
    }
    // On a route with it an OPTIONS that is no preflight is a request like others.
    assert_eq!(gateway.send(asks("/any", "origin: https://shop.test\r\n")).status, 200);
    assert_eq!(gateway.send(asks("/shop/1", "access-control-request-method: GET\r\n")).status, 405);
    // So is a preflight of a method that nobody takes.
    assert_eq!(
        gateway.send(asks("/shop/1", "origin: https://shop.test\r\naccess-control-request-method: DELETE\r\n")).status,
        405
    );
}

#[test]
fn what_all_routes_share_holds_where_a_route_says_nothing_else() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, ROUTES)
        .replace("realm: test }", "realm: test, cors: { origins: [\"https://all.test\"] } }");
    let gateway = Gateway::start(&yaml);
    let allowed = |path: &str| {
        let answer = gateway.send(format!("GET {path} HTTP/1.1\r\nhost: gw.test\r\norigin: https://all.test\r\n\r\n"));
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed("/own").as_deref(), Some("https://all.test"));
    assert_eq!((allowed("/shop/1"), allowed("/off"), allowed("/any").as_deref()), (None, None, Some("*")));
}
