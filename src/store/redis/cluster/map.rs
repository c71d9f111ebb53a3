//! Which primary has which hash slot.
//!
//! 1. A slot belongs to the primary that claims it for itself; of several to the one with the highest
//!    epoch, and to nobody where two have the same, or where others say that a node with a higher one has
//!    it and that node has not said so itself.
//! 2. All nodes are asked, replicas too: one that has taken over says so first. One that is silent keeps
//!    what it claimed; what it may have lost meanwhile, the others say.
//! 3. A map says how fresh it is: at which moment most primaries were asked that have answered. A
//!    primary that was cut off from the others goes on for a while as if it had not lost its slots, so
//!    what it says counts only as long as the map does.
//! 4. Only nodes that the others know are believed: an address may be somebody else's by now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::nodes::{self, Address, Line};
use super::slots::{COUNT, Slots, slot_of};
use crate::clock;
use crate::store::redis::{RedisUrl, reason};

/// Shortest time between two questions to one node.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Longest wait for one node.
const ANSWER: Duration = Duration::from_millis(500);
/// How long nobody that is known may answer before the seeds are believed again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);

/// Which primary has which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store::redis) struct Map {
    /// Those that have slots.
    pub(in crate::store::redis) primaries: Vec<Primary>,
    /// Primaries that have none: slots may be on their way to them.
    pub(in crate::store::redis) spares: Vec<Primary>,
    /// For each slot the place of its primary; nothing where nobody has it. Empty for an empty map.
    owners: Vec<Option<u16>>,
}

/// A map, and how fresh it is.
#[derive(Clone, Debug, Default)]
pub(in crate::store::redis) struct Seen {
    pub(in crate::store::redis) map: Arc<Map>,
    /// Most of its primaries have answered what they were asked at this moment or later.
    pub(in crate::store::redis) at: Option<Instant>,
}

/// A primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::store::redis) struct Primary {
    pub(in crate::store::redis) id: String,
    pub(in crate::store::redis) address: Address,
    /// The same with its host's name.
    pub(in crate::store::redis) named: Option<Address>,
}

/// What a primary says it has.
struct Claim {
    primary: Primary,
    epoch: u64,
    slots: Slots,
}

/// What others say that a node has.
struct Rumour {
    epoch: u64,
    slots: Slots,
}

impl Map {
    /// The place in `primaries` of the one that has the key.
    pub(in crate::store::redis) fn place_of(&self, key: &str) -> Option<usize> {
        self.owners.get(usize::from(slot_of(key))).copied().flatten().map(usize::from)
    }

    /// Who has the key.
    pub(in crate::store::redis) fn owner_of(&self, key: &str) -> Option<&Primary> {
        self.primaries.get(self.place_of(key)?)
    }

    /// How many slots nobody has.
    fn orphans(&self) -> usize {
        usize::from(COUNT) - self.owners.iter().flatten().count()
    }

    fn of(claims: &BTreeMap<String, Claim>, rumours: &BTreeMap<String, Rumour>) -> Self {
        let winner = |slot: u16| {
            let claimed = || claims.values().filter(|claim| claim.slots.contains(slot));
            let epoch = claimed().map(|claim| claim.epoch).max()?;
            let mut best = claimed().filter(|claim| claim.epoch == epoch);
            let winner = best.next().filter(|_| best.next().is_none())?;
            let is_outbid = |(id, rumour): (&String, &Rumour)| {
                *id != winner.primary.id && rumour.epoch > epoch && rumour.slots.contains(slot)
            };
            (!rumours.iter().any(is_outbid)).then_some(winner)
        };
        let mut map = Self::default();
        for slot in 0..COUNT {
            let place = winner(slot).and_then(|claim| {
                let known = map.primaries.iter().position(|primary| *primary == claim.primary);
                let place = known.unwrap_or_else(|| {
                    map.primaries.push(claim.primary.clone());
                    map.primaries.len() - 1
                });
                u16::try_from(place).ok()
            });
            map.owners.push(place);
        }
        let spare = claims.values().map(|claim| &claim.primary).filter(|primary| !map.primaries.contains(primary));
        map.spares = spare.cloned().collect();
        map
    }
}

