//! A gateway that issues credentials, a service that knows members, and what a client does with them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::gateway::PROGRAM;
use super::redis::Redis;
use super::{Answer, Client, Gateway, Upstream, until};

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

pub fn ready(gateway: Gateway) -> Gateway {
    until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    gateway
}

pub fn keys(folder: &Path, kid: &str, algorithm: &str) {
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

pub fn hong() -> Value {
    json!({ "sub": "hong", "name": "홍길동", "roles": ["customer"], "scope": "orders:read", "password_hash": "$2b$" })
}

pub fn post_to(address: SocketAddr, path: &str, fields: &str, kind: &str, body: &str) -> Answer {
    let length = body.len();
    let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
    Client::connect(address)
        .send(format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\n{kind}content-length: {length}\r\n{fields}\r\n{body}"))
}

pub fn post(gateway: &Gateway, path: &str, fields: &str, body: &Value) -> Answer {
    post_to(gateway.address, path, fields, "application/json", &body.to_string())
}

pub const FORM: &str = "application/x-www-form-urlencoded";

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

pub fn login(gateway: &Gateway, who: &Value) -> Login {
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

pub fn granted(answer: &Answer) -> Login {
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

pub fn cookie(answer: &Answer, name: &str) -> String {
    let fields = answer.headers.iter().filter(|(field, _)| field == "set-cookie").map(|(_, value)| value);
    let mut found = fields.filter_map(|value| value.strip_prefix(&format!("{name}=")));
    found.next().and_then(|value| value.split(';').next()).expect("the cookie is set").to_owned()
}

pub fn set_cookies(answer: &Answer) -> Vec<String> {
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

pub fn claims(token: &str) -> (Value, Value) {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |place: usize| {
        let part = token.split('.').nth(place).expect("three parts");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
    };
    (part(0), part(1))
}

/// Runs a test on each store.
pub fn on_each_store(test: impl Fn(&str)) {
    test("memory:");
    test("file:issued.db");
    let redis = Redis::start();
    test(&redis.url());
}
