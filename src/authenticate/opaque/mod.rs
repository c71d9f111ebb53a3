//! A token that says nothing by itself: who issued it is asked (RFC 7662).
//!
//! 1. Only what is no JWT is asked about, and only where the route takes such tokens.
//! 2. What was answered is believed for `cache`, never past `exp`; then it is asked again. What is not active is remembered
//!    for a moment, so that one who tries it again and again costs nothing.
//! 3. Who is asked is spared: at most so many questions at a time, none while it has failed time and again (`circuit`). While it
//!    does not answer, callers get 503: nobody is let in, and nobody throws a good token away.
//! 4. Like every identity it can be taken back by the store's keys: `sid`, `sub`, and so on.

mod caller;
mod circuit;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::HeaderValue;
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

pub use self::caller::Asked;
pub(super) use self::caller::is_opaque;
use self::circuit::Circuit;
use super::Identity;
use super::claims::{ClaimPath, Claims};
use super::json;
use super::keys::fetch::Source;
use super::proven::{Bound, Proven};
use crate::clock::Moment;
use crate::denial::Denial;
use crate::percent;
use crate::route::Proof;

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Questions at one time at the most.
const MOST_ASKED: usize = 64;
/// Tokens that are not active and are remembered at the most, and for how many seconds.
const REFUSED: usize = 65_536;
const REFUSED_FOR: i64 = 5;
/// Furthest that clocks may differ, in seconds.
const LEEWAY: i64 = 30;

/// Who can be asked about tokens.
pub struct Introspector {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What keys of the store have in the place of an issuer; what `iss` has to be, where it is there.
    pub issuer: Arc<str>,
    /// What `aud` has to name one of; none: nothing is asked of it.
    pub audiences: Vec<String>,
    /// Where roles are.
    pub roles: ClaimPath,
    /// Where scopes are.
    pub scopes: ClaimPath,
    /// How long an answer is believed, in seconds.
    pub cache: i64,
    /// How long an answer may take.
    pub timeout: Duration,
    /// What identities hold of it: set when it is not asked any more.
    pub retired: Arc<AtomicBool>,
    source: Source,
    authorization: HeaderValue,
    circuit: Circuit,
    questions: Semaphore,
    /// The same about tokens that were active a moment ago: who tries made-up ones keeps nobody from those.
    renewals: Semaphore,
    /// Until when, by the digest of the token.
    refused: Cache<Digest, i64>,
    /// Questions that are under way: who comes with the same token waits for the same answer.
    under_way: Mutex<HashMap<Digest, Arc<OnceCell<Answer>>>>,
}

/// Of a token.
type Digest = [u8; 32];
/// What came of a question.
type Answer = Result<Arc<Identity>, Denial>;

/// Whom to ask, and as whom.
pub struct Server {
    /// Where.
    pub source: Source,
    /// `Basic ...` (RFC 6749 §2.3.1).
    pub authorization: HeaderValue,
}

/// How an introspector judges what it is told.
pub struct Judges {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What keys of the store have in the place of an issuer.
    pub issuer: Arc<str>,
    /// What `aud` has to name one of.
    pub audiences: Vec<String>,
    /// Where roles and scopes are.
    pub paths: (ClaimPath, ClaimPath),
    /// How long an answer is believed, in seconds.
    pub cache: i64,
    /// How long it may take.
    pub timeout: Duration,
}

impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

impl Introspector {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(judges: Judges, server: Server) -> Self {
        let Judges { name, issuer, audiences, paths: (roles, scopes), cache, timeout } = judges;
        let Server { source, authorization } = server;
        Self {
            name,
            issuer,
            audiences,
            roles,
            scopes,
            cache,
            timeout,
            retired: Arc::default(),
            source,
            authorization,
            circuit: Circuit::default(),
            questions: Semaphore::new(MOST_ASKED),
            renewals: Semaphore::new(MOST_ASKED),
            refused: Cache::new(REFUSED),
            under_way: Mutex::default(),
        }
    }

