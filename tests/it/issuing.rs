//! Credentials that the gateway issues: a login becomes a pair of tokens and a session, they are refreshed, and one
//! logout ends them all, on every store and at every gateway.

use std::collections::HashSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::redis::Redis;
use crate::support::{Answer, Gateway, now, until};

use crate::support::logins::*;

#[test]
fn a_login_becomes_a_pair_and_a_session_of_one_identity_and_one_logout_ends_both() {
    on_each_store(|store| {
        let member = member();
        let gateway = Setup { store, ..Setup::default() }.start(member.address);
        let answer = post(&gateway, "/auth/login", "accept-encoding: gzip\r\n", &hong());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(member.last().value("accept-encoding"), None, "the gateway has to read the answer");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let pair = body(&answer);
        let names: HashSet<&str> = pair.as_object().expect("an object").keys().map(String::as_str).collect();
        let expected = ["access_token", "token_type", "expires_in", "scope", "refresh_token", "refresh_expires_in"];
        assert_eq!(names, expected.into_iter().collect());
        let session = cookie(&answer, "SID");
        assert_eq!(set_cookies(&answer), [format!("SID={session}; Path=/; Secure; HttpOnly; SameSite=Lax")]);
        assert_eq!(gateway.line_of(&answer)["subject"], "hong");
        // RFC 9068.
        let (header, payload) = claims(pair["access_token"].as_str().expect("text"));
        assert_eq!(header, json!({ "typ": "at+jwt", "alg": "ES256", "kid": "one" }));
        let names: HashSet<&str> = payload.as_object().expect("an object").keys().map(String::as_str).collect();
        let expected = ["iss", "sub", "aud", "exp", "iat", "jti", "sid", "client_id", "name", "roles", "scope"];
        assert_eq!(names, expected.into_iter().collect());
        assert_eq!(
            (&payload["iss"], &payload["aud"], &payload["sub"]),
            (&json!("https://api.test"), &json!("shop-api"), &json!("hong"))
        );
        assert_eq!(payload["exp"].as_i64().expect("a time") - payload["iat"].as_i64().expect("a time"), 600);
        assert_eq!(payload["client_id"], "shop-app");
        // One identity.
        let access = pair["access_token"].as_str().expect("text");
        for answer in [by_token(&gateway, "/me/x", access), by_cookie(&gateway, "/me/x", &session)] {
            assert_eq!(answer.status, 200, "{}", answer.text());
            let seen = member.last();
            assert_eq!((seen.value("x-user-id"), seen.value("x-user-roles")), (Some("hong"), Some("customer")));
            assert_eq!(seen.value("x-user-name"), Some("%ED%99%8D%EA%B8%B8%EB%8F%99"));
            assert!(seen.value("cookie").is_none() && seen.value("authorization").is_none());
        }
        assert_eq!(by_token(&gateway, "/admin", access).status, 403);
        // Rules of sessions hold for those that are made here.
        let post_cookie =
            |origin: &str| post(&gateway, "/me/x", &format!("cookie: SID={session}\r\n{origin}"), &json!({})).status;
        assert_eq!(
            (
                post_cookie(""),
                post_cookie("origin: https://evil.test\r\n"),
                post_cookie("origin: https://shop.test\r\n")
            ),
            (403, 403, 200)
        );
        // Logging out by the one ends the other.
        for by in ["token", "cookie"] {
            let one = login(&gateway, &hong());
            let other = login(&gateway, &hong());
            let fields = match by {
                "token" => format!("authorization: Bearer {}\r\n", one.access),
                _ => format!("cookie: SID={}\r\norigin: https://shop.test\r\n", one.cookie),
            };
            let out = post_to(gateway.address, "/auth/logout", &fields, "", "");
            assert_eq!(out.status, 204, "{}", out.text());
            assert_eq!(
                set_cookies(&out),
                [
                    "SID=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax",
                    "__Secure-refresh=; Path=/auth/refresh; Max-Age=0; Secure; HttpOnly; SameSite=Strict",
                ]
            );
            assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 401, "{store} {by}");
            assert_eq!(by_cookie(&gateway, "/me/x", &one.cookie).status, 401, "{store} {by}");
            let answer = refresh(gateway.address, &one.refresh);
            assert_eq!((answer.status, &body(&answer)["error"]), (400, &json!("invalid_grant")), "{store} {by}");
            assert_eq!(gateway.line_of(&answer)["outcome"], "invalid_grant");
            // The other login goes on.
            assert_eq!(by_token(&gateway, "/me/x", &other.access).status, 200);
            assert_eq!(by_cookie(&gateway, "/me/x", &other.cookie).status, 200);
            assert_eq!(refresh(gateway.address, &other.refresh).status, 200);
        }
        let evil = format!("cookie: SID={session}\r\norigin: https://evil.test\r\n");
        assert_eq!(post_to(gateway.address, "/auth/logout", &evil, "", "").status, 403);
        assert_eq!(post_to(gateway.address, "/auth/logout", "", "", "").status, 401);
    });
}

