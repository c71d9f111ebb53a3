//! A credential becomes an identity.
//!
//! On a public route nobody asks: the caller is anonymous, no credential is looked at, no store is
//! waited for. Elsewhere, in this order:
//!
//! 1. Exactly one bearer credential (`bearer`), or the cookie of a session (`session`), not both; where neither is
//!    sent, the certificate of the connection (`certificate`).
//! 2. Verified before and its key still in use (`cache`), or verified now (`token`, `issuer`), or asked about (`opaque`).
//! 3. Who vouches for it is one that this route takes; where it is bound to a certificate, that is the one shown.
//! 4. Still in its time.
//! 5. Not taken back, by what the store says now; silence is a refusal unless the route says
//!    otherwise in words.
//!
//! What it does not do: judge what the caller may do (`authorize`).

pub mod assume;
pub mod bearer;
pub mod cache;
pub mod certificate;
pub mod claims;
pub mod headers;
pub mod identity;
pub mod issuer;
pub mod json;
pub mod keys;
pub mod logout_token;
pub mod opaque;
mod proven;
pub mod session;
pub mod token;
mod vouch;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderName;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::{Map, Value};

use self::bearer::Bearer;
use self::cache::IdentityCache;
use self::certificate::{CHAIN_HOLDS, ClientCertificates};
use self::claims::Claims;
pub use self::identity::{Caller, Identity};
use self::issuer::Issuer;
use self::opaque::Introspector;
use self::proven::Bound;
pub use self::proven::Memory;
use self::session::Sessions;
use self::token::UnverifiedToken;
use crate::admit::Admitted;
use crate::certificate::ClientCertificate;
use crate::clock::Moment;
use crate::denial::Denial;
use crate::route::{Proof, RevocationPolicy, Route, Rule};
use crate::store::{Asker, KeyPatterns, Store};

/// Who is believed: issuers, authorities, kinds of sessions, and who is asked about tokens.
pub type Believed = (Vec<Issuer>, Vec<ClientCertificates>, Vec<Sessions>, Vec<Introspector>);

/// Turns credentials into identities, for all routes of one configuration.
#[derive(Debug)]
pub struct Authenticator {
    issuers: Vec<Issuer>,
    certificates: Vec<ClientCertificates>,
    sessions: Vec<Sessions>,
    introspectors: Vec<Introspector>,
    memory: Memory,
    store: Option<Arc<Store>>,
    tokens: IdentityCache,
    /// By thumbprint; apart from tokens, whose text anybody can send.
    known_certificates: IdentityCache,
}

impl Authenticator {
    /// An authenticator that remembers nobody yet.
    #[must_use]
    pub fn new(
        (issuers, certificates, sessions, introspectors): Believed,
        memory: Memory,
        store: Option<Arc<Store>>,
    ) -> Self {
        let (tokens, known_certificates) = (IdentityCache::of_tokens(), IdentityCache::of_certificates());
        Self { issuers, certificates, sessions, introspectors, memory, store, tokens, known_certificates }
    }

    /// Who is calling, at `now`.
    ///
    /// # Errors
    /// 400 and 401 for the credential, 503 where keys or standing cannot be had.
    pub async fn identify(
        &self,
        admitted: &Admitted<'_>,
        (request, certificate): (&Parts, Option<&ClientCertificate>),
        now: Moment,
        store: &Asker,
    ) -> Result<Caller, Denial> {
        let route = admitted.route;
        if matches!(route.rule, Rule::Public) {
            return Ok(Caller::Anonymous);
        }
        let cookie = if route.auth.takes_sessions { self.cookie(route, request)? } else { None };
        let identity = match (Bearer::of(request), cookie) {
            (Ok(_), Some(_)) => return Err(Denial::DuplicateCredentials),
            (Ok(bearer), None) if route.auth.takes_opaque => Box::pin(self.of_any(bearer, route, now)).await?,
            (Ok(bearer), None) => self.of_token(bearer, route, now.unix)?,
            // Of another scheme: who sends it means to be whom it says.
            (Err(Denial::MissingToken), Some(_)) if request.headers.contains_key(AUTHORIZATION) => {
                return Err(Denial::DuplicateCredentials);
            }
            (Err(Denial::MissingToken), Some(cookie)) => {
                cookie.sessions.check_origin(request)?;
                return self.of_session(&cookie, route.revocation, now, store).await.map(Caller::Known);
            }
            (Err(Denial::MissingToken), None) => self.of_certificate(
                certificate.filter(|_| !request.headers.contains_key(AUTHORIZATION)),
                route,
                now.unix,
            )?,
            (Err(denial), _) => return Err(denial),
        };
        Self::is_taken(&identity, route, request)?;
        if let Some(holder) = identity.vouch.bound.holder(certificate)? {
            // What is taken back of its certificate is taken back of the token.
            let holder = self.known_certificate(holder, |_| true, now.unix)?.ok_or(Denial::UnprovenToken)?;
            holder.vouch.check(route.revocation, now, store).await?;
            if identity.vouch.holder.get().is_none_or(|known| !Arc::ptr_eq(&known, &holder)) {
                identity.vouch.holder.set(holder);
            }
        }
        identity.vouch.check(route.revocation, now, store).await?;
        Ok(Caller::Known(identity))
    }

