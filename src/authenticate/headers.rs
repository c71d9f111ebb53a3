//! Verified claims become identity headers, once, when a token is verified.
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

/// From here on not every whole number is a floating one: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;
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
    /// Visible ASCII but `%` and `,` stays, everything else is `%XX` of its UTF-8.
    Percent,
    /// Base64url without padding of the text, or of the JSON of a list or an object.
    Base64url,
    /// The claim's JSON, in ASCII: other characters as `\uXXXX`.
    Json,
    /// Visible ASCII and inner spaces as they are; a claim with anything else refuses the token.
    Ascii,
}

/// The fields for a token's claims, as they stand in a head, each with its CRLF: they go out with every request, and
/// change with none.
///
/// # Errors
/// `MalformedToken` for a claim that cannot be written (see the rules above).
pub fn encode(headers: &[IdentityHeader], claims: &Claims) -> Result<Box<[u8]>, Denial> {
    let mut lines = Vec::new();
    for header in headers {
        let Some(claim) = claims.at(&header.claim).filter(|claim| !is_empty(claim)) else { continue };
        let text = header.encoding.write(claim).filter(|text| text.len() <= MAX_VALUE).ok_or(Denial::MalformedToken)?;
        if text.is_empty() {
            continue;
        }
        // SECURITY: what is no value of a field ends here, whatever an encoding lets through.
        let value = HeaderValue::try_from(text).map_err(|_| Denial::MalformedToken)?;
        for part in [header.name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    Ok(lines.into())
}

fn is_empty(claim: &Value) -> bool {
    match claim {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
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
            (Self::Percent, Value::Array(list)) => join(list.iter().map(|element| Some(percent(&scalar(element)?)))),
            (Self::Percent, claim) => Some(percent(&scalar(claim)?)),
            (Self::Ascii, Value::Array(list)) => join(list.iter().map(|element| ascii(scalar(element)?, true))),
            (Self::Ascii, claim) => ascii(scalar(claim)?, false),
        }
    }
}

/// The text of a claim that is no list and no object.
fn scalar(claim: &Value) -> Option<Cow<'_, str>> {
    match claim {
        Value::String(text) => Some(Cow::Borrowed(text)),
        // Past this a whole number was rounded when it was read: two accounts would be one.
        Value::Number(number) if number.is_f64() && number.as_f64().is_none_or(|float| float.abs() >= EXACT) => None,
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn join(elements: impl Iterator<Item = Option<String>>) -> Option<String> {
    let elements = elements.filter(|element| element.as_ref().is_none_or(|text| !text.is_empty()));
    elements.collect::<Option<Vec<String>>>().map(|elements| elements.join(","))
}

fn percent(text: &str) -> String {
    // A comma stands between elements alone: a text with one is no list.
    let stays = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b',';
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
        assert_eq!(Encoding::Percent.write(&json!("a, b")).as_deref(), Some("a%2C%20b"));
        assert_eq!(Encoding::Percent.write(&json!(42)).as_deref(), Some("42"));
        assert_eq!(Encoding::Percent.write(&json!({"a": 1})), None);
        assert_eq!(Encoding::Json.write(&json!({"a": ["x"]})).as_deref(), Some(r#"{"a":["x"]}"#));
    }

    #[test]
    fn what_a_token_says_becomes_lines_of_a_head_and_what_it_does_not_say_none() {
        let header = |name, claim| IdentityHeader {
            name: HeaderName::from_static(name),
            claim: ClaimPath::parse(claim).expect("a path"),
            encoding: Encoding::Percent,
        };
        let headers = [
            header("x-user-id", "sub"),
            header("x-none", "absent"),
            header("x-empty", "empty"),
            header("x-list", "list"),
            header("x-blank", "blank"),
            header("x-user-roles", "realm.roles"),
        ];
        let claims = json!({ "sub": "홍", "empty": "", "list": [], "blank": [""], "realm": { "roles": ["a", "b,c"] } });
        let of = |claims: &Value| encode(&headers, &Claims::new(claims.as_object().expect("an object").clone()));
        let expected = b"x-user-id: %ED%99%8D\r\nx-user-roles: a,b%2Cc\r\n";
        assert_eq!(of(&claims).as_deref(), Ok(&expected[..]));
        assert_eq!(of(&json!({})).as_deref(), Ok(&b""[..]));
        assert_eq!(of(&json!({ "sub": "a\r\nx-user-id: b" })), Err(Denial::MalformedToken));
        assert_eq!(of(&json!({ "sub": {} })), Err(Denial::MalformedToken));
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
