//! `--ack`: what is true once a revocation has returned. Three gateways, a real Redis, a network
//! that fails.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::fault::{Fault, Network};
use crate::support::gateway::{PROGRAM, get, token, with_store};
use crate::support::redis::Redis;
use crate::support::{Client, Gateway, Upstream, now, until};

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
"#;

struct Node {
    network: Fault,
    gateway: Gateway,
    is_stopped: bool,
}

struct Field {
    redis: Redis,
    _upstream: Upstream,
    nodes: Vec<Node>,
}

impl Field {
    fn start(count: usize) -> Self {
        Self::start_with(count, "300ms")
    }

    fn start_with(count: usize, max_staleness: &str) -> Self {
        let (redis, upstream) = (Redis::start(), Upstream::echo());
        let nodes: Vec<Node> = (0..count)
            .map(|_| {
                let network = Fault::before(redis.port);
                let yaml = with_store(upstream.address, &network.url(), "", ROUTES)
                    .replace("revocation: { keys", &format!("revocation: {{ max_staleness: {max_staleness}, keys"));
                Node { network, gateway: Gateway::start(&yaml), is_stopped: false }
            })
            .collect();
        let field = Self { redis, _upstream: upstream, nodes };
        field.nodes.iter().for_each(Node::wait_until_ready);
        field
    }

    /// Revokes through the first gateway.
    fn revoke(&self, jti: &str, ack: &str) -> (u16, Value, Duration) {
        let started = Instant::now();
        let answer =
            self.nodes[0].gateway.admin("POST", "/revocations", &json!({ "jti": jti, "ack": ack }).to_string());
        (answer.status, answer.json(), started.elapsed())
    }
}

impl Node {
    fn wait_until_ready(&self) {
        until("a gateway is ready", || self.gateway.admin("GET", "/readyz", "").status == 200);
    }

    fn status(&self, token: &str) -> u16 {
        self.gateway.get("/me/x", Some(token)).status
    }

    fn stop(&mut self, is_stopped: bool) {
        if is_stopped != self.is_stopped {
            self.gateway.signal(if is_stopped { "STOP" } else { "CONT" });
            self.is_stopped = is_stopped;
        }
    }
}

