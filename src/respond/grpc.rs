//! Refusals for callers that speak gRPC: they look for a status in fields of their own, and take any other
//! HTTP status for a broken server.
//!
//! A refusal is an answer without a body and with the status 200 (*trailers-only*). Which number stands for
//! which HTTP status is gRPC's own table.
//!
//! Sources: gRPC over HTTP/2 (PROTOCOL-HTTP2), http-grpc-status-mapping.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};

use super::Body;
use crate::refusal::Refusal;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A refusal as such a caller is told.
pub struct Told {
    code: u8,
    message: &'static str,
}

/// Whether the request is one of gRPC: `POST` in HTTP/2, and `application/grpc` or one of its kinds.
#[must_use]
pub fn is_spoken<B>(request: &Request<B>) -> bool {
    // SECURITY: to who asks for a WebSocket on a stream, which is a GET by now, the status 200 of a refusal would be
    // an open one.
    request.version() == Version::HTTP_2
        && *request.method() == Method::POST
        && request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl Told {
    /// What the caller is told of this refusal.
    #[must_use]
    pub const fn of(refusal: &Refusal) -> Self {
        Self { code: code(refusal.status()), message: refusal.detail() }
    }

    /// Makes the answer one that the caller understands.
    pub fn dress(&self, answer: &mut Response<Body>) {
        *answer.status_mut() = StatusCode::OK;
        *answer.body_mut() = Body::Whole(Bytes::new());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(STATUS, HeaderValue::from(u16::from(self.code)));
        // Texts of ours have no `%` and nothing outside ASCII: they stand for themselves.
        headers.insert(MESSAGE, HeaderValue::from_static(self.message));
    }
}

const fn code(status: StatusCode) -> u8 {
    match status.as_u16() {
        // INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED.
        400 => 13,
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        // RESOURCE_EXHAUSTED: not in the table, but its description.
        413 => 8,
        // UNAVAILABLE. For 504 DEADLINE_EXCEEDED, where the table has UNAVAILABLE too: what is unavailable is asked
        // again, and here the service may be at work on it.
        429 | 502 | 503 => 14,
        504 => 4,
        // UNKNOWN.
        _ => 2,
    }
}
