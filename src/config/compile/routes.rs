//! Routes: names become places, `access` becomes a rule.

use std::sync::Arc;

use http::Method;

use super::endpoints::Endpoints;
use super::upstreams::not_zero;
use super::{Kept, cors, on_success, rate, rewrite};
use crate::admit::pattern::Pattern;
use crate::config::access::{Access, ClaimValue, Demand};
use crate::config::file::{Config, Route as Section};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::config::words::EncodedSlash;
use crate::forward::Upstream;
use crate::route::{
    Auth, Destination, Expected, Match, Proof, Requirement, RevocationMode, RevocationPolicy, Route, RouteLimits, Rule,
    Shares,
};

/// Compiles the routes, in the order of the file.
pub fn compile(
    config: &Config,
    (upstreams, endpoints): (&[Upstream], &Endpoints),
    before: &Kept,
    mistakes: &mut Mistakes,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut ids = std::collections::HashMap::new();
    for name in config.defaults.auth.iter() {
        if proof(config, name).is_none() {
            unknown_proof(config, name, mistakes);
        }
    }
    if config.routes.is_empty() && !mistakes.is_known(&config.routes) {
        mistakes.add(Mistake::at(&config.routes, "the list is empty").allowed("at least one route"));
    }
    for section in config.routes.iter() {
        check_id(&section.id, mistakes);
        if let Some(first) = ids.insert(section.id.as_str(), section.id.place) {
            let mistake = Mistake::at(&section.id, format!("another route is called `{}` too", section.id.value));
            mistakes.add(mistake.allowed("each route needs a name of its own").also(first, "the other one"));
        }
        check_methods(section, mistakes);
        let leads_to = match endpoints.destination(&section.id) {
            Some(endpoint) => Some(endpoint),
            None => shares(config, section, mistakes).map(Destination::Upstreams),
        };
        let made = section.on_success.as_ref().map(|own| on_success::compile(own, (config, section), mistakes));
        check_upgrade(config, section, mistakes);
        let rate_limit = section.rate_limit.as_ref().map(|own| rate::compile(own, (config, section), before, mistakes));
        let auth = auth(config, section, mistakes);
        let rule = rule(section, mistakes);
        let rewrite = section.rewrite.as_ref().map(|own| rewrite::compile(own, section, mistakes));
        let (Some(leads_to), Some(auth), Some(rule)) = (leads_to, auth, rule) else { continue };
        routes.push(Route {
            id: section.id.as_str().into(),
            number: routes.len(),
            matching: matching(section),
            leads_to,
            on_success: made,
            rewrite: rewrite.flatten(),
            guarded: Vec::new(),
            auth: Auth::new(auth),
            rule,
            revocation: revocation(config, section, mistakes),
            rate_limit: rate_limit.map(Box::new),
            limits: limits(config, section, mistakes),
            cors: cors::compile(config, section, mistakes),
            upgrade: section.upgrade.iter().map(|protocol| protocol.value).collect(),
            encoded_slash: *section.encoded_slash == EncodedSlash::Allow,
        });
    }
    rewrite::guard(&mut routes, upstreams, config, mistakes);
    routes
}

/// Which requests a route's section takes.
pub fn matching(section: &Section) -> Match {
    let texts = |methods: &At<Vec<At<http::Method>>>| methods.iter().map(|method| method.value.clone()).collect();
    Match {
        pattern: section.r#match.path.value.clone(),
        methods: section.r#match.methods.as_ref().map(texts),
        hosts: section.r#match.hosts.iter().flat_map(|hosts| hosts.iter().map(|host| host.0.clone())).collect(),
    }
}

/// Ids become labels of metrics and words of a log line.
fn check_id(id: &At<String>, mistakes: &mut Mistakes) {
    let fits = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !fits {
        let mistake = Mistake::at(id, "the id cannot name a metric");
        mistakes.add(mistake.allowed("at most 64 letters, digits, `-`, `_` and `.`"));
    }
}

fn check_methods(section: &Section, mistakes: &mut Mistakes) {
    if let Some(hosts) = section.r#match.hosts.as_ref().filter(|hosts| hosts.is_empty())
        && !mistakes.is_known(hosts)
    {
        let mistake = Mistake::at(hosts, "the list is empty: no request could match");
        mistakes.add(mistake.allowed("at least one host").remedy("leave `hosts` out for any host"));
    }
    let Some(methods) = &section.r#match.methods else { return };
    if methods.is_empty() && !mistakes.is_known(methods) {
        let mistake = Mistake::at(methods, "the list is empty: no request could match");
        mistakes.add(mistake.allowed("at least one method").remedy("leave `methods` out for any method"));
    }
}

