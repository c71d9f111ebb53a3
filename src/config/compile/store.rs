//! The store, and how its keys are named.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Background, Kept, upstreams};
use crate::config::file::{Config, Store as Section};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::route::RevocationMode;
use crate::store::keys::PatternFault;
use crate::store::{File, KeyPattern, KeyPatterns, Kind, Lease, LeaseKeys, Link, Memory, RedisUrl, Store, Tracking};

/// The store where none is named, beside the configuration.
const DEFAULT_FILE: &str = "bearward.db";

/// What makes a store another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Memory,
    File(PathBuf),
    Redis(Box<RedisShape>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisShape {
    url: String,
    prefix: String,
    timeout: Duration,
    max_staleness: Duration,
    patterns: KeyPatterns,
    leases: bool,
    is_tracked: bool,
}

/// What is known of a store, and the store.
pub type Shaped = (Shape, Arc<Store>);

/// Compiles the store.
pub fn compile(
    config: &Config,
    folder: &Path,
    (patterns, modes): (&KeyPatterns, &[RevocationMode]),
    before: &Kept,
    background: &mut Background,
    mistakes: &mut Mistakes,
) -> Option<Shaped> {
    let mut file = |path: &str| {
        let shape = Shape::File(folder.join(path));
        let store = before.store(&shape).unwrap_or_else(|| {
            let (file, writer) = File::new(folder.join(path));
            background.writer = Some(writer);
            Arc::new(Store::File(Arc::new(file)))
        });
        Some((shape, store))
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
        None if url.as_str() == "memory:" => {
            let store = before.store(&Shape::Memory);
            let store = store.unwrap_or_else(|| Arc::new(Store::Memory(Arc::new(Memory::default()))));
            return Some((Shape::Memory, store));
        }
        None => {}
    }
    match RedisUrl::parse(url) {
        Ok(parsed) => {
            let is_tracked = modes.contains(&RevocationMode::Tracked);
            let shape = Shape::Redis(Box::new(RedisShape {
                url: url.value.clone(),
                prefix: section.prefix.value.clone(),
                timeout: *section.timeout,
                max_staleness: *config.revocation.max_staleness,
                patterns: patterns.clone(),
                leases: *config.revocation.leases,
                is_tracked,
            }));
            let store = before
                .store(&shape)
                .unwrap_or_else(|| redis(config, section, (parsed, is_tracked), patterns, background));
            Some((shape, store))
        }
        Err(reason) => {
            // The URL is not shown: it may hold a password.
            let mistake = Mistake::at(url, format!("the store's URL is not taken: {reason}"));
            mistakes.add(mistake.allowed("`redis://host:6379/0`, `rediss://...`, `redis+sentinel://host:26379,host:26379/service`, `redis+cluster://host:6379,host:6379`, `file:PATH`, or `memory:`"));
            None
        }
    }
}

/// A way to a store in Redis that is not there yet.
fn redis(
    config: &Config,
    section: &Section,
    (url, is_tracked): (RedisUrl, bool),
    patterns: &KeyPatterns,
    background: &mut Background,
) -> Arc<Store> {
    let lease_keys = LeaseKeys::new(&section.prefix, &url);
    let max_staleness = *config.revocation.max_staleness;
    let (link, driver) = Link::new(url, *section.timeout, max_staleness, patterns.probe());
    let name = (is_tracked && *config.revocation.leases).then(gateway_name);
    let tracking = is_tracked.then(|| {
        let lease = name.clone().map(|name| Lease::new(lease_keys.clone(), name, max_staleness));
        Tracking::new(&link, max_staleness, patterns.probe(), lease)
    });
    let (tracking, tracker) = tracking.unzip();
    (background.store, background.tracker) = (Some(driver), tracker);
    let link = link.with_tracking(tracking).with_lease_keys(lease_keys).leased_as(name.map(Into::into));
    Arc::new(Store::Redis(Box::new(link)))
}

/// What this process is called where several gateways are named: its machine, and which process there.
fn gateway_name() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = if machine.trim().is_empty() { "gateway" } else { machine.trim() };
    format!("{machine}-{}-{:04x}", std::process::id(), fastrand::u16(..))
}

pub fn key_patterns(config: &Config, mistakes: &mut Mistakes) -> KeyPatterns {
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
pub fn needs_keys(config: &Config, mistakes: &mut Mistakes) {
    let asks = config.routes.iter().find(|route| {
        let mode = route.revocation.as_ref().and_then(|own| own.mode.as_ref()).unwrap_or(&config.revocation.mode);
        !matches!(route.access.value, crate::config::access::Access::Public) && mode.value != RevocationMode::Off
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
