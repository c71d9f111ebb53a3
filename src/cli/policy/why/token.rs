//! Why a token is not taken, held against its issuer.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::list;
use crate::authenticate::claims::Claims;
use crate::authenticate::issuer::Issuer;
use crate::authenticate::token::ALGORITHMS;
use crate::denial::Denial;

/// What a token says of itself; nothing of it is believed.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Its header.
    pub header: Map<String, Value>,
    /// Its claims.
    pub claims: Map<String, Value>,
}

impl Claimed {
    /// What the parts of a token say that can be read.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let part = |place: usize| {
            let part = token.split('.').nth(place).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            part.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
        };
        Self { header: part(0), claims: part(1) }
    }

    /// A claim, in words.
    #[must_use]
    pub fn found(&self, name: &str) -> String {
        in_words(&self.claims, name)
    }

    /// A member of its header, in words.
    fn named(&self, name: &str) -> String {
        in_words(&self.header, name)
    }

    fn time(&self, name: &str) -> i64 {
        Claims::new(self.claims.clone()).date(name).ok().flatten().unwrap_or_default()
    }
}

fn in_words(members: &Map<String, Value>, name: &str) -> String {
    members.get(name).map_or_else(|| format!("there is no `{name}`"), |value| format!("`{name}` is {value}"))
}

const MALFORMED: &str = "it is no compact JWT of strict JSON, or a claim has a type that it must not have (`sub`, `jti` and \
                         `sid` are text, times are numbers, roles are text or a list), or cannot stand in an identity header";
const UNSUPPORTED: &str =
    "its header has `crit`, `b64`, `zip`, `enc`, or a `typ` of something else than an access token";
const NOT_TAKEN_BACK: &str =
    "without it the token could not be taken back (`revocation.keys`), or `required_claims` asks for it";

/// Why a token is not taken; `issuer` is whose it says it is, if that is known here.
#[must_use]
pub fn why(denial: &Denial, issuer: Option<&Issuer>, said: &Claimed, now: i64) -> String {
    let name = issuer.map_or_else(|| "the issuer".to_owned(), |issuer| format!("`{}`", issuer.name));
    match denial {
        Denial::AlgorithmNotAllowed => {
            let pinned = issuer.map(|issuer| algorithms(&issuer.algorithms)).unwrap_or_default();
            format!("{}; {name} pins {pinned}", said.named("alg"))
        }
        Denial::UnknownKey => {
            let known = issuer.and_then(|issuer| issuer.keys.current().ok());
            let known = known.map(|keys| list(keys.kids())).unwrap_or_default();
            format!("{}; {name} has the keys {known}", said.named("kid"))
        }
        Denial::BadSignature => format!("the key of {name} that it names has not signed this"),
        Denial::WrongAudience => {
            let audiences = issuer.map(|issuer| list(issuer.audiences.iter().map(String::as_str)));
            format!("{}; {name} is taken for {}", said.found("aud"), audiences.unwrap_or_default())
        }
        Denial::Expired | Denial::NotYetValid | Denial::LifetimeTooLong => times(denial, issuer, said, now),
        Denial::MissingClaim(claim) => {
            let reason = match &**claim {
                "iss" | "aud" | "exp" | "sub" => "every token has to have it".to_owned(),
                "jti" | "iat" | "sid" => NOT_TAKEN_BACK.to_owned(),
                _ => format!("`required_claims` of {name} asks for it"),
            };
            format!("there is no `{claim}`: {reason}")
        }
        Denial::MalformedToken => MALFORMED.to_owned(),
        Denial::UnsupportedToken => UNSUPPORTED.to_owned(),
        Denial::UnprovenToken => format!("{}: it is good with what it names, alone", said.found("cnf")),
        Denial::KeysUnavailable => {
            format!("keys of {name} cannot be read, or whoever is asked about tokens does not answer")
        }
        Denial::WrongIssuer => format!("{}: no issuer of the configuration", said.found("iss")),
        // Of no token.
        Denial::AmbiguousPath
        | Denial::Barred
        | Denial::BodyTooLarge
        | Denial::ClaimMismatch
        | Denial::CrossSite
        | Denial::DuplicateCredentials
        | Denial::Excluded
        | Denial::HeadersTooLarge
        | Denial::InactiveToken
        | Denial::InvalidGrant
        | Denial::MalformedGrant(_)
        | Denial::MalformedRequest
        | Denial::MalformedSession
        | Denial::MethodNotAllowed(_)
        | Denial::MissingCertificate
        | Denial::MissingRole
        | Denial::MissingScope(_)
        | Denial::MissingToken
        | Denial::NoRoute
        | Denial::OriginNotAllowed
        | Denial::ProtocolNotOffered
        | Denial::RateLimited(_)
        | Denial::ReusedGrant
        | Denial::Revoked
        | Denial::StandingUnknown
        | Denial::TargetTooLong
        | Denial::UnknownSession => denial.detail().to_owned(),
    }
}

/// Why a token is not taken at this time.
fn times(denial: &Denial, issuer: Option<&Issuer>, said: &Claimed, now: i64) -> String {
    let leeway = issuer.map_or(0, |issuer| issuer.leeway);
    let (issued, ends) = (said.time("iat"), said.time("exp"));
    if *denial == Denial::Expired {
        return format!("`exp` was {} s ago, and clocks may differ by {leeway} s", now.saturating_sub(ends));
    }
    if *denial == Denial::NotYetValid {
        let starts = said.time("nbf").max(issued).saturating_sub(now);
        return format!("it begins in {starts} s (`nbf`, `iat`), and clocks may differ by {leeway} s");
    }
    let longest = issuer.map_or(0, |issuer| issuer.max_lifetime);
    format!("from `iat` to `exp` it lives {} s; `max_lifetime` is {longest} s", ends.saturating_sub(issued))
}

fn algorithms(pinned: &[Algorithm]) -> String {
    list(ALGORITHMS.iter().filter(|(_, known)| pinned.contains(known)).map(|(name, _)| *name))
}