fn shares(config: &Config, section: &Section, mistakes: &mut Mistakes) -> Option<Shares> {
    let declared = &config.upstreams.declared;
    let mut shares = Vec::new();
    for (name, share) in &section.upstream.0 {
        if let Some(place) = declared.iter().position(|known| known.value == name.value) {
            shares.push((place, u32::try_from(*share).unwrap_or(u32::MAX)));
            continue;
        }
        let line = config.upstreams.place.line.saturating_sub(1).max(1);
        let line = declared.first().map_or(line, |first| first.place.line);
        let mistake = Mistake::at(name, format!("unknown upstream `{}`", name.value.escape_debug()));
        let mistake = mistake.allowed(format!("declared upstreams: {} (line {line})", config.upstreams.names()));
        mistakes.add(mistake.near(name, declared.iter().map(|known| known.as_str())));
    }
    if shares.len() == section.upstream.0.len() { Shares::of(&shares) } else { None }
}

/// A WebSocket takes a connection of its own to the service, which HTTP/2 does not give (RFC 8441 is spoken with clients alone).
fn check_upgrade(config: &Config, section: &Section, mistakes: &mut Mistakes) {
    let Some(first) = section.upgrade.first() else { return };
    let methods = section.r#match.methods.as_ref();
    if let Some(methods) = methods.filter(|methods| methods.iter().all(|method| method.value != Method::GET)) {
        let mistake = Mistake::at(first, "no request could change to it: one that does is a GET");
        mistakes.add(mistake.allowed("goes with `GET` among the methods").also(methods.place, "these methods"));
    }
    let named = |name: &str| section.upstream.0.iter().any(|(upstream, _)| upstream.value == name);
    for (name, upstream) in config.upstreams.entries.iter().filter(|(name, _)| named(name)) {
        let is_offered = upstream.tls.as_ref().is_some_and(|tls| *tls.http2);
        if is_offered || upstream.targets.iter().any(|target| target.url.starts_with("h2://")) {
            let mistake = Mistake::at(first, format!("upstream `{}` is spoken to in HTTP/2", name.value));
            let allowed = "goes with targets that are spoken to in HTTP/1.1";
            mistakes
                .add(mistake.allowed(allowed).remedy("lead the route to an upstream of its own for these requests"));
        }
    }
}

fn auth(config: &Config, section: &Section, mistakes: &mut Mistakes) -> Option<Vec<Proof>> {
    let names = section.auth.as_ref().unwrap_or(&config.defaults.auth);
    if matches!(section.access.value, Access::Public) {
        if let Some(auth) = &section.auth {
            let mistake = Mistake::at(auth, "a public route asks nobody who they are");
            mistakes
                .add(mistake.allowed("`auth` goes with `access: authenticated` or demands").remedy("leave `auth` out"));
        }
        return Some(Vec::new());
    }
    if names.is_empty() {
        let mistake =
            Mistake::at(&section.id, format!("route `{}` has no issuer: nobody could call it", section.id.value));
        mistakes.add(mistake.allowed("`auth: [...]` here, or `defaults.auth`"));
        return None;
    }
    let mut proofs = Vec::new();
    for name in names.iter() {
        match proof(config, name) {
            Some(proof) => proofs.push(proof),
            // A default that is wrong is wrong once, not once a route.
            None if section.auth.is_none() => {}
            None => unknown_proof(config, name, mistakes),
        }
    }
    Some(proofs)
}

/// The way of proving identity that has this name.
fn proof(config: &Config, name: &At<String>) -> Option<Proof> {
    let place = |declared: &[At<String>]| declared.iter().position(|known| known.value == name.value);
    let issuer = place(&config.issuers.declared).map(Proof::Issuer);
    let certificate = || place(&config.client_certificates.declared).map(Proof::Certificate);
    let session = || place(&config.sessions.declared).map(Proof::Session);
    issuer.or_else(certificate).or_else(session).or_else(|| place(&config.introspection.declared).map(Proof::Opaque))
}

/// A name in `auth` that nothing has.
fn unknown_proof(config: &Config, name: &At<String>, mistakes: &mut Mistakes) {
    let mistake = Mistake::at(name, format!("unknown issuer `{}`", name.value.escape_debug()));
    let mut allowed = format!("declared issuers: {}", config.issuers.names());
    let (certificates, sessions, asked) = (&config.client_certificates, &config.sessions, &config.introspection);
    for (kind, declared, names) in [
        ("client certificates", &certificates.declared, certificates.names()),
        ("sessions", &sessions.declared, sessions.names()),
        ("introspection", &asked.declared, asked.names()),
    ] {
        if !declared.is_empty() {
            allowed = format!("{allowed}; {kind}: {names}");
        }
    }
    let known = config.issuers.declared.iter().chain(&certificates.declared).chain(&sessions.declared);
    let known = known.chain(&asked.declared);
    mistakes.add(mistake.allowed(allowed).near(name, known.map(|known| known.as_str())));
}

fn revocation(config: &Config, section: &Section, mistakes: &mut Mistakes) -> RevocationPolicy {
    let own = section.revocation.as_ref();
    let mode = own.and_then(|own| own.mode.as_ref()).unwrap_or(&config.revocation.mode);
    let when_unavailable = own.and_then(|own| own.when_unavailable.as_ref());
    if let Some(own) = own
        && matches!(section.access.value, Access::Public)
    {
        let mistake = Mistake::at(own, "a public route has no token that could be taken back");
        mistakes.add(
            mistake
                .allowed("`revocation` goes with `access: authenticated` or demands")
                .remedy("leave `revocation` out"),
        );
    } else if let Some(unused) = when_unavailable
        && **mode == RevocationMode::Off
    {
        let mistake = Mistake::at(unused, "the store is not asked here");
        mistakes.add(mistake.allowed("goes with `mode: tracked` or `lookup`").remedy("leave `when_unavailable` out"));
    }
    RevocationPolicy {
        mode: **mode,
        when_unavailable: **when_unavailable.unwrap_or(&config.revocation.when_unavailable),
    }
}

