//! Asks the nodes of a cluster, time and again, who has what.
//!
//! 1. All nodes are asked, replicas too: one that has taken over says so first. One that is silent keeps
//!    what it claimed; what it may have lost meanwhile, the others say.
//! 2. A map says how fresh it is: at which moment most primaries were asked that have answered. A
//!    primary that was cut off from the others goes on for a while as if it had not lost its slots, so
//!    what it says counts only as long as the map does.
//! 3. Only nodes that most primaries list are believed: an address may be somebody else's by now, and a
//!    node that was forgotten may be of another cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::map::{Claim, Map, Primary, Rumour, Seen};
use super::nodes::{self, Address, Line};
use crate::clock;
use crate::store::redis::{RedisUrl, reason};

/// Shortest time between two questions to one node.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Longest wait for one node.
const ANSWER: Duration = Duration::from_millis(500);
/// How long nobody that is known may answer before the seeds are believed again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);

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

    /// What was seen last.
    pub(in crate::store::redis) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
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
    /// Whether any of these has changed since the map was made.
    is_changed: bool,
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
            is_changed: false,
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
        if !self.is_member(&own.id) {
            return false;
        }
        let place = own.address.clone().unwrap_or_else(|| asked.clone());
        let id = own.id.clone();
        let listed = lines.iter().map(|line| {
            let address =
                if line.is_own { Some(place.clone()) } else { line.address.clone().filter(|_| !line.is_away) };
            (line.id.clone(), address)
        });
        let listed: Vec<(String, Option<Address>)> = listed.collect();
        let is_as_before = self.listed.get(&id) == Some(&listed);
        self.listed.insert(id.clone(), listed);
        self.answered.insert(id, sent);
        for line in lines {
            if line.is_own {
                self.claim(line, &place);
            } else {
                self.rumour(line);
            }
        }
        if !is_as_before {
            self.forget();
        }
        self.publish();
        true
    }

    /// Whether most of the primaries that have said who there is list a node; the first to say so is
    /// believed.
    fn is_member(&self, id: &str) -> bool {
        let map = Arc::clone(&self.publish.borrow().map);
        let lists = |list: &Vec<(String, Option<Address>)>| list.iter().any(|(listed, _)| listed == id);
        let said: Vec<bool> = map.primaries.iter().filter_map(|it| self.listed.get(&it.id)).map(lists).collect();
        if said.is_empty() {
            return self.listed.is_empty() || self.listed.values().any(lists);
        }
        said.iter().filter(|lists| **lists).count() * 2 > said.len()
    }

    /// Leaves out who is no member any more.
    fn forget(&mut self) {
        let ids: BTreeSet<String> = self.listed.values().flatten().map(|(id, _)| id.clone()).collect();
        let gone: Vec<String> = ids.into_iter().filter(|id| !self.is_member(id)).collect();
        for gone in gone {
            self.listed.remove(&gone);
            self.listed.values_mut().for_each(|list| list.retain(|(id, _)| *id != gone));
            self.answered.remove(&gone);
            self.is_changed |= self.claims.remove(&gone).is_some() | self.rumours.remove(&gone).is_some();
        }
    }

    /// Takes what a node says of itself.
    fn claim(&mut self, line: Line, place: &Address) {
        // What others said of it before, it knows better.
        self.is_changed |= self.rumours.remove(&line.id).is_some();
        if !line.is_primary {
            self.is_changed |= self.claims.remove(&line.id).is_some();
            return;
        }
        let primary = Primary { id: line.id.clone(), address: place.clone(), named: line.named };
        let claim = Claim { primary, epoch: line.epoch, slots: line.slots };
        if self.claims.get(&line.id) != Some(&claim) {
            self.is_changed = true;
            self.claims.insert(line.id, claim);
        }
    }

    /// Takes what a node says of another one, unless that has said more of itself.
    fn rumour(&mut self, line: Line) {
        let known =
            [self.rumours.get(&line.id).map(|known| known.epoch), self.claims.get(&line.id).map(|known| known.epoch)];
        if known.into_iter().flatten().any(|epoch| epoch > line.epoch) {
            return;
        }
        let said = line.is_primary.then_some(Rumour { epoch: line.epoch, slots: line.slots });
        // Of a node that has claimed what is said of it, nothing new is said.
        let said = said.filter(|said| !self.claims.get(&line.id).is_some_and(|claim| claim.slots == said.slots));
        if self.rumours.get(&line.id) == said.as_ref() {
            return;
        }
        self.is_changed = true;
        match said {
            Some(said) => drop(self.rumours.insert(line.id, said)),
            None => drop(self.rumours.remove(&line.id)),
        }
    }

    fn publish(&mut self) {
        let known = Arc::clone(&self.publish.borrow().map);
        let is_changed = std::mem::take(&mut self.is_changed);
        let map = if is_changed { Arc::new(Map::of(&self.claims, &self.rumours)) } else { known };
        // The moment since which more than half of them have been asked.
        let mut asked: Vec<Instant> =
            map.primaries.iter().filter_map(|primary| self.answered.get(&primary.id).copied()).collect();
        asked.sort_unstable_by(|one, other| other.cmp(one));
        let at = asked.get(map.primaries.len() / 2).copied();
        self.publish.send_if_modified(|seen| {
            let is_same = !is_changed || seen.map == map;
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
                seen.map = Arc::clone(&map);
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
        // `a` was forgotten by the others, and is of another cluster now, at the same address.
        let without = |text: &str| text.lines().filter(|line| !line.starts_with("a ")).collect::<Vec<_>>().join("\n");
        assert!(
            watcher.take(line(&without(&b)), &at("b"), later(5))
                && watcher.take(line(&without(&c)), &at("c"), later(5))
        );
        let moved = "a a:1@2 myself,master - 0 0 99 connected 0-16383";
        assert!(!watcher.take(line(moved), &at("a"), later(6)));
        assert_eq!(watched.map().primaries.len(), 2);
        // Somebody else has got the address of `a`.
        let foreign = "x a:1@2 myself,master - 0 0 99 connected 0-16383";
        assert!(!watcher.take(line(foreign), &at("a"), later(6)));
        assert_eq!((watched.map().primaries.len(), watched.seen.borrow().at), (2, Some(later(5))));
    }
}
