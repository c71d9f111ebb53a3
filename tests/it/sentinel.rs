//! A primary with replicas and Sentinels: what was acknowledged by a replica outlives the primary.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{get, order, signal, token, with_store};
use crate::support::redis::Redis;
use crate::support::{Client, Gateway, Upstream, until};

const ROUTES: &str = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: money, match: { path: "/money" }, upstream: echo, access: authenticated, revocation: { mode: lookup } }
"#;

/// One Sentinel; dropping it ends it.
pub struct Sentinel {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    pub fn start(primary: u16) -> Self {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds shop 1000\nsentinel failover-timeout shop 2000\n"
        );
        std::fs::write(&file, settings).expect("a file");
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server");
        Self { child, port, _folder: folder }
    }

    fn ask(&self, words: &[&str]) -> String {
        let out =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Where it says the primary is.
    fn primary(&self) -> u16 {
        let said = self.ask(&["SENTINEL", "get-master-addr-by-name", "shop"]);
        said.lines().nth(1).and_then(|port| port.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether it knows everybody: `replicas` replicas and two other Sentinels, all well.
    fn knows(&self, replicas: usize) -> bool {
        let well = |kind: &str| {
            let said = self.ask(&["SENTINEL", kind, "shop"]);
            let flags: Vec<&str> = said
                .lines()
                .zip(said.lines().skip(1))
                .filter(|(name, _)| *name == "flags")
                .map(|(_, flags)| flags)
                .collect();
            flags.iter().filter(|flags| !flags.contains("down") && !flags.contains("disconnected")).count()
        };
        well("replicas") >= replicas && well("sentinels") == 2
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn replica(primary: u16) -> Redis {
    Redis::start_with(&["--replicaof", "127.0.0.1", &primary.to_string(), "--repl-diskless-sync-delay", "0"])
}

// `BEARWARD_TURNS` sets how many primaries die, and `BEARWARD_LOAD` how many revocations go before each.
#[test]
fn what_a_replica_has_acknowledged_outlives_the_primary() {
    let set = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let (turns, load) = (set("BEARWARD_TURNS").unwrap_or(1), set("BEARWARD_LOAD").unwrap_or(200));
    let first = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let mut nodes = vec![replica(first.port), replica(first.port)];
    nodes.push(first);
    let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(nodes[2].port)).collect();
    let known = |count: usize| sentinels.iter().all(|sentinel| sentinel.knows(count));
    // Known to the Sentinels, agreed upon, and with everything at the primary's side.
    let is_whole = |nodes: &[Redis]| {
        let primary = sentinels[0].primary();
        let online = |node: &Redis| node.command(&["INFO", "replication"]).matches("state=online").count();
        sentinels.iter().all(|sentinel| sentinel.primary() == primary)
            && nodes.iter().any(|node| node.port == primary && online(node) == 2)
            && known(2)
    };
    until("the Sentinels know all", || is_whole(&nodes));
    let hosts: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let upstream = Upstream::echo();
    let url = format!("redis+sentinel://{}/shop", hosts.join(","));
    let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    let good = token(&json!({ "jti": "good" }));
    let status = |path: &str, token: &str| gateway.get(path, Some(token)).status;
    until("it is taken", || status("/me/x", &good) == 200);
    let (next, acknowledged) = (AtomicUsize::new(0), Mutex::new(Vec::<String>::new()));
    let (mut slowest, mut loaded, mut checked) = (Duration::ZERO, Duration::ZERO, 0);
    for turn in 0..turns {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut admin = Client::connect(gateway.admin);
                    while !is_over.load(Ordering::Relaxed) {
                        let jti = format!("f-{}", next.fetch_add(1, Ordering::Relaxed));
                        let body = json!({ "jti": jti, "ack": "replica" }).to_string();
                        if admin.send(order("POST", "/revocations", &body)).status == 200 {
                            acknowledged.lock().expect("a list").push(jti);
                        }
                    }
                });
            }
            let (started, enough) = (Instant::now(), acknowledged.lock().expect("a list").len() + load);
            until("they are acknowledged", || acknowledged.lock().expect("a list").len() >= enough);
            loaded += started.elapsed();
            let old = sentinels[0].primary();
            let place = nodes.iter().position(|node| node.port == old).expect("the primary is one of them");
            nodes.remove(place).kill();
            let killed = Instant::now();
            // A good token is never taken for a bad one.
            until("it heals", || match status("/me/x", &good) {
                200 if sentinels[0].primary() != old => true,
                200 | 503 => false,
                other => panic!("{other}"),
            });
            slowest = slowest.max(killed.elapsed());
            is_over.store(true, Ordering::Relaxed);
            nodes.push(replica(sentinels[0].primary()));
        });
        let acknowledged = acknowledged.lock().expect("a list");
        let mut client = gateway.client();
        // Those of this turn, and in the end all.
        let first = if turn + 1 < turns { checked } else { 0 };
        checked = acknowledged.len();
        for jti in &acknowledged[first..] {
            let mut seen = client.send(get("/me/x", Some(&token(&json!({ "jti": jti }))))).status;
            if seen == 503 {
                until("it is known", || {
                    seen = status("/me/x", &token(&json!({ "jti": jti })));
                    seen != 503
                });
                client = Client::connect(gateway.address);
            }
            assert_eq!(seen, 401, "turn {turn}: {jti} is lost");
        }
        assert!(matches!(status("/money", &good), 200 | 503));
        drop(acknowledged);
        if turn + 1 < turns {
            // One failover may follow another: the new replica's primary may be a replica by now.
            until("there are two replicas again", || {
                let (primary, newest) = (sentinels[0].primary(), &nodes[nodes.len() - 1]);
                let follows = format!("master_port:{primary}\r\n");
                if newest.port != primary && !newest.command(&["INFO", "replication"]).contains(&follows) {
                    newest.command(&["REPLICAOF", "127.0.0.1", &primary.to_string()]);
                }
                is_whole(&nodes)
            });
        }
    }
    let count = acknowledged.lock().expect("a list").len();
    let rate = (turns * load) as f64 / loaded.as_secs_f64();
    println!(
        "{count} acknowledged revocations, {rate:.0} a second before each of {turns} primaries was killed, \
         served again after at most {slowest:?}"
    );
}

