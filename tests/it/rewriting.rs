//! Paths that become others on their way, and routes whose requests are shared out.

use crate::support::gateway::{customer, get};
use crate::support::h2::H2;
use crate::support::{Gateway, Upstream, config};

const ROUTES: &str = r#"
  - { id: api, match: { path: "/api/v1/**" }, upstream: echo, access: authenticated, rewrite: { strip_prefix: /api } }
  - { id: mine, match: { path: "/mine/me/**" }, upstream: echo, access: authenticated, rewrite: { strip_prefix: /mine } }
  - { id: next, match: { path: "/next/{id}" }, upstream: echo, access: public, rewrite: { strip_prefix: /next, add_prefix: /v2/items } }
  - { id: shop, match: { path: "/shop/**" }, upstream: echo, access: public, rewrite: { strip_prefix: /shop } }
  - { id: slashes, match: { path: "/slashes/**" }, upstream: echo, access: public, encoded_slash: allow, rewrite: { strip_prefix: /slashes } }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: admin, match: { path: "/admin/**", methods: [GET] }, upstream: echo, access: { roles: [admin] } }
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
"#;

/// Rows 52 to 58, with rewrites, over both protocols.
#[test]
fn threat_57_a_path_is_rewritten_by_whole_segments_and_judged_again() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ROUTES));
    let token = customer();
    let mut h2 = H2::connect(gateway.address);
    for (path, status, expected) in [
        ("/api/v1/orders/7?q=/../x", 200, "/v1/orders/7?q=/../x"),
        ("/api/v1/", 200, "/v1/"),
        ("/api/v1", 200, "/v1"),
        ("/api/v1/orders/", 200, "/v1/orders/"),
        ("/api/v1/%ED%99%8D", 200, "/v1/%ED%99%8D"),
        ("/api/v1/%61%64/x", 200, "/v1/ad/x"),
        ("/shop/", 200, "/"),
        ("/shop", 200, "/"),
        ("/next/7", 200, "/v2/items/7"),
        ("/next/7?x", 200, "/v2/items/7?x"),
        ("/shop/a/b", 200, "/a/b"),
        ("/slashes/a%2Fb", 200, "/a%2Fb"),
        // To what another route leads that anybody may call.
        ("/shop/open/x", 200, "/open/x"),
        // The same demand on both: nothing is led around.
        ("/mine/me/x", 200, "/me/x"),
        // Another demand.
        ("/shop/me/x", 400, ""),
        ("/shop/admin/x", 400, ""),
        ("/shop/%61dmin/x", 400, ""),
        ("/shop/admin", 400, ""),
        ("/shop/v1/orders", 400, ""),
        ("/shop/v1", 400, ""),
        ("/slashes/admin%2Fx", 400, ""),
        // What is no path before is none after.
        ("/shop/../admin/x", 400, ""),
        ("/shop/%2e%2e/admin/x", 400, ""),
        ("/shop//admin/x", 400, ""),
        ("/shop/.;/admin/x", 400, ""),
        ("/shop/a%2fadmin", 400, ""),
        ("/shop%2fadmin/x", 404, ""),
        ("/api/v1./admin/x", 404, ""),
        ("/api/v1x/orders", 404, ""),
        ("/API/v1/orders", 404, ""),
        ("/next/7/8", 404, ""),
    ] {
        upstream.clear();
        for answer in [gateway.get(path, Some(&token)), h2.get(path, Some(&token))] {
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
            if status == 200 {
                assert!(
                    answer.text().starts_with(&format!("GET {expected} HTTP/1.1\r\n")),
                    "{path}: {}",
                    answer.text()
                );
            } else {
                assert!(upstream.seen().is_empty(), "{path}");
            }
        }
    }
    // Nor with a method that the other route does not take: `HEAD` is `GET` to most services.
    for method in ["HEAD", "POST"] {
        let request = format!("{method} /shop/admin/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 0\r\n\r\n");
        let mut client = gateway.client();
        client.write(request);
        assert_eq!(client.read_to_head().status, 400, "{method}");
    }
    // The log has the path that came.
    let answer = gateway.get("/next/7", None);
    assert_eq!(gateway.line_of(&answer)["path"], "/next/7");
}

#[test]
fn the_requests_of_a_route_are_shared_out_between_upstreams() {
    let (now, next) = (Upstream::echo(), Upstream::echo());
    let routes = r#"
  - { id: open, match: { path: "/open/**" }, upstream: { echo: 3, next: 1 }, access: public }
  - { id: next, match: { path: "/next/**" }, upstream: next, access: public }
"#;
    let yaml = config(now.address, routes).replace(
        "upstreams: { echo:",
        &format!("upstreams: {{ next: {{ targets: [\"http://{}\"] }}, echo:", next.address),
    );
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    for _ in 0..800 {
        assert_eq!(client.send(get("/open/x", None)).status, 200);
    }
    let share = next.seen().len();
    assert_eq!(now.seen().len() + share, 800);
    // Five standard deviations around a quarter.
    assert!((139..261).contains(&share), "{share}");
    assert_eq!(client.send(get("/next/x", None)).status, 200);
    assert_eq!(next.seen().len(), share + 1);
}