#[test]
fn the_answer_of_the_service_is_strict_json_or_goes_through_as_it_is() {
    let member = member();
    let gateway = Setup::default().start(member.address);
    for (raw, status) in [
        ("HTTP/1.1 401 Unauthorized\r\nx-own: 1\r\ncontent-length: 5\r\n\r\nwrong", 401),
        ("HTTP/1.1 302 Found\r\nx-own: 1\r\nlocation: /captcha\r\ncontent-length: 0\r\n\r\n", 302),
        ("HTTP/1.1 201 Created\r\nx-own: 1\r\ncontent-length: 13\r\n\r\n{\"sub\":\"kim\"}", 201),
        ("HTTP/1.1 429 Too Many Requests\r\nx-own: 1\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n", 429),
    ] {
        let answer = post(&gateway, "/auth/login", "", &json!({ "raw": raw }));
        assert_eq!((answer.status, answer.header("x-own")), (status, Some("1")));
        assert!(set_cookies(&answer).is_empty());
        assert!(!answer.text().contains("access_token"));
    }
    let whole = |text: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    for raw in [
        whole("<html>"),
        whole(""),
        whole("{\"name\":\"kim\"}"),
        whole("{\"sub\":\"a\",\"sub\":\"b\"}"),
        whole("{\"sub\":\"\"}"),
        whole(&json!({ "sub": "kim", "name": "x".repeat(70_000) }).to_string()),
        // Each request with such credentials would be refused.
        whole(&json!({ "sub": "kim", "roles": ["x".repeat(8300)] }).to_string()),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{\"sub\":\"kim\"}".to_owned(),
    ] {
        let answer = post(&gateway, "/web-login", "", &json!({ "raw": raw }));
        assert_eq!((answer.status, set_cookies(&answer).len()), (502, 0), "{raw:.80}");
        let answer = post(&gateway, "/auth/login", "", &json!({ "raw": raw }));
        // What breaks off leaves no connection to read on.
        assert_eq!(answer.status, 502, "{raw:.80}");
        assert_eq!(gateway.line_of(&answer)["outcome"], "malformed_login");
        assert!(set_cookies(&answer).is_empty());
    }
    assert!(gateway.lines().iter().any(|line| line.contains("it has no `sub`")));
    // Only what the route names becomes claims, whatever else is there.
    let mut all = hong();
    for name in ["iss", "exp", "sid", "jti", "admin"] {
        all[name] = "x".into();
    }
    let one = login(&gateway, &all);
    let (_, payload) = claims(&one.access);
    assert!(payload.get("admin").is_none() && payload["iss"] == "https://api.test" && payload["sid"] != "x");
}

#[test]
fn a_client_gets_the_credentials_that_it_would_rather_have() {
    let redis = Redis::start();
    let member = member();
    let url = redis.url();
    let gateway = Setup { store: &url, ..Setup::default() }.start(member.address);
    let ask = |path: &str, prefer: &str| {
        let prefer = if prefer.is_empty() { String::new() } else { format!("prefer: {prefer}\r\n") };
        post(&gateway, path, &prefer, &hong())
    };
    let what = |answer: &Answer| {
        let body = body(answer);
        let cookies = set_cookies(answer);
        let has = |name: &str| cookies.iter().any(|cookie| cookie.starts_with(&format!("{name}=")));
        (body.get("access_token").is_some(), body.get("refresh_token").is_some(), has("SID"), has("__Secure-refresh"))
    };
    for (path, prefer, expected) in [
        ("/auth/login", "", (true, true, true, false)),
        ("/auth/login", "credentials=tokens", (true, true, false, false)),
        ("/auth/login", "credentials=session", (false, false, true, false)),
        ("/auth/login", "credentials=tokens, refresh-token=cookie", (true, false, false, true)),
        ("/auth/login", "refresh-token=cookie", (true, false, true, true)),
        ("/auth/login", "credentials=other", (true, true, true, false)),
        ("/token-login", "credentials=session", (true, true, false, false)),
        ("/web-login", "credentials=tokens", (false, false, true, false)),
    ] {
        let answer = ask(path, prefer);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(what(&answer), expected, "{path} {prefer}");
    }
    let answer = ask("/auth/login", "credentials=tokens, refresh-token=cookie");
    assert_eq!(answer.header("preference-applied"), Some("credentials=tokens, refresh-token=cookie"));
    let text = set_cookies(&answer).concat();
    assert!(text.ends_with("; Path=/auth/refresh; Max-Age=3600; Secure; HttpOnly; SameSite=Strict"), "{text}");
    assert_eq!(body(&ask("/web-login", ""))["sub"], "hong");
    // Refreshed by the cookie, from a page that may.
    let token = cookie(&answer, "__Secure-refresh");
    let send = |fields: &str| {
        post_to(gateway.address, "/auth/refresh", &format!("cookie: __Secure-refresh={token}\r\n{fields}"), "", "")
    };
    for (fields, status) in [
        ("", 403),
        ("origin: https://evil.test\r\n", 403),
        ("origin: null\r\n", 403),
        ("sec-fetch-site: cross-site\r\n", 403),
        ("origin: https://shop.test\r\n", 200),
        ("sec-fetch-site: same-origin\r\n", 200),
        ("origin: https://gw.test\r\nsec-fetch-site: same-origin\r\n", 200),
    ] {
        let answer = send(fields);
        assert_eq!(answer.status, status, "{fields}");
        if status == 200 {
            assert_eq!(what(&answer), (true, false, false, true));
            assert_ne!(cookie(&answer, "__Secure-refresh"), token);
        }
    }
    // A new session each time, and the one that the browser had is over.
    let first = cookie(&ask("/web-login", ""), "SID");
    assert_eq!(by_cookie(&gateway, "/me/x", &first).status, 200);
    let answer = post(&gateway, "/web-login", &format!("cookie: SID={first}\r\n"), &hong());
    let second = cookie(&answer, "SID");
    assert_ne!(first, second);
    assert_eq!(by_cookie(&gateway, "/me/x", &second).status, 200);
    until("the first one is over", || by_cookie(&gateway, "/me/x", &first).status == 401);
    // A session that somebody else has chosen is not taken over.
    let chosen = post(&gateway, "/web-login", "cookie: SID=chosen\r\n", &hong());
    assert_ne!(cookie(&chosen, "SID"), "chosen");
    assert_eq!(by_cookie(&gateway, "/me/x", "chosen").status, 401);
}

// Its page cannot take it away (`HttpOnly`), and beside a token it would be a second credential.
#[test]
fn the_cookie_of_a_session_that_is_over_locks_nobody_out() {
    let member = member();
    let gateway = Setup::default().start(member.address);
    let removed = |answer: &Answer| {
        set_cookies(answer).iter().any(|field| field.starts_with("SID=;") && field.contains("Max-Age=0"))
    };
    let dead = "cookie: SID=dead\r\nsec-fetch-site: same-origin\r\n";
    let answer = post_to(gateway.address, "/auth/logout", dead, "", "");
    assert_eq!((answer.status, removed(&answer)), (401, true));
    let answer = post_to(gateway.address, "/auth/logout", "", "", "");
    assert_eq!((answer.status, removed(&answer)), (401, false), "none came");
    let answer = post_to(gateway.address, "/money", dead, "", "");
    assert_eq!((answer.status, removed(&answer)), (401, false), "nothing is ended there");
    // Whoever wants tokens has no session beside them.
    let one = login(&gateway, &hong());
    let fields = format!("cookie: SID={}\r\nprefer: credentials=tokens\r\n", one.cookie);
    let answer = post(&gateway, "/auth/login", &fields, &hong());
    assert_eq!((answer.status, removed(&answer)), (200, true));
    until("the session is over", || by_cookie(&gateway, "/me/x", &one.cookie).status == 401);
}

#[test]
fn a_session_that_could_not_be_read_is_not_made() {
    let member = member();
    let gateway = Setup::default().start(member.address);
    let length = |scope: usize| json!({ "sub": "kim", "scope": "x".repeat(scope) });
    let answer = post(&gateway, "/web-login", "", &length(65_300));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(by_cookie(&gateway, "/me/x", &cookie(&answer, "SID")).status, 200);
    let answer = post(&gateway, "/web-login", "", &length(65_480));
    assert_eq!((answer.status, set_cookies(&answer).len()), (502, 0), "{}", answer.text());
    assert_eq!(gateway.line_of(&answer)["outcome"], "malformed_login");
}

#[test]
fn what_is_sent_to_an_endpoint_is_read_in_one_way_or_refused() {
    let member = member();
    let gateway = Setup::default().start(member.address);
    let one = login(&gateway, &hong());
    let send = |kind: &str, body: &str| post_to(gateway.address, "/auth/refresh", "", kind, body);
    let token = &one.refresh;
    for (kind, body, status) in [
        (FORM, format!("refresh_token={token}&refresh_token={token}"), 400),
        ("text/plain", format!("refresh_token={token}"), 400),
        ("", format!("refresh_token={token}"), 400),
        (FORM, String::new(), 400),
        ("application/json", "{".to_owned(), 400),
        (FORM, "x".repeat(17 * 1024), 413),
        ("application/json", json!({ "refresh_token": token }).to_string(), 200),
        (FORM, format!("refresh_token={token}&client_id=shop-app"), 200),
    ] {
        let answer = send(kind, &body);
        assert_eq!(answer.status, status, "{kind} {body:.60}: {}", answer.text());
        if status == 400 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(serde_json::from_slice::<Value>(&answer.body).expect("JSON")["error"], "invalid_request");
        }
    }
    let error = |answer: &Answer| (answer.status, body(answer)["error"].as_str().map(str::to_owned));
    let other = send(FORM, &format!("grant_type=password&refresh_token={token}"));
    assert_eq!(error(&other), (400, Some("unsupported_grant_type".to_owned())));
    let other = post_to(gateway.address, "/auth/revoke", "", FORM, &format!("token={}", one.access));
    assert_eq!(error(&other), (400, Some("unsupported_token_type".to_owned())));
    for path in ["/auth/refresh", "/auth/logout", "/auth/revoke"] {
        let answer = gateway.get(path, None);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    }
    // A token that was given up, by whoever has it (RFC 7009).
    let revoke = |body: &str| post_to(gateway.address, "/auth/revoke", "", FORM, body).status;
    assert_eq!(revoke("token=unknown"), 200);
    assert_eq!(revoke("tokens=unknown"), 400);
    assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 200);
    assert_eq!(revoke(&format!("token={token}&token_type_hint=refresh_token")), 200);
    assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 401);
    assert_eq!(by_cookie(&gateway, "/me/x", &one.cookie).status, 401);
    assert_eq!(refresh(gateway.address, token).status, 400);
}

