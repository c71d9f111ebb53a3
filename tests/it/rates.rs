//! How often somebody may: by address, by subject, by claim, of one gateway and of all.

use serde_json::json;

use crate::support::gateway::{config, get, token, with_store};
use crate::support::logins::{self, Login, Setup};
use crate::support::redis::Redis;
use crate::support::{Answer, Gateway, Upstream, until};

const ROUTES: &str = r#"
  - { id: login, match: { path: /login }, upstream: echo, access: public, rate_limit: { key: client_ip, limit: 5/hour } }
  - { id: mine, match: { path: /mine }, upstream: echo, access: authenticated, rate_limit: { key: subject, limit: 3/hour } }
  - { id: tier, match: { path: /tier }, upstream: echo, access: authenticated, rate_limit: { key: { claim: org.tenant }, limit: 2/day } }
  - { id: own, match: { path: /own }, upstream: echo, access: public, rate_limit: { key: client_ip, limit: 4/hour, scope: gateway } }
  - { id: burst, match: { path: /burst }, upstream: echo, access: public, rate_limit: { key: client_ip, limit: 30/minute, burst: 1 } }
  - { id: free, match: { path: /free }, upstream: echo, access: public }
"#;

/// How many of so many go through; the others are 429, and nothing of them is seen behind.
fn through(upstream: &Upstream, count: usize, ask: impl Fn() -> Answer) -> usize {
    upstream.clear();
    let mut good = 0;
    for _ in 0..count {
        let answer = ask();
        match answer.status {
            200 => good += 1,
            429 => {
                let wait: u32 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
                assert!((1..=86_400).contains(&wait), "{wait}");
                assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert_eq!(upstream.seen().len(), good);
    good
}

#[test]
fn who_asks_too_often_is_429_by_address_by_subject_and_by_claim() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, ROUTES).replace("issuers:", "trusted_proxies: [127.0.0.1]\nissuers:");
    let gateway = Gateway::start(&yaml);
    let from = |path: &str, address: &str| {
        let head = get(path, None).replace("\r\n\r\n", &format!("\r\nx-forwarded-for: {address}\r\n\r\n"));
        gateway.send(head)
    };
    assert_eq!(through(&upstream, 8, || from("/login", "192.0.2.1")), 5);
    assert_eq!(through(&upstream, 8, || from("/login", "192.0.2.2")), 5);
    // One customer has the whole network.
    assert_eq!(through(&upstream, 4, || from("/login", "2001:db8:0:1::1")), 4);
    assert_eq!(through(&upstream, 4, || from("/login", "2001:db8:0:1:ffff::2")), 1);
    assert_eq!(through(&upstream, 4, || from("/login", "2001:db8:0:2::1")), 4);
    let answer = from("/login", "192.0.2.1");
    assert_eq!(gateway.line_of(&answer)["outcome"], "rate_limited");
    assert_eq!(answer.header("www-authenticate"), None);
    // Whoever is nobody is not counted as somebody.
    for _ in 0..5 {
        assert_eq!(gateway.get("/mine", None).status, 401);
    }
    let of = |claims: serde_json::Value| token(&claims);
    let (kim, again, lee) =
        (of(json!({ "sub": "kim" })), of(json!({ "sub": "kim", "jti": "x" })), of(json!({ "sub": "lee" })));
    assert_eq!(through(&upstream, 2, || gateway.get("/mine", Some(&kim))), 2);
    assert_eq!(through(&upstream, 3, || gateway.get("/mine", Some(&again))), 1);
    assert_eq!(through(&upstream, 5, || gateway.get("/mine", Some(&lee))), 3);
    let tenant = |sub: &str, tenant: &str| of(json!({ "sub": sub, "org": { "tenant": tenant } }));
    let (one, two, other) = (tenant("kim", "a"), tenant("lee", "a"), tenant("kim", "b"));
    assert_eq!(through(&upstream, 1, || gateway.get("/tier", Some(&one))), 1);
    assert_eq!(through(&upstream, 3, || gateway.get("/tier", Some(&two))), 1);
    assert_eq!(through(&upstream, 3, || gateway.get("/tier", Some(&other))), 2);
    // Who has none shares one.
    assert_eq!(through(&upstream, 2, || gateway.get("/tier", Some(&kim))), 2);
    assert_eq!(through(&upstream, 2, || gateway.get("/tier", Some(&lee))), 0);
    // A bucket fills again.
    assert_eq!(from("/burst", "192.0.2.1").status, 200);
    assert_eq!(from("/burst", "192.0.2.1").status, 429);
    until("there is one more", || from("/burst", "192.0.2.1").status == 200);
    assert_eq!(through(&upstream, 50, || from("/free", "192.0.2.1")), 50);
    // Nobody gets another try by a reload.
    let file = gateway.folder().join("gateway.yaml");
    std::fs::write(&file, format!("{yaml}# a word more\n")).expect("a file");
    gateway.signal("HUP");
    until("it is taken", || gateway.lines().iter().any(|line| line.contains("configuration taken")));
    assert_eq!(through(&upstream, 3, || from("/login", "192.0.2.1")), 0);
}

#[test]
fn gateways_share_a_limit_and_each_keeps_to_it_while_the_store_is_away() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let hurried = with_store(upstream.address, &redis.url(), "", ROUTES);
    // Where the store answers, it has all the time that a busy machine may need.
    let yaml = hurried.replace("timeout: 250ms", "timeout: 10s");
    let gateways = [Gateway::start(&yaml), Gateway::start(&yaml), Gateway::start(&yaml)];
    for gateway in &gateways {
        until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    }
    let mut turn = std::iter::repeat(0..3).flatten();
    let mut next = || &gateways[turn.next().expect("endless")];
    let mut good = 0;
    for _ in 0..12 {
        good += usize::from(next().get("/login", None).status == 200);
    }
    assert_eq!(good, 5);
    let mut good = 0;
    for _ in 0..18 {
        good += usize::from(next().get("/own", None).status == 200);
    }
    assert_eq!(good, 12, "each has its own");
    // What is counted by is nowhere in clear, and is forgotten when it says nothing any more.
    let kim = token(&json!({ "sub": "kim-the-subject" }));
    assert_eq!(next().get("/mine", Some(&kim)).status, 200);
    let names = redis.command(&["KEYS", "bearward:rate:*"]);
    assert!(names.contains("bearward:rate:mine:") && !names.contains("kim-the-subject"), "{names}");
    for name in names.lines() {
        let life: i64 = redis.command(&["PTTL", name]).trim().parse().expect("a number");
        assert!((1..=3_600_000).contains(&life), "{name}: {life}");
    }
    // One that is new to all three, while the store says nothing.
    redis.freeze();
    let fresh = Gateway::start(&hurried);
    assert_eq!(through(&upstream, 8, || fresh.get("/login", None)), 5);
    redis.thaw();
    // What is full there is empty here: the store counts again.
    let another = Gateway::start(&yaml);
    until("it is ready", || another.admin("GET", "/readyz", "").status == 200);
    assert_eq!(another.get("/login", None).status, 429);
    // Another limit begins anew.
    let another = Gateway::start(&yaml.replace("limit: 5/hour", "limit: 50/hour"));
    until("it is ready", || another.admin("GET", "/readyz", "").status == 200);
    assert_eq!(another.get("/login", None).status, 200);
}

