//! Which primary has which hash slot: where to ask.
//!
//! 1. A slot belongs to the primary that claims it for itself; of several to the one with the highest
//!    epoch, and to nobody where two have the same.
//! 2. A claim stays until its node takes it back, is forgotten by the others, or is outbid: a primary
//!    that is silent for a moment is still the one to ask.
//!
//! What it does not do: say what may be believed. A map may be old, and costs a redirect or a refusal
//! then; whether an answer counts is seen on the connection that gave it (`tracking`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::nodes::{self, Address, Line};
use super::slots::{COUNT, Slots, slot_of};
use crate::store::redis::{RedisUrl, reason};

/// How often the nodes are asked.
const LOOK: Duration = Duration::from_millis(500);
/// The same where somebody doubts the map.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Longest wait for one node.
const ANSWER: Duration = Duration::from_millis(500);

/// Which primary has which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store::redis) struct Map {
    /// Those that have slots.
    pub(in crate::store::redis) primaries: Vec<Primary>,
    /// For each slot the place of its primary; nothing where nobody has it. Empty for an empty map.
    owners: Vec<Option<u16>>,
}

/// A primary that has slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::store::redis) struct Primary {
    pub(in crate::store::redis) id: String,
    pub(in crate::store::redis) address: Address,
}

/// What a primary says it has.
struct Claim {
    address: Address,
    epoch: u64,
    slots: Slots,
}

impl Map {
    /// The place in `primaries` of the one that has the key.
    pub(in crate::store::redis) fn place_of(&self, key: &str) -> Option<usize> {
        self.owners.get(usize::from(slot_of(key))).copied().flatten().map(usize::from)
    }

    /// Where the key is.
    pub(in crate::store::redis) fn address_of(&self, key: &str) -> Option<&Address> {
        self.primaries.get(self.place_of(key)?).map(|primary| &primary.address)
    }

    /// How many slots nobody has.
    fn orphans(&self) -> usize {
        usize::from(COUNT) - self.owners.iter().flatten().count()
    }

    fn of(claims: &BTreeMap<String, Claim>) -> Self {
        let winner = |slot: u16| {
            let claimed = || claims.iter().filter(|(_, claim)| claim.slots.contains(slot));
            let epoch = claimed().map(|(_, claim)| claim.epoch).max()?;
            let mut best = claimed().filter(|(_, claim)| claim.epoch == epoch);
            best.next().filter(|_| best.next().is_none())
        };
        let mut map = Self::default();
        for slot in 0..COUNT {
            let place = winner(slot).and_then(|(id, claim)| {
                let known = map.primaries.iter().position(|primary| primary.id == *id);
                let place = known.unwrap_or_else(|| {
                    map.primaries.push(Primary { id: id.clone(), address: claim.address.clone() });
                    map.primaries.len() - 1
                });
                u16::try_from(place).ok()
            });
            map.owners.push(place);
        }
        map
    }
}

/// The map as it is now; shared by all who ask.
#[derive(Clone, Debug)]
pub(in crate::store::redis) struct Watched {
    map: watch::Receiver<Arc<Map>>,
    doubt: Arc<Notify>,
}

impl Watched {
    pub(in crate::store::redis) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.borrow())
    }

    /// Has the nodes asked soon: an answer did not fit the map.
    pub(in crate::store::redis) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The next map; nothing when there will be none.
    pub(in crate::store::redis) async fn next(&mut self) -> Option<Arc<Map>> {
        self.map.changed().await.ok()?;
        Some(Arc::clone(&self.map.borrow_and_update()))
    }
}

/// Asks the nodes time and again who has what.
pub(in crate::store::redis) struct Watcher {
    url: RedisUrl,
    publish: watch::Sender<Arc<Map>>,
    doubt: Arc<Notify>,
    known: BTreeSet<Address>,
    connections: BTreeMap<Address, MultiplexedConnection>,
    claims: BTreeMap<String, Claim>,
    /// Why nothing is known, as it was told to the log.
    told: Option<String>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches the cluster that these nodes are of.
    pub(super) fn new(url: RedisUrl) -> (Watched, Self) {
        let (publish, map) = watch::channel(Arc::default());
        let doubt = Arc::new(Notify::new());
        let watched = Watched { map, doubt: Arc::clone(&doubt) };
        let watcher = Self {
            url,
            publish,
            doubt,
            known: BTreeSet::new(),
            connections: BTreeMap::new(),
            claims: BTreeMap::new(),
            told: None,
        };
        (watched, watcher)
    }

    /// Watches until nobody wants the map any more.
    pub(super) async fn run(mut self) {
        loop {
            let before = self.known.clone();
            self.look().await;
            // Nodes that were heard of are asked at once.
            if self.known.is_subset(&before) || self.known.is_empty() {
                tokio::select! {
                    () = sleep(LOOK) => {}
                    () = self.doubt.notified() => sleep(LOOK_SOON).await,
                    () = self.publish.closed() => return,
                }
            }
            if self.publish.is_closed() {
                return;
            }
        }
    }

