//! The services behind the gateway.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use http::uri::{Authority, PathAndQuery};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::issuers::content_within;
use super::{Kept, listeners, trust};
use crate::config::file::{
    Config, Ejection as EjectionSection, HealthCheck as HealthCheckSection, Sticky as StickySection,
    Upstream as Section, UpstreamTls,
};
use crate::config::mistake::{Mistake, Mistakes, masked};
use crate::config::place::At;
use crate::config::target::TargetSource;
use crate::cookie;
use crate::forward::Upstream;
use crate::forward::balance::Balance;
use crate::forward::check::HealthCheck;
use crate::forward::health::Ejection;
use crate::forward::secure::Secure;
use crate::forward::sticky::Sticky;
use crate::forward::target::{Speaks, Target};

/// Longest file whose content is compared with what it was, in bytes.
const MAX_TRUST: u64 = 8 * 1024 * 1024;

/// Numbers what was read while it changed.
static READ: AtomicU64 = AtomicU64::new(0);

/// Compiles the upstreams, in the order of the file.
pub fn compile(config: &Config, folder: &Path, before: &Kept, mistakes: &mut Mistakes) -> Vec<Upstream> {
    let mut upstreams = Vec::new();
    for (name, section) in &config.upstreams.entries {
        if section.targets.is_empty() && !mistakes.is_known(&section.targets) {
            mistakes.add(Mistake::at(&section.targets, "the list is empty").allowed("at least one `http://host:port`"));
        }
        for limit in [&section.timeout, &section.connect_timeout, &section.idle_timeout] {
            not_zero(limit, mistakes);
        }
        let targets = targets(name, section, (folder, before), mistakes);
        let weights: Vec<u32> = targets.iter().map(|target| target.weight).collect();
        upstreams.push(Upstream {
            name: name.as_str().into(),
            targets,
            timeout: *section.timeout,
            connect_timeout: *section.connect_timeout,
            idle_timeout: *section.idle_timeout,
            keep_alive: *section.keep_alive,
            balance: Balance::new(*section.balance, &weights),
            sticky: section.sticky.as_ref().and_then(|sticky| self::sticky(sticky, mistakes)),
            ejection: ejection(&section.ejection, mistakes),
            check: section.health_check.as_ref().and_then(|check| health_check(check, mistakes)),
            max_requests: number(section.max_requests.0),
            retries: section.retries.0,
            retrying: AtomicU32::new(0),
        });
    }
    upstreams
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn ejection(section: &EjectionSection, mistakes: &mut Mistakes) -> Ejection {
    not_zero(&section.time, mistakes);
    if *section.max_time < *section.time {
        let mistake = Mistake::at(&section.max_time, format!("`{:?}` at most", section.max_time.value));
        mistakes.add(mistake.allowed(format!("not less than `time`, which is `{:?}`", section.time.value)));
    }
    Ejection { failures: number(section.failures.0), time: *section.time, max_time: *section.max_time }
}

fn sticky(section: &At<StickySection>, mistakes: &mut Mistakes) -> Option<Sticky> {
    match (&section.header, &section.cookie) {
        (Some(header), None) => Some(Sticky::Header(header.0.clone())),
        (None, Some(cookie)) if cookie::is_name(cookie) => Some(Sticky::Cookie(cookie.as_str().into())),
        (None, Some(cookie)) => {
            let mistake = Mistake::at(cookie, "this is no name of a cookie");
            mistakes.add(mistake.allowed("letters, digits and signs of a header name: `JSESSIONID`"));
            None
        }
        (Some(_), Some(_)) | (None, None) => {
            mistakes.add(Mistake::at(section, "no one thing decides").allowed("exactly one of `header`, `cookie`"));
            None
        }
    }
}

fn health_check(section: &HealthCheckSection, mistakes: &mut Mistakes) -> Option<HealthCheck> {
    not_zero(&section.interval, mistakes);
    not_zero(&section.timeout, mistakes);
    let path = &section.path;
    if !path.starts_with('/') || path.contains('#') || path.parse::<PathAndQuery>().is_err() {
        let mistake = Mistake::at(path, format!("`{}` is no path", path.escape_debug()));
        mistakes.add(mistake.allowed("a path, with a query if there is one: `/healthz`"));
        return None;
    }
    if let Some(host) = section.host.as_ref().filter(|host| host.parse::<Authority>().is_err()) {
        mistakes
            .add(Mistake::at(host, "this is no host").allowed("a host, with a port if there is one: `order.internal`"));
        return None;
    }
    Some(HealthCheck {
        path: path.value.clone(),
        host: section.host.as_ref().map(|host| host.value.clone()),
        interval: *section.interval,
        timeout: *section.timeout,
        healthy: number(section.healthy.0),
        unhealthy: number(section.unhealthy.0),
    })
}

/// A time limit of nothing would refuse everything.
pub fn not_zero(limit: &At<Duration>, mistakes: &mut Mistakes) {
    if limit.is_zero() {
        mistakes.add(Mistake::at(limit, "a limit of no time").allowed("at least `1ms`"));
    }
}

/// Whether something stands where a port would: the library passes over what is no port.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).contains(':')
}

