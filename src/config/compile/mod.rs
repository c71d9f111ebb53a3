//! gateway.yaml as written becomes a [`Gateway`]: names are resolved, key files are read, routes are
//! held against each other. Every mistake is found in one go; a file with one makes no gateway.
//!
//! This is the one place where words of the file and types of the run time meet.

mod assertion;
mod client_certificates;
mod conflicts;
mod cookies;
mod cors;
mod endpoints;
mod introspection;
mod issue;
mod issuers;
mod keyspace;
mod listeners;
mod on_success;
mod rate;
mod rewrite;
mod routes;
mod sessions;
mod signing;
mod store;
mod trust;
mod upstreams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderName;

use super::file::Config;
use super::mistake::{Mistake, Mistakes};
use super::place::At;
use crate::accept::{Limits, Listener};
use crate::admit::{HeadLimits, Routes};
use crate::authenticate::headers::IdentityHeader;
use crate::authenticate::identity::Assertions;
use crate::authenticate::keys::remote::{Refresher, RemoteKeys};
use crate::authenticate::{Authenticator, Memory};
use crate::certificate::Authority;
use crate::forward::assertion::Assertion;
use crate::forward::headers::HeaderPlan;
use crate::forward::health::Health;
use crate::forward::{Forwarder, Upstream};
use crate::gateway::Gateway;
use crate::issue::Desk;
use crate::rate::{Buckets, Rate, RateKey};
use crate::respond::Responder;
use crate::route::{RevocationMode, Route, Rule};
use crate::store::{Driver, Store, Tracker, Writer};

/// A compiled configuration and what has to run beside it.
#[derive(Debug)]
pub struct Compiled {
    /// The snapshot.
    pub gateway: Gateway,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// How much and how long, for connections.
    pub limits: Limits,
    /// What has to run on the control runtime, beside what was taken over.
    pub background: Background,
    /// What the next one takes over.
    pub kept: Kept,
    /// The files that it was made of, beside its own: when they change it is another one.
    pub files: Vec<PathBuf>,
}

/// What the next configuration takes over where it describes the same: a store is not left and looked for
/// again, and published keys are not unknown for a moment.
#[derive(Debug, Default)]
pub struct Kept {
    store: Option<store::Shaped>,
    keys: Vec<Arc<RemoteKeys>>,
    upstreams: Vec<Arc<Upstream>>,
    authorities: Vec<(Authority, Arc<AtomicBool>)>,
    sessions: Vec<([u8; 32], Arc<AtomicBool>)>,
    buckets: Vec<rate::Known>,
    asked: Vec<(String, Arc<AtomicBool>)>,
}

impl Kept {
    /// What identities hold of a kind of sessions, if there was one like this.
    fn sessions(&self, shape: &[u8; 32]) -> Arc<AtomicBool> {
        let known = self.sessions.iter().find(|(known, _)| known == shape);
        known.map_or_else(Arc::default, |(_, retired)| Arc::clone(retired))
    }

    /// What identities hold of who is asked about tokens, if there was one like this.
    fn asked(&self, shape: &str) -> Arc<AtomicBool> {
        let known = self.asked.iter().find(|(known, _)| known == shape);
        known.map_or_else(Arc::default, |(_, retired)| Arc::clone(retired))
    }

    /// The buckets of a limit, if there was one like this: nobody gets another try by a reload.
    fn buckets(&self, route: &str, key: &RateKey, rate: Rate) -> Arc<Buckets> {
        let known = self.buckets.iter().find(|(of, by, often, _)| **of == *route && by == key && *often == rate);
        known.map_or_else(Arc::default, |(.., buckets)| Arc::clone(buckets))
    }

    /// What identities hold of authorities, if there were some like these.
    fn authority(&self, authority: &Authority) -> Arc<AtomicBool> {
        let known = self.authorities.iter().find(|(known, _)| known == authority);
        known.map_or_else(Arc::default, |(_, retired)| Arc::clone(retired))
    }