    /// Whether it asks the same of the same server.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.name == other.name
            && self.source.is_same(&other.source)
            && self.authorization == other.authorization
            && self.issuer == other.issuer
            && self.audiences == other.audiences
    }

    /// The answer to a question about a token: asked with `ask`, or by somebody else at this moment.
    async fn shared(&self, token: &str, ask: impl Future<Output = Answer>) -> Answer {
        let name = digest_of(token);
        let cell = Arc::clone(self.lock().entry(name).or_default());
        let answer = cell.get_or_init(|| ask).await.clone();
        let mut under_way = self.lock();
        if under_way.get(&name).is_some_and(|known| Arc::ptr_eq(known, &cell)) {
            under_way.remove(&name);
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<OnceCell<Answer>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said of a token that is active.
    ///
    /// # Errors
    /// `InactiveToken`, or `KeysUnavailable` where nobody says.
    async fn ask(&self, token: &str, was_active: bool, now: Moment) -> Result<Claims, Denial> {
        let name = digest_of(token);
        if self.refused.get(&name).is_some_and(|until| now.unix < until) {
            return Err(Denial::InactiveToken);
        }
        if !self.circuit.lets_through(now.monotonic) {
            return Err(Denial::KeysUnavailable);
        }
        let turns = if was_active { &self.renewals } else { &self.questions };
        let Ok(_turn) = turns.try_acquire() else { return Err(Denial::KeysUnavailable) };
        let body = Bytes::from(format!("token={}&token_type_hint=access_token", percent::encode(token)));
        let asked = timeout(self.timeout, self.source.post(&self.authorization, body, MAX_ANSWER)).await;
        let answer = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let answer = answer.and_then(|text| json::object(&text).ok_or_else(|| "it is no strict JSON".to_owned()));
        let active = answer.and_then(|mut members| match members.remove("active") {
            Some(Value::Bool(true)) => Ok(Some(Claims::new(members))),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err("it does not say whether the token is active".to_owned()),
        });
        match active {
            Ok(claims) => {
                if self.circuit.answered() {
                    tracing::info!(introspection = &*self.name, "tokens can be asked about again");
                }
                claims.ok_or_else(|| {
                    self.refused.insert(name, now.unix.saturating_add(REFUSED_FOR));
                    Denial::InactiveToken
                })
            }
            Err(reason) => {
                if self.circuit.failed(now.monotonic) {
                    let (introspection, source) = (&*self.name, &self.source);
                    tracing::error!(introspection, %source, reason, "tokens cannot be asked about: they get 503");
                }
                Err(Denial::KeysUnavailable)
            }
        }
    }

    /// What an answer proves; `place` is the introspector's among all.
    fn prove(&self, place: usize, claims: Claims, now: i64) -> Result<Proven<'_>, Denial> {
        if claims.text("iss")?.is_some_and(|iss| *iss != *self.issuer) {
            return Err(Denial::WrongIssuer);
        }
        let named = ClaimPath::parse("aud").map_or(Ok(Vec::new()), |path| claims.texts(&path))?;
        if !self.audiences.is_empty() && !named.iter().any(|name| self.audiences.iter().any(|own| own == name)) {
            return Err(Denial::WrongAudience);
        }
        let expires_at = claims.date("exp")?.unwrap_or(i64::MAX);
        if now >= expires_at {
            return Err(Denial::Expired);
        }
        if claims.date("nbf")?.is_some_and(|starts| starts > now.saturating_add(LEEWAY)) {
            return Err(Denial::NotYetValid);
        }
        let subject = claims.text("sub")?.ok_or_else(|| Denial::MissingClaim("sub".into()))?;
        Ok(Proven {
            proof: Proof::Opaque(place),
            issuer: &self.issuer,
            roles: Some(&self.roles),
            scopes: Some(&self.scopes),
            key: None,
            retired: Some(Arc::clone(&self.retired)),
            subject: subject.into(),
            // Of one that does not say when it was issued any logout is later.
            issued_at: Some(claims.date("iat")?.unwrap_or(0)),
            expires_at,
            bound: Bound::of(&claims),
            record: None,
            claims,
        })
    }
}

fn digest_of(token: &str) -> Digest {
    Digest::try_from(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()).unwrap_or_default()
}
