//! Every reason not to forward a request, and what each looks like from outside.
//!
//! 1. The list is closed: there is no `Other`, and no match on it has a `_` arm, so a new reason
//!    has to be given a status, a challenge, a label and a text before the crate compiles.
//! 2. `label` is fine-grained and for the operator; `detail` is coarse and for the client, so that
//!    an attacker who varies a token learns nothing from the answers.
//!
//! What it does not do: render anything (`respond`), or say what went wrong after a permit was
//! given (`forward::ForwardError`).
//!
//! Sources: RFC 6750 §3, RFC 9110 §15, DESIGN §4.

use std::sync::Arc;

use http::StatusCode;

/// A reason not to forward a request, alphabetical within its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    // 400
    /// The path could be read in two ways (encoded slash, dot segment, ...).
    AmbiguousPath,
    /// Two credentials, or one in a place where none is configured (RFC 6750 §2).
    DuplicateCredentials,
    /// The refresh token is not one, or its login has ended.
    InvalidGrant,
    /// What was sent to an endpoint of the gateway's own cannot be read, or is nothing that is done there; the value is
    /// the error code of OAuth.
    MalformedGrant(&'static str),
    /// Not a request that can be routed: no or two `Host`, no absolute path, ...
    MalformedRequest,
    /// The refresh token was used before, and somebody has gone on with what it became.
    ReusedGrant,
    // 401
    /// The token's algorithm is not one that the issuer's configuration pins.
    AlgorithmNotAllowed,
    /// The signature does not verify.
    BadSignature,
    /// `exp` is in the past.
    Expired,
    /// Whoever issued the token says that it is not active (RFC 7662 §2.2), or nobody knows it.
    InactiveToken,
    /// The token lives longer than the issuer's `max_lifetime`.
    LifetimeTooLong,
    /// The record of the session cannot be read, or is of another kind than the configuration says.
    MalformedSession,
    /// Not a compact JWS with a strict JSON header and strict JSON claims.
    MalformedToken,
    /// A claim that is required is absent; the name is for the log.
    MissingClaim(Arc<str>),
    /// No credential where one is needed.
    MissingToken,
    /// `nbf` or `iat` is in the future.
    NotYetValid,
    /// The store says that the token was taken back.
    Revoked,
    /// No key of the issuer has this `kid`.
    UnknownKey,
    /// The store has no session that the cookie names, or it has ended.
    UnknownSession,
    /// The token is bound to a certificate or a key (`cnf`) that the caller has not proved to have.
    UnprovenToken,
    /// The header demands something that is not understood (`crit`, `b64`, `typ`, ...).
    UnsupportedToken,
    /// `aud` names none of the issuer's audiences.
    WrongAudience,
    /// `iss` is no issuer that this route takes.
    WrongIssuer,
    // 403
    /// Nobody may log in as this subject for a while.
    Barred,
    /// A claim does not have the value that the rule asks for.
    ClaimMismatch,
    /// A request with a session's cookie that could change something, from no page that may send it.
    CrossSite,
    /// A `not` of the rule applies to the caller.
    Excluded,
    /// No client certificate where only one of those proves who is calling: no scheme of HTTP could be challenged for.
    MissingCertificate,
    /// None of the roles that the rule asks for.
    MissingRole,
    /// A scope is missing; the value is the `scope` attribute of the challenge.
    MissingScope(Arc<str>),
    /// A page of this origin may not ask (CORS preflight).
    OriginNotAllowed,
    // 404, 405
    /// No route has this path (or host).
    NoRoute,
    /// The path is known, the method is not; the value is the `Allow` field.
    MethodNotAllowed(Arc<str>),
    // 408, 413, 414, 431
    /// The body is longer than the route's limit.
    BodyTooLarge,
    /// The request target is longer than the limit.
    TargetTooLong,
    /// More header bytes or fields than the limit.
    HeadersTooLarge,
    // 429
    /// More often than the route's limit; for how many seconds not to come back.
    RateLimited(u32),
    // 501
    /// A protocol that the path does not offer, asked for by a client of HTTP/2 (RFC 8441 §4): as a plain request it
    /// would be taken for granted.
    ProtocolNotOffered,
    // 503
    /// The issuer's keys were never loaded or are older than their limit.
    KeysUnavailable,
    /// The store did not say whether the token was taken back.
    StandingUnknown,
}

/// Which kind of refusal a `WWW-Authenticate` challenge has to name (RFC 6750 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// No challenge: the caller cannot mend this by sending another credential.
    None,
    /// `Bearer realm="..."` alone: no credential was sent (RFC 6750 §3.1).
    Bare,
    /// `error="invalid_request"`.
    InvalidRequest,
    /// `error="invalid_token"`.
    InvalidToken,
    /// `error="insufficient_scope", scope="..."`.
    InsufficientScope(Arc<str>),
}

