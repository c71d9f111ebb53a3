//! gateway.yaml as written becomes a [`Gateway`]: names are resolved, key files are read, routes are
//! held against each other. Every mistake is found in one go; a file with one makes no gateway.
//!
//! This is the one place where words of the file and types of the run time meet.

mod conflicts;
mod issuers;
mod listeners;
mod routes;
mod trust;
mod upstreams;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::file::Config;
use super::mistake::{Mistake, Mistakes};
use super::place::At;
use crate::accept::{Limits, Listener};
use crate::admit::{HeadLimits, Routes};
use crate::authenticate::Authenticator;
use crate::authenticate::headers::IdentityHeader;
use crate::authenticate::keys::remote::Refresher;
use crate::forward::Forwarder;
use crate::forward::headers::HeaderPlan;
use crate::gateway::Gateway;
use crate::respond::Responder;
use crate::route::{RevocationMode, Route, Rule};
use crate::store::keys::PatternFault;
use crate::store::{
    Driver, File, KeyPattern, KeyPatterns, Kind, Lease, LeaseKeys, Link, Memory, RedisUrl, Store, Tracker, Tracking,
    Writer,
};

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
    /// What has to run on the control runtime.
    pub background: Background,
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
    pub keys: Vec<Refresher>,
}

/// The store where none is named, beside the configuration.
const DEFAULT_FILE: &str = "bearward.db";

/// Header names that a configuration cannot take for identity: they have a meaning of their own.
const TAKEN: [&str; 13] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// Compiles a file that was read from `folder`.
pub fn compile(config: &Config, folder: &Path, mistakes: &mut Mistakes) -> Option<Compiled> {
    let mut background = Background::default();
    let listeners = listeners::compile(config, folder, mistakes);
    let issuers = issuers::compile(config, folder, &mut background, mistakes);
    let upstreams = upstreams::compile(config, folder, mistakes);
    let headers = identity_headers(config, mistakes);
    let patterns = key_patterns(config, mistakes);
    let routes = routes::compile(config, mistakes);
    let asked = |route: &Route| (!matches!(route.rule, Rule::Public)).then_some(route.revocation.mode);
    let modes: Vec<RevocationMode> = routes.iter().filter_map(asked).collect();
    let store = store(config, folder, &patterns, &modes, &mut background, mistakes);
    conflicts::check(config, mistakes);
    needs_keys(config, mistakes);
    let realm = realm(config, mistakes);
    let head = head_limits(config, mistakes);
    let max_staleness = &config.revocation.max_staleness;
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&**max_staleness) {
        let mistake = Mistake::at(max_staleness, format!("{:?}", max_staleness.value));
        mistakes.add(mistake.allowed("from `100ms` to `60s`: a revocation may be that late where Redis is silent"));
    }
    for limit in [&config.defaults.limits.header_timeout, &config.defaults.limits.keep_alive_timeout] {
        upstreams::not_zero(limit, mistakes);
    }
    if !mistakes.is_empty() {
        return None;
    }
    let plan = HeaderPlan::new(headers.iter().map(|header| &header.name), *config.identity.forward_token);
    let asked = routes.iter().flat_map(|route| route.rule.claims()).cloned().collect();
    let gateway = Gateway {
        routes: Routes::new(routes, head),
        authenticator: Authenticator::new(issuers, headers, asked, patterns, store),
        forwarder: Forwarder::new(upstreams, plan),
        responder: Responder::new(realm),
        trusted_proxies: config.trusted_proxies.iter().map(|network| network.value).collect(),
    };
    let limits = &config.defaults.limits;
    let limits = Limits {
        connections: limits.connections.0,
        // Room for a head that is a little over its limits, so that `admit` can say which one.
        head: (head.target + head.headers) * 2,
        header_timeout: *limits.header_timeout,
        keep_alive_timeout: *limits.keep_alive_timeout,
        drain_timeout: *limits.drain_timeout,
    };
    Some(Compiled { gateway, listeners, admin: *config.admin.address, limits, background })
}

