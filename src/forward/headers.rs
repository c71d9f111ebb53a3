//! The header fields that an upstream gets: taken from the request, then set or removed, never
//! passed through.
//!
//! In this order, because each step must not be undone by an earlier one (row 37):
//!
//! 1. Hop-by-hop fields go, also those that `Connection` names (RFC 9110 §7.6.1).
//! 2. What only a gateway may say goes, in every case and with any sign in place of `-`: identity
//!    headers, `X-Forwarded-*`, `Forwarded`, `X-Real-IP`, path and method overrides. Of a trusted
//!    proxy the forwarding fields stay.
//! 3. `Authorization` goes, unless `forward_token`; so do the cookies of sessions, unless `forward_cookie`.
//! 4. Ours are set: identity, forwarding, request id, trace.
//!
//! Sources: RFC 9110 §7.6, RFC 7239, DESIGN §4.

use http::Method;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST,
    HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT,
};
use http::request::Parts;
use smallvec::SmallVec;

use super::trace::{self, RequestId};
use crate::accept::Peer;
use crate::authenticate::Caller;
use crate::cookie::{self, Kept};
use crate::route::Protocol;

/// Fields that would make an upstream act on another path or method than the one that was judged
/// (row 44), or believe another client address.
const OVERRIDES: [&str; 20] = [
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
    "fastly-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-host",
    "x-override-url",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-client-cert",
    "x-ssl-client-verify",
];

/// What browsers and apps send with nearly every request.
const COMMON: [HeaderName; 8] =
    [HOST, USER_AGENT, ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, COOKIE, CONTENT_TYPE, REFERER];

/// What goes on and what is set, for all routes of one configuration.
#[derive(Debug)]
pub struct HeaderPlan {
    /// Identity headers and overrides, folded by [`fold`], by the lengths of their names: most other
    /// names are told apart by that alone.
    reserved: Vec<Vec<String>>,
    /// Names that most requests have and that go on, whoever sends them: found sooner here.
    common: Vec<HeaderName>,
    forward_token: bool,
    /// Cookies that are credentials here, and go no further.
    cookies: Vec<Box<str>>,
}

/// What the head of one request upstream is made of.
#[derive(Clone, Copy)]
pub struct Sources<'r> {
    /// The request's own head.
    pub head: &'r Parts,
    /// The path and query that were judged.
    pub target: &'r str,
    /// Whose identity goes with it.
    pub caller: &'r Caller,
    /// Who sent it.
    pub peer: &'r Peer,
    /// Its id.
    pub request_id: &'r RequestId,
    /// How its body is framed.
    pub framing: BodyFraming,
    /// The protocol that the connection is to change to.
    pub upgrade: Option<Protocol>,
    /// Whether the gateway reads the answer: then it is not to be compressed.
    pub is_read: bool,
    /// What is signed of the caller.
    pub assertion: Option<&'r (&'r HeaderName, HeaderValue)>,
}

/// How a request's body is framed upstream, whatever the client's fields said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    Empty,
    /// It has so many bytes.
    Length(u64),
    /// Its length is not known.
    Chunked,
}

