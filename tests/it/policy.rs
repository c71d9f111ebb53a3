//! Policy tests hold where a gateway does what they expect, and say where it does not.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::explaining::{folder, run, said};
use crate::support::gateway::{PROGRAM, config, with_store};

/// The shop's own file, with keys that were just made.
#[test]
fn the_policy_tests_of_the_shop_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["gateway.yaml", "policy.yaml"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop").join(name);
        std::fs::copy(from, folder.path().join(name)).expect(name);
    }
    let made = run(folder.path(), &["keys", "generate", "--alg", "ES256", "--kid", "shop", "--out", "keys"]);
    assert!(made.status.success(), "{}", said(&made));
    let tested = run(folder.path(), &["test", "policy.yaml"]);
    let text = said(&tested);
    assert!(tested.status.success(), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("ok    ")).count() >= 24, "{text}");
    assert!(text.contains("all as expected"), "{text}");
    // A rule that nobody meant.
    let yaml = std::fs::read_to_string(folder.path().join("gateway.yaml")).expect("text");
    let weaker = yaml.replace("access: { roles: [customer, admin] }", "access: authenticated");
    assert_ne!(weaker, yaml);
    std::fs::write(folder.path().join("gateway.yaml"), weaker).expect("a file");
    let tested = run(folder.path(), &["test", "policy.yaml"]);
    let text = said(&tested);
    assert_eq!(tested.status.code(), Some(1), "{text}");
    assert!(text.contains("FAIL  guests have no orders: GET /orders/42 as guest  (policy.yaml:"), "{text}");
    assert!(text.contains("expected missing_role, and it is allowed") && text.contains("1 of "), "{text}");
}

const KINDS: &str = r#"
sessions:
  web: { cookie: { name: SID }, key: "session:{id}", absolute_timeout: 1h, csrf: { allowed_origins: ["https://shop.test"] } }
  spring: { cookie: { name: SESSION, encoding: base64 }, key: "spring:session:sessions:{id}", record: spring, claims: { sub: "sessionAttr:userId", roles: "sessionAttr:roles", iat: creationTime } }
  table: { cookie: { name: T }, key: "t:{id}", record: hash, claims: { sub: user_id } }
introspection:
  asked: { uri: "http://127.0.0.1:9/introspect", client_id: g, client_secret_file: hmac.secret, audiences: [api] }
client_certificates:
  mesh: { ca_file: ca.pem, subject: uri }
"#;

