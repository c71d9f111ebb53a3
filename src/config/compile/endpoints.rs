//! Paths at which the gateway answers itself become routes like all others: they are matched, held against each other,
//! logged and counted in the same way.

use http::Method;

use super::issue;
use crate::admit::pattern::Pattern;
use crate::config::access::Access;
use crate::config::file::{Config, Match, Route, RouteLimits};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::config::target::UpstreamSource;
use crate::config::unit::Size;
use crate::config::words::EncodedSlash;
use crate::route::{Destination, Endpoint};

/// Longest body that is sent to one, in bytes.
const MAX_BODY: u64 = 16 * 1024;

/// The endpoints of a file, as routes.
#[derive(Debug)]
pub struct Endpoints {
    all: Vec<(At<Route>, Endpoint)>,
}

impl Endpoints {
    /// The file with these routes after its own.
    pub fn with(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.routes.value.extend(self.all.iter().map(|(route, _)| route.clone()));
        config
    }

    /// Where the route of this name leads, if it is one of these.
    pub fn destination(&self, id: &At<String>) -> Option<Destination> {
        let own = self.all.iter().find(|(route, _)| route.id.value == id.value && route.id.place == id.place);
        own.map(|(_, endpoint)| Destination::Endpoint(*endpoint))
    }
}

/// The endpoints of a file.
pub fn compile(config: &Config, mistakes: &mut Mistakes) -> Endpoints {
    let mut all = Vec::new();
    for (place, (name, section)) in issue::own(config).enumerate() {
        let endpoints = &section.endpoints;
        let posted = [&endpoints.refresh, &endpoints.revoke, &endpoints.logout];
        if let Some(limit) = endpoints.rate_limit.as_ref().filter(|_| posted.iter().all(|path| path.is_none())) {
            let mistake = Mistake::at(limit, "there is nothing that it limits");
            mistakes.add(mistake.allowed("goes with `refresh`, `revoke` or `logout`; keys are for everybody"));
        }
        for (endpoint, path) in [
            (Endpoint::Refresh(place), &endpoints.refresh),
            (Endpoint::Revoke(place), &endpoints.revoke),
            (Endpoint::Logout, &endpoints.logout),
            (Endpoint::Jwks(place), &endpoints.jwks),
        ] {
            let Some(path) = path else { continue };
            let mut route = route(config, name, endpoint, path);
            // The public keys are for everybody who verifies.
            if !matches!(endpoint, Endpoint::Jwks(_)) {
                route.value.rate_limit.clone_from(&endpoints.rate_limit);
            }
            all.push((route, endpoint));
        }
    }
    for (name, section) in issue::made(config) {
        if let Some(path) = &section.logout {
            all.push((route(config, name, Endpoint::Logout, path), Endpoint::Logout));
        }
    }
    if let Some(path) = config.identity.assertion.as_ref().and_then(|section| section.jwks.as_ref()) {
        let owner = path.with("assertion".to_owned());
        all.push((route(config, &owner, Endpoint::AssertionJwks, path), Endpoint::AssertionJwks));
    }
    if let Some(section) = &config.revocation.backchannel_logout {
        let owner = section.path.with("issuers".to_owned());
        let endpoint = Endpoint::BackchannelLogout;
        let mut route = route(config, &owner, endpoint, &section.path);
        route.value.rate_limit.clone_from(&section.rate_limit);
        all.push((route, endpoint));
    }
    Endpoints { all }
}

fn route(config: &Config, owner: &At<String>, endpoint: Endpoint, path: &At<Pattern>) -> At<Route> {
    let methods = match endpoint {
        Endpoint::Refresh(_) | Endpoint::Revoke(_) | Endpoint::Logout | Endpoint::BackchannelLogout => {
            vec![Method::POST]
        }
        Endpoint::Jwks(_) | Endpoint::AssertionJwks => vec![Method::GET, Method::HEAD],
    };
    // Whoever was logged in here, in whichever way, may end that.
    let issuers = issue::own(config).map(|(name, _)| name);
    let names = issuers.chain(&config.sessions.declared).map(|name| path.with(name.value.clone()));
    let (access, auth) = match endpoint {
        Endpoint::Logout => (Access::Authenticated, Some(path.with(names.collect()))),
        Endpoint::Refresh(_)
        | Endpoint::Revoke(_)
        | Endpoint::Jwks(_)
        | Endpoint::AssertionJwks
        | Endpoint::BackchannelLogout => (Access::Public, None),
    };
    let limits = RouteLimits {
        body: Some(path.with(Size(MAX_BODY))),
        request_timeout: None,
        body_timeout: None,
        tunnel_timeout: None,
        answer_timeout: None,
    };
    path.with(Route {
        id: owner.with(format!("{}.{}", owner.value, endpoint.name())),
        r#match: path.with(Match {
            path: path.clone(),
            methods: Some(path.with(methods.into_iter().map(|method| path.with(method)).collect())),
            hosts: None,
        }),
        upstream: path.with(UpstreamSource(Vec::new())),
        rewrite: None,
        on_success: None,
        auth,
        access: path.with(access),
        revocation: None,
        rate_limit: None,
        limits: Some(path.with(limits)),
        cors: None,
        upgrade: path.with(Vec::new()),
        encoded_slash: path.with(EncodedSlash::Refuse),
    })
}
