//! What commands say of a configuration is what a gateway does with it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::gateway::{PROGRAM, config, customer, token, with_store};
use crate::support::redis::Redis;
use crate::support::sign::{self, Claims};
use crate::support::{Gateway, Upstream, now};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder).env_remove("BEARWARD_CONFIG").output().expect("runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is explained, for machines.
#[track_caller]
fn explained(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, &[&["explain", "--format", "json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A folder with this configuration, the keys of the tests and the files given.
fn folder(yaml: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    for (name, text) in [("gateway.yaml", yaml)].iter().chain(files) {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: order, match: { path: "/orders/{id}", methods: [GET, PUT] }, upstream: echo, access: { roles: [customer, admin] } }
  - { id: pay, match: { path: "/pay" }, upstream: echo, access: { scopes: ["pay:write", "pay:read"] } }
  - { id: member, match: { path: "/members/{id}/orders" }, upstream: echo, access: { any: [{ claims: { sub: "{id}" } }, { roles: [admin] }] } }
  - { id: guests, match: { path: "/guests" }, upstream: echo, access: { not: { roles: [customer] } } }
  - { id: level, match: { path: "/level" }, upstream: echo, access: { claims: { level: [7, 8] } } }
  - { id: only-ec, match: { path: "/ec" }, upstream: echo, auth: [ec], access: authenticated }
  - { id: hosted, match: { path: "/hosted", hosts: ["*.shop.test"] }, upstream: echo, access: public }
  - { id: old, match: { path: "/v1/{name}" }, upstream: echo, access: authenticated, rewrite: { strip_prefix: /v1, add_prefix: /v2 } }
  - { id: files, match: { path: "/files/{name}" }, upstream: echo, access: authenticated, encoded_slash: allow }
  - { id: untold, match: { path: "/untold" }, upstream: echo, access: authenticated, revocation: { mode: off } }
  - { id: page, match: { path: "/page", methods: [POST] }, upstream: echo, access: authenticated, cors: { origins: ["https://shop.test"] } }
"#;

const TARGETS: [&str; 31] = [
    "/open/x",
    "/open",
    "/open/%2e%2e/me/x",
    "/open//x",
    "/open/%41",
    "/open/a%2Fb",
    "/me/x",
    "/me/x?y=%20z",
    "/me/x?access_token=abc",
    "/orders/42",
    "/orders/",
    "/orders/42/",
    "/orders/4%2F2",
    "/pay",
    "/members/kim/orders",
    "/members/lee/orders",
    "/members/%6Bim/orders",
    "/guests",
    "/level",
    "/ec",
    "/hosted",
    "/v1/x",
    "/v1/x%2Fy",
    "/v1",
    "/files/a%2Fb",
    "/files/a",
    "/untold",
    "/page",
    "/nothing",
    "/",
    "/open/..;/x",
];

/// Every request of a list with every credential of another one.
#[test]
fn what_is_explained_is_what_the_gateway_does() {
    let (upstream, redis) = (Upstream::echo(), Redis::start());
    let gateway = Gateway::start(&with_store(upstream.address, &redis.url(), "", ROUTES));
    let of = |more: &Value| sign::rsa(&Claims::of("https://rsa.test").with(more).json());
    let revoked = of(&json!({ "jti": "gone", "roles": ["customer"] }));
    let logged_out = of(&json!({ "sub": "lee", "iat": now() - 10 }));
    redis.command(&["SET", "blacklist:gone", "1", "EX", "600"]);
    redis.command(&["SET", "logout:lee", &now().to_string(), "EX", "600"]);
    let tokens = [
        None,
        Some(customer()),
        Some(of(&json!({ "roles": ["admin"], "scope": "pay:write pay:read", "level": 7 }))),
        Some(of(&json!({ "roles": "customer", "scope": ["pay:write"], "level": "7", "name": "홍길동" }))),
        Some(sign::ec(&Claims::of("https://ec.test").with(&json!({ "level": [1, 8] })).json())),
        Some(revoked),
        Some(logged_out),
        Some(of(&json!({ "exp": now() - 3600, "iat": now() - 7200 }))),
        Some(of(&json!({ "nbf": now() + 3600 }))),
        Some(of(&json!({ "aud": "another" }))),
        Some(of(&json!({ "aud": null }))),
        Some(of(&json!({ "sub": null }))),
        Some(of(&json!({ "jti": null }))),
        Some(of(&json!({ "exp": now() + 90_000_000 }))),
        Some(of(&json!({ "roles": 7 }))),
        Some(of(&json!({ "cnf": { "jkt": "abc" } }))),
        Some(sign::rsa(&Claims::of("https://nobody.test").json())),
        Some(sign::rsa_as(r#"{"alg":"RS256","kid":"other"}"#, &Claims::of("https://rsa.test").json())),
        Some(sign::rsa_as(r#"{"alg":"RS512","kid":"rsa-1"}"#, &Claims::of("https://rsa.test").json())),
        Some(sign::rsa_as(r#"{"alg":"RS256","crit":[],"kid":"rsa-1"}"#, &Claims::of("https://rsa.test").json())),
        Some(sign::ec_as(r#"{"alg":"RS256","kid":"rsa-1"}"#, &Claims::of("https://rsa.test").json())),
        Some("abc".to_owned()),
    ];
    for (number, credential) in tokens.iter().enumerate() {
        // Each path with a token that holds; of the others a few.
        let targets = if number < 4 { &TARGETS[..] } else { &["/open/x", "/orders/42", "/ec", "/untold", "/page"] };
        for target in targets {
            let method = if number % 2 == 1 && *target == "/page" { "POST" } else { "GET" };
            let bearer =
                credential.as_ref().map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
            upstream.clear();
            let answer = gateway
                .send(format!("{method} {target} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 0\r\n{bearer}\r\n"));
            let line = gateway.line_of(&answer);
            let mut arguments = vec![method, target, "--host", "gw.test"];
            arguments.extend(credential.iter().flat_map(|token| ["--token", token.as_str()]));
            let shown = explained(gateway.folder(), &arguments);
            let about = format!("{method} {target} with token {number}: {line} {shown:#}");
            if answer.status == 200 {
                assert_eq!((&shown["decision"], &shown["status"]), (&json!("allowed"), &Value::Null), "{about}");
                let seen = upstream.last();
                let path =
                    seen.line().split(' ').nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
                assert_eq!(shown["upstream"]["path"], path, "{about}");
                for name in ["x-user-id", "x-user-roles", "x-user-name", "x-tenant"] {
                    assert_eq!(shown["upstream"]["identity"][name].as_str(), seen.value(name), "{about}");
                }
            } else {
                assert_eq!(shown["status"], answer.status, "{about}");
                assert_eq!(shown["decision"], line["outcome"], "{about}");
                assert_eq!(shown["detail"], answer.json()["detail"], "{about}");
                assert!(!shown["why"].as_str().expect("why").is_empty(), "{about}");
            }
            assert_eq!(shown["route"], line["route"], "{about}");
        }
    }
}

/// Every credential that is thought of, beside one that says the same and comes.
#[test]
fn a_caller_that_is_thought_of_is_judged_as_one_that_comes() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ROUTES));
    let claims = [
        json!({ "sub": "kim" }),
        json!({ "sub": "kim", "roles": ["customer"] }),
        json!({ "sub": "kim", "roles": ["admin"], "scope": "pay:write pay:read", "level": 8 }),
        json!({ "sub": null }),
        json!({ "sub": "kim", "aud": "another" }),
        json!({ "sub": "kim", "exp": 1000 }),
        json!({ "sub": "kim", "jti": null }),
        json!({ "sub": "kim", "iat": null }),
        json!({ "sub": "kim", "jti": 7 }),
        json!({ "sub": "kim", "iss": "https://nobody.test" }),
        json!({ "sub": "kim", "iss": null }),
        json!({ "sub": "kim", "exp": null }),
        json!({ "sub": "kim", "cnf": { "x5t#S256": "abc" } }),
        json!({ "sub": "kim", "name": "\u{7}" }),
        json!({ "sub": "kim", "roles": { "a": 1 } }),
    ];
    for claims in &claims {
        let comes = token(claims);
        for target in
            ["/open/x", "/me/x", "/orders/42", "/pay", "/members/kim/orders", "/guests", "/level", "/ec", "/untold"]
        {
            let answer = gateway.get(target, Some(&comes));
            let line = gateway.line_of(&answer);
            let claims = claims.as_object().expect("claims").iter().map(|(name, value)| format!("{name}={value}"));
            let claims: Vec<String> = claims.collect();
            let mut arguments = vec!["GET", target, "--as", "rsa"];
            arguments.extend(claims.iter().flat_map(|claim| ["--claim", claim.as_str()]));
            let shown = explained(gateway.folder(), &arguments);
            let decision = if answer.status == 200 { &json!("allowed") } else { &line["outcome"] };
            assert_eq!(&shown["decision"], decision, "{target} {claims:?}: {shown:#}");
        }
    }
}

#[test]
fn explain_asks_the_store_that_gateways_ask_and_leaves_nothing_there() {
    let redis = Redis::start();
    let lines =
        "sessions: { web: { cookie: { name: SID }, key: \"session:{id}\", idle_timeout: 30m, absolute_timeout: 12h } }";
    let routes = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: web, match: { path: "/web" }, upstream: echo, auth: [web], access: authenticated }
"#;
    let yaml = with_store("127.0.0.1:9".parse().expect("an address"), &redis.url(), lines, routes);
    let folder = folder(&yaml, &[]);
    let token = token(&json!({ "jti": "a1" }));
    let explain = |more: &[&str]| explained(folder.path(), &[&["GET", "/me/x", "--token", &token], more].concat());
    assert_eq!(explain(&[])["decision"], "allowed");
    redis.command(&["SET", "blacklist:a1", "1"]);
    let shown = explain(&[]);
    assert_eq!((&shown["decision"], &shown["status"]), (&json!("revoked"), &json!(401)));
    // No lease: nobody would wait for who is gone.
    assert_eq!(redis.command(&["DBSIZE"]).trim(), "1");
    // Nobody has used a session that was asked about.
    for life in [vec!["EX", "300"], Vec::new()] {
        let now = now();
        let record = format!(r#"{{"sub":"kim","iat":{now}}}"#);
        redis.command(&[vec!["SET", "session:abc", &record], life.clone()].concat());
        let before = redis.command(&["PTTL", "session:abc"]).trim().parse::<i64>().expect("a number");
        let shown = explained(folder.path(), &["GET", "/web", "--header", "Cookie: SID=abc"]);
        assert_eq!((&shown["decision"], &shown["caller"]["by"]), (&json!("allowed"), &json!("web")), "{shown:#}");
        let after = redis.command(&["PTTL", "session:abc"]).trim().parse::<i64>().expect("a number");
        assert!(after <= before && after > before - 60_000, "{before} {after}");
    }
    let offline = explain(&["--offline"]);
    assert_eq!(offline["decision"], "allowed");
    assert!(offline["notes"][0].as_str().expect("a note").contains("not asked (--offline)"), "{offline:#}");
    drop(redis);
    let away = explain(&[]);
    assert_eq!((&away["decision"], &away["status"]), (&json!("standing_unknown"), &json!(503)));
    assert!(away["notes"][0].as_str().expect("a note").contains("the store is away"), "{away:#}");
}

#[test]
fn explain_and_verify_read_published_keys() {
    let keys = Upstream::scripted(|_, stream| {
        let text = json!({ "keys": [sign::rsa_jwk(sign::rsa_key(), "rsa-1")] }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        std::io::Write::write_all(stream, head.as_bytes()).expect("written");
        false
    });
    let yaml = config("127.0.0.1:9".parse().expect("an address"), "")
        .replace("jwks_file: rsa.jwks.json", &format!("jwks_uri: \"http://{}/keys.json\"", keys.address));
    let folder = folder(&yaml, &[]);
    let token = customer();
    let shown = explained(folder.path(), &["GET", "/orders/1", "--token", &token]);
    assert_eq!((&shown["decision"], &shown["caller"]["sub"]), (&json!("allowed"), &json!("kim")));
    let verified = run(folder.path(), &["token", "verify", &token]);
    assert!(verified.status.success(), "{}", said(&verified));
    let shown: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert_eq!((&shown["issuer"], &shown["signature"]), (&json!("rsa"), &json!("verified")));
    assert_eq!(keys.seen().len(), 2);
    for (arguments, word) in [(vec!["--offline"], "keys_unavailable"), (vec!["--issuer", "ec"], "wrong_issuer")] {
        let refused = run(folder.path(), &[vec!["token", "verify", &token], arguments].concat());
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains(word), "{}", said(&refused));
    }
    let yaml = yaml.replace(&keys.address.to_string(), "127.0.0.1:9");
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let shown = explained(folder.path(), &["GET", "/orders/1", "--token", &token]);
    assert_eq!(shown["decision"], "keys_unavailable");
    assert!(shown["notes"][0].as_str().expect("a note").contains("keys of `rsa` cannot be read"), "{shown:#}");
}

#[test]
fn verify_says_why_a_token_does_not_hold() {
    let folder = folder(&config("127.0.0.1:9".parse().expect("an address"), ""), &[]);
    let of = |more: Value| sign::rsa(&Claims::of("https://rsa.test").with(&more).json());
    let tampered = {
        let (head, tail) = customer().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a token");
        format!("{head}.{}", tail.chars().rev().collect::<String>())
    };
    for (token, words) in [
        (of(json!({ "aud": "another" })), &["wrong_audience", "`aud` is \"another\"", "`api`, `other`"][..]),
        (of(json!({ "exp": now() - 100, "iat": now() - 200 })), &["expired", "`exp` was 10", "30 s"]),
        (of(json!({ "sub": null })), &["missing_claim", "there is no `sub`"]),
        (of(json!({ "exp": now() + 90_000_000 })), &["lifetime_too_long", "86400 s"]),
        (sign::rsa(&Claims::of("https://nobody.test").json()), &["wrong_issuer", "`rsa` (https://rsa.test)"]),
        (of(json!({ "iss": null })), &["missing_claim", "there is no `iss`"]),
        (of(json!({ "jti": null })), &["missing_claim", "there is no `jti`", "taken back"]),
        (of(json!({ "cnf": { "jkt": "abc" } })), &["unproven_token"]),
        ("x.y.z".to_owned(), &["malformed_token"]),
        ("opaque".to_owned(), &["malformed_token"]),
        (
            sign::rsa_as(r#"{"alg":"RS512"}"#, &Claims::of("https://rsa.test").json()),
            &["algorithm_not_allowed", "`RS256`"],
        ),
        (
            sign::rsa_as(r#"{"alg":"RS256","kid":"x"}"#, &Claims::of("https://rsa.test").json()),
            &["unknown_key", "`rsa-1`"],
        ),
        (tampered, &["bad_signature"]),
    ] {
        let refused = run(folder.path(), &["token", "verify", &token]);
        let text = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert!(token.len() < 50 || !text.contains(&token), "{text}");
    }
}

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

#[test]
fn explain_answers_people_and_says_what_it_cannot_read() {
    let folder = folder(&config("127.0.0.1:9".parse().expect("an address"), ROUTES), &[]);
    let shown =
        said(&run(folder.path(), &["explain", "GET", "/members/lee/orders", "--as", "rsa", "--claim", "sub=kim"]));
    for words in [
        "route       member (/members/{id}/orders)",
        "caller      kim, by rsa; roles none; scopes none",
        "rule        fails  one of",
        r#"fails    claim sub {id} = "lee", found "kim""#,
        "decision    refused, 403 claim_mismatch",
        "client      is told: the caller may not do this",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let hosted = said(&run(folder.path(), &["explain", "GET", "https://a.shop.test/hosted"]));
    assert!(hosted.contains("route       hosted"), "{hosted}");
    let elsewhere = said(&run(folder.path(), &["explain", "GET", "/hosted"]));
    assert!(elsewhere.contains("the path is served for `*.shop.test` alone"), "{elsewhere}");
    let odd = [
        "explain",
        "GET",
        "/me/x",
        "--as",
        "rsa",
        "--claim",
        "sub=kim\ndecision    allowed\u{202e}",
        "--claim",
        "aud=x",
    ];
    let odd = said(&run(folder.path(), &odd));
    assert!(odd.lines().filter(|line| line.starts_with("decision")).count() == 1 && !odd.contains('\u{202e}'), "{odd}");
    for (arguments, words) in [
        (&["explain", "GET", "orders"][..], "no path"),
        (&["explain", "GET", "/x", "--as", "rsx"], "there are `rsa`, `ec`, `hmac`"),
        (&["explain", "G T", "/x"], "no method"),
        (&["explain", "GET", "/x", "--header", "a b: c"], "no name of a header"),
    ] {
        let refused = run(folder.path(), arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", said(&refused));
        assert!(said(&refused).contains(words), "{arguments:?}: {}", said(&refused));
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

#[test]
fn a_login_from_a_page_of_somebody_elses_is_judged_as_it_is_answered() {
    let (_upstream, gateway) = crate::support::logins::start(Upstream::echo());
    for (field, value) in [("origin", "https://evil.test"), ("sec-fetch-site", "cross-site"), ("x-none", "x")] {
        let request =
            crate::support::logins::logging_in("kim").replacen("\r\n", &format!("\r\n{field}: {value}\r\n"), 1);
        let answer = gateway.send(&request);
        let target = request.split(' ').nth(1).expect("a path").to_owned();
        let field = format!("{field}: {value}");
        let shown = explained(gateway.folder(), &["POST", &target, "--header", &field]);
        assert_eq!(shown["decision"] == "cross_site", answer.status == 403, "{field}: {} {shown:#}", answer.status);
    }
}

/// Nobody is waited for whose word makes no difference.
#[test]
fn explain_asks_nobody_where_it_is_told_not_to() {
    let asked = Upstream::echo();
    let lines = format!(
        "introspection: {{ asked: {{ uri: \"http://{}/introspect\", client_id: g, client_secret_file: hmac.secret }} }}",
        asked.address
    );
    let routes = r#"
  - { id: asked, match: { path: "/asked" }, upstream: echo, auth: [asked], access: authenticated }
  - { id: open, match: { path: "/open" }, upstream: echo, access: public }
"#;
    let yaml = with_store("127.0.0.1:9".parse().expect("an address"), "redis://127.0.0.1:9", &lines, routes);
    let folder = folder(&yaml, &[]);
    let shown = explained(folder.path(), &["GET", "/asked", "--token", "opaque", "--offline"]);
    assert_eq!(shown["decision"], "keys_unavailable");
    assert!(shown["notes"].to_string().contains("nobody is asked about the token"), "{shown:#}");
    assert!(asked.seen().is_empty());
    assert_eq!(explained(folder.path(), &["GET", "/open", "--token", "opaque"])["decision"], "allowed");
    assert_eq!(explained(folder.path(), &["GET", "/none"])["decision"], "no_route");
}