    /// How a target is doing, if there was one like this; a new one is taken to be well.
    fn health(&self, upstream: &str, address: &str, is_tls: bool) -> Arc<Health> {
        let named = self.upstreams.iter().filter(|known| &*known.name == upstream);
        let mut targets = named.flat_map(|known| &known.targets);
        let known = targets.find(|known| &*known.address == address && known.tls.is_some() == is_tls);
        known.map_or_else(Arc::default, |known| Arc::clone(&known.health))
    }

    /// The store, if it was described like this.
    fn store(&self, shape: &store::Shape) -> Option<Arc<Store>> {
        self.store.as_ref().filter(|(known, _)| known == shape).map(|(_, store)| Arc::clone(store))
    }

    /// Published keys that are kept up to date.
    #[must_use]
    pub fn keys(&self) -> &[Arc<RemoteKeys>] {
        &self.keys
    }
}

/// What has to run on the control runtime for as long as the gateway does.
#[derive(Debug, Default)]
pub struct Background {
    /// Keeps the link to Redis alive.
    pub store: Option<Driver>,
    /// Opens the file of an embedded store, and writes to it.
    pub writer: Option<Writer>,
    /// Keeps standings up to date.
    pub tracker: Option<Tracker>,
    /// Keep published keys up to date.
    pub keys: Vec<(Arc<RemoteKeys>, Refresher)>,
}

/// Header names that a configuration cannot take for identity: they have a meaning of their own.
const TAKEN: [&str; 25] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "early-data",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-http-method-override",
    "x-real-ip",
    "x-request-id",
];

/// Compiles a file that was read from `folder`; `before` is what there is of the one before.
pub fn compile(config: &Config, folder: &Path, before: &Kept, mistakes: &mut Mistakes) -> Option<Compiled> {
    let mut background = Background::default();
    let endpoints = endpoints::compile(config, mistakes);
    let config = &endpoints.with(config);
    let authorities = client_certificates::read(config, folder, mistakes);
    let listeners = listeners::compile(config, folder, &authorities, mistakes);
    let mut keyrings = Vec::new();
    let issuers = issuers::compile(config, folder, before, (&mut background, &mut keyrings), mistakes);
    let upstreams = upstreams::compile(config, folder, before, mistakes);
    let sessions = sessions::compile(config, folder, before, mistakes);
    let introspectors = introspection::compile(config, folder, before, mistakes);
    let headers = identity_headers(config, mistakes);
    let patterns = store::key_patterns(config, mistakes);
    let (assertion, assertion_keys) = assertion::compile(config, folder, mistakes).unzip();
    let desk = issue::compile(config, keyrings, (&sessions, &patterns), mistakes);
    let routes = routes::compile(config, (&upstreams, &endpoints), before, mistakes);
    let modes = modes(&routes, &desk);
    let store = store::compile(config, folder, (&patterns, &modes), before, &mut background, mistakes);
    let certificates = client_certificates::compile(authorities, before, mistakes);
    conflicts::check(config, mistakes);
    client_certificates::can_be_taken_back(config, &routes, mistakes);
    cors::check(config, mistakes);
    store::needs_keys(config, mistakes);
    keyspace::check(config, mistakes);
    let realm = realm(config, mistakes);
    let head = head_limits(config, mistakes);
    check_times(config, mistakes);
    if !mistakes.is_empty() {
        return None;
    }
    let own = assertion.as_ref().map(|assertion: &Assertion| &assertion.header);
    let plan = HeaderPlan::new(
        headers.iter().map(|header| &header.name).chain(own),
        *config.identity.forward_token,
        sessions::kept_cookies(config),
    );
    let asked = routes.iter().flat_map(|route| route.rule.claims().into_iter().chain(route.counted())).cloned();
    let said = assertion.iter().flat_map(|assertion| assertion.claims.clone());
    let asked = asked.chain(issue::asked(&desk)).chain(said).collect();
    let assertions = assertion.as_ref().map_or(0, |own| own.upstreams.as_ref().map_or(upstreams.len(), Vec::len));
    let assertions = assertions.min(Assertions::MOST);
    let store_of = || store.as_ref().map(|(_, store)| Arc::clone(store));
    let gateway = Gateway {
        routes: Routes::new(routes, head),
        authenticator: Authenticator::new(
            (issuers, certificates, sessions, introspectors),
            Memory { headers, asked, patterns, assertions },
            store_of(),
        ),
        forwarder: Forwarder::new(upstreams, plan, assertion),
        desk: Desk { store: store_of(), assertion_keys: assertion_keys.unwrap_or_default(), ..desk },
        responder: Responder::new(realm),
        trusted_proxies: config.trusted_proxies.iter().map(|network| network.value).collect(),
    };
    let limits = limits(config, head);
    let kept = kept(&gateway, store);
    let files = files(config, folder);
    Some(Compiled { gateway, listeners, admin: *config.admin.address, limits, background, kept, files })
}

