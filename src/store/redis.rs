//! The store in Redis: one pipelined connection for each worker, one for the control runtime.
//!
//! 1. A look-up is handed to a task of the same worker that owns the connection, so that it crosses
//!    no thread; what arrives while that is busy goes out as one pipeline, and many requests share a
//!    round trip.
//! 2. Every look-up has a deadline. A batch that misses it is answered `Unknown` and its connection
//!    is dropped: a late reply must never be taken for the reply to a later question.
//! 3. While there is no connection every look-up is answered `Unknown` at once, without waiting.
//! 4. It reconnects for ever, with jitter. A connection counts only once it has answered `PING`:
//!    a stopped Redis still accepts connections.
//!
//! What it does not do: cache an answer, or guess one. `EXISTS` is asked, not `GET`, where presence
//! is the question, so that a key of any type counts; a not-before key of another type is an error
//! and so `Unknown`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, RedisError, Value};
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::{Entry, Standing, StandingKeys, StoreError, judge_not_before};

/// Look-ups that may wait for the connection's task; one more is answered `Unknown`.
const QUEUE: usize = 16_384;
/// Look-ups in one pipeline at the most.
const BATCH: usize = 256;
/// How often an idle connection is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// First and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));

/// Where Redis is; `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct RedisUrl(::redis::ConnectionInfo);

impl RedisUrl {
    /// Reads `redis://[user:password@]host[:port][/db]` or the same with `rediss://`.
    ///
    /// # Errors
    /// What is wrong, without the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        if !(url.starts_with("redis://") || url.starts_with("rediss://")) {
            return Err("the scheme is neither `redis://` nor `rediss://`".to_owned());
        }
        let info =
            url.into_connection_info().map_err(|error| error.detail().unwrap_or("it cannot be read").to_owned())?;
        let settings = ::redis::io::tcp::TcpSettings::default().set_nodelay(true);
        Ok(Self(info.set_tcp_settings(settings)))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.addr())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One way to Redis; the connection itself is held by its [`Driver`].
#[derive(Debug)]
pub struct Link {
    url: RedisUrl,
    deadline: Duration,
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
}

/// Connects, reconnects and sends; one for each [`Link`], run where the link is used.
#[derive(Debug)]
pub struct Driver {
    url: RedisUrl,
    deadline: Duration,
    inbox: mpsc::Receiver<Ask>,
    shared: Arc<Shared>,
    /// Whether this link tells the log about the store; the others would only repeat it.
    is_speaker: bool,
}

/// What the driver and the users of a link share. `connection` is empty while Redis is away.
#[derive(Default)]
struct Shared {
    connection: ArcSwapOption<Connected>,
    broken: Notify,
}

/// One connection, and which one it is: a late failure of an earlier one must not end a later one.
#[derive(Clone)]
struct Connected {
    generation: u64,
    connection: MultiplexedConnection,
}

/// One look-up on its way.
#[derive(Debug)]
struct Ask {
    keys: Arc<StandingKeys>,
    answer: oneshot::Sender<Standing>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("connected", &self.connection.load().is_some()).finish()
    }
}

