//! The path that is judged is the path that the upstream gets, in one spelling.

use crate::support::gateway::{customer, get};
use crate::support::{Gateway, Upstream, config};

const ADMIN: &str = r#"
  - { id: admin, match: { path: "/admin/**" }, upstream: echo, access: { roles: [admin] } }
  - { id: site, match: { path: "/public/**" }, upstream: echo, access: public }
  - { id: exact, match: { path: "/secret" }, upstream: echo, access: { roles: [admin] } }
"#;

fn start(routes: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, routes));
    (upstream, gateway)
}

/// Spellings that some server somewhere has read as `/admin/x`.
fn spellings() -> Vec<String> {
    let mut all: Vec<String> = [
        "//admin/x",
        "/./admin/x",
        "/../admin/x",
        "/x/../admin/x",
        "/public/../admin/x",
        "/public/..//admin/x",
        "/public/./../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/%2E%2E/admin/x",
        "/public/.%2e/admin/x",
        "/public/%2e./admin/x",
        "/public/..%2fadmin/x",
        "/public/..%2Fadmin/x",
        "/public/%2e%2e%2fadmin/x",
        "/public%2f..%2fadmin/x",
        "/public/..%5cadmin/x",
        "/public/..\\admin/x",
        "/public\\..\\admin\\x",
        "/public/%5c../admin/x",
        "/public/%252e%252e/admin/x",
        "/public/%252e%252e%252fadmin/x",
        "/public/..;/admin/x",
        "/public/..;a=b/admin/x",
        "/public/.;/../admin/x",
        "/public;/../admin/x",
        "/admin;/x",
        "/admin;a=b/x",
        "/admin/.;/x",
        "/%61dmin;/x",
        "/public/..%3b/admin/x",
        "/public/%2e%2e%3b/admin/x",
        "/public/..%00/admin/x",
        "/public/..%0d/admin/x",
        "/public/..%0a/admin/x",
        "/public/.%00./admin/x",
        "/public/..%c0%af../admin/x",
        "/public/%c0%ae%c0%ae/admin/x",
        "/public/%e0%80%ae/admin/x",
        "/public/%ef%bc%8e%ef%bc%8e/admin/x",
        "/public/..%ef%bc%8fadmin/x",
        "/public/%e2%80%a5/admin/x",
        "/public/...//admin/x",
        "/public/.../admin/x",
        "/public/..%20/admin/x",
        "/public/%20../admin/x",
        "/public/.. /admin/x",
        "/public/..%09/admin/x",
        "/admin//x",
        "/admin/./x",
        "/admin/y/../x",
        "/admin%2fx",
        "/admin%5cx",
        "/admin/%2e/x",
        "/admin%00/x",
        "/public/%23/../admin/x",
        "/public%23/../admin/x",
        "/%2fadmin/x",
        "/%5cadmin/x",
        "/.%2fadmin/x",
        "/public/%u002e%u002e/admin/x",
        "/public/%2/admin/x",
        "/public/%zz/../admin/x",
        "/public/%",
        "/public/%25%32%65%25%32%65/admin/x",
    ]
    .map(str::to_owned)
    .to_vec();
    // Every pair of dots in every mix of spellings, before and after the slash.
    for one in [".", "%2e", "%2E", "%252e"] {
        for two in [".", "%2e", "%2E", "%252e"] {
            for slash in ["/", "%2f", "%2F", "\\", "%5c", "%5C", "//", "/./", "/;/"] {
                all.push(format!("/public/{one}{two}{slash}admin/x"));
            }
        }
    }
    all
}

