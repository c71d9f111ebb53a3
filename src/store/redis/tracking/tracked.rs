//! The keys of one token on one connection: what they say together, and who waits for them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::generation::{ABSENT, Generation, Key, PRESENT, UNKNOWN, UNREADABLE, lock};
use crate::store::Standing;

/// The keys of one token on one connection.
pub struct Tracked {
    pub(super) generation: Arc<Generation>,
    /// Keys whose presence kills the token.
    pub(super) present: SmallVec<[Arc<Key>; 2]>,
    /// Keys whose time kills it, where its `iat` is at or before that.
    pub(super) times: SmallVec<[Arc<Key>; 1]>,
    /// The record that has to be there, and what it has to hold.
    pub(super) record: Option<(Arc<Key>, i64)>,
    issued_at: i64,
    /// Who waits for the look-up that is under way.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

/// The keys by how they are read.
pub(super) type TrackedKeys = (SmallVec<[Arc<Key>; 2]>, SmallVec<[Arc<Key>; 1]>, Option<(Arc<Key>, i64)>);

/// What can be said of a token without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Known(Standing),
    /// Some key has to be asked for.
    Ask,
    /// The connection has not proved itself for too long, or is gone.
    Stale,
}

impl Tracked {
    pub(super) fn new(generation: Arc<Generation>, (present, times, record): TrackedKeys, issued_at: i64) -> Self {
        Self { generation, present, times, record, issued_at, waiting: Mutex::default() }
    }

    /// What is known of the token at `now`.
    pub(super) fn judge(&self, now: Instant, max_staleness: Duration) -> Verdict {
        if !self.generation.is_fresh(now, max_staleness) {
            return Verdict::Stale;
        }
        let mut verdict = Verdict::Known(Standing::Clear);
        for key in &self.present {
            match key.known.load(Ordering::Acquire) {
                ABSENT => {}
                UNKNOWN => verdict = Verdict::Ask,
                _ => return Verdict::Known(Standing::Revoked),
            }
        }
        for key in &self.times {
            match key.known.load(Ordering::Acquire) {
                ABSENT => {}
                UNKNOWN => verdict = Verdict::Ask,
                PRESENT | UNREADABLE if verdict == Verdict::Known(Standing::Clear) => {
                    verdict = Verdict::Known(Standing::Unknown);
                }
                PRESENT | UNREADABLE => {}
                time if self.issued_at <= time => return Verdict::Known(Standing::Revoked),
                _ => {}
            }
        }
        if let Some((key, was)) = &self.record {
            match key.known.load(Ordering::Acquire) {
                UNKNOWN => verdict = Verdict::Ask,
                PRESENT | UNREADABLE if verdict == Verdict::Known(Standing::Clear) => {
                    verdict = Verdict::Known(Standing::Unknown);
                }
                PRESENT | UNREADABLE => {}
                is if is == *was => {}
                // It is gone, or another one.
                _ => return Verdict::Known(Standing::Revoked),
            }
        }
        verdict
    }

    /// Whether the primary can speak for all keys that have to be asked for.
    pub(super) fn is_settled(&self) -> bool {
        self.generation.are_settled(self.keys().filter(|key| key.is_unknown()))
    }

    /// Every key of the token.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.present.iter().chain(&self.times).chain(self.record.iter().map(|(key, _)| key))
    }

    /// Waits for the look-up that is under way; `true` where there was none, and it has to be sent.
    pub(super) fn wait(&self) -> (oneshot::Receiver<()>, bool) {
        let (done, wait) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        waiting.push(done);
        (wait, waiting.len() == 1)
    }

    /// Tells everybody who waits that the look-up is over.
    pub(super) fn answered(&self) {
        for done in std::mem::take(&mut *lock(&self.waiting)) {
            // A caller that has gone away does not want the answer any more.
            let _gone = done.send(());
        }
    }
}
