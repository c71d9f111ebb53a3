//! Redis Cluster: many primaries, each with some hash slots.
//!
//! 1. The map says where to ask; it is made of what primaries say of themselves ([`map`]). While it is
//!    not fresh nothing is known: a primary may have been replaced that does not know it.
//! 2. A look-up or a command goes to the primary that has its key. Where that one says that another
//!    knows (`MOVED`, `ASK` while a slot is on its way), that one is asked, twice at the most.
//! 3. Keys that nobody has, or whose primary is away, are `Unknown`; the others go on.

mod map;
mod nodes;
mod slots;
mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Cmd, Value};
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub(super) use self::map::{Map, Primary, Seen};
pub(super) use self::nodes::{Address, Line, Redirect, ask, own, redirect};
pub(super) use self::slots::{Slots, slot_of};
pub(super) use self::watcher::Watched;
use self::watcher::Watcher;
use super::RedisUrl;
use super::node::{Answer, Node};
use crate::clock;
use crate::store::{Page, Standing, StandingKeys, StoreError};

/// How often one look-up or command is sent on.
const REDIRECTS: usize = 2;

/// A way to each primary; the connections are held by its [`FleetDriver`].
#[derive(Clone)]
pub(super) struct Fleet {
    shared: Arc<Shared>,
    /// Ends the driver with the last user.
    _alive: mpsc::Sender<()>,
}

struct Shared {
    url: RedisUrl,
    limits: Limits,
    crew: ArcSwap<Crew>,
    watched: Watched,
}

/// How long what may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Of an answer.
    deadline: Duration,
    /// Of a map.
    max_staleness: Duration,
}

/// The ways, by where they lead.
#[derive(Default)]
struct Crew {
    seen: Seen,
    nodes: BTreeMap<Address, (Primary, Node)>,
    /// The addresses that have another name.
    named: BTreeMap<Address, Address>,
}

/// Has a way to each primary that the map names.
pub(super) struct FleetDriver {
    shared: Arc<Shared>,
    users: mpsc::Receiver<()>,
    probe: Option<Arc<StandingKeys>>,
    /// Who makes the map; one for all that share it.
    watcher: Option<Watcher>,
}

impl std::fmt::Debug for FleetDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetDriver").field("url", &self.shared.url).finish_non_exhaustive()
    }
}

impl Fleet {
    /// The way to a cluster, and what connects it.
    pub(super) fn new(
        url: RedisUrl,
        deadline: Duration,
        max_staleness: Duration,
        probe: Arc<StandingKeys>,
    ) -> (Self, FleetDriver) {
        let (watched, watcher) = Watcher::new(url.clone(), max_staleness / 4);
        Self::open(url, Limits { deadline, max_staleness }, watched, Some((probe, watcher)))
    }

    /// Another one, with connections of its own and the same map.
    pub(super) fn sibling(&self) -> (Self, FleetDriver) {
        let shared = &self.shared;
        Self::open(shared.url.clone(), shared.limits, shared.watched.clone(), None)
    }

    fn open(
        url: RedisUrl,
        limits: Limits,
        watched: Watched,
        first: Option<(Arc<StandingKeys>, Watcher)>,
    ) -> (Self, FleetDriver) {
        let (alive, users) = mpsc::channel(1);
        let shared = Arc::new(Shared { url, limits, crew: ArcSwap::default(), watched });
        let (probe, watcher) = first.unzip();
        let driver = FleetDriver { shared: Arc::clone(&shared), users, probe, watcher };
        (Self { shared, _alive: alive }, driver)
    }

    /// The map that it goes by.
    pub(super) fn watched(&self) -> &Watched {
        &self.shared.watched
    }

    /// Whether any primary is connected, and the map is fresh.
    pub(super) fn is_connected(&self) -> bool {
        let crew = self.shared.crew.load();
        self.is_fresh(&crew) && crew.nodes.values().any(|(_, node)| node.is_connected())
    }

    fn is_fresh(&self, crew: &Crew) -> bool {
        crew.seen.is_fresh(clock::monotonic(), self.shared.limits.max_staleness)
    }

