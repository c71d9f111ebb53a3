//! What an upstream is told about the caller comes from the gateway alone.

use serde_json::json;

use crate::support::gateway::{customer, get, token, with_store};
use crate::support::{Gateway, Upstream, config};

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    (upstream, gateway)
}

/// `GET path` with these fields as they are written.
fn with(path: &str, token: Option<&str>, fields: &str) -> String {
    get(path, token).replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))
}

#[test]
fn verified_claims_reach_the_upstream_as_headers() {
    let (upstream, gateway) = start();
    let token = token(&json!({ "name": "홍길동", "roles": ["customer", "vip,gold"], "org": { "tenant": "blue" } }));
    assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
    let seen = upstream.last();
    assert_eq!(seen.values("x-user-id"), ["kim"]);
    assert_eq!(seen.values("x-user-roles"), ["customer,vip%2Cgold"]);
    assert_eq!(seen.values("x-user-name"), ["%ED%99%8D%EA%B8%B8%EB%8F%99"]);
    assert_eq!(bearward::percent::decode(seen.values("x-user-name")[0]), "홍길동");
    assert_eq!(seen.values("x-tenant"), ["blue"]);
    assert_eq!(seen.values("authorization"), Vec::<&str>::new());
}

/// Services are told the roles that the gateway judged by, wherever an issuer keeps them.
#[test]
fn what_is_called_roles_and_scope_are_those_that_the_rule_saw() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: admin, match: { path: "/admin" }, upstream: echo, access: { roles: [admin] } }
  - { id: claim, match: { path: "/claim" }, upstream: echo, access: { claims: { roles: admin } } }
"#;
    let yaml = config(upstream.address, routes)
        .replace(
            "jwks_file: rsa.jwks.json",
            "jwks_file: rsa.jwks.json, roles_claim: realm_access.roles, scopes_claim: permissions",
        )
        .replace("X-User-Roles: roles", "X-User-Roles: roles\n    X-Scope: scope");
    let gateway = Gateway::start(&yaml);
    let liar = token(
        &json!({ "roles": ["admin"], "scope": "all", "realm_access": { "roles": ["customer", "vip"] }, "permissions": ["a", "b"] }),
    );
    assert_eq!(gateway.get("/me/x", Some(&liar)).status, 200);
    let seen = upstream.last();
    assert_eq!((seen.values("x-user-roles"), seen.values("x-scope")), (vec!["customer,vip"], vec!["a%20b"]));
    assert_eq!((gateway.get("/admin", Some(&liar)).status, gateway.get("/claim", Some(&liar)).status), (403, 403));
    let nobody = token(&json!({ "roles": ["admin"], "scope": "all" }));
    assert_eq!(gateway.get("/me/x", Some(&nobody)).status, 200);
    assert_eq!((upstream.last().values("x-user-roles").len(), upstream.last().values("x-scope").len()), (0, 0));
}

/// Two claims that differ are two values.
#[test]
fn a_text_with_a_comma_is_no_list_and_no_number_loses_its_end() {
    let (upstream, gateway) = start();
    let of = |roles: serde_json::Value| {
        assert_eq!(gateway.get("/me/x", Some(&token(&json!({ "roles": roles })))).status, 200);
        upstream.last().values("x-user-roles").join("|")
    };
    assert_eq!(
        (of(json!("admin,root")), of(json!(["admin", "root"]))),
        ("admin%2Croot".to_owned(), "admin,root".to_owned())
    );
    let numbered = |number: &str| {
        let claims = crate::support::sign::Claims::of("https://rsa.test").json();
        let claims = format!("{},\"org\":{{\"tenant\":{number}}}}}", claims.trim_end_matches('}'));
        gateway.get("/me/x", Some(&crate::support::sign::rsa(&claims))).status
    };
    assert_eq!((numbered("9007199254740993"), numbered("18446744073709551615"), numbered("1.5")), (200, 200, 200));
    assert_eq!((numbered("12345678901234567890123"), numbered("-1e300")), (401, 401));
}

