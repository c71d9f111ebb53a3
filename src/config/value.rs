//! The kinds of value that a file holds: each is right by itself once it has been read.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::{HeaderName, Method};
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use serde_json::json;

use super::mistake::{Mistake, Mistakes};
use super::node::{Node, Text, Value};
use super::section::Read;
use crate::accept::tls::MinVersion;
use crate::admit::pattern::{MAX_SEGMENTS, Pattern, PatternFault};
use crate::authenticate::claims::ClaimPath;
use crate::authenticate::token::{ALGORITHMS, algorithm_named};

/// The node's text; a mistake where it is something else.
pub fn text<'n>(node: &'n Node, path: &str, allowed: &str, mistakes: &mut Mistakes) -> Option<&'n Text> {
    let found = match &node.value {
        Value::Text(text) if !text.text.is_empty() => return Some(text),
        Value::Text(_) => "an empty text".to_owned(),
        value @ (Value::Null
        | Value::Bool(_)
        | Value::Whole(_)
        | Value::Fraction(_)
        | Value::List(_)
        | Value::Map(_)) => value.shown(),
    };
    mistakes.add(Mistake::new(node.place, path, found).allowed(allowed));
    None
}

/// Reads a text by `parse`; `allowed` says what would have been right.
pub fn parsed<T>(
    node: &Node,
    path: &str,
    allowed: &str,
    mistakes: &mut Mistakes,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let value = text(node, path, allowed, mistakes)?;
    let read = parse(&value.text);
    if read.is_none() {
        mistakes.add(Mistake::new(node.place, path, node.value.shown()).allowed(allowed));
    }
    read
}

/// Text.
impl Read for String {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        text(node, path, "text", mistakes).map(|text| text.text.clone())
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// `true` or `false`.
impl Read for bool {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let known = match &node.value {
            Value::Bool(value) => Some(*value),
            // What an environment variable holds is text.
            Value::Text(Text { text, is_secret: true }) => text.parse().ok(),
            Value::Text(_) | Value::Null | Value::Whole(_) | Value::Fraction(_) | Value::List(_) | Value::Map(_) => {
                None
            }
        };
        if known.is_none() {
            let mistake = Mistake::new(node.place, path, node.value.shown());
            mistakes.add(mistake.allowed("`true` or `false`, without quotes"));
        }
        known
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }
}

const TLS_VERSIONS: [(&str, MinVersion); 2] = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];

/// A version of TLS; without quotes it is a number.
impl Read for MinVersion {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Fraction(number) = &node.value
            && let Some((_, version)) = TLS_VERSIONS.into_iter().find(|(name, _)| *name == number.to_string())
        {
            return Some(version);
        }
        super::words::word(node, path, &TLS_VERSIONS, mistakes)
    }

    fn schema() -> serde_json::Value {
        json!({ "enum": ["1.2", "1.3", 1.2, 1.3] })
    }
}

/// The format's version: `1`.
#[derive(Clone, Copy, Debug)]
pub struct Version;

impl Read for Version {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if matches!(node.value, Value::Whole(1)) {
            return Some(Self);
        }
        mistakes.add(Mistake::new(node.place, path, format!("version {}", node.value.shown())).allowed("`1`"));
        None
    }

    fn schema() -> serde_json::Value {
        json!({ "const": 1 })
    }
}

/// An address to listen on: `0.0.0.0:8080`, `[::]:8080`.
impl Read for SocketAddr {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "an address with its port: `0.0.0.0:8080`, `127.0.0.1:0`, `[::]:8080`";
        parsed(node, path, allowed, mistakes, |text| text.parse().ok())
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": ":[0-9]+$|\\$\\{" })
    }
}

/// A network: `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`.
impl Read for IpNet {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a network or an address: `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`";
        parsed(node, path, allowed, mistakes, |text| {
            text.parse::<Self>()
                .or_else(|_| text.parse::<std::net::IpAddr>().map(Self::from))
                .ok()
                .map(|net| net.trunc())
        })
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}

/// A file, found beside the configuration unless it is absolute.
impl Read for PathBuf {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        text(node, path, "the name of a file", mistakes).map(|text| Self::from(&text.text))
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl Read for Algorithm {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = ALGORITHMS.map(|(name, _)| format!("`{name}`")).join(", ");
        let value = text(node, path, &allowed, mistakes)?;
        let found = algorithm_named(&value.text);
        if found.is_none() {
            let mistake = Mistake::new(node.place, path, format!("unknown algorithm {}", node.value.shown()));
            mistakes.add(mistake.allowed(allowed).near(&value.text, ALGORITHMS.map(|(name, _)| name)));
        }
        found
    }

    fn schema() -> serde_json::Value {
        json!({ "enum": ALGORITHMS.map(|(name, _)| name) })
    }
}

impl Read for ClaimPath {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "the name of a claim: `sub`, `realm_access.roles`";
        parsed(node, path, allowed, mistakes, Self::parse)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// Methods that can be routed: RFC 9110 §9, RFC 5789, RFC 4918. `CONNECT` and `TRACE` are not offered.
const METHODS: [&str; 18] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "PURGE",
];

impl Read for Method {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = METHODS.map(|name| format!("`{name}`")).join(", ");
        let value = text(node, path, &allowed, mistakes)?;
        let known = METHODS.contains(&value.text.as_str());
        let method = known.then(|| Self::from_bytes(value.text.as_bytes()).ok()).flatten();
        if method.is_none() {
            let mistake = Mistake::new(node.place, path, format!("unknown method {}", node.value.shown()));
            mistakes.add(mistake.allowed(allowed).near(&value.text, METHODS));
        }
        method
    }

    fn schema() -> serde_json::Value {
        json!({ "enum": METHODS })
    }
}

/// A host: `shop.example.com`, or `*.example.com` for one or more labels before the rest.
#[derive(Clone, Debug)]
pub struct Host(pub String);

impl Read for Host {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a host without port: `shop.example.com`, `*.example.com`, `[::1]`";
        parsed(node, path, allowed, mistakes, |text| {
            let lower = text.to_ascii_lowercase();
            let rest = lower.strip_prefix("*.").unwrap_or(&lower);
            let is_address = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let fits = match is_address {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && rest == lower,
                None => rest.split('.').all(is_host_label),
            };
            fits.then(|| Self(lower.clone()))
        })
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// Whether a label may stand in a host.
pub fn is_host_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Read for Pattern {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "literal segments, `{name}` for one segment, a final `/**` for this path and all below";
        let value = text(node, path, allowed, mistakes)?;
        let fault = match Self::parse(&value.text) {
            Ok(pattern) => return Some(pattern),
            Err(fault) => fault,
        };
        let found = match fault {
            PatternFault::NoLeadingSlash => "does not begin with `/`".to_owned(),
            PatternFault::NotCanonical => {
                "can never match: paths are matched in canonical form, without `//`, dot segments or needless `%XX`"
                    .to_owned()
            }
            PatternFault::MisplacedWildcard => "has `*` somewhere else than in a final `/**`".to_owned(),
            PatternFault::BadParameter(text) => format!("`{text}` is no parameter: `{{name}}` takes a whole segment"),
            PatternFault::RepeatedParameter(name) => format!("has the parameter `{name}` twice"),
            PatternFault::TooLong => format!("is longer than {MAX_SEGMENTS} segments or 2048 bytes"),
        };
        mistakes.add(
            Mistake::new(node.place, path, format!("the pattern {} {found}", node.value.shown())).allowed(allowed),
        );
        None
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^/" })
    }
}

impl Read for HeaderName {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        parsed(node, path, "a header name", mistakes, |text| Self::try_from(text).ok())
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}
