//! Keeps a link alive: connects, hands look-ups on, notices silence, connects again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ConnectionInfo, Pipeline};
use tokio::time::timeout;

use super::batch::{answer, ask};
use super::cluster::{self, is_elsewhere};
use super::hello::{self, Hello};
use super::node::{Answer, Connected, NodeDriver, Shared};
use super::{BACKOFF, BATCH, HEARTBEAT, QUEUE, RedisUrl, code, reason};
use crate::store::{Standing, StandingKeys};

impl NodeDriver {
    /// Keeps the connection alive until every user of it is gone.
    pub(super) async fn run(mut self) {
        let mut announced_away = false;
        let mut pause = BACKOFF.0;
        let mut generation = 0;
        loop {
            match self.connect().await {
                Ok((connection, info)) => {
                    if self.probe.is_some() {
                        tracing::info!(store = %self.url, "store connected");
                    }
                    (announced_away, pause) = (false, BACKOFF.0);
                    generation += 1;
                    let connected = Connected { generation, info: Arc::new(info), connection };
                    self.shared.connection.store(Some(Arc::new(connected.clone())));
                    let users_left = self.serve(connected).await;
                    self.shared.connection.store(None);
                    // What was still waiting has waited long enough.
                    while let Ok(ask) = self.inbox.try_recv() {
                        let _gone = ask.answer.send(Answer::Said(Standing::Unknown));
                    }
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
        if self.probe.is_some() && !*was_announced {
            tracing::error!(store = %self.url, reason, "store away: protected routes answer 503 until it is back");
        }
        *was_announced = true;
    }

    /// A connection to a primary that has answered in time.
    async fn connect(&mut self) -> Result<(MultiplexedConnection, ConnectionInfo), String> {
        let info = self.url.primary().await?;
        let client = Client::open(info.clone()).map_err(|error| reason(&error))?;
        let limit = self.deadline.max(Duration::from_millis(500));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            .set_pipeline_buffer_size(QUEUE);
        let attempt = async {
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| reason(&error))?;
            let said = connection.send_packed_command(&hello::ask(2)).await.map_err(|error| reason(&error))?;
            Hello::read(Some(&said), self.url.mode())?;
            if let Some(id) = self.url.id() {
                // Its address may be another one's by now.
                let said = connection.send_packed_command(&cluster::ask()).await.map_err(|error| reason(&error))?;
                cluster::check_id(&cluster::own(Some(&said))?, id)?;
            }
            Ok((connection, info))
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
                    let look = Look { url: self.url.clone(), probe: self.probe.clone(), deadline: self.deadline };
                    tokio::spawn(look.at(Arc::clone(&self.shared), connected.clone()));
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
                        let _gone = ask.answer.send(Answer::Said(Standing::Unknown));
                    }
                    None => return false,
                }
            }
        }
    }
}

/// One look at a connection that may have nothing to do.
struct Look {
    url: RedisUrl,
    probe: Option<Arc<StandingKeys>>,
    deadline: Duration,
}

impl Look {
    async fn at(self, shared: Arc<Shared>, mut connected: Connected) {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(hello::ask(2));
        // Each key for itself: in a cluster they are in different slots.
        let asked = self.probe.iter().flat_map(|probe| probe.each()).map(|key| ask(&mut pipeline, &key)).sum::<usize>();
        let sent = connected.connection.send_packed_commands(&pipeline, 0, 1 + asked);
        let Ok(Ok(replies)) = timeout(self.deadline, sent).await else {
            return shared.give_up(connected.generation);
        };
        if Hello::read(replies.first(), self.url.mode()).is_err() {
            return shared.give_up(connected.generation);
        }
        if self.url.has_moved_from(&connected.info).await {
            return shared.give_up(connected.generation);
        }
        if self.probe.is_some() {
            self.tell(&shared, replies.iter().filter(|reply| !is_elsewhere(reply)).find_map(code));
        }
    }

    /// Says once that look-ups are refused, and once that they are not any more.
    fn tell(&self, shared: &Shared, refusal: Option<String>) {
        let was_refused = shared.is_refused.swap(refusal.is_some(), Ordering::Relaxed);
        match refusal {
            Some(reason) if !was_refused => {
                tracing::error!(store = %self.url, reason, "store refuses look-ups: protected routes answer 503");
            }
            None if was_refused => tracing::info!(store = %self.url, "store answers look-ups again"),
            Some(_) | None => {}
        }
    }
}