#[test]
fn nothing_that_opens_a_door_is_in_the_store_or_in_the_log() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    let gateway = Setup { store: &url, ..Setup::default() }.start(member.address);
    let mut secrets = Vec::new();
    for _ in 0..3 {
        let one = login(&gateway, &hong());
        let answer = refresh(gateway.address, &one.refresh);
        let next = body(&answer);
        for path in ["/me/x", "/money"] {
            assert_eq!(by_cookie(&gateway, path, &one.cookie).status, 200);
        }
        let text = |name: &str| next[name].as_str().expect("text").to_owned();
        secrets.extend([one.access, one.refresh, one.cookie, text("access_token"), text("refresh_token")]);
    }
    let names = redis.command(&["KEYS", "*"]);
    assert!(names.contains("bearward:family:") && names.contains("session:"), "{names}");
    let kept: Vec<String> = names.lines().filter_map(|name| redis.try_command(&["GET", name])).collect();
    let told = gateway.lines().join("\n") + &gateway.admin("GET", "/metrics", "").text();
    for secret in &secrets {
        assert!(!names.contains(secret.as_str()) && !told.contains(secret.as_str()));
        assert!(kept.iter().all(|value| !value.contains(secret.as_str())));
    }
    // They live as long as what they are for.
    for name in names.lines().filter(|name| name.starts_with("bearward:family:") || name.starts_with("session:")) {
        let life: i64 = redis.command(&["PTTL", name]).trim().parse().expect("a number");
        assert!((1_000..=3_600_000).contains(&life), "{name} {life}");
    }
}