/// A target as it is written.
struct Written {
    host: String,
    port: u16,
    is_tls: bool,
    speaks: Speaks,
}

fn read(target: &At<String>, mistakes: &mut Mistakes) -> Option<Written> {
    let allowed = "`http://host:port`, `https://host:port` or `h2://host:port`, without a path";
    let fault = |found: &str| Some(Mistake::at(target, format!("`{}` {found}", masked(target))).allowed(allowed));
    let uri = target.parse::<Uri>().ok();
    let mistake = match &uri {
        None => fault("is no URL"),
        Some(uri) if !matches!(uri.scheme_str(), Some("http" | "https" | "h2")) => {
            fault("does not begin with `http://`, `https://` or `h2://`")
        }
        Some(uri) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            fault("holds credentials")
        }
        Some(uri) if uri.path() != "/" || uri.query().is_some() || target.ends_with('/') => fault("has a path"),
        Some(uri)
            if uri.port_u16().is_none() && uri.authority().is_some_and(|authority| has_port(authority.as_str())) =>
        {
            fault("has a port that is none")
        }
        Some(_) => None,
    };
    if let Some(mistake) = mistake {
        mistakes.add(mistake);
        return None;
    }
    let uri = uri?;
    let is_tls = uri.scheme_str() == Some("https");
    Some(Written {
        // One name for one place (RFC 3986 §3.2.2): rewrites are guarded, and health is kept, by it.
        host: uri.host()?.to_ascii_lowercase(),
        port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
        is_tls,
        speaks: if uri.scheme_str() == Some("h2") { Speaks::Http2 } else { Speaks::Http1 },
    })
}

/// The targets of one upstream.
fn targets(name: &str, section: &Section, from: (&Path, &Kept), mistakes: &mut Mistakes) -> Vec<Target> {
    let (folder, before) = from;
    let written: Vec<(&TargetSource, Written)> =
        section.targets.iter().filter_map(|target| Some((&target.value, read(&target.url, mistakes)?))).collect();
    let is_any_tls = written.iter().any(|(_, target)| target.is_tls);
    if let Some(tls) = section.tls.as_ref().filter(|_| !is_any_tls && !mistakes.is_known(&section.targets)) {
        let mistake = Mistake::at(tls, "no target speaks TLS");
        mistakes.add(mistake.allowed("goes with a target that begins with `https://`"));
    }
    let before_it = trusted(section, folder);
    let config = if is_any_tls { config(section, folder, mistakes) } else { None };
    // What changed while it was read is nobody else's.
    let trusted = trusted(section, folder).filter(|after| before_it == Some(*after));
    let trusted =
        trusted.map_or_else(|| format!("#{}", READ.fetch_add(1, Ordering::Relaxed)), |it| URL_SAFE_NO_PAD.encode(it));
    let is_offered = section.tls.as_ref().is_some_and(|tls| *tls.http2);
    let targets = written.into_iter().filter_map(|(source, Written { host, port, is_tls, speaks })| {
        let address: Arc<str> = format!("{host}:{port}").into();
        let (weight, health) = (number(source.weight), before.health(name, &address, is_tls));
        if !is_tls {
            // Pooled connections of one protocol are none of the other.
            let key = if speaks == Speaks::Http2 { format!("h2://{address}").into() } else { Arc::clone(&address) };
            return Some(Target { key, address, tls: None, speaks, weight, health });
        }
        let secure = Secure::new(Arc::clone(config.as_ref()?), server_name(&source.url, &host, section, mistakes)?);
        // Another upstream may trust others there, or come as somebody else; so may the same one when the
        // configuration is read again, and what it names has changed.
        let key = format!("https://{address} of {name} {trusted}").into();
        let speaks = if is_offered { Speaks::Negotiated } else { speaks };
        Some(Target { key, address, tls: Some(secure), speaks, weight, health })
    });
    targets.collect()
}

