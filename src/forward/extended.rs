//! A WebSocket for a client of HTTP/2 (RFC 8441), from a service that speaks HTTP/1.1.
//!
//! 1. The service's 101 is the client's 200: there is nothing to change on a stream.
//! 2. The key was made here, so what the service makes of it is checked here (RFC 6455 §4.1), and goes no further.
//! 3. Any other 2xx is no answer: the client would take it for an open WebSocket.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use hyper::ext::Protocol as Asked;

use super::answer::{Head, Malformed};

/// What a key is hashed with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a client of HTTP/2 asks for another protocol on its stream.
pub(super) fn is_asked(request: &Parts) -> bool {
    request.extensions.get::<Asked>().is_some()
}

/// Makes a service's answer the client's.
///
/// # Errors
/// [`Malformed`] for what the client would take for a WebSocket, and is none.
pub(super) fn settle(request: &Parts, head: &mut Head) -> Result<(), Malformed> {
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        return if head.status.is_success() { Err(Malformed) } else { Ok(()) };
    }
    let key = request.headers.get(SEC_WEBSOCKET_KEY).ok_or(Malformed)?;
    if only(&head.headers).is_none_or(|accept| *accept != accept_of(key.as_bytes())) {
        return Err(Malformed);
    }
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        head.headers.remove(name);
    }
    head.status = StatusCode::OK;
    Ok(())
}

/// The one `Sec-WebSocket-Accept`.
fn only(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut fields = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    fields.next().filter(|_| fields.next().is_none())
}

/// What a service makes of a key (RFC 6455 §4.2.2).
fn accept_of(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_what_the_rfc_says() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
