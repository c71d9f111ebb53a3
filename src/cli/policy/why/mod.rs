//! Why a request is refused, for those who write configurations: what was found, what would have been right.
//!
//! Clients are told less (`denial`): this is said to nobody who has not got the configuration and the credential.

pub mod token;

use http::request::Parts;
use serde_json::Map;

use self::token::Claimed;
use super::proof_name;
use crate::authenticate::Identity;
use crate::authenticate::bearer::Bearer;
use crate::clock::Moment;
use crate::denial::Denial;
use crate::gateway::Gateway;
use crate::gateway::judge::Who;
use crate::route::{Proof, Route};

const AMBIGUOUS: &str = "the path holds something that services read in different ways (`%2F`, `//`, `.` and `..`, `\\`), or \
                         comes to what another route protects";
const CROSS_SITE: &str = "what could change something has to say which page of ours it comes from, in `Origin` \
                          (`csrf.allowed_origins`) or `Sec-Fetch-Site: same-origin`: cookies and certificates go with \
                          what other pages send, too";
const MALFORMED_SESSION: &str =
    "the record cannot be read, or is of another kind than `record` says, or begins in the future";

/// Why a request is refused.
pub fn of(
    denial: &Denial,
    gateway: &Gateway,
    (request, route): (&Parts, Option<&Route>),
    (who, identity): (Who<'_>, Option<&Identity>),
    now: Moment,
) -> String {
    let auth = || route.map_or_else(|| "none".to_owned(), |route| taken(gateway, route));
    let roles = || list(identity.into_iter().flat_map(Identity::roles).map(String::as_str));
    let scopes = || list(identity.into_iter().flat_map(Identity::scopes).map(String::as_str));
    match denial {
        Denial::NoRoute => no_route(gateway, request.uri.path()),
        Denial::MethodNotAllowed(allow) => {
            format!("the path is known, but not for `{}`: it is for {allow}", request.method)
        }
        Denial::AmbiguousPath => AMBIGUOUS.to_owned(),
        Denial::OriginNotAllowed => "the page's origin is none of `cors.origins`".to_owned(),
        Denial::MissingRole => format!("the caller has the roles {}", roles()),
        Denial::MissingScope(needed) => format!("needed is `{needed}`; the caller has the scopes {}", scopes()),
        Denial::Excluded => "a `not` of the rule holds for the caller".to_owned(),
        Denial::ClaimMismatch => "a claim is not what the rule asks for".to_owned(),
        Denial::MissingToken | Denial::MissingCertificate => {
            format!("no credential that the route looks at; it takes {}", auth())
        }
        Denial::DuplicateCredentials => {
            format!("two credentials, one in the query, or a token where none is taken; the route takes {}", auth())
        }
        Denial::InactiveToken => format!("nobody who is asked knows the token as active; the route takes {}", auth()),
        Denial::MalformedSession => MALFORMED_SESSION.to_owned(),
        Denial::UnknownSession => "the store has no such session, or it has ended".to_owned(),
        Denial::CrossSite => CROSS_SITE.to_owned(),
        Denial::Revoked => "a key of `revocation.keys` in the store takes it back".to_owned(),
        Denial::StandingUnknown => "the store does not say whether it was taken back".to_owned(),
        Denial::AlgorithmNotAllowed
        | Denial::BadSignature
        | Denial::Expired
        | Denial::KeysUnavailable
        | Denial::LifetimeTooLong
        | Denial::MalformedToken
        | Denial::MissingClaim(_)
        | Denial::NotYetValid
        | Denial::UnknownKey
        | Denial::UnprovenToken
        | Denial::UnsupportedToken
        | Denial::WrongAudience
        | Denial::WrongIssuer => of_token(denial, gateway, (request, route), who, now),
        Denial::Barred
        | Denial::BodyTooLarge
        | Denial::HeadersTooLarge
        | Denial::InvalidGrant
        | Denial::MalformedGrant(_)
        | Denial::MalformedRequest
        | Denial::ProtocolNotOffered
        | Denial::RateLimited(_)
        | Denial::ReusedGrant
        | Denial::TargetTooLong => denial.detail().to_owned(),
    }
}

fn no_route(gateway: &Gateway, path: &str) -> String {
    let elsewhere = gateway.routes.all().iter().filter(|route| route.matching.pattern.matches(path));
    let hosts: Vec<&str> = elsewhere.flat_map(|route| route.matching.hosts.iter().map(String::as_str)).collect();
    if hosts.is_empty() {
        return "no route has a path that fits: `bearward routes` lists them".to_owned();
    }
    format!("the path is served for {} alone", list(hosts.into_iter()))
}

fn of_token(
    denial: &Denial,
    gateway: &Gateway,
    (request, route): (&Parts, Option<&Route>),
    who: Who<'_>,
    now: Moment,
) -> String {
    let said = match who {
        Who::Shown(_) => {
            Bearer::of(request).ok().and_then(|bearer| bearer.text().ok()).map(Claimed::of).unwrap_or_default()
        }
        Who::Assumed(assumed) => Claimed { header: Map::new(), claims: assumed.claims.clone() },
    };
    let authenticator = &gateway.authenticator;
    let issuers = route.iter().flat_map(|route| route.auth.issuers());
    let mut issuers = issuers.filter_map(|place| authenticator.issuers().get(place));
    let issuer = match who {
        Who::Shown(_) => issuers.find(|issuer| said.claims.get("iss").is_some_and(|iss| *iss == *issuer.issuer)),
        Who::Assumed(assumed) => match assumed.by {
            Proof::Issuer(place) => authenticator.issuers().get(place),
            Proof::Certificate(_) | Proof::Session(_) | Proof::Opaque(_) => None,
        },
    };
    if let (Denial::WrongIssuer, Some(route)) = (denial, route) {
        let by = match who {
            Who::Shown(_) => said.found("iss"),
            Who::Assumed(assumed) => format!("the caller is of `{}`", proof_name(gateway, assumed.by)),
        };
        return format!("{by}; the route takes {}", taken(gateway, route));
    }
    token::why(denial, issuer, &said, now.unix)
}

/// What a route takes, each with the `iss` of its tokens.
fn taken(gateway: &Gateway, route: &Route) -> String {
    let each = route.auth.iter().map(|proof| {
        let name = proof_name(gateway, proof);
        match proof {
            Proof::Issuer(place) => gateway
                .authenticator
                .issuers()
                .get(place)
                .map_or_else(String::new, |issuer| format!("tokens of `{name}` (iss `{}`)", issuer.issuer)),
            Proof::Certificate(_) => format!("certificates of `{name}`"),
            Proof::Session(place) => gateway
                .authenticator
                .sessions()
                .get(place)
                .map_or_else(String::new, |kind| format!("sessions of `{name}` (cookie `{}`)", kind.cookie)),
            Proof::Opaque(_) => format!("tokens that `{name}` is asked about"),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Names with commas between them.
pub fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
