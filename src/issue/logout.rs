//! A login ends, or all of a subject.
//!
//! 1. `POST`: the login of the credential that came with it. A session that a service has made is over with its record.
//! 2. `POST ?everywhere`: whatever was issued to the subject up to now, by whoever issued that credential.
//! 3. The answer comes when the mark in the store is known to every gateway, or when one that is cut off has stopped to
//!    serve; where that is not known it is 202: the mark is written, and counts with the next word of the store.
//! 4. Times are those of the store's clock, which is the same for all that issue and end. A time is written twice: once the
//!    first is there nobody goes on who was in before, and what was issued until it was there is not later than the second.
//!
//! Source: RFC 9700 §4.14.

use http::header::SET_COOKIE;
use http::{HeaderMap, Response, StatusCode};

use super::family::Family;
use super::{Asked, Desk, Issued, answer, unknown};
use crate::authenticate::{Caller, Identity};
use crate::cookie::{self, SetCookie};
use crate::denial::Denial;
use crate::forward::body::Answer;
use crate::refusal::Refusal;
use crate::store::{Ack, Asker, Mark, StoreError};

impl Desk {
    /// Ends the caller's login, or all of the caller's.
    ///
    /// # Errors
    /// `StandingUnknown`, when the store did not say that it has it: then it may have ended, or not.
    pub(super) async fn logout(&self, caller: &Caller, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let Asked { head, store, .. } = asked;
        let Caller::Known(identity) = caller else { return Err(Denial::MissingToken.into()) };
        let sid = identity.claims().member("sid").and_then(|sid| sid.as_str()).filter(|sid| !sid.is_empty());
        let record = identity.session_key();
        let is_everywhere = is_everywhere(head.uri.query());
        let mut is_known = true;
        if is_everywhere {
            is_known &= self.end_all(identity, store).await?;
        }
        match (sid, record) {
            (Some(sid), _) => is_known &= self.end(identity.issuer(), sid, Ack::All, store).await?,
            (None, Some(record)) => {
                store.remove(record).await.map_err(unknown)?;
                is_known &= self.settled().await?;
            }
            (None, None) if is_everywhere => {}
            // A token of no login: it can be named by itself, by who may (`bearward revoke`).
            (None, None) => return Err(Denial::MissingClaim("sid".into()).into()),
        }
        if let Some(record) = record {
            let _out_of_use = store.remove(record).await;
        }
        if let Some(sid) = sid {
            self.forget(sid, store).await;
        }
        Ok(Issued::of(identity.subject(), self.goodbye(identity, is_known)))
    }

    /// The answer, which takes the cookies away: those that are set here, and the one that came.
    fn goodbye(&self, identity: &Identity, is_known: bool) -> Response<Answer> {
        let mut response = answer::empty(if is_known { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED });
        let refresh = self.issuers.iter().filter_map(|issuer| issuer.refresh.as_ref()?.cookie.as_ref());
        let cookies = self.sessions.iter().map(|maker| &maker.cookie).chain(refresh.map(|(cookie, _)| cookie));
        let came = self.foreign.iter().filter(|(place, _)| identity.session_kind() == Some(*place));
        for cookie in cookies.chain(came.map(|(_, cookie)| cookie)) {
            answer::set_cookie(&mut response, cookie.removal());
        }
        response
    }

    /// Takes the cookies of sessions away that came with a request: they name nobody, and pages cannot do it themselves.
    pub fn take_cookies_away(&self, came: &HeaderMap, answer: &mut HeaderMap) {
        let own = self.sessions.iter().map(|maker| &maker.cookie);
        let all = own.chain(self.foreign.iter().map(|(_, cookie)| cookie));
        let shown = all.filter(|cookie| cookie::values(came, &cookie.name).next().is_some());
        for field in shown.filter_map(SetCookie::removal) {
            answer.append(SET_COOKIE, field);
        }
    }

    /// Writes the mark that takes a login back: its access tokens, its refresh tokens and its session. Whether every
    /// gateway that has to know it does.
    pub(super) async fn end(&self, issuer: &str, sid: &str, ack: Ack, store: &Asker) -> Result<bool, Refusal> {
        let pattern = self.patterns.sid.as_ref().ok_or(Denial::StandingUnknown)?;
        self.mark(&pattern.key(sid, issuer), |_| Mark::Presence, ack, store).await
    }

    /// Writes the marks that take back whatever was issued to a subject up to now.
    async fn end_all(&self, identity: &Identity, store: &Asker) -> Result<bool, Refusal> {
        let pattern = self.patterns.sub.as_ref().ok_or(Denial::StandingUnknown)?;
        // SECURITY: of this issuer alone. Where keys hold it, the same subject is somebody else's at another one.
        let key = pattern.key(identity.subject(), identity.issuer());
        let first = self.mark(&key, Mark::NotBefore, Ack::Primary, store).await?;
        Ok(self.mark(&key, Mark::NotBefore, Ack::All, store).await? && first)
    }

    /// Writes a mark of this moment.
    pub(super) async fn mark(
        &self,
        key: &str,
        mark: impl Fn(i64) -> Mark,
        ack: Ack,
        store: &Asker,
    ) -> Result<bool, Refusal> {
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

/// Whether the query says so: `?everywhere`, with any value but `false`.
fn is_everywhere(query: Option<&str>) -> bool {
    let parameters = query.unwrap_or_default().split('&');
    let mut parameters = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    parameters.any(|(name, value)| name == "everywhere" && value != "false")
}
