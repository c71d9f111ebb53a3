//! A login ends at every gateway, whatever it was used with, and what ends it outlives it.

use std::time::Instant;

use serde_json::json;

use crate::support::h2;
use crate::support::logins::*;
use crate::support::redis::Redis;
use crate::support::{Client, Gateway, now, until};

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
    let said = post(&gateway, "/staff-login", "", &hong());
    let staff = body(&said);
    let staff = staff["access_token"].as_str().unwrap_or_else(|| panic!("{}: {:?}", said.text(), gateway.lines()));
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

// A page that logs out and goes elsewhere at once, a client that does not wait for an answer.
#[test]
fn what_ends_a_login_is_done_though_its_client_leaves_at_once() {
    on_each_store(|store| {
        let member = member();
        let setup = Setup { store, refresh: "refresh: { ttl: 1h, reuse_grace: 0s }", ..Setup::default() };
        let gateway = setup.start(member.address);
        // A store that was too slow has ended nothing, and says so.
        let left = |path: &str, leave: &dyn Fn()| {
            let statuses = || -> Vec<u64> {
                let lines = gateway.access_lines();
                lines.iter().filter(|line| line["path"] == path).filter_map(|line| line["status"].as_u64()).collect()
            };
            for _ in 0..20 {
                let before = statuses().len();
                leave();
                until("it has a line", || statuses().len() > before);
                if statuses().last() != Some(&503) {
                    return;
                }
            }
            panic!("the store is too slow");
        };
        let gone = |what: &str, login: &Login| {
            until(what, || by_token(&gateway, "/me/x", &login.access).status == 401);
            until(what, || refresh(gateway.address, &login.refresh).status == 400);
        };
        let posted = |path: &str, fields: &str, form: &str| {
            let length = form.len();
            Client::connect(gateway.address).write(format!(
                "POST {path} HTTP/1.1\r\nhost: gw.test\r\n{fields}content-length: {length}\r\n\r\n{form}"
            ));
        };
        for _ in 0..5 {
            let one = login(&gateway, &hong());
            let fields = format!("authorization: Bearer {}\r\n", one.access);
            left("/auth/logout", &|| posted("/auth/logout", &fields, ""));
            gone("it has ended", &one);
        }
        let one = login(&gateway, &hong());
        let bearer = format!("Bearer {}", one.access);
        let fields = h2::request("POST", "/auth/logout", &[("authorization", &bearer)]);
        left("/auth/logout", &|| {
            h2::H2::connect(gateway.address).ask(&fields, None);
        });
        gone("it has ended", &one);
        let one = login(&gateway, &hong());
        let next = body(&refresh(gateway.address, &one.refresh));
        let form = format!("content-type: {FORM}\r\n");
        left("/auth/refresh", &|| posted("/auth/refresh", &form, &format!("refresh_token={}", one.refresh)));
        let stolen = Login { access: next["access_token"].as_str().expect("text").to_owned(), ..one };
        gone("its token was used again", &stolen);
        let one = login(&gateway, &hong());
        left("/auth/revoke", &|| posted("/auth/revoke", &form, &format!("token={}", one.refresh)));
        gone("it was given up", &one);
    });
}
