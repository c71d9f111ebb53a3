//! What the connections to the primaries of one cluster share: its lease.
//!
//! There is one epoch and one lease for the whole cluster, wherever their slot is. Who reads that the
//! epoch has moved, has every primary's connection prove itself after that, and says so then; what
//! cannot prove itself does not count any more. Without a lease that was taken nothing counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::cluster::Fleet;
use super::super::{Lease, code, lease};
use super::cluster::Routes;
use super::source::Limits;
use crate::clock;

/// The lease of a gateway at a cluster.
pub(super) struct Group {
    born: Instant,
    lease: Option<Lease>,
    /// When the last renewal that was taken had been sent, in microseconds from `born`; 0 is never.
    renewed: AtomicU64,
    /// Somebody waits until this gateway says what it has applied.
    pub(super) is_awaited: Notify,
}

impl Group {
    pub(super) fn new(lease: Option<Lease>) -> Arc<Self> {
        Arc::new(Self { born: clock::monotonic(), lease, renewed: AtomicU64::new(0), is_awaited: Notify::new() })
    }

    /// The key that is tracked.
    pub(super) fn epoch_key(&self) -> Option<&str> {
        self.lease.as_ref().map(Lease::epoch_key)
    }

    /// Whether what the connections said may count, as far as the lease goes.
    pub(super) fn is_leased(&self, now: Instant, max_staleness: Duration) -> bool {
        if self.lease.is_none() {
            return true;
        }
        let renewed = self.renewed.load(Ordering::Acquire);
        renewed > 0 && now.saturating_duration_since(self.born + Duration::from_micros(renewed)) <= max_staleness
    }

    /// Renews the lease, time and again, and at once where somebody waits for this gateway.
    pub(super) async fn keep(self: Arc<Self>, fleet: Fleet, routes: Arc<Routes>, limits: Limits) {
        let Some(lease) = &self.lease else { return };
        let mut beat = interval(limits.max_staleness / 4);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What is said to be applied; what is read and not yet applied, and when it was read.
        let (mut applied, mut read) = (0, None);
        let mut told = None;
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = self.is_awaited.notified() => {}
            }
            loop {
                let renewed = self.renew(lease, &fleet, applied).await;
                self.tell(&mut told, renewed.as_ref().err(), limits.max_staleness);
                let Ok(epoch) = renewed else { break };
                if epoch == applied {
                    break;
                }
                let (epoch, moment) = *read.get_or_insert_with(|| (epoch, clock::monotonic()));
                // No longer than a beat: the lease is renewed meanwhile, with what is applied.
                if timeout(limits.max_staleness / 4, routes.prove_since(moment, fleet.watched())).await.is_err() {
                    break;
                }
                (applied, read) = (epoch, None);
            }
        }
    }

    /// Says what is applied, and reads the epoch.
    async fn renew(&self, lease: &Lease, fleet: &Fleet, applied: u64) -> Result<u64, String> {
        let sent = clock::monotonic();
        let (renewed, epoch) = tokio::join!(
            fleet.command(lease.leases_key(), lease.renew(applied)),
            fleet.command(lease.epoch_key(), lease.read_epoch()),
        );
        let renewed = renewed.map_err(|error| error.to_string())?;
        if let Some(code) = code(&renewed) {
            return Err(format!("the lease is refused: {code}"));
        }
        let micros = u64::try_from(sent.saturating_duration_since(self.born).as_micros()).unwrap_or(0);
        self.renewed.fetch_max(micros.max(1), Ordering::AcqRel);
        let epoch = epoch.map_err(|error| error.to_string())?;
        if let Some(code) = code(&epoch) {
            return Err(format!("the epoch is refused: {code}"));
        }
        lease::epoch(&epoch).ok_or_else(|| "an odd epoch".to_owned())
    }

    /// Says once that there is no lease any more, and once that there is one again.
    fn tell(&self, told: &mut Option<bool>, why: Option<&String>, max_staleness: Duration) {
        match why {
            Some(reason) if *told != Some(false) && !self.is_leased(clock::monotonic(), max_staleness) => {
                tracing::error!(reason, "the cluster takes no lease: tokens get 503 until it does");
                *told = Some(false);
            }
            None if *told == Some(false) => {
                tracing::info!("the cluster takes the lease again");
                *told = Some(true);
            }
            Some(_) | None => {}
        }
    }
}
