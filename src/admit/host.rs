//! The host that a request is for, in one spelling.
//!
//! Exactly one `Host` (RFC 9112 §3.2), within the grammar `uri-host [ ":" port ]`; lower case, no
//! port, no trailing dot. An absolute-form target has to name the same host.

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;

use crate::denial::Denial;

/// The request's host in lower case, without port and trailing dot.
///
/// # Errors
/// [`Denial::MalformedRequest`] for no `Host`, two of them, one outside the grammar, or one that
/// differs from an absolute-form target.
pub fn of(request: &Parts) -> Result<Cow<'_, str>, Denial> {
    let mut fields = request.headers.get_all(HOST).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return Err(Denial::MalformedRequest) };
    let text = field.to_str().map_err(|_| Denial::MalformedRequest)?;
    if let Some(authority) = request.uri.authority()
        && !authority.as_str().eq_ignore_ascii_case(text)
    {
        return Err(Denial::MalformedRequest);
    }
    canonical(text).ok_or(Denial::MalformedRequest)
}

/// `Shop.Example.com.:8080` becomes `shop.example.com`.
fn canonical(text: &str) -> Option<Cow<'_, str>> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            (text.get(..end + 2)?, text.get(end + 2..)?)
        }
        None => memchr::memchr(b':', text.as_bytes()).map_or((text, ""), |colon| text.split_at(colon)),
    };
    if !(port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))) {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let fits = match host.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => is_name(host),
    };
    if !fits {
        return None;
    }
    let is_lower = !host.bytes().any(|b| b.is_ascii_uppercase());
    Some(if is_lower { Cow::Borrowed(host) } else { Cow::Owned(host.to_ascii_lowercase()) })
}

/// Labels with a dot between each two; none is empty.
fn is_name(host: &str) -> bool {
    let mut is_after_dot = true;
    for byte in host.bytes() {
        if byte == b'.' {
            if is_after_dot {
                return false;
            }
        } else if !(byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return false;
        }
        is_after_dot = byte == b'.';
    }
    !is_after_dot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_host_becomes_one() {
        for (text, expected) in [
            ("gw.test", Some("gw.test")),
            ("GW.TEST", Some("gw.test")),
            ("gw.test.", Some("gw.test")),
            ("Gw.Test.:8080", Some("gw.test")),
            ("gw.test:", Some("gw.test")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("my_svc", Some("my_svc")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("gw.test..", None),
            ("gw.test:80:80", None),
            ("gw.test:8a", None),
            ("user@gw.test", None),
            ("gw.test/x", None),
            ("[::1", None),
            ("[zz]", None),
            ("gw test", None),
            ("gw,test", None),
        ] {
            assert_eq!(canonical(text).as_deref(), expected, "{text}");
        }
    }
}
