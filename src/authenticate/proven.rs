//! What a credential has proved, whatever kind it is, and the identity that is made of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::Identity;
use super::claims::{ClaimPath, Claims};
use super::headers::{self, IdentityHeader};
use super::issuer::{Issuer, ValidClaims};
use super::keys::Key;
use super::session::Life;
use super::vouch::Vouch;
use crate::certificate::ClientCertificate;
use crate::denial::Denial;
use crate::late::Late;
use crate::route::Proof;
use crate::store::{KeyPatterns, RecordKey, Slot, StandingKeys};

/// What a credential has proved.
#[derive(Debug)]
pub(super) struct Proven<'i> {
    /// In which way.
    pub(super) proof: Proof,
    /// Who vouches for it, as keys of the store spell it.
    pub(super) issuer: &'i Arc<str>,
    /// Where roles are, if there are any.
    pub(super) roles: Option<&'i ClaimPath>,
    /// Where scopes are, if there are any.
    pub(super) scopes: Option<&'i ClaimPath>,
    /// The key that its signature was checked with, where that can be withdrawn.
    pub(super) key: Option<Arc<Key>>,
    /// The same of authorities.
    pub(super) retired: Option<Arc<AtomicBool>>,
    /// `sub`.
    pub(super) subject: Arc<str>,
    /// When it was issued, in unix seconds.
    pub(super) issued_at: Option<i64>,
    /// When it is over, leeway included, in unix seconds.
    pub(super) expires_at: i64,
    /// Everything that it says.
    pub(super) claims: Claims,
    /// Whose hands it has to come from.
    pub(super) bound: Bound,
    /// The record that it stands on.
    pub(super) record: Option<RecordKey>,
}

impl Issuer {
    /// What a token of this issuer has proved, whose claims hold; `place` is the issuer's among all.
    pub(super) fn proven(&self, place: usize, key: Option<Arc<Key>>, valid: ValidClaims, claims: Claims) -> Proven<'_> {
        Proven {
            proof: Proof::Issuer(place),
            issuer: &self.issuer,
            roles: Some(&self.roles),
            scopes: Some(&self.scopes),
            key,
            retired: None,
            subject: valid.subject,
            issued_at: valid.issued_at,
            expires_at: valid.expires_at,
            bound: Bound::of(&claims),
            claims,
            record: None,
        }
    }
}

/// Whether a token is good in the hands of its owner alone (`cnf`, RFC 7800).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Whoever has it may use it.
    Free,
    /// Who has the certificate with this `x5t#S256` (RFC 8705 §3).
    Certificate(Box<str>),
    /// Who proves something that is not understood here, such as a key of `DPoP`: as a bearer token it is no good
    /// (RFC 9449 §7.1).
    Unknown,
}

impl Bound {
    /// What a token's claims say.
    pub(super) fn of(claims: &Claims) -> Self {
        match claims.member("cnf") {
            None => Self::Free,
            Some(Value::Object(cnf)) => match cnf.get("x5t#S256").and_then(Value::as_str) {
                Some(thumbprint) if cnf.len() == 1 => Self::Certificate(thumbprint.into()),
                Some(_) | None => Self::Unknown,
            },
            Some(_) => Self::Unknown,
        }
    }

    /// The certificate that has to be good as well, where there is one; it is the one that is shown.
    ///
    /// # Errors
    /// `UnprovenToken`.
    pub(super) fn holder<'c>(
        &self,
        certificate: Option<&'c ClientCertificate>,
    ) -> Result<Option<&'c ClientCertificate>, Denial> {
        match self {
            Self::Free => Ok(None),
            Self::Certificate(thumbprint) => {
                let shown = certificate.filter(|shown| shown.thumbprint == **thumbprint);
                shown.map(Some).ok_or(Denial::UnprovenToken)
            }
            Self::Unknown => Err(Denial::UnprovenToken),
        }
    }
}

/// About how many bytes an assertion takes beside what it says of the caller.
const SIGNED: usize = 512;

/// What of credentials is remembered, and how the store's keys are named.
#[derive(Debug, Default)]
pub struct Memory {
    /// What upstreams are told.
    pub headers: Vec<IdentityHeader>,
    /// The claims that rules ask for; others are not remembered.
    pub asked: Vec<ClaimPath>,
    /// How the store's keys are named.
    pub patterns: KeyPatterns,
    /// For how many upstreams an assertion of each identity may be kept.
    pub assertions: usize,
}