impl HeaderPlan {
    /// A plan that keeps `identity` headers for the gateway alone.
    #[must_use]
    pub fn new<'n>(
        identity: impl Iterator<Item = &'n HeaderName>,
        forward_token: bool,
        cookies: Vec<Box<str>>,
    ) -> Self {
        let names = identity.map(HeaderName::as_str).chain(OVERRIDES);
        let mut reserved = Vec::<Vec<String>>::new();
        for name in names.map(fold) {
            if reserved.len() <= name.len() {
                reserved.resize(name.len() + 1, Vec::new());
            }
            if let Some(same) = reserved.get_mut(name.len()).filter(|same| !same.contains(&name)) {
                same.push(name);
            }
        }
        let mut plan = Self { reserved, common: Vec::new(), forward_token, cookies };
        plan.common = COMMON.into_iter().filter(|name| plan.goes_on(name.as_str(), false)).collect();
        plan
    }

    /// The head of the request to the upstream, to the empty line.
    #[must_use]
    pub fn write(&self, sources: Sources<'_>) -> Vec<u8> {
        let Sources { head, target, caller, peer, request_id, framing, upgrade, is_read, assertion } = sources;
        let mut out = Vec::with_capacity(1024);
        put(&mut out, &[head.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
        let (host, traces) = self.write_clients(&mut out, (head, caller), peer.is_trusted, is_read);
        if let Caller::Known(identity) = caller {
            out.extend_from_slice(identity.headers());
        }
        if let Some((name, value)) = assertion {
            field(&mut out, name.as_str(), value.as_bytes());
        }
        write_forwarding(&mut out, (&head.headers, host), peer);
        field(&mut out, "x-request-id", request_id.as_bytes());
        field(&mut out, "traceparent", &trace::traceparent(&traces));
        if let Some(protocol) = upgrade {
            put(&mut out, &[b"connection: upgrade\r\nupgrade: ", protocol.token().as_bytes(), b"\r\n"]);
        }
        match framing {
            BodyFraming::Chunked => field(&mut out, "transfer-encoding", b"chunked"),
            BodyFraming::Length(length) => write_length(&mut out, length),
            // Some servers want to be told that there is none (RFC 9110 §8.6).
            BodyFraming::Empty if [Method::POST, Method::PUT, Method::PATCH].contains(&head.method) => {
                write_length(&mut out, 0);
            }
            BodyFraming::Empty => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// Writes the client's own fields, as far as they go on. Returns its `Host`, and what it says of its trace.
    fn write_clients<'h>(
        &self,
        out: &mut Vec<u8>,
        (head, caller): (&'h Parts, &Caller),
        is_trusted: bool,
        is_read: bool,
    ) -> (&'h [u8], SmallVec<[&'h HeaderValue; 2]>) {
        let mut named: SmallVec<[HeaderName; 4]> = SmallVec::new();
        if head.headers.contains_key(CONNECTION) {
            named.extend(head.headers.get_all(CONNECTION).iter().flat_map(named_by));
        }
        let (mut host, mut traces) = (&b""[..], SmallVec::<[&HeaderValue; 2]>::new());
        for (name, value) in &head.headers {
            if name == HOST {
                host = value.as_bytes();
            }
            if !self.common.contains(name) && !self.goes_on(name.as_str(), is_trusted) {
                if name == trace::TRACEPARENT {
                    traces.push(value);
                }
                continue;
            }
            if named.contains(name) {
                continue;
            }
            if is_read && name == ACCEPT_ENCODING {
                continue;
            }
            // What nobody has looked at is no token.
            if name == AUTHORIZATION && matches!(caller, Caller::Known(identity) if !identity.is_by_token()) {
                continue;
            }
            if name == COOKIE && !self.cookies.is_empty() {
                match cookie::without(value.as_bytes(), &self.cookies) {
                    Kept::All => field(out, name.as_str(), value.as_bytes()),
                    Kept::Some(kept) => field(out, name.as_str(), &kept),
                    Kept::Nothing => {}
                }
                continue;
            }
            field(out, name.as_str(), value.as_bytes());
        }
        (host, traces)
    }

    /// Whether a client's field goes on as it is.
    fn goes_on(&self, name: &str, is_trusted: bool) -> bool {
        match name {
            "authorization" => self.forward_token,
            // Ours are set instead.
            "content-length" | "x-request-id" | "traceparent" => false,
            // A server that turns fields into variables reads it as HTTP_PROXY (CVE-2016-5385).
            "proxy" => false,
            _ if is_hop_by_hop(name) => false,
            _ => !self.is_reserved(name) && !is_forwarding(name, is_trusted),
        }
    }

    fn is_reserved(&self, name: &str) -> bool {
        if !has_odd_spelling(name) {
            return self.reserved.get(name.len()).is_some_and(|same| same.iter().any(|known| known == name));
        }
        // SECURITY: a server that turns fields into variables (CGI, WSGI) reads `x_user_id`, and some
        // `x+user+id`, as `X-User-Id`. Of a trusted proxy too, only the true spelling of a forwarding
        // field stays.
        !self.goes_on(&fold(name), false)
    }
}

fn has_odd_spelling(name: &str) -> bool {
    name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-')
        || name.starts_with('-')
        || name.ends_with('-')
}

/// Lower case, with `-` for every sign, none at the ends; never oddly spelled itself.
fn fold(name: &str) -> String {
    let dashed = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_ascii_lowercase();
    dashed.trim_matches('-').to_owned()
}

/// Whether a field says who came before; of a trusted proxy those that are written by
/// [`write_forwarding`] are left to it, and others stay.
fn is_forwarding(name: &str, is_trusted: bool) -> bool {
    match name {
        "forwarded" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => true,
        // What a proxy before us saw of a certificate (RFC 9440 §2): of anybody else it is a claim.
        "client-cert" | "client-cert-chain" | "x-forwarded" => !is_trusted,
        _ => !is_trusted && name.starts_with("x-forwarded-"),
    }
}

/// Whether a field describes one connection and not the message.
pub fn is_hop_by_hop(name: &str) -> bool {
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

/// The fields that a `Connection` field names (RFC 9110 §7.6.1). It cannot name one that a gateway
/// relies on, since ours are set after all removals.
pub fn named_by(connection: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    let names = connection.as_bytes().split(|&byte| byte == b',');
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !is_hop_by_hop(name.as_str()))
        // Why: these say whose the message is, from whom and how long; dropping them changes it.
        .filter(|name| ![HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE].contains(name))
}

/// Whether a `Connection` field has an option, in any case.
pub fn says(connection: &HeaderValue, option: &str) -> bool {
    let options = connection.as_bytes().split(|&byte| byte == b',');
    options.map(<[u8]>::trim_ascii).any(|said| said.eq_ignore_ascii_case(option.as_bytes()))
}

/// Writes `X-Forwarded-For/-Proto/-Host` and `Forwarded`: what a trusted proxy said, and its own
/// address; of anybody else only the address that the connection has.
fn write_forwarding(out: &mut Vec<u8>, (headers, host): (&HeaderMap, &[u8]), peer: &Peer) {
    let said = |name: &'static str| -> SmallVec<[&[u8]; 2]> {
        if !peer.is_trusted {
            return SmallVec::new();
        }
        headers.get_all(name).iter().map(HeaderValue::as_bytes).filter(|value| !value.is_empty()).collect()
    };
    begin(out, "x-forwarded-for");
    for before in said("x-forwarded-for") {
        put(out, &[before, b", "]);
    }
    put(out, &[peer.forwarded_for.as_bytes(), b"\r\n"]);
    for (name, ours) in [("x-forwarded-proto", peer.scheme.as_bytes()), ("x-forwarded-host", host)] {
        match said(name).as_slice() {
            [theirs] => field(out, name, theirs),
            _ => field(out, name, ours),
        }
    }
    begin(out, "forwarded");
    for before in said("forwarded") {
        put(out, &[before, b", "]);
    }
    // `for=192.0.2.60;host="shop.example.com";proto=http` (RFC 7239 §4). The host is within the
    // grammar of a Host field, which has no quotation mark.
    let node = peer.forwarded_node.as_bytes();
    put(out, &[b"for=", node, b";host=\"", host, b"\";proto=", peer.scheme.as_bytes(), b"\r\n"]);
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    field(out, "content-length", length.to_string().as_bytes());
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    begin(out, name);
    put(out, &[value, b"\r\n"]);
}

fn begin(out: &mut Vec<u8>, name: &str) {
    put(out, &[name.as_bytes(), b": "]);
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_sooner_is_what_goes_on_anyway() {
        let plan = HeaderPlan::new([REFERER, HeaderName::from_static("x-user-id")].iter(), false, Vec::new());
        assert!(
            plan.common.contains(&HOST) && !plan.common.contains(&REFERER),
            "an identity header is never passed on"
        );
        for name in &plan.common {
            assert!(plan.goes_on(name.as_str(), false) && plan.goes_on(name.as_str(), true), "{name}");
        }
    }
}
