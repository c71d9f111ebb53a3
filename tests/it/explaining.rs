//! What is explained of a request, and said of a token, is what a gateway does with it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::gateway::{PROGRAM, config, customer, token, with_store};
use crate::support::redis::Redis;
use crate::support::sign::{self, Claims};
use crate::support::{Gateway, Upstream, now};

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder).env_remove("BEARWARD_CONFIG").output().expect("runs")
}

pub fn said(output: &Output) -> String {
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
pub fn folder(yaml: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
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
