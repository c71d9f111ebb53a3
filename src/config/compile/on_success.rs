//! What a route makes of a login that succeeds.

use http::Method;

use super::issue::{made, own};
use crate::authenticate::claims::ClaimPath;
use crate::config::file::{Config, OnSuccess as Section, Route as RouteSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::issue::tokens::OWN_CLAIMS;
use crate::route::OnSuccess;

/// Compiles what one route makes of a login.
pub fn compile(own: &At<Section>, (config, route): (&Config, &RouteSection), mistakes: &mut Mistakes) -> OnSuccess {
    if own.issue_tokens.is_none() && own.create_session.is_none() {
        let mistake = Mistake::at(own, "a login becomes nothing here");
        mistakes.add(mistake.allowed("`issue_tokens`, `create_session`, or both"));
    }
    let methods = route.r#match.methods.as_ref();
    if !methods.is_some_and(|methods| methods.iter().all(|method| method.value == Method::POST)) {
        let mistake = Mistake::at(own, "a link or an image on any page could log somebody in");
        mistakes.add(mistake.allowed("goes with `match: { methods: [POST] }`"));
    }
    if !route.upgrade.is_empty() {
        mistakes.add(Mistake::at(own, "a login is no WebSocket").allowed("goes without `upgrade`"));
    }
    for claim in own.claims.iter() {
        if OWN_CLAIMS.contains(&claim.as_str()) || claim.is_empty() {
            let mistake = Mistake::at(claim, format!("`{}` is not for a service to say", claim.value.escape_debug()));
            mistakes.add(mistake.allowed("names of other claims: `[name, roles, scope]`").remedy("leave it out"));
        }
    }
    let place = |name: &Option<At<String>>, names: Vec<&str>, kind: &str, mistakes: &mut Mistakes| {
        let name = name.as_ref()?;
        let place = names.iter().position(|known| *known == name.value);
        if place.is_none() {
            let found = format!("`{}` is none of the {kind}", name.value.escape_debug());
            let known = names.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            mistakes.add(Mistake::at(name, found).allowed(format!("declared: {known}")).near(name, names));
        }
        place
    };
    let issuers = own_names(config);
    let tokens = place(&own.issue_tokens, issuers, "issuers with a `signing_key`", mistakes);
    let kinds: Vec<&str> = made(config).map(|(name, _)| name.as_str()).collect();
    let session = place(&own.create_session, kinds, "sessions", mistakes);
    same_issuer(own, config, mistakes);
    takes_its_own(own, config, mistakes);
    OnSuccess {
        tokens,
        session,
        claims: own.claims.iter().map(|claim| claim.as_str().into()).collect(),
        client_id: own.client_id.as_ref().unwrap_or(&route.id).as_str().into(),
    }
}

fn own_names(config: &Config) -> Vec<&str> {
    own(config).map(|(name, _)| name.as_str()).collect()
}

/// One mark ends a login: where keys hold an issuer, it has to be the same for its tokens and its session.
fn same_issuer(own_section: &Section, config: &Config, mistakes: &mut Mistakes) {
    let (Some(tokens), Some(session)) = (&own_section.issue_tokens, &own_section.create_session) else { return };
    let keys = &config.revocation.keys;
    let named = [&keys.sub, &keys.sid].into_iter().flatten().find(|key| key.contains("{iss}"));
    let issuer = own(config).find(|(name, _)| name.value == tokens.value).map(|(_, section)| &section.issuer);
    let sessions = config.sessions.entries.iter().find(|(name, _)| name.value == session.value);
    let (Some(key), Some(issuer), Some((_, section))) = (named, issuer, sessions) else { return };
    if section.issuer.as_ref().is_none_or(|own| own.value != issuer.value) {
        let mistake = Mistake::at(session, "a logout by token would leave this session, and one by cookie the tokens");
        let mistake = mistake.allowed(format!("sessions with `issuer: {}`, since keys hold it", issuer.value));
        mistakes.add(mistake.also(key.place, "this key"));
    }
}

/// What a login becomes has to be taken: a claim that is asked of tokens has to be one that these have.
fn takes_its_own(own_section: &At<Section>, config: &Config, mistakes: &mut Mistakes) {
    let Some(name) = &own_section.issue_tokens else { return };
    let Some((_, issuer)) = own(config).find(|(known, _)| known.value == name.value) else { return };
    let mut missing = |claim: &At<ClaimPath>, found: String| {
        let path = claim.as_str();
        let first = path.split_once('.').map_or(path, |(first, _)| first);
        let said = own_section.claims.iter().any(|said| said.value == path || said.value == first);
        // A login may end, and begin, without the others.
        let is_there = said || (OWN_CLAIMS.contains(&path) && !["nbf", "cnf", "auth_time"].contains(&path));
        if !is_there {
            let mistake = Mistake::at(claim, found).also(own_section.claims.place, "what a login becomes here");
            let said =
                own_section.claims.iter().map(|claim| format!("`{}`", claim.value)).collect::<Vec<_>>().join(", ");
            let mistake = mistake.allowed(format!("a claim that the gateway gives its tokens, or one of {said}"));
            // What is not for a service to say cannot be added.
            let can_be_said = !OWN_CLAIMS.contains(&first);
            let remedy = if can_be_said {
                format!("on_success: {{ claims: [..., {first}] }}")
            } else {
                "leave it out".to_owned()
            };
            mistakes.add(mistake.remedy(remedy));
        }
    };
    for claim in issuer.required_claims.iter() {
        missing(claim, format!("tokens of `{}` never have `{}`: each would be refused", name.value, claim.as_str()));
    }
    for (claim, usual, what) in [(&issuer.roles_claim, "roles", "role"), (&issuer.scopes_claim, "scope", "scope")] {
        if claim.as_str() != usual {
            missing(
                claim,
                format!("tokens of `{}` never have `{}`: nobody would have a {what}", name.value, claim.as_str()),
            );
        }
    }
}
