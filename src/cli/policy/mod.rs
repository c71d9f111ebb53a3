//! What a configuration decides of a request: asked of the functions that decide it in a gateway.

pub mod reach;
mod rule;
mod text;
pub mod why;

use std::time::Duration;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request};
use serde_json::{Map, Value, json};

use crate::authenticate::Identity;
use crate::authenticate::{Authenticator, Caller};
use crate::clock::Moment;
use crate::denial::Denial;
use crate::gateway::Gateway;
use crate::gateway::judge::{Judged, Who};
use crate::rate::{RateKey, RateLimit};
use crate::route::{Destination, Proof, RevocationMode, RevocationPolicy, Route, Rule};

/// The host of a request that names none.
const NO_HOST: &str = "localhost";

/// What was decided of a request, and why.
#[derive(Debug)]
pub struct Verdict {
    /// The route.
    pub route: Option<String>,
    /// The path as the route has it.
    pub pattern: Option<String>,
    /// Who calls.
    pub caller: Option<Known>,
    /// What the route demands, and what of it holds; empty where that was not asked.
    pub rule: Vec<rule::Line>,
    /// Whether, and how, the store is asked.
    pub revocation: Option<RevocationPolicy>,
    /// How often, where that is limited; nothing is counted here.
    pub limit: Option<String>,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on.
    Allowed {
        /// To one of these upstreams; or what the gateway does itself, in words.
        to: Vec<String>,
        /// With this path.
        path: String,
        /// The identity headers that it gets.
        identity: Vec<(String, String)>,
    },
    /// It is a browser's question about one that would be routed there, and is answered.
    Preflight,
    /// It is refused.
    Refused {
        /// Why.
        denial: Denial,
        /// The same for people: what was found, and what would have been right.
        why: String,
    },
}

/// A caller that is known.
#[derive(Debug)]
pub struct Known {
    /// `sub`.
    pub subject: String,
    /// What proves it, by its name in the configuration.
    pub by: String,
    /// Roles.
    pub roles: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
}

/// The head of a request; `target` is a path, or a whole URL.
///
/// # Errors
/// What is wrong with it, in words.
pub fn head(method: &str, target: &str, host: Option<&str>, fields: &[(String, String)]) -> Result<Parts, String> {
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method: `GET`"))?;
    let uri = crate::config::policy::target(target)
        .ok_or_else(|| format!("`{target}` is no path: it begins with `/`, or with `https://`, and has no `#`"))?;
    let own = uri.authority().map(|authority| authority.as_str().to_owned());
    let mut request = Request::builder().method(method).uri(uri);
    let named = |name: &str| name.eq_ignore_ascii_case("host");
    if !fields.iter().any(|(name, _)| named(name)) {
        request = request.header(HOST, host.or(own.as_deref()).unwrap_or(NO_HOST));
    }
    for (name, value) in fields {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("`{name}` is no name of a header"))?;
        let value = HeaderValue::try_from(value.as_str()).map_err(|_| format!("`{name}` has a value that is none"))?;
        request = request.header(name, value);
    }
    request.body(()).map(|request| request.into_parts().0).map_err(|_| "the host cannot stand in a header".to_owned())
}

/// What proves identity and has this name.
pub fn proof(authenticator: &Authenticator, name: &str) -> Option<Proof> {
    let issuers = authenticator.issuers().iter().map(|one| &*one.name).zip((0..).map(Proof::Issuer));
    let asked = authenticator.introspectors().iter().map(|one| &*one.judges.name).zip((0..).map(Proof::Opaque));
    let sessions = authenticator.sessions().iter().map(|one| &*one.name).zip((0..).map(Proof::Session));
    let trusted = authenticator.certificates().iter();
    let trusted = trusted.map(|one| &*one.authority.name).zip((0..).map(Proof::Certificate));
    issuers.chain(asked).chain(sessions).chain(trusted).find(|(known, _)| *known == name).map(|(_, proof)| proof)
}

/// What the configuration calls it.
fn proof_name(gateway: &Gateway, proof: Proof) -> String {
    gateway.authenticator.name(proof).map_or_else(String::new, ToString::to_string)
}

/// What is decided of a request.
pub async fn judge(gateway: &Gateway, request: &Parts, who: Who<'_>, now: Moment) -> Verdict {
    let Judged { admitted, caller, refused } = gateway.judge(request, who, now).await;
    let route = admitted.as_ref().map(|admitted| admitted.route);
    let identity = caller.as_ref().and_then(identity);
    let outcome = match (refused, &admitted) {
        (Some(denial), _) => {
            let why = why::of(&denial, gateway, (request, route), (who, identity), now);
            Outcome::Refused { denial, why }
        }
        (None, Some(admitted)) if !admitted.is_preflight => Outcome::Allowed {
            to: leads_to(gateway, admitted.route),
            path: admitted.onward().as_str().to_owned(),
            identity: identity.map(headers).unwrap_or_default(),
        },
        (None, _) => Outcome::Preflight,
    };
    Verdict {
        route: route.map(|route| route.id.to_string()),
        pattern: route.map(|route| route.matching.pattern.as_str().to_owned()),
        caller: identity.map(|identity| known(gateway, identity)),
        rule: admitted
            .as_ref()
            .zip(identity)
            .map(|(admitted, identity)| rule::lines(admitted, identity))
            .unwrap_or_default(),
        revocation: route.filter(|route| !matches!(route.rule, Rule::Public)).map(|route| {
            // Of a session it is asked in any case.
            let is_session = identity.is_some_and(|identity| identity.session_kind().is_some());
            if is_session { route.revocation.strict() } else { route.revocation }
        }),
        limit: route.and_then(|route| route.rate_limit.as_deref()).map(limit),
        outcome,
    }
}

