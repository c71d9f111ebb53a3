//! Answers of the gateway's own: JSON that nobody caches, and cookies.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SET_COOKIE};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::forward::body::Answer;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// An answer that nobody caches, without a body.
pub fn empty(status: StatusCode) -> Response<Answer> {
    let mut answer = Response::new(Answer::Whole(Bytes::new()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The same with an object.
pub fn json(members: Map<String, Value>) -> Response<Answer> {
    let text = format!("{}\n", Value::Object(members));
    let mut answer = empty(StatusCode::OK);
    *answer.body_mut() = Answer::Whole(text.into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Sets a cookie, or takes it away.
pub fn set_cookie(answer: &mut Response<Answer>, field: Option<HeaderValue>) {
    if let Some(field) = field {
        answer.headers_mut().append(SET_COOKIE, field);
    }
}

/// Says which wishes were met (RFC 7240 §3).
pub fn applied(answer: &mut Response<Answer>, wishes: &str) {
    if let Ok(value) = HeaderValue::try_from(wishes)
        && !wishes.is_empty()
    {
        answer.headers_mut().insert(PREFERENCE_APPLIED, value);
    }
}