#[test]
fn callers_of_every_kind_are_tested_where_no_one_can_be_asked() {
    let routes = r#"
  - { id: web, match: { path: /web, methods: [GET, POST] }, upstream: echo, auth: [web], access: { roles: [customer] } }
  - { id: spring, match: { path: /spring }, upstream: echo, auth: [spring], access: { roles: [customer] } }
  - { id: table, match: { path: /table }, upstream: echo, auth: [table], access: { claims: { sub: "7" } } }
  - { id: asked, match: { path: /asked }, upstream: echo, auth: [asked, rsa], access: { scopes: [read] } }
  - { id: mesh, match: { path: /mesh }, upstream: echo, auth: [mesh], access: { claims: { uri: "spiffe://shop/order" } } }
  - { id: tokens, match: { path: /tokens }, upstream: echo, auth: [rsa], access: authenticated }
"#;
    let yaml = with_store("127.0.0.1:9".parse().expect("an address"), "redis://127.0.0.1:9", KINDS, routes).replace(
        r#"listeners: [{ address: "127.0.0.1:0" }]"#,
        r#"listeners: [{ address: "127.0.0.1:0", tls: { certificates: [{ cert_file: ca.pem, key_file: ca.key }], client_auth: { by: mesh } } }]"#,
    );
    let tests = r#"
callers:
  web: { by: web, claims: { sub: kim, roles: [customer] } }
  old: { by: web, claims: { sub: kim, roles: [customer], iat: 1000 } }
  left: { by: web, claims: { sub: kim, roles: [customer] }, revoked: true }
  spring: { by: spring, claims: { "sessionAttr:userId": kim, "sessionAttr:roles": [java.util.ArrayList, [customer]] } }
  over: { by: spring, claims: { "sessionAttr:userId": kim, lastAccessedTime: 1000 } }
  by-claims: { by: spring, claims: { sub: kim, roles: [customer] } }
  table: { by: table, claims: { user_id: 7, roles: "a,b" } }
  asked: { by: asked, claims: { sub: kim, scope: "read write" } }
  asked-elsewhere: { by: asked, claims: { sub: kim, scope: read, aud: other } }
  refresh: { by: asked, claims: { sub: kim, scope: read, token_type: refresh_token } }
  order: { by: mesh, claims: { sub: "spiffe://shop/order" } }
  two-names: { by: mesh, claims: { uri: ["spiffe://shop/order", "spiffe://shop/pay"] } }
  long: { by: mesh, claims: { sub: "spiffe://shop/order", iat: 0, exp: 4000000000 } }
  rsa: { by: rsa, claims: { sub: kim, scope: read } }
  taken-back: { by: rsa, claims: { sub: kim, scope: read }, revoked: true }
  ahead: { by: asked, claims: { sub: kim, scope: read, jti: null }, revoked: true }
  not-active: { by: asked, claims: { sub: kim, scope: read, active: false } }
  unlisted: { by: mesh, claims: { sub: "spiffe://shop/order" }, revoked: true }
tests:
  - { name: a session, request: GET /web, as: web, expect: allowed, identity: { X-User-Id: kim, X-User-Roles: customer } }
  - { name: of another page, request: POST /web, as: web, expect: cross_site }
  - { name: of our page, request: POST /web, as: web, headers: { Origin: "https://shop.test" }, expect: allowed }
  - { name: over, request: GET /web, as: [old, left], expect: unknown_session }
  - { name: Spring, request: GET /spring, as: spring, expect: allowed, identity: { X-User-Id: kim, X-User-Roles: customer } }
  - { name: over as well, request: GET /spring, as: over, expect: unknown_session }
  - { name: of a record without its members, request: GET /spring, as: by-claims, expect: missing_claim }
  - { name: a hash, request: GET /table, as: table, expect: allowed, identity: { X-User-Id: 7, X-User-Roles: "a,b" } }
  - { name: opaque, request: GET /asked, as: [asked, rsa], expect: allowed, identity: { X-User-Id: kim } }
  - { name: for somebody else, request: GET /asked, as: asked-elsewhere, expect: wrong_audience }
  - { name: no access token, request: GET /asked, as: refresh, expect: unsupported_token }
  - { name: a certificate, request: GET /mesh, as: order, expect: allowed, identity: { X-User-Id: "spiffe://shop/order" } }
  - { name: of two, request: GET /mesh, as: two-names, expect: missing_claim }
  - { name: for too long, request: GET /mesh, as: long, expect: lifetime_too_long }
  - { name: taken back, request: [GET /asked, GET /tokens], as: taken-back, expect: revoked }
  - { name: by its subject, request: GET /asked, as: ahead, expect: revoked }
  - { name: said not to be, request: GET /asked, as: not-active, expect: inactive_token }
  - { name: by its id, request: GET /mesh, as: unlisted, expect: revoked }
  - { name: two credentials, request: ["GET /tokens?access_token=x", "GET /asked?access_token=x"], as: rsa, expect: duplicate_credentials }
  - { name: two cookies, request: GET /web, as: web, headers: { Cookie: SID=abc }, expect: duplicate_credentials }
  - { name: another scheme, request: GET /web, as: web, headers: { Authorization: Basic abc }, expect: duplicate_credentials }
  - { name: and a certificate, request: GET /mesh, as: order, headers: { Authorization: Basic abc }, expect: missing_certificate }
  - { name: cookies of others, request: GET /web, as: web, headers: { Cookie: theme=dark }, expect: allowed }
  - { name: not looked at, request: [GET /tokens, GET /asked], as: [web, order], expect: missing_token }
  - { name: no token here, request: [GET /web, GET /mesh], as: [rsa, asked], expect: duplicate_credentials }
  - { name: only a certificate, request: GET /mesh, as: web, expect: missing_certificate }
  - { name: of none of those, request: GET /tokens, as: asked, expect: malformed_token }
"#;
    let folder = folder(&yaml, &[("policy.yaml", tests)]);
    let authority = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).expect("a certificate");
    std::fs::write(folder.path().join("ca.pem"), authority.cert.pem()).expect("a file");
    std::fs::write(folder.path().join("ca.key"), authority.signing_key.serialize_pem()).expect("a file");
    let tested = run(folder.path(), &["test", "policy.yaml"]);
    assert!(tested.status.success(), "{}", said(&tested));
    let machines = run(folder.path(), &["test", "policy.yaml", "--format", "json"]);
    let all: Value = serde_json::from_slice(&machines.stdout).expect("JSON");
    assert!(all.as_array().expect("a list").iter().all(|one| one["ok"] == true), "{all:#}");
}

