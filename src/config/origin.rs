//! Words of `cors`: origins of pages, and names of header fields.

use http::HeaderName;
use serde_json::json;

use super::mistake::Mistakes;
use super::node::Node;
use super::section::Read;
use super::value::{is_host_label, parsed};
use crate::route::Origin;

/// An origin of pages, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigin {
    /// `"*"`.
    Any,
    /// One, or those below one name.
    Named(Origin),
}

impl Read for CorsOrigin {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "`https://host`, `https://host:port`, `https://*.host`, or `\"*\"`, as browsers write it: no path, no \
                       port that the scheme has anyway; `null` is nobody's";
        parsed(node, path, allowed, mistakes, |text| {
            if text == "*" {
                return Some(Self::Any);
            }
            let (scheme, own_port) =
                [("https://", ":443"), ("http://", ":80")].into_iter().find(|(scheme, _)| text.starts_with(scheme))?;
            let rest = text.get(scheme.len()..)?.to_ascii_lowercase();
            let (is_wildcard, rest) = rest.strip_prefix('*').map_or((false, rest.as_str()), |rest| (true, rest));
            let colon = rest.rfind(':').filter(|colon| !rest.get(*colon..).unwrap_or_default().contains(']'));
            let (host, port) = rest.split_at(colon.unwrap_or(rest.len()));
            let is_port = port.is_empty() || (port != own_port && port.get(1..)?.parse::<u16>().is_ok());
            let labels = if is_wildcard { host.strip_prefix('.')? } else { host };
            let is_host = labels.parse::<std::net::Ipv4Addr>().is_ok()
                || host
                    .strip_prefix('[')
                    .and_then(|host| host.strip_suffix(']'))
                    .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
                || labels.split('.').all(is_host_label);
            let origin = Origin { scheme, host: host.to_owned(), is_wildcard, port: port.to_owned() };
            (is_port && is_host).then_some(Self::Named(origin))
        })
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// The name of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(pub HeaderName);

impl Read for FieldName {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a header name: `Content-Type`";
        parsed(node, path, allowed, mistakes, |text| {
            HeaderName::try_from(text).ok().filter(|name| name != "*").map(Self)
        })
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}
