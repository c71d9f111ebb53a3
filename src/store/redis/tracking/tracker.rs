//! Keeps a tracking connection alive: connects, asks what is wanted, proves freshness, connects again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo, PushKind, Value,
};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};

use super::super::batch::ask;
use super::super::{BACKOFF, RedisUrl, reason};
use super::generation::{Found, Generation, Key, Tracked};
use super::{QUEUE, Shared};
use crate::clock;
use crate::store::StandingKeys;

/// Look-ups in one pipeline at the most.
const BATCH: usize = 1024;

/// Connects, asks and proves; run on the control runtime.
pub struct Tracker {
    url: RedisUrl,
    probe: Arc<StandingKeys>,
    inbox: mpsc::Receiver<Arc<Tracked>>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker").field("url", &self.url).finish_non_exhaustive()
    }
}

/// One connection with what it says.
#[derive(Clone)]
struct Connected {
    connection: MultiplexedConnection,
    generation: Arc<Generation>,
    shared: Arc<Shared>,
}

impl Tracker {
    pub(super) fn new(
        url: RedisUrl,
        probe: StandingKeys,
        inbox: mpsc::Receiver<Arc<Tracked>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { url, probe: Arc::new(probe), inbox, shared }
    }

    /// Keeps the connection until every user of it is gone.
    pub async fn run(mut self) {
        let (mut announced_away, mut pause) = (false, BACKOFF.0);
        loop {
            let why = match self.connect().await {
                Ok(connected) => {
                    tracing::info!(store = %self.url, "revocations are tracked");
                    (announced_away, pause) = (false, BACKOFF.0);
                    self.shared.counted.connections.fetch_add(1, Ordering::Relaxed);
                    let generation = Arc::clone(&connected.generation);
                    self.shared.current.store(Some(Arc::clone(&generation)));
                    let users_left = self.serve(connected).await;
                    generation.end();
                    self.shared.current.store(None);
                    if !users_left {
                        return;
                    }
                    "the connection broke, or an answer did not come in time".to_owned()
                }
                Err(why) => why,
            };
            if !std::mem::replace(&mut announced_away, true) {
                tracing::error!(store = %self.url, reason = why, "revocations are not tracked: tokens get 503 until they are");
            }
            if !self.refuse_for(pause.mul_f64(0.5 + fastrand::f64())).await {
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// A connection that tracks, and has proved that it may read what look-ups read.
    async fn connect(&self) -> Result<Connected, String> {
        let generation = Generation::new();
        let info = self.url.0.clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings).into_connection_info().map_err(|error| reason(&error))?;
        let client = Client::open(info).map_err(|error| reason(&error))?;
        let limit = self.shared.deadline.max(Duration::from_millis(500));
        let (told, shared) = (Arc::clone(&generation), Arc::clone(&self.shared));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            .set_pipeline_buffer_size(QUEUE)
            // Why a function: what it does is done before any later reply is handed out.
            .set_push_sender(move |push: PushInfo| {
                take(&told, &shared, push);
                Ok::<(), ::redis::aio::SendError>(())
            });
        let attempt = async {
            let opened = client.get_multiplexed_async_connection_with_config(&config).await;
            let mut connection = opened.map_err(|error| reason(&error))?;
            let mut track = ::redis::cmd("CLIENT");
            track.arg("TRACKING").arg("ON");
            let reply = connection.send_packed_command(&track).await.map_err(|error| reason(&error))?;
            if let Value::ServerError(error) = &reply {
                return Err(error.code().to_owned());
            }
            if reply != Value::Okay {
                return Err("an odd answer to CLIENT TRACKING".to_owned());
            }
            let shared = Arc::clone(&self.shared);
            let connected = Connected { connection, generation, shared };
            connected.clone().prove(&self.probe).await?;
            Ok(connected)
        };
        timeout(limit * 2, attempt).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Sends what is asked until the connection breaks; `false` when nobody is left to ask.
    async fn serve(&mut self, connected: Connected) -> bool {
        let mut beat = tokio::time::interval(self.shared.max_staleness / 4);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                () = self.shared.broken.notified() => {
                    // What an earlier connection left behind is passed over.
                    if !connected.generation.is_alive() {
                        return true;
                    }
                }
                count = self.inbox.recv_many(&mut asked, BATCH) => {
                    if count == 0 {
                        return false;
                    }
                    tokio::spawn(connected.clone().look_up(std::mem::take(&mut asked)));
                }
                _ = beat.tick() => {
                    let (connected, probe) = (connected.clone(), Arc::clone(&self.probe));
                    tokio::spawn(async move {
                        if let Err(reason) = connected.clone().prove(&probe).await {
                            connected.give_up(&reason);
                        }
                    });
                }
            }
        }
    }

    /// Answers nothing to whatever is asked, for a while; `false` when nobody is left.
    async fn refuse_for(&mut self, pause: Duration) -> bool {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return true,
                asked = self.inbox.recv() => match asked {
                    Some(tracked) => tracked.answered(),
                    None => return false,
                }
            }
        }
    }
}

