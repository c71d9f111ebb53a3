//! Credentials that the gateway issues: a login becomes a pair of tokens and a session, they are refreshed, and one
//! logout ends them all, on every store and at every gateway.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::fault::Fault;
use crate::support::gateway::PROGRAM;
use crate::support::redis::Redis;
use crate::support::{Answer, Client, Gateway, Upstream, now, until};

pub const ROUTES: &str = r#"
  - id: login
    match: { path: /auth/login, methods: [POST] }
    upstream: member
    access: public
    on_success: { issue_tokens: self, create_session: web, claims: [name, roles, scope, tier], client_id: shop-app }
  - { id: token-login, match: { path: /token-login, methods: [POST] }, upstream: member, access: public, on_success: { issue_tokens: self } }
  - { id: web-login, match: { path: /web-login, methods: [POST] }, upstream: member, access: public, on_success: { create_session: web } }
  - { id: me, match: { path: "/me/**" }, upstream: member, access: authenticated }
  - { id: money, match: { path: /money }, upstream: member, access: authenticated, revocation: { mode: lookup } }
  - { id: admin, match: { path: /admin }, upstream: member, access: { roles: [admin] } }
"#;

/// What of the configuration differs from test to test.
#[derive(Clone, Copy)]
pub struct Setup<'s> {
    pub store: &'s str,
    pub refresh: &'s str,
    pub issuer: &'s str,
    pub session: &'s str,
    /// Of the endpoints.
    pub limit: &'s str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            store: "memory:",
            refresh: "refresh: { ttl: 1h, reuse_grace: 2s, cookie: { name: __Secure-refresh, allowed_origins: [\"https://shop.test\"] } }",
            issuer: "",
            session: "idle_timeout: 30m, absolute_timeout: 12h",
            limit: "",
        }
    }
}

impl Setup<'_> {
    pub fn yaml(&self, upstream: SocketAddr) -> String {
        let Self { store, refresh, issuer, session, limit } = self;
        format!(
            r#"
version: 1
listeners: [{{ address: "127.0.0.1:0" }}]
admin: {{ address: "127.0.0.1:0" }}
store: {{ url: "{store}", timeout: 1s }}
issuers:
  self:
    issuer: https://api.test
    audiences: [shop-api]
    algorithms: [ES256]
    signing_key: {{ file: one.private.pem, kid: one }}
    endpoints: {{ refresh: /auth/refresh, revoke: /auth/revoke, logout: /auth/logout, jwks: /.well-known/jwks.json{limit} }}
    {refresh}
    {issuer}
sessions:
  web:
    cookie: {{ name: SID }}
    key: "session:{{sha256}}"
    csrf: {{ allowed_origins: ["https://shop.test"] }}
    {}
revocation: {{ keys: {{ jti: "blacklist:{{jti}}", sub: "logout:{{sub}}", sid: "session-revoked:{{sid}}", all: logout-all }} }}
identity:
  headers: {{ X-User-Id: sub, X-User-Roles: roles, X-User-Name: {{ claim: name, encoding: percent }} }}
upstreams: {{ member: {{ targets: ["http://{upstream}"] }} }}
defaults: {{ auth: [self, web], realm: test }}
routes:
{ROUTES}
"#,
            session.split(", ").collect::<Vec<_>>().join("\n    "),
        )
    }

    pub fn start(&self, upstream: SocketAddr) -> Gateway {
        let folder = tempfile::tempdir().expect("a folder");
        keys(folder.path(), "one", "ES256");
        std::fs::write(folder.path().join("gateway.yaml"), self.yaml(upstream)).expect("a file");
        ready(Gateway::start_in(folder, &[]))
    }

    /// Another gateway with the same keys and the same store.
    pub fn start_beside(&self, first: &Gateway, upstream: SocketAddr) -> Gateway {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["one.private.pem", "gateway.yaml"] {
            std::fs::copy(first.folder().join(file), folder.path().join(file)).expect("a file");
        }
        std::fs::write(folder.path().join("gateway.yaml"), self.yaml(upstream)).expect("a file");
        ready(Gateway::start_in(folder, &[]))
    }
}

