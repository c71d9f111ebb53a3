//! A token that says nothing by itself: who issued it is asked (RFC 7662).
//!
//! 1. Only what is no JWT is asked about, and only where the route takes such tokens.
//! 2. What was answered is believed for `cache`, never past `exp`; then it is asked again. What is not active is remembered
//!    for a moment, so that one who tries it again and again costs nothing.
//! 3. Who is asked is spared: at most so many questions at a time, none while it has failed time and again (`circuit`); what is
//!    odd about one token is no failure of it. While nobody says, callers get 503: nobody is let in, and nobody throws a good
//!    token away.
//! 4. Like every identity it can be taken back by the store's keys: `sid`, `sub`, and so on.

mod caller;
mod circuit;
mod server;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::StatusCode;
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

pub use self::caller::Asked;
pub(super) use self::caller::is_opaque;
use self::circuit::{Circuit, Pass};
pub use self::server::Server;
use super::Identity;
use super::claims::{ClaimPath, Claims};
use super::json;
use super::keys::fetch::Fault;
use super::proven::{Bound, Proven};
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::percent;
use crate::route::Proof;

/// Questions at one time at the most.
const MOST_ASKED: usize = 64;
/// Tokens that are not active and are remembered at the most, and for how long.
const REFUSED: usize = 65_536;
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Furthest that clocks may differ, in seconds.
const LEEWAY: i64 = 30;

/// Who can be asked about tokens.
pub struct Introspector {
    /// How it judges what it is told.
    pub judges: Judges,
    /// What identities hold of it: set when it is not asked any more.
    pub retired: Arc<AtomicBool>,
    server: Server,
    circuit: Circuit,
    questions: Semaphore,
    /// The same about tokens that were active a moment ago: who tries made-up ones keeps nobody from those.
    renewals: Semaphore,
    /// Why not, and until when, by the digest of the token.
    refused: Cache<Digest, (Denial, Instant)>,
    /// Questions that are under way: who comes with the same token waits for the same answer.
    under_way: Mutex<HashMap<Digest, Arc<OnceCell<Answer>>>>,
}

/// Of a token.
type Digest = [u8; 32];
/// What came of a question.
type Answer = Result<Arc<Identity>, Denial>;

/// A question that is under way, as one of those who wait for it sees it.
struct Shared<'i> {
    introspector: &'i Introspector,
    name: Digest,
    cell: Arc<OnceCell<Answer>>,
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let mut under_way = self.introspector.lock();
        // One is here, one is in the map: nobody else waits.
        let is_last = Arc::strong_count(&self.cell) == 2 || self.cell.initialized();
        if is_last && under_way.get(&self.name).is_some_and(|known| Arc::ptr_eq(known, &self.cell)) {
            under_way.remove(&self.name);
        }
    }
}

/// One who was let through by the circuit, until it is known what came of it.
struct Probe<'c> {
    circuit: &'c Circuit,
    pass: Pass,
    is_settled: bool,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.circuit.given_up(self.pass);
        }
    }
}

/// What is believed of what is told.
#[derive(Debug)]
pub struct Judges {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What keys of the store have in the place of an issuer; what `iss` has to be, where it is there.
    pub issuer: Arc<str>,
    /// Whether it is configured, so that an answer has to agree.
    pub is_issuer_said: bool,
    /// What `aud` has to name one of; none: nothing is asked of it.
    pub audiences: Vec<String>,
    /// Where roles are.
    pub roles: ClaimPath,
    /// Where scopes are.
    pub scopes: ClaimPath,
    /// How long an answer is believed, in seconds.
    pub cache: i64,
    /// How long it may take.
    pub timeout: Duration,
}

impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector")
            .field("judges", &self.judges)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Introspector {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(judges: Judges, server: Server) -> Self {
        Self {
            judges,
            retired: Arc::default(),
            server,
            circuit: Circuit::default(),
            questions: Semaphore::new(MOST_ASKED),
            renewals: Semaphore::new(MOST_ASKED),
            refused: Cache::new(REFUSED),
            under_way: Mutex::default(),
        }
    }

    /// What tells it from others: whom it asks, and what it believes.
    #[must_use]
    pub fn shape(&self) -> String {
        let Judges { name, issuer, audiences, .. } = &self.judges;
        format!("{:?}", (name, self.server.to_string(), issuer, audiences))
    }

    /// From now on nobody is asked: it is as if nobody answered.
    pub fn ask_nobody(&self) {
        self.questions.close();
        self.renewals.close();
    }

    /// The same, with what identities of one like it hold.
    #[must_use]
    pub fn following(self, retired: Arc<AtomicBool>) -> Self {
        Self { retired, ..self }
    }

    /// The answer to a question about a token: asked with `ask`, or by somebody else at this moment.
    async fn shared(&self, token: &str, ask: impl Future<Output = Answer>) -> Answer {
        let name = digest_of(token);
        let cell = Arc::clone(self.lock().entry(name).or_default());
        let shared = Shared { introspector: self, name, cell };
        shared.cell.get_or_init(|| ask).await.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<OnceCell<Answer>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said of a token that is active.
    ///
    /// # Errors
    /// `InactiveToken`, or `KeysUnavailable` where nobody says.
    async fn ask(&self, token: &str, was_active: bool, now: Moment) -> Result<Claims, Denial> {
        if let Some((denial, _)) = self.refused.get(&digest_of(token)).filter(|(_, until)| now.monotonic < *until) {
            return Err(denial);
        }
        let (began, longest) = (clock::monotonic(), self.judges.timeout);
        let turns = if was_active { &self.renewals } else { &self.questions };
        // Who does not get a turn in time has learnt nothing about the server.
        let Ok(Ok(_turn)) = timeout(longest, turns.acquire()).await else { return Err(Denial::KeysUnavailable) };
        let starts = clock::monotonic();
        let Some(pass) = self.circuit.lets_through(starts) else { return Err(Denial::KeysUnavailable) };
        let mut probe = Probe { circuit: &self.circuit, pass, is_settled: false };
        let question = Bytes::from(format!("token={}&token_type_hint=access_token", percent::encode(token)));
        let left = longest.saturating_sub(starts.duration_since(began));
        let answer = timeout(left, self.server.post(question)).await;
        // Who had spent its time in the queue cannot say that the server is slow.
        let is_telling = answer.is_ok() || left >= longest / 2;
        probe.is_settled = is_telling;
        match answer {
            Ok(Ok((StatusCode::OK, text))) => self.heard(token, &text, now),
            Ok(Ok((status, _)) | Err(Fault::TooLong(status))) if !is_about_a_token(status) => {
                Err(self.failed(&format!("the answer is {status}"), began))
            }
            Ok(Ok((status, _))) => {
                self.answered();
                Err(self.unclear(token, &format!("the answer is {status}"), now))
            }
            Ok(Err(Fault::TooLong(_))) => {
                self.answered();
                Err(self.unclear(token, "the answer is longer than 64 KiB", now))
            }
            Ok(Err(Fault::Failed(reason))) => Err(self.failed(&reason, began)),
            Err(_) => {
                // The other connections go where this one went.
                self.server.forget();
                if is_telling { Err(self.failed("no answer in time", began)) } else { Err(Denial::KeysUnavailable) }
            }
        }
    }

    /// What an answer says.
    fn heard(&self, token: &str, text: &[u8], now: Moment) -> Result<Claims, Denial> {
        self.answered();
        let Some(mut members) = json::object(text) else {
            return Err(self.unclear(token, "it is no strict JSON", now));
        };
        match members.remove("active") {
            Some(Value::Bool(true)) => Ok(Claims::new(members)),
            Some(Value::Bool(false)) => Err(self.remember(token, Denial::InactiveToken, now)),
            _ => Err(self.unclear(token, "it does not say whether the token is active", now)),
        }
    }

    /// Whoever is asked is there, whatever is said.
    fn answered(&self) {
        if self.circuit.answered() {
            tracing::info!(introspection = &*self.judges.name, "tokens can be asked about again");
        }
    }

    /// Remembers for a moment why a token is not taken.
    fn remember(&self, token: &str, denial: Denial, now: Moment) -> Denial {
        self.refused.insert(digest_of(token), (denial.clone(), now.monotonic + REFUSED_FOR));
        denial
    }

    /// What is said of one token cannot be understood: that is no reason not to ask about others.
    fn unclear(&self, token: &str, reason: &str, now: Moment) -> Denial {
        tracing::warn!(introspection = &*self.judges.name, reason, "what is said of a token cannot be understood");
        self.remember(token, Denial::KeysUnavailable, now)
    }

    /// Nobody could be asked.
    fn failed(&self, reason: &str, began: Instant) -> Denial {
        if self.circuit.failed(began, clock::monotonic()) {
            let (introspection, server) = (&*self.judges.name, &self.server);
            tracing::error!(introspection, %server, reason, "tokens cannot be asked about: they get 503");
        }
        Denial::KeysUnavailable
    }

    /// What an answer proves; `place` is the introspector's among all.
    pub(super) fn prove(&self, place: usize, claims: Claims, now: i64) -> Result<Proven<'_>, Denial> {
        let judges = &self.judges;
        if judges.is_issuer_said && claims.text("iss")?.is_some_and(|iss| *iss != *judges.issuer) {
            return Err(Denial::WrongIssuer);
        }
        let named = ClaimPath::parse("aud").map_or(Ok(Vec::new()), |path| claims.texts(&path))?;
        if !judges.audiences.is_empty() && !named.iter().any(|name| judges.audiences.iter().any(|own| own == name)) {
            return Err(Denial::WrongAudience);
        }
        // A refresh token is nobody's credential here.
        if claims.text("token_type")?.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(Denial::UnsupportedToken);
        }
        let expires_at = claims.date("exp")?.unwrap_or(i64::MAX);
        if now >= expires_at {
            return Err(Denial::Expired);
        }
        if claims.date("nbf")?.is_some_and(|starts| starts > now.saturating_add(LEEWAY)) {
            return Err(Denial::NotYetValid);
        }
        // A logout ends what was issued up to then, and would never come to what is issued later.
        let issued_at = claims.date("iat")?;
        if issued_at.is_some_and(|issued| issued > now.saturating_add(LEEWAY)) {
            return Err(Denial::NotYetValid);
        }
        let subject = claims.text("sub")?.ok_or_else(|| Denial::MissingClaim("sub".into()))?;
        Ok(Proven {
            proof: Proof::Opaque(place),
            issuer: &judges.issuer,
            roles: Some(&judges.roles),
            scopes: Some(&judges.scopes),
            key: None,
            retired: Some(Arc::clone(&self.retired)),
            subject: subject.into(),
            // Of one that does not say when it was issued any logout is later.
            issued_at: Some(issued_at.unwrap_or(0)),
            expires_at,
            bound: Bound::of(&claims),
            record: None,
            claims,
        })
    }
}

/// Whether it is, and not about us or the server.
fn is_about_a_token(status: StatusCode) -> bool {
    !status.is_server_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 429)
}

fn digest_of(token: &str) -> Digest {
    Digest::try_from(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()).unwrap_or_default()
}
