//! What a client would like to log in with: `Prefer: credentials=tokens, refresh-token=cookie` (RFC 7240).
//!
//! A wish that cannot be met is passed over, as RFC 7240 §2 wants it.

use http::{HeaderMap, HeaderValue};

/// What a client would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// `credentials=tokens`: no session; `credentials=session`: no tokens.
    pub only: Option<Only>,
    /// `refresh-token=cookie`: in a cookie that scripts do not see, and not in the body.
    pub refresh_in_cookie: bool,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// A pair of tokens.
    Tokens,
    /// The cookie of a session.
    Session,
}

impl Wish {
    /// What a request says.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut wish = Self { only: None, refresh_in_cookie: false };
        let mut seen = (false, false);
        let fields = headers.get_all("prefer").iter().filter_map(|value| HeaderValue::to_str(value).ok());
        let wishes = fields.flat_map(|field| field.split(',')).map(|one| one.split(';').next().unwrap_or(one));
        for (name, value) in wishes.filter_map(|wish| wish.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                // The first of two counts (RFC 7240 §2).
                "credentials" if !std::mem::replace(&mut seen.0, true) => {
                    wish.only = match value {
                        "tokens" => Some(Only::Tokens),
                        "session" => Some(Only::Session),
                        _ => None,
                    };
                }
                "refresh-token" if !std::mem::replace(&mut seen.1, true) => {
                    wish.refresh_in_cookie = value == "cookie";
                }
                _ => {}
            }
        }
        wish
    }

    /// Those of it that are met.
    #[must_use]
    pub fn met(only: Option<Only>, refresh_in_cookie: bool) -> String {
        let only = only.map(|only| match only {
            Only::Tokens => "credentials=tokens",
            Only::Session => "credentials=session",
        });
        let refresh = refresh_in_cookie.then_some("refresh-token=cookie");
        only.into_iter().chain(refresh).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_from_every_field_and_what_is_not_understood_is_none() {
        let wish = |fields: &[&'static str]| {
            let headers: HeaderMap = fields
                .iter()
                .map(|field| (http::HeaderName::from_static("prefer"), HeaderValue::from_static(field)))
                .collect();
            Wish::of(&headers)
        };
        let none = Wish { only: None, refresh_in_cookie: false };
        for (fields, expected) in [
            (&[][..], none),
            (&["credentials=tokens"], Wish { only: Some(Only::Tokens), ..none }),
            (
                &["respond-async, Credentials = \"session\"; x=y", "refresh-token=cookie"],
                Wish { only: Some(Only::Session), refresh_in_cookie: true },
            ),
            (&["credentials=tokens, credentials=session"], Wish { only: Some(Only::Tokens), ..none }),
            (&["credentials", "credentials=both, refresh-token=body"], none),
        ] {
            assert_eq!(wish(fields), expected, "{fields:?}");
        }
    }
}
