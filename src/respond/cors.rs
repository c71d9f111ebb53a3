//! Which pages of other origins may read answers (Fetch standard §3.2, "CORS protocol").
//!
//! 1. The gateway alone says so: what a service says of it is removed on a route with `cors`.
//! 2. A preflight is answered before authentication, since it carries no credential, and goes no further.
//!    An origin that is not allowed is 403, without a word that a browser would take for a permission.
//! 3. Any other request is served whoever asks; without the fields the browser keeps its answer from the
//!    page. Refusals have them too, so that a page can read why.
//! 4. An origin is repeated only where it is named, or fits a wildcard label by label; `*` is said only
//!    without credentials.
//!
//! What it does not do: keep a page from sending a request. That a request came from a page of one's own
//! is another question.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Response, StatusCode};

use crate::denial::Denial;
use crate::forward::body::Answer;
use crate::route::{Cors, Route};

/// Every field by which a service could say something of its own.
const SAID: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// The answer to a preflight of a request that this route takes.
///
/// # Errors
/// [`Denial::OriginNotAllowed`].
pub fn preflight(route: &Route, request: &HeaderMap) -> Result<Response<Answer>, Denial> {
    let cors = route.cors.as_deref().ok_or(Denial::OriginNotAllowed)?;
    let asked = request.get(ACCESS_CONTROL_REQUEST_METHOD).ok_or(Denial::OriginNotAllowed)?;
    let origin = origin(request).filter(|origin| is_allowed(cors, origin)).ok_or(Denial::OriginNotAllowed)?;
    let mut response = Response::new(Answer::Whole(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    dress(cors, Some(&origin), headers);
    // Of a route for any method it is the one that was asked for.
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.as_ref().unwrap_or(asked).clone());
    headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
    if let Some(names) = &cors.headers {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    Ok(response)
}

/// Says on any answer of a route with `cors` who may read it: the page that asked, or nobody.
pub fn dress(cors: &Cors, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
    for name in &SAID {
        answer.remove(name);
    }
    if cors.is_any && !cors.credentials {
        // To whoever asks: a cache may give it to a page.
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        answer.append(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin.filter(|origin| is_allowed(cors, origin)) else { return };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    if cors.credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(names) = &cors.expose {
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
    }
}

/// The origin that a request names; nothing where it names two.
#[must_use]
pub fn origin(request: &HeaderMap) -> Option<HeaderValue> {
    let mut origins = request.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
    Some(origin.clone())
}

fn is_allowed(cors: &Cors, origin: &HeaderValue) -> bool {
    cors.is_any || origin.to_str().is_ok_and(|text| cors.origins.iter().any(|allowed| allowed.is(text)))
}
