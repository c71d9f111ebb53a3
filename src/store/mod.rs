//! What must be remembered: which tokens were taken back.
//!
//! 1. A store answers one question on the way of a request: the standing of a token.
//! 2. Silence, an error, a value that cannot be read: all of them are [`Standing::Unknown`], never
//!    [`Standing::Clear`].
//! 3. Both stores keep the same promises and pass one test suite (`tests/it/store.rs`).
//!
//! What it does not do: decide what an unknown standing means for a request (`authenticate`).

mod asker;
mod file;
pub mod keys;
mod memory;
pub mod record;
mod redis;
mod slot;

use std::fmt;
use std::sync::Arc;

use crate::clock;

pub use self::asker::{Asker, Timed};
pub use self::file::{File, Writer};
pub use self::keys::{KeyPattern, KeyPatterns, Kind, StandingKeys};
pub use self::memory::Memory;
pub use self::record::{Fingerprint, Found, Record, RecordForm, RecordKey, RecordValue};
pub use self::redis::{Driver, Lease, LeaseKeys, Link, RedisUrl, Tracker, Tracking, TrackingNumbers};
pub use self::slot::Slot;

/// What the store said of a token, silence included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No key takes it back.
    Clear,
    /// A key takes it back.
    Revoked,
    /// The store did not say, or not in time, or not in a form that can be read.
    Unknown,
}

impl Standing {
    /// Of two keys: revoked by either is revoked; clear only if clear by both.
    #[must_use]
    pub const fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Revoked, _) | (_, Self::Revoked) => Self::Revoked,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Clear, Self::Clear) => Self::Clear,
        }
    }
}

/// Where revocations live.
#[derive(Debug)]
pub enum Store {
    /// In this process; gone when it ends. For the demo and for tests.
    Memory(Arc<Memory>),
    /// In a file of this machine.
    File(Arc<File>),
    /// In a Redis that other services and gateways share; this is the control runtime's link.
    Redis(Box<Link>),
}

/// What a revocation leaves in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The key is there, and that says it all.
    Presence,
    /// Tokens issued at or before this unix time, in seconds, are dead.
    NotBefore(i64),
}

impl Mark {
    /// The value that is written.
    fn value(self) -> String {
        match self {
            Self::Presence => "1".to_owned(),
            Self::NotBefore(time) => time.to_string(),
        }
    }

    /// Whether a value that is there already says at least as much.
    fn is_said_by(self, value: &str) -> bool {
        match self {
            Self::Presence => true,
            Self::NotBefore(time) => value.trim().parse::<i64>().is_ok_and(|there| there >= time),
        }
    }
}

/// What has to be true before a revocation counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// The store has it: connected gateways refuse with its message, others within `max_staleness`.
    #[default]
    Primary,
    /// Every replica that is connected has it too: any of them may be the one that takes over.
    Replica,
    /// Every gateway refuses from now on, or serves no protected route.
    All,
}

/// Who has confirmed a revocation; names of gateways, only for [`Ack::All`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// These have applied it.
    pub confirmed: Vec<String>,
    /// These said nothing until they could not serve any more.
    pub outwaited: Vec<String>,
}

/// Why a store does not answer look-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no connection.
    Away,
    /// It answers with errors: a command or a key that this user may not use.
    Refuses,
    /// What it told has not been proved fresh for too long.
    Stale,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Away => "the store is away",
            Self::Refuses => "the store refuses look-ups",
            Self::Stale => "revocations are not known to be fresh",
        })
    }
}

/// One key as it is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value as text.
    pub value: String,
    /// Milliseconds of life left; `None` is for ever.
    pub remaining: Option<u64>,
}

/// Some of the keys that a pattern gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys; there may be none on a page that is not the last.
    pub keys: Vec<String>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// There is no connection.
    Away,
    /// No answer before the deadline; whether a write took effect is not known.
    TimedOut,
    /// It answered with an error; the text is the error's code.
    Refused(String),
    /// It took the write, and then what was to be waited for did not come; why.
    Unconfirmed(String),
    /// There is nothing that could replicate.
    NoReplicas,
}

impl StoreError {
    /// Whether the write is known to have been taken.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        matches!(self, Self::Unconfirmed(_))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("the store cannot be reached"),
            Self::TimedOut => f.write_str("the store did not answer in time; whether it took the write is not known"),
            Self::Refused(code) => write!(f, "the store refused: {code}"),
            Self::Unconfirmed(why) => write!(f, "the store has it, but not everybody confirmed: {why}"),
            Self::NoReplicas => f.write_str("this store has no replicas; `primary` and `all` can be had"),
        }
    }
}

impl std::error::Error for StoreError {}

impl Store {
    /// A worker's way to ask, and what has to run on that worker for it.
    #[must_use]
    pub fn asker(&self) -> (Asker, Option<Driver>) {
        match self {
            Self::Memory(memory) => (Asker::Memory(Arc::clone(memory)), None),
            Self::File(file) => (Asker::File(Arc::clone(file)), None),
            Self::Redis(link) => {
                let (link, driver) = link.sibling();
                (Asker::Redis(Box::new(link)), Some(driver))
            }
        }
    }

    /// A way to ask for who is no gateway: each look-up asks, nothing is kept up to date, and nothing is written.
    #[must_use]
    pub fn asker_apart(&self) -> (Asker, Option<Driver>) {
        match self.asker() {
            (Asker::Redis(link), driver) => (Asker::Looking(Box::new(link.with_tracking(None))), driver),
            other => other,
        }
    }