#[test]
fn a_banned_subject_does_not_log_in_and_a_silent_store_issues_nothing() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    let gateway = Setup { store: &url, ..Setup::default() }.start(member.address);
    let one = login(&gateway, &hong());
    redis.command(&["SET", "logout:hong", &(now() + 3600).to_string()]);
    let answer = post(&gateway, "/auth/login", "", &hong());
    assert_eq!((answer.status, set_cookies(&answer).len()), (403, 0));
    assert_eq!(gateway.line_of(&answer)["outcome"], "barred");
    assert_eq!(refresh(gateway.address, &one.refresh).status, 400);
    redis.command(&["SET", "logout:hong", "never"]);
    assert_eq!(post(&gateway, "/auth/login", "", &hong()).status, 503);
    redis.command(&["DEL", "logout:hong"]);
    let one = login(&gateway, &hong());
    redis.freeze();
    for answer in [
        post(&gateway, "/auth/login", "", &hong()),
        refresh(gateway.address, &one.refresh),
        post_to(gateway.address, "/auth/logout", &format!("authorization: Bearer {}\r\n", one.access), "", ""),
    ] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
        assert!(set_cookies(&answer).is_empty());
    }
    redis.thaw();
    until("it is back", || refresh(gateway.address, &one.refresh).status == 200);
}