    /// Asks everybody once.
    async fn look(&mut self) {
        let seeds = self.url.seeds().unwrap_or_default();
        let asked = if self.known.is_empty() { seeds.iter().cloned().collect() } else { self.known.clone() };
        let mut asking = JoinSet::new();
        for address in asked {
            let connection = self.connections.remove(&address);
            asking.spawn(ask(self.url.node(&address), address, connection));
        }
        let (mut listed, mut heard, mut why) = (BTreeSet::new(), BTreeSet::new(), None);
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok(Ok((address, connection, lines))) => {
                    self.connections.insert(address.clone(), connection);
                    listed.extend(lines.iter().map(|line| line.id.clone()));
                    let primaries = lines.iter().filter(|line| line.is_primary && !line.slots.is_empty());
                    heard.extend(primaries.filter_map(|line| line.address.clone()));
                    let own = lines.into_iter().find(|line| line.is_own);
                    heard.extend(own.and_then(|own| self.claim(own, &address)));
                    self.publish();
                }
                Ok(Err(reason)) => why = Some(reason),
                Err(_) => {}
            }
        }
        if listed.is_empty() {
            // Whoever was known may have moved all together: back to the beginning.
            self.known.clear();
        } else {
            self.claims.retain(|id, _| listed.contains(id));
            self.publish();
            self.known = heard;
            self.connections.retain(|address, _| self.known.contains(address));
        }
        self.tell(why.filter(|_| listed.is_empty()));
    }

    /// Takes what a node says of itself; where it is, if it is a primary.
    fn claim(&mut self, line: Line, asked: &Address) -> Option<Address> {
        if !line.is_primary || line.slots.is_empty() {
            self.claims.remove(&line.id);
            return None;
        }
        let address = line.address.unwrap_or_else(|| asked.clone());
        self.claims.insert(line.id, Claim { address: address.clone(), epoch: line.epoch, slots: line.slots });
        Some(address)
    }

    fn publish(&self) {
        let map = Arc::new(Map::of(&self.claims));
        self.publish.send_if_modified(|known| {
            let is_new = **known != *map;
            if is_new {
                let (primaries, orphans) = (map.primaries.len(), map.orphans());
                tracing::info!(store = %self.url, primaries, slots_without_primary = orphans, "the cluster's slots are known");
                *known = map;
            }
            is_new
        });
    }

    /// Says once why nobody answers.
    fn tell(&mut self, why: Option<String>) {
        if let Some(reason) = &why
            && self.told.is_none()
        {
            tracing::error!(store = %self.url, reason, "no node of the cluster says who has what");
        }
        self.told = why;
    }
}

/// What one node says, and the connection for the next time.
async fn ask(
    url: RedisUrl,
    address: Address,
    connection: Option<MultiplexedConnection>,
) -> Result<(Address, MultiplexedConnection, Vec<Line>), String> {
    let attempt = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => connect(&url).await?,
        };
        let said = connection.send_packed_command(&nodes::ask()).await;
        let said = said.map_err(|error| reason(&error))?;
        Ok::<_, String>((connection, nodes::read(Some(&said))?))
    };
    let (connection, lines) = timeout(ANSWER, attempt).await.map_err(|_| "no answer in time".to_owned())??;
    Ok((address, connection, lines))
}

async fn connect(url: &RedisUrl) -> Result<MultiplexedConnection, String> {
    let client = Client::open(url.primary().await?).map_err(|error| reason(&error))?;
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| reason(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(all: &[(&str, u64, std::ops::Range<u16>)]) -> BTreeMap<String, Claim> {
        let claim = |(id, epoch, range): &(&str, u64, std::ops::Range<u16>)| {
            let mut slots = Slots::new();
            range.clone().for_each(|slot| slots.insert(slot));
            let address = Address { host: (*id).to_owned(), port: 1 };
            ((*id).to_owned(), Claim { address, epoch: *epoch, slots })
        };
        all.iter().map(claim).collect()
    }

    #[test]
    fn the_highest_epoch_has_the_slot_and_nobody_where_two_have_the_same() {
        let map = Map::of(&claims(&[("a", 1, 0..100), ("b", 2, 50..200), ("c", 2, 150..300), ("d", 0, 0..10)]));
        let owner =
            |slot: u16| map.owners[usize::from(slot)].map(|place| map.primaries[usize::from(place)].id.as_str());
        let told = [0, 49, 50, 149, 150, 199, 200, 299, 300].map(owner);
        let (a, b, c) = (Some("a"), Some("b"), Some("c"));
        assert_eq!(told, [a, a, b, b, None, None, c, c, None]);
        assert_eq!(map.primaries.len(), 3, "`d` has nothing");
        assert_eq!(Map::default().place_of("x"), None);
    }
}