/// When the store is asked, by whoever asks it.
fn modes(routes: &[Route], desk: &Desk) -> Vec<RevocationMode> {
    // Of sessions it is asked in any case.
    let asked = |route: &Route| {
        let policy = if route.auth.takes_sessions { route.revocation.strict() } else { route.revocation };
        (!matches!(route.rule, Rule::Public)).then_some(policy.mode)
    };
    let issues = !desk.issuers.is_empty() || !desk.sessions.is_empty() || !desk.senders.is_empty();
    // What is issued, or said to have ended, is kept there.
    routes.iter().filter_map(asked).chain(issues.then_some(RevocationMode::Lookup)).collect()
}

/// What the next configuration takes over.
fn kept(gateway: &Gateway, store: Option<store::Shaped>) -> Kept {
    let authenticator = &gateway.authenticator;
    let authorities = authenticator.certificates().iter();
    let sessions = authenticator.sessions().iter();
    let limited = gateway.routes.all().iter().filter_map(|route| {
        let limit = route.rate_limit.as_ref()?;
        Some((Arc::clone(&route.id), limit.key.clone(), limit.rate, Arc::clone(&limit.buckets)))
    });
    Kept {
        store,
        keys: authenticator.issuers().iter().filter_map(|issuer| issuer.keys.remote()).collect(),
        upstreams: gateway.forwarder.upstreams().to_vec(),
        authorities: authorities.map(|known| (known.authority.clone(), Arc::clone(&known.retired))).collect(),
        sessions: sessions.map(|known| (known.shape, Arc::clone(&known.retired))).collect(),
        buckets: limited.collect(),
        asked: authenticator.introspectors().iter().map(|one| (one.shape(), Arc::clone(&one.retired))).collect(),
    }
}

fn check_times(config: &Config, mistakes: &mut Mistakes) {
    let max_staleness = &config.revocation.max_staleness;
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&**max_staleness) {
        let mistake = Mistake::at(max_staleness, format!("{:?}", max_staleness.value));
        mistakes.add(mistake.allowed("from `100ms` to `60s`: a revocation may be that late where Redis is silent"));
    }
    let limits = &config.defaults.limits;
    for limit in [&limits.header_timeout, &limits.keep_alive_timeout, &limits.send_timeout] {
        upstreams::not_zero(limit, mistakes);
    }
}

fn limits(config: &Config, head: HeadLimits) -> Limits {
    let limits = &config.defaults.limits;
    Limits {
        connections: limits.connections.0,
        // Room for a head that is a little over its limits, so that `admit` can say which one.
        head: (head.target + head.headers) * 2,
        header_timeout: *limits.header_timeout,
        keep_alive_timeout: *limits.keep_alive_timeout,
        send_timeout: *limits.send_timeout,
        drain_timeout: *limits.drain_timeout,
    }
}