/// Applies one message of Redis; called before any later reply is handed out.
fn take(generation: &Generation, shared: &Shared, push: PushInfo) {
    match push.kind {
        PushKind::Invalidate => {
            shared.counted.invalidations.fetch_add(1, Ordering::Relaxed);
            let names = match push.data.as_slice() {
                [Value::Array(names)] => names.as_slice(),
                _ => &[],
            };
            let texts: Option<Vec<&str>> = names.iter().map(text).collect();
            match texts {
                Some(names) if !names.is_empty() => names.into_iter().for_each(|name| generation.changed(name)),
                // Nothing, or what cannot be read: everything may have changed.
                Some(_) | None => generation.all_changed(),
            }
        }
        PushKind::Disconnection => {
            generation.end();
            shared.broken.notify_one();
        }
        PushKind::Other(_)
        | PushKind::Message
        | PushKind::PMessage
        | PushKind::SMessage
        | PushKind::Unsubscribe
        | PushKind::PUnsubscribe
        | PushKind::SUnsubscribe
        | PushKind::Subscribe
        | PushKind::PSubscribe
        | PushKind::SSubscribe => {}
        // SECURITY: what is not understood may have been an invalidation.
        _ => generation.all_changed(),
    }
}

fn text(name: &Value) -> Option<&str> {
    if let Value::BulkString(bytes) = name { std::str::from_utf8(bytes).ok() } else { None }
}

impl Connected {
    /// Reads what look-ups read; a good answer proves that everything before it has been told.
    async fn prove(mut self, probe: &StandingKeys) -> Result<(), String> {
        let mut pipeline = Pipeline::new();
        let count = ask(&mut pipeline, probe);
        let sent = clock::monotonic();
        let replies = self.send(&pipeline, count).await?;
        if let Some(error) = replies.iter().find_map(refusal) {
            return Err(error);
        }
        self.generation.prove(sent);
        Ok(())
    }

    /// Asks for the keys of these tokens that are not known, and tells who waits.
    async fn look_up(mut self, asked: Vec<Arc<Tracked>>) {
        let mut pipeline = Pipeline::new();
        let mut reads: Vec<(Arc<Key>, u64, bool)> = Vec::new();
        for tracked in asked.iter().filter(|tracked| Arc::ptr_eq(&tracked.generation, &self.generation)) {
            for (key, is_time) in tracked.keys().filter(|(key, _)| key.is_unknown()) {
                // Before it is sent: what is told from now on overtakes the reply.
                reads.push((Arc::clone(key), self.generation.version(key), is_time));
                pipeline.cmd(if is_time { "GET" } else { "EXISTS" }).arg(&*key.name);
            }
        }
        self.shared.counted.look_ups.fetch_add(asked.len() as u64, Ordering::Relaxed);
        if !reads.is_empty() {
            let sent = clock::monotonic();
            match self.send(&pipeline, reads.len()).await {
                Ok(replies) => self.learn(&reads, &replies, sent),
                Err(reason) => self.give_up(&reason),
            }
        }
        for tracked in &asked {
            tracked.answered();
        }
    }

    fn learn(&self, reads: &[(Arc<Key>, u64, bool)], replies: &[Value], sent: Instant) {
        for ((key, version, is_time), reply) in reads.iter().zip(replies) {
            if let Some(reason) = refusal(reply) {
                return self.give_up(&reason);
            }
            match found(reply, *is_time) {
                Some(found) => self.generation.learn(key, *version, found),
                None => return self.give_up("an odd answer"),
            }
        }
        self.generation.prove(sent);
    }

    async fn send(&mut self, pipeline: &Pipeline, count: usize) -> Result<Vec<Value>, String> {
        let sent = self.connection.send_packed_commands(pipeline, 0, count);
        match timeout(self.shared.deadline, sent).await {
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(error)) => Err(reason(&error)),
            Ok(Ok(replies)) if replies.len() != count => Err("too few answers".to_owned()),
            Ok(Ok(replies)) => Ok(replies),
        }
    }

    /// Voids what the connection said, and has it made anew.
    fn give_up(&self, reason: &str) {
        tracing::debug!(reason, "the tracking connection is given up");
        self.generation.end();
        self.shared.broken.notify_one();
    }
}

/// What a read said of a key; `None` for what is no answer to it.
#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed is no answer")]
fn found(reply: &Value, is_time: bool) -> Option<Found> {
    match (reply, is_time) {
        (Value::Int(0), false) | (Value::Nil, true) => Some(Found::Absent),
        (Value::Int(_), false) => Some(Found::Present),
        (Value::BulkString(bytes), true) => {
            let time = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
            Some(time.map_or(Found::Unreadable, Found::Time))
        }
        // A key of another type: Redis tells when that changes, as of any other.
        (Value::ServerError(error), true) if error.code() == "WRONGTYPE" => Some(Found::Unreadable),
        _ => None,
    }
}

/// The code of an error that says more of the connection than of one key.
fn refusal(reply: &Value) -> Option<String> {
    let Value::ServerError(error) = reply else { return None };
    (error.code() != "WRONGTYPE").then(|| error.code().to_owned())
}
