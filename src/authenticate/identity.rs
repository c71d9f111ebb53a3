//! Who is calling, once the credential has been verified.

use std::hint::black_box;
use std::sync::Arc;

use http::HeaderValue;

use super::claims::Claims;
use super::vouch::Vouch;
use crate::denial::Denial;
use crate::late::Late;
use crate::route::Proof;

/// Who is calling.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody that was asked for: the route is public.
    Anonymous,
    /// Someone whose credential is verified and not revoked.
    Known(Arc<Identity>),
}

/// A subject whose credential is verified and not revoked; made in `authenticate` only.
#[derive(Debug)]
pub struct Identity {
    subject: Arc<str>,
    roles: Vec<String>,
    scopes: Vec<String>,
    claims: Claims,
    headers: Box<[u8]>,
    assertions: Assertions,
    /// Why it may be believed.
    pub(super) vouch: Vouch,
}

/// What has been signed of one identity, by the place of the upstream that it is for; it is not kept for many.
#[derive(Debug, Default)]
pub struct Assertions(Late<Vec<Signed>>);

/// Until when a value is good.
#[derive(Clone, Debug)]
struct Signed {
    upstream: usize,
    from: i64,
    until: i64,
    value: HeaderValue,
}

impl Assertions {
    /// Most upstreams that one identity has values for.
    pub const MOST: usize = 8;

    /// The value for an upstream, if it is good at `now`, in unix seconds.
    #[must_use]
    pub fn find(&self, upstream: usize, now: i64) -> Option<HeaderValue> {
        let all = self.0.peek()?;
        let found = all
            .as_ref()?
            .iter()
            .find(|signed| signed.upstream == upstream && (signed.from..signed.until).contains(&now));
        found.map(|signed| signed.value.clone())
    }

    /// Keeps a value that is good from one time to another.
    pub fn keep(&self, upstream: usize, (from, until): (i64, i64), value: HeaderValue) {
        let mut all = self.0.get().as_deref().cloned().unwrap_or_default();
        all.retain(|signed| signed.upstream != upstream);
        if all.len() >= Self::MOST {
            all.remove(0);
        }
        all.push(Signed { upstream, from, until, value });
        self.0.set(Arc::new(all));
    }
}

impl Identity {
    pub(super) fn new(
        subject: Arc<str>,
        roles: Vec<String>,
        scopes: Vec<String>,
        claims: Claims,
        headers: Box<[u8]>,
        vouch: Vouch,
    ) -> Self {
        Self { subject, roles, scopes, claims, headers, assertions: Assertions::default(), vouch }
    }

    /// An identity without a token, for tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_tests(subject: &str, roles: Vec<String>, scopes: Vec<String>, claims: Claims) -> Self {
        Self::new(subject.into(), roles, scopes, claims, Box::default(), Vouch::for_tests())
    }

    /// What has proved it.
    #[must_use]
    pub const fn proof(&self) -> Proof {
        self.vouch.proof
    }

    /// Whether its token could be taken back by the configured keys.
    ///
    /// # Errors
    /// `MissingClaim`: what it has not got for that.
    pub fn can_be_taken_back(&self) -> Result<(), Denial> {
        self.vouch.can_be_taken_back()
    }

    /// Whether a token has proved it.
    #[must_use]
    pub const fn is_by_token(&self) -> bool {
        matches!(self.vouch.proof, Proof::Issuer(_) | Proof::Opaque(_))
    }

    /// When its credential ends, leeway included, in unix seconds.
    #[must_use]
    pub const fn ends_at(&self) -> i64 {
        self.vouch.expires_at
    }

    /// Who vouches for it, as keys of the store spell it.
    #[must_use]
    pub const fn issuer(&self) -> &Arc<str> {
        &self.vouch.issuer
    }

    /// The key of the record that it stands on, where it is a session.
    #[must_use]
    pub fn session_key(&self) -> Option<&Arc<str>> {
        self.vouch.life.as_ref().map(super::session::Life::key)
    }

    /// The place of its kind of sessions, where it is a session.
    #[must_use]
    pub const fn session_kind(&self) -> Option<usize> {
        match self.vouch.proof {
            Proof::Session(place) => Some(place),
            Proof::Issuer(_) | Proof::Certificate(_) | Proof::Opaque(_) => None,
        }
    }

    /// The `sub` claim.
    #[must_use]
    pub const fn subject(&self) -> &Arc<str> {
        &self.subject
    }

    /// What the issuer's `roles_claim` holds.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// What the issuer's `scopes_claim` holds.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The verified claims that a rule of the configuration asks for; the others are not kept.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether another one says the same in everything, and ends when this one does.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (own, theirs) = (&self.vouch, &other.vouch);
        self.subject == other.subject
            && self.roles == other.roles
            && self.scopes == other.scopes
            && self.claims == other.claims
            && self.headers == other.headers
            && own.bound == theirs.bound
            && own.expires_at == theirs.expires_at
            && own.standing_keys == theirs.standing_keys
    }

    /// Reads a byte of each of its parts that a request will read. Where nobody has asked for it for a while each of them is
    /// far away, and here they are fetched together, and not one after the other as each is come to.
    pub(super) fn fetch(&self) {
        let (role, scope) = (self.roles.first(), self.scopes.first());
        let texts = [Some(&*self.subject), role.map(String::as_str), scope.map(String::as_str)];
        black_box((texts.map(|text| text?.bytes().next()), self.headers.first().copied()));
    }

    /// What has been signed of it for services.
    #[must_use]
    pub const fn assertions(&self) -> &Assertions {
        &self.assertions
    }

    /// The identity headers, encoded as the configuration says, as they stand in a head: `x-user-id: kim`, each with its
    /// CRLF; an absent claim is not among them.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        &self.headers
    }
}
