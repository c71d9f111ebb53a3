//! Keeps a tracking connection alive: connects, hands look-ups on, takes what is told, connects again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, Cmd, ProtocolVersion, PushInfo, PushKind, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::{BACKOFF, RedisUrl, reason};
use super::generation::Generation;
use super::reads::Connected;
use super::source::{QUEUE, Share, Shared};
use super::tracked::Tracked;
use crate::clock;
use crate::store::StandingKeys;

/// Look-ups in one pipeline at the most.
const BATCH: usize = 1024;
/// Pipelines of look-ups under way at the most: a proof has to come through between them.
const UNDER_WAY: usize = 8;
/// Keys that the tokens of a full cache may need; fewer in Redis's table make it forget and be asked again.
const REMEMBERED: u64 = 131_072;

/// Connects to one primary, asks and proves; run on the control runtime.
pub(super) struct Tracker {
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

impl Tracker {
    pub(super) fn new(
        url: RedisUrl,
        probe: Arc<StandingKeys>,
        inbox: mpsc::Receiver<Arc<Tracked>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { url, probe, inbox, shared }
    }

    /// Keeps the connection until every user of it is gone.
    pub(super) async fn run(mut self) {
        let (mut told, mut pause) = (None, BACKOFF.0);
        loop {
            let why = match self.connect().await {
                Ok(connected) => {
                    self.shared.counted.connections.fetch_add(1, Ordering::Relaxed);
                    if told.replace(true) != Some(true) {
                        tracing::info!(store = %self.url, "revocations are tracked");
                    }
                    tokio::spawn(advise(connected.clone()));
                    self.shared.current.store(Some(Arc::clone(&connected.generation)));
                    let started = clock::monotonic();
                    let users_left = self.serve(connected).await;
                    self.shared.end();
                    if !users_left {
                        return;
                    }
                    // One that does not last is no end of the trouble.
                    let has_lasted =
                        clock::monotonic().saturating_duration_since(started) > self.shared.limits.max_staleness;
                    pause = if has_lasted { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
                    has_lasted.then(|| "the connection broke, or said what cannot be relied on".to_owned())
                }
                Err(why) => {
                    pause = (pause * 2).min(BACKOFF.1);
                    Some(why)
                }
            };
            if let Some(why) = why
                && told.replace(false) != Some(false)
            {
                tracing::error!(store = %self.url, reason = why, "revocations are not tracked: tokens get 503 until they are");
            }
            if !self.refuse_for(pause.mul_f64(0.5 + fastrand::f64())).await {
                return;
            }
        }
    }

    /// A connection that tracks, and has proved that it may read what look-ups read.
    async fn connect(&self) -> Result<Connected, String> {
        let generation = match self.shared.share {
            Share::Whole(_) => Generation::new(),
            Share::Part(..) => Generation::of_a_part(),
        };
        let info = self.url.primary().await?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings);
        let client = Client::open(info.clone()).map_err(|error| reason(&error))?;
        let limit = self.shared.limits.deadline.max(Duration::from_millis(500));
        let (told, shared) = (Arc::clone(&generation), Arc::clone(&self.shared));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            // A look-up that is late is waited for; what does not answer at all fails its proof.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            // Why a function: what it does is done before any later reply is handed out.
            .set_push_sender(move |push: PushInfo| {
                take(&told, &shared, push);
                Ok::<(), ::redis::aio::SendError>(())
            });
        let attempt = async {
            let opened = client.get_multiplexed_async_connection_with_config(&config).await;
            let mut connection = opened.map_err(|error| match reason(&error) {
                code if code == "ERR" || code == "NOPROTO" => format!("{code}: Redis 6 or newer is needed"),
                why => why,
            })?;
            let mut track = ::redis::cmd("CLIENT");
            track.arg("TRACKING").arg("ON");
            let reply = connection.send_packed_command(&track).await.map_err(|error| reason(&error))?;
            if let Value::ServerError(error) = &reply {
                return Err(format!("CLIENT TRACKING is refused: {}", error.code()));
            }
            if reply != Value::Okay {
                return Err("an odd answer to CLIENT TRACKING".to_owned());
            }
            let (shared, info) = (Arc::clone(&self.shared), Arc::new(info));
            // Before the proof, which takes the lease there: no look-up elsewhere counts from then on.
            shared.place.store(Some(Arc::clone(&info)));
            let connected = Connected { connection, info, generation, shared };
            connected.prove(&self.probe).await?;
            Ok(connected)
        };
        timeout(limit * 2, attempt).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Sends what is asked until the connection breaks; `false` when nobody is left to ask.
    async fn serve(&mut self, connected: Connected) -> bool {
        // They end with this, also where it is aborted.
        let mut beside = JoinSet::new();
        beside.spawn(connected.clone().stay_fresh(Arc::clone(&self.probe)));
        if matches!(self.shared.share, Share::Whole(_)) {
            beside.spawn(connected.clone().follow(self.url.clone()));
        }
        self.hand_on(connected).await
    }

    async fn hand_on(&mut self, connected: Connected) -> bool {
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        loop {
            tokio::select! {
                () = self.shared.broken.notified() => {
                    // What an earlier connection left behind is passed over.
                    if !connected.generation.is_alive() {
                        return true;
                    }
                }
                (permit, asked) = next(&mut self.inbox, &room) => {
                    if asked.is_empty() {
                        return false;
                    }
                    let look_up = connected.clone().look_up(asked);
                    tokio::spawn(async move {
                        look_up.await;
                        drop(permit);
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

/// What is asked next, once there is room for it; nothing when nobody is left to ask.
async fn next(
    inbox: &mut mpsc::Receiver<Arc<Tracked>>,
    room: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, Vec<Arc<Tracked>>) {
    let permit = Arc::clone(room).acquire_owned().await.ok();
    let mut asked = Vec::new();
    inbox.recv_many(&mut asked, BATCH).await;
    (permit, asked)
}

/// Says what in the settings of Redis will be regretted; once for each connection, if it may be read.
async fn advise(mut connected: Connected) {
    let mut setting = async |name: &str| {
        let mut get = Cmd::new();
        get.arg("CONFIG").arg("GET").arg(name);
        let (_, value): (String, String) = get.query_async(&mut connected.connection).await.ok()?;
        Some(value)
    };
    let table = setting("tracking-table-max-keys").await.and_then(|value| value.parse::<u64>().ok());
    if let Some(table) = table.filter(|table| (1..REMEMBERED).contains(table)) {
        tracing::warn!(
            table,
            wanted = REMEMBERED,
            "tracking-table-max-keys of Redis is small: tokens are asked for more often"
        );
    }
    if let Some(policy) = setting("maxmemory-policy").await.filter(|policy| policy != "noeviction") {
        tracing::warn!(policy, "maxmemory-policy of Redis is not noeviction: revocations may be evicted");
    }
}

/// Applies one message of Redis; called before any later reply is handed out.
#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed voids all keys")]
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
                Some(names) if !names.is_empty() => {
                    if shared.epoch_key().is_some_and(|epoch| names.contains(&epoch)) {
                        shared.hurry();
                    }
                    for name in names {
                        generation.changed(name);
                    }
                }
                // Nothing, or what cannot be read: everything may have changed.
                Some(_) | None => {
                    tracing::error!("the store was emptied (FLUSHALL, FLUSHDB): revocations that were in it are gone");
                    generation.all_changed();
                    shared.hurry();
                }
            }
        }
        PushKind::Disconnection => {
            generation.end();
            shared.broken.notify_one();
            shared.proved.notify_waiters();
        }
        // SECURITY: what is not asked for may stand for an invalidation.
        _ => generation.all_changed(),
    }
}

fn text(name: &Value) -> Option<&str> {
    if let Value::BulkString(bytes) = name { std::str::from_utf8(bytes).ok() } else { None }
}
