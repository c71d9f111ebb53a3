//! A logout token (OpenID Connect Back-Channel Logout 1.0 §2.4): an issuer says that a login, or all of a subject, has
//! ended.
//!
//! In this order (§2.6): a token in form, of an issuer that may send them, signed by one of its keys; for one of our clients; in its
//! time; with the event, with `jti`, with `sid` or `sub`, and without `nonce`: an ID token is none.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Authenticator;
use super::bearer::Bearer;
use super::claims::{ClaimPath, Claims};
use super::token::{Expects, UnverifiedToken};
use crate::denial::Denial;

/// The member of `events` that makes it one.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// How long a logout token by a key that is not known waits for it.
const FOR_KEYS: Duration = Duration::from_secs(2);

/// Who may send logout tokens: the place of an issuer, and what of ours `aud` has to name one of.
pub type Sender = (usize, Vec<String>);

/// What has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// By whose word.
    pub issuer: Arc<str>,
    /// The login, where one is named.
    pub sid: Option<String>,
    /// Whose.
    pub subject: Option<String>,
    /// When it was said, in unix seconds by the issuer's clock.
    pub at: i64,
}

/// Whether claims are those of a logout token.
pub(super) fn is_one(claims: &Claims) -> bool {
    claims.member("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object)
}

impl Authenticator {
    /// What a logout token says. One by a key that is not known yet waits until the keys have been read again: who sends
    /// it may not try a second time.
    ///
    /// # Errors
    /// Why it is none, as of any token; `KeysUnavailable` also where the keys could not be read again in time.
    pub async fn ended(&self, text: &str, senders: &[Sender], now: i64) -> Result<Ended, Denial> {
        let said = self.said_ended(text, senders, now);
        if said != Err(Denial::UnknownKey) {
            return said;
        }
        let token = UnverifiedToken::parse_as(Bearer::from_text(text)?, Expects::LogoutToken)?;
        let iss = token.claims.text("iss")?.unwrap_or_default();
        let issuer = self.issuers.iter().find(|issuer| *issuer.issuer == *iss);
        let Some(keys) = issuer.and_then(|issuer| issuer.keys.remote()) else { return said };
        if keys.is_read_again(FOR_KEYS).await {
            return self.said_ended(text, senders, now);
        }
        Err(Denial::KeysUnavailable)
    }

    fn said_ended(&self, text: &str, senders: &[Sender], now: i64) -> Result<Ended, Denial> {
        let token = UnverifiedToken::parse_as(Bearer::from_text(text)?, Expects::LogoutToken)?;
        let iss = token.claims.text("iss")?.ok_or_else(|| Denial::MissingClaim("iss".into()))?;
        let sender = senders.iter().find_map(|(place, audiences)| {
            let issuer = self.issuers.get(*place).filter(|issuer| *issuer.issuer == *iss)?;
            Some((issuer, audiences))
        });
        let (issuer, audiences) = sender.ok_or(Denial::WrongIssuer)?;
        let (_, token) = issuer.check_signature(token)?;
        let claims = &token.claims;
        let named = claims.texts(&ClaimPath::parse("aud").ok_or(Denial::MalformedToken)?)?;
        if !named.iter().any(|name| audiences.iter().any(|audience| audience == name)) {
            return Err(Denial::WrongAudience);
        }
        let date = |name: &str| claims.date(name)?.ok_or_else(|| Denial::MissingClaim(name.into()));
        let (at, expires) = (date("iat")?, date("exp")?);
        if now >= expires.saturating_add(issuer.leeway) {
            return Err(Denial::Expired);
        }
        let starts = claims.date("nbf")?.map_or(at, |starts| starts.max(at));
        if starts > now.saturating_add(issuer.leeway) {
            return Err(Denial::NotYetValid);
        }
        if expires.saturating_sub(at) > issuer.max_lifetime {
            return Err(Denial::LifetimeTooLong);
        }
        if !is_one(claims) || claims.member("nonce").is_some() {
            return Err(Denial::UnsupportedToken);
        }
        claims.text("jti")?.ok_or_else(|| Denial::MissingClaim("jti".into()))?;
        let text = |name: &str| claims.text(name).map(|text| text.map(str::to_owned));
        let (sid, subject) = (text("sid")?, text("sub")?);
        if sid.is_none() && subject.is_none() {
            return Err(Denial::MissingClaim("sub".into()));
        }
        Ok(Ended { issuer: Arc::clone(&issuer.issuer), sid, subject, at })
    }
}
