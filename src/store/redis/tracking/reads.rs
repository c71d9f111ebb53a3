//! What goes over a tracking connection: look-ups, and proofs that nothing was missed.
//!
//! 1. Each pipeline ends with a `PING` of a new word. Replies are matched by order alone, so a pipeline
//!    that does not end with its own word may hold the answers of another one: all is void.
//! 2. A proof says who answers as well: the same connection, of a primary; of a cluster also for which
//!    slots it can speak.
//! 3. An error that is about one key leaves that key unknown. An error that is about the store, or one
//!    to a proof, voids all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ConnectionInfo, Pipeline, Value};
use tokio::time::{MissedTickBehavior, timeout};

use super::super::batch::{ask, end_with_word, is_word};
use super::super::hello::{self, Hello, Mode};
use super::super::{RedisUrl, cluster, code, lease, reason, record};
use super::generation::{Found, Generation, Key, Learned, Reading};
use super::source::{Share, Shared};
use super::tracked::Tracked;
use crate::clock;
use crate::store::StandingKeys;

/// How long it takes until every key has been read again, unless there are too many.
const ROUND: Duration = Duration::from_secs(30);
/// How often Sentinels are asked whether the primary is still the same.
const FOLLOW: Duration = Duration::from_millis(500);
/// Keys that are read again with one proof at the most.
const READ_AGAIN: usize = 1024;

/// One connection with what it says.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// Where it leads.
    pub(super) info: Arc<ConnectionInfo>,
    pub(super) generation: Arc<Generation>,
    pub(super) shared: Arc<Shared>,
}

/// A key that is read, and the version that it had before.
struct Read {
    key: Arc<Key>,
    version: u64,
}

impl Connected {
    /// Proves freshness, time and again, and at once where somebody waits for this gateway.
    pub(super) async fn stay_fresh(self, probe: Arc<StandingKeys>) {
        let mut beat = tokio::time::interval(self.shared.limits.max_staleness / 4);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = self.shared.is_awaited.notified() => {}
            }
            let said = self.generation.epoch();
            let mut proved = self.prove(&probe).await;
            if proved.is_ok() && self.generation.epoch() != said {
                // What was applied is said now, and not with the next beat.
                proved = self.prove(&probe).await;
            }
            if let Err(reason) = proved {
                return self.give_up(&reason);
            }
        }
    }

    /// Gives up when the Sentinels have made another one the primary.
    pub(super) async fn follow(self, url: RedisUrl) {
        let mut beat = tokio::time::interval(FOLLOW);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if url.has_moved_from(&self.info).await {
                return self.give_up("the Sentinels name another primary");
            }
        }
    }

    /// Reads what look-ups read, renews the lease, and reads some keys again; a good answer proves
    /// that everything before it has been told.
    pub(super) async fn prove(&self, probe: &StandingKeys) -> Result<(), String> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(hello::ask(3));
        let probes = match &self.shared.share {
            Share::Whole(lease) => {
                let probes = ask(&mut pipeline, probe);
                if let Some(lease) = lease {
                    pipeline.add_command(lease.read_epoch()).add_command(lease.renew(self.generation.epoch()));
                }
                probes
            }
            Share::Part(group, _) => {
                pipeline.add_command(cluster::ask());
                // Read to be told of: who has it renews the lease.
                let epoch = group.epoch_key().filter(|key| self.generation.is_settled(key));
                if let Some(key) = epoch {
                    pipeline.cmd("GET").arg(key);
                }
                // Each for itself: they are in different slots, most of them elsewhere.
                let probes = probe.each().map(|key| ask(&mut pipeline, &key)).sum::<usize>();
                probes + usize::from(epoch.is_some())
            }
        };
        let beats = ROUND.as_millis() / self.shared.limits.max_staleness.as_millis().max(1) * 4;
        let due = self.generation.len() / usize::try_from(beats).unwrap_or(1).max(1) + 1;
        let due = self.generation.next_round(due.min(READ_AGAIN));
        let again: Vec<Read> = due.into_iter().map(|key| self.read(&mut pipeline, key)).collect();
        let sent = clock::monotonic();
        // Until nothing counts any more: behind many look-ups it may be late, and is still a proof.
        let left = self.shared.limits.max_staleness.saturating_sub(self.generation.age(sent));
        let replies = timeout(left, self.send(pipeline)).await;
        let mut replies = replies.map_err(|_| "no answer in time".to_owned())??.into_iter();
        let is_part = matches!(self.shared.share, Share::Part(..));
        let hello = Hello::read(replies.next().as_ref(), if is_part { Mode::Part } else { Mode::Alone })?;
        if !self.generation.is_client(hello.client) {
            return Err("another connection answers: is there a proxy in between?".to_owned());
        }
        if let Share::Part(_, id) = &self.shared.share {
            let own = cluster::own(replies.next().as_ref())?;
            cluster::check_id(&own, id)?;
            self.generation.settle(own.settled);
        }
        let said: Vec<Value> = replies.by_ref().take(probes).collect();
        let refused = said.iter().filter(|reply| !is_part || !cluster::is_elsewhere(reply)).find_map(code);
        if let Some(code) = refused.filter(|code| code != "WRONGTYPE") {
            return Err(code);
        }
        if matches!(self.shared.share, Share::Whole(Some(_))) {
            let (epoch, renewed) = (replies.next(), replies.next());
            if let Some(code) = [&epoch, &renewed].into_iter().flatten().find_map(code) {
                return Err(format!("the lease is refused: {code}"));
            }
            self.generation.applied(epoch.as_ref().and_then(lease::epoch).ok_or("an odd epoch")?);
        }
        self.learn(&again, replies)?;
        self.generation.prove(sent);
        self.shared.proved.notify_waiters();
        Ok(())
    }

    /// Asks for the keys of these tokens that are not known, and tells who waits.
    pub(super) async fn look_up(self, asked: Vec<Arc<Tracked>>) {
        let mut pipeline = Pipeline::new();
        let unknown = asked
            .iter()
            .filter(|tracked| Arc::ptr_eq(&tracked.generation, &self.generation))
            .flat_map(|tracked| tracked.keys())
            .filter(|key| key.is_unknown());
        let reads: Vec<Read> = unknown.map(|key| self.read(&mut pipeline, Arc::clone(key))).collect();
        self.shared.counted.look_ups.fetch_add(asked.len() as u64, Ordering::Relaxed);
        if !reads.is_empty() {
            let sent = clock::monotonic();
            let told = self.send(pipeline).await.and_then(|replies| self.learn(&reads, replies.into_iter()));
            match told {
                // SECURITY: it renews no lease, and nothing may count for longer than that lasts. Of a cluster it does not say
                // which slots are settled.
                Ok(()) if matches!(self.shared.share, Share::Part(..) | Share::Whole(Some(_))) => {}
                Ok(()) => self.generation.prove(sent),
                Err(reason) => self.give_up(&reason),
            }
        }
        for tracked in &asked {
            tracked.answered();
        }
    }

    /// Adds the read of a key. Its version is taken now: what is told from now on overtakes the reply.
    fn read(&self, pipeline: &mut Pipeline, key: Arc<Key>) -> Read {
        match key.reading {
            Reading::Presence => drop(pipeline.cmd("EXISTS").arg(&*key.name)),
            Reading::Time => drop(pipeline.cmd("GET").arg(&*key.name)),
            Reading::Record(form) => drop(pipeline.add_command(record::ask(&key.name, form))),
        }
        Read { version: self.generation.version(&key), key }
    }

    fn learn(&self, reads: &[Read], mut replies: impl Iterator<Item = Value>) -> Result<(), String> {
        for Read { key, version } in reads {
            let reply = replies.next().ok_or("too few answers")?;
            if let Some(code) = code(&reply).filter(|code| is_of_the_store(code) && !cluster::is_elsewhere(&reply)) {
                return Err(code);
            }
            let Some(found) = found(&reply, key.reading)? else { continue };
            if self.generation.learn(key, *version, found) == Learned::Untold {
                return Err("a key changed without a word: is there a proxy in between?".to_owned());
            }
        }
        Ok(())
    }

    /// Sends a pipeline and returns the replies before its last word.
    async fn send(&self, mut pipeline: Pipeline) -> Result<Vec<Value>, String> {
        let word = end_with_word(&mut pipeline);
        let count = pipeline.len();
        let mut connection = self.connection.clone();
        let mut replies = connection.send_packed_commands(&pipeline, 0, count).await.map_err(|error| reason(&error))?;
        let last = replies.pop();
        if replies.len() + 1 == count && is_word(last.as_ref(), &word) {
            Ok(replies)
        } else {
            Err("answers came out of order".to_owned())
        }
    }

    /// Voids what the connection said, and has it made anew.
    fn give_up(&self, reason: &str) {
        tracing::debug!(reason, "the tracking connection is given up");
        self.generation.end();
        self.shared.broken.notify_one();
        self.shared.proved.notify_waiters();
    }
}