/// The map as it is now; shared by all who ask.
#[derive(Clone, Debug)]
pub(in crate::store::redis) struct Watched {
    seen: watch::Receiver<Seen>,
    hurry: Arc<watch::Sender<()>>,
}

impl Watched {
    pub(in crate::store::redis) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.seen.borrow().map)
    }

    /// Has the nodes asked soon.
    pub(in crate::store::redis) fn hurry(&self) {
        self.hurry.send_replace(());
    }

    /// What is seen next, a newer map or the same still; nothing when there will be none.
    pub(in crate::store::redis) async fn next(&mut self) -> Option<Seen> {
        self.seen.changed().await.ok()?;
        Some(self.seen.borrow_and_update().clone())
    }
}

/// Asks the nodes time and again who has what.
pub(in crate::store::redis) struct Watcher {
    url: RedisUrl,
    look: Duration,
    publish: watch::Sender<Seen>,
    hurry: Arc<watch::Sender<()>>,
    /// A task for each node that is asked.
    asking: BTreeMap<Address, JoinSet<()>>,
    /// Who has said which nodes there are.
    listed: BTreeMap<String, Vec<(String, Option<Address>)>>,
    claims: BTreeMap<String, Claim>,
    rumours: BTreeMap<String, Rumour>,
    /// When each node was asked what it has answered last.
    answered: BTreeMap<String, Instant>,
    /// Whether it was told to the log that nobody answers.
    is_told: bool,
}

/// What one node said, and when it was asked.
struct Answer {
    address: Address,
    sent: Instant,
    said: Result<Vec<Line>, String>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches the cluster that these nodes are of, looking every `look`.
    pub(super) fn new(url: RedisUrl, look: Duration) -> (Watched, Self) {
        let (publish, seen) = watch::channel(Seen::default());
        let hurry = Arc::new(watch::Sender::new(()));
        let watched = Watched { seen, hurry: Arc::clone(&hurry) };
        let watcher = Self {
            url,
            look,
            publish,
            hurry,
            asking: BTreeMap::new(),
            listed: BTreeMap::new(),
            claims: BTreeMap::new(),
            rumours: BTreeMap::new(),
            answered: BTreeMap::new(),
            is_told: false,
        };
        (watched, watcher)
    }

    /// Watches until nobody wants the map any more.
    pub(super) async fn run(mut self) {
        let (answers, mut inbox) = mpsc::channel(64);
        let mut heard_at = clock::monotonic();
        loop {
            self.ask_all(&answers);
            let answer = tokio::select! {
                answer = inbox.recv() => answer,
                () = self.publish.closed() => return,
            };
            let Some(Answer { address, sent, said }) = answer else { return };
            match said {
                Ok(lines) => {
                    if self.take(lines, &address, sent) {
                        (heard_at, self.is_told) = (clock::monotonic(), false);
                    }
                }
                Err(reason) => self.tell(heard_at, &reason),
            }
            if clock::monotonic().saturating_duration_since(heard_at) > BEGIN_AGAIN {
                // Who was known is gone: the seeds say who there is.
                self.listed.clear();
                heard_at = clock::monotonic();
            }
        }
    }