impl Memory {
    /// The identity that was proved.
    ///
    /// # Errors
    /// `MalformedToken` where a claim has the wrong type, or cannot be told to an upstream.
    pub(super) fn identity(&self, mut proven: Proven<'_>, life: Option<Life>) -> Result<Identity, Denial> {
        let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<String>>();
        let texts = |path: Option<&ClaimPath>| path.map_or(Ok(Vec::new()), |path| proven.claims.texts(path));
        let roles = owned(texts(proven.roles)?);
        let scopes = texts(proven.scopes)?.iter().flat_map(|text| text.split(' ')).collect();
        let mut scopes = owned(scopes);
        scopes.retain(|scope| !scope.is_empty());
        // SECURITY: whoever is told `roles`, a service by its header above all, is told those that rules are judged by.
        if is_elsewhere(proven.roles, "roles") {
            proven.claims.set("roles", (!roles.is_empty()).then(|| roles.clone().into()));
        }
        if is_elsewhere(proven.scopes, "scope") {
            proven.claims.set("scope", (!scopes.is_empty()).then(|| scopes.join(" ").into()));
        }
        let headers = headers::encode(&self.headers, &proven.claims)?;
        let standing_keys = Arc::new(self.standing_keys(&proven)?);
        let words: usize = roles.iter().chain(&scopes).map(|text| text.len() + 32).sum();
        let (has_jti, has_iat) = (proven.claims.member("jti").is_some(), proven.issued_at.is_some());
        let asked = proven.claims.keep(&self.asked);
        let signed = self.weight_of_assertions(&proven.subject, &asked, (&roles, &scopes));
        let vouch = Vouch {
            proof: proven.proof,
            issuer: Arc::clone(proven.issuer),
            key: proven.key,
            retired: proven.retired,
            bound: proven.bound,
            holder: Late::default(),
            expires_at: proven.expires_at,
            has_jti,
            has_iat,
            needs_jti: self.patterns.jti.is_some(),
            weight: 1024 + asked.weight() + (words + headers.len() + standing_keys.len() * 192 + signed) as u64,
            standing_keys,
            slot: Slot::default(),
            asked: None,
            life,
        };
        Ok(Identity::new(proven.subject, roles, scopes, asked, headers, vouch))
    }

    /// About how many bytes what will be signed of it takes. They count from the beginning: what is remembered is weighed once.
    fn weight_of_assertions(&self, subject: &str, claims: &Claims, words: (&[String], &[String])) -> usize {
        if self.assertions == 0 {
            return 0;
        }
        let words = words.0.iter().chain(words.1).map(|word| word.len() + 3).sum::<usize>();
        let said = self.asked.iter().filter_map(|path| claims.at(path)).map(|claim| claim.to_string().len());
        let text = subject.len() + words + said.sum::<usize>();
        self.assertions * (SIGNED + text * 4 / 3)
    }

    fn standing_keys(&self, proven: &Proven<'_>) -> Result<StandingKeys, Denial> {
        let mut keys = StandingKeys { record: proven.record.clone(), ..StandingKeys::default() };
        for (pattern, claim) in [(&self.patterns.jti, "jti"), (&self.patterns.sid, "sid")] {
            if let (Some(pattern), Some(value)) = (pattern, proven.claims.text(claim)?) {
                keys.present.push(pattern.key(value, proven.issuer).into());
            }
        }
        // Logging out ends logins. A certificate is none: it is taken back by itself.
        let Some(issued_at) = proven.issued_at.filter(|_| !proven.proof.is_certificate()) else { return Ok(keys) };
        keys.issued_at = issued_at;
        keys.times = self.patterns.times(&proven.subject, proven.issuer);
        Ok(keys)
    }
}

/// Whether what is called `name` is kept somewhere else, and not inside of a claim of that name.
fn is_elsewhere(path: Option<&ClaimPath>, name: &str) -> bool {
    path.is_some_and(|path| path.as_str().split('.').next() != Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::json;

    #[test]
    fn what_will_be_signed_of_an_identity_counts_as_memory() {
        let role = "r".repeat(3000);
        let issuer: Arc<str> = "https://a.test".into();
        let paths = (ClaimPath::parse("roles").expect("a path"), ClaimPath::parse("scope").expect("a path"));
        let weight = |assertions: usize| {
            let text = format!(r#"{{"sub":"kim","roles":["{role}"]}}"#);
            let proven = Proven {
                proof: Proof::Opaque(0),
                issuer: &issuer,
                roles: Some(&paths.0),
                scopes: Some(&paths.1),
                key: None,
                retired: None,
                subject: "kim".into(),
                issued_at: Some(0),
                expires_at: 1,
                bound: Bound::Free,
                record: None,
                claims: Claims::new(json::object(text.as_bytes()).expect("strict JSON")),
            };
            let memory = Memory { assertions, ..Memory::default() };
            memory.identity(proven, None).expect("an identity").vouch.weight
        };
        // In base64, three bytes are four.
        assert!(
            weight(0) > 3000 && weight(1) - weight(0) > 4000 && weight(32) - weight(0) == 32 * (weight(1) - weight(0))
        );
    }

    #[test]
    fn a_token_that_is_bound_is_no_bearer_token() {
        let bound = |text: &str| Bound::of(&Claims::new(json::object(text.as_bytes()).expect("strict JSON")));
        assert_eq!(bound("{}"), Bound::Free);
        assert_eq!(bound(r#"{"cnf":{"x5t#S256":"abc"}}"#), Bound::Certificate("abc".into()));
        for odd in [
            r#"{"cnf":{}}"#,
            r#"{"cnf":null}"#,
            r#"{"cnf":"abc"}"#,
            r#"{"cnf":{"jkt":"abc"}}"#,
            r#"{"cnf":{"x5t#S256":7}}"#,
            r#"{"cnf":{"x5t#S256":"abc","jkt":"abc"}}"#,
        ] {
            assert_eq!(bound(odd), Bound::Unknown, "{odd}");
            assert_eq!(bound(odd).holder(None), Err(Denial::UnprovenToken));
        }
        assert_eq!(bound("{}").holder(None), Ok(None));
        assert_eq!(bound(r#"{"cnf":{"x5t#S256":"abc"}}"#).holder(None), Err(Denial::UnprovenToken));
    }
}