fn names(answer: &Value, part: &str) -> Vec<String> {
    let names = answer[part].as_array().unwrap_or_else(|| panic!("{part}: {answer}"));
    names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// Who serves nobody any more is waited for by nobody.
#[test]
fn a_gateway_that_has_drained_leaves_no_lease() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let start = || {
        let yaml = with_store(upstream.address, &redis.url(), "", ROUTES)
            .replace("revocation: { keys", "revocation: { max_staleness: 60s, keys");
        let gateway = Gateway::start(&yaml);
        until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
        gateway
    };
    let (stays, mut goes) = (start(), start());
    until("both have a lease", || redis.command(&["HLEN", "bearward:leases"]).trim() == "2");
    goes.signal("TERM");
    assert_eq!(goes.wait().code(), Some(0));
    assert_eq!(redis.command(&["HLEN", "bearward:leases"]).trim(), "1");
    let answer = stays.admin("POST", "/revocations", r#"{"jti":"a1","ack":"all"}"#);
    assert_eq!((answer.status, names(&answer.json(), "outwaited").len()), (200, 0), "{}", answer.text());
}

#[test]
fn when_all_have_confirmed_the_next_request_is_refused_everywhere() {
    let field = Field::start(3);
    for round in 0..50 {
        let jti = format!("a-{round}");
        let token = token(&json!({ "jti": jti }));
        field.nodes.iter().for_each(|node| assert_eq!(node.status(&token), 200));
        let (status, answer, _) = field.revoke(&jti, "all");
        assert_eq!((status, answer["acknowledged_by"].as_str()), (200, Some("all")), "{answer}");
        field.nodes.iter().for_each(|node| assert_eq!(node.status(&token), 401));
        let confirmed = names(&answer, "confirmed");
        for node in &field.nodes {
            let pid = format!("-{}-", node.gateway.id());
            assert!(confirmed.iter().any(|name| name.contains(&pid)), "{pid}: {answer}");
        }
        assert_eq!(names(&answer, "outwaited").len(), 0);
    }
}

#[test]
fn a_gateway_that_cannot_confirm_is_outwaited_and_serves_nobody_then() {
    let mut field = Field::start(3);
    let others = token(&json!({ "jti": "o-1" }));
    for (number, network) in [Network::Silent, Network::Deaf, Network::Cut].into_iter().enumerate() {
        let jti = format!("p-{number}");
        let token = token(&json!({ "jti": jti }));
        field.nodes.iter().for_each(|node| assert_eq!(node.status(&token), 200));
        field.nodes[2].network.set(network);
        let (status, answer, took) = field.revoke(&jti, "all");
        assert_eq!(status, 200, "{answer}");
        let pid = format!("-{}-", field.nodes[2].gateway.id());
        assert!(names(&answer, "outwaited").iter().any(|name| name.contains(&pid)), "{network:?}: {answer}");
        assert_eq!(names(&answer, "confirmed").len(), 2, "{network:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!((field.nodes[2].status(&token), field.nodes[2].status(&others)), (503, 503), "{network:?}");
        assert_eq!((field.nodes[1].status(&token), field.nodes[1].status(&others)), (401, 200));
        assert_eq!(field.nodes[2].gateway.get("/open/x", None).status, 200);
        field.nodes[2].network.set(Network::Whole);
        field.nodes[2].wait_until_ready();
        until("it heals", || field.nodes[2].status(&others) == 200);
        assert_eq!(field.nodes[2].status(&token), 401);
    }
    // One that is stopped: its first answer afterwards is no 200.
    let token = token(&json!({ "jti": "s-1" }));
    field.nodes.iter().for_each(|node| assert_eq!(node.status(&token), 200));
    field.nodes[1].stop(true);
    let (status, answer, _) = field.revoke("s-1", "all");
    assert_eq!((status, names(&answer, "outwaited").len()), (200, 1), "{answer}");
    let mut client = Client::connect(field.nodes[1].gateway.address);
    client.write(get("/me/x", Some(&token)));
    field.nodes[1].stop(false);
    assert!(matches!(client.read().status, 401 | 503));
}

// `BEARWARD_TURNS` sets how often.
// What a look-up is told is as new as what a renewal is told, and a revoker counts from the renewal.
#[test]
fn a_look_up_after_the_last_renewal_lets_nobody_serve_for_longer_than_the_lease() {
    let field = Field::start_with(2, "4s");
    let [_, goes] = field.nodes.as_slice() else { panic!("two") };
    let known = token(&json!({ "jti": "l-1" }));
    field.nodes.iter().for_each(|node| assert_eq!(node.status(&known), 200));
    let pid = format!("-{}-", goes.gateway.id());
    let names_of_all = field.redis.command(&["HKEYS", "bearward:leases"]);
    let name = names_of_all.lines().find(|name| name.contains(&pid)).expect("a lease").to_owned();
    let lease = || field.redis.command(&["HGET", "bearward:leases", &name]);
    let before = lease();
    until("it is renewed", || lease() != before);
    // New ones are looked up until shortly before the next renewal, which is a quarter of `max_staleness` later.
    let renewed = Instant::now();
    for number in 0.. {
        assert_eq!(goes.status(&token(&json!({ "jti": format!("n-{number}") }))), 200);
        if renewed.elapsed() > Duration::from_millis(850) {
            break;
        }
    }
    goes.network.set(Network::Silent);
    let (status, answer, _) = field.revoke("l-1", "all");
    assert_eq!(status, 200, "{answer}");
    assert!(names(&answer, "outwaited").iter().any(|name| name.contains(&pid)), "{answer}");
    assert_eq!(goes.status(&known), 503);
}

// As behind Sentinels, where the primary that has it is lost while others are waited for: the next one never had it.
#[test]
fn what_the_store_loses_while_all_are_waited_for_is_written_again() {
    let field = Field::start_with(2, "2s");
    for (order, key) in [
        (json!({ "jti": "w-1", "ack": "all" }), "blacklist:w-1"),
        (json!({ "sub": "kim", "ack": "all" }), "logout:kim"),
    ] {
        field.nodes.iter().for_each(Node::wait_until_ready);
        let known = token(&json!({ "jti": "w-1", "sub": "kim", "iat": now() - 5 }));
        field.nodes[1].network.set(Network::Silent);
        let answer = std::thread::scope(|scope| {
            let revoked = scope.spawn(|| field.nodes[0].gateway.admin("POST", "/revocations", &order.to_string()));
            until("it is written", || field.redis.command(&["EXISTS", key]).trim() == "1");
            assert_eq!(field.redis.command(&["DEL", key]).trim(), "1");
            revoked.join().expect("an answer")
        });
        assert_eq!((answer.status, answer.json()["acknowledged_by"].as_str()), (200, Some("all")), "{}", answer.text());
        assert_eq!(field.nodes[0].status(&known), 401, "{key}");
        field.redis.command(&["DEL", key]);
        field.nodes[1].network.set(Network::Whole);
    }
}

#[test]
fn in_random_partitions_nobody_is_let_in_after_all_have_acknowledged() {
    let turns = std::env::var("BEARWARD_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut field = Field::start(3);
    let mut outwaited = 0;
    for turn in 0..turns {
        let jti = format!("r-{turn}");
        let token = token(&json!({ "jti": jti }));
        field.nodes.iter().for_each(|node| until("it is taken", || node.status(&token) == 200));
        // The first one is asked to revoke; what happens to the others is left to chance, before or
        // while the revocation is under way.
        let mut faults: Vec<(usize, Option<Network>, u64)> = Vec::new();
        for place in 1..field.nodes.len() {
            let network = match fastrand::u8(0..6) {
                0 => Some(Network::Silent),
                1 => Some(Network::Deaf),
                2 => Some(Network::Cut),
                3 => None,
                _ => continue,
            };
            faults.push((place, network, fastrand::u64(0..30)));
        }
        let answer = std::thread::scope(|scope| {
            for (place, network, after) in &faults {
                let node = &field.nodes[*place];
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(*after));
                    match network {
                        Some(network) => node.network.set(*network),
                        None => node.gateway.signal("STOP"),
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(fastrand::u64(0..20)));
            field.revoke(&jti, "all")
        });
        let (status, answer, _) = answer;
        assert_eq!(status, 200, "{answer}");
        outwaited += names(&answer, "outwaited").len();
        // From now on nobody, whatever state the gateway is in; those that are stopped answer later.
        let mut waiting = Vec::new();
        for (place, node) in field.nodes.iter_mut().enumerate() {
            node.is_stopped = faults.iter().any(|(at, network, _)| *at == place && network.is_none());
            let mut client = Client::connect(node.gateway.address);
            client.write(get("/me/x", Some(&token)));
            waiting.push(client);
        }
        for (node, mut client) in field.nodes.iter_mut().zip(waiting) {
            node.stop(false);
            let status = client.read().status;
            assert!(matches!(status, 401 | 503), "turn {turn}: {status} after {answer} with {faults:?}");
            node.network.set(Network::Whole);
        }
        field.nodes.iter().for_each(|node| until("it heals and refuses", || node.status(&token) == 401));
    }
    println!("{turns} partitions, {outwaited} gateways were outwaited");
}

#[test]
fn a_replica_is_waited_for_and_its_absence_is_told() {
    let field = Field::start(1);
    let (status, answer, _) = field.revoke("none", "replica");
    assert_eq!(status, 503);
    let detail = answer["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("revoked, but") && detail.contains("replica"), "{detail}");
    assert_eq!(field.nodes[0].status(&token(&json!({ "jti": "none" }))), 401, "it is written");
    let replica = Redis::start();
    replica.command(&["REPLICAOF", "127.0.0.1", &field.redis.port.to_string()]);
    until("it replicates", || replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
    for round in 0..20 {
        let jti = format!("r-{round}");
        until("it is acknowledged", || field.revoke(&jti, "replica").0 == 200);
        assert_eq!(replica.command(&["EXISTS", &format!("blacklist:{jti}")]), "1");
    }
    let file = Gateway::start(&with_store(field._upstream.address, "file:x.db", "", ROUTES));
    let order = |ack: &str| file.admin("POST", "/revocations", &json!({ "jti": "x", "ack": ack }).to_string());
    assert_eq!((order("replica").status, order("all").status, order("some").status), (409, 200, 400));
}

// Which one takes over is not for the revoker to choose: Sentinels may pick the one that lags behind.
#[test]
fn every_replica_that_is_connected_is_waited_for() {
    let field = Field::start(1);
    let primary = field.redis.port.to_string();
    let replicas = [Redis::start(), Redis::start()];
    let online = || field.redis.command(&["INFO", "replication"]).matches("state=online").count();
    for replica in &replicas {
        replica.command(&["REPLICAOF", "127.0.0.1", &primary]);
    }
    until("they replicate", || online() == 2);
    until("it is acknowledged", || field.revoke("first", "replica").0 == 200);
    replicas[0].freeze();
    let (status, answer, _) = field.revoke("second", "replica");
    assert_eq!(status, 503, "{answer}");
    assert!(answer["detail"].as_str().expect("a detail").contains("1 of 2 replicas"), "{answer}");
    // Nothing is left to write, and what was written is still not everywhere.
    assert_eq!(field.revoke("second", "replica").0, 503);
    replicas[0].thaw();
    until("it is acknowledged", || field.revoke("second", "replica").0 == 200);
    assert_eq!(replicas[0].command(&["EXISTS", "blacklist:second"]), "1");
    // One that has left is not waited for.
    drop(replicas);
    let last = Redis::start();
    last.command(&["REPLICAOF", "127.0.0.1", &primary]);
    until("it is acknowledged", || field.revoke("third", "replica").0 == 200);
    assert_eq!(last.command(&["EXISTS", "blacklist:third"]), "1");
}

// A presence of any type, with an end and without, another writer's and our own.
#[test]
fn what_is_there_already_is_acknowledged_too() {
    let field = Field::start(1);
    let replica = Redis::start();
    replica.command(&["REPLICAOF", "127.0.0.1", &field.redis.port.to_string()]);
    until("it is acknowledged", || field.revoke("first", "replica").0 == 200);
    let redis = &field.redis;
    redis.command(&["SET", "blacklist:a", "1"]);
    redis.command(&["SADD", "blacklist:b", "1"]);
    redis.command(&["SET", "blacklist:c", "1", "EX", "99999999"]);
    for jti in ["a", "b", "c"] {
        let key = format!("blacklist:{jti}");
        let life = || redis.command(&["TTL", &key]).parse::<i64>().expect("a time");
        let before = life();
        replica.freeze();
        assert_eq!(field.revoke(jti, "replica").0, 503, "{jti}");
        replica.thaw();
        until("it is acknowledged", || field.revoke(jti, "replica").0 == 200);
        assert!((before - 9..=before).contains(&life()), "{jti}: {before}, then {}", life());
        assert_eq!(replica.command(&["EXISTS", &key]), "1");
    }
}

// Rights from before replicas were counted: what is written is not called refused.
#[test]
fn a_revocation_whose_replicas_may_not_be_counted_is_written_and_told_so() {
    let field = Field::start(1);
    for forbidden in ["role", "wait"] {
        field.redis.command(&["ACL", "SETUSER", "default", "+@all", &format!("-{forbidden}")]);
        let (status, answer, _) = field.revoke(forbidden, "replica");
        assert_eq!(status, 503, "{answer}");
        let detail = answer["detail"].as_str().expect("a detail");
        assert!(detail.starts_with("revoked, but") && detail.contains("NOPERM"), "{forbidden}: {detail}");
        assert_eq!(field.nodes[0].status(&token(&json!({ "jti": forbidden }))), 401, "{forbidden}");
    }
}

// The line in docs/revocation.md, to the letter.
#[test]
fn the_rights_that_are_documented_are_enough() {
    let page = std::fs::read_to_string("docs/revocation.md").expect("the page");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER bearward")).expect("the line");
    let (redis, replica, upstream) = (Redis::start(), Redis::start(), Upstream::echo());
    replica.command(&["REPLICAOF", "127.0.0.1", &redis.port.to_string()]);
    redis.command(&line.split(' ').collect::<Vec<_>>());
    until("it replicates", || replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
    for database in ["", "/1"] {
        let url = format!("redis://bearward:password@127.0.0.1:{}{database}", redis.port);
        let routes = format!(
            "{ROUTES}  - {{ id: money, match: {{ path: /money }}, upstream: echo, access: authenticated, revocation: {{ mode: lookup }} }}"
        );
        let gateway = Gateway::start(&with_store(upstream.address, &url, "", &routes));
        until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
        for ack in ["primary", "replica", "all"] {
            let token = token(&json!({ "jti": ack, "sub": ack, "sid": ack }));
            until("it is taken", || gateway.get("/money", Some(&token)).status == 200);
            assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
            for body in [json!({ "jti": ack, "ack": ack }), json!({ "sub": ack, "ack": ack })] {
                let answer = gateway.admin("POST", "/revocations", &body.to_string());
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            until("it is refused", || gateway.get("/me/x", Some(&token)).status == 401);
            assert_eq!(gateway.get("/money", Some(&token)).status, 401);
        }
        let lines = gateway.lines();
        assert!(!lines.iter().any(|line| line.contains("NOPERM")), "{lines:?}");
    }
}

#[test]
fn the_command_says_in_one_line_what_is_true() {
    let field = Field::start(2);
    let run = |ack: &str, jti: &str| {
        let admin = field.nodes[0].gateway.admin.to_string();
        let out = Command::new(PROGRAM).args(["revoke", "--jti", jti, "--ack", ack, "--admin", &admin]).output();
        let out = out.expect("the program");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    let (code, said) = run("primary", "c-1");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("blacklist:c-1; the store has it") && said.ends_with("ms)\n"), "{said}");
    let (code, said) = run("all", "c-2");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("every gateway refuses it (") && said.lines().count() == 1, "{said}");
    let (code, said) = run("replica", "c-3");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("revoked, but"), "{said}");
}