fn limits(config: &Config, section: &Section, mistakes: &mut Mistakes) -> RouteLimits {
    let (all, own) = (&config.defaults.limits, section.limits.as_ref());
    let request_timeout = own.and_then(|own| own.request_timeout.as_ref()).unwrap_or(&all.request_timeout);
    let body_timeout = own.and_then(|own| own.body_timeout.as_ref()).unwrap_or(&all.body_timeout);
    let tunnel_timeout = own.and_then(|own| own.tunnel_timeout.as_ref()).unwrap_or(&all.tunnel_timeout);
    let answer_timeout = own.and_then(|own| own.answer_timeout.as_ref()).or(all.answer_timeout.as_ref());
    for limit in [request_timeout, body_timeout, tunnel_timeout].into_iter().chain(answer_timeout) {
        not_zero(limit, mistakes);
    }
    RouteLimits {
        body: own.and_then(|own| own.body.as_ref()).unwrap_or(&all.body).0,
        request_timeout: **request_timeout,
        body_timeout: **body_timeout,
        tunnel_timeout: **tunnel_timeout,
        answer_timeout: answer_timeout.map(|limit| limit.value),
    }
}

fn rule(section: &Section, mistakes: &mut Mistakes) -> Option<Rule> {
    let pattern = &section.r#match.path;
    match &section.access.value {
        Access::Public => Some(Rule::Public),
        Access::Authenticated => Some(Rule::Authenticated),
        Access::Demands(demands) => all(demands, pattern, mistakes).map(Rule::Require),
    }
}

fn all(demands: &[Demand], pattern: &Pattern, mistakes: &mut Mistakes) -> Option<Requirement> {
    let read: Vec<_> = demands.iter().map(|demand| requirement(demand, pattern, mistakes)).collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(Requirement::All)
}

fn requirement(demand: &Demand, pattern: &Pattern, mistakes: &mut Mistakes) -> Option<Requirement> {
    let texts = |list: &[At<String>]| list.iter().map(|text| text.value.clone()).collect::<Vec<_>>();
    match demand {
        Demand::Roles(roles) => Some(Requirement::AnyRole(texts(roles))),
        Demand::Scopes(scopes) => scope_text(scopes, mistakes).map(|text| Requirement::AllScopes(texts(scopes), text)),
        Demand::AnyScope(scopes) => scope_text(scopes, mistakes).map(|text| Requirement::AnyScope(texts(scopes), text)),
        Demand::Claim(claim, values) => {
            let read: Vec<_> = values.iter().map(|value| expected(value, pattern, mistakes)).collect();
            let values = read.into_iter().collect::<Option<Vec<_>>>()?;
            Some(Requirement::Claim(claim.value.clone(), values))
        }
        Demand::Any(list) => several(list, pattern, mistakes).map(Requirement::Any),
        Demand::All(list) => several(list, pattern, mistakes).map(Requirement::All),
        Demand::Not(demands) => all(demands, pattern, mistakes).map(|inner| Requirement::Not(Box::new(inner))),
    }
}

fn several(list: &[Vec<Demand>], pattern: &Pattern, mistakes: &mut Mistakes) -> Option<Vec<Requirement>> {
    let read: Vec<_> = list.iter().map(|demands| all(demands, pattern, mistakes)).collect();
    read.into_iter().collect()
}

/// `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )` (RFC 6749 §3.3): fit to stand in a challenge.
fn scope_text(scopes: &[At<String>], mistakes: &mut Mistakes) -> Option<Arc<str>> {
    let odd = scopes.iter().find(|scope| !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\'));
    if let Some(odd) = odd {
        let mistake = Mistake::at(odd, format!("`{}` is no scope", odd.value.escape_debug()));
        mistakes.add(
            mistake.allowed("visible ASCII without spaces, `\"` and `\\`").remedy("one list element for each scope"),
        );
        return None;
    }
    Some(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ").into())
}

fn expected(value: &At<ClaimValue>, pattern: &Pattern, mistakes: &mut Mistakes) -> Option<Expected> {
    match &value.value {
        ClaimValue::Literal(literal) => Some(Expected::Value(literal.clone())),
        ClaimValue::Parameter(name) => {
            let place = pattern.parameter(name);
            if place.is_none() {
                let known = pattern.parameters().map(|name| format!("`{{{name}}}`")).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                let mistake = Mistake::at(value, format!("the path has no parameter `{{{}}}`", name.escape_debug()));
                let mistake = mistake.allowed(format!("parameters of `{}`: {known}", pattern.as_str()));
                mistakes.add(mistake.near(name, pattern.parameters()));
            }
            place.map(Expected::Parameter)
        }
    }
}
