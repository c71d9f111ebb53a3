//! The services behind the gateway.

use std::time::Duration;

use http::Uri;

use crate::config::file::Config;
use crate::config::mistake::{Mistake, Mistakes, masked};
use crate::config::place::At;
use crate::forward::Upstream;
use crate::forward::pool::Target;

/// Compiles the upstreams, in the order of the file.
pub fn compile(config: &Config, mistakes: &mut Mistakes) -> Vec<Upstream> {
    let mut upstreams = Vec::new();
    for (name, section) in &config.upstreams.entries {
        if section.targets.is_empty() && !mistakes.is_known(&section.targets) {
            mistakes.add(Mistake::at(&section.targets, "the list is empty").allowed("at least one `http://host:port`"));
        }
        for limit in [&section.timeout, &section.connect_timeout, &section.idle_timeout] {
            not_zero(limit, mistakes);
        }
        let targets = section.targets.iter().filter_map(|target| address(target, mistakes)).collect();
        upstreams.push(Upstream {
            name: name.as_str().into(),
            targets,
            timeout: *section.timeout,
            connect_timeout: *section.connect_timeout,
            idle_timeout: *section.idle_timeout,
            keep_alive: *section.keep_alive,
        });
    }
    upstreams
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

fn address(target: &At<String>, mistakes: &mut Mistakes) -> Option<Target> {
    let allowed = "`http://host:port` without a path";
    let fault = |found: &str| Some(Mistake::at(target, format!("`{}` {found}", masked(target))).allowed(allowed));
    let uri = target.parse::<Uri>().ok();
    let mistake = match &uri {
        None => fault("is no URL"),
        Some(uri) if uri.scheme_str() == Some("https") => {
            fault("wants TLS, which is not built yet").map(|mistake| mistake.remedy("`http://` for now"))
        }
        Some(uri) if uri.scheme_str() != Some("http") => fault("does not begin with `http://`"),
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
    let (host, port) = (uri.host()?, uri.port_u16().unwrap_or(80));
    Some(Target { address: format!("{host}:{port}").into() })
}