    /// Has a task for each node that is known, or for the seeds.
    fn ask_all(&mut self, answers: &mpsc::Sender<Answer>) {
        let known = self.listed.values().flatten().filter_map(|(_, address)| address.clone());
        let mut wanted: BTreeSet<Address> = known.collect();
        if wanted.is_empty() {
            wanted.extend(self.url.seeds().unwrap_or_default().iter().cloned());
        }
        self.asking.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if !self.asking.contains_key(&address) {
                let asking = ask_on(
                    self.url.node(&address),
                    address.clone(),
                    self.look,
                    answers.clone(),
                    self.hurry.subscribe(),
                );
                let mut task = JoinSet::new();
                task.spawn(asking);
                self.asking.insert(address, task);
            }
        }
    }

    /// Takes what a node says, if it is one of those that are known; `false` where it is not.
    fn take(&mut self, lines: Vec<Line>, asked: &Address, sent: Instant) -> bool {
        let Some(own) = lines.iter().find(|line| line.is_own) else { return false };
        let is_known = self.listed.is_empty() || self.listed.values().flatten().any(|(id, _)| *id == own.id);
        if !is_known {
            return false;
        }
        let place = own.address.clone().unwrap_or_else(|| asked.clone());
        let id = own.id.clone();
        let listed = lines.iter().map(|line| {
            let address =
                if line.is_own { Some(place.clone()) } else { line.address.clone().filter(|_| !line.is_away) };
            (line.id.clone(), address)
        });
        self.listed.insert(id.clone(), listed.collect());
        self.answered.insert(id, sent);
        for line in lines {
            if line.is_own {
                self.claim(line, &place);
            } else if line.is_primary && self.rumours.get(&line.id).is_none_or(|known| known.epoch <= line.epoch) {
                self.rumours.insert(line.id, Rumour { epoch: line.epoch, slots: line.slots });
            }
        }
        // Who is not listed by anybody was forgotten.
        let ids: BTreeSet<String> = self.listed.values().flatten().map(|(id, _)| id.clone()).collect();
        self.listed.retain(|id, _| ids.contains(id));
        self.claims.retain(|id, _| ids.contains(id));
        self.rumours.retain(|id, _| ids.contains(id));
        self.answered.retain(|id, _| ids.contains(id));
        self.publish();
        true
    }

    /// Takes what a node says of itself.
    fn claim(&mut self, line: Line, place: &Address) {
        // What others said of it before, it knows better.
        self.rumours.remove(&line.id);
        if !line.is_primary {
            self.claims.remove(&line.id);
            return;
        }
        let primary = Primary { id: line.id.clone(), address: place.clone(), named: line.named };
        self.claims.insert(line.id, Claim { primary, epoch: line.epoch, slots: line.slots });
    }

    fn publish(&self) {
        let map = Map::of(&self.claims, &self.rumours);
        // The moment since which more than half of them have been asked.
        let mut asked: Vec<Instant> =
            map.primaries.iter().filter_map(|primary| self.answered.get(&primary.id).copied()).collect();
        asked.sort_unstable_by(|one, other| other.cmp(one));
        let at = asked.get(map.primaries.len() / 2).copied();
        self.publish.send_if_modified(|seen| {
            let is_same = *seen.map == map;
            if is_same && seen.at == at {
                return false;
            }
            let shape = |map: &Map| (map.primaries.len(), map.orphans());
            let (primaries, orphans) = shape(&map);
            if shape(&seen.map) != (primaries, orphans) {
                tracing::info!(store = %self.url, primaries, slots_without_primary = orphans, "the cluster's slots are known");
            }
            seen.at = at;
            if !is_same {
                seen.map = Arc::new(map);
            }
            true
        });
    }

    /// Says once why nobody answers.
    fn tell(&mut self, heard_at: Instant, reason: &str) {
        let is_silent = self.listed.is_empty() || clock::monotonic().saturating_duration_since(heard_at) > ANSWER * 2;
        if is_silent && !self.is_told {
            tracing::error!(store = %self.url, reason, "no node of the cluster says who has what");
            self.is_told = true;
        }
    }
}

/// Asks one node time and again.
async fn ask_on(
    url: RedisUrl,
    address: Address,
    look: Duration,
    answers: mpsc::Sender<Answer>,
    mut hurry: watch::Receiver<()>,
) {
    let mut connection = None;
    loop {
        hurry.borrow_and_update();
        let sent = clock::monotonic();
        let said = timeout(ANSWER, ask(&url, &mut connection)).await;
        let said = said.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if said.is_err() {
            connection = None;
        }
        if answers.send(Answer { address: address.clone(), sent, said }).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(look) => {}
            _ = hurry.changed() => sleep_until((sent + LOOK_SOON).into()).await,
        }
    }
}

/// What one node says; the connection is for the next time.
async fn ask(url: &RedisUrl, kept: &mut Option<MultiplexedConnection>) -> Result<Vec<Line>, String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(url).await?,
    };
    let said = connection.send_packed_command(&nodes::ask()).await.map_err(|error| reason(&error))?;
    *kept = Some(connection);
    nodes::read(Some(&said))
}

