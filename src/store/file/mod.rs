//! The store in a file of this machine: exact, immediate, there again after a crash.
//!
//! 1. One thread writes. What is asked while it waits for the disk goes into its next transaction
//!    together, and is acknowledged once that is on the disk.
//! 2. A look-up reads a snapshot of the tree; it waits for no writer.
//! 3. What was clear stays clear until something is written, so that most requests read one number
//!    and not the tree.
//! 4. Entries leave the file after their end of life.
//! 5. An error of the disk makes everything unknown until the file has been opened anew.
//!
//! What it does not do: share a file between processes (the second one is refused), or follow
//! somebody who writes into it from outside.

mod transaction;

use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use tokio::sync::oneshot;

use super::{
    Entry, KeyPattern, Mark, Page, Record, RecordForm, Slot, Standing, StandingKeys, StoreError, judge_not_before,
    judge_text, page, read_record,
};
use crate::clock;

/// Key to value and end of life (unix milliseconds).
const ENTRIES: TableDefinition<'static, &str, (&str, u64)> = TableDefinition::new("entries");
/// The same by end of life, for those that are over.
const ENDS: TableDefinition<'static, (u64, &str), ()> = TableDefinition::new("ends");

/// Writes that may wait; one more is refused.
const QUEUE: usize = 65_536;
/// Writes in one transaction at the most.
const BATCH: usize = 1024;
/// How often entries that are over are looked for while nobody writes.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Pause before a file that failed is opened anew.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Bytes of the file that are kept in memory at the most.
const CACHE: usize = 64 * 1024 * 1024;

/// Reads, and hands writes to the [`Writer`].
pub struct File {
    path: PathBuf,
    shared: Arc<Shared>,
    writes: SyncSender<Write>,
}

/// Opens the file and writes to it; one for each [`File`].
pub struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    inbox: Receiver<Write>,
}

struct Shared {
    /// Empty before the file was opened, and after it failed.
    database: ArcSwapOption<Database>,
    /// Counts transactions, from 1.
    changes: AtomicU64,
}

struct Write {
    key: String,
    what: What,
    /// What is told when it is on the disk: whether it was done.
    done: oneshot::Sender<Result<bool, StoreError>>,
}

/// What becomes of an entry.
enum What {
    /// It is written, or strengthened, until this time.
    Mark(Mark, u64),
    /// It lives until this time, if it is there.
    Touch(u64),
    /// It is this, until this time.
    Put(String, u64),
    /// It is the second in the place of the first, until this time, if it is the first.
    Swap { old: String, new: String, until: u64, by: u64 },
    /// It is gone.
    Remove,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl File {
    /// A store in the file at `path`, and what opens it. Until that has happened all is unknown.
    #[must_use]
    pub fn new(path: PathBuf) -> (Self, Writer) {
        let (writes, inbox) = sync_channel(QUEUE);
        let shared = Arc::new(Shared { database: ArcSwapOption::empty(), changes: AtomicU64::new(1) });
        let writer = Writer { path: path.clone(), shared: Arc::clone(&shared), inbox };
        (Self { path, shared, writes }, writer)
    }

    /// Whether it is open.
    pub(super) fn is_open(&self) -> bool {
        self.shared.database.load().is_some()
    }

    /// What the entries say of a token.
    pub(super) fn standing(&self, keys: &StandingKeys) -> Standing {
        if keys.is_empty() {
            return Standing::Unknown;
        }
        self.judge(keys).unwrap_or(Standing::Unknown)
    }

    /// The same, read only where something was written since the token was found clear.
    pub(super) fn kept(&self, keys: &StandingKeys, slot: &Slot) -> Standing {
        // Before the entries: what is written while they are read counts as not seen.
        let changes = self.shared.changes.load(Ordering::Acquire);
        if slot.is_clear_at(changes) {
            return Standing::Clear;
        }
        let standing = self.standing(keys);
        if standing == Standing::Clear {
            slot.keep_clear(changes);
        }
        standing
    }

    fn judge(&self, keys: &StandingKeys) -> Option<Standing> {
        let (entries, now) = (self.entries()?, clock::unix_millis(clock::wall()));
        for key in &keys.present {
            if live(&entries, key, now).ok()?.is_some() {
                return Some(Standing::Revoked);
            }
        }
        let mut standing = Standing::Clear;
        for key in &keys.times {
            if let Some((value, _)) = live(&entries, key, now).ok()? {
                standing = standing.worse(judge_not_before(&value, keys.issued_at));
            }
        }
        if let Some(record) = &keys.record {
            let there = live(&entries, &record.name, now).ok()?;
            standing = standing.worse(judge_text(record, there.as_ref().map(|(value, _)| &**value)));
        }
        Some(standing)
    }

    fn entries(&self) -> Option<ReadOnlyTable<&'static str, (&'static str, u64)>> {
        let database = self.shared.database.load_full()?;
        database.begin_read().ok()?.open_table(ENTRIES).ok()
    }

