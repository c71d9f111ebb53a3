//! A successful login becomes credentials, and credentials end.
//!
//! 1. A route with `on_success` sends the login to the service that knows the caller; of its 200 come a pair of tokens, a
//!    session, or both (`login`).
//! 2. A refresh token becomes the next pair (`refresh`, `family`).
//! 3. Logging out ends a login, or all of a subject, whatever they were used with (`logout`).
//! 4. Other issuers may say that a login has ended (`backchannel`).
//! 5. The keys that tokens are verified with are published (`tokens`).
//!
//! One name holds a login together: `sid`, in its access tokens, in the name of its family and in the record of its
//! session. One mark in the store takes all of it back, and that is all that a logout waits for: what is taken away
//! beside it is out of use already.
//!
//! What it does not do: look at a password, or keep anything by itself.

mod answer;
mod backchannel;
mod family;
mod form;
mod login;
mod logout;
mod refresh;
pub mod session;
pub mod tokens;
mod wish;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};

pub use self::family::Turning;
use self::session::SessionMaker;
use self::tokens::TokenIssuer;
use crate::authenticate::Authenticator;
use crate::authenticate::logout_token::Sender;
use crate::authorize::Permit;
use crate::cookie::SetCookie;
use crate::denial::Denial;
use crate::forward::ForwardError;
use crate::forward::body::Answer;
use crate::forward::upload::Upload;
use crate::refusal::Refusal;
use crate::route::Endpoint;
use crate::store::{Asker, KeyPatterns, StandingKeys, Store};

/// Issues credentials, and ends them.
#[derive(Debug, Default)]
pub struct Desk {
    /// The issuers that the gateway is.
    pub issuers: Vec<TokenIssuer>,
    /// The kinds of sessions that it makes.
    pub sessions: Vec<SessionMaker>,
    /// The cookies of those that services make, by the place of their kind.
    pub foreign: Vec<(usize, SetCookie)>,
    /// How the store's keys are named.
    pub patterns: KeyPatterns,
    /// The store, where revocations are written.
    pub store: Option<Arc<Store>>,
    /// How long an answer of it is waited for.
    pub timeout: Duration,
    /// What the names of the gateways' own keys begin with.
    pub prefix: String,
    /// For how long what takes a login back is remembered, in milliseconds: no credential lives longer.
    pub longest: u64,
    /// The set of the public keys of what services are told, as it is published.
    pub assertion_keys: Bytes,
    /// Who may say that logins have ended.
    pub senders: Vec<Sender>,
    /// Whether a login that has ended ends all of its subject.
    pub ends_subjects: bool,
    /// Whether gateways say what they have applied, so that it can be waited for.
    pub has_leases: bool,
}

/// A request to an endpoint.
pub struct Asked<'r> {
    /// Its head.
    pub head: &'r Parts,
    /// Its body.
    pub upload: Upload,
    /// The worker's way to the store.
    pub store: &'r Asker,
    /// Who knows the keys of other issuers, and what time it is.
    pub authenticator: (&'r Authenticator, i64),
}

/// What the gateway answers, and of whom.
pub struct Issued {
    /// The answer.
    pub answer: Response<Answer>,
    /// The subject, where that became known.
    pub subject: Option<Arc<str>>,
}

impl Issued {
    fn of(subject: &str, answer: Response<Answer>) -> Self {
        Self { answer, subject: Some(subject.into()) }
    }

    fn nobody(answer: Response<Answer>) -> Self {
        Self { answer, subject: None }
    }
}

impl Desk {
    /// Does what an endpoint is for.
    ///
    /// # Errors
    /// What each of them says.
    pub async fn serve(&self, endpoint: Endpoint, permit: &Permit<'_>, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let issuer = |place: usize| self.issuers.get(place).ok_or(Refusal::Failed(ForwardError::Unreachable));
        match endpoint {
            Endpoint::Refresh(place) => self.refresh(issuer(place)?, asked).await,
            Endpoint::Revoke(place) => self.revoke(issuer(place)?, asked).await,
            Endpoint::Logout => self.logout(permit.caller(), asked).await,
            Endpoint::Jwks(place) => Ok(Issued::nobody(published(&issuer(place)?.published))),
            Endpoint::AssertionJwks => Ok(Issued::nobody(published(&self.assertion_keys))),
            Endpoint::BackchannelLogout => self.backchannel_logout(asked).await,
        }
    }

    /// The key of a login that can be refreshed.
    fn family_key(&self, sid: &str) -> String {
        format!("{}family:{sid}", self.prefix)
    }

    /// What says whether a login has been taken back.
    fn standing_keys(&self, issuer: &str, (subject, sid): (&str, &str), began: i64) -> Arc<StandingKeys> {
        let present = self.patterns.sid.iter().map(|pattern| pattern.key(sid, issuer).into()).collect();
        let times = self.patterns.times(subject, issuer);
        Arc::new(StandingKeys { present, times, issued_at: began, record: None })
    }

    /// What time it is where the store has a subject's logouts, in unix seconds.
    async fn time(&self, issuer: &str, subject: &str, store: &Asker) -> Result<i64, Refusal> {
        let pattern = self.patterns.sub.as_ref().ok_or(Denial::StandingUnknown)?;
        let said = store.timed(&pattern.key(subject, issuer)).await.map_err(unknown)?;
        Ok(i64::try_from(said.now / 1000).unwrap_or(i64::MAX))
    }
}

/// The set of keys; its readers may keep it for a while, and learn of the next key before it signs.
fn published(keys: &Bytes) -> Response<Answer> {
    let mut answer = Response::new(Answer::Whole(keys.clone()));
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    answer
}

/// What a store that does not answer means for a login.
fn unknown(error: crate::store::StoreError) -> Refusal {
    tracing::warn!(%error, "a login cannot be kept, or not be found");
    Refusal::Denied(Denial::StandingUnknown)
}
