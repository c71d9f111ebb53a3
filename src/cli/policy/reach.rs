//! What a question needs from outside: published keys, and what the store says. Each is asked once, and nothing is left
//! there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::authenticate::issuer::Issuer;
use crate::authenticate::keys::remote::{Refresher, RemoteKeys};
use crate::gateway::Gateway;
use crate::store::{Asker, Memory, Store};

/// How long a store may take to be reached.
const REACHED: Duration = Duration::from_secs(3);

/// Reads the published keys of these issuers; what went wrong with which.
pub async fn read_keys(all: &[(Arc<RemoteKeys>, Refresher)], issuers: &[&Issuer]) -> Vec<String> {
    let mut notes = Vec::new();
    for remote in issuers.iter().filter_map(|issuer| issuer.keys.remote()) {
        let Some((_, refresher)) = all.iter().find(|(known, _)| Arc::ptr_eq(known, &remote)) else { continue };
        if let Err(reason) = refresher.read_once().await {
            notes.push(format!("keys of `{}` cannot be read: {reason}", remote.issuer()));
        }
    }
    notes
}

/// A way to ask the store of a configuration; what there is to say of it.
pub async fn store(gateway: &Gateway, is_offline: bool) -> (Asker, Option<String>) {
    let nothing = || Asker::Memory(Arc::new(Memory::default()));
    let Some(store) = gateway.authenticator.store() else { return (Asker::None, None) };
    let asked_nobody = |why: &str| Some(format!("the store is not asked ({why}): nothing counts as taken back"));
    match &**store {
        _ if is_offline => (nothing(), asked_nobody("--offline")),
        Store::Memory(_) => (nothing(), asked_nobody("it is in the memory of the gateway")),
        Store::File(_) => (nothing(), asked_nobody("its file is the running gateway's alone")),
        Store::Redis(_) => {
            let (asker, driver) = store.asker_apart();
            if let Some(driver) = driver {
                tokio::spawn(driver.run());
            }
            let connected = async {
                while !asker.is_connected() {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let note = timeout(REACHED, connected).await.err().map(|_| "the store is not reached".to_owned());
            (asker, note)
        }
    }
}
