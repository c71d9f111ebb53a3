//! What services that want proof are told of a caller: a short token, signed by the gateway.
//!
//! 1. It says who calls (`sub`, `roles`, `scope` and the claims that are named), for one upstream (`aud`), for a minute at the
//!    most: a copy is worth nothing elsewhere, and soon nothing at all.
//! 2. It is signed once for each identity and upstream, and again when half of its time is over. It goes with the identity: a
//!    configuration that signs with another key begins with new ones.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::ForwardError;
use crate::authenticate::Identity;
use crate::authenticate::claims::ClaimPath;
use crate::signer::Signer;

/// Signs what services are told.
#[derive(Debug)]
pub struct Assertion {
    /// The field that it is in.
    pub header: HeaderName,
    /// Who says it (`iss`).
    pub issuer: String,
    /// Signs.
    pub signer: Signer,
    /// How long it lives, in seconds.
    pub ttl: i64,
    /// Claims beside `sub`, `roles` and `scope`.
    pub claims: Vec<ClaimPath>,
    /// The places of the upstreams that want it; nothing: all.
    pub upstreams: Option<Vec<usize>>,
}

impl Assertion {
    /// What the upstream with this name, at this place, is told at `now`; nothing where it does not want it.
    ///
    /// # Errors
    /// `Insecure` when it cannot be signed: a service that wants proof gets no request without it.
    pub fn of(
        &self,
        identity: &Identity,
        (place, upstream): (usize, &Arc<str>),
        now: i64,
    ) -> Result<Option<HeaderValue>, ForwardError> {
        if self.upstreams.as_ref().is_some_and(|places| !places.contains(&place)) {
            return Ok(None);
        }
        if let Some(known) = identity.assertions().find(place, now) {
            return Ok(Some(known));
        }
        let text = self.signer.sign(&self.said(identity, upstream, now));
        let value = text.map_err(|error| {
            tracing::error!(%error, "an assertion cannot be signed");
            ForwardError::Insecure
        })?;
        let value = HeaderValue::try_from(value).map_err(|_| ForwardError::Insecure)?;
        let half = now.saturating_add(self.ttl - self.ttl / 2).min(identity.ends_at());
        identity.assertions().keep(place, (now, half), value.clone());
        Ok(Some(value))
    }

    fn said(&self, identity: &Identity, upstream: &str, now: i64) -> Value {
        let mut claims = Map::new();
        for path in &self.claims {
            if let Some(claim) = identity.claims().at(path) {
                claims.insert(path.as_str().to_owned(), claim.clone());
            }
        }
        if !identity.roles().is_empty() {
            claims.insert("roles".to_owned(), identity.roles().into());
        }
        if !identity.scopes().is_empty() {
            claims.insert("scope".to_owned(), identity.scopes().join(" ").into());
        }
        claims.insert("iss".to_owned(), self.issuer.as_str().into());
        claims.insert("aud".to_owned(), upstream.into());
        claims.insert("sub".to_owned(), identity.subject().as_ref().into());
        claims.insert("iat".to_owned(), now.into());
        // No longer than what it stands on.
        claims.insert("exp".to_owned(), now.saturating_add(self.ttl).min(identity.ends_at()).into());
        Value::Object(claims)
    }
}
