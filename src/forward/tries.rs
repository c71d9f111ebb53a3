//! What came of the tries of one request so far, and whether it may have another one.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Upstream;
use super::balance::Passed;
use super::error::ForwardError;
use super::health::Trial;

/// Requests that may be on their second try at one time, whatever the load is.
const FEW: u32 = 3;
/// One in so many of those that are under way.
const SHARE: u32 = 5;

/// What came of the tries so far.
#[derive(Default)]
pub(super) struct Tries<'a> {
    /// Which targets are not asked any more.
    pub(super) passed: Passed,
    /// Why the last target took no connection.
    pub(super) failure: Option<ForwardError>,
    /// Held from the second try on.
    retrying: Option<Retrying<'a>>,
    /// How often it went to another target than the one that had failed.
    pub(super) retries: usize,
    /// How often it was sent again to the same target.
    pub(super) here: usize,
    /// Whether a target may have seen it.
    pub(super) was_seen: bool,
    pub(super) has_body: bool,
    /// Where the target that was ejected is tried.
    pub(super) trial: Option<(usize, Trial)>,
}

impl<'a> Tries<'a> {
    /// None so far.
    pub(super) fn new(has_body: bool) -> Self {
        Self { has_body, ..Self::default() }
    }

    /// A target was answered by, or failed: if it was the one that was tried, that is settled.
    pub(super) fn settle(&mut self, place: usize) {
        if let Some((_, trial)) = self.trial.take_if(|(tried, _)| *tried == place) {
            trial.settle();
        }
    }

    /// Whether another target may be asked for what one has failed at; if so, it is counted.
    pub(super) fn may_go_elsewhere(&mut self, upstream: &'a Upstream) -> bool {
        let may = self.retries < upstream.retries && self.has_share(upstream);
        self.retries += usize::from(may);
        may
    }

    /// Whether this request is one of those that may be on their second try, or may be one more.
    pub(super) fn has_share(&mut self, upstream: &'a Upstream) -> bool {
        if self.retrying.is_none() {
            self.retrying = upstream.retry();
        }
        self.retrying.is_some()
    }
}

/// Counts a request that is on its second try.
struct Retrying<'a>(&'a AtomicU32);

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    /// Counts a request that is sent a second time; `None` where too many are.
    fn retry(&self) -> Option<Retrying<'_>> {
        let before = self.retrying.fetch_add(1, Ordering::Relaxed);
        let counted = Retrying(&self.retrying);
        let requests: u32 = self.targets.iter().map(|target| target.health.requests()).sum();
        (before < FEW.max(requests / SHARE)).then_some(counted)
    }
}