#[test]
fn threats_52_53_55_56_58_no_spelling_of_a_path_slips_past_its_rule() {
    let (upstream, gateway) = start(ADMIN);
    let token = customer();
    let spellings = spellings();
    assert!(spellings.len() > 200);
    for path in &spellings {
        let answer = gateway.send(get(path, Some(&token)));
        assert!([400, 403, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    let reached: Vec<String> = upstream.seen().iter().map(|seen| seen.line().to_owned()).collect();
    assert!(reached.is_empty(), "{reached:?}");
}

#[test]
fn threat_54_bytes_outside_of_ascii_are_refused_raw_and_judged_encoded() {
    let (upstream, gateway) = start(ADMIN);
    for byte in 0x80..=0xFF_u8 {
        let mut request = b"GET /public/a".to_vec();
        request.push(byte);
        request.extend_from_slice(b" HTTP/1.1\r\nhost: gw.test\r\n\r\n");
        assert_eq!(gateway.send(&request).status, 400, "{byte:02x}");
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.get("/public/%ED%99%8D", None).status, 200);
    assert_eq!(gateway.get("/public/%ff", None).status, 400);
    assert_eq!(gateway.get("/public/%ed%a0%80", None).status, 400);
}

#[test]
fn threat_55_an_exact_path_is_exact_with_or_without_a_query() {
    let (upstream, gateway) = start(ADMIN);
    let token = customer();
    for path in ["/secret", "/secret?", "/secret?x=/public/ok", "/%73ecret"] {
        assert_eq!(gateway.get(path, Some(&token)).status, 403, "{path}");
    }
    for path in ["/secret#", "/secret#b", "/secret?a#b", "/public/x#/../secret"] {
        assert_eq!(gateway.get(path, Some(&token)).status, 400, "{path}");
    }
    for path in ["/secret/", "/secret/x", "/Secret", "/SECRET", "/secre", "/secrett"] {
        assert_eq!(gateway.get(path, Some(&token)).status, 404, "{path}");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn threat_59_the_query_never_widens_a_match() {
    let (upstream, gateway) = start(ADMIN);
    let token = customer();
    for path in ["/admin/x?x=/public/ok", "/admin/x?/public/", "/admin/x?../../public/ok", "/admin/x?%23/public"] {
        assert_eq!(gateway.get(path, Some(&token)).status, 403, "{path}");
    }
    for path in ["/public/ok%23/../../admin", "/admin%23/public/ok", "/admin/x?#/public/ok"] {
        assert_eq!(gateway.get(path, Some(&token)).status, 400, "{path}");
    }
    assert!(upstream.seen().is_empty());
    // The query of a good path goes on byte for byte.
    assert_eq!(gateway.get("/public/ok?a=%2f..%2F;b&c=//x&d=%zz", None).status, 200);
    assert_eq!(upstream.last().line(), "GET /public/ok?a=%2f..%2F;b&c=//x&d=%zz HTTP/1.1");
}

#[test]
fn threat_60_a_target_without_a_leading_slash_is_refused() {
    let (upstream, gateway) = start(ADMIN);
    for target in ["public/x", "admin/x", "*", "?x", "gw.test:80", "Service/Method"] {
        for method in ["GET", "OPTIONS", "CONNECT"] {
            let answer = gateway.send(format!("{method} {target} HTTP/1.1\r\nhost: gw.test\r\n\r\n"));
            assert_eq!(answer.status, 400, "{method} {target}");
        }
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn threat_61_the_number_of_routes_and_hosts_never_changes_a_decision() {
    let upstream = Upstream::echo();
    for count in [1, 99, 101, 10_000] {
        let mut routes = ADMIN.to_owned();
        for number in 0..count {
            let path = if number % 2 == 0 { format!("/r{number}") } else { format!("/r{number}/{{id}}/**") };
            let host = if number % 3 == 0 { format!(", hosts: [h{number}.test]") } else { String::new() };
            routes.push_str(&format!(
                "  - {{ id: r{number}, match: {{ path: \"{path}\"{host} }}, upstream: echo, access: authenticated }}\n"
            ));
        }
        let gateway = Gateway::start(&config(upstream.address, &routes));
        let token = customer();
        for (path, status) in [
            ("/public/x", 200),
            ("/Public/x", 404),
            ("/admin/x", 403),
            ("/ADMIN/x", 404),
            ("/%61dmin/x", 403),
            ("/public/%2e%2e/admin/x", 400),
            ("/nowhere", 404),
        ] {
            assert_eq!(gateway.get(path, Some(&token)).status, status, "{count} {path}");
        }
        for (number, path) in [(0, "/r0"), (99, "/r99/1/x"), (9999, "/r9999/1/x")] {
            let status = if number < count { 200 } else { 404 };
            let name = format!("h{number}.test");
            for host in [&name, &name.to_uppercase(), &format!("{name}."), &format!("{name}:8080")] {
                let request = get(path, Some(&token)).replace("gw.test", host);
                assert_eq!(gateway.send(request).status, status, "{count} {host} {path}");
                let request = get("/admin/x", Some(&token)).replace("gw.test", host);
                assert_eq!(gateway.send(request).status, 403, "{count} {host}");
            }
            for host in ["gw.test", "h1.test", &format!("x{name}"), &format!("{name}.test"), &format!("x.{name}")] {
                let request = get(path, Some(&token)).replace("gw.test", host);
                assert_eq!(gateway.send(request).status, 404, "{count} {host} {path}");
            }
        }
    }
}

#[test]
fn threat_62_a_host_is_compared_without_case_dot_and_port() {
    let routes = r#"
  - { id: shop, match: { path: "/**", hosts: [gw.test] }, upstream: echo, access: { roles: [admin] } }
  - { id: any, match: { path: "/**" }, upstream: echo, access: authenticated }
"#;
    let (_upstream, gateway) = start(routes);
    let token = customer();
    let ask = |host: &str| {
        gateway.send(format!("GET /x HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n")).status
    };
    for host in ["gw.test", "GW.TEST", "gw.test.", "Gw.Test.:8080", "gw.test:80", "gw.test:"] {
        assert_eq!(ask(host), 403, "{host}");
    }
    for host in ["other.test", "xgw.test", "gw.test.evil", "127.0.0.1", "[::1]:8080"] {
        assert_eq!(ask(host), 200, "{host}");
    }
    for host in ["", "gw.test, other.test", "gw.test/", "a@gw.test", "gw..test", "gw.test:80:80", "gw.test:x"] {
        assert_eq!(ask(host), 400, "{host}");
    }
}

/// Names are compared as they are on the wire: nothing is decoded that a service would read in another way.
#[test]
fn threat_63_a_host_in_punycode_is_itself_and_no_other_spelling_of_it() {
    let routes = r#"
  - { id: books, match: { path: "/**", hosts: [xn--bcher-kva.test] }, upstream: echo, access: { roles: [admin] } }
  - { id: any, match: { path: "/**" }, upstream: echo, access: authenticated }
"#;
    let (upstream, gateway) = start(routes);
    let token = customer();
    let ask = |host: &str| {
        gateway.send(format!("GET /x HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n")).status
    };
    for host in ["xn--bcher-kva.test", "XN--BCHER-KVA.test", "xn--Bcher-Kva.TEST.:443"] {
        assert_eq!(ask(host), 403, "{host}");
    }
    // Punycode of nothing but ASCII, of another letter, with a hyphen more: other hosts, whatever they decode to.
    for host in [
        "xn--bcher-.test",
        "xn--bcher-kva-.test",
        "xn--bucher-test",
        "xn--.test",
        "bcher.test",
        "xn--xn--bcher-kva.test",
    ] {
        assert_eq!(ask(host), 200, "{host}");
        assert_eq!(upstream.last().value("host").map(str::to_owned), Some(host.to_owned()));
    }
    for host in ["bücher.test", "b%C3%BCcher.test", "xn--bcher-kva\u{3002}test", "\u{ff58}n--bcher-kva.test"] {
        assert_eq!(ask(host), 400, "{host}");
    }
}

/// Where the answer is the gateway's own it sends nobody anywhere.
#[test]
fn threat_50_no_answer_of_the_gateway_itself_is_a_redirect() {
    let (_upstream, gateway) = start(ADMIN);
    for path in [
        "//evil.test",
        "/\\evil.test",
        "/%5cevil.test",
        "/public/x/..//evil.test",
        "/public",
        "/admin",
        "/admin/",
        "/nowhere",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer =
                gateway.send(format!("{method} {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 0\r\n\r\n"));
            assert!(
                !(300..400).contains(&answer.status) && answer.header("location").is_none(),
                "{method} {path}: {}",
                answer.status
            );
        }
    }
}

#[test]
fn a_request_names_one_host() {
    let (upstream, gateway) = start(ADMIN);
    for head in [
        "GET /public/x HTTP/1.1\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nhost: a.test\r\nhost: a.test\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n",
        "GET http://a.test/public/x HTTP/1.1\r\nhost: b.test\r\n\r\n",
    ] {
        assert_eq!(gateway.send(head).status, 400, "{head}");
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.send("GET http://a.test/public/x HTTP/1.1\r\nhost: A.test\r\n\r\n").status, 200);
    assert_eq!(upstream.last().line(), "GET /public/x HTTP/1.1");
}

#[test]
fn threat_64_the_worst_path_is_answered_at_once() {
    let mut routes = String::new();
    for mask in 0..512_u32 {
        let path: String =
            (0..9).map(|bit| if mask >> bit & 1 == 1 { "/a".to_owned() } else { format!("/{{p{bit}}}") }).collect();
        routes.push_str(&format!(
            "  - {{ id: w{mask}, match: {{ path: \"{path}/end\" }}, upstream: echo, access: authenticated }}\n"
        ));
    }
    let (_upstream, gateway) = start(&routes);
    let started = std::time::Instant::now();
    let mut client = gateway.client();
    for _ in 0..100 {
        assert_eq!(client.send(get(&("/a".repeat(9) + "/other"), None)).status, 404);
        assert_eq!(client.send(get(&"/a".repeat(2000), None)).status, 404);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn an_equivalent_spelling_reaches_the_upstream_in_canonical_form() {
    let routes = r#"
  - { id: files, match: { path: "/files/{name}" }, upstream: echo, access: public, encoded_slash: allow }
  - { id: plain, match: { path: "/plain/{name}" }, upstream: echo, access: public }
"#;
    let (upstream, gateway) = start(routes);
    for (sent, forwarded) in [
        ("/%70lain/%7eA%2d", "/plain/~A-"),
        ("/plain/%ed%99%8d", "/plain/%ED%99%8D"),
        ("/plain/a%20b?q=%2e", "/plain/a%20b?q=%2e"),
        ("/files/a%2fb", "/files/a%2Fb"),
    ] {
        assert_eq!(gateway.get(sent, None).status, 200, "{sent}");
        assert_eq!(upstream.last().line(), format!("GET {forwarded} HTTP/1.1"));
    }
    assert_eq!(gateway.get("/plain/a%2fb", None).status, 400);
    assert_eq!(gateway.get("/files/..%2fb", None).status, 400);
}

// Row 56: an encoded spelling of a literal segment slipped past its rule into a wider one, and the
// upstream decoded it back.
#[test]
fn threat_56_a_literal_is_held_against_what_a_segment_stands_for() {
    let routes = r#"
  - { id: batch, match: { path: "/odata/$batch" }, upstream: echo, access: { roles: [admin] } }
  - { id: all, match: { path: "/users/@all" }, upstream: echo, access: { roles: [admin] } }
  - { id: purge, match: { path: "/orders:purge" }, upstream: echo, access: { roles: [admin] } }
  - { id: set, match: { path: "/odata/{set}" }, upstream: echo, access: authenticated }
  - { id: user, match: { path: "/users/{user}" }, upstream: echo, access: authenticated }
  - { id: top, match: { path: "/{top}" }, upstream: echo, access: authenticated }
  - { id: korean, match: { path: "/odata/%ED%99%8D" }, upstream: echo, access: { roles: [admin] } }
"#;
    let (upstream, gateway) = start(routes);
    let token = customer();
    for path in [
        "/odata/$batch",
        "/odata/%24batch",
        "/odata/%24%62atch",
        "/users/@all",
        "/users/%40all",
        "/orders:purge",
        "/orders%3Apurge",
        "/orders%3apurge",
        "/odata/%ED%99%8D",
        "/odata/%ed%99%8d",
    ] {
        assert_eq!(gateway.get(path, Some(&token)).status, 403, "{path}");
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.get("/users/%40kim", Some(&token)).status, 200);
    assert_eq!(upstream.last().line(), "GET /users/%40kim HTTP/1.1");
}

#[test]
fn a_fragment_in_a_target_is_400() {
    let routes = "  - { id: all, match: { path: \"/**\" }, upstream: echo, access: public }";
    let (upstream, gateway) = start(routes);
    for target in ["http://gw.test#x", "http://gw.test/#x", "/#x", "/x?#", "#"] {
        let answer = gateway.send(format!("GET {target} HTTP/1.1\r\nhost: gw.test\r\n\r\n"));
        assert_eq!(answer.status, 400, "{target}");
    }
    assert!(upstream.seen().is_empty());
}

// The library keeps of `http://host?x` a target that would reach the upstream as `GET ?x`.
#[test]
fn the_empty_path_of_an_absolute_target_is_a_slash() {
    let routes = "  - { id: all, match: { path: \"/**\" }, upstream: echo, access: public }";
    let (upstream, gateway) = start(routes);
    for (target, sent) in [("?x=1", "/?x=1"), ("?", "/?"), ("", "/"), ("/?x", "/?x"), ("?a?b", "/?a?b")] {
        let answer = gateway.send(format!("GET http://gw.test{target} HTTP/1.1\r\nhost: gw.test\r\n\r\n"));
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(upstream.last().line(), format!("GET {sent} HTTP/1.1"), "{target}");
    }
}

#[test]
fn a_tunnel_and_an_echo_are_not_offered() {
    let (upstream, gateway) = start(ADMIN);
    for method in ["CONNECT", "TRACE"] {
        assert_eq!(gateway.send(format!("{method} /public/x HTTP/1.1\r\nhost: gw.test\r\n\r\n")).status, 400);
    }
    assert!(upstream.seen().is_empty());
}