#[test]
fn who_refreshes_gives_up_or_logs_out_too_often_is_429_and_keys_are_for_everybody() {
    let (redis, member) = (Redis::start(), logins::member());
    let (url, limit) = (redis.url(), ", rate_limit: { key: client_ip, limit: 3/hour }");
    let setup = Setup { store: &url, limit, refresh: "refresh: { ttl: 1h, reuse_grace: 10s }", ..Setup::default() };
    let first = setup.start(member.address);
    let second = setup.start_beside(&first, member.address);
    let Login { access, refresh: token, .. } = logins::login_to(&first, &json!({ "sub": "kim" })).expect("it logs in");
    let form = "application/x-www-form-urlencoded";
    let post = |gateway: &Gateway, path: &str, body: &str| logins::post_to(gateway.address, path, "", form, body);
    // Of all gateways together, and of good tokens as of made-up ones.
    assert_eq!(post(&first, "/auth/refresh", &format!("refresh_token={token}")).status, 200);
    for gateway in [&first, &second] {
        assert_eq!(post(gateway, "/auth/refresh", "refresh_token=made-up").status, 400);
    }
    for gateway in [&second, &first] {
        let answer = post(gateway, "/auth/refresh", &format!("refresh_token={token}"));
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
        let line = gateway.line_of(&answer);
        assert_eq!((line["route"].as_str(), line["outcome"].as_str()), (Some("self.refresh"), Some("rate_limited")));
    }
    // Each is counted apart; a refusal ended nothing.
    for expected in [200, 200, 200, 429] {
        assert_eq!(post(&first, "/auth/revoke", "token=made-up").status, expected);
    }
    for expected in [401, 401, 401, 429] {
        assert_eq!(post(&second, "/auth/logout", "").status, expected);
    }
    assert_eq!(logins::by_token(&second, "/me/x", &access).status, 200);
    for _ in 0..10 {
        assert_eq!(first.get("/.well-known/jwks.json", None).status, 200);
    }
}