impl Link {
    /// A link and the driver that connects it. `deadline` bounds every answer.
    #[must_use]
    pub fn new(url: RedisUrl, deadline: Duration) -> (Self, Driver) {
        let (asks, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let link = Self { url: url.clone(), deadline, asks, shared: Arc::clone(&shared) };
        (link, Driver { url, deadline, inbox, shared, is_speaker: true })
    }

    /// Another link to the same store.
    pub(super) fn sibling(&self) -> (Self, Driver) {
        let (link, driver) = Self::new(self.url.clone(), self.deadline);
        (link, Driver { is_speaker: false, ..driver })
    }

    /// Whether there is a connection that has proved itself.
    pub(super) fn is_available(&self) -> bool {
        self.shared.connection.load().is_some()
    }

    /// Asks for a token's standing. Waits no longer than the deadline, and not at all while there
    /// is no connection. Dropping the future abandons the answer, never the connection's order.
    pub(super) async fn standing(&self, keys: &Arc<StandingKeys>) -> Standing {
        if keys.is_empty() {
            return Standing::Clear;
        }
        if !self.is_available() {
            return Standing::Unknown;
        }
        let (answer, wait) = oneshot::channel();
        if self.asks.try_send(Ask { keys: Arc::clone(keys), answer }).is_err() {
            return Standing::Unknown;
        }
        wait.await.unwrap_or(Standing::Unknown)
    }

    /// `SET key value PXAT expires_at`.
    pub(super) async fn put(&self, key: &str, value: &str, expires_at: u64) -> Result<(), StoreError> {
        let mut command = ::redis::cmd("SET");
        command.arg(key).arg(value).arg("PXAT").arg(expires_at);
        self.command(command).await.map(drop)
    }

    /// The value of one key (its type, where it is no text) and its remaining life.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut get = ::redis::cmd("GET");
        get.arg(key);
        let mut life = ::redis::cmd("PTTL");
        life.arg(key);
        let value = match self.command(get).await {
            Ok(Value::Nil) => return Ok(None),
            Ok(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(other) => format!("{other:?}"),
            Err(StoreError::Refused(code)) if code == "WRONGTYPE" => "(not a string)".to_owned(),
            Err(error) => return Err(error),
        };
        let life = self.command(life).await?;
        let remaining = if let Value::Int(millis) = life { u64::try_from(millis).ok() } else { None };
        Ok(Some(Entry { value, remaining }))
    }

    async fn command(&self, command: ::redis::Cmd) -> Result<Value, StoreError> {
        let connected = self.shared.connection.load_full().ok_or(StoreError::Away)?;
        let mut connection = connected.connection.clone();
        match timeout(self.deadline, connection.send_packed_command(&command)).await {
            Err(_) => {
                self.shared.give_up(connected.generation);
                Err(StoreError::TimedOut)
            }
            Ok(Ok(Value::ServerError(error))) => Err(StoreError::Refused(error.code().to_owned())),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let Some(code) = error.code() else {
                    self.shared.give_up(connected.generation);
                    return Err(StoreError::Away);
                };
                Err(StoreError::Refused(code.to_owned()))
            }
        }
    }
}

impl Shared {
    /// Drops the connection, so that no later answer can come from it.
    fn give_up(&self, generation: u64) {
        if self.connection.load().as_ref().is_some_and(|current| current.generation == generation) {
            self.connection.store(None);
            self.broken.notify_one();
        }
    }
}

impl Driver {
    /// Keeps the link alive until every user of it is gone.
    pub async fn run(mut self) {
        let mut announced_away = false;
        let mut pause = BACKOFF.0;
        let mut generation = 0;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    if self.is_speaker {
                        tracing::info!(store = %self.url, "store connected");
                    }
                    (announced_away, pause) = (false, BACKOFF.0);
                    generation += 1;
                    let connected = Connected { generation, connection };
                    self.shared.connection.store(Some(Arc::new(connected.clone())));
                    let users_left = self.serve(connected).await;
                    self.shared.connection.store(None);
                    if !users_left {
                        return;
                    }
                    self.announce(&mut announced_away, "the connection broke, or an answer did not come in time");
                }
                Err(reason) => {
                    self.announce(&mut announced_away, &reason);
                    if !self.refuse_for(pause.mul_f64(0.5 + fastrand::f64())).await {
                        return;
                    }
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Says once that the store is away.
    fn announce(&self, was_announced: &mut bool, reason: &str) {
        if self.is_speaker && !*was_announced {
            tracing::error!(store = %self.url, reason, "store away: protected routes answer 503 until it is back");
        }
        *was_announced = true;
    }

    /// A connection that has answered `PING` in time.
    async fn connect(&mut self) -> Result<MultiplexedConnection, String> {
        let client = Client::open(self.url.0.clone()).map_err(|error| reason(&error))?;
        let limit = self.deadline.max(Duration::from_millis(500));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            .set_pipeline_buffer_size(QUEUE);
        let attempt = async {
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| reason(&error))?;
            connection
                .send_packed_command(&::redis::cmd("PING"))
                .await
                .map_err(|error| reason(&error))
                .and_then(usable)?;
            Ok(connection)
        };
        timeout(limit * 2, attempt).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Sends what arrives until the connection breaks; `false` when nobody is left to ask.
    async fn serve(&mut self, connected: Connected) -> bool {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut asks = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = self.shared.broken.notified() => return true,
                count = self.inbox.recv_many(&mut asks, BATCH) => {
                    if count == 0 {
                        return false;
                    }
                    let batch = std::mem::replace(&mut asks, Vec::with_capacity(BATCH));
                    tokio::spawn(answer(Arc::clone(&self.shared), connected.clone(), batch, self.deadline));
                }
                _ = heartbeat.tick() => {
                    tokio::spawn(ping(Arc::clone(&self.shared), connected.clone(), self.deadline));
                }
            }
        }
    }

    /// Answers `Unknown` to whatever still arrives, for a while; `false` when nobody is left.
    async fn refuse_for(&mut self, pause: Duration) -> bool {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return true,
                ask = self.inbox.recv() => match ask {
                    Some(ask) => {
                        let _gone = ask.answer.send(Standing::Unknown);
                    }
                    None => return false,
                }
            }
        }
    }
}