fn identity_headers(config: &Config, mistakes: &mut Mistakes) -> Vec<IdentityHeader> {
    let mut headers: Vec<IdentityHeader> = Vec::new();
    for (name, source) in &config.identity.headers.entries {
        let Ok(header) = HeaderName::try_from(name.as_str()) else {
            let mistake = Mistake::at(name, "this is no header name");
            mistakes.add(mistake.allowed("letters, digits and `-`, for example `X-User-Id`"));
            continue;
        };
        let is_plain = header.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_plain || TAKEN.contains(&header.as_str()) || header.as_str().starts_with("x-forwarded-") {
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

fn store(
    config: &Config,
    folder: &Path,
    patterns: &KeyPatterns,
    modes: &[RevocationMode],
    background: &mut Background,
    mistakes: &mut Mistakes,
) -> Option<Arc<Store>> {
    let mut file = |path: &str| {
        let (file, writer) = File::new(folder.join(path));
        background.writer = Some(writer);
        Some(Arc::new(Store::File(Arc::new(file))))
    };
    let Some(section) = &config.store else {
        return if modes.iter().any(|mode| *mode != RevocationMode::Off) { file(DEFAULT_FILE) } else { None };
    };
    upstreams::not_zero(&section.timeout, mistakes);
    let url = &section.url;
    match url.strip_prefix("file:") {
        // `file:///x` and `file:/x` are one place.
        Some(path) if !path.trim_start_matches('/').is_empty() => return file(path.strip_prefix("//").unwrap_or(path)),
        Some(_) => {
            let mistake = Mistake::at(url, "the store's file has no name");
            mistakes.add(mistake.allowed("`file:PATH`").remedy(format!("file:{DEFAULT_FILE}")));
            return None;
        }
        None if url.as_str() == "memory:" => return Some(Arc::new(Store::Memory(Arc::new(Memory::default())))),
        None => {}
    }
    match RedisUrl::parse(url) {
        Ok(parsed) => {
            let lease_keys = LeaseKeys::new(&section.prefix, &parsed);
            let max_staleness = *config.revocation.max_staleness;
            let (link, driver) = Link::new(parsed, *section.timeout, max_staleness, patterns.probe());
            let tracking = modes.contains(&RevocationMode::Tracked).then(|| {
                let lease =
                    (*config.revocation.leases).then(|| Lease::new(lease_keys.clone(), gateway_name(), max_staleness));
                Tracking::new(&link, max_staleness, patterns.probe(), lease)
            });
            let (tracking, tracker) = tracking.unzip();
            (background.store, background.tracker) = (Some(driver), tracker);
            let link = link.with_tracking(tracking).with_lease_keys(lease_keys);
            Some(Arc::new(Store::Redis(Box::new(link))))
        }
        Err(reason) => {
            // The URL is not shown: it may hold a password.
            let mistake = Mistake::at(url, format!("the store's URL is not taken: {reason}"));
            mistakes.add(mistake.allowed("`redis://host:6379/0`, `rediss://...`, `redis+sentinel://host:26379,host:26379/service`, `redis+cluster://host:6379,host:6379`, `file:PATH`, or `memory:`"));
            None
        }
    }
}

/// What this process is called where several gateways are named: its machine, and which process there.
fn gateway_name() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = if machine.trim().is_empty() { "gateway" } else { machine.trim() };
    format!("{machine}-{}-{:04x}", std::process::id(), fastrand::u16(..))
}

fn key_patterns(config: &Config, mistakes: &mut Mistakes) -> KeyPatterns {
    let keys = &config.revocation.keys;
    let mut read = |kind: Kind, text: &Option<At<String>>| {
        let text = text.as_ref()?;
        let found = match KeyPattern::parse(kind, text) {
            Ok(pattern) => return Some(pattern),
            Err(PatternFault::NoPlaceholder) if kind == Kind::All => "is empty".to_owned(),
            Err(PatternFault::NoPlaceholder) => {
                format!("has no `{{{}}}`: every token would share one key", kind.name())
            }
            Err(PatternFault::UnknownPlaceholder(name)) => format!("has the unknown placeholder `{{{name}}}`"),
            Err(PatternFault::Unclosed) => "has `{` without `}`".to_owned(),
        };
        let mistake = Mistake::at(text, format!("the key `{}` {found}", text.value));
        mistakes.add(mistake.allowed(match kind {
            Kind::All => "text without a placeholder: it is one key".to_owned(),
            Kind::Iss => "text with `{iss}`".to_owned(),
            Kind::Jti | Kind::Sid | Kind::Sub => {
                format!("text with `{{{}}}`, and `{{iss}}` if issuers share the store", kind.name())
            }
        }));
        None
    };
    KeyPatterns {
        jti: read(Kind::Jti, &keys.jti),
        sub: read(Kind::Sub, &keys.sub),
        sid: read(Kind::Sid, &keys.sid),
        iss: read(Kind::Iss, &keys.iss),
        all: read(Kind::All, &keys.all),
    }
}

/// A protected route that asks the store has to have something to ask it.
fn needs_keys(config: &Config, mistakes: &mut Mistakes) {
    let asks = config.routes.iter().find(|route| {
        let mode = route.revocation.as_ref().and_then(|own| own.mode.as_ref()).unwrap_or(&config.revocation.mode);
        !matches!(route.access.value, super::access::Access::Public) && mode.value != RevocationMode::Off
    });
    let Some(route) = asks else { return };
    let keys = &config.revocation.keys;
    let all = [&keys.jti, &keys.sub, &keys.sid, &keys.iss, &keys.all];
    if all.into_iter().all(Option::is_none) {
        let mistake = Mistake::at(&route.id, format!("route `{}` asks the store, and no key is named", route.id.value));
        mistakes.add(
            mistake
                .allowed(
                    "at least one of `revocation.keys.jti`, `.sub`, `.sid`, `.iss`, `.all`, or `revocation: { mode: off }` in words",
                )
                .remedy("revocation: { keys: { jti: \"blacklist:{jti}\" } }"),
        );
    }
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
