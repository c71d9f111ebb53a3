//! Who a cookie is of: what is remembered, held against what the store says now, or read anew.

use std::sync::Arc;

use http::request::Parts;

use super::Sessions;
use crate::authenticate::{Authenticator, Identity};
use crate::clock::Moment;
use crate::denial::Denial;
use crate::route::{RevocationPolicy, Route};
use crate::store::{Asker, StoreError};

/// How often the record of a session is read for one request that finds it changing.
const READINGS: usize = 3;

/// The cookie of a session.
pub(in crate::authenticate) struct Cookie<'r> {
    place: usize,
    pub(in crate::authenticate) sessions: &'r Sessions,
    value: &'r str,
}

impl Authenticator {
    /// The cookie of a session that the route takes, if one is sent.
    pub(in crate::authenticate) fn cookie<'r>(
        &'r self,
        route: &Route,
        request: &'r Parts,
    ) -> Result<Option<Cookie<'r>>, Denial> {
        let mut found = None;
        for place in route.auth.sessions() {
            let Some(sessions) = self.sessions.get(place) else { continue };
            if let Some(value) = sessions.value(&request.headers)? {
                if found.is_some() {
                    return Err(Denial::DuplicateCredentials);
                }
                found = Some(Cookie { place, sessions, value });
            }
        }
        Ok(found)
    }

    /// Who a cookie is of, by what the store says now.
    pub(in crate::authenticate) async fn of_session(
        &self,
        cookie: &Cookie<'_>,
        policy: RevocationPolicy,
        now: Moment,
        store: &Asker,
    ) -> Result<Arc<Identity>, Denial> {
        let known = &cookie.sessions.known;
        if let Some(identity) = known.find(cookie.value.as_bytes()) {
            let is_over = identity.vouch.life.as_ref().is_some_and(|life| life.is_over(now));
            match identity.vouch.check(policy, now, store).await {
                Ok(()) if !is_over => {
                    let used = Self::used(identity, now, store).await;
                    if used.is_err() {
                        known.forget(cookie.value.as_bytes());
                    }
                    return used;
                }
                // Its record is gone, or another one, or lives on: it is read again.
                Ok(()) | Err(Denial::Revoked | Denial::Expired | Denial::UnknownKey) => {
                    known.forget(cookie.value.as_bytes());
                }
                Err(denial) => return Err(denial),
            }
        }
        let key = cookie.sessions.record_key(cookie.value)?;
        let mut seen = None;
        for _ in 0..READINGS {
            // Boxed, here and below: what few requests wait for is no room that each of them takes.
            let record = match Box::pin(store.record(&key, cookie.sessions.form)).await {
                Ok(record) => record.ok_or(Denial::UnknownSession)?,
                Err(StoreError::Refused(code)) if code == "WRONGTYPE" => return Err(Denial::MalformedSession),
                Err(error) => {
                    tracing::debug!(%error, "a session cannot be read");
                    return Err(Denial::StandingUnknown);
                }
            };
            let fingerprint = record.value.fingerprint();
            let (proven, life) = cookie.sessions.prove(cookie.place, (Arc::clone(&key), record), now)?;
            let identity = Arc::new(self.memory.identity(proven, Some(life))?);
            match identity.vouch.check(policy, now, store).await {
                Ok(()) => {
                    known.keep(cookie.value.as_bytes(), Arc::clone(&identity));
                    return Self::used(identity, now, store).await;
                }
                // Either it was taken back, or it changed while it was read.
                Err(Denial::Revoked) if seen != Some(fingerprint) => seen = Some(fingerprint),
                Err(denial) => return Err(denial),
            }
        }
        // It changes faster than it can be read.
        Err(Denial::StandingUnknown)
    }

    /// Whether a session goes on whose time is over, as far as is known here.
    pub(in crate::authenticate) async fn goes_on(
        identity: &Identity,
        now: Moment,
        store: &Asker,
    ) -> Result<(), Denial> {
        let vouch = &identity.vouch;
        let (Some(life), Some(record)) = (&vouch.life, &vouch.standing_keys.record) else { return Ok(()) };
        if !life.is_over(now) {
            return Ok(());
        }
        match store.record(life.key(), record.form).await {
            Ok(Some(there)) => life.lives_on(now, there.remaining.unwrap_or(u64::MAX)),
            Ok(None) => return Err(Denial::UnknownSession),
            Err(_) => return Err(Denial::StandingUnknown),
        }
        Ok(())
    }

    /// Has a session that is used live on, now and then.
    async fn used(identity: Arc<Identity>, now: Moment, store: &Asker) -> Result<Arc<Identity>, Denial> {
        let Some(life) = &identity.vouch.life else { return Ok(identity) };
        if let Some((key, time)) = life.due(now, identity.vouch.expires_at) {
            match Box::pin(store.touch(key, time)).await {
                Ok(true) => life.lives_on(now, time),
                Ok(false) => return Err(Denial::UnknownSession),
                // It lives for a while yet, and is written the next time that it is due.
                Err(error) => tracing::debug!(%error, "a session is used and cannot be told to live on"),
            }
        }
        Ok(identity)
    }
}
