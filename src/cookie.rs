//! The `Cookie` field: `cookie-string = cookie-pair *( ";" SP cookie-pair )` (RFC 6265 §4.2.1), read as browsers and
//! servers do: spaces around a pair are nothing, and what has no `=` is no pair.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Every value of the cookie with this name, in all `Cookie` fields (HTTP/2 may have several).
pub fn values<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).flat_map(pairs);
    pairs.filter_map(split).filter(|(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
}

/// A `Cookie` field without the cookies that have one of these names.
///
/// SECURITY: some servers part pairs at a comma as well, or take more for a space than we do. So a name counts here wherever
/// it stands before a `=` and after what is no letter of a name: what they would read as the cookie goes. As a credential
/// none of that is taken ([`values`]): pages keep in cookies what visitors bring along.
#[must_use]
pub fn without(field: &[u8], names: &[Box<str>]) -> Kept {
    let is_named = |pair: &[u8]| names.iter().any(|name| name.as_bytes() == pair || holds(pair, name.as_bytes()));
    if !pairs(field).any(is_named) {
        return Kept::All;
    }
    let kept: Vec<&[u8]> = pairs(field).filter(|pair| !pair.is_empty() && !is_named(pair)).collect();
    if kept.is_empty() { Kept::Nothing } else { Kept::Some(kept.join(&b"; "[..])) }
}

/// How a cookie is set (RFC 6265 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCookie {
    /// Its name.
    pub name: Box<str>,
    /// The path below which it is sent.
    pub path: Box<str>,
    /// The domain whose hosts get it; nothing: the one that set it, alone.
    pub domain: Option<Box<str>>,
    /// Whether it is sent over TLS alone.
    pub secure: bool,
    /// Whether scripts do not see it.
    pub http_only: bool,
    /// Whether it is sent with what other sites ask.
    pub same_site: SameSite,
}

/// Whether a cookie is sent with what other sites ask (RFC 6265bis §4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Never.
    Strict,
    /// When they lead to a page.
    Lax,
    /// Always.
    None,
}

impl SetCookie {
    /// The field that sets it for so many seconds, or until the browser is closed. `value` is within the grammar of a
    /// cookie's value, as base64url is.
    #[must_use]
    pub fn field(&self, value: &str, max_age: Option<u64>) -> Option<HeaderValue> {
        let mut text = format!("{}={value}; Path={}", self.name, self.path);
        if let Some(domain) = &self.domain {
            text.push_str(&format!("; Domain={domain}"));
        }
        if let Some(seconds) = max_age {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        for (is_set, word) in [(self.secure, "; Secure"), (self.http_only, "; HttpOnly")] {
            if is_set {
                text.push_str(word);
            }
        }
        text.push_str(match self.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        HeaderValue::try_from(text).ok()
    }

    /// The field that takes it away.
    #[must_use]
    pub fn removal(&self) -> Option<HeaderValue> {
        self.field("", Some(0))
    }
}

/// What is left of a field.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// It stays as it is.
    All,
    /// This.
    Some(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// Whether somebody might read a cookie of this name in a pair.
fn holds(pair: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find_iter(pair, name).any(|at| {
        let is_first = at == 0 || pair.get(at - 1).is_some_and(|before| !is_letter(*before));
        is_first && pair.get(at + name.len()..).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
    })
}

/// `token = 1*tchar` (RFC 9110 §5.6.2): what a name of a cookie is.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_letter)
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn split(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    let (own, value) = pair.split_at_checked(at)?;
    Some((own.trim_ascii_end(), value.get(1..)?.trim_ascii_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name_in_every_field() {
        let found = |fields: &[&str]| -> Vec<String> {
            let fields = fields.iter().map(|field| (COOKIE, HeaderValue::from_str(field).expect("a value")));
            let headers: HeaderMap = fields.collect();
            values(&headers, "SID").map(|value| String::from_utf8_lossy(value).into_owned()).collect()
        };
        assert_eq!(found(&["SID=a"]), ["a"]);
        assert_eq!(found(&["x=1; SID=a;y=2", "SID=b"]), ["a", "b"]);
        assert_eq!(found(&["SID = a ; SID=b=c"]), ["a", "b=c"]);
        assert_eq!(found(&["SID="]), [""]);
        // What a server might read as the cookie is none.
        for odd in ODD {
            assert!(found(&[odd]).is_empty(), "{odd}");
            assert_eq!(found(&[odd, "SID=b"]), ["b"], "{odd}");
        }
        for nothing in ["sid=a", "SIDX=a", "xSID=a", "SID", "", ";;", "xSID=a", "x=y&SID=a", "x=\"; SIDX=a\""] {
            assert!(found(&[nothing]).is_empty(), "{nothing}");
        }
    }

    const ODD: [&str; 8] = [
        "x=1,SID=a",
        "\u{a0}SID=a",
        "x=\"SID=a",
        "x= SID =a",
        "x=SID=a",
        "q=http://x/?SID=a",
        "q=x SID=a",
        "q={\"a\":\"b\",SID=a",
    ];

    #[test]
    fn what_is_named_goes_and_the_rest_stays_as_it_was() {
        let names: Vec<Box<str>> = vec!["SID".into(), "RID".into()];
        for (field, kept) in [
            ("a=1; b=\"x y\"", Kept::All),
            ("", Kept::All),
            ("SID=a", Kept::Nothing),
            ("SID", Kept::Nothing),
            (" SID = a ;", Kept::Nothing),
            ("RID=b; SID=a", Kept::Nothing),
            ("a=1; SID=x;b=2;RID=y; c", Kept::Some(b"a=1; b=2; c".to_vec())),
            ("SIDX=1; SID=x", Kept::Some(b"SIDX=1".to_vec())),
            ("a=1,SID=x; b=2", Kept::Some(b"b=2".to_vec())),
            ("a=1&SID=x", Kept::All),
        ] {
            assert_eq!(without(field.as_bytes(), &names), kept, "{field}");
        }
        for odd in ODD {
            assert_eq!(without(odd.as_bytes(), &names), Kept::Nothing, "{odd}");
        }
    }
}
