//! An issuer says that a login of its own has ended (OpenID Connect Back-Channel Logout 1.0).
//!
//! 1. `POST`, with `logout_token=...`; what it says is the authenticator's to judge (`authenticate::logout_token`).
//! 2. With a `sid` that login ends; without one, or where it is configured, all that were issued to the subject up to the
//!    token's `iat`: one that is sent again ends no login that came after it.

use http::StatusCode;

use super::form::Form;
use super::{Asked, Desk, Issued, answer};
use crate::denial::Denial;
use crate::refusal::Refusal;
use crate::store::{Ack, Mark};

impl Desk {
    /// Ends what a logout token names.
    ///
    /// # Errors
    /// `MalformedGrant` for one that is not accepted; the log says why. `KeysUnavailable`, `StandingUnknown`.
    pub(super) async fn backchannel_logout(&self, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let Asked { head, upload, store, authenticator: (authenticator, now) } = asked;
        let form = Form::read(head, upload).await?;
        let text = form.value("logout_token").ok_or(Denial::MalformedGrant("invalid_request"))?;
        // Boxed: few have to wait for keys.
        let ended = Box::pin(authenticator.ended(text, &self.senders, now)).await.map_err(|denial| {
            if denial == Denial::KeysUnavailable {
                return denial;
            }
            tracing::info!(reason = denial.label(), "a logout token is not accepted");
            Denial::MalformedGrant("invalid_request")
        })?;
        let subject = ended.subject.as_deref();
        if ended.sid.is_none() && subject.is_none() {
            return Err(Denial::MalformedGrant("invalid_request").into());
        }
        if let Some(sid) = &ended.sid {
            self.end(&ended.issuer, sid, Ack::All, store).await?;
        }
        if let Some(subject) = subject.filter(|_| ended.sid.is_none() || self.ends_subjects) {
            let pattern = self.patterns.sub.as_ref().ok_or(Denial::StandingUnknown)?;
            let key = pattern.key(subject, &ended.issuer);
            // By the clock that its tokens have their times of: it may be ahead by `leeway`, as theirs may.
            self.mark(&key, |_| Mark::NotBefore(ended.at), Ack::All, store).await?;
        }
        let answer = answer::empty(StatusCode::OK);
        Ok(subject.map_or_else(|| Issued::nobody(answer::empty(StatusCode::OK)), |subject| Issued::of(subject, answer)))
    }
}