impl Denial {
    /// How many labels there are.
    pub const COUNT: usize = Self::LABELS.len();

    /// All labels, in the order of [`Denial::number`].
    pub const LABELS: [&'static str; 40] = [
        "ambiguous_path",
        "duplicate_credentials",
        "invalid_grant",
        "malformed_grant",
        "malformed_request",
        "reused_grant",
        "algorithm_not_allowed",
        "bad_signature",
        "expired",
        "inactive_token",
        "lifetime_too_long",
        "malformed_session",
        "malformed_token",
        "missing_claim",
        "missing_token",
        "not_yet_valid",
        "revoked",
        "unknown_key",
        "unknown_session",
        "unproven_token",
        "unsupported_token",
        "wrong_audience",
        "wrong_issuer",
        "barred",
        "claim_mismatch",
        "cross_site",
        "excluded",
        "missing_certificate",
        "missing_role",
        "missing_scope",
        "origin_not_allowed",
        "no_route",
        "method_not_allowed",
        "body_too_large",
        "target_too_long",
        "headers_too_large",
        "rate_limited",
        "protocol_not_offered",
        "keys_unavailable",
        "standing_unknown",
    ];

    /// The place of this reason in [`Denial::LABELS`]; numbers counters.
    #[must_use]
    pub const fn number(&self) -> usize {
        match self {
            Self::AmbiguousPath => 0,
            Self::DuplicateCredentials => 1,
            Self::InvalidGrant => 2,
            Self::MalformedGrant(_) => 3,
            Self::MalformedRequest => 4,
            Self::ReusedGrant => 5,
            Self::AlgorithmNotAllowed => 6,
            Self::BadSignature => 7,
            Self::Expired => 8,
            Self::InactiveToken => 9,
            Self::LifetimeTooLong => 10,
            Self::MalformedSession => 11,
            Self::MalformedToken => 12,
            Self::MissingClaim(_) => 13,
            Self::MissingToken => 14,
            Self::NotYetValid => 15,
            Self::Revoked => 16,
            Self::UnknownKey => 17,
            Self::UnknownSession => 18,
            Self::UnprovenToken => 19,
            Self::UnsupportedToken => 20,
            Self::WrongAudience => 21,
            Self::WrongIssuer => 22,
            Self::Barred => 23,
            Self::ClaimMismatch => 24,
            Self::CrossSite => 25,
            Self::Excluded => 26,
            Self::MissingCertificate => 27,
            Self::MissingRole => 28,
            Self::MissingScope(_) => 29,
            Self::OriginNotAllowed => 30,
            Self::NoRoute => 31,
            Self::MethodNotAllowed(_) => 32,
            Self::BodyTooLarge => 33,
            Self::TargetTooLong => 34,
            Self::HeadersTooLarge => 35,
            Self::RateLimited(_) => 36,
            Self::ProtocolNotOffered => 37,
            Self::KeysUnavailable => 38,
            Self::StandingUnknown => 39,
        }
    }