    /// Writes a mark at `key`, to be forgotten at `expires_at` (unix milliseconds). It only ever
    /// strengthens what is there: a later time stays, a longer life stays, no end of life stays.
    ///
    /// # Errors
    /// [`StoreError`]; after `TimedOut` the write may or may not have taken effect.
    pub async fn mark(&self, key: &str, mark: Mark, expires_at: u64) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                memory.mark(key, mark, expires_at);
                Ok(())
            }
            Self::File(file) => file.mark(key, mark, expires_at).await,
            Self::Redis(redis) => redis.mark(key, mark, expires_at).await,
        }
    }

    /// Writes a mark as [`Store::mark`] does, and waits until what `ack` asks for is true.
    ///
    /// # Errors
    /// [`StoreError`]; `Unconfirmed` where it was written and then not all of `ack` came true.
    pub async fn revoke(&self, key: &str, mark: Mark, expires_at: u64, ack: Ack) -> Result<Acknowledged, StoreError> {
        match self {
            Self::Redis(redis) => redis.revoke(key, mark, expires_at, ack).await,
            Self::Memory(_) | Self::File(_) if ack == Ack::Replica => Err(StoreError::NoReplicas),
            // One process: what it has written, it refuses.
            Self::Memory(_) | Self::File(_) => self.mark(key, mark, expires_at).await.map(|()| Acknowledged::default()),
        }
    }

    /// Waits until every gateway with a live lease has applied what was written before.
    ///
    /// # Errors
    /// `Unconfirmed`, where that is not known.
    pub async fn settled(&self) -> Result<Acknowledged, StoreError> {
        match self {
            Self::Memory(_) | Self::File(_) => Ok(Acknowledged::default()),
            Self::Redis(redis) => redis.applied().await,
        }
    }

    /// Says that this gateway serves nobody any more: nobody has to wait for what it has applied.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer; then it is waited for until its lease is over.
    pub async fn leave(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) | Self::File(_) => Ok(()),
            Self::Redis(redis) => redis.leave().await,
        }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.read(key)),
            Self::File(file) => file.read(key),
            Self::Redis(redis) => redis.read(key).await,
        }
    }

    /// What time it is for the store where this key is, in unix milliseconds.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn time(&self, key: &str) -> Result<u64, StoreError> {
        match self {
            Self::Memory(_) | Self::File(_) => Ok(clock::unix_millis(clock::wall())),
            Self::Redis(redis) => redis.time(key).await,
        }
    }

    /// The keys that a pattern gives, a page at a time: `after` is empty, or [`Page::next`] of the page
    /// before. What is written meanwhile may be there or not.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn list(&self, pattern: &KeyPattern, after: &str) -> Result<Page, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.list(pattern, after)),
            Self::File(file) => file.list(pattern, after),
            Self::Redis(redis) => redis.list(pattern, after).await,
        }
    }

    /// Numbers about standings that are kept up to date, where a route wants that.
    #[must_use]
    pub fn tracking(&self) -> Option<TrackingNumbers> {
        match self {
            Self::Memory(_) | Self::File(_) => None,
            Self::Redis(redis) => redis.tracking().map(Tracking::numbers),
        }
    }

    /// Why the store does not answer look-ups now, as far as is known; `None` when it does.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Memory(_) => None,
            Self::File(file) => (!file.is_open()).then_some(Trouble::Away),
            Self::Redis(redis) => redis.trouble(),
        }
    }
}

/// What an entry becomes by a mark: a later time stays, a longer life stays.
fn strengthened(there: Option<(&str, u64)>, mark: Mark, expires_at: u64) -> (String, u64) {
    let kept = there.filter(|(value, _)| mark.is_said_by(value)).map(|(value, _)| value.to_owned());
    (kept.unwrap_or_else(|| mark.value()), there.map_or(expires_at, |(_, ends)| ends.max(expires_at)))
}

/// Keys on one page at the most, roughly.
const PAGE: usize = 1000;

/// The page of these keys, which come in their order.
fn page(keys: impl Iterator<Item = String>) -> Page {
    let keys: Vec<String> = keys.take(PAGE).collect();
    let next = if keys.len() == PAGE { keys.last().cloned() } else { None };
    Page { keys, next }
}

/// Judges a not-before value: `iat <= t` is dead (DESIGN §5). A value that is no whole number of
/// seconds says nothing that can be relied on.
fn judge_not_before(value: &str, issued_at: i64) -> Standing {
    match value.trim().parse::<i64>() {
        Ok(t) if issued_at <= t => Standing::Revoked,
        Ok(_) => Standing::Clear,
        Err(_) => Standing::Unknown,
    }
}

/// What a record of an embedded store says.
fn judge_text(key: &RecordKey, there: Option<&str>) -> Standing {
    let Some(text) = there else { return key.judge(Found::Nothing) };
    let value = read_record(text, key.form);
    key.judge(value.as_ref().map_or(Found::Unreadable, Found::Value))
}

/// A record of an embedded store, whose values are text: a hash is a JSON object of texts there.
fn read_record(value: &str, form: RecordForm) -> Option<RecordValue> {
    match form {
        RecordForm::Text => Some(RecordValue::Text(value.as_bytes().to_vec())),
        RecordForm::Hash => {
            let fields: std::collections::BTreeMap<String, String> = serde_json::from_str(value).ok()?;
            Some(RecordValue::hash(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_issued_in_the_second_of_the_logout_is_dead_and_an_unreadable_time_is_unknown() {
        assert_eq!(judge_not_before("100", 100), Standing::Revoked);
        assert_eq!(judge_not_before("100", 99), Standing::Revoked);
        assert_eq!(judge_not_before("100", 101), Standing::Clear);
        assert_eq!(judge_not_before(" 100\n", 101), Standing::Clear);
        for odd in ["", "yes", "1e3", "100.5", "2026-11-23", "99999999999999999999"] {
            assert_eq!(judge_not_before(odd, i64::MAX), Standing::Unknown, "{odd}");
        }
    }
}
