//! A worker's way to ask the store, without crossing a thread.

use std::sync::Arc;
use std::time::Instant;

use super::{Entry, File, Link, Memory, Record, RecordForm, Slot, Standing, StandingKeys, StoreError, Trouble};
use crate::clock;

/// A text of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// The text, if there is one.
    pub text: Option<String>,
    /// What time it is for the store, in unix milliseconds.
    pub now: u64,
}

/// A worker's way to ask the store, without crossing a thread.
#[derive(Debug)]
pub enum Asker {
    /// No store is configured: nothing is known of any token.
    None,
    /// In this process.
    Memory(Arc<Memory>),
    /// In a file of this machine.
    File(Arc<File>),
    /// A link of this worker alone.
    Redis(Box<Link>),
    /// The same of who only looks: nothing is written by it.
    Looking(Box<Link>),
}

impl Asker {
    /// What the store says of a token now.
    pub async fn standing(&self, keys: &Arc<StandingKeys>) -> Standing {
        match self {
            Self::None => Standing::Unknown,
            Self::Memory(memory) => memory.standing(keys),
            Self::File(file) => file.standing(keys),
            Self::Redis(link) | Self::Looking(link) => link.standing(keys).await,
        }
    }

    /// Why look-ups are not answered, as far as is known.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::None | Self::Memory(_) => None,
            Self::File(file) => (!file.is_open()).then_some(Trouble::Away),
            Self::Redis(link) | Self::Looking(link) => link.trouble(),
        }
    }

    /// Whether there is a connection to ask on; what needs none has it.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match self {
            Self::None | Self::Memory(_) => true,
            Self::File(file) => file.is_open(),
            Self::Redis(link) | Self::Looking(link) => link.trouble() != Some(Trouble::Away),
        }
    }

    /// What is known of a token at `now`, asked for once and then kept up to date in `slot`. A store
    /// in this process is asked as it is.
    pub async fn tracked(&self, keys: &Arc<StandingKeys>, slot: &Slot, now: Instant) -> Standing {
        match self {
            Self::None => Standing::Unknown,
            Self::Memory(memory) => memory.standing(keys),
            Self::File(file) => file.kept(keys, slot),
            Self::Redis(link) | Self::Looking(link) => {
                let told = match link.tracking() {
                    Some(tracking) => tracking.standing(keys, slot, now).await,
                    None => None,
                };
                match told {
                    Some(standing) => standing,
                    None => link.standing(keys).await,
                }
            }
        }
    }

    /// Reads the record of a session.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn record(&self, key: &str, form: RecordForm) -> Result<Option<Record>, StoreError> {
        match self {
            Self::None => Err(StoreError::Away),
            Self::Memory(memory) => Ok(memory.record(key, form)),
            Self::File(file) => file.record(key, form),
            Self::Redis(link) | Self::Looking(link) => link.record(key, form).await,
        }
    }

    /// Has a record live for so many milliseconds from now on; whether it is there.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn touch(&self, key: &str, life: u64) -> Result<bool, StoreError> {
        match self {
            Self::None => Err(StoreError::Away),
            Self::Memory(memory) => Ok(memory.touch(key, life)),
            Self::File(file) => file.touch(key, life).await,
            Self::Redis(link) => link.touch(key, life).await,
            // It is as if it had been: nobody has used it.
            Self::Looking(_) => Ok(true),
        }
    }

    /// Writes a text that lives for so many milliseconds, whatever is there.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn put(&self, key: &str, value: &str, life: u64) -> Result<(), StoreError> {
        match self {
            Self::None => Err(StoreError::Away),
            Self::Memory(memory) => {
                memory.put(key, value, life);
                Ok(())
            }
            Self::File(file) => file.put(key, value, life).await,
            Self::Redis(link) => link.put(key, value, life).await,
            Self::Looking(_) => Err(StoreError::Away),
        }
    }

    /// Puts the second in the place of the first, to live for so many milliseconds, if that is what is there: in one step,
    /// whoever else writes. It is begun `by` a time of the store's clock, in unix milliseconds, or not at all: what was given up
    /// for lost is not done later.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer; then it may have been done or not.
    pub async fn swap(&self, key: &str, (old, new): (&str, &str), life: u64, by: u64) -> Result<bool, StoreError> {
        match self {
            Self::None => Err(StoreError::Away),
            Self::Memory(memory) => Ok(memory.swap(key, (old, new), life, by)),
            Self::File(file) => file.swap(key, (old, new), life, by).await,
            Self::Redis(link) => link.swap(key, (old, new), life, by).await,
            Self::Looking(_) => Err(StoreError::Away),
        }
    }

    /// Takes one request out of a bucket that all gateways share; how many microseconds it comes too early. A store of
    /// one process has none beside that process's own.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn take(&self, key: &str, interval: u64, burst: u64) -> Result<u64, StoreError> {
        match self {
            Self::None | Self::Memory(_) | Self::File(_) | Self::Looking(_) => Ok(0),
            Self::Redis(link) => link.take(key, interval, burst).await,
        }
    }

    /// Takes an entry away; whether it was there.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer.
    pub async fn remove(&self, key: &str) -> Result<bool, StoreError> {
        match self {
            Self::None => Err(StoreError::Away),
            Self::Memory(memory) => Ok(memory.remove(key)),
            Self::File(file) => file.remove(key).await,
            Self::Redis(link) => link.remove(key).await,
            Self::Looking(_) => Err(StoreError::Away),
        }
    }

    /// Reads a text, and what time it is for the store where that key is: the same for every gateway that shares it.
    ///
    /// # Errors
    /// [`StoreError`], when there is no answer, or what is there is no text.
    pub async fn timed(&self, key: &str) -> Result<Timed, StoreError> {
        let here = || clock::unix_millis(clock::wall());
        let text = |entry: Option<Entry>| entry.map(|entry| entry.value);
        match self {
            Self::None => Err(StoreError::Away),
            Self::Memory(memory) => Ok(Timed { text: text(memory.read(key)), now: here() }),
            Self::File(file) => Ok(Timed { text: text(file.read(key)?), now: here() }),
            Self::Redis(link) | Self::Looking(link) => link.timed(key).await,
        }
    }
}