#[test]
fn threat_37_connection_cannot_name_what_the_gateway_sets() {
    let (upstream, gateway) = start();
    let token = customer();
    for named in [
        "X-User-Id",
        "x-user-id, X-User-Roles",
        "X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Forwarded",
        "X-Request-Id, traceparent",
        "Host",
        "Content-Length",
        "close, X-User-Id",
        "Cookie, X-User-Id",
    ] {
        let answer = gateway.send(with("/me/x", Some(&token), &format!("connection: {named}")));
        assert_eq!(answer.status, 200, "{named}");
        let seen = upstream.last();
        for name in [
            "x-user-id",
            "x-user-roles",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "forwarded",
            "x-request-id",
            "traceparent",
            "host",
        ] {
            assert_eq!(seen.values(name).len(), 1, "{named}: {name}: {}", seen.head);
        }
        assert_eq!(seen.values("connection"), Vec::<&str>::new());
    }
    // The credential is looked at before `Connection` can hide it.
    assert_eq!(gateway.send(with("/me/x", Some(&token), "connection: Authorization")).status, 200);
    assert_eq!(gateway.send(with("/me/x", None, "connection: Authorization")).status, 401);
    let with_body = format!(
        "POST /me/x HTTP/1.1\r\nhost: gw.test\r\nauthorization: Bearer {token}\r\nconnection: content-length\r\ncontent-length: 5\r\n\r\nhello"
    );
    assert_eq!(gateway.send(with_body).status, 200);
    assert_eq!(upstream.last().body, b"hello");
}

#[test]
fn threats_38_to_40_a_spoofed_identity_header_never_arrives_in_any_spelling_on_any_route() {
    let (upstream, gateway) = start();
    let bare = token(&json!({ "sub": "hong" }));
    let spellings = [
        "X-User-Id",
        "x-user-id",
        "X-USER-ID",
        "x_user_id",
        "X_USER_ID",
        "X-User_Id",
        "x.user.id",
        "X-User-Id-",
        "X-User-Id_",
        "x-user_id.",
        "X+User+Id",
        "X~User~Id",
        "x!user#id",
        "x-user-id|",
        "x`user'id*",
        "$x-user-id",
        "X-User-Roles",
        "x_user_roles",
        "X-User-Name",
        "x_user_name",
        "X-Tenant",
        "x_tenant",
        "X-TENANT",
    ];
    for name in spellings {
        for (path, token) in [("/open/x", None), ("/open/x", Some(&bare)), ("/me/x", Some(&bare))] {
            for fields in [
                format!("{name}: admin"),
                format!("{name}: admin\r\n{name}: root"),
                format!("{name}: admin\r\nconnection: {name}"),
            ] {
                let answer = gateway.send(with(path, token.map(String::as_str), &fields));
                assert_eq!(answer.status, 200, "{name}");
                let head = upstream.last().head.to_lowercase();
                assert!(!head.contains("admin") && !head.contains("root"), "{name}: {head}");
            }
        }
    }
    // The token has no roles, no name, no tenant: absent claims are absent headers.
    let seen = upstream.last();
    assert_eq!(seen.values("x-user-id"), ["hong"]);
    for name in ["x-user-roles", "x-user-name", "x-tenant"] {
        assert!(seen.values(name).is_empty(), "{name}");
    }
    for roles in [json!([]), json!([""]), json!(["", ""]), json!("")] {
        let empty = token(&json!({ "roles": roles, "name": "" }));
        assert_eq!(gateway.get("/me/x", Some(&empty)).status, 200);
        let seen = upstream.last();
        assert!(seen.values("x-user-roles").is_empty() && seen.values("x-user-name").is_empty(), "{}", seen.head);
    }
}