/// The files that a configuration names; those of listeners are looked at by the listeners.
fn files(config: &Config, folder: &Path) -> Vec<PathBuf> {
    let issuers = config.issuers.entries.iter().flat_map(|(_, issuer)| {
        let own = issuer.signing_key.iter().chain(issuer.other_keys.iter()).map(|key| &key.file);
        [&issuer.jwks_file, &issuer.public_key_file, &issuer.secret_file].into_iter().flatten().chain(own)
    });
    let upstreams = config.upstreams.entries.iter().filter_map(|(_, upstream)| upstream.tls.as_ref());
    let upstreams = upstreams.flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten());
    let authorities = config.client_certificates.entries.iter();
    let authorities = authorities.flat_map(|(_, one)| std::iter::once(&one.ca_file).chain(&one.crl_file));
    let secrets = config.sessions.entries.iter().filter_map(|(_, section)| section.cookie.secret_file.as_ref());
    let secrets = secrets.chain(config.introspection.entries.iter().map(|(_, section)| &section.client_secret_file));
    let assertion = config.identity.assertion.iter();
    let assertion = assertion.flat_map(|own| std::iter::once(&own.signing_key).chain(own.other_keys.iter()));
    let assertion = assertion.map(|key| &key.file);
    issuers
        .chain(upstreams)
        .chain(authorities)
        .chain(secrets)
        .chain(assertion)
        .map(|file| folder.join(&file.value))
        .collect()
}

fn identity_headers(config: &Config, mistakes: &mut Mistakes) -> Vec<IdentityHeader> {
    let mut headers: Vec<IdentityHeader> = Vec::new();
    for (name, source) in &config.identity.headers.entries {
        let Ok(header) = HeaderName::try_from(name.as_str()) else {
            let mistake = Mistake::at(name, "this is no header name");
            mistakes.add(mistake.allowed("letters, digits and `-`, for example `X-User-Id`"));
            continue;
        };
        if !is_fit_for_identity(&header) {
            let mistake = Mistake::at(name, format!("`{}` cannot carry identity", name.value));
            let allowed = "letters, digits and `-`, and none that HTTP or the gateway gives a meaning";
            mistakes.add(mistake.allowed(allowed).remedy("`X-User-Id`, for example"));
            continue;
        }
        if headers.iter().any(|other| other.name == header) {
            mistakes.add(Mistake::at(name, "the header stands twice").allowed("case does not make it another one"));
            continue;
        }
        headers.push(IdentityHeader { name: header, claim: source.claim.clone(), encoding: source.encoding });
    }
    headers
}

/// Whether a header may carry identity: its name is read in one way, and has no meaning of its own.
fn is_fit_for_identity(header: &HeaderName) -> bool {
    let name = header.as_str();
    let is_plain = name.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    let families = ["x-forwarded-", "sec-", "access-control-", "content-", "if-", "grpc-"];
    is_plain && !TAKEN.contains(&name) && !families.iter().any(|family| name.starts_with(family))
}

fn realm(config: &Config, mistakes: &mut Mistakes) -> String {
    let realm = &config.defaults.realm;
    if !realm.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
        mistakes.add(
            Mistake::at(realm, "the realm cannot stand in a header")
                .allowed("visible ASCII and spaces, no `\"`, no `\\`"),
        );
    }
    realm.value.clone()
}

fn head_limits(config: &Config, mistakes: &mut Mistakes) -> HeadLimits {
    let limits = &config.defaults.limits;
    let mut bytes = |size: &At<super::unit::Size>, most: usize, words: &str| {
        let bytes = usize::try_from(size.0).unwrap_or(usize::MAX);
        if !(1024..=most).contains(&bytes) {
            mistakes.add(Mistake::at(size, format!("`{bytes}` bytes")).allowed(format!("from `1KiB` to `{words}`")));
        }
        bytes
    };
    HeadLimits {
        // A target of 64 KiB is more than the parser takes.
        target: bytes(&limits.target, 60 * 1024, "60KiB"),
        headers: bytes(&limits.headers, 1024 * 1024, "1MiB"),
        header_count: limits.header_count.0,
    }
}