fn identity(caller: &Caller) -> Option<&Identity> {
    match caller {
        Caller::Anonymous => None,
        Caller::Known(identity) => Some(identity),
    }
}

fn known(gateway: &Gateway, identity: &Identity) -> Known {
    Known {
        subject: identity.subject().to_string(),
        by: proof_name(gateway, identity.proof()),
        roles: identity.roles().to_vec(),
        scopes: identity.scopes().to_vec(),
    }
}

/// Where a route leads, in words.
fn leads_to(gateway: &Gateway, route: &Route) -> Vec<String> {
    match &route.leads_to {
        Destination::Endpoint(endpoint) => vec![format!("the gateway itself ({})", endpoint.name())],
        Destination::Upstreams(_) => {
            let places = route.leads_to.upstreams();
            places
                .filter_map(|place| gateway.forwarder.upstreams().get(place))
                .map(|one| one.name.to_string())
                .collect()
        }
    }
}

/// The identity headers, as they stand in a head.
fn headers(identity: &Identity) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(identity.headers()).into_owned();
    let lines = text.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn limit(limit: &RateLimit) -> String {
    let key = match &limit.key {
        RateKey::ClientIp => "client address".to_owned(),
        RateKey::Subject => "subject".to_owned(),
        RateKey::Claim(path) => format!("value of the claim `{}`", path.as_str()),
    };
    let every = Duration::from_micros(limit.rate.interval);
    format!("one every {every:?}, {} at once, for each {key}", limit.rate.burst)
}

impl Verdict {
    /// The status that a client sees; nothing where the service answers.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.outcome {
            Outcome::Allowed { .. } => None,
            Outcome::Preflight => Some(204),
            Outcome::Refused { denial, .. } => Some(denial.status().as_u16()),
        }
    }

    /// Whether it depends on what the store says.
    #[must_use]
    pub fn asks_the_store(&self) -> bool {
        let is_off = self.revocation.is_none_or(|policy| policy.mode == RevocationMode::Off);
        let in_doubt = ["unknown_session", "standing_unknown", "revoked"].contains(&self.label());
        in_doubt || (self.caller.is_some() && !is_off)
    }

    /// The word for it: `allowed`, `preflight`, or the reason of a refusal as logs have it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match &self.outcome {
            Outcome::Allowed { .. } => "allowed",
            Outcome::Preflight => "preflight",
            Outcome::Refused { denial, .. } => denial.label(),
        }
    }

    /// For machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        members.insert("decision".to_owned(), self.label().into());
        members.insert("status".to_owned(), json!(self.status()));
        members.insert("route".to_owned(), json!(self.route));
        members.insert("pattern".to_owned(), json!(self.pattern));
        if let Some(Known { subject, by, roles, scopes }) = &self.caller {
            members.insert("caller".to_owned(), json!({ "sub": subject, "by": by, "roles": roles, "scopes": scopes }));
        }
        if let Some(policy) = self.revocation {
            members.insert("revocation".to_owned(), mode(policy).into());
        }
        if let Some(limit) = &self.limit {
            members.insert("rate_limit".to_owned(), limit.as_str().into());
        }
        if !self.rule.is_empty() {
            let line = |line: &rule::Line| json!({ "depth": line.depth, "demand": line.demand, "holds": line.holds });
            members.insert("rule".to_owned(), self.rule.iter().map(line).collect());
        }
        match &self.outcome {
            Outcome::Allowed { to, path, identity } => {
                let identity = identity.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
                let identity = identity.collect::<Map<_, _>>();
                members.insert("upstream".to_owned(), json!({ "to": to, "path": path, "identity": identity }));
            }
            Outcome::Preflight => {}
            Outcome::Refused { denial, why } => {
                members.insert("detail".to_owned(), denial.detail().into());
                members.insert("why".to_owned(), why.as_str().into());
            }
        }
        members.into()
    }
}

/// How the store is asked, as the configuration spells it.
#[must_use]
pub const fn mode(policy: RevocationPolicy) -> &'static str {
    match policy.mode {
        RevocationMode::Tracked => "tracked",
        RevocationMode::Lookup => "lookup",
        RevocationMode::Off => "off",
    }
}