    /// Reads one entry.
    pub(super) fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let now = clock::unix_millis(clock::wall());
        let entries = self.entries().ok_or(StoreError::Away)?;
        let found = live(&entries, key, now).map_err(|error| StoreError::Refused(error.to_string()))?;
        Ok(found.map(|(value, ends)| Entry { value, remaining: Some(ends.saturating_sub(now)) }))
    }

    /// The keys that a pattern gives, after one of them, in order.
    pub(super) fn list(&self, pattern: &KeyPattern, after: &str) -> Result<Page, StoreError> {
        let refused = |error: StorageError| StoreError::Refused(error.to_string());
        let now = clock::unix_millis(clock::wall());
        let entries = self.entries().ok_or(StoreError::Away)?;
        let range = entries.range::<&str>((Bound::Excluded(after), Bound::Unbounded)).map_err(refused)?;
        let live = range.flatten().filter(|(_, entry)| entry.value().1 > now);
        Ok(page(live.map(|(key, _)| key.value().to_owned()).filter(|key| pattern.gives(key))))
    }

    /// Reads the record of a session.
    pub(super) fn record(&self, key: &str, form: RecordForm) -> Result<Option<Record>, StoreError> {
        let Some(Entry { value, remaining }) = self.read(key)? else { return Ok(None) };
        let odd = || StoreError::Refused("WRONGTYPE".to_owned());
        Ok(Some(Record { value: read_record(&value, form).ok_or_else(odd)?, remaining }))
    }

    /// Writes one entry, or strengthens the one that is there; it is on the disk when this returns.
    pub(super) async fn mark(&self, key: &str, mark: Mark, expires_at: u64) -> Result<(), StoreError> {
        self.write(key, What::Mark(mark, expires_at)).await.map(drop)
    }

    /// Has an entry live for so many milliseconds from now on; whether it is there.
    pub(super) async fn touch(&self, key: &str, life: u64) -> Result<bool, StoreError> {
        let until = clock::unix_millis(clock::wall()).saturating_add(life);
        self.write(key, What::Touch(until)).await
    }

    /// Writes an entry that lives for so many milliseconds from now on, whatever is there.
    pub(super) async fn put(&self, key: &str, value: &str, life: u64) -> Result<(), StoreError> {
        let until = clock::unix_millis(clock::wall()).saturating_add(life);
        self.write(key, What::Put(value.to_owned(), until)).await.map(drop)
    }

    /// Puts `new` in the place of `old`, to live for so many milliseconds from now on, if that is what is there.
    pub(super) async fn swap(
        &self,
        key: &str,
        (old, new): (&str, &str),
        life: u64,
        by: u64,
    ) -> Result<bool, StoreError> {
        let until = clock::unix_millis(clock::wall()).saturating_add(life);
        self.write(key, What::Swap { old: old.to_owned(), new: new.to_owned(), until, by }).await
    }

    /// Takes an entry away; whether it was there.
    pub(super) async fn remove(&self, key: &str) -> Result<bool, StoreError> {
        self.write(key, What::Remove).await
    }

    async fn write(&self, key: &str, what: What) -> Result<bool, StoreError> {
        let (done, wait) = oneshot::channel();
        self.writes.try_send(Write { key: key.to_owned(), what, done }).map_err(|_| StoreError::Away)?;
        wait.await.unwrap_or(Err(StoreError::Away))
    }
}