#[test]
fn a_gateway_follows_the_sentinels_and_believes_no_minority() {
    let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let other = replica(primary.port);
    let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(primary.port)).collect();
    until("the Sentinels know all", || sentinels.iter().all(|sentinel| sentinel.knows(1)));
    let upstream = Upstream::echo();
    // One of three that are named is not more than half.
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:1,127.0.0.1:2/shop", sentinels[0].port);
    let alone = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    until("it is told", || alone.lines().iter().any(|line| line.contains("more than half have to agree")));
    let good = token(&json!({ "jti": "good" }));
    assert_eq!(alone.get("/me/x", Some(&good)).status, 503);
    let hosts: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let url = format!("redis+sentinel://{}/shop", hosts.join(","));
    let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    let status = |path: &str| gateway.get(path, Some(&good)).status;
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(path) == 200);
    }
    // The old primary lives on, cut off from the Sentinels' world by their own decision.
    sentinels[0].ask(&["SENTINEL", "FAILOVER", "shop"]);
    until("another one leads", || sentinels.iter().all(|sentinel| sentinel.primary() == other.port));
    until("it leads", || other.command(&["INFO", "replication"]).contains("role:master"));
    other.command(&["SET", "blacklist:good", "1"]);
    for path in ["/me/x", "/money"] {
        until("it is refused", || status(path) == 401);
    }
}

// It answers, and knows of no revocation that came after it: whoever revokes has not waited for those who believe it.
#[test]
fn nobody_is_let_in_by_a_primary_that_was_left_behind() {
    let settings = ["--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"];
    let primary = Redis::start_with(&settings);
    let other = replica(primary.port);
    let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(primary.port)).collect();
    until("the Sentinels know all", || sentinels.iter().all(|sentinel| sentinel.knows(1)));
    let hosts: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let url = format!("redis+sentinel://{}/shop", hosts.join(","));
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    let good = token(&json!({ "jti": "good" }));
    let status = |path: &str| gateway.get(path, Some(&good)).status;
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(path) == 200);
    }
    // On its side of the network nobody hears of what is decided on the other one.
    for sentinel in &sentinels {
        signal(sentinel.child.id(), "STOP");
    }
    other.command(&["REPLICAOF", "NO", "ONE"]);
    other.command(&["SET", "blacklist:good", "1"]);
    for path in ["/me/x", "/money"] {
        until("it is not known any more", || status(path) == 503);
    }
    assert_eq!(primary.command(&["EXISTS", "blacklist:good"]), "0");
}

/// What says three times over that the primary is at this port, and says something else as soon as it is told to.
struct Words {
    ports: Vec<u16>,
    primary: std::sync::Arc<std::sync::atomic::AtomicU16>,
}

impl Words {
    fn begin(primary: u16) -> Self {
        let primary = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(primary));
        let ports = (0..3).map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let primary = std::sync::Arc::clone(&primary);
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let primary = std::sync::Arc::clone(&primary);
                    std::thread::spawn(move || answer(&client, &primary));
                }
            });
            port
        });
        Self { ports: ports.collect(), primary }
    }
}

fn answer(client: &std::net::TcpStream, primary: &std::sync::atomic::AtomicU16) -> Option<()> {
    use std::io::{BufRead, BufReader, Write};
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let mut to = client;
    loop {
        let words: usize = lines.next()?.strip_prefix('*')?.parse().ok()?;
        let command: Vec<String> = (0..words).map_while(|_| lines.next().and_then(|_| lines.next())).collect();
        let port = primary.load(Ordering::Relaxed).to_string();
        let said = match command.get(1)?.as_str() {
            "get-master-addr-by-name" => format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len()),
            _ => "+OK\r\n".to_owned(),
        };
        to.write_all(said.as_bytes()).ok()?;
    }
}

// Each worker asks the Sentinels for itself, once a second: one that has not heard yet is at the old primary, while the
// lease is at the new one and whoever revokes there waits for it.
#[test]
fn a_look_up_counts_only_where_the_lease_is() {
    let (old, new, upstream) = (Redis::start(), Redis::start(), Upstream::echo());
    let words = Words::begin(old.port);
    let hosts: Vec<String> = words.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let url = format!("redis+sentinel://{}/shop", hosts.join(","));
    let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
    for turn in 0..6 {
        let jti = format!("good-{turn}");
        let good = token(&json!({ "jti": jti }));
        let status = |path: &str| gateway.get(path, Some(&good)).status;
        for path in ["/me/x", "/money"] {
            until("it is taken", || status(path) == 200);
        }
        let (from, to) = if turn % 2 == 0 { (&old, &new) } else { (&new, &old) };
        to.command(&["SET", &format!("blacklist:{jti}"), "1"]);
        words.primary.store(to.port, Ordering::Relaxed);
        until("the lease is there", || to.command(&["HLEN", "bearward:leases"]) == "1");
        // Until each of them has heard.
        let mut refused = 0;
        until("it is refused for good", || {
            let said = status("/money");
            assert_ne!(said, 200, "turn {turn}");
            refused = if said == 401 { refused + 1 } else { 0 };
            refused == 50
        });
        from.command(&["FLUSHALL"]);
    }
}