#[test]
fn keys_are_published_before_they_sign_and_trusted_after_it() {
    let member = member();
    let mut gateway = Setup::default().start(member.address);
    let folder = gateway.folder().to_owned();
    keys(&folder, "two", "ES256");
    let kids = |gateway: &Gateway| -> Vec<String> {
        let answer = gateway.get("/.well-known/jwks.json", None);
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("public, max-age=300")));
        let set = body(&answer);
        let keys = set["keys"].as_array().expect("a list");
        assert!(keys.iter().all(|key| key.get("d").is_none()), "no private key is published");
        keys.iter().map(|key| key["kid"].as_str().expect("text").to_owned()).collect()
    };
    let sign = |gateway: &Gateway| {
        let one = login(gateway, &hong());
        (claims(&one.access).0["kid"].as_str().expect("text").to_owned(), one.access)
    };
    let write = |gateway: &Gateway, signs: &str, others: &str| {
        let others = format!("other_keys: [{others}]");
        let yaml = Setup { issuer: &others, ..Setup::default() }.yaml(member.address);
        let yaml = yaml.replace("{ file: one.private.pem, kid: one }", signs);
        let before = gateway.lines().iter().filter(|line| line.contains("configuration taken")).count();
        std::fs::write(folder.join("gateway.yaml"), yaml).expect("a file");
        gateway.signal("HUP");
        until("it is taken", || {
            gateway.lines().iter().filter(|line| line.contains("configuration taken")).count() > before
        });
    };
    let (one, two) = ("{ file: one.private.pem, kid: one }", "{ file: two.private.pem, kid: two }");
    assert_eq!(kids(&gateway), ["one"]);
    let (kid, first) = sign(&gateway);
    assert_eq!(kid, "one");
    write(&gateway, one, "{ file: two.public.pem, kid: two }");
    assert_eq!(kids(&gateway), ["one", "two"]);
    assert_eq!(sign(&gateway).0, "one");
    write(&gateway, two, "{ file: one.public.pem, kid: one }");
    assert_eq!(kids(&gateway), ["two", "one"]);
    let (kid, second) = sign(&gateway);
    assert_eq!(kid, "two");
    assert_eq!(by_token(&gateway, "/me/x", &first).status, 200);
    write(&gateway, two, "");
    assert_eq!(kids(&gateway), ["two"]);
    until("the old key is not trusted", || by_token(&gateway, "/me/x", &first).status == 401);
    assert_eq!(by_token(&gateway, "/me/x", &second).status, 200);
    // With every kind of key that may sign.
    for algorithm in ["RS256", "EdDSA", "PS256", "ES384"] {
        keys(&folder, algorithm, algorithm);
        let yaml = Setup::default().yaml(member.address).replace("[ES256]", &format!("[{algorithm}]"));
        let yaml = yaml.replace(one, &format!("{{ file: {algorithm}.private.pem, kid: {algorithm} }}"));
        std::fs::write(folder.join("gateway.yaml"), yaml).expect("a file");
        gateway.signal("HUP");
        until("it is taken", || kids(&gateway) == [algorithm]);
        let (kid, token) = sign(&gateway);
        assert_eq!(kid, algorithm);
        assert_eq!(by_token(&gateway, "/me/x", &token).status, 200, "{algorithm}");
    }
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

