//! Keys that are published at a URL, read in the background.
//!
//! 1. Never on the way of a request: a request sees what is there, or `KeysUnavailable`.
//! 2. Refreshed every `refresh`, with jitter; after a failure sooner, backing off.
//! 3. An unknown `kid` asks for one refresh ahead of time, at most once in `cooldown`, however many
//!    tokens ask. One fetch at a time.
//! 4. A document that cannot be fetched or is refused changes nothing: the old keys stay, up to
//!    `max_age` after they were last confirmed (a fetch that is under way then may take its 5 s),
//!    then they are retired and tokens get 503.
//! 5. A key that is no longer in the document is retired with the fetch that shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::fetch::Source;
use super::{KeySet, jwk};
use crate::clock;

/// Longest time for one fetch, from connecting to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
/// First pause after a failed fetch; doubles up to the refresh interval.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// How often the document is read, and how long it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From one fetch to the next.
    pub refresh: Duration,
    /// How long keys are used after the document was last read.
    pub max_age: Duration,
    /// Shortest time between two fetches that unknown `kid`s ask for.
    pub cooldown: Duration,
}

/// The keys of one issuer, kept up to date by a [`Refresher`].
#[derive(Debug)]
pub struct RemoteKeys {
    issuer: Arc<str>,
    /// The `iss` that they vouch for: under another one they are other keys, and those from before are retired.
    iss: String,
    source: Source,
    pinned: Vec<Algorithm>,
    schedule: Schedule,
    current: ArcSwapOption<Confirmed>,
    missed: Notify,
    /// Whether they could not be read the last time: there may be others by now.
    is_failing: AtomicBool,
    /// Tells who waits for it that they were read.
    readings: watch::Sender<()>,
}

#[derive(Debug)]
struct Confirmed {
    keys: Arc<KeySet>,
    at: Instant,
}

/// Reads the document for as long as the process lives.
#[derive(Debug)]
pub struct Refresher(Arc<RemoteKeys>);

impl RemoteKeys {
    /// Keys that are not loaded yet, and the task that loads them.
    #[must_use]
    pub fn new(
        (issuer, iss): (Arc<str>, &str),
        source: Source,
        pinned: Vec<Algorithm>,
        schedule: Schedule,
    ) -> (Arc<Self>, Refresher) {
        let (current, missed, iss) = (ArcSwapOption::empty(), Notify::new(), iss.to_owned());
        let (is_failing, readings) = (AtomicBool::new(false), watch::Sender::new(()));
        let keys = Arc::new(Self { issuer, iss, source, pinned, schedule, current, missed, is_failing, readings });
        (Arc::clone(&keys), Refresher(keys))
    }

    /// The keys, unless they were never loaded or are too old.
    #[must_use]
    pub fn current(&self) -> Option<Arc<KeySet>> {
        let confirmed = self.current.load();
        let confirmed = confirmed.as_ref()?;
        let is_fresh = clock::monotonic().saturating_duration_since(confirmed.at) <= self.schedule.max_age;
        is_fresh.then(|| Arc::clone(&confirmed.keys))
    }

    /// Whether they are the keys of this issuer (by its name, and its `iss`), from there, for these algorithms, read like
    /// this.
    #[must_use]
    pub fn is_of(
        &self,
        (issuer, iss): (&str, &str),
        source: &Source,
        pinned: &[Algorithm],
        schedule: Schedule,
    ) -> bool {
        *self.issuer == *issuer
            && self.iss == iss
            && self.source.is_same(source)
            && self.pinned == pinned
            && self.schedule == schedule
    }

    /// Says that a token named a key that is not here; whether it may be one that could not be read.
    pub(super) fn missed(&self) -> bool {
        self.missed.notify_one();
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Has the document read ahead of time, and waits for it, if it may be by then; whether it was.
    pub(in crate::authenticate) async fn is_read_again(&self, within: Duration) -> bool {
        let mut readings = self.readings.subscribe();
        self.missed.notify_one();
        timeout(within, readings.changed()).await.is_ok_and(|read| read.is_ok())
    }

    /// The name of the issuer.
    #[must_use]
    pub const fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let document = timeout(FETCH_DEADLINE, self.source.fetch(jwk::MAX_DOCUMENT));
        let document = document.await.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
        jwk::key_set(&document, &self.pinned)
    }

    /// Takes a fetched set over; says whether it differs.
    fn confirm(&self, fetched: KeySet) -> bool {
        let previous = self.current.load_full();
        let (keys, differs) = match &previous {
            Some(previous) => {
                let differs = !fetched.is_same(&previous.keys);
                (fetched.succeeding(&previous.keys), differs)
            }
            None => (fetched, true),
        };
        self.current.store(Some(Arc::new(Confirmed { keys: Arc::new(keys), at: clock::monotonic() })));
        self.readings.send_replace(());
        differs
    }

    /// How long the present keys may still be used.
    fn remaining(&self) -> Option<Duration> {
        let confirmed = self.current.load();
        let age = clock::monotonic().saturating_duration_since(confirmed.as_ref()?.at);
        Some(self.schedule.max_age.saturating_sub(age) + Duration::from_millis(1))
    }

    /// Lets go of keys that are past their age; their cached tokens die with them.
    fn expire(&self) {
        if self.current.load().is_some() && self.current().is_none() {
            if let Some(stale) = self.current.swap(None) {
                stale.keys.retire();
            }
            tracing::error!(issuer = %self.issuer, "keys are past their age: tokens of this issuer get 503");
        }
    }
}

impl Refresher {
    /// Reads the document once, for who asks one question and ends.
    ///
    /// # Errors
    /// Why it could not be read.
    pub async fn read_once(&self) -> Result<(), String> {
        let fetched = self.0.fetch().await?;
        let _is_another = self.0.confirm(fetched);
        Ok(())
    }

    /// Fetches now and then until the process ends.
    pub async fn run(self) {
        let keys = self.0;
        let mut retry = FIRST_RETRY;
        loop {
            let was_failing = keys.is_failing.load(Ordering::Relaxed);
            let pause = match keys.fetch().await {
                Ok(fetched) => {
                    let count = fetched.len();
                    if keys.confirm(fetched) || was_failing {
                        tracing::info!(issuer = %keys.issuer, count, "keys read");
                    }
                    keys.is_failing.store(false, Ordering::Relaxed);
                    retry = FIRST_RETRY;
                    keys.schedule.refresh.mul_f64(0.9 + 0.1 * fastrand::f64())
                }
                Err(reason) => {
                    if !was_failing {
                        tracing::error!(issuer = %keys.issuer, source = %keys.source, reason, "keys cannot be read");
                    }
                    keys.is_failing.store(true, Ordering::Relaxed);
                    let pause = retry.min(keys.schedule.refresh);
                    retry = (retry * 2).min(keys.schedule.refresh.max(FIRST_RETRY));
                    pause
                }
            };
            keys.expire();
            // Why: keys that grow too old between two fetches have to go at that moment.
            Self::wait(&keys, keys.remaining().map_or(pause, |left| left.min(pause))).await;
            keys.expire();
        }
    }

    /// Waits for the next fetch: for `pause`, or until a token asks for it and the cool-down is over.
    async fn wait(keys: &RemoteKeys, pause: Duration) {
        let asked = async {
            sleep(keys.schedule.cooldown).await;
            keys.missed.notified().await;
        };
        let _either = timeout(pause, asked).await;
    }
}