/// A gateway that issues credentials, before this service.
pub fn start(upstream: Upstream) -> (Upstream, Gateway) {
    let setup = Setup { refresh: "refresh: { ttl: 1h, reuse_grace: 0s }", ..Setup::default() };
    let gateway = setup.start(upstream.address);
    (upstream, gateway)
}

/// A refresh token that has been used.
pub fn used(gateway: &Gateway) -> String {
    let token = login(gateway, &hong()).refresh;
    assert_eq!(refresh(gateway.address, &token).status, 200);
    token
}

/// A request that refreshes.
pub fn refreshing(token: &str) -> String {
    let body = format!("refresh_token={token}");
    let length = body.len();
    format!(
        "POST /auth/refresh HTTP/1.1\r\nhost: gw.test\r\ncontent-type: {FORM}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// A request that logs in.
pub fn logging_in(subject: &str) -> String {
    let body = json!({ "sub": subject }).to_string();
    let length = body.len();
    format!(
        "POST /auth/login HTTP/1.1\r\nhost: gw.test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn ready(gateway: Gateway) -> Gateway {
    until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    gateway
}

fn keys(folder: &Path, kid: &str, algorithm: &str) {
    let made = Command::new(PROGRAM)
        .args(["keys", "generate", "--alg", algorithm, "--kid", kid, "--out"])
        .arg(folder)
        .output()
        .expect("the program runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A service that knows members: it answers a login with what it was sent, and everything else with what it saw.
pub fn member() -> Upstream {
    Upstream::scripted(|seen, stream| {
        use std::io::Write;
        let answer = if seen.line().contains("login") {
            let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            match body["raw"].as_str() {
                Some(raw) => raw.to_owned(),
                None => {
                    let text = seen.body.len();
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: OWN=1\r\ncontent-length: {text}\r\n\r\n{}",
                        String::from_utf8_lossy(&seen.body)
                    )
                }
            }
        } else {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", seen.head.len(), seen.head)
        };
        stream.write_all(answer.as_bytes()).is_ok() && !answer.contains("connection: close")
    })
}

fn hong() -> Value {
    json!({ "sub": "hong", "name": "홍길동", "roles": ["customer"], "scope": "orders:read", "password_hash": "$2b$" })
}

pub fn post_to(address: SocketAddr, path: &str, fields: &str, kind: &str, body: &str) -> Answer {
    let length = body.len();
    let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
    Client::connect(address)
        .send(format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\n{kind}content-length: {length}\r\n{fields}\r\n{body}"))
}

fn post(gateway: &Gateway, path: &str, fields: &str, body: &Value) -> Answer {
    post_to(gateway.address, path, fields, "application/json", &body.to_string())
}

const FORM: &str = "application/x-www-form-urlencoded";

pub fn refresh(address: SocketAddr, token: &str) -> Answer {
    post_to(address, "/auth/refresh", "", FORM, &format!("grant_type=refresh_token&refresh_token={token}"))
}

/// Everything that one login got.
#[derive(Clone, Debug)]
pub struct Login {
    pub access: String,
    pub refresh: String,
    pub cookie: String,
}

fn login(gateway: &Gateway, who: &Value) -> Login {
    let answer = post(gateway, "/auth/login", "", who);
    assert_eq!(answer.status, 200, "{}", answer.text());
    granted(&answer)
}

/// Nothing where the store said nothing.
pub fn login_to(gateway: &Gateway, who: &Value) -> Option<Login> {
    let answer = post(gateway, "/auth/login", "", who);
    assert!([200, 503].contains(&answer.status), "{}", answer.text());
    (answer.status == 200).then(|| granted(&answer))
}

fn granted(answer: &Answer) -> Login {
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    Login {
        access: body["access_token"].as_str().expect("an access token").to_owned(),
        refresh: body["refresh_token"].as_str().expect("a refresh token").to_owned(),
        cookie: cookie(answer, "SID"),
    }
}

/// Nothing where nobody answers.
pub fn try_post(address: SocketAddr, path: &str, form: &str) -> Option<Answer> {
    let length = form.len();
    let mut client = Client::try_connect(address)?;
    client.try_write(format!(
        "POST {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-type: {FORM}\r\ncontent-length: {length}\r\n\r\n{form}"
    ))?;
    client.try_read(false)
}

fn cookie(answer: &Answer, name: &str) -> String {
    let fields = answer.headers.iter().filter(|(field, _)| field == "set-cookie").map(|(_, value)| value);
    let mut found = fields.filter_map(|value| value.strip_prefix(&format!("{name}=")));
    found.next().and_then(|value| value.split(';').next()).expect("the cookie is set").to_owned()
}

fn set_cookies(answer: &Answer) -> Vec<String> {
    answer.headers.iter().filter(|(field, _)| field == "set-cookie").map(|(_, value)| value.clone()).collect()
}

pub fn by_token(gateway: &Gateway, path: &str, token: &str) -> Answer {
    gateway.get(path, Some(token))
}

pub fn by_cookie(gateway: &Gateway, path: &str, cookie: &str) -> Answer {
    gateway.send(format!("GET {path} HTTP/1.1\r\nhost: gw.test\r\ncookie: SID={cookie}\r\n\r\n"))
}

pub fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

fn claims(token: &str) -> (Value, Value) {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |place: usize| {
        let part = token.split('.').nth(place).expect("three parts");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
    };
    (part(0), part(1))
}

/// Runs a test on each store.
fn on_each_store(test: impl Fn(&str)) {
    test("memory:");
    test("file:issued.db");
    let redis = Redis::start();
    test(&redis.url());
}

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
fn logging_out_everywhere_ends_whatever_was_issued_and_the_next_login_works() {
    on_each_store(|store| {
        let member = member();
        let gateway = Setup { store, ..Setup::default() }.start(member.address);
        let stranger = login(&gateway, &json!({ "sub": "kim" }));
        for _ in 0..3 {
            let logins: Vec<Login> = (0..3).map(|_| login(&gateway, &hong())).collect();
            let refreshed = body(&refresh(gateway.address, &logins[0].refresh));
            let fields = format!("authorization: Bearer {}\r\n", logins[1].access);
            assert_eq!(post_to(gateway.address, "/auth/logout?everywhere", &fields, "", "").status, 204);
            let again = login(&gateway, &hong());
            assert_eq!(by_token(&gateway, "/me/x", &again.access).status, 200, "{store}");
            assert_eq!(by_cookie(&gateway, "/me/x", &again.cookie).status, 200, "{store}");
            assert_eq!(refresh(gateway.address, &again.refresh).status, 200, "{store}");
            // Never in the future, for who checks tokens elsewhere.
            assert!(claims(&again.access).1["iat"].as_i64().expect("a time") <= now());
            let tokens = logins.iter().map(|login| login.access.clone());
            for token in tokens.chain([refreshed["access_token"].as_str().expect("text").to_owned()]) {
                for path in ["/me/x", "/money"] {
                    assert_eq!(by_token(&gateway, path, &token).status, 401, "{store}");
                }
            }
            for old in &logins {
                assert_eq!(by_cookie(&gateway, "/me/x", &old.cookie).status, 401, "{store}");
                assert_eq!(refresh(gateway.address, &old.refresh).status, 400, "{store}");
            }
            let next = refreshed["refresh_token"].as_str().expect("text");
            assert_eq!(refresh(gateway.address, next).status, 400, "{store}");
        }
        assert_eq!(by_token(&gateway, "/me/x", &stranger.access).status, 200);
        assert_eq!(refresh(gateway.address, &stranger.refresh).status, 200);
    });
}

#[test]
fn many_refreshes_of_one_token_give_one_successor_and_a_copy_that_is_used_later_ends_the_login() {
    on_each_store(|store| {
        let member = member();
        let gateway = Setup { store, ..Setup::default() }.start(member.address);
        let one = login(&gateway, &hong());
        let gate = Arc::new(Barrier::new(64));
        let threads: Vec<_> = (0..64)
            .map(|_| {
                let (gate, token, address) = (Arc::clone(&gate), one.refresh.clone(), gateway.address);
                std::thread::spawn(move || {
                    gate.wait();
                    let answer = refresh(address, &token);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    body(&answer)["refresh_token"].as_str().expect("text").to_owned()
                })
            })
            .collect();
        let successors: HashSet<String> = threads.into_iter().map(|thread| thread.join().expect("200")).collect();
        assert_eq!(successors.len(), 1, "{store}");
        let successor = successors.into_iter().next().expect("one");
        assert_ne!(successor, one.refresh);
        assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 200);
        // A made-up token of the same login ends nothing.
        let forged = format!("{}{}", &one.refresh[..40], &one.refresh[40..].chars().rev().collect::<String>());
        for odd in [forged.as_str(), "", "x", &format!("{}A", one.refresh)] {
            assert_eq!(refresh(gateway.address, odd).status, 400);
        }
        let answer = refresh(gateway.address, &successor);
        assert_eq!(answer.status, 200);
        let third = body(&answer);
        let fresh = third["access_token"].as_str().expect("text");
        assert_eq!(by_token(&gateway, "/me/x", fresh).status, 200);
        // When the grace is over.
        let mut replayed = refresh(gateway.address, &one.refresh);
        until("the grace is over", || {
            replayed = refresh(gateway.address, &one.refresh);
            replayed.status != 200
        });
        assert_eq!((replayed.status, &body(&replayed)["error"]), (400, &json!("invalid_grant")));
        assert_eq!(gateway.line_of(&replayed)["outcome"], "reused_grant");
        assert!(gateway.lines().iter().any(|line| line.contains("a refresh token was used again: its login ends")));
        for token in [&one.access, fresh] {
            until("its access tokens are dead", || by_token(&gateway, "/me/x", token).status == 401);
        }
        until("its session is dead", || by_cookie(&gateway, "/me/x", &one.cookie).status == 401);
        for token in [&successor, third["refresh_token"].as_str().expect("text")] {
            let answer = refresh(gateway.address, token);
            assert_eq!(answer.status, 400);
            assert_eq!(gateway.line_of(&answer)["outcome"], "invalid_grant");
        }
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
fn a_logout_counts_at_every_gateway_when_it_returns_and_a_replay_within_a_second() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    let setup = Setup { store: &url, refresh: "refresh: { ttl: 1h, reuse_grace: 0s }", ..Setup::default() };
    let first = setup.start(member.address);
    let gateways = [setup.start_beside(&first, member.address), setup.start_beside(&first, member.address), first];
    for round in 0..10 {
        let login_at = &gateways[round % 3];
        let one = login(login_at, &hong());
        for gateway in &gateways {
            assert_eq!(by_token(gateway, "/me/x", &one.access).status, 200);
            assert_eq!(by_cookie(gateway, "/me/x", &one.cookie).status, 200);
        }
        let target = if round % 2 == 0 { "/auth/logout" } else { "/auth/logout?everywhere" };
        let fields = format!("authorization: Bearer {}\r\n", one.access);
        assert_eq!(post_to(gateways[(round + 1) % 3].address, target, &fields, "", "").status, 204);
        for gateway in &gateways {
            assert_eq!(by_token(gateway, "/me/x", &one.access).status, 401, "{target}");
            assert_eq!(by_cookie(gateway, "/me/x", &one.cookie).status, 401, "{target}");
            assert_eq!(refresh(gateway.address, &one.refresh).status, 400, "{target}");
        }
    }
    let one = login(&gateways[0], &hong());
    let next = body(&refresh(gateways[1].address, &one.refresh));
    assert_eq!(by_token(&gateways[2], "/me/x", next["access_token"].as_str().expect("text")).status, 200);
    let replayed = Instant::now();
    assert_eq!(refresh(gateways[2].address, &one.refresh).status, 400);
    for gateway in &gateways {
        until("its access tokens are dead", || by_token(gateway, "/me/x", &one.access).status == 401);
        assert_eq!(refresh(gateway.address, next["refresh_token"].as_str().expect("text")).status, 400);
    }
    println!("dead everywhere {:?} after the replay", replayed.elapsed());
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

/// Sessions without tokens have a path of their own to end at, and what a service writes ends with its record.
#[test]
fn sessions_alone_can_be_ended_too() {
    for leases in [true, false] {
        let redis = Redis::start();
        let (url, member) = (redis.url(), member());
        let yaml = format!(
            r#"
version: 1
listeners: [{{ address: "127.0.0.1:0" }}]
admin: {{ address: "127.0.0.1:0" }}
store: {{ url: "{url}", timeout: 1s }}
sessions:
  web: {{ cookie: {{ name: SID }}, key: "session:{{sha256}}", idle_timeout: 30m, logout: /web-logout, csrf: {{ allowed_origins: ["https://shop.test"] }} }}
  old: {{ cookie: {{ name: OLD }}, key: "old:{{id}}", absolute_timeout: 12h, csrf: {{ allowed_origins: ["https://shop.test"] }} }}
revocation: {{ leases: {leases}, keys: {{ sub: "logout:{{sub}}", sid: "session-revoked:{{sid}}" }} }}
upstreams: {{ member: {{ targets: ["http://{}"] }} }}
defaults: {{ auth: [web, old], realm: test }}
routes:
  - {{ id: web-login, match: {{ path: /web-login, methods: [POST] }}, upstream: member, access: public, on_success: {{ create_session: web }} }}
  - {{ id: me, match: {{ path: "/me/**" }}, upstream: member, access: authenticated }}
"#,
            member.address
        );
        let gateway = ready(Gateway::start(&yaml));
        let log_in = || cookie(&post(&gateway, "/web-login", "", &hong()), "SID");
        let get = |name: &str, id: &str| {
            gateway.send(format!("GET /me/x HTTP/1.1\r\nhost: gw.test\r\ncookie: {name}={id}\r\n\r\n")).status
        };
        let log_out = |name: &str, id: &str, target: &str| {
            let fields = format!("cookie: {name}={id}\r\norigin: https://shop.test\r\n");
            let out = post_to(gateway.address, target, &fields, "", "");
            // The cookie that came goes with it, and those that are set here; nobody else's.
            let expected = if name == "OLD" { vec!["SID", "OLD"] } else { vec!["SID"] };
            let gone = set_cookies(&out);
            assert!(gone.iter().all(|set| set.contains("=; Path=/; ") && set.contains("Max-Age=0")), "{gone:?}");
            let gone: Vec<&str> = gone.iter().filter_map(|set| set.split('=').next()).collect();
            assert_eq!(gone, expected);
            out.status
        };
        // Without leases nobody can say who knows.
        let done = if leases { 204 } else { 202 };
        let (one, other) = (log_in(), log_in());
        assert_eq!((get("SID", &one), get("SID", &other)), (200, 200));
        assert_eq!(log_out("SID", &one, "/web-logout"), done);
        until("it is over", || get("SID", &one) == 401);
        // By a mark: whoever writes the record again brings nothing back.
        assert!(redis.command(&["KEYS", "session-revoked:*"]).contains("session-revoked:"));
        assert_eq!(get("SID", &other), 200);
        let write = |id: &str| {
            redis.command(&["SET", &format!("old:{id}"), &json!({ "sub": "hong", "iat": now() - 60 }).to_string()]);
        };
        write("a");
        write("b");
        assert_eq!((get("OLD", "a"), get("OLD", "b")), (200, 200));
        assert_eq!(log_out("OLD", "a", "/web-logout"), done);
        until("it is over", || get("OLD", "a") == 401);
        assert_eq!((get("OLD", "b"), redis.command(&["EXISTS", "old:a"]).trim()), (200, "0"));
        assert_eq!(log_out("OLD", "b", "/web-logout?everywhere"), done);
        until("all are over", || get("OLD", "b") == 401 && get("SID", &other) == 401);
        assert_eq!(get("SID", &log_in()), 200);
    }
}

/// What takes somebody back is remembered for longer than anything that it takes back.
#[test]
fn a_mark_outlives_sessions_of_services_and_tokens_that_others_know() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    let kinds = "idle_timeout: 30m\n  old: { cookie: { name: OLD },key: \"old:{id}\",idle_timeout: 30m,claims: { iat: began } }";
    let asked = "idle_timeout: 30m\nintrospection:\n  opaque: { uri: \"http://127.0.0.1:9/x\",client_id: g,client_secret_file: one.private.pem }";
    for (session, least) in [("idle_timeout: 30m", 3_600), (kinds, 400 * 86_400), (asked, 400 * 86_400)] {
        let gateway = Setup { store: &url, session, ..Setup::default() }.start(member.address);
        let one = login(&gateway, &hong());
        let fields = format!("authorization: Bearer {}\r\n", one.access);
        assert_eq!(post_to(gateway.address, "/auth/logout?everywhere", &fields, "", "").status, 204);
        assert_eq!(gateway.admin("POST", "/revocations", r#"{"sub":"kim"}"#).status, 200);
        for name in ["logout:hong", "logout:kim"] {
            let left: i64 = redis.command(&["TTL", name]).trim().parse().expect("a number");
            assert!((least..least + 86_400 * 2).contains(&left), "{name}: {left} s, {session}");
            redis.command(&["DEL", name]);
        }
    }
}

/// A token of the last days before `refresh.ttl` was made shorter is no better than one of today.
#[test]
fn a_life_that_is_made_shorter_counts_for_logins_of_before() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    let setup = Setup { store: &url, refresh: "refresh: { ttl: 1h }", ..Setup::default() };
    let first = setup.start(member.address);
    let one = login(&first, &hong());
    assert_eq!(refresh(first.address, &one.refresh).status, 200);
    let one = login(&first, &hong());
    let short = Setup { refresh: "refresh: { ttl: 2s }", issuer: "access_ttl: 1s", ..setup };
    let second = short.start_beside(&first, member.address);
    let started = Instant::now();
    until("two seconds have passed", || started.elapsed() > Duration::from_secs(2));
    assert_eq!(refresh(second.address, &one.refresh).status, 400);
    assert_eq!(refresh(first.address, &one.refresh).status, 200, "it is not over for who says one hour");
    let bounded = Setup { refresh: "refresh: { ttl: 1h, max_life: 3s }", issuer: "access_ttl: 1s", ..setup };
    let third = bounded.start_beside(&first, member.address);
    let mut token = login(&third, &hong()).refresh;
    until("it is over, however often it is refreshed", || {
        let answer = refresh(third.address, &token);
        if answer.status == 200 {
            let pair = body(&answer);
            assert!(pair["refresh_expires_in"].as_u64().expect("seconds") <= 3);
            pair["refresh_token"].as_str().expect("text").clone_into(&mut token);
        }
        answer.status == 400
    });
}

/// What is not known of a login costs it nothing, and one that has been taken back leaves nothing that could live on.
#[test]
fn a_refresh_that_is_not_answered_turns_nothing_on_and_one_that_is_refused_keeps_nothing() {
    let redis = Redis::start();
    let (url, member) = (redis.url(), member());
    for rotate in [true, false] {
        let refreshing = format!("refresh: {{ ttl: 1h, reuse_grace: 0s, rotate: {rotate} }}");
        let gateway = Setup { store: &url, refresh: &refreshing, ..Setup::default() }.start(member.address);
        let one = login(&gateway, &hong());
        redis.command(&["SET", "logout:hong", "not a time"]);
        for _ in 0..3 {
            assert_eq!(refresh(gateway.address, &one.refresh).status, 503);
        }
        redis.command(&["DEL", "logout:hong"]);
        let answer = refresh(gateway.address, &one.refresh);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let next = body(&answer)["refresh_token"].as_str().expect("text").to_owned();
        assert_eq!(next != one.refresh, rotate);
        let sid = claims(&one.access).1["sid"].as_str().expect("text").to_owned();
        let family = format!("bearward:family:{sid}");
        assert_eq!(redis.command(&["EXISTS", &family]).trim(), "1");
        redis.command(&["SET", &format!("session-revoked:{sid}"), "1"]);
        assert_eq!(refresh(gateway.address, &next).status, 400);
        assert_eq!(redis.command(&["EXISTS", &family]).trim(), "0");
        redis.command(&["DEL", &format!("session-revoked:{sid}")]);
        assert_eq!(refresh(gateway.address, &next).status, 400);
    }
}

/// Where keys hold the issuer, the same subject is somebody else's at another one.
#[test]
fn logging_out_everywhere_is_about_one_issuer_s_subject_where_keys_say_so() {
    let (redis, member) = (Redis::start(), member());
    let url = redis.url();
    let yaml = Setup { store: &url, session: "issuer: https://api.test, idle_timeout: 30m", ..Setup::default() }
        .yaml(member.address)
        .replace("logout:{sub}", "{iss}:logout:{sub}")
        .replace("session-revoked:{sid}", "{iss}:gone:{sid}")
        .replace(
            "sessions:\n",
            "  staff:\n    issuer: https://staff.test\n    audiences: [shop-api]\n    algorithms: [ES256]\n    signing_key: { file: one.private.pem, kid: one }\n    endpoints: { logout: /staff/logout }\nsessions:\n",
        )
        .replace("auth: [self, web]", "auth: [self, staff, web]")
        .replace(
            "routes:\n",
            "routes:\n  - { id: staff-login, match: { path: /staff-login, methods: [POST] }, upstream: member, access: public, on_success: { issue_tokens: staff } }\n",
        );
    let folder = tempfile::tempdir().expect("a folder");
    keys(folder.path(), "one", "ES256");
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let gateway = ready(Gateway::start_in(folder, &[]));
    let staff = body(&post(&gateway, "/staff-login", "", &hong()));
    let staff = staff["access_token"].as_str().expect("text");
    for target in ["/auth/logout?everywhere", "/staff/logout?everywhere"] {
        let one = login(&gateway, &hong());
        let fields = format!("authorization: Bearer {}\r\n", one.access);
        assert_eq!(post_to(gateway.address, target, &fields, "", "").status, 204);
        assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 401);
        assert_eq!(by_cookie(&gateway, "/me/x", &one.cookie).status, 401);
        assert_eq!(by_token(&gateway, "/me/x", staff).status, 200, "{target}");
    }
    let one = login(&gateway, &hong());
    let out = post_to(gateway.address, "/auth/logout", &format!("authorization: Bearer {staff}\r\n"), "", "");
    assert_eq!(out.status, 204, "{}", out.text());
    assert_eq!(by_token(&gateway, "/me/x", staff).status, 401);
    assert_eq!(by_token(&gateway, "/me/x", &one.access).status, 200);
}

/// A turn that reaches the store when the client has long given it up is none: the token that it has is still good.
#[test]
fn a_turn_that_comes_too_late_to_the_store_is_not_made() {
    let (redis, member) = (Redis::start(), member());
    let fault = Fault::before(redis.port);
    let url = fault.url();
    let setup = Setup { store: &url, refresh: "refresh: { ttl: 1h, reuse_grace: 1s }", ..Setup::default() };
    let gateway = setup.start(member.address);
    let one = login(&gateway, &hong());
    fault.delay(Duration::from_millis(350));
    let answer = refresh(gateway.address, &one.refresh);
    assert_eq!(answer.status, 503, "{}", answer.text());
    fault.delay(Duration::ZERO);
    let started = Instant::now();
    until("the grace would be over", || started.elapsed() > Duration::from_secs(2));
    until("the store says something", || {
        let answer = refresh(gateway.address, &one.refresh);
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        answer.status == 200
    });
}

/// Neither takes a cookie away from somebody else's page, nor says twice what it did once.
#[test]
fn what_ends_nothing_takes_no_cookie_away() {
    let (redis, member) = (Redis::start(), member());
    let url = redis.url();
    let gateway = Setup { store: &url, ..Setup::default() }.start(member.address);
    for token in ["x", &used(&gateway)[..60]] {
        let evil = "origin: https://evil.test\r\nsec-fetch-site: cross-site\r\n";
        let answer = post_to(gateway.address, "/auth/revoke", evil, FORM, &format!("token={token}"));
        assert_eq!((answer.status, set_cookies(&answer).len()), (200, 0));
    }
    // Nor for a token of its own: the cookie is the visitor's.
    let own = login(&gateway, &json!({ "sub": "mallory" })).refresh;
    let evil = "origin: https://evil.test\r\nsec-fetch-site: cross-site\r\ncookie: __Secure-refresh=visitors\r\n";
    let answer = post_to(gateway.address, "/auth/revoke", evil, FORM, &format!("token={own}"));
    assert_eq!((answer.status, set_cookies(&answer).len()), (200, 0));
    assert_eq!(refresh(gateway.address, &own).status, 400);
    // The keys can be asked for with HEAD, too.
    let mut client = gateway.client();
    client.write("HEAD /.well-known/jwks.json HTTP/1.1\r\nhost: gw.test\r\n\r\n");
    assert_eq!(client.read_to_head().status, 200);
}
