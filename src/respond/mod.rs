//! A response or a refusal becomes an answer.
//!
//! 1. An upstream's answer goes out as it came, less its hop-by-hop fields, with the request id.
//! 2. A refusal is `application/problem+json` (RFC 9457) with a stable `type`, never cached.
//! 3. 401, and 400 and 403 for a credential, carry a `WWW-Authenticate` challenge (RFC 6750 §3), 405
//!    carries `Allow`, 503 carries `Retry-After`.
//! 4. Where a request's body was not read the connection is closed by the server side of hyper, so
//!    that what is left of it is never taken for the next request.
//!
//! What it does not do: say anything that the log knows and the client should not.

pub mod body;
pub mod cors;
pub mod grpc;

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response};

pub use self::body::Body;
use crate::denial::{Challenge, Denial};
use crate::forward::ForwardError;
use crate::forward::body::Answer;
use crate::forward::trace::RequestId;
use crate::refusal::Refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Renders refusals for one realm.
#[derive(Debug)]
pub struct Responder {
    realm: String,
}

impl Responder {
    /// A responder whose challenges name this realm: visible ASCII and spaces, no `"` and no `\`.
    #[must_use]
    pub const fn new(realm: String) -> Self {
        Self { realm }
    }

    /// The answer to a request.
    #[must_use]
    pub fn render(&self, outcome: Result<Response<Answer>, Refusal>, request_id: &RequestId) -> Response<Body> {
        match outcome {
            Ok(response) => {
                let mut response = response.map(Body::Streamed);
                response.headers_mut().insert(REQUEST_ID, request_id.value());
                response
            }
            Err(refusal) => self.refuse(&refusal, request_id),
        }
    }

    fn refuse(&self, refusal: &Refusal, request_id: &RequestId) -> Response<Body> {
        let status = refusal.status();
        let mut response = Response::new(Body::Whole(problem(refusal, request_id).into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM);
        headers.insert(CACHE_CONTROL, NO_STORE);
        headers.insert(REQUEST_ID, request_id.value());
        match refusal {
            Refusal::Denied(denial) => self.explain(denial, headers),
            // A body that was cut short leaves the connection in the middle of a message.
            Refusal::Failed(
                ForwardError::BodyOverflow
                | ForwardError::BodyTooSlow
                | ForwardError::ClientGone
                | ForwardError::Doubted,
            ) => {
                headers.insert(CONNECTION, CLOSE);
            }
            Refusal::Failed(ForwardError::TakenBack) => {
                headers.insert(CONNECTION, CLOSE);
                if let Some(value) = self.challenge(&Challenge::InvalidToken) {
                    headers.insert(WWW_AUTHENTICATE, value);
                }
            }
            Refusal::Failed(
                ForwardError::Unreachable
                | ForwardError::Insecure
                | ForwardError::Unhealthy
                | ForwardError::Saturated
                | ForwardError::TimedOut(_)
                | ForwardError::Broken
                | ForwardError::MalformedLogin,
            ) => {}
        }
        if let Some(seconds) = refusal.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn explain(&self, denial: &Denial, headers: &mut HeaderMap) {
        if let Some(value) = self.challenge(&denial.challenge()) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        if let Denial::MethodNotAllowed(allow) = denial
            && let Ok(value) = HeaderValue::try_from(&**allow)
        {
            headers.insert(ALLOW, value);
        }
        // After a body that is not read, or a head that is not understood, nothing is taken for a request.
        if matches!(denial, Denial::BodyTooLarge | Denial::MalformedRequest) {
            headers.insert(CONNECTION, CLOSE);
        }
    }

    fn challenge(&self, challenge: &Challenge) -> Option<HeaderValue> {
        let realm = &self.realm;
        let text = match challenge {
            Challenge::None => return None,
            Challenge::Bare => format!("Bearer realm=\"{realm}\""),
            Challenge::InvalidRequest => format!("Bearer realm=\"{realm}\", error=\"invalid_request\""),
            Challenge::InvalidToken => format!("Bearer realm=\"{realm}\", error=\"invalid_token\""),
            Challenge::InsufficientScope(scope) => {
                format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\", scope=\"{scope}\"")
            }
        };
        HeaderValue::try_from(text).ok()
    }
}

/// `{"type":"urn:bearward:problem:...","title":...,"status":...,"detail":...,"request_id":...}`
///
/// `type` is coarse, like `detail`: it says what the client can do, not what was wrong with a token.
fn problem(refusal: &Refusal, request_id: &RequestId) -> String {
    let status = refusal.status();
    let title = status.canonical_reason().unwrap_or("Refused");
    let kind = title.to_ascii_lowercase().replace(' ', "-");
    let members = [
        ("type", serde_json::Value::from(format!("urn:bearward:problem:{kind}"))),
        ("title", title.into()),
        ("status", status.as_u16().into()),
        ("detail", refusal.detail().into()),
        ("request_id", request_id.as_str().into()),
    ];
    // What clients of OAuth look for (RFC 6749 §5.2).
    let error = refusal.error().map(|error| ("error", error.into()));
    let members = members.into_iter().chain(error);
    let members: Vec<String> = members.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}\n", members.join(","))
}
