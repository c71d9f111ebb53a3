//! A route and its rule: data only, made by `config`, read by every stage.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use serde_json::Value;

use crate::admit::pattern::Pattern;
use crate::authenticate::claims::ClaimPath;
pub use crate::destination::{Destination, Endpoint, OnSuccess, Shares};
pub use crate::origin::Origin;
use crate::rate::{RateKey, RateLimit};

/// What one route demands and where it leads.
#[derive(Debug)]
pub struct Route {
    /// Name for logs, metrics and error texts; unique.
    pub id: Arc<str>,
    /// Place among all routes; numbers counters.
    pub number: usize,
    /// Which requests it takes.
    pub matching: Match,
    /// Where it leads.
    pub leads_to: Destination,
    /// What a login that succeeds there becomes; nothing: its answer goes to the client.
    pub on_success: Option<OnSuccess>,
    /// What the path becomes on its way there; nothing: it stays as it is.
    pub rewrite: Option<Rewrite>,
    /// Paths that it must not come to there: other routes come to them, and demand something else.
    pub guarded: Vec<Pattern>,
    /// Which ways of proving identity are taken here; empty on a public route.
    pub auth: Auth,
    /// What is demanded of the caller.
    pub rule: Rule,
    /// Whether, and how, the store is asked for the token's standing.
    pub revocation: RevocationPolicy,
    /// How often, where that is limited.
    pub rate_limit: Option<Box<RateLimit>>,
    /// How much and how long.
    pub limits: RouteLimits,
    /// Which pages of other origins may read its answers; nothing: what the service says of it goes through.
    pub cors: Option<Arc<Cors>>,
    /// Protocols that a connection may change to.
    pub upgrade: Vec<Protocol>,
    /// Whether `%2F` may stand inside a segment (`encoded_slash: allow`).
    pub encoded_slash: bool,
}

impl Route {
    /// Whether nothing is protected by `other` that is not protected here in the same way: what comes to it here, under
    /// another spelling, is led around nothing.
    #[must_use]
    pub fn protects_as(&self, other: &Self) -> bool {
        let is_same = self.rule == other.rule && self.auth == other.auth && self.revocation == other.revocation;
        // Where the rule looks at the path, the same words mean another part of it.
        let is_held = matches!(other.rule, Rule::Public) || (is_same && !other.rule.looks_at_path());
        // Its requests are counted, or become logins there.
        is_held && other.rate_limit.is_none() && other.on_success.is_none()
    }

    /// The claim that its callers are counted by.
    #[must_use]
    pub fn counted(&self) -> Option<&ClaimPath> {
        match self.rate_limit.as_ref().map(|limit| &limit.key) {
            Some(RateKey::Claim(path)) => Some(path),
            Some(RateKey::ClientIp | RateKey::Subject) | None => None,
        }
    }
}

/// The ways of proving identity that a route takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    all: Vec<Proof>,
    /// Whether sessions are among them: told at once, since most requests have no cookie to look for.
    pub takes_sessions: bool,
    /// Whether tokens are among them that have to be asked about.
    pub takes_opaque: bool,
}

impl Auth {
    /// These.
    #[must_use]
    pub fn new(all: Vec<Proof>) -> Self {
        let takes_sessions = all.iter().any(|proof| matches!(proof, Proof::Session(_)));
        let takes_opaque = all.iter().any(|proof| matches!(proof, Proof::Opaque(_)));
        Self { all, takes_sessions, takes_opaque }
    }

    /// Whether one is among them.
    #[must_use]
    pub fn takes(&self, proof: Proof) -> bool {
        self.all.contains(&proof)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Proof> {
        self.all.iter().copied()
    }

    /// The issuers, by their place.
    pub fn issuers(&self) -> impl Iterator<Item = usize> {
        self.iter().filter_map(|proof| match proof {
            Proof::Issuer(place) => Some(place),
            Proof::Certificate(_) | Proof::Session(_) | Proof::Opaque(_) => None,
        })
    }

    /// Those who are asked about tokens, by their place.
    pub fn opaque(&self) -> impl Iterator<Item = usize> {
        self.iter().filter_map(|proof| match proof {
            Proof::Opaque(place) => Some(place),
            Proof::Issuer(_) | Proof::Certificate(_) | Proof::Session(_) => None,
        })
    }

    /// The kinds of sessions, by their place.
    pub fn sessions(&self) -> impl Iterator<Item = usize> {
        self.iter().filter_map(|proof| match proof {
            Proof::Session(place) => Some(place),
            Proof::Issuer(_) | Proof::Certificate(_) | Proof::Opaque(_) => None,
        })
    }
}

/// A way of proving identity, by its place among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By a token of an issuer.
    Issuer(usize),
    /// By a certificate that authorities have signed.
    Certificate(usize),
    /// By the cookie of a session.
    Session(usize),
    /// By a token that somebody is asked about.
    Opaque(usize),
}

impl Proof {
    /// Whether it is a certificate.
    #[must_use]
    pub const fn is_certificate(self) -> bool {
        match self {
            Self::Certificate(_) => true,
            Self::Issuer(_) | Self::Session(_) | Self::Opaque(_) => false,
        }
    }
}

/// What a path becomes on its way to the upstream.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// How many of its first segments go; the route's pattern has that many literals at the least.
    pub strip: usize,
    /// What comes before the rest; a canonical path without a final `/`, or nothing.
    pub add: String,
}