    /// Whether every primary that is connected refuses look-ups.
    pub(super) fn is_refused(&self) -> bool {
        let crew = self.shared.crew.load();
        let mut connected = crew.nodes.values().filter(|(_, node)| node.is_connected()).peekable();
        connected.peek().is_some() && connected.all(|(_, node)| node.is_refused())
    }

    /// Asks for a token's standing, each key where it is.
    pub(super) async fn standing(&self, keys: &StandingKeys) -> Standing {
        if keys.is_empty() {
            return Standing::Unknown;
        }
        let crew = self.shared.crew.load_full();
        // All are on their way before the first is waited for.
        let asked: Vec<_> = keys.each().map(Arc::new).map(|key| (crew.ask(&key), key)).collect();
        let mut standing = Standing::Clear;
        for (wait, key) in asked {
            standing = standing.worse(self.follow(wait, &key).await);
        }
        // Who was asked may have been replaced; a key that is there kills in any case.
        let now = self.shared.crew.load();
        let mut names = keys.names();
        let is_sure =
            self.is_fresh(&now) && names.all(|name| now.seen.map.owner_of(name) == crew.seen.map.owner_of(name));
        if is_sure || standing == Standing::Revoked { standing } else { Standing::Unknown }
    }

    /// The answer for one key, wherever it is.
    async fn follow(&self, mut wait: Option<oneshot::Receiver<Answer>>, key: &Arc<StandingKeys>) -> Standing {
        for _ in 0..=REDIRECTS {
            let Some(answer) = wait else { break };
            match answer.await {
                Ok(Answer::Said(standing)) => return standing,
                Ok(Answer::Elsewhere(redirect)) => {
                    self.doubt(&redirect);
                    let node = redirect.address.as_ref().and_then(|address| self.node(address));
                    wait = node.and_then(|node| node.ask(key, redirect.is_asking));
                }
                Err(_) => break,
            }
        }
        Standing::Unknown
    }

    /// Sends a command about one key to who has it.
    pub(super) async fn command(&self, key: &str, command: Cmd) -> Result<Value, StoreError> {
        let crew = self.shared.crew.load_full();
        let mut node = crew.owner_of(key).cloned();
        let mut is_asking = false;
        for _ in 0..=REDIRECTS {
            let Some(there) = node else { return Err(StoreError::Away) };
            let said = there.command(command.clone(), is_asking).await?;
            let Some(redirect) = redirect(&said) else { return Ok(said) };
            self.doubt(&redirect);
            node = redirect.address.as_ref().and_then(|address| self.node(address));
            is_asking = redirect.is_asking;
        }
        Err(StoreError::Refused("sent on too often".to_owned()))
    }

    /// Which primary has a key, by the map that commands go by.
    pub(super) fn owner_of(&self, key: &str) -> Option<String> {
        self.shared.crew.load().seen.map.owner_of(key).map(|primary| primary.id.clone())
    }

    /// The same by what most primaries have said when they were asked at `moment` or later; nothing where they do not in
    /// time, or where nobody has it.
    pub(super) async fn owner_since(&self, key: &str, moment: Instant) -> Option<String> {
        let mut watched = self.shared.watched.clone();
        let seen = async {
            loop {
                let seen = watched.seen();
                if seen.at.is_some_and(|at| at >= moment) {
                    return seen.map.owner_of(key).map(|primary| primary.id.clone());
                }
                watched.hurry();
                watched.next().await?;
            }
        };
        timeout(self.shared.limits.max_staleness + self.shared.limits.deadline, seen).await.ok()?
    }

    /// One step of a scan over all keys of all primaries; `after` is `cursor@host:port`. Keys whose slot
    /// moves meanwhile may be there twice, or not.
    pub(super) async fn list(
        &self,
        after: &str,
        scan: impl Fn(&str) -> Cmd,
        read: impl Fn(Value) -> Result<Page, StoreError>,
    ) -> Result<Page, StoreError> {
        let crew = self.shared.crew.load_full();
        let (cursor, from) = after.split_once('@').map_or(("", None), |(cursor, at)| (cursor, Address::parse(at)));
        let at = |from: &Address| crew.nodes.get_key_value(from);
        let (address, (_, node)) =
            from.as_ref().map_or_else(|| crew.nodes.first_key_value(), at).ok_or(StoreError::Away)?;
        let page = read(node.command(scan(cursor), false).await?)?;
        let beyond = || crew.nodes.keys().find(|next| *next > address).map(|next| format!("0@{next}"));
        let next = page.next.map_or_else(beyond, |cursor| Some(format!("{cursor}@{address}")));
        Ok(Page { keys: page.keys, next })
    }