async fn connect(url: &RedisUrl) -> Result<MultiplexedConnection, String> {
    let client = Client::open(url.primary().await?).map_err(|error| reason(&error))?;
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| reason(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(range: std::ops::Range<u16>) -> Slots {
        let mut slots = Slots::new();
        range.for_each(|slot| slots.insert(slot));
        slots
    }

    fn claims(all: &[(&str, u64, std::ops::Range<u16>)]) -> BTreeMap<String, Claim> {
        let claim = |(id, epoch, range): &(&str, u64, std::ops::Range<u16>)| {
            let address = Address { host: (*id).to_owned(), port: 1 };
            let primary = Primary { id: (*id).to_owned(), address, named: None };
            ((*id).to_owned(), Claim { primary, epoch: *epoch, slots: slots(range.clone()) })
        };
        all.iter().map(claim).collect()
    }

    #[test]
    fn the_highest_epoch_has_the_slot_and_nobody_where_that_is_not_sure() {
        let claims = claims(&[("a", 1, 0..100), ("b", 2, 50..200), ("c", 2, 150..300), ("d", 0, 0..10)]);
        let owners = |rumours: &BTreeMap<String, Rumour>| {
            let map = Map::of(&claims, rumours);
            let owner =
                |slot: u16| map.owners[usize::from(slot)].map(|place| map.primaries[usize::from(place)].id.clone());
            [0, 49, 50, 149, 150, 199, 200, 299, 300].map(owner).map(Option::unwrap_or_default).join(" ")
        };
        assert_eq!(owners(&BTreeMap::new()), "a a b b   c c ");
        let map = Map::of(&claims, &BTreeMap::new());
        assert_eq!((map.primaries.len(), map.spares[0].id.as_str()), (3, "d"), "`d` has nothing");
        assert_eq!(Map::default().place_of("x"), None);
        // Others say that `e` has taken over from `a`: it is nobody's until `e` says so itself. An old
        // rumour, and one about who is asked itself, say nothing.
        let rumour = |epoch, range| Rumour { epoch, slots: slots(range) };
        let rumours = [("e", rumour(3, 0..49)), ("f", rumour(1, 50..150)), ("c", rumour(9, 200..300))];
        assert_eq!(owners(&rumours.into_iter().map(|(id, rumour)| (id.to_owned(), rumour)).collect()), " a b b   c c ");
    }

    fn line(text: &str) -> Vec<Line> {
        nodes::read(Some(&::redis::Value::BulkString(text.into()))).expect("lines")
    }

    #[test]
    fn a_map_is_as_fresh_as_most_primaries_and_made_of_nodes_that_the_others_know() {
        let url = RedisUrl::parse("redis+cluster://a").expect("a URL");
        let (watched, mut watcher) = Watcher::new(url, LOOK_SOON);
        let (now, at) = (clock::monotonic(), |host: &str| Address { host: host.to_owned(), port: 1 });
        let later = |millis: u64| now + Duration::from_millis(millis);
        let others = "b b:1@2 master - 0 0 2 connected 10-19\nc c:1@2 master - 0 0 3 connected 20-29";
        let a = format!("a a:1@2 myself,master - 0 0 1 connected 0-9\n{others}");
        assert!(watcher.take(line(&a), &at("a"), later(1)));
        // One of one is most of them.
        assert_eq!((watched.map().primaries.len(), watched.seen.borrow().at), (1, Some(later(1))));
        let b = a.replace("myself,", "").replace("b b:1@2 master", "b b:1@2 myself,master");
        let c = a.replace("myself,", "").replace("c c:1@2 master", "c c:1@2 myself,master");
        assert!(watcher.take(line(&b), &at("b"), later(2)) && watcher.take(line(&c), &at("c"), later(3)));
        assert_eq!((watched.map().primaries.len(), watched.seen.borrow().at), (3, Some(later(2))));
        // `a` is silent, and the others go on.
        assert!(watcher.take(line(&b), &at("b"), later(5)));
        assert_eq!(watched.seen.borrow().at, Some(later(3)));
        // Somebody else has got the address of `a`.
        let foreign = "x a:1@2 myself,master - 0 0 99 connected 0-16383";
        assert!(!watcher.take(line(foreign), &at("a"), later(6)));
        assert_eq!((watched.map().primaries.len(), watched.seen.borrow().at), (3, Some(later(3))));
    }
}
