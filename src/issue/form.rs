//! What a client sends to an endpoint: `application/x-www-form-urlencoded` (RFC 6749 §6, RFC 7009 §2.1), or the same
//! as an object of JSON.

use std::future::poll_fn;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde_json::Value;

use crate::authenticate::json;
use crate::denial::Denial;
use crate::forward::ForwardError;
use crate::forward::upload::Upload;
use crate::percent;
use crate::refusal::Refusal;

/// Most parameters.
const MAX_PARAMETERS: usize = 32;

/// Names and values.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a request's body, within the limits of the upload.
    ///
    /// # Errors
    /// `MalformedGrant`, and what an upload can come to.
    pub async fn read(head: &Parts, mut upload: Upload) -> Result<Self, Refusal> {
        let mut body = Vec::new();
        while let Some(piece) = poll_fn(|cx| upload.poll_next(cx)).await {
            body.extend_from_slice(&piece.map_err(ForwardError::from)?);
        }
        let kind = head.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        Self::parse(kind, &body).ok_or(Refusal::Denied(Denial::MalformedGrant("invalid_request")))
    }

    /// Reads a body of this type.
    #[must_use]
    pub fn parse(kind: Option<&str>, body: &[u8]) -> Option<Self> {
        if body.is_empty() {
            return Some(Self::default());
        }
        let kind = kind?.split(';').next()?.trim().to_ascii_lowercase();
        let members: Vec<(String, String)> = match kind.as_str() {
            "application/json" => {
                let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
                json::object(body)?.into_iter().map(text).collect::<Option<_>>()?
            }
            "application/x-www-form-urlencoded" => {
                let read = |text: &str| percent::decode(&text.replace('+', " "));
                let pairs = std::str::from_utf8(body).ok()?.split('&').filter(|pair| !pair.is_empty());
                let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.map(|(name, value)| (read(name), read(value))).collect()
            }
            _ => return None,
        };
        // RFC 6749 §3.2: parameters must not be included more than once.
        let is_twice = |place: usize, name: &str| members.iter().take(place).any(|(before, _)| before == name);
        let is_good = members.len() <= MAX_PARAMETERS
            && !members.iter().enumerate().any(|(place, (name, _))| is_twice(place, name));
        is_good.then_some(Self(members))
    }

    /// The value of a parameter; one without a value is treated as left out (RFC 6749 §3.2).
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_there_once_in_one_of_two_forms() {
        let form = "application/x-www-form-urlencoded";
        let value = |kind, body: &str| Form::parse(kind, body.as_bytes())?.value("token").map(str::to_owned);
        for (kind, body, expected) in [
            (Some(form), "grant_type=refresh_token&token=a%2Db+c", Some("a-b c")),
            (Some("Application/X-WWW-Form-Urlencoded; charset=utf-8"), "token=a", Some("a")),
            (Some("application/json"), r#"{"token":"a"}"#, Some("a")),
            (Some("application/json; charset=utf-8"), r#"{"token":"a","x":"y"}"#, Some("a")),
            (Some(form), "token=", None),
            (Some(form), "token", None),
            (Some(form), "", None),
            (Some("application/json"), r#"{"token":7}"#, None),
        ] {
            assert_eq!(value(kind, body).as_deref(), expected, "{body}");
        }
        for (kind, body) in [
            (Some(form), "token=a&token=b"),
            (Some(form), "token=a&tok%65n=a"),
            (Some("application/json"), r#"{"token":"a","token":"a"}"#),
            (Some("application/json"), "[]"),
            (Some("text/plain"), "token=a"),
            (None, "token=a"),
            (Some(form), &(0..33).map(|n| format!("a{n}=b")).collect::<Vec<_>>().join("&")),
        ] {
            assert_eq!(Form::parse(kind, body.as_bytes()), None, "{body}");
        }
        assert_eq!(Form::parse(None, b""), Some(Form::default()));
    }
}
