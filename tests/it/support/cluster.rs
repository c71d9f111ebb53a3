//! A real Redis Cluster of child processes.

use std::net::TcpListener;

use super::redis::Redis;
use super::until;

const SLOTS: usize = 16_384;

/// A cluster of this test alone; dropping it ends it.
pub struct Cluster {
    /// The primaries first, each with an even share of the slots in their order, then their replicas.
    pub nodes: Vec<Redis>,
}

fn node() -> Redis {
    node_on(None)
}

/// A node, at a port of its own or at this one.
pub fn node_on(port: Option<u16>) -> Redis {
    let bus = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let bus = bus.to_string();
    let settings = [
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "1000",
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ];
    match port {
        Some(port) => Redis::start_on_with(port, &settings),
        None => Redis::start_with(&settings),
    }
}

impl Cluster {
    pub fn start(primaries: usize, replicas: usize) -> Self {
        Self::start_with_spare(primaries, replicas, 0)
    }

    /// The same with primaries that have no slots, after all others.
    pub fn start_with_spare(primaries: usize, replicas: usize, spares: usize) -> Self {
        let nodes: Vec<Redis> = (0..primaries * (1 + replicas) + spares).map(|_| node()).collect();
        let share = SLOTS.div_ceil(primaries);
        for (place, node) in nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
            if place < primaries {
                let (first, last) = (place * share, ((place + 1) * share).min(SLOTS) - 1);
                node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
            let bus = node.command(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().nth(1).expect("a port");
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let cluster = Self { nodes };
        let all = format!("cluster_known_nodes:{}\r\n", cluster.nodes.len());
        let knows = |node: &Redis| {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains(&all) && info.contains("cluster_slots_assigned:16384")
        };
        until("the nodes know each other", || cluster.nodes.iter().all(knows));
        for (place, node) in cluster.nodes.iter().enumerate().take(primaries * (1 + replicas)).skip(primaries) {
            let id = cluster.nodes[place % primaries].command(&["CLUSTER", "MYID"]);
            until("it follows", || node.command(&["CLUSTER", "REPLICATE", &id]) == "OK");
        }
        until("replicas are at their primaries' side", || {
            let online = |node: &Redis| node.command(&["INFO", "replication"]).matches("state=online").count();
            cluster.nodes[..primaries].iter().all(|node| online(node) == replicas)
                && cluster.nodes.iter().all(|node| {
                    node.command(&["CLUSTER", "NODES"]).matches(" slave ").count()
                        + node.command(&["CLUSTER", "NODES"]).matches("myself,slave").count()
                        == primaries * replicas
                })
        });
        cluster
    }

    /// The name of a node.
    pub fn id(&self, place: usize) -> String {
        self.nodes[place].command(&["CLUSTER", "MYID"])
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    pub fn slot(&self, key: &str) -> usize {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
    }

    /// A name that makes `key` lie in the slots that the primary at `place` was given.
    pub fn name_at(&self, place: usize, primaries: usize, key: impl Fn(&str) -> String) -> String {
        let share = SLOTS.div_ceil(primaries);
        let fits = |name: &String| self.slot(&key(name)) / share == place;
        (0..1000).map(|number| format!("n-{number}")).find(fits).expect("one of a thousand")
    }

    /// Runs a command as a client of the cluster does, wherever its key is.
    pub fn command(&self, arguments: &[&str]) -> String {
        let mut words = vec!["-c"];
        words.extend(arguments);
        self.nodes[0].command(&words)
    }

    /// Begins to move a slot.
    pub fn open(&self, slot: usize, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let (source, target) = (from.command(&["CLUSTER", "MYID"]), to.command(&["CLUSTER", "MYID"]));
        let slot = slot.to_string();
        assert_eq!(to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]), "OK");
        assert_eq!(from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]), "OK");
    }

    /// Moves what is in an open slot.
    pub fn move_keys(&self, slot: usize, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        loop {
            let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                return;
            }
            let port = to.port.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys);
            let said = from.command(&words);
            assert!(said == "OK" || said == "NOKEY", "{said}");
        }
    }

    /// Ends the move of a slot.
    pub fn close(&self, slot: usize, from: usize, to: usize) {
        let target = self.nodes[to].command(&["CLUSTER", "MYID"]);
        for place in [to, from] {
            let said = self.nodes[place].command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &target]);
            assert_eq!(said, "OK");
        }
    }
}
