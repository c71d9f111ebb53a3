//! A login ends, or all of a subject.
//!
//! 1. `POST`: the login of the credential that came with it. A session that a service has made is over with its record.
//! 2. `POST ?everywhere`: whatever was issued to the subject up to now.
//! 3. The answer comes when the mark in the store is known to every gateway, or when one that is cut off has stopped to
//!    serve; where that is not known it is 202: the mark is written, and counts with the next word of the store.
//!
//! Source: RFC 9700 §4.14.

use std::sync::Arc;

use http::StatusCode;

use super::family::Family;
use super::tokens::TokenIssuer;
use super::{Asked, Desk, Issued, answer, unknown};
use crate::authenticate::{Caller, Identity};
use crate::clock;
use crate::denial::Denial;
use crate::refusal::Refusal;
use crate::route::Proof;
use crate::store::{Ack, Asker, Mark, StoreError};

impl Desk {
    /// Ends the caller's login, or all of the caller's.
    ///
    /// # Errors
    /// `StandingUnknown`, when the store did not take it; then nothing has ended.
    pub(super) async fn logout(
        &self,
        issuer: &TokenIssuer,
        caller: &Caller,
        asked: Asked<'_>,
    ) -> Result<Issued, Refusal> {
        let Asked { head, store, .. } = asked;
        let Caller::Known(identity) = caller else { return Err(Denial::MissingToken.into()) };
        let sid = identity.claims().member("sid").and_then(|sid| sid.as_str());
        let mut is_confirmed = true;
        if is_everywhere(head.uri.query()) {
            is_confirmed = self.end_all(issuer, identity, store).await?;
        } else if let Some(sid) = sid {
            is_confirmed = self.end(issuer, sid, Ack::All).await?;
        } else if let Some(record) = identity.session_key() {
            store.remove(record).await.map_err(unknown)?;
        } else {
            // A token of nobody's login: it has to be named by itself.
            return Err(Denial::MissingClaim("sid".into()).into());
        }
        if let Some(record) = identity.session_key() {
            let _out_of_use = store.remove(record).await;
        }
        if let Some(sid) = sid {
            self.forget(sid, None, store).await;
        }
        let status = if is_confirmed { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
        let mut response = answer::empty(status);
        for maker in &self.sessions {
            answer::set_cookie(&mut response, maker.cookie.removal());
        }
        let cookie = issuer.refresh.as_ref().and_then(|refresh| refresh.cookie.as_ref());
        answer::set_cookie(&mut response, cookie.and_then(|(cookie, _)| cookie.removal()));
        Ok(Issued::of(identity.subject(), response))
    }

    /// Writes the mark that takes a login back: its access tokens, its refresh tokens and its session.
    pub(super) async fn end(&self, issuer: &TokenIssuer, sid: &str, ack: Ack) -> Result<bool, Refusal> {
        let pattern = self.patterns.sid.as_ref().ok_or(Denial::StandingUnknown)?;
        self.mark(&pattern.key(sid, &issuer.issuer), Mark::Presence, ack).await
    }

    /// Writes the mark that takes back whatever was issued to a subject up to now.
    async fn end_all(&self, issuer: &TokenIssuer, identity: &Identity, store: &Asker) -> Result<bool, Refusal> {
        let pattern = self.patterns.sub.as_ref().ok_or(Denial::StandingUnknown)?;
        let mut issuers = vec![Arc::clone(&issuer.issuer)];
        if let Proof::Session(place) = identity.proof() {
            issuers.extend(self.session_issuers.get(place).cloned());
        }
        let mut keys: Vec<String> = issuers.iter().map(|issuer| pattern.key(identity.subject(), issuer)).collect();
        keys.dedup();
        let mut is_confirmed = true;
        for key in keys {
            // By whichever clock is ahead: what was issued by it is over too.
            let there = store.timed(&key).await.map_err(unknown)?.now / 1000;
            let until = clock::unix_seconds(clock::wall()).max(i64::try_from(there).unwrap_or(i64::MAX));
            is_confirmed &= self.mark(&key, Mark::NotBefore(until), Ack::All).await?;
        }
        Ok(is_confirmed)
    }

    /// Writes a mark; whether every gateway has confirmed it that had to.
    async fn mark(&self, key: &str, mark: Mark, ack: Ack) -> Result<bool, Refusal> {
        let store = self.store.as_ref().ok_or(Denial::StandingUnknown)?;
        let until = clock::unix_millis(clock::wall()).saturating_add(self.longest);
        match store.revoke(key, mark, until, ack).await {
            Ok(_) => Ok(true),
            Err(error @ StoreError::Unconfirmed(_)) => {
                tracing::warn!(%error, "a login has ended, and not every gateway has said so");
                Ok(false)
            }
            Err(error) => Err(unknown(error)),
        }
    }

    /// Takes away what is left of a login that has ended.
    pub(super) async fn forget(&self, sid: &str, family: Option<&Family>, store: &Asker) {
        let key = self.family_key(sid);
        let session = if let Some(family) = family {
            family.session.clone()
        } else {
            let text = store.timed(&key).await.ok().and_then(|said| said.text);
            text.as_deref().and_then(Family::read).and_then(|family| family.session)
        };
        for key in session.iter().chain(std::iter::once(&key)) {
            if let Err(error) = store.remove(key).await {
                tracing::debug!(%error, "what is left of a login that has ended stays in the store for a while");
            }
        }
    }
}

/// Whether the query says so: `?everywhere`, with any value but `false`.
fn is_everywhere(query: Option<&str>) -> bool {
    let parameters = query.unwrap_or_default().split('&');
    let mut parameters = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    parameters.any(|(name, value)| name == "everywhere" && value != "false")
}