    /// Where the key is.
    pub(super) fn url_of(&self, key: &str) -> Option<RedisUrl> {
        self.shared.watched.map().owner_of(key).map(|primary| self.shared.url.node(&primary.address))
    }

    /// A node, by where it is.
    pub(super) fn url_at(&self, address: &Address) -> RedisUrl {
        self.shared.url.node(address)
    }

    /// Whether a primary is there now.
    pub(super) fn has(&self, place: &str) -> bool {
        self.shared.crew.load().nodes.keys().any(|address| address.to_string() == place)
    }

    /// An answer did not fit the map; of a slot that is on its way it does not have to.
    pub(super) fn doubt(&self, redirect: &Redirect) {
        if !redirect.is_asking {
            self.shared.watched.hurry();
        }
    }

    fn node(&self, address: &Address) -> Option<Node> {
        let crew = self.shared.crew.load();
        let address = crew.named.get(address).unwrap_or(address);
        crew.nodes.get(address).map(|(_, node)| node.clone())
    }
}

impl Seen {
    /// Whether what primaries say counts.
    pub(super) fn is_fresh(&self, now: Instant, max_staleness: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) <= max_staleness)
    }
}

impl Crew {
    fn owner_of(&self, key: &str) -> Option<&Node> {
        self.nodes.get(&self.seen.map.owner_of(key)?.address).map(|(_, node)| node)
    }

    /// Asks for one key where it is.
    fn ask(&self, key: &Arc<StandingKeys>) -> Option<oneshot::Receiver<Answer>> {
        let name = key.names().next()?;
        self.owner_of(name)?.ask(key, false)
    }
}

impl FleetDriver {
    /// Keeps ways to all primaries until every user is gone.
    pub(super) async fn run(mut self) {
        if let Some(watcher) = self.watcher.take() {
            tokio::spawn(watcher.run());
        }
        let mut watched = self.shared.watched.clone();
        self.man(Seen { map: watched.map(), at: None });
        loop {
            tokio::select! {
                next = watched.next() => match next {
                    Some(seen) => self.man(seen),
                    None => return,
                },
                _ = self.users.recv() => return,
            }
        }
    }

    /// New primaries get a way; that of one that is none any more ends with its last user.
    fn man(&self, seen: Seen) {
        let before = self.shared.crew.load_full();
        let all = || seen.map.primaries.iter().chain(&seen.map.spares);
        let nodes = all().map(|primary| {
            let known = before.nodes.get(&primary.address).filter(|(known, _)| known.id == primary.id);
            let node = known.map_or_else(|| self.open(primary), |(_, node)| node.clone());
            (primary.address.clone(), (primary.clone(), node))
        });
        let nodes = nodes.collect();
        let named = all().filter_map(|primary| Some((primary.named.clone()?, primary.address.clone()))).collect();
        self.shared.crew.store(Arc::new(Crew { seen, nodes, named }));
    }

    fn open(&self, primary: &Primary) -> Node {
        let url = self.shared.url.node(&primary.address).with_id(&primary.id);
        let (node, driver) = Node::new(url, self.shared.limits.deadline, self.probe.clone());
        tokio::spawn(driver.run());
        node
    }
}

/// Whether an error says only that the key is not here: it is elsewhere, or nowhere.
pub(super) fn is_elsewhere(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    match error.code() {
        "MOVED" | "ASK" | "TRYAGAIN" => true,
        // The other reason is that the cluster is down, and that is about all keys.
        "CLUSTERDOWN" => error.details() == Some("Hash slot not served"),
        _ => false,
    }
}

/// Whether this is the node that is meant.
pub(super) fn check_id(own: &Line, id: &str) -> Result<(), String> {
    if own.id == id { Ok(()) } else { Err("another node answers at its address".to_owned()) }
}
