//! A credential becomes an identity.
//!
//! On a public route nobody asks: the caller is anonymous, no credential is looked at, no store is
//! waited for. Elsewhere, in this order:
//!
//! 1. Exactly one bearer credential (`bearer`).
//! 2. Verified before and its key still in use (`cache`), or verified now (`token`, `issuer`).
//! 3. Its issuer is one that this route takes.
//! 4. Still in its time.
//! 5. Not taken back, by what the store says now; silence is a refusal unless the route says
//!    otherwise in words.
//!
//! What it does not do: judge what the caller may do (`authorize`).

pub mod bearer;
pub mod cache;
pub mod claims;
pub mod headers;
pub mod identity;
pub mod issuer;
pub mod json;
pub mod keys;
pub mod token;
mod vouch;

use std::sync::Arc;

use http::request::Parts;

use self::bearer::Bearer;
use self::cache::TokenCache;
use self::claims::ClaimPath;
use self::headers::IdentityHeader;
pub use self::identity::{Caller, Identity};
use self::issuer::{Issuer, VerifiedToken};
use self::token::UnverifiedToken;
use self::vouch::Vouch;
use crate::admit::Admitted;
use crate::clock::Moment;
use crate::denial::Denial;
use crate::route::{RevocationPolicy, Route, Rule};
use crate::store::{Asker, KeyPatterns, Slot, StandingKeys, Store};

/// Turns credentials into identities, for all routes of one configuration.
#[derive(Debug)]
pub struct Authenticator {
    issuers: Vec<Issuer>,
    headers: Vec<IdentityHeader>,
    /// The claims that rules ask for; others are not remembered.
    asked: Vec<ClaimPath>,
    patterns: KeyPatterns,
    store: Option<Arc<Store>>,
    cache: TokenCache,
}

impl Authenticator {
    /// An authenticator with an empty cache.
    #[must_use]
    pub fn new(
        issuers: Vec<Issuer>,
        headers: Vec<IdentityHeader>,
        asked: Vec<ClaimPath>,
        patterns: KeyPatterns,
        store: Option<Arc<Store>>,
    ) -> Self {
        Self { issuers, headers, asked, patterns, store, cache: TokenCache::new() }
    }

    /// Who is calling, at `now`.
    ///
    /// # Errors
    /// 400 and 401 for the credential, 503 where keys or standing cannot be had.
    pub async fn identify(
        &self,
        admitted: &Admitted<'_>,
        request: &Parts,
        now: Moment,
        store: &Asker,
    ) -> Result<Caller, Denial> {
        let route = admitted.route;
        if matches!(route.rule, Rule::Public) {
            return Ok(Caller::Anonymous);
        }
        let bearer = Bearer::of(request)?;
        let identity = match self.cache.find(bearer.as_str()) {
            Some(known) => known,
            None => self.verify(bearer, route, now.unix)?,
        };
        if !route.issuers.contains(&identity.vouch.issuer) {
            return Err(Denial::WrongIssuer);
        }
        identity.vouch.check(route.revocation, now, store).await?;
        Ok(Caller::Known(identity))
    }

    /// Whether what identified a caller holds at `now` as well; for answers that last.
    ///
    /// # Errors
    /// As [`Authenticator::identify`], for a token that was verified.
    pub async fn still_holds(
        caller: &Caller,
        policy: RevocationPolicy,
        now: Moment,
        store: &Asker,
    ) -> Result<(), Denial> {
        match caller {
            Caller::Anonymous => Ok(()),
            Caller::Known(identity) => identity.vouch.check(policy, now, store).await,
        }
    }

    /// Retires the keys that `next`, which takes this one's place, does not trust any more: answers that
    /// last and were permitted by them end.
    pub fn succeeded_by(&self, next: &Self) {
        for issuer in &self.issuers {
            let same = next.issuers.iter().find(|other| other.issuer == issuer.issuer);
            issuer.keys.succeeded_by(same.map(|same| &same.keys));
        }
    }

    /// The issuers, by their place.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// How the store's keys are named.
    #[must_use]
    pub const fn patterns(&self) -> &KeyPatterns {
        &self.patterns
    }

    /// The store, where one is configured.
    #[must_use]
    pub const fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// How many verified tokens are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.cache.len()
    }

    fn verify(&self, bearer: Bearer<'_>, route: &Route, now: i64) -> Result<Arc<Identity>, Denial> {
        let token = UnverifiedToken::parse(bearer)?;
        let iss = token.claims.text("iss")?.ok_or_else(|| Denial::MissingClaim("iss".into()))?;
        // Only issuers of this route are tried: a stranger's token costs no signature check.
        let (place, issuer) = route
            .issuers
            .iter()
            .filter_map(|&place| self.issuers.get(place).map(|issuer| (place, issuer)))
            .find(|(_, issuer)| *issuer.issuer == *iss)
            .ok_or(Denial::WrongIssuer)?;
        let verified = issuer.verify(token, now)?;
        let caller = Arc::new(self.remember(place, issuer, verified)?);
        self.cache.keep(bearer.as_str(), Arc::clone(&caller));
        Ok(caller)
    }

    fn remember(&self, place: usize, issuer: &Issuer, token: VerifiedToken) -> Result<Identity, Denial> {
        let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<String>>();
        let roles = owned(token.claims.texts(&issuer.roles)?);
        let scopes = token.claims.texts(&issuer.scopes)?.iter().flat_map(|text| text.split(' ')).collect();
        let mut scopes = owned(scopes);
        scopes.retain(|scope| !scope.is_empty());
        let headers = headers::encode(&self.headers, &token.claims)?;
        let standing_keys = Arc::new(self.standing_keys(issuer, &token)?);
        let texts: usize = roles.iter().chain(&scopes).map(|text| text.len() + 32).sum();
        let fields: usize = headers.iter().map(|(_, value)| value.len() + 128).sum();
        let (has_jti, has_iat) = (token.claims.member("jti").is_some(), token.issued_at.is_some());
        let claims = token.claims.keep(&self.asked);
        let vouch = Vouch {
            issuer: place,
            key: token.key,
            expires_at: token.expires_at,
            has_jti,
            has_iat,
            needs_jti: self.patterns.jti.is_some(),
            weight: 1024 + claims.weight() + (texts + fields + standing_keys.len() * 192) as u64,
            standing_keys,
            slot: Slot::default(),
        };
        Ok(Identity::new(token.subject, roles, scopes, claims, headers, vouch))
    }

    fn standing_keys(&self, issuer: &Issuer, token: &VerifiedToken) -> Result<StandingKeys, Denial> {
        let mut keys = StandingKeys::default();
        for (pattern, claim) in [(&self.patterns.jti, "jti"), (&self.patterns.sid, "sid")] {
            if let (Some(pattern), Some(value)) = (pattern, token.claims.text(claim)?) {
                keys.present.push(pattern.key(value, &issuer.issuer).into());
            }
        }
        let Some(issued_at) = token.issued_at else { return Ok(keys) };
        keys.issued_at = issued_at;
        let values =
            [(&self.patterns.sub, &*token.subject), (&self.patterns.iss, &issuer.issuer), (&self.patterns.all, "")];
        for (pattern, value) in values.into_iter().filter_map(|(pattern, value)| pattern.as_ref().zip(Some(value))) {
            keys.times.push(pattern.key(value, &issuer.issuer).into());
        }
        Ok(keys)
    }
}
