//! A login ends, or all of a subject.
//!
//! 1. `POST`: the login of the credential that came with it. A session that a service has made is over with its record.
//! 2. `POST ?everywhere`: whatever was issued to the subject up to now.
//! 3. The answer comes when the mark in the store is known to every gateway, or when one that is cut off has stopped to
//!    serve; where that is not known it is 202: the mark is written, and counts with the next word of the store.
//! 4. Times are those of the store's clock, which is the same for all that issue and end. A time is written twice: once the
//!    first is there nobody goes on who was in before, and what was issued until it was there is not later than the second.
//!
//! Source: RFC 9700 §4.14.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::family::Family;
use super::{Asked, Desk, Issued, answer, unknown};
use crate::authenticate::{Caller, Identity};
use crate::cookie::SetCookie;
use crate::denial::Denial;
use crate::forward::body::Answer;
use crate::refusal::Refusal;
use crate::store::{Ack, Asker, Mark, StoreError};

impl Desk {
    /// Ends the caller's login, or all of the caller's, where `issuer` vouches for logins; `cookie` is that of its refresh
    /// tokens.
    ///
    /// # Errors
    /// `StandingUnknown`, when the store did not say that it has it: then it may have ended, or not.
    pub(super) async fn logout(
        &self,
        (issuer, cookie): (&Arc<str>, Option<&SetCookie>),
        caller: &Caller,
        asked: Asked<'_>,
    ) -> Result<Issued, Refusal> {
        let Asked { head, store, .. } = asked;
        let Caller::Known(identity) = caller else { return Err(Denial::MissingToken.into()) };
        // Who vouches for the credential may be another one than whose path this is.
        let mut issuers = vec![&**identity.issuer()];
        if identity.issuer() != issuer {
            issuers.push(issuer);
        }
        let sid = identity.claims().member("sid").and_then(|sid| sid.as_str()).filter(|sid| !sid.is_empty());
        let record = identity.session_key();
        let mut is_known = true;
        if is_everywhere(head.uri.query()) {
            is_known &= self.end_all(&issuers, identity, store).await?;
        }
        match (sid, record) {
            (Some(sid), _) => is_known &= self.end(&issuers, sid, Ack::All, store).await?,
            (None, Some(record)) => {
                store.remove(record).await.map_err(unknown)?;
                is_known &= self.settled().await?;
            }
            // A token of no login: it can be named by itself, by who may (`bearward revoke`).
            (None, None) => return Err(Denial::MissingClaim("sid".into()).into()),
        }
        if let Some(record) = record {
            let _out_of_use = store.remove(record).await;
        }
        if let Some(sid) = sid {
            self.forget(sid, store).await;
        }
        Ok(Issued::of(identity.subject(), self.goodbye(is_known, cookie)))
    }

    /// The answer, which takes the cookies away.
    fn goodbye(&self, is_known: bool, cookie: Option<&SetCookie>) -> Response<Answer> {
        let mut response = answer::empty(if is_known { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED });
        for cookie in self.sessions.iter().map(|maker| &maker.cookie).chain(cookie) {
            answer::set_cookie(&mut response, cookie.removal());
        }
        response
    }

    /// Writes the mark that takes a login back: its access tokens, its refresh tokens and its session. Whether every
    /// gateway that has to know it does.
    pub(super) async fn end(&self, issuers: &[&str], sid: &str, ack: Ack, store: &Asker) -> Result<bool, Refusal> {
        let pattern = self.patterns.sid.as_ref().ok_or(Denial::StandingUnknown)?;
        let mut is_known = true;
        for key in keys(issuers.iter().map(|issuer| pattern.key(sid, issuer))) {
            is_known &= self.mark(&key, |_| Mark::Presence, ack, store).await?;
        }
        Ok(is_known)
    }

    /// Writes the marks that take back whatever was issued to a subject up to now.
    async fn end_all(&self, issuers: &[&str], identity: &Identity, store: &Asker) -> Result<bool, Refusal> {
        let pattern = self.patterns.sub.as_ref().ok_or(Denial::StandingUnknown)?;
        let own = self.issuers.iter().map(|issuer| &*issuer.issuer);
        let own = own.chain(self.sessions.iter().map(|maker| &*maker.issuer));
        let all = issuers.iter().copied().chain(own);
        let mut is_known = true;
        for key in keys(all.map(|issuer| pattern.key(identity.subject(), issuer))) {
            for ack in [Ack::Primary, Ack::All] {
                is_known &= self.mark(&key, Mark::NotBefore, ack, store).await?;
            }
        }
        Ok(is_known)
    }

    /// Writes a mark of this moment.
    async fn mark(&self, key: &str, mark: impl Fn(i64) -> Mark, ack: Ack, store: &Asker) -> Result<bool, Refusal> {
        let writer = self.store.as_ref().ok_or(Denial::StandingUnknown)?;
        let now = store.timed(key).await.map_err(unknown)?.now;
        let seconds = i64::try_from(now / 1000).unwrap_or(i64::MAX);
        self.known(writer.revoke(key, mark(seconds), now.saturating_add(self.longest), ack).await.map(drop))
    }

    /// Waits until every gateway knows what was written before.
    async fn settled(&self) -> Result<bool, Refusal> {
        let writer = self.store.as_ref().ok_or(Denial::StandingUnknown)?;
        self.known(writer.settled().await.map(drop))
    }

    /// Whether every gateway knows; without leases nobody can say.
    fn known(&self, done: Result<(), StoreError>) -> Result<bool, Refusal> {
        match done {
            Ok(()) => Ok(self.has_leases),
            Err(error @ StoreError::Unconfirmed(_)) => {
                tracing::warn!(%error, "a login has ended, and not every gateway has said so");
                Ok(false)
            }
            Err(error) => Err(unknown(error)),
        }
    }

    /// Takes away what is left of a login that has ended; it is out of use already.
    pub(super) async fn forget(&self, sid: &str, store: &Asker) {
        let key = self.family_key(sid);
        let text = store.timed(&key).await.ok().and_then(|said| said.text);
        let session = text.as_deref().and_then(Family::read).and_then(|family| family.session);
        for key in session.iter().chain(std::iter::once(&key)) {
            if let Err(error) = store.remove(key).await {
                tracing::debug!(%error, "what is left of a login that has ended stays in the store for a while");
            }
        }
    }
}

/// Each key once.
fn keys(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut keys: Vec<String> = all.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether the query says so: `?everywhere`, with any value but `false`.
fn is_everywhere(query: Option<&str>) -> bool {
    let parameters = query.unwrap_or_default().split('&');
    let mut parameters = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    parameters.any(|(name, value)| name == "everywhere" && value != "false")
}
