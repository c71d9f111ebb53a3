//! What is remembered of one token's standing, beside the verified token; it leaves with it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::redis::{Split, Tracked};
use crate::late::Late;

/// One token's, shared by the workers.
#[derive(Default)]
pub struct Slot {
    /// Its keys on a tracking connection.
    pub(super) tracked: Late<Tracked>,
    /// Where the store is a cluster: its keys by primary, each with a slot of its own.
    pub(super) split: Late<Split>,
    /// The count of changes at which an embedded store said that it is clear; 0 is never.
    clear_at: AtomicU64,
}

impl Slot {
    pub(super) fn is_clear_at(&self, changes: u64) -> bool {
        self.clear_at.load(Ordering::Acquire) == changes
    }

    pub(super) fn keep_clear(&self, changes: u64) {
        self.clear_at.store(changes, Ordering::Release);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