/// What decides who is believed to be a target, and as whom the gateway comes there; nothing where a file cannot be read.
fn trusted(section: &Section, folder: &Path) -> Option<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&bytes.len().to_be_bytes());
        context.update(bytes);
    };
    if let Some(tls) = &section.tls {
        for file in [&tls.ca_file, &tls.cert_file, &tls.key_file] {
            add(&file
                .as_ref()
                .map_or(Some(Vec::new()), |file| content_within(&folder.join(&file.value), MAX_TRUST).ok())?);
        }
        add(tls.server_name.as_ref().map_or("", |name| &name.value).as_bytes());
        add(&[u8::from(*tls.http2)]);
    }
    context.finish().as_ref().try_into().ok()
}

/// The name that a target has to prove.
fn server_name(
    target: &At<String>,
    host: &str,
    section: &Section,
    mistakes: &mut Mistakes,
) -> Option<ServerName<'static>> {
    let given = section.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
    let (at, name) = given.map_or((target, host), |given| (given, &given.value));
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let parsed = ServerName::try_from(name).ok();
    if parsed.is_none() {
        mistakes.add(Mistake::at(at, "no certificate can be for this name").allowed("a host name or an IP address"));
    }
    parsed
}

/// TLS that offers HTTP/2 beside HTTP/1.1, where that is wanted.
fn offering(config: Arc<ClientConfig>, tls: Option<&At<UpstreamTls>>) -> Arc<ClientConfig> {
    if !tls.is_some_and(|tls| *tls.http2) {
        return config;
    }
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// How the targets prove who they are, and the gateway to them.
fn config(section: &Section, folder: &Path, mistakes: &mut Mistakes) -> Option<Arc<ClientConfig>> {
    let tls = section.tls.as_ref();
    let own = match tls.map(|tls| (&tls.cert_file, &tls.key_file)) {
        None | Some((None, None)) => None,
        Some((Some(cert), Some(key))) => Some(listeners::load(cert, key, folder, mistakes)?.1.key()),
        Some((Some(one), None) | (None, Some(one))) => {
            let mistake = Mistake::at(one, "half of a certificate");
            mistakes.add(mistake.allowed("`cert_file` and `key_file`, or neither"));
            return None;
        }
    };
    let (roots, at) = match tls.and_then(|tls| tls.ca_file.as_ref()) {
        Some(file) => (trust::in_file(&folder.join(&file.value)), &file.trail),
        None if own.is_none() => match trust::of_the_system() {
            Ok(config) => return Some(offering(config, tls)),
            Err(reason) => (Err(reason), &section.targets.trail),
        },
        None => (trust::system(), &section.targets.trail),
    };
    match roots.and_then(|roots| trust::client(roots, own)) {
        Ok(config) => Some(offering(config, tls)),
        Err(reason) => {
            let file = tls.and_then(|tls| tls.ca_file.as_ref());
            let place = file.map_or(section.targets.place, |file| file.place);
            let shown = file.map_or_else(String::new, |file| format!("`{}`: ", file.display()));
            let allowed = format!("files are found from `{}`", folder.display());
            mistakes.add(Mistake::new(place, at, format!("{shown}{reason}")).allowed(allowed));
            None
        }
    }
}
