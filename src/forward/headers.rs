//! The header fields that an upstream gets: taken from the request, then set or removed, never
//! passed through.
//!
//! In this order, because each step must not be undone by an earlier one (row 37):
//!
//! 1. Hop-by-hop fields go, also those that `Connection` names (RFC 9110 §7.6.1).
//! 2. What only a gateway may say goes, in every case and `-`/`_`/`.` spelling: identity headers,
//!    `X-Forwarded-*`, `Forwarded`, `X-Real-IP`, path and method overrides. Of a trusted proxy the
//!    forwarding fields stay.
//! 3. `Authorization` goes, unless `forward_token`.
//! 4. Ours are set: identity, forwarding, request id, trace.
//!
//! Sources: RFC 9110 §7.6, RFC 7239, DESIGN §4.

use std::collections::HashSet;
use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
};
use smallvec::SmallVec;

use super::trace;
use crate::accept::Peer;
use crate::authenticate::Caller;

/// Whether a field describes one connection and not the message.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Fields that would make an upstream act on another path or method than the one that was judged
/// (row 44), or believe another client address.
const OVERRIDES: [&str; 10] = [
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is removed and set, for all routes of one configuration.
#[derive(Debug)]
pub struct HeaderPlan {
    /// Identity headers and overrides, folded by [`fold`].
    reserved: HashSet<String>,
    forward_token: bool,
}

impl HeaderPlan {
    /// A plan that keeps `identity` headers for the gateway alone.
    #[must_use]
    pub fn new<'n>(identity: impl Iterator<Item = &'n HeaderName>, forward_token: bool) -> Self {
        let names = identity.map(HeaderName::as_str).chain(OVERRIDES);
        Self { reserved: names.map(fold).collect(), forward_token }
    }

    /// Rewrites a request's fields for its upstream.
    pub fn rewrite(&self, headers: &mut HeaderMap, caller: &Caller, peer: &Peer, request_id: &HeaderValue) {
        remove_named_by_connection(headers);
        let is_doomed = |name: &HeaderName| {
            is_hop_by_hop(name.as_str())
                || self.is_reserved(name.as_str(), peer.is_trusted)
                || (!self.forward_token && *name == AUTHORIZATION)
        };
        remove_if(headers, is_doomed);
        if let Caller::Known(identity) = caller {
            for (name, value) in identity.headers() {
                headers.insert(name.clone(), value.clone());
            }
        }
        set_forwarding(headers, peer);
        headers.insert(trace::REQUEST_ID, request_id.clone());
        trace::set_traceparent(headers);
    }

    fn is_reserved(&self, name: &str, is_trusted: bool) -> bool {
        let has_odd_spelling = name.bytes().any(|b| b == b'_' || b == b'.') || name.ends_with('-');
        if !has_odd_spelling {
            return self.reserved.contains(name) || (!is_trusted && is_forwarding(name));
        }
        // SECURITY: a server that turns fields into variables (CGI, WSGI) reads `x_user_id` as
        // `X-User-Id`. Of a trusted proxy too, only the true spelling of a forwarding field stays.
        let folded = fold(name);
        self.reserved.contains(&folded) || is_forwarding(&folded)
    }
}

/// Lower case, with every spelling of the separator as `-`.
fn fold(name: &str) -> String {
    name.trim_end_matches(['-', '_', '.']).to_ascii_lowercase().replace(['_', '.'], "-")
}

fn is_forwarding(folded: &str) -> bool {
    folded == "forwarded" || folded.starts_with("x-forwarded-") || folded == "x-forwarded"
}

/// Removes the fields of one hop (RFC 9110 §7.6.1).
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    remove_if(headers, |name| is_hop_by_hop(name.as_str()));
}

/// Removes what `Connection` names; it cannot name a field that a gateway relies on, since ours are
/// set afterwards.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Why: these say whose the message is, from whom and how long; dropping them changes it.
        .filter(|name| ![HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// One look at every field; a removal for each that goes, where asking for each by name would cost a
/// hash for those that are not there.
fn remove_if(headers: &mut HeaderMap, is_doomed: impl Fn(&HeaderName) -> bool) {
    let doomed: SmallVec<[HeaderName; 8]> = headers.keys().filter(|name| is_doomed(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// Sets `X-Forwarded-For/-Proto/-Host` and `Forwarded`: what a trusted proxy said, and its own
/// address; of anybody else only the address that the connection has.
fn set_forwarding(headers: &mut HeaderMap, peer: &Peer) {
    let host = headers.get(HOST).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
    let before = peer.is_trusted.then(|| joined(headers, &X_FORWARDED_FOR)).flatten();
    let chain = match before {
        Some(before) => HeaderValue::try_from(format!("{before}, {}", peer.address)).ok(),
        None => None,
    };
    headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| peer.forwarded_for.clone()));
    for (name, value) in [(X_FORWARDED_PROTO, peer.scheme.clone()), (X_FORWARDED_HOST, host.clone())] {
        let single = headers.get_all(&name).iter().count() == 1;
        if !(peer.is_trusted && single) {
            headers.insert(name, value);
        }
    }
    let element = forwarded_element(peer, &host);
    let element = match peer.is_trusted.then(|| joined(headers, &FORWARDED)).flatten() {
        Some(before) => format!("{before}, {element}"),
        None => element,
    };
    match HeaderValue::try_from(element) {
        Ok(value) => drop(headers.insert(FORWARDED, value)),
        Err(_) => drop(headers.remove(FORWARDED)),
    }
}

/// `for=192.0.2.60;host="shop.example.com";proto=http` (RFC 7239 §4).
fn forwarded_element(peer: &Peer, host: &HeaderValue) -> String {
    let node = match peer.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let scheme = peer.scheme.to_str().unwrap_or("http");
    // The host is within the grammar of a Host field, which has no quotation mark.
    let host = host.to_str().unwrap_or_default();
    format!("for={node};host=\"{host}\";proto={scheme}")
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let fields: Option<Vec<&str>> = headers.get_all(name).iter().map(|field| field.to_str().ok()).collect();
    fields.filter(|fields| !fields.is_empty()).map(|fields| fields.join(", "))
}