#[test]
fn what_is_wrong_with_policy_tests_is_said_with_its_place() {
    let tests = "callers: { kim: { by: rsx, claims: { sub: kim } } }\n\
                 tests:\n  \
                 - { name: one, request: GET /me/x, as: kin, expect: allowed, route: mee }\n  \
                 - { name: two, request: GET /me/x, expect: allowed, upstream: ech, identity: { X-Usr-Id: null }, host: \"a\\u0001b\" }\n";
    let folder = folder(&config("127.0.0.1:9".parse().expect("an address"), ""), &[("policy.yaml", tests)]);
    let refused = run(folder.path(), &["test", "policy.yaml"]);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(78), "{text}");
    for words in [
        "policy.yaml:1:23: callers.kim.by: nobody in the configuration is called `rsx`",
        "policy.yaml:3:42: tests[0].as: unknown caller `kin`",
        "did you mean `kim`?",
        "tests[0].route: unknown route `mee`",
        "tests[1].upstream: unknown upstream `ech`",
        "tests[1].identity.X-Usr-Id: no identity header is called `x-usr-id`",
        "did you mean `x-user-id`?",
        "tests[1].host: this cannot be a host",
        "6 mistakes",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    for (odd, words) in [
        ("{ name: x, request: GET, expect: allowed }", "`GET /orders/42`"),
        ("{ name: x, request: get /x, expect: allowed }", "`get /x`"),
        ("{ name: x, request: GET /x, expect: missing_rol }", "did you mean `missing_role`?"),
        ("{ name: x, request: GET /x, expect: 200 }", "`200`"),
        ("{ name: x, request: GET /x }", "`expect` is missing"),
        ("{ name: x, request: GET /x, expect: allowed, identity: { X-A: [1] } }", "a list"),
        ("{ name: x, request: [], expect: allowed }", "the list is empty"),
        ("{ name: x, request: \"GET /x#y\", expect: allowed }", "`GET /x#y`"),
        ("{ name: x, request: GET localhost/x, expect: allowed }", "`GET localhost/x`"),
        ("{ name: x, request: GET /x, expect: allowed, headers: { \"a b\": c } }", "`a b` is no name of a header"),
    ] {
        std::fs::write(folder.path().join("policy.yaml"), format!("tests:\n  - {odd}\n")).expect("a file");
        let refused = run(folder.path(), &["test", "policy.yaml"]);
        let text = said(&refused);
        assert_eq!(refused.status.code(), Some(78), "{odd}: {text}");
        assert!(text.contains(words) && text.contains(":2"), "{odd}: {text}");
    }
}

/// What came from the environment is shown by no mistake, and by no test that fails.
#[test]
fn policy_tests_do_not_show_what_comes_from_the_environment() {
    let folder = folder(&config("127.0.0.1:9".parse().expect("an address"), ""), &[]);
    let secret = "s3cret-of-the-environment";
    for (callers, test) in [
        ("{}", "{ name: x, request: \"GET /me/x?k=${KEY}\", expect: allowed }"),
        ("{ a: { by: \"${KEY}\" } }", "{ name: x, request: GET /me/x, expect: allowed }"),
        ("{}", "{ name: x, request: GET /me/x, as: \"${KEY}\", expect: allowed }"),
        ("{}", "{ name: x, request: GET /me/x, route: \"${KEY}\", expect: allowed }"),
        (
            "{ a: { by: rsa, claims: { sub: \"${KEY}\", aud: \"${KEY}\" } } }",
            "{ name: x, request: GET /me/x, as: a, expect: allowed }",
        ),
        (
            "{ a: { by: rsa, claims: { sub: \"${KEY}\" } } }",
            "{ name: x, request: GET /orders/1, as: a, expect: allowed }",
        ),
    ] {
        std::fs::write(folder.path().join("policy.yaml"), format!("callers: {callers}\ntests:\n  - {test}\n"))
            .expect("a file");
        for format in ["text", "json"] {
            let mut command = Command::new(PROGRAM);
            command.args(["test", "policy.yaml", "--format", format]).current_dir(folder.path()).env("KEY", secret);
            let tested = command.env_remove("BEARWARD_CONFIG").output().expect("runs");
            assert!(!tested.status.success(), "{test}: {}", said(&tested));
            assert!(
                !said(&tested).contains(secret) && said(&tested).contains("(from the environment)"),
                "{}",
                said(&tested)
            );
        }
    }
}
