//! What runs beside the requests, and is kept up to date: published keys, certificates, the store, the clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::LOOK;
use crate::accept::Listener;
use crate::accept::tls::Tls;
use crate::authenticate::keys::remote::RemoteKeys;
use crate::cli::Failure;
use crate::clock::steps::{self, Step};
use crate::config::compile::Background;
use crate::gateway::Gateway;

/// How long a new store, and new published keys, may take before requests see them all the same.
const REACHED: Duration = Duration::from_secs(5);

/// What is kept up to date, and the tasks that do it.
pub(super) type Running<T> = Vec<(Arc<T>, JoinHandle<()>)>;

/// Starts what runs beside the requests; what keeps published keys up to date is to be ended.
pub(super) fn spawn(background: Background) -> Result<Running<RemoteKeys>, Failure> {
    let Background { store, writer, tracker, keys } = background;
    writer.map_or(Ok(()), crate::store::Writer::start).map_err(Failure::Runtime)?;
    if let Some(driver) = store {
        tokio::spawn(driver.run());
    }
    if let Some(tracker) = tracker {
        tokio::spawn(tracker.run());
    }
    Ok(keys.into_iter().map(|(keys, refresher)| (keys, tokio::spawn(refresher.run()))).collect())
}

/// Tells of steps of the wall clock, for as long as the process serves.
pub(super) async fn watch_clock() {
    let mut watch = steps::Watch::default();
    loop {
        match watch.look() {
            None => {}
            Some(Step::Forward(by)) => {
                let seconds = by.as_secs();
                tracing::warn!(seconds, "the wall clock was set forward, or the machine slept");
            }
            Some(Step::Back(by)) => tracing::error!(
                seconds = by.as_secs(),
                "the wall clock was set back: what it saw end stays ended until it shows that time again, or a restart"
            ),
            Some(Step::Undone) => tracing::info!("the wall clock goes on from before its last step"),
        }
        sleep(LOOK).await;
    }
}

pub(super) fn end<T>(running: Running<T>) {
    for (_, task) in running {
        task.abort();
    }
}

/// Waits for the store and the keys of a gateway, for a while.
pub(super) async fn reach(gateway: &Gateway) {
    let authenticator = &gateway.authenticator;
    let is_there = || {
        authenticator.store().is_none_or(|store| store.trouble().is_none())
            && authenticator.issuers().iter().all(|issuer| issuer.keys.current().is_ok())
    };
    let there = async {
        while !is_there() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(REACHED, there).await.is_err() {
        tracing::warn!("the store, or keys, of the new configuration are not reached: what needs them answers 503");
    }
}

/// Keeps the certificates of these listeners up to date, and no others.
pub(super) fn keep(listeners: &[Listener], before: Running<Tls>) -> Running<Tls> {
    let mut before = before;
    let mut keepers = Vec::new();
    for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        let known = before.iter().position(|(known, _)| Arc::ptr_eq(known, tls));
        keepers.push(match known {
            Some(place) => before.swap_remove(place),
            None => (Arc::clone(tls), tokio::spawn(Arc::clone(tls).keep())),
        });
    }
    end(before);
    keepers
}
