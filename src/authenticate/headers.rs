//! Verified claims become identity header values, once, when a token is verified.
//!
//! 1. An absent claim is an absent header, never an empty one.
//! 2. A text, number or boolean is its text; a list is its elements with commas between them, less
//!    those that are empty texts: `[""]` would be an empty header.
//! 3. A control character in a claim refuses the token; so does a comma inside a list's element
//!    under an encoding that would pass it.
//! 4. The encoding is unambiguous: decoding gives the claim back.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::claims::{ClaimPath, Claims};
use super::json;
use crate::denial::Denial;

/// Longest identity header value, in bytes.
const MAX_VALUE: usize = 8 * 1024;

/// One header that carries one claim.
#[derive(Clone, Debug)]
pub struct IdentityHeader {
    /// The header's name.
    pub name: HeaderName,
    /// The claim that it carries.
    pub claim: ClaimPath,
    /// How the claim is written.
    pub encoding: Encoding,
}

/// How a claim is written into a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Visible ASCII but `%` stays, everything else is `%XX` of its UTF-8; in a list `,` too.
    Percent,
    /// Base64url without padding of the text, or of the JSON of a list or an object.
    Base64url,
    /// The claim's JSON, in ASCII: other characters as `\uXXXX`.
    Json,
    /// Visible ASCII and inner spaces as they are; a claim with anything else refuses the token.
    Ascii,
}

/// The header values for a token's claims.
///
/// # Errors
/// `MalformedToken` for a claim that cannot be written (see the rules above).
pub fn encode(headers: &[IdentityHeader], claims: &Claims) -> Result<Vec<(HeaderName, HeaderValue)>, Denial> {
    let present = headers.iter().filter_map(|header| claims.at(&header.claim).map(|claim| (header, claim)));
    present
        .filter(|(_, claim)| !matches!(claim, Value::String(text) if text.is_empty()))
        .filter(|(_, claim)| !matches!(claim, Value::Array(list) if list.is_empty()))
        .filter_map(|(header, claim)| {
            let text = header.encoding.write(claim).filter(|text| text.len() <= MAX_VALUE);
            if text.as_ref().is_some_and(String::is_empty) {
                return None;
            }
            let value = text.and_then(|text| HeaderValue::try_from(text).ok()).ok_or(Denial::MalformedToken);
            Some(value.map(|value| (header.name.clone(), value)))
        })
        .collect()
}

/// The fields as they stand in a head: they go out with every request, and change with none.
#[must_use]
pub fn lines(fields: &[(HeaderName, HeaderValue)]) -> Box<[u8]> {
    let mut lines = Vec::with_capacity(fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum());
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    lines.into()
}

impl Encoding {
    fn write(self, claim: &Value) -> Option<String> {
        if json::has_control(claim) {
            return None;
        }
        match (self, claim) {
            (Self::Json, claim) => Some(ascii_json(&serde_json::to_string(claim).ok()?)),
            (Self::Base64url, Value::Array(_) | Value::Object(_)) => {
                Some(URL_SAFE_NO_PAD.encode(serde_json::to_string(claim).ok()?))
            }
            (Self::Base64url, claim) => Some(URL_SAFE_NO_PAD.encode(scalar(claim)?.as_bytes())),
            (Self::Percent, Value::Array(list)) => {
                join(list.iter().map(|element| Some(percent(&scalar(element)?, true))))
            }
            (Self::Percent, claim) => Some(percent(&scalar(claim)?, false)),
            (Self::Ascii, Value::Array(list)) => join(list.iter().map(|element| ascii(scalar(element)?, true))),
            (Self::Ascii, claim) => ascii(scalar(claim)?, false),
        }
    }
}

/// The text of a claim that is no list and no object.
fn scalar(claim: &Value) -> Option<Cow<'_, str>> {
    match claim {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn join(elements: impl Iterator<Item = Option<String>>) -> Option<String> {
    let elements = elements.filter(|element| element.as_ref().is_none_or(|text| !text.is_empty()));
    elements.collect::<Option<Vec<String>>>().map(|elements| elements.join(","))
}

fn percent(text: &str, in_list: bool) -> String {
    let stays = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && !(in_list && byte == b',');
    if text.bytes().all(stays) {
        return text.to_owned();
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if stays(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn ascii(text: Cow<'_, str>, in_list: bool) -> Option<String> {
    let fits = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !(in_list && text.contains(','));
    fits.then(|| text.into_owned())
}

fn ascii_json(json: &str) -> String {
    let mut units = [0; 2];
    json.chars().fold(String::with_capacity(json.len()), |mut out, c| {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn each_encoding_writes_what_the_reference_says() {
        let name = json!("홍길동");
        assert_eq!(Encoding::Percent.write(&name).as_deref(), Some("%ED%99%8D%EA%B8%B8%EB%8F%99"));
        assert_eq!(Encoding::Base64url.write(&name).as_deref(), Some("7ZmN6ri464-Z"));
        assert_eq!(Encoding::Json.write(&name).as_deref(), Some("\"\\ud64d\\uae38\\ub3d9\""));
        assert_eq!(Encoding::Ascii.write(&name), None);
        assert_eq!(Encoding::Percent.write(&json!(["a", "b,c", "%"])).as_deref(), Some("a,b%2Cc,%25"));
        assert_eq!(Encoding::Ascii.write(&json!(["a", "b,c"])), None);
        assert_eq!(Encoding::Percent.write(&json!(["", "a", "", "b"])).as_deref(), Some("a,b"));
        assert_eq!(Encoding::Ascii.write(&json!(["a", ""])).as_deref(), Some("a"));
        assert_eq!(Encoding::Json.write(&json!([""])).as_deref(), Some(r#"[""]"#));
        assert_eq!(Encoding::Percent.write(&json!("a, b")).as_deref(), Some("a,%20b"));
        assert_eq!(Encoding::Percent.write(&json!(42)).as_deref(), Some("42"));
        assert_eq!(Encoding::Percent.write(&json!({"a": 1})), None);
        assert_eq!(Encoding::Json.write(&json!({"a": ["x"]})).as_deref(), Some(r#"{"a":["x"]}"#));
    }

    // Row 46: CR and LF of a claim never reach a header.
    #[test]
    fn a_control_character_refuses_the_token_under_every_encoding() {
        for claim in [json!("a\r\nX: y"), json!("a\0"), json!("\t"), json!("\u{7f}"), json!(["a\n"]), json!({"a\n": 1})]
        {
            for encoding in [Encoding::Percent, Encoding::Base64url, Encoding::Json, Encoding::Ascii] {
                assert_eq!(encoding.write(&claim), None, "{claim} {encoding:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn percent_decodes_back_to_the_claim(text in "[^\\p{Cc}]{1,40}") {
            let encoded = Encoding::Percent.write(&json!(text)).expect("no control character");
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(crate::percent::decode(&encoded), text);
        }
    }
}