    /// Stable snake_case name for logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        Self::LABELS.get(self.number()).copied().unwrap_or("unknown")
    }

    /// The status of the answer (DESIGN §4).
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::AmbiguousPath
            | Self::DuplicateCredentials
            | Self::InvalidGrant
            | Self::MalformedGrant(_)
            | Self::MalformedRequest
            | Self::ReusedGrant => StatusCode::BAD_REQUEST,
            Self::AlgorithmNotAllowed
            | Self::BadSignature
            | Self::Expired
            | Self::InactiveToken
            | Self::LifetimeTooLong
            | Self::MalformedSession
            | Self::MalformedToken
            | Self::MissingClaim(_)
            | Self::MissingToken
            | Self::NotYetValid
            | Self::Revoked
            | Self::UnknownKey
            | Self::UnknownSession
            | Self::UnprovenToken
            | Self::UnsupportedToken
            | Self::WrongAudience
            | Self::WrongIssuer => StatusCode::UNAUTHORIZED,
            Self::Barred
            | Self::ClaimMismatch
            | Self::CrossSite
            | Self::Excluded
            | Self::MissingCertificate
            | Self::MissingRole
            | Self::MissingScope(_)
            | Self::OriginNotAllowed => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::ProtocolNotOffered => StatusCode::NOT_IMPLEMENTED,
            Self::KeysUnavailable | Self::StandingUnknown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The challenge of the answer: none of the error codes where no credential was sent
    /// (RFC 6750 §3.1).
    #[must_use]
    pub fn challenge(&self) -> Challenge {
        match self {
            // A cookie is none of the credentials that its codes speak of.
            Self::MissingToken | Self::MalformedSession | Self::UnknownSession => Challenge::Bare,
            Self::DuplicateCredentials => Challenge::InvalidRequest,
            Self::AlgorithmNotAllowed
            | Self::BadSignature
            | Self::Expired
            | Self::InactiveToken
            | Self::LifetimeTooLong
            | Self::MalformedToken
            | Self::MissingClaim(_)
            | Self::NotYetValid
            | Self::Revoked
            | Self::UnknownKey
            | Self::UnprovenToken
            | Self::UnsupportedToken
            | Self::WrongAudience
            | Self::WrongIssuer => Challenge::InvalidToken,
            Self::MissingScope(scope) => Challenge::InsufficientScope(Arc::clone(scope)),
            Self::AmbiguousPath
            | Self::InvalidGrant
            | Self::MalformedGrant(_)
            | Self::MalformedRequest
            | Self::ReusedGrant
            | Self::Barred
            | Self::ClaimMismatch
            | Self::CrossSite
            | Self::Excluded
            | Self::MissingCertificate
            | Self::MissingRole
            | Self::OriginNotAllowed
            | Self::NoRoute
            | Self::MethodNotAllowed(_)
            | Self::BodyTooLarge
            | Self::TargetTooLong
            | Self::HeadersTooLarge
            | Self::RateLimited(_)
            | Self::ProtocolNotOffered
            | Self::KeysUnavailable
            | Self::StandingUnknown => Challenge::None,
        }
    }

    /// What the client is told. All failures of a token read the same.
    #[must_use]
    pub const fn detail(&self) -> &'static str {
        match self {
            Self::AmbiguousPath => "the path can be read in more than one way",
            Self::DuplicateCredentials => "exactly one credential may be sent, in the Authorization field",
            Self::InvalidGrant | Self::ReusedGrant => "the refresh token is not accepted: log in again",
            Self::MalformedGrant(_) => "what was sent cannot be read: a form, or the same as JSON, each parameter once",
            Self::MalformedRequest => "the request is not well formed",
            Self::MissingToken => "a credential is needed",
            Self::MalformedSession | Self::UnknownSession => "the session has ended, or there is none",
            Self::CrossSite => "pages of other sites may not send this",
            Self::AlgorithmNotAllowed
            | Self::BadSignature
            | Self::Expired
            | Self::InactiveToken
            | Self::LifetimeTooLong
            | Self::MalformedToken
            | Self::MissingClaim(_)
            | Self::NotYetValid
            | Self::Revoked
            | Self::UnknownKey
            | Self::UnprovenToken
            | Self::UnsupportedToken
            | Self::WrongAudience
            | Self::WrongIssuer => "the token is expired, revoked, malformed or otherwise not accepted",
            Self::Barred => "nobody may log in as this subject for now",
            Self::ClaimMismatch | Self::Excluded | Self::MissingRole => "the caller may not do this",
            Self::MissingCertificate => "a client certificate is needed",
            Self::MissingScope(_) => "the token does not carry the scope that is needed",
            Self::OriginNotAllowed => "pages of this origin may not ask this",
            Self::NoRoute => "nothing is served at this path",
            Self::MethodNotAllowed(_) => "the method is not offered at this path",
            Self::BodyTooLarge => "the body is longer than is taken here",
            Self::TargetTooLong => "the request target is longer than is taken here",
            Self::HeadersTooLarge => "the header fields are larger or more than are taken here",
            Self::RateLimited(_) => "this was asked too often",
            Self::ProtocolNotOffered => "the protocol is not offered at this path",
            Self::KeysUnavailable | Self::StandingUnknown => "the credential cannot be checked right now",
        }
    }

    /// The error code that clients of OAuth look for (RFC 6749 §5.2), where it was about a grant.
    #[must_use]
    pub const fn error(&self) -> Option<&'static str> {
        if let Self::MalformedGrant(error) = self {
            return Some(error);
        }
        if matches!(self, Self::InvalidGrant | Self::ReusedGrant) { Some("invalid_grant") } else { None }
    }

    /// Whether the client should come back: `Retry-After` in seconds.
    #[must_use]
    pub const fn retry_after(&self) -> Option<u32> {
        if let Self::RateLimited(seconds) = self {
            return Some(*seconds);
        }
        // Whatever is away for now is 503, and nothing else is.
        if self.status().as_u16() == StatusCode::SERVICE_UNAVAILABLE.as_u16() { Some(1) } else { None }
    }
}
