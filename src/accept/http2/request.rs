//! A request of HTTP/2 in the words of HTTP/1.
//!
//! 1. `:authority` becomes `Host` where there is none (RFC 9113 §8.3.1); where there is one, `admit` has
//!    them be the same.
//! 2. Cookie crumbs become one field, with `; ` between them (RFC 9113 §8.2.3).
//! 3. A `CONNECT` with `:protocol = websocket` becomes the `GET` that asks for a WebSocket (RFC 8441 §5), with a key that
//!    is made here: in HTTP/2 there is none. That it was asked so stays known: the request keeps its [`Asked`], which
//!    nothing of HTTP/1 has.
//!
//! What the parser has refused: pseudo-header fields that are unknown, double or late, upper case in
//! names, and fields that belong to a connection (RFC 9113 §§ 8.2, 8.3).

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, COOKIE, HOST, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::ext::Protocol as Asked;

use crate::route::Protocol;

/// The request as HTTP/1 would tell it.
pub(super) fn in_words_of_http1<B>(mut request: Request<B>) -> Request<B> {
    let authority = request.uri().authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    let headers = request.headers_mut();
    if let Some(authority) = authority.filter(|_| !headers.contains_key(HOST)) {
        // Of more fields than there is room for none is left out unseen: a request without `Host` is refused.
        let _had_room = headers.try_insert(HOST, authority);
    }
    join_crumbs(headers);
    if *request.method() == Method::CONNECT {
        ask_for_protocol(&mut request);
    }
    request
}

/// What is no WebSocket stays as it is, and is refused.
fn ask_for_protocol<B>(request: &mut Request<B>) {
    let asked = request.extensions().get::<Asked>().and_then(|asked| Protocol::of(asked.as_ref()));
    let (Some(protocol), Some(key)) = (asked, key()) else { return };
    let fields = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static(protocol.token())),
        (SEC_WEBSOCKET_KEY, key),
    ];
    for (name, value) in fields {
        if request.headers_mut().try_insert(name, value).is_err() {
            return;
        }
    }
    *request.method_mut() = Method::GET;
}

/// 16 random bytes, as a WebSocket's client sends them (RFC 6455 §4.1).
fn key() -> Option<HeaderValue> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).ok()?;
    HeaderValue::try_from(STANDARD.encode(nonce)).ok()
}

fn join_crumbs(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    // Between values that were fields there is nothing that cannot be one.
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(uri: &str, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let request = fields.iter().fold(Request::builder().uri(uri), |it, (name, value)| it.header(*name, *value));
        let request = in_words_of_http1(request.body(()).expect("a request"));
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn the_authority_becomes_the_host_and_crumbs_become_one_cookie() {
        for (uri, fields, expected) in [
            ("http://gw.test/", &[][..], &[("host", "gw.test")][..]),
            ("http://gw.test/", &[("host", "other.test")], &[("host", "other.test")]),
            ("/", &[], &[]),
            ("/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")], &[("cookie", "a=1; b=2"), ("x", "y")]),
        ] {
            let expected: Vec<_> = expected.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
            assert_eq!(told(uri, fields), expected, "{uri} {fields:?}");
        }
    }
}