/// How long a look-up may be waited for: no longer than what it says may count.
pub(super) fn deadline(timeout: Duration, max_staleness: Duration) -> Duration {
    timeout.min(max_staleness)
}

/// What a read said of a key; nothing where it says only that the key may not be read.
#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed is no answer")]
fn found(reply: &Value, reading: Reading) -> Result<Option<Found>, String> {
    match (reply, reading) {
        (Value::Int(0), Reading::Presence) | (Value::Nil, Reading::Time) => Ok(Some(Found::Absent)),
        (Value::Int(_), Reading::Presence) => Ok(Some(Found::Present)),
        (Value::BulkString(bytes), Reading::Time) => {
            let time = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
            Ok(Some(time.map_or(Found::Unreadable, Found::Time)))
        }
        // A key of another type: Redis tells when that changes, as of any other.
        (Value::ServerError(error), Reading::Time | Reading::Record(_)) if error.code() == "WRONGTYPE" => {
            Ok(Some(Found::Unreadable))
        }
        (Value::ServerError(_), _) => Ok(None),
        (value, Reading::Record(form)) => {
            let record = record::read(value, form).map_err(|()| "an odd answer".to_owned())?;
            Ok(Some(record.map_or(Found::Absent, |record| Found::Record(record.fingerprint()))))
        }
        _ => Err("an odd answer".to_owned()),
    }
}

/// Whether an error is about the store as a whole.
fn is_of_the_store(code: &str) -> bool {
    const OF_THE_STORE: [&str; 8] =
        ["LOADING", "MASTERDOWN", "READONLY", "NOAUTH", "WRONGPASS", "BUSY", "MISCONF", "CLUSTERDOWN"];
    OF_THE_STORE.contains(&code)
}