/// An entry whose end has not come: its value and its end.
fn live(
    entries: &impl ReadableTable<&'static str, (&'static str, u64)>,
    key: &str,
    now: u64,
) -> Result<Option<(String, u64)>, StorageError> {
    let found = entries.get(key)?;
    Ok(found.and_then(|found| {
        let (value, ends) = found.value();
        (ends > now).then(|| (value.to_owned(), ends))
    }))
}

impl Writer {
    /// Opens the file, or makes it, and starts the thread that writes.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn start(self) -> Result<(), String> {
        let database = open(&self.path).map_err(|error| told(&self.path, &error))?;
        tracing::info!(path = %self.path.display(), "store opened");
        self.shared.database.store(Some(Arc::new(database)));
        let thread = std::thread::Builder::new().name("store".to_owned());
        thread.spawn(move || self.run()).map(drop).map_err(|error| format!("no thread for the store: {error}"))
    }

    fn run(self) {
        loop {
            let mut writes = Vec::new();
            match self.inbox.recv_timeout(SWEEP_EVERY) {
                Ok(write) => writes.push(write),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            writes.extend(self.inbox.try_iter().take(BATCH - 1));
            let wrote = self.shared.database.load_full().map_or(Err(StoreError::Away), |database| {
                transaction::write(&database, &writes).map_err(|error| StoreError::Refused(error.to_string()))
            });
            // Before anybody is told: from then on no standing from before counts.
            self.shared.changes.fetch_add(1, Ordering::Release);
            if let Err(error) = &wrote {
                tracing::error!(path = %self.path.display(), %error, "the store failed: tokens get 503 until it is opened anew");
            }
            let mut done = wrote.as_ref().map(|done| done.iter()).unwrap_or_default();
            for write in writes {
                let is_done = done.next().copied().unwrap_or_default();
                // Who has gone away does not want to know.
                let _gone = write.done.send(wrote.as_ref().map(|_| is_done).map_err(Clone::clone));
            }
            if wrote.is_err() && !self.reopen() {
                return;
            }
        }
    }

    /// Opens the file anew after an error, for as long as somebody may want it.
    fn reopen(&self) -> bool {
        self.shared.database.store(None);
        self.shared.changes.fetch_add(1, Ordering::Release);
        let mut next = clock::monotonic() + REOPEN_AFTER;
        loop {
            // Not counted from the last write: whoever writes again and again would keep it closed.
            match self.inbox.recv_timeout(next.saturating_duration_since(clock::monotonic())) {
                Ok(write) => {
                    let _gone = write.done.send(Err(StoreError::Away));
                    if clock::monotonic() < next {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            next = clock::monotonic() + REOPEN_AFTER;
            if let Ok(database) = open(&self.path) {
                tracing::info!(path = %self.path.display(), "store opened");
                self.shared.database.store(Some(Arc::new(database)));
                return true;
            }
        }
    }
}

/// Opens the file, or makes it. The library panics over one whose end is missing: that is a file that cannot be opened, and
/// no reason to end what serves by another one.
fn open(path: &Path) -> Result<Database, redb::Error> {
    let damaged = |_| Err(redb::Error::Corrupted("it is damaged".to_owned()));
    catch_unwind(|| open_whole(path)).unwrap_or_else(damaged)
}

fn open_whole(path: &Path) -> Result<Database, redb::Error> {
    // Readable by its owner alone: it names subjects.
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let database = Builder::new().set_cache_size(CACHE).create_file(file)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(ENDS)?;
    transaction.commit()?;
    Ok(database)
}

fn told(path: &Path, error: &redb::Error) -> String {
    let path = path.display();
    if matches!(error, redb::Error::DatabaseAlreadyOpen) {
        return format!(
            "store: `{path}` is in use by another process; one file serves one gateway, and several share a Redis"
        );
    }
    if matches!(error, redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData) {
        return format!("store: `{path}` is something else than a store; name another file in `store.url`");
    }
    format!("store: `{path}` cannot be opened: {error}; `store.url` names another place: `file:/var/lib/...`")
}