/// Sends one batch as one pipeline and hands out the answers.
async fn answer(shared: Arc<Shared>, mut connected: Connected, batch: Vec<Ask>, deadline: Duration) {
    let mut pipeline = Pipeline::with_capacity(batch.len() * 2);
    let mut count = 0;
    for ask in &batch {
        if !ask.keys.present.is_empty() {
            pipeline.cmd("EXISTS").arg(ask.keys.present.iter().map(|key| &**key).collect::<Vec<_>>());
            count += 1;
        }
        if let Some(rule) = &ask.keys.not_before {
            pipeline.cmd("GET").arg(&*rule.key);
            count += 1;
        }
    }
    let replies = match timeout(deadline, connected.connection.send_packed_commands(&pipeline, 0, count)).await {
        Ok(Ok(replies)) if replies.len() == count => replies,
        Ok(Err(error)) if error.code().is_some() => {
            tracing::warn!(reason = reason(&error), "store refuses look-ups");
            Vec::new()
        }
        Ok(_) | Err(_) => {
            shared.give_up(connected.generation);
            Vec::new()
        }
    };
    let mut replies = replies.into_iter();
    for ask in batch {
        let present =
            if ask.keys.present.is_empty() { Standing::Clear } else { judge_presence(replies.next().as_ref()) };
        let not_before = ask.keys.not_before.as_ref().map_or(Standing::Clear, |rule| match replies.next() {
            Some(Value::Nil) => Standing::Clear,
            Some(Value::BulkString(bytes)) => {
                std::str::from_utf8(&bytes).map_or(Standing::Unknown, |text| judge_not_before(text, rule.issued_at))
            }
            _ => Standing::Unknown,
        });
        // A caller that has gone away does not want the answer any more.
        let _gone = ask.answer.send(worse(present, not_before));
    }
}

fn judge_presence(reply: Option<&Value>) -> Standing {
    match reply {
        Some(Value::Int(0)) => Standing::Clear,
        Some(Value::Int(_)) => Standing::Revoked,
        _ => Standing::Unknown,
    }
}

/// Revoked by either is revoked; clear only if clear by both.
const fn worse(one: Standing, other: Standing) -> Standing {
    match (one, other) {
        (Standing::Revoked, _) | (_, Standing::Revoked) => Standing::Revoked,
        (Standing::Unknown, _) | (_, Standing::Unknown) => Standing::Unknown,
        (Standing::Clear, Standing::Clear) => Standing::Clear,
    }
}

async fn ping(shared: Arc<Shared>, mut connected: Connected, deadline: Duration) {
    let answer = timeout(deadline, connected.connection.send_packed_command(&::redis::cmd("PING"))).await;
    let alive = answer.is_ok_and(|reply| reply.map_err(|error| reason(&error)).and_then(usable).is_ok());
    if !alive {
        shared.give_up(connected.generation);
    }
}

/// `LOADING`, `NOAUTH`, `MASTERDOWN` and kin are answers too, but not ones to build on.
fn usable(reply: Value) -> Result<(), String> {
    if let Value::ServerError(error) = reply { Err(error.code().to_owned()) } else { Ok(()) }
}

/// An error's code, or its category: the full text may quote what was sent.
fn reason(error: &RedisError) -> String {
    error.code().unwrap_or_else(|| error.category()).to_owned()
}