/// A rule is not led around by a route that rewrites to what another one rewrites to, nor by one that does not
/// rewrite, nor under another name for the same target.
#[test]
fn what_one_route_rewrites_to_is_protected_from_all_others() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: admin, match: { path: "/admin/**" }, upstream: echo, access: { roles: [admin] }, rewrite: { strip_prefix: /admin, add_prefix: /internal } }
  - { id: api, match: { path: "/api/**" }, upstream: echo, access: public, rewrite: { strip_prefix: /api } }
  - { id: twin, match: { path: "/twin/**" }, upstream: twin, access: public, rewrite: { strip_prefix: /twin } }
  - { id: health, match: { path: "/admin-health" }, upstream: echo, access: public, rewrite: { strip_prefix: /admin-health, add_prefix: /internal/health } }
  - { id: reads, match: { path: "/reads/{id}", methods: [GET] }, upstream: echo, access: public, rewrite: { strip_prefix: /reads, add_prefix: /items } }
  - { id: writes, match: { path: "/items/{id}", methods: [PUT] }, upstream: echo, access: authenticated }
  - { id: root, match: { path: "/secret" }, upstream: echo, access: authenticated, rewrite: { strip_prefix: /secret } }
  - { id: rest, match: { path: "/internal/{name}" }, upstream: echo, access: public }
"#;
    let yaml = config(upstream.address, routes).replace(
        "upstreams: { echo:",
        &format!("upstreams: {{ twin: {{ targets: [\"http://{}\"] }}, echo:", upstream.address),
    );
    let gateway = Gateway::start(&yaml);
    let admin = crate::support::gateway::token(&serde_json::json!({ "roles": ["admin"] }));
    for (path, token, status) in [
        ("/admin/users", Some(&admin), 200),
        ("/admin/users", None, 401),
        ("/api/internal/users", None, 400),
        ("/api/internal", None, 400),
        ("/api/other", None, 200),
        ("/api/", None, 400),
        ("/api", None, 400),
        ("/twin/internal/users", None, 400),
        // A part of it, named in so many words: that is meant.
        ("/admin-health", None, 200),
        ("/internal/users", None, 200),
        ("/reads/7", None, 200),
        ("/items/7", None, 405),
    ] {
        assert_eq!(gateway.get(path, token.map(String::as_str)).status, status, "{path}");
    }
}

/// Routes that demand the same lead around nothing, and those of other hosts are none of each other's affair.
#[test]
fn routes_that_demand_the_same_and_routes_of_other_hosts_may_lead_to_the_same_paths() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: one, match: { path: "/one/members/{id}", hosts: [a.test] }, upstream: echo, access: { claims: { sub: "{id}" } }, rewrite: { strip_prefix: /one } }
  - { id: two, match: { path: "/two/members/{name}", hosts: [a.test] }, upstream: echo, access: { claims: { sub: "{name}" } }, rewrite: { strip_prefix: /two } }
  - { id: other, match: { path: "/other/members/{id}", hosts: [b.test] }, upstream: echo, access: authenticated, rewrite: { strip_prefix: /other } }
"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    let token = customer();
    for (host, path, status) in [
        ("a.test", "/one/members/kim", 200),
        ("a.test", "/one/members/lee", 403),
        ("a.test", "/two/members/kim", 200),
        ("a.test", "/two/members/lee", 403),
        ("b.test", "/other/members/lee", 200),
    ] {
        let answer = gateway.send(get(path, Some(&token)).replace("gw.test", host));
        assert_eq!(answer.status, status, "{host} {path}: {}", answer.text());
    }
    // One host name in two spellings is one place.
    let localhost = |name: &str| format!("http://{name}:{}", upstream.address.port());
    let routes = r#"
  - { id: admin, match: { path: "/admin/**" }, upstream: echo, access: authenticated }
  - { id: shop, match: { path: "/shop/**" }, upstream: twin, access: public, rewrite: { strip_prefix: /shop } }
"#;
    let yaml = config(upstream.address, routes)
        .replace(&format!("http://{}", upstream.address), &localhost("localhost"))
        .replace(
            "upstreams: { echo:",
            &format!("upstreams: {{ twin: {{ targets: [\"{}\"] }}, echo:", localhost("LocalHost")),
        );
    let gateway = Gateway::start(&yaml);
    assert_eq!(gateway.get("/shop/admin/x", None).status, 400);
}