/// A pair is verified by libraries that do not know the gateway, from the keys that it publishes.
#[test]
fn an_access_token_is_one_to_pyjwt_to_jose_and_to_authlibs_rfc_9068() {
    let member = member();
    let gateway = Setup::default().start(member.address);
    let one = login(&gateway, &hong());
    let next = body(&refresh(gateway.address, &one.refresh));
    let url = format!("http://{}/.well-known/jwks.json", gateway.address);
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-python/bin/python3");
    for token in [one.access.as_str(), next["access_token"].as_str().expect("text")] {
        for (program, script) in [(python, "verify_pair.py"), ("node", "verify_pair.cjs")] {
            let out = Command::new(program)
                .arg(format!("{}/tests/it/support/{script}", env!("CARGO_MANIFEST_DIR")))
                .args([&url, token])
                .env("NODE_PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-node/node_modules"))
                .output()
                .expect("tests/run.sh installs it");
            assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
            let said: Value = serde_json::from_slice(&out.stdout).expect("JSON");
            assert_eq!(
                (&said["sub"], &said["name"], &said["roles"]),
                (&json!("hong"), &json!("홍길동"), &json!(["customer"]))
            );
        }
    }
}

/// The line in docs/revocation.md is enough for logins as well, on one Redis and on a cluster.
#[test]
fn the_rights_that_are_documented_are_enough_for_logins() {
    let page = std::fs::read_to_string("docs/revocation.md").expect("the page");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER bearward")).expect("the line");
    let (redis, cluster, member) = (Redis::start(), Cluster::start(3, 0), member());
    // And the keys of this configuration.
    let line = format!("{line} ~logout-all");
    redis.command(&line.split(' ').collect::<Vec<_>>());
    let line = format!("{line} ~{{bearward:}}* +cluster|nodes +asking");
    for node in &cluster.nodes {
        assert_eq!(node.command(&line.split(' ').collect::<Vec<_>>()), "OK");
    }
    for url in [redis.url(), cluster.url()] {
        let url = url.replace("://", "://bearward:password@");
        let gateway = Setup { store: &url, ..Setup::default() }.start(member.address);
        for round in 0..10 {
            let one = login(&gateway, &json!({ "sub": format!("member-{round}") }));
            let next = body(&refresh(gateway.address, &one.refresh));
            assert_eq!(refresh(gateway.address, &one.refresh).status, 200);
            assert_eq!(by_cookie(&gateway, "/me/x", &one.cookie).status, 200);
            let target = if round % 2 == 0 { "/auth/logout" } else { "/auth/logout?everywhere" };
            let access = next["access_token"].as_str().expect("text");
            let out = post_to(gateway.address, target, &format!("authorization: Bearer {access}\r\n"), "", "");
            assert_eq!(out.status, 204, "{}", out.text());
            for token in [&one.access, access] {
                assert_eq!(by_token(&gateway, "/me/x", token).status, 401);
            }
            assert_eq!(by_cookie(&gateway, "/me/x", &one.cookie).status, 401);
            assert_eq!(refresh(gateway.address, next["refresh_token"].as_str().expect("text")).status, 400);
        }
        let lines = gateway.lines();
        assert!(!lines.iter().any(|line| line.contains("NOPERM")), "{lines:?}");
    }
}

/// A page of somebody else's does not log its visitors in as whom it likes.
#[test]
fn a_login_that_sets_a_cookie_comes_from_a_page_that_may() {
    let member = member();
    let gateway = Setup::default().start(member.address);
    for (path, fields, status) in [
        ("/auth/login", "", 200),
        ("/auth/login", "origin: https://shop.test\r\n", 200),
        ("/auth/login", "origin: https://gw.test\r\nsec-fetch-site: same-origin\r\n", 200),
        ("/auth/login", "origin: https://evil.test\r\nsec-fetch-site: cross-site\r\n", 403),
        ("/auth/login", "sec-fetch-site: cross-site\r\n", 403),
        ("/web-login", "origin: https://evil.test\r\n", 403),
        // Without a cookie there is nothing that a browser would keep.
        ("/auth/login", "origin: https://evil.test\r\nprefer: credentials=tokens\r\n", 200),
        ("/auth/login", "origin: https://evil.test\r\nprefer: credentials=tokens, refresh-token=cookie\r\n", 403),
        ("/token-login", "origin: https://evil.test\r\n", 200),
    ] {
        member.clear();
        let answer = post(&gateway, path, fields, &hong());
        assert_eq!(answer.status, status, "{path} {fields}");
        assert_eq!(member.seen().len(), usize::from(status == 200), "the password goes no further: {fields}");
        assert!(status == 200 || gateway.line_of(&answer)["outcome"] == "cross_site");
    }
}
