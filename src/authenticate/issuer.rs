//! Who may vouch for a caller, and what a token of theirs has to satisfy.
//!
//! After the token has been taken apart (`token`), in this order (RFC 7519 §7.2, RFC 8725 §3):
//!
//! 1. `iss` equals the issuer's, to the byte.
//! 2. `alg` is one that the configuration pins.
//! 3. The key that `kid` names exists, is for that algorithm, and verifies the signature.
//! 4. `aud` names one of the audiences.
//! 5. `exp`, `nbf`, `iat` have the right types and hold now, give or take the leeway; the life from
//!    `iat` to `exp` is not longer than `max_lifetime`.
//! 6. `sub` is text; every required claim is there.
//!
//! Pure: the time is given, the keys are those of the moment.

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::claims::{ClaimPath, Claims, WrongType};
use super::keys::{Key, KeySource};
use super::logout_token;
use super::token::UnverifiedToken;
use crate::denial::Denial;

/// One issuer of the configuration.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What `iss` has to be.
    pub issuer: Arc<str>,
    /// What `aud` has to name one of.
    pub audiences: Vec<String>,
    /// The algorithms that are pinned; all HMAC or none.
    pub algorithms: Vec<Algorithm>,
    /// The keys.
    pub keys: KeySource,
    /// Where roles are.
    pub roles: ClaimPath,
    /// Where scopes are.
    pub scopes: ClaimPath,
    /// Claims that have to be there, beyond those that always have to.
    pub required: Vec<ClaimPath>,
    /// Seconds that clocks may differ.
    pub leeway: i64,
    /// Longest life in seconds.
    pub max_lifetime: i64,
}

/// A token whose signature, times, issuer and audience held when it was verified.
#[derive(Debug)]
pub struct VerifiedToken {
    /// The key that vouches for it.
    pub key: Arc<Key>,
    /// Who it is about, and for how long.
    pub valid: ValidClaims,
    /// Everything that it says.
    pub claims: Claims,
}

/// What held of a token's claims.
#[derive(Debug)]
pub struct ValidClaims {
    /// `sub`.
    pub subject: Arc<str>,
    /// `iat`, if there.
    pub issued_at: Option<i64>,
    /// When it is over, leeway included, in unix seconds.
    pub expires_at: i64,
}

impl Issuer {
    /// Verifies a token of this issuer at `now` (unix seconds).
    ///
    /// # Errors
    /// Each of the reasons above, in that order.
    pub fn verify(&self, token: UnverifiedToken<'_>, now: i64) -> Result<VerifiedToken, Denial> {
        let (key, token) = self.check_signature(token)?;
        let valid = self.check_claims(&token.claims, now)?;
        Ok(VerifiedToken { key, valid, claims: token.claims })
    }

    /// The second half of [`Issuer::verify`]: whether what a token says holds at `now`, whoever wrote it.
    ///
    /// # Errors
    /// Each of the reasons above from the audience on, in that order.
    pub fn check_claims(&self, claims: &Claims, now: i64) -> Result<ValidClaims, Denial> {
        self.check_audience(claims)?;
        let times = Times::of(claims)?;
        if now >= times.expires.saturating_add(self.leeway) {
            return Err(Denial::Expired);
        }
        let starts = times.not_before.unwrap_or(0).max(times.issued_at.unwrap_or(0));
        if starts > now.saturating_add(self.leeway) {
            return Err(Denial::NotYetValid);
        }
        // Without `iat` at least what is left of its life is bounded; a revocation must outlive it.
        if times.expires.saturating_sub(times.issued_at.unwrap_or(now)) > self.max_lifetime {
            return Err(Denial::LifetimeTooLong);
        }
        // SECURITY: its type says so where its issuer writes one; a logout token lets nobody in (RFC 8725 §3.12).
        if logout_token::is_one(claims) {
            return Err(Denial::UnsupportedToken);
        }
        let subject = required_text(claims, "sub")?;
        for name in ["jti", "sid"] {
            claims.text(name)?;
        }
        if let Some(missing) = self.required.iter().find(|path| claims.at(path).is_none()) {
            return Err(Denial::MissingClaim(missing.as_str().into()));
        }
        Ok(ValidClaims {
            subject: subject.into(),
            issued_at: times.issued_at,
            expires_at: times.expires.saturating_add(self.leeway),
        })
    }

    /// The first half of [`Issuer::verify`]: whose token it is, not whether it still holds.
    ///
    /// # Errors
    /// `WrongIssuer`, `AlgorithmNotAllowed`, `KeysUnavailable`, `UnknownKey`, `BadSignature`.
    pub fn check_signature<'t>(&self, token: UnverifiedToken<'t>) -> Result<(Arc<Key>, UnverifiedToken<'t>), Denial> {
        if token.claims.text("iss")? != Some(&*self.issuer) {
            return Err(Denial::WrongIssuer);
        }
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Denial::AlgorithmNotAllowed);
        }
        let keys = self.keys.current()?;
        let key = keys.find(token.kid.as_deref(), token.algorithm).map_err(|_| self.keys.missed())?;
        key.verify(token.algorithm, token.signed, token.signature).inspect_err(|_| {
            // A key without a name stands for whatever a token calls its own: it may be the next one.
            if key.kid().is_none() {
                let _not_the_reason = self.keys.missed();
            }
        })?;
        Ok((Arc::clone(key), token))
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), Denial> {
        let named: Vec<&str> = match claims.member("aud") {
            None => return Err(Denial::MissingClaim("aud".into())),
            Some(serde_json::Value::String(one)) => vec![one],
            Some(serde_json::Value::Array(list)) => {
                list.iter().map(|value| value.as_str().ok_or(Denial::MalformedToken)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Denial::MalformedToken),
        };
        let fits = named.iter().any(|name| self.audiences.iter().any(|audience| audience == name));
        fits.then_some(()).ok_or(Denial::WrongAudience)
    }
}

struct Times {
    expires: i64,
    not_before: Option<i64>,
    issued_at: Option<i64>,
}

impl Times {
    fn of(claims: &Claims) -> Result<Self, Denial> {
        Ok(Self {
            expires: claims.date("exp")?.ok_or_else(|| Denial::MissingClaim("exp".into()))?,
            not_before: claims.date("nbf")?,
            issued_at: claims.date("iat")?,
        })
    }
}

fn required_text<'c>(claims: &'c Claims, name: &str) -> Result<&'c str, Denial> {
    claims.text(name)?.ok_or_else(|| Denial::MissingClaim(name.into()))
}

impl From<WrongType> for Denial {
    fn from(_: WrongType) -> Self {
        Self::MalformedToken
    }
}
