//! A request's header fields become the one bearer credential.
//!
//! 1. No `Authorization`, or one of another scheme: no credential.
//! 2. Two `Authorization` fields, or an `access_token` in the query: refused, whatever they hold. A
//!    client must use one method (RFC 6750 §2), and the query is one that is never configured here.
//! 3. `Bearer` in any case, one or more spaces, a text that is not too long (RFC 6750 §2.1).
//!
//! Nothing is decoded here; the length is checked before anything else looks at the text. Whether it
//! is a token is seen when it is taken apart (`token`).

use std::fmt;

use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::denial::Denial;

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;

/// The text of the one bearer credential. `Debug` prints its length only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bearer<'r>(&'r [u8]);

impl<'r> Bearer<'r> {
    /// The credential of a request.
    ///
    /// # Errors
    /// `MissingToken`, `DuplicateCredentials`, or `MalformedToken` for a text that is no token or is
    /// longer than [`MAX_TOKEN`].
    pub fn of(request: &'r Parts) -> Result<Self, Denial> {
        let mut fields = request.headers.get_all(AUTHORIZATION).iter();
        let field = fields.next();
        if fields.next().is_some() || names_token(request.uri.query().unwrap_or_default()) {
            return Err(Denial::DuplicateCredentials);
        }
        let field = field.ok_or(Denial::MissingToken)?.as_bytes();
        let (scheme, rest) = field.split_at_checked(6).ok_or(Denial::MissingToken)?;
        if !scheme.eq_ignore_ascii_case(b"bearer") || !matches!(rest.first(), None | Some(b' ')) {
            return Err(Denial::MissingToken);
        }
        let token = rest.trim_ascii_start();
        // Why: whether each byte is one of a token is seen when it is taken apart, and what is
        // remembered has been; looking here again would read all of it once more.
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(Denial::MalformedToken);
        }
        Ok(Self(token))
    }

    /// The token, as it was sent: it may be no text yet.
    #[must_use]
    pub const fn as_bytes(&self) -> &'r [u8] {
        self.0
    }

    /// The token's text.
    ///
    /// # Errors
    /// `MalformedToken`.
    pub fn text(&self) -> Result<&'r str, Denial> {
        std::str::from_utf8(self.0).map_err(|_| Denial::MalformedToken)
    }

    /// A token that did not come in a request (`bearward token inspect`, revocation by token).
    ///
    /// # Errors
    /// `MalformedToken` for a text that is no token or is longer than [`MAX_TOKEN`].
    pub fn from_text(text: &'r str) -> Result<Self, Denial> {
        let fits = !text.is_empty() && text.len() <= MAX_TOKEN && is_b64token(text.as_bytes());
        fits.then_some(Self(text.as_bytes())).ok_or(Denial::MalformedToken)
    }
}

/// Whether a request shows a token that is one in form, and not one that has to be asked about.
#[must_use]
pub fn shows_jwt(request: &Parts) -> bool {
    let text = Bearer::of(request).ok().and_then(|bearer| bearer.text().ok());
    text.is_some_and(|text| !super::opaque::is_opaque(text))
}

impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bearer({} bytes)", self.0.len())
    }
}

/// `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`
fn is_b64token(token: &[u8]) -> bool {
    let body = token.trim_ascii_end().len();
    let text = token.iter().rposition(|&b| b != b'=').map_or(0, |last| last + 1);
    body == token.len()
        && text > 0
        && token
            .iter()
            .take(text)
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'))
}

/// Whether a query has a parameter that spells `access_token` (RFC 6750 §2.3), encoded or not.
fn names_token(query: &str) -> bool {
    // Why: nearly every query has no such letter pair, and decoding allocates.
    if !query.contains('%') && !query.contains("access_token") {
        return false;
    }
    query.split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        crate::percent::decode(name) == "access_token"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(uri: &str, fields: &[&str]) -> Result<String, Denial> {
        let mut request = http::Request::builder().uri(uri);
        for field in fields {
            request = request.header(AUTHORIZATION, *field);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        Bearer::of(&parts).and_then(|bearer| bearer.text().map(str::to_owned))
    }

    #[test]
    fn what_is_no_token_is_none_wherever_it_comes_from() {
        for text in ["=", "a=b", "a b", "a,b", "\"a\"", "a.b.c\n", "é", ""] {
            assert_eq!(Bearer::from_text(text), Err(Denial::MalformedToken), "{text}");
        }
        assert!(Bearer::from_text("a.b.c~+/==").is_ok());
    }

    #[test]
    fn exactly_one_credential_is_taken() {
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN + 1));
        let cases: &[(&str, &[&str], Result<&str, Denial>)] = &[
            ("/", &["Bearer a.b.c"], Ok("a.b.c")),
            ("/", &["bEARER   a.b.c"], Ok("a.b.c")),
            ("/?q=access_tokens", &["Bearer a.b.c"], Ok("a.b.c")),
            ("/?q=%zz", &["Bearer a=="], Ok("a==")),
            ("/", &[], Err(Denial::MissingToken)),
            ("/", &["Basic eDp5"], Err(Denial::MissingToken)),
            ("/", &["Bear"], Err(Denial::MissingToken)),
            ("/", &["Bearera.b.c"], Err(Denial::MissingToken)),
            ("/", &["Bearer"], Err(Denial::MalformedToken)),
            ("/", &["Bearer "], Err(Denial::MalformedToken)),
            ("/", &[&long], Err(Denial::MalformedToken)),
            ("/", &["Bearer a", "Bearer a"], Err(Denial::DuplicateCredentials)),
            ("/", &["Bearer a", "Basic b"], Err(Denial::DuplicateCredentials)),
            ("/?access_token=a", &["Bearer a"], Err(Denial::DuplicateCredentials)),
            ("/?x=1&access%5Ftoken=a", &["Bearer a"], Err(Denial::DuplicateCredentials)),
            ("/?access_token=a", &[], Err(Denial::DuplicateCredentials)),
        ];
        for (uri, fields, expected) in cases {
            assert_eq!(bearer(uri, fields), expected.clone().map(str::to_owned), "{uri} {fields:?}");
        }
    }
}
