//! Who a token is of that says nothing by itself: what is remembered, or what is answered now.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Mutex;

use crate::authenticate::bearer::Bearer;
use crate::authenticate::{Authenticator, Identity};
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::route::{Proof, Route};

/// A token that was asked about, and until when the answer is believed.
pub struct Asked {
    token: Box<str>,
    believed: Belief,
    /// Held by the look that asks again: the second in which the last one did.
    asking: Mutex<i64>,
    /// What came of that: every answer that lasts is judged by it, whoever asked.
    verdict: std::sync::Mutex<Result<(), Denial>>,
}

/// How long an answer is believed.
#[derive(Debug)]
struct Belief {
    /// By the monotonic clock, in milliseconds ([`clock::millis`]): nobody hears of a revocation for longer where the
    /// wall clock is put right.
    until: AtomicU64,
    /// When the token ends, in unix seconds.
    ends: AtomicI64,
}

impl Belief {
    /// From `now` on for so many seconds.
    fn begin(now: Moment, seconds: i64, ends: i64) -> Self {
        let millis = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let until = clock::millis(now.monotonic).saturating_add(millis);
        Self { until: AtomicU64::new(until), ends: AtomicI64::new(ends) }
    }

    fn holds(&self, now: Moment) -> bool {
        clock::millis(now.monotonic) < self.until.load(Ordering::Relaxed)
            && now.unix < self.ends.load(Ordering::Relaxed)
    }

    /// Holds as long as a later one from now on.
    fn follow(&self, later: &Self) {
        self.until.store(later.until.load(Ordering::Relaxed), Ordering::Relaxed);
        self.ends.store(later.ends.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("believed", &self.believed).finish_non_exhaustive()
    }
}

impl Asked {
    fn verdict(&self) -> MutexGuard<'_, Result<(), Denial>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer is believed at `now`.
    pub(in crate::authenticate) fn is_believed(&self, now: Moment) -> bool {
        self.believed.holds(now)
    }
}

/// Whether a token is none that says who calls by itself: three parts, of which the first is an object.
pub(in crate::authenticate) fn is_opaque(token: &str) -> bool {
    let mut parts = token.split('.');
    let header = parts.next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let is_jwt = parts.count() == 2 && header.is_some_and(|header| header.first() == Some(&b'{'));
    !is_jwt
}

impl Authenticator {
    /// Who such a token is of, by whoever of those that the route takes knows it.
    pub(in crate::authenticate) async fn of_opaque(
        &self,
        bearer: Bearer<'_>,
        route: &Route,
        now: Moment,
    ) -> Result<Arc<Identity>, Denial> {
        let text = Bearer::from_text(bearer.text()?)?.text()?;
        let was_active = self.tokens.find(bearer.as_bytes()).is_some();
        let mut denial = Denial::InactiveToken;
        for place in route.auth.opaque() {
            match self.introspected(place, (text, was_active), now).await {
                Ok(identity) => {
                    self.tokens.keep(bearer.as_bytes(), Arc::clone(&identity));
                    return Ok(identity);
                }
                // Another one may know it; who does not answer might have.
                Err(Denial::InactiveToken) => {}
                Err(_) if denial == Denial::KeysUnavailable => {}
                Err(other) => denial = other,
            }
        }
        self.tokens.forget(bearer.as_bytes());
        Err(denial)
    }

    /// What one of them answers.
    async fn introspected(
        &self,
        place: usize,
        (token, was_active): (&str, bool),
        now: Moment,
    ) -> Result<Arc<Identity>, Denial> {
        let introspector = self.introspectors.get(place).ok_or(Denial::KeysUnavailable)?;
        let ask = async {
            let claims = introspector.ask(token, was_active, now).await?;
            let proven = introspector.prove(place, claims, now.unix);
            let proven = proven.map_err(|denial| introspector.remember(token, denial, now))?;
            let believed = Belief::begin(now, introspector.judges.cache, proven.expires_at);
            let mut identity = self.memory.identity(proven, None)?;
            identity.vouch.weight += token.len() as u64;
            identity.vouch.asked = Some(Asked {
                token: token.into(),
                believed,
                asking: Mutex::default(),
                verdict: std::sync::Mutex::new(Ok(())),
            });
            Ok(Arc::new(identity))
        };
        // Boxed: it has room for a whole conversation with a server.
        Box::pin(introspector.shared(token, ask)).await
    }

    /// Whether an answer that lasts goes on, when what was said of its token is not believed any more.
    pub(in crate::authenticate) async fn is_still_active(
        &self,
        identity: &Identity,
        now: Moment,
    ) -> Result<(), Denial> {
        let Some(asked) = identity.vouch.asked.as_ref().filter(|asked| !asked.is_believed(now)) else {
            return Ok(());
        };
        let Proof::Opaque(place) = identity.vouch.proof else { return Err(Denial::UnknownKey) };
        // One look asks, once a second where nothing is remembered; the others go by what came of it last.
        let Ok(mut last) = asked.asking.try_lock() else { return asked.verdict().clone() };
        if std::mem::replace(&mut *last, now.unix) == now.unix {
            return asked.verdict().clone();
        }
        let verdict = self.ask_again(identity, asked, place, now).await;
        asked.verdict().clone_from(&verdict);
        verdict
    }

    /// What is said of a token now.
    async fn ask_again(&self, identity: &Identity, asked: &Asked, place: usize, now: Moment) -> Result<(), Denial> {
        match self.introspected(place, (&asked.token, true), now).await {
            Ok(next) if identity.is_same(&next) => {
                if let Some(next) = &next.vouch.asked {
                    asked.believed.follow(&next.believed);
                }
                Ok(())
            }
            // What it may is another matter now: it is decided anew with the next request.
            Ok(_) => Err(Denial::Revoked),
            Err(Denial::KeysUnavailable) => Err(Denial::StandingUnknown),
            Err(denial) => {
                self.tokens.forget(asked.token.as_bytes());
                Err(denial)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A step of the wall clock neither makes an answer last nor ends it; the end of the token does.
    #[test]
    fn an_answer_is_believed_for_its_time_whatever_the_wall_clock_does() {
        let first = clock::now();
        let ends = first.unix + 10_000;
        let belief = Belief::begin(first, 2, ends);
        let later = |seconds: u64, unix: i64| Moment {
            unix,
            monotonic: first.monotonic + Duration::from_secs(seconds),
            ..first
        };
        for (seconds, unix, expected) in [
            (0, first.unix, true),
            (1, first.unix - 3600, true),
            (1, first.unix + 3600, true),
            (3, first.unix - 3600, false),
            (3, first.unix, false),
            (1, ends, false),
        ] {
            assert_eq!(belief.holds(later(seconds, unix)), expected, "{seconds} {unix}");
        }
    }

    #[test]
    fn what_is_a_jwt_is_not_asked_about() {
        for (token, expected) in [
            ("eyJhbGciOiJub25lIn0.e30.c2ln", false),
            ("eyJhbGciOiJub25lIn0.e30.", false),
            ("eyJhbGciOiJub25lIn0.e30", true),
            ("a.b.c", true),
            ("2YotnFZFEjr1zCsicMWpAA", true),
            ("e.y.J", true),
            ("", true),
        ] {
            assert_eq!(is_opaque(token), expected, "{token}");
        }
    }
}
