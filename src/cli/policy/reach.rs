//! What a question needs from outside: published keys, and what the store says. Each is asked once, and nothing is left
//! there.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use tokio::time::{sleep, timeout};

use crate::authenticate::bearer::shows_jwt;
use crate::authenticate::issuer::Issuer;
use crate::authenticate::keys::remote::{Refresher, RemoteKeys};
use crate::gateway::Gateway;
use crate::route::{RevocationMode, Rule};
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

/// What a question depends on: nobody is asked for nothing.
#[derive(Debug)]
pub struct Needs<'g> {
    /// Whose keys.
    pub issuers: Vec<&'g Issuer>,
    /// Whether the store.
    pub store: bool,
    asks_about_tokens: bool,
}

impl<'g> Needs<'g> {
    /// What the answer to a request depends on that shows who sends it.
    #[must_use]
    pub fn of(gateway: &'g Gateway, head: &Parts) -> Self {
        let nothing = Self { issuers: Vec::new(), store: false, asks_about_tokens: false };
        let Ok(admitted) = gateway.routes.admit(head) else { return nothing };
        let route = admitted.route;
        if admitted.is_preflight || matches!(route.rule, Rule::Public) {
            return nothing;
        }
        let is_jwt = shows_jwt(head);
        let shows_token = head.headers.contains_key(AUTHORIZATION);
        let issuers = route.auth.issuers().filter(|_| is_jwt);
        Self {
            issuers: issuers.filter_map(|place| gateway.authenticator.issuers().get(place)).collect(),
            store: (shows_token && route.revocation.mode != RevocationMode::Off)
                || (route.auth.takes_sessions && head.headers.contains_key(COOKIE)),
            asks_about_tokens: shows_token && !is_jwt && route.auth.takes_opaque,
        }
    }

    /// What there is to say where nobody may be asked.
    #[must_use]
    pub fn offline(&self) -> Vec<String> {
        let keys = self.issuers.iter().filter(|issuer| issuer.keys.remote().is_some());
        let keys = keys.map(|issuer| format!("published keys of `{}` are not read (--offline)", issuer.name));
        let asked = self.asks_about_tokens.then(|| "nobody is asked about the token (--offline)".to_owned());
        keys.chain(asked).collect()
    }
}

/// A way to ask the store of a configuration, which is needed or not; what there is to say of it.
pub async fn store(gateway: &Gateway, is_left_out: bool) -> (Asker, Option<String>) {
    let nothing = || Asker::Memory(Arc::new(Memory::default()));
    let Some(store) = gateway.authenticator.store() else { return (Asker::None, None) };
    let asked_nobody = |why: &str| {
        Some(format!("the store is not asked ({why}): nothing counts as taken back, and no session is known"))
    };
    match &**store {
        _ if is_left_out => (nothing(), asked_nobody("--offline")),
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
            let _in_time = timeout(REACHED, connected).await;
            let note = asker.trouble().map(|trouble| trouble.to_string());
            (asker, note)
        }
    }
}
