//! A client's certificate becomes an identity.
//!
//! 1. Its authorities are believed by this configuration too: the handshake may have been under another one.
//! 2. It holds now, and its life is not longer than `max_lifetime`: a revocation must outlive it.
//! 3. It names its owner in the way that the configuration asks for.
//!
//! Its claims are `sub`, `subject`, `cn`, `dns`, `uri`, `email`, `iss` (the authorities' name in the configuration),
//! `jti` (`x5t#S256`, RFC 8705 §3.1), `iat` and `exp`. Rules and identity headers see them as those of a token.

use serde_json::{Map, Value};

use super::claims::{ClaimPath, Claims};
use super::proven::{Bound, Proven};
use crate::certificate::{Authority, ClientCertificate};
use crate::denial::Denial;
use crate::route::Proof;

/// Authorities whose certificates make identities.
#[derive(Debug)]
pub struct ClientCertificates {
    /// Who they are.
    pub authority: Authority,
    /// What of a certificate names its owner.
    pub subject: Subject,
    /// Longest life in seconds.
    pub max_lifetime: i64,
    /// Where roles are: nowhere, since no claim of a certificate has this name.
    pub roles: ClaimPath,
    /// Where scopes are: as roles.
    pub scopes: ClaimPath,
}

/// What of a certificate names its owner; of several names of a kind the first.
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
        let owner = match self.subject {
            Subject::Dn => Some(&certificate.subject),
            Subject::CommonName => certificate.common_name.as_ref(),
            Subject::Dns => certificate.dns.first(),
            Subject::Uri => certificate.uris.first(),
            Subject::Email => certificate.emails.first(),
        };
        let owner = owner.filter(|owner| !owner.is_empty()).ok_or_else(|| Denial::MissingClaim("sub".into()))?;
        Ok(Proven {
            proof: Proof::Certificate(place),
            issuer: &self.authority.name,
            roles: &self.roles,
            scopes: &self.scopes,
            key: None,
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

fn claims(certificate: &ClientCertificate, owner: &str) -> Claims {
    let text = |text: &str| (!text.is_empty()).then(|| Value::from(text));
    let list = |list: &[String]| (!list.is_empty()).then(|| Value::from(list));
    let members = [
        ("sub", text(owner)),
        ("subject", text(&certificate.subject)),
        ("cn", certificate.common_name.as_deref().and_then(text)),
        ("dns", list(&certificate.dns)),
        ("uri", list(&certificate.uris)),
        ("email", list(&certificate.emails)),
        ("iss", text(&certificate.authority.name)),
        ("jti", text(&certificate.thumbprint)),
        ("iat", Some(certificate.not_before.into())),
        ("exp", Some(certificate.not_after.into())),
    ];
    let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Claims::new(members.collect::<Map<_, _>>())
}