    /// Whether a request may come with what proves this.
    fn is_taken(identity: &Identity, route: &Route, request: &Parts) -> Result<(), Denial> {
        if !route.auth.takes(identity.vouch.proof) {
            // Where no token is taken it makes no difference which one it is (RFC 6750 §3.1).
            let takes_tokens = route.auth.takes_opaque || route.auth.issuers().next().is_some();
            return Err(if takes_tokens { Denial::WrongIssuer } else { Denial::DuplicateCredentials });
        }
        if identity.vouch.proof.is_certificate() {
            certificate::check_origin(request)?;
        }
        Ok(())
    }

    /// Whether what identified a caller holds at `now` as well; for answers that last.
    ///
    /// # Errors
    /// As [`Authenticator::identify`], for a token that was verified.
    pub async fn still_holds(
        &self,
        caller: &Caller,
        policy: RevocationPolicy,
        now: Moment,
        store: &Asker,
    ) -> Result<(), Denial> {
        match caller {
            Caller::Anonymous => Ok(()),
            Caller::Known(identity) => {
                if let Some(holder) = identity.vouch.holder.get() {
                    holder.vouch.check(policy, now, store).await?;
                }
                identity.vouch.check(policy, now, store).await?;
                self.is_still_active(identity, now).await?;
                Self::goes_on(identity, now, store).await
            }
        }
    }

    /// Whether services could be told what is claimed: else whoever gets such credentials is refused with them.
    ///
    /// # Errors
    /// `MalformedToken`.
    pub fn can_tell(&self, claims: Map<String, Value>) -> Result<(), Denial> {
        headers::encode(&self.memory.headers, &Claims::new(claims)).map(drop)
    }

    /// Retires the keys and authorities that `next`, which takes this one's place, does not trust any more: answers that
    /// last and were permitted by them end.
    pub fn succeeded_by(&self, next: &Self) {
        for issuer in &self.issuers {
            let same = next.issuers.iter().find(|other| other.issuer == issuer.issuer);
            issuer.keys.succeeded_by(same.map(|same| &same.keys));
        }
        for sessions in &self.sessions {
            if !next.sessions.iter().any(|other| other.shape == sessions.shape) {
                sessions.retired.store(true, Ordering::Release);
            }
        }
        for asked in &self.introspectors {
            if !next.introspectors.iter().any(|other| other.shape() == asked.shape()) {
                asked.retired.store(true, Ordering::Release);
            }
        }
        for trusted in &self.certificates {
            if !next.certificates.iter().any(|other| other.authority == trusted.authority) {
                trusted.retired.store(true, Ordering::Release);
            }
        }
    }

    /// The issuers, by their place.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Everybody who vouches for callers, by the name in the configuration, and what keys of the store have in the place of
    /// an issuer for them.
    pub fn vouchers(&self) -> impl Iterator<Item = (&str, &str)> {
        let issuers = self.issuers.iter().map(|issuer| (&*issuer.name, &*issuer.issuer));
        let sessions = self.sessions.iter().map(|kind| (&*kind.name, &*kind.issuer));
        let asked = self.introspectors.iter().map(|asked| (&*asked.judges.name, &*asked.judges.issuer));
        let certificates = self.certificates.iter().map(|trusted| (&*trusted.authority.name, &*trusted.issuer));
        issuers.chain(sessions).chain(asked).chain(certificates)
    }

    /// The authorities of clients' certificates, by their place.
    #[must_use]
    pub fn certificates(&self) -> &[ClientCertificates] {
        &self.certificates
    }

    /// The kinds of sessions, by their place.
    #[must_use]
    pub fn sessions(&self) -> &[Sessions] {
        &self.sessions
    }

    /// Who is asked about tokens, by their place.
    #[must_use]
    pub fn introspectors(&self) -> &[Introspector] {
        &self.introspectors
    }

    /// What the configuration calls a way of proving identity.
    #[must_use]
    pub fn name(&self, proof: Proof) -> Option<&Arc<str>> {
        match proof {
            Proof::Issuer(place) => self.issuers.get(place).map(|issuer| &issuer.name),
            Proof::Certificate(place) => self.certificates.get(place).map(|trusted| &trusted.authority.name),
            Proof::Session(place) => self.sessions.get(place).map(|sessions| &sessions.name),
            Proof::Opaque(place) => self.introspectors.get(place).map(|asked| &asked.judges.name),
        }
    }

