//! Redis Cluster: many primaries, each with some hash slots.
//!
//! 1. The map says where to ask; it is made of what primaries say of themselves ([`map`]).
//! 2. A look-up or a command goes to the primary that has its key. Where that one says that another
//!    knows (`MOVED`, `ASK` while a slot is on its way), that one is asked, twice at the most.
//! 3. Keys that nobody has, or whose primary is away, are `Unknown`; the others go on.

mod map;
mod nodes;
mod slots;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, Value};
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

pub(super) use self::map::{Map, Primary, Watched, Watcher};
pub(super) use self::nodes::{Address, Redirect, ask, own, redirect};
pub(super) use self::slots::{Slots, slot_of};
use super::node::{Answer, Node};
use super::{RedisUrl, code};
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
    deadline: Duration,
    crew: ArcSwap<Crew>,
    watched: Watched,
}

/// The ways, by where they lead.
#[derive(Default)]
struct Crew {
    map: Arc<Map>,
    nodes: BTreeMap<Address, Node>,
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
    pub(super) fn new(url: RedisUrl, deadline: Duration, probe: Arc<StandingKeys>) -> (Self, FleetDriver) {
        let (watched, watcher) = Watcher::new(url.clone());
        Self::open(url, deadline, watched, Some(probe), Some(watcher))
    }

    /// Another one, with connections of its own and the same map.
    pub(super) fn sibling(&self) -> (Self, FleetDriver) {
        let shared = &self.shared;
        Self::open(shared.url.clone(), shared.deadline, shared.watched.clone(), None, None)
    }

    fn open(
        url: RedisUrl,
        deadline: Duration,
        watched: Watched,
        probe: Option<Arc<StandingKeys>>,
        watcher: Option<Watcher>,
    ) -> (Self, FleetDriver) {
        let (alive, users) = mpsc::channel(1);
        let shared = Arc::new(Shared { url, deadline, crew: ArcSwap::default(), watched });
        let driver = FleetDriver { shared: Arc::clone(&shared), users, probe, watcher };
        (Self { shared, _alive: alive }, driver)
    }

    /// The map that it goes by.
    pub(super) fn watched(&self) -> &Watched {
        &self.shared.watched
    }

    /// Whether any primary is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.shared.crew.load().nodes.values().any(Node::is_connected)
    }

    /// Whether every primary that is connected refuses look-ups.
    pub(super) fn is_refused(&self) -> bool {
        let crew = self.shared.crew.load();
        let mut connected = crew.nodes.values().filter(|node| node.is_connected()).peekable();
        connected.peek().is_some() && connected.all(Node::is_refused)
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
        standing
    }

    /// The answer for one key, wherever it is.
    async fn follow(&self, mut wait: Option<oneshot::Receiver<Answer>>, key: &Arc<StandingKeys>) -> Standing {
        for _ in 0..=REDIRECTS {
            let Some(answer) = wait else { break };
            match answer.await {
                Ok(Answer::Said(standing)) => return standing,
                Ok(Answer::Elsewhere(redirect)) => {
                    self.shared.watched.doubt();
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
        let mut node = crew.map.address_of(key).and_then(|address| crew.nodes.get(address)).cloned();
        let mut is_asking = false;
        for _ in 0..=REDIRECTS {
            let Some(there) = node else { return Err(StoreError::Away) };
            let said = there.command(command.clone(), is_asking).await?;
            let Some(redirect) = redirect(&said) else { return Ok(said) };
            self.shared.watched.doubt();
            node = redirect.address.as_ref().and_then(|address| self.node(address));
            is_asking = redirect.is_asking;
        }
        Err(StoreError::Refused("sent on too often".to_owned()))
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
        let (address, node) = from.as_ref().map_or_else(|| crew.nodes.first_key_value(), at).ok_or(StoreError::Away)?;
        let page = read(node.command(scan(cursor), false).await?)?;
        let beyond = || crew.nodes.keys().find(|next| *next > address).map(|next| format!("0@{next}"));
        let next = page.next.map_or_else(beyond, |cursor| Some(format!("{cursor}@{address}")));
        Ok(Page { keys: page.keys, next })
    }

    /// Where the key is.
    pub(super) fn url_of(&self, key: &str) -> Option<RedisUrl> {
        self.shared.watched.map().address_of(key).map(|address| self.shared.url.node(address))
    }

    /// A node, by where it is.
    pub(super) fn url_at(&self, address: &Address) -> RedisUrl {
        self.shared.url.node(address)
    }

    fn node(&self, address: &Address) -> Option<Node> {
        self.shared.crew.load().nodes.get(address).cloned()
    }
}

impl Crew {
    /// Asks for one key where it is.
    fn ask(&self, key: &Arc<StandingKeys>) -> Option<oneshot::Receiver<Answer>> {
        let name = key.present.first().or_else(|| key.times.first())?;
        self.nodes.get(self.map.address_of(name)?)?.ask(key, false)
    }
}

impl FleetDriver {
    /// Keeps ways to all primaries until every user is gone.
    pub(super) async fn run(mut self) {
        if let Some(watcher) = self.watcher.take() {
            tokio::spawn(watcher.run());
        }
        let mut watched = self.shared.watched.clone();
        let mut map = watched.map();
        loop {
            self.man(map);
            map = tokio::select! {
                next = watched.next() => match next {
                    Some(map) => map,
                    None => return,
                },
                _ = self.users.recv() => return,
            };
        }
    }

    /// New primaries get a way; that of one that is none any more ends with its last user.
    fn man(&self, map: Arc<Map>) {
        let before = self.shared.crew.load_full();
        let nodes = map.primaries.iter().map(|Primary { address, .. }| {
            let node = before.nodes.get(address).cloned().unwrap_or_else(|| {
                let url = self.shared.url.node(address);
                let (node, driver) = Node::new(url, self.shared.deadline, self.probe.clone());
                tokio::spawn(driver.run());
                node
            });
            (address.clone(), node)
        });
        let nodes = nodes.collect();
        self.shared.crew.store(Arc::new(Crew { map, nodes }));
    }
}

/// Whether an error says only that the key is not here.
pub(super) fn is_elsewhere(reply: &Value) -> bool {
    code(reply).is_some_and(|code| matches!(code.as_str(), "MOVED" | "ASK" | "TRYAGAIN"))
}