/// Which pages of other origins may read answers.
#[derive(Debug)]
pub struct Cors {
    /// The origins.
    pub origins: Vec<Origin>,
    /// Whether any origin is one of them; never with `credentials`.
    pub is_any: bool,
    /// The methods of the route, as a field value; nothing where it takes any.
    pub methods: Option<HeaderValue>,
    /// The header fields that a page may send, as a field value.
    pub headers: Option<HeaderValue>,
    /// Those that it may read beside the usual ones, as a field value.
    pub expose: Option<HeaderValue>,
    /// Whether the browser may send cookies, and show the answer then.
    pub credentials: bool,
    /// For how many seconds a browser may remember a preflight, as a field value.
    pub max_age: HeaderValue,
}

/// A protocol that a connection may change to (RFC 9110 §7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
}

impl Protocol {
    /// Its name in `Upgrade`.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
        }
    }

    /// The one with this name, in any case.
    #[must_use]
    pub fn of(token: &[u8]) -> Option<Self> {
        token.eq_ignore_ascii_case(Self::WebSocket.token().as_bytes()).then_some(Self::WebSocket)
    }
}

/// Which requests a route takes.
#[derive(Clone, Debug)]
pub struct Match {
    /// The path.
    pub pattern: Pattern,
    /// The methods; `None` is any.
    pub methods: Option<Vec<Method>>,
    /// The hosts, lower case, `*.` for one or more labels; empty is any.
    pub hosts: Vec<String>,
}

/// What a route demands.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Anyone; no credential is looked at.
    Public,
    /// Any caller whose credential holds.
    Authenticated,
    /// A caller of whom this is true.
    Require(Requirement),
}

/// One thing that has to be true of the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Requirement {
    /// Nothing beyond a credential that holds.
    Authenticated,
    /// Has at least one of these roles.
    AnyRole(Vec<String>),
    /// Has every one of these scopes; the text is the challenge's `scope` attribute.
    AllScopes(Vec<String>, Arc<str>),
    /// Has at least one of these scopes; the text is the challenge's `scope` attribute.
    AnyScope(Vec<String>, Arc<str>),
    /// A claim equals one of these values, or is a list that has one of them.
    Claim(ClaimPath, Vec<Expected>),
    /// Every one holds.
    All(Vec<Requirement>),
    /// At least one holds.
    Any(Vec<Requirement>),
    /// It does not hold.
    Not(Box<Requirement>),
}

impl Rule {
    /// Whether it looks at the path: then the same words mean something else on another one.
    #[must_use]
    pub fn looks_at_path(&self) -> bool {
        match self {
            Self::Public | Self::Authenticated => false,
            Self::Require(requirement) => requirement.looks_at_path(),
        }
    }

    /// The claims that it looks at, beyond roles and scopes.
    #[must_use]
    pub fn claims(&self) -> Vec<&ClaimPath> {
        match self {
            Self::Public | Self::Authenticated => Vec::new(),
            Self::Require(requirement) => requirement.claims(),
        }
    }
}

impl Requirement {
    fn looks_at_path(&self) -> bool {
        match self {
            Self::Claim(_, expected) => expected.iter().any(|it| matches!(it, Expected::Parameter(_))),
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::looks_at_path),
            Self::Not(part) => part.looks_at_path(),
            Self::Authenticated | Self::AnyRole(_) | Self::AllScopes(..) | Self::AnyScope(..) => false,
        }
    }

    fn claims(&self) -> Vec<&ClaimPath> {
        match self {
            Self::Authenticated | Self::AnyRole(_) | Self::AllScopes(..) | Self::AnyScope(..) => Vec::new(),
            Self::Claim(path, _) => vec![path],
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::claims).collect(),
            Self::Not(part) => part.claims(),
        }
    }
}

/// What a claim is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// This value: text, number or boolean.
    Value(Value),
    /// The path parameter at this place in the route's pattern, decoded.
    Parameter(usize),
}

/// Whether, and how, the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationPolicy {
    /// When the store is asked.
    pub mode: RevocationMode,
    /// What happens when it does not say.
    pub when_unavailable: WhenUnavailable,
}

impl RevocationPolicy {
    /// The same for what has to be asked, and is not let through in doubt.
    #[must_use]
    pub const fn strict(self) -> Self {
        let mode = match self.mode {
            RevocationMode::Lookup => RevocationMode::Lookup,
            RevocationMode::Tracked | RevocationMode::Off => RevocationMode::Tracked,
        };
        Self { mode, when_unavailable: WhenUnavailable::Deny }
    }
}

/// When the store is asked for a token's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationMode {
    /// Once for each token; then the store tells when its answer changes.
    Tracked,
    /// On every request.
    Lookup,
    /// Never.
    Off,
}

/// What happens to a request whose token's standing the store does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// 503.
    Deny,
    /// It is served as if the token were good.
    Allow,
}

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct RouteLimits {
    /// Longest request body in bytes.
    pub body: u64,
    /// From the request's head to the answer's head, while no body is moving.
    pub request_timeout: Duration,
    /// Longest silence of the client inside a request body.
    pub body_timeout: Duration,
    /// Longest silence of both sides after a change of protocol.
    pub tunnel_timeout: Duration,
    /// From a request to the end of its answer; nothing: as long as something comes.
    pub answer_timeout: Option<Duration>,
}