    /// The identity headers.
    pub fn identity_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.memory.headers.iter().map(|header| &header.name)
    }

    /// How the store's keys are named.
    #[must_use]
    pub const fn patterns(&self) -> &KeyPatterns {
        &self.memory.patterns
    }

    /// The store, where one is configured.
    #[must_use]
    pub const fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// How many verified tokens are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.tokens.len()
    }

    /// Who a bearer token is of, where some have to be asked about.
    async fn of_any(&self, bearer: Bearer<'_>, route: &Route, now: Moment) -> Result<Arc<Identity>, Denial> {
        let is_good = |known: &Arc<Identity>| known.vouch.is_believed(now) && route.auth.takes(known.vouch.proof);
        if let Some(known) = self.tokens.find(bearer.as_bytes()).filter(is_good) {
            return Ok(known);
        }
        if opaque::is_opaque(bearer.text()?) {
            return self.of_opaque(bearer, route, now).await;
        }
        self.of_token(bearer, route, now.unix)
    }

    /// Who a bearer token is of.
    fn of_token(&self, bearer: Bearer<'_>, route: &Route, now: i64) -> Result<Arc<Identity>, Denial> {
        if let Some(known) = self.tokens.find(bearer.as_bytes()) {
            return Ok(known);
        }
        if route.auth.issuers().next().is_none() {
            if route.auth.takes_opaque {
                return Err(Denial::WrongIssuer);
            }
            // A token where none is configured (RFC 6750 §3.1).
            return Err(Denial::DuplicateCredentials);
        }
        let token = UnverifiedToken::parse(bearer)?;
        let iss = token.claims.text("iss")?.ok_or_else(|| Denial::MissingClaim("iss".into()))?;
        // Only issuers of this route are tried: a stranger's token costs no signature check.
        let (place, issuer) = route
            .auth
            .issuers()
            .filter_map(|place| self.issuers.get(place).map(|issuer| (place, issuer)))
            .find(|(_, issuer)| *issuer.issuer == *iss)
            .ok_or(Denial::WrongIssuer)?;
        let identity = Arc::new(self.of_issuer((place, issuer), token, now)?);
        self.tokens.keep(bearer.as_bytes(), Arc::clone(&identity));
        Ok(identity)
    }

    /// Who a token of one issuer is of.
    fn of_issuer(
        &self,
        (place, issuer): (usize, &Issuer),
        token: UnverifiedToken<'_>,
        now: i64,
    ) -> Result<Identity, Denial> {
        let verified = issuer.verify(token, now)?;
        self.memory.identity(issuer.proven(place, Some(verified.key), verified.valid, verified.claims), None)
    }

    /// Who a token of the issuer at a place would be of at `now`, in unix seconds, on a route that takes that issuer: for
    /// who asks about the token, and not with it. Whether it was taken back is not asked.
    ///
    /// # Errors
    /// As [`UnverifiedToken::parse`] and [`Issuer::verify`]; `MalformedToken` where a claim cannot be told to an upstream;
    /// `UnprovenToken` where it is bound to what nobody can prove here.
    pub fn verify(&self, token: &str, place: usize, now: i64) -> Result<Identity, Denial> {
        let issuer = self.issuers.get(place).ok_or(Denial::WrongIssuer)?;
        let identity = self.of_issuer((place, issuer), UnverifiedToken::parse(Bearer::from_text(token)?)?, now)?;
        if identity.vouch.bound == Bound::Unknown {
            return Err(Denial::UnprovenToken);
        }
        Ok(identity)
    }

    /// Who a certificate is of, where no token is sent.
    fn of_certificate(
        &self,
        certificate: Option<&ClientCertificate>,
        route: &Route,
        now: i64,
    ) -> Result<Arc<Identity>, Denial> {
        let is_taken = |place: usize| route.auth.takes(Proof::Certificate(place));
        let known = certificate.map(|shown| self.known_certificate(shown, is_taken, now)).transpose()?.flatten();
        let is_alone = route.auth.iter().all(Proof::is_certificate);
        known.ok_or(if is_alone { Denial::MissingCertificate } else { Denial::MissingToken })
    }

    /// Whose a certificate is, if authorities that may be asked have signed it.
    fn known_certificate(
        &self,
        shown: &ClientCertificate,
        may_be: impl Fn(usize) -> bool,
        now: i64,
    ) -> Result<Option<Arc<Identity>>, Denial> {
        let named = |trusted: &ClientCertificates| trusted.authority.name == shown.authority.name;
        let Some(place) = self.certificates.iter().position(named).filter(|place| may_be(*place)) else {
            return Ok(None);
        };
        let Some(trusted) = self.certificates.get(place) else { return Ok(None) };
        // Why by the authorities as well: several may have signed one. And by the time: a list, or a certificate between, may
        // be over before it is.
        let name = format!("{} {place} {}", shown.thumbprint, now / CHAIN_HOLDS);
        if let Some(known) = self.known_certificates.find(name.as_bytes()) {
            return Ok(Some(known));
        }
        if !trusted.vouch_for(shown, now) {
            return Ok(None);
        }
        let identity = Arc::new(self.memory.identity(trusted.prove(place, shown, now)?, None)?);
        self.known_certificates.keep(name.as_bytes(), Arc::clone(&identity));
        Ok(Some(identity))
    }
}