#[test]
fn threats_41_to_44_and_48_forwarding_and_override_headers_of_a_stranger_are_dropped_or_rebuilt() {
    let (upstream, gateway) = start();
    let token = customer();
    let spoofed = "x-forwarded-for: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nx-forwarded-host: evil.test\r\nx-forwarded-proto: https\r\n\
        x-forwarded-prefix: /evil\r\nx-forwarded-port: 6666666\r\nx-forwarded-uri: /open/x\r\nx-forwarded-method: GET\r\nx-forwarded-user: evil\r\n\
        x-forwarded-email: evil@evil.test\r\nx-forwarded-groups: evil\r\nx-forwarded-client-cert: evil\r\nforwarded: for=6.6.6.6;host=evil.test\r\n\
        x_forwarded_for: 6.6.6.6\r\nx-real-ip: 6.6.6.6\r\nx-client-ip: 6.6.6.6\r\ntrue-client-ip: 6.6.6.6\r\nx-original-url: /evil\r\nx-original-uri: /evil\r\n\
        x-rewrite-url: /evil\r\nx-http-method-override: DELETE\r\nx-http-method: DELETE\r\nx-method-override: DELETE\r\nx-request-id: evil\r\n\
        X_Original_URL: /evil\r\nX_Request_Id: evil\r\ntraceparent_: evil\r\nproxy: http://evil.test\r\n\
        Transfer_Encoding: evil\r\nContent_Length: 6666666\r\nContent.Length: 6666666";
    let answer = gateway.send(with("/orders/1", Some(&token), spoofed));
    assert_eq!(answer.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.line(), "GET /orders/1 HTTP/1.1");
    let head = seen.head.to_lowercase();
    for never in ["evil", "6.6.6.6", "7.7.7.7", "delete", "6666666"] {
        assert!(!head.contains(never), "{never}: {head}");
    }
    assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-host"), ["gw.test"]);
    assert_eq!(seen.values("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.values("forwarded"), [r#"for=127.0.0.1;host="gw.test";proto=http"#]);
    assert_eq!(gateway.line_of(&answer)["client"], "127.0.0.1");
    // Row 43: what decides is the path, not what a header says the path is.
    for field in
        ["x-forwarded-uri: /open/x", "x-original-url: /open/x", "x-rewrite-url: /open/x", "x-http-method-override: GET"]
    {
        assert_eq!(gateway.send(with("/orders/1", None, field)).status, 401, "{field}");
        let post = with("/orders/1", Some(&token), field).replace("GET ", "POST ");
        assert_eq!(gateway.send(post).status, 405, "{field}");
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to() {
    let upstream = Upstream::echo();
    let yaml = with_store(upstream.address, "memory:", "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]", "");
    let gateway = Gateway::start(&yaml);
    let fields = "x-forwarded-for: 6.6.6.6, 198.51.100.7, 10.0.0.1\r\nx-forwarded-proto: https\r\nx-forwarded-host: shop.test\r\nforwarded: for=198.51.100.7\r\n\
        x-request-id: from-the-proxy\r\nx_forwarded_for: 6.6.6.6";
    let answer = gateway.send(with("/open/x", None, fields));
    let seen = upstream.last();
    assert_eq!(seen.values("x-forwarded-for"), ["6.6.6.6, 198.51.100.7, 10.0.0.1, 127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.values("x-forwarded-host"), ["shop.test"]);
    assert_eq!(seen.values("forwarded"), [r#"for=198.51.100.7, for=127.0.0.1;host="gw.test";proto=http"#]);
    assert!(seen.values("x_forwarded_for").is_empty());
    assert_eq!(answer.header("x-request-id"), Some("from-the-proxy"));
    assert_eq!(gateway.line_of(&answer)["client"], "198.51.100.7");
    // An id that is not fit for a log line is made new.
    let answer = gateway.send(with("/open/x", None, "x-request-id: a b"));
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
}

#[test]
fn threat_45_a_repeated_credential_is_refused_and_repeated_fields_are_never_half_judged() {
    let (upstream, gateway) = start();
    let (good, token) = (customer(), customer());
    for second in [format!("Bearer {good}"), "Bearer x".to_owned(), "Basic eDp5".to_owned(), String::new()] {
        let answer = gateway.send(with("/me/x", Some(&token), &format!("authorization: {second}")));
        assert_eq!(answer.status, 400, "{second}");
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="test", error="invalid_request""#));
    }
    assert!(upstream.seen().is_empty());
    let answer = gateway.send(with("/me/x", Some(&token), "X-User-Roles: user\r\nx-user-roles: admin"));
    assert_eq!((answer.status, upstream.last().values("x-user-roles")), (200, vec!["customer"]));
}

#[test]
fn threat_46_no_claim_breaks_out_of_its_header() {
    let (upstream, gateway) = start();
    for name in ["a\r\nX-User-Roles: admin", "a\nb", "a\rb", "a\0b", "a\tb", "a\u{7f}b", "a\u{85}b", "\u{9b}31m"] {
        gateway.refuses(&upstream, &token(&json!({ "name": name })), &["malformed_token"]);
        gateway.refuses(&upstream, &token(&json!({ "roles": ["x", name] })), &["malformed_token"]);
    }
    for name in ["é ü 홍", "a%0d%0ab", "a: b; c=\"d\"", " lead and trail ", &"x".repeat(3000), "\u{2028}", "😀"] {
        assert_eq!(gateway.get("/me/x", Some(&token(&json!({ "name": name })))).status, 200, "{name}");
        let seen = upstream.last();
        let value = seen.value("x-user-name").expect("one line");
        assert!(value.bytes().all(|b| b.is_ascii_graphic()));
        assert_eq!(bearward::percent::decode(value), name);
    }
    // 8 KB: more than a token may be; and, of fewer characters that need three bytes each, more than
    // a header may be.
    for name in ["x".repeat(8 * 1024), "홍".repeat(1400)] {
        gateway.refuses(&upstream, &token(&json!({ "name": name })), &["malformed_token"]);
    }
    let name = "x".repeat(5000);
    assert_eq!(gateway.get("/me/x", Some(&token(&json!({ "name": name })))).status, 200);
    assert_eq!(upstream.last().value("x-user-name"), Some(name.as_str()));
}

#[test]
fn threat_47_no_header_but_the_credential_changes_the_decision() {
    let (upstream, gateway) = start();
    for field in [
        "user-agent: kube-probe/1.30",
        "user-agent: ELB-HealthChecker/2.0",
        "user-agent: GoogleHC/1.0",
        "x-health-check: 1",
        "origin: https://gw.test",
        "referer: https://gw.test/admin",
        "cookie: session=admin",
        "x-api-key: admin",
        "proxy-authorization: Bearer x",
        "x-forwarded-user: admin",
        "x-envoy-internal: true",
        "x-envoy-external-address: 127.0.0.1",
        "x-bearward-internal: 1",
        "accept: */*",
        "sec-fetch-site: same-origin",
        "x-user-id: admin",
        "authorization2: Bearer x",
        "x-authorization: Bearer x",
    ] {
        assert_eq!(gateway.send(with("/orders/1", None, field)).status, 401, "{field}");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn hop_by_hop_fields_go_no_further_in_either_direction() {
    let upstream = Upstream::scripted(|_, stream| {
        use std::io::Write;
        let answer = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-private\r\nkeep-alive: timeout=5\r\nx-private: 1\r\nproxy-authenticate: Basic\r\n\
            upgrade: h2c\r\nx-public: 1\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let fields = "connection: keep-alive, x-private, upgrade, http2-settings\r\nkeep-alive: timeout=5\r\nx-private: 1\r\nte: trailers\r\ntrailer: x\r\n\
        upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nproxy-authorization: Basic eDp5\r\nproxy-connection: keep-alive\r\nx-public: 1\r\ncookie: a=b";
    let answer = gateway.send(with("/open/x", None, fields));
    assert_eq!(answer.status, 200);
    let seen = upstream.last();
    for name in [
        "connection",
        "keep-alive",
        "x-private",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "proxy-connection",
    ] {
        assert!(seen.values(name).is_empty(), "{name}: {}", seen.head);
    }
    assert_eq!((seen.values("x-public"), seen.values("cookie")), (vec!["1"], vec!["a=b"]));
    for name in ["connection", "keep-alive", "x-private", "proxy-authenticate", "upgrade"] {
        assert!(answer.header(name).is_none(), "{name}");
    }
    assert_eq!(answer.header("x-public"), Some("1"));
}

#[test]
fn threat_51_one_request_is_one_line_of_json_whatever_it_holds() {
    let (_upstream, gateway) = start();
    let agent = "a".repeat(20_000);
    let odd = "\u{e9}\t\u{1f600} \"quoted\" \\back {\"level\":\"ERROR\"}";
    for (path, agent) in
        [("/open/%0Ax%22", "x"), ("/open/x", &agent), ("/open/x", odd), (&format!("/open/{}", "y".repeat(4000)), "x")]
    {
        let answer = gateway.send(with(path, None, &format!("user-agent: {agent}")));
        gateway.line_of(&answer);
    }
    let named = token(&json!({ "sub": "kim\u{2028}\"},{\u{5d0}" }));
    let answer = gateway.get("/me/x", Some(&named));
    assert_eq!(gateway.line_of(&answer)["subject"], "kim\u{2028}\"},{\u{5d0}");
    // `access_lines` parses every line; a broken one fails the test.
    assert_eq!(gateway.access_lines().len(), 5);
}

#[test]
fn the_token_goes_on_only_where_the_configuration_says_so() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, "").replace("identity:\n", "identity:\n  forward_token: true\n");
    let gateway = Gateway::start(&yaml);
    let token = customer();
    assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
    assert_eq!(upstream.last().values("authorization"), [format!("Bearer {token}")]);
}

#[test]
fn a_trace_goes_on_or_begins() {
    let (upstream, gateway) = start();
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    gateway.send(with("/open/x", None, &format!("traceparent: {given}\r\ntracestate: a=b")));
    assert_eq!(
        (upstream.last().values("traceparent"), upstream.last().values("tracestate")),
        (vec![given], vec!["a=b"])
    );
    let answer = gateway.send(with("/open/x", None, "traceparent: evil"));
    let seen = upstream.last();
    assert_eq!(seen.value("traceparent").map(str::len), Some(55));
    assert_eq!(seen.value("x-request-id"), answer.header("x-request-id"));
}

#[test]
fn connection_cannot_take_the_credential_or_the_cookies_away() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, "").replace("identity:\n", "identity:\n  forward_token: true\n");
    let gateway = Gateway::start(&yaml);
    let token = customer();
    assert_eq!(
        gateway.send(with("/me/x", Some(&token), "cookie: a=b\r\nconnection: Authorization, Cookie")).status,
        200
    );
    assert_eq!(upstream.last().values("authorization"), [format!("Bearer {token}")]);
    assert_eq!(upstream.last().values("cookie"), ["a=b"]);
}
