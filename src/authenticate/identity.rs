//! Who is calling, once the credential has been verified.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::claims::Claims;
use super::vouch::Vouch;

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
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Why it may be believed.
    pub(super) vouch: Vouch,
}

impl Identity {
    pub(super) const fn new(
        subject: Arc<str>,
        roles: Vec<String>,
        scopes: Vec<String>,
        claims: Claims,
        headers: Vec<(HeaderName, HeaderValue)>,
        vouch: Vouch,
    ) -> Self {
        Self { subject, roles, scopes, claims, headers, vouch }
    }

    /// An identity without a token, for tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_tests(subject: &str, roles: Vec<String>, scopes: Vec<String>, claims: Claims) -> Self {
        Self::new(subject.into(), roles, scopes, claims, Vec::new(), Vouch::for_tests())
    }

    /// Whether a token has proved it.
    #[must_use]
    pub const fn is_by_token(&self) -> bool {
        matches!(self.vouch.proof, crate::route::Proof::Issuer(_))
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

    /// The identity headers, encoded as the configuration says; an absent claim is not among them.
    #[must_use]
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}
