//! A client's certificate becomes an identity.
//!
//! 1. Its authorities are believed by this configuration too: the handshake may have been under another one. The chain is
//!    verified anew every 30 seconds: lists and certificates between may be over before the connection is.
//! 2. It holds now, and its life is not longer than `max_lifetime`: a revocation must outlive it.
//! 3. It names its owner once, in the way that the configuration asks for.
//! 4. A page of another site has not sent the request: browsers show certificates unasked, as they send cookies.
//!
//! Its claims are `sub`, `subject`, `cn`, `dns`, `uri`, `email`, `iss` (the authorities' name in the configuration),
//! `x5t#S256` (RFC 8705 §3.1), `jti` (its id), `iat` and `exp`. Rules and identity headers see them as those of a token.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::header::ORIGIN;
use http::request::Parts;
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::proven::{Bound, Proven};
use super::session::is_safe;
use crate::certificate::{self, Authority, ClientCertificate};
use crate::denial::Denial;
use crate::route::Proof;

/// For how long it is known that authorities have signed a certificate, in seconds.
pub(super) const CHAIN_HOLDS: i64 = 30;

/// Authorities whose certificates make identities.
#[derive(Debug)]
pub struct ClientCertificates {
    /// Who they are.
    pub authority: Authority,
    /// What of a certificate names its owner.
    pub subject: Subject,
    /// Longest life in seconds.
    pub max_lifetime: i64,
    /// What checks chains.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// What identities hold of them: set when they are not believed any more.
    pub retired: Arc<AtomicBool>,
    /// What keys of the store have in the place of an issuer: one word for all, since the id alone names a certificate.
    pub issuer: Arc<str>,
}

/// What of a certificate names its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Its subject, written as RFC 4514 says: `CN=orders,O=Shop`.
    Dn,
    /// The common name of its subject.
    CommonName,
    /// Its DNS name.
    Dns,
    /// Its URI: `spiffe://shop.example/orders`.
    Uri,
    /// Its mail address.
    Email,
}

impl ClientCertificates {
    /// Whether they vouch for a certificate at `now`, by what is believed now.
    pub(super) fn vouch_for(&self, certificate: &ClientCertificate, now: i64) -> bool {
        self.authority.name == certificate.authority.name
            && certificate::verify(&*self.verifier, &certificate.chain, now).is_ok()
    }

    /// What a certificate of theirs proves; `place` is theirs among all.
    ///
    /// # Errors
    /// `NotYetValid`, `LifetimeTooLong`, `MissingClaim`.
    pub(super) fn prove(&self, place: usize, certificate: &ClientCertificate, now: i64) -> Result<Proven<'_>, Denial> {
        if now < certificate.not_before {
            return Err(Denial::NotYetValid);
        }
        if certificate.not_after.saturating_sub(certificate.not_before) > self.max_lifetime {
            return Err(Denial::LifetimeTooLong);
        }
        let names = match self.subject {
            Subject::Dn => std::slice::from_ref(&certificate.subject),
            Subject::CommonName => &certificate.common_names,
            Subject::Dns => &certificate.dns,
            Subject::Uri => &certificate.uris,
            Subject::Email => &certificate.emails,
        };
        // Of several nobody knows which one its authorities meant.
        let [owner] = names else { return Err(Denial::MissingClaim("sub".into())) };
        if owner.is_empty() {
            return Err(Denial::MissingClaim("sub".into()));
        }
        Ok(Proven {
            proof: Proof::Certificate(place),
            issuer: &self.issuer,
            roles: None,
            scopes: None,
            key: None,
            retired: Some(Arc::clone(&self.retired)),
            subject: owner.as_str().into(),
            issued_at: Some(certificate.not_before),
            // Its last second counts (RFC 5280 §4.1.2.5).
            expires_at: certificate.not_after.saturating_add(1),
            claims: claims(certificate, owner),
            bound: Bound::Free,
            record: None,
        })
    }
}

/// Whether a request with a certificate comes from where it may.
///
/// # Errors
/// `CrossSite`.
pub(super) fn check_origin(request: &Parts) -> Result<(), Denial> {
    let is_ours = match request.headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" || site == "none",
        // No browser of this age: a service, or one that says where it comes from.
        None => !request.headers.contains_key(ORIGIN),
    };
    (is_ours || is_safe(request)).then_some(()).ok_or(Denial::CrossSite)
}

fn claims(certificate: &ClientCertificate, owner: &str) -> Claims {
    let text = |text: &str| (!text.is_empty()).then(|| Value::from(text));
    let list = |list: &[String]| (!list.is_empty()).then(|| Value::from(list));
    let members = [
        ("sub", text(owner)),
        ("subject", text(&certificate.subject)),
        ("cn", list(&certificate.common_names)),
        ("dns", list(&certificate.dns)),
        ("uri", list(&certificate.uris)),
        ("email", list(&certificate.emails)),
        ("iss", text(&certificate.authority.name)),
        ("x5t#S256", text(&certificate.thumbprint)),
        ("jti", text(&certificate.id)),
        ("iat", Some(certificate.not_before.into())),
        ("exp", Some(certificate.not_after.into())),
    ];
    let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Claims::new(members.collect::<Map<_, _>>())
}
