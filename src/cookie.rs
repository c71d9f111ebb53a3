//! The `Cookie` field: `cookie-string = cookie-pair *( ";" SP cookie-pair )` (RFC 6265 §4.2.1), read as browsers and
//! servers do: spaces around a pair are nothing, and what has no `=` is no pair.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Every value of the cookie with this name, in all `Cookie` fields (HTTP/2 may have several).
pub fn values<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).flat_map(pairs);
    pairs.filter_map(|pair| {
        let (own, value) = split(pair)?;
        (own == name.as_bytes()).then_some(value)
    })
}

/// A `Cookie` field without the cookies that have one of these names; `None` where nothing is left of it, or nothing
/// has to go.
#[must_use]
pub fn without(field: &[u8], names: &[Box<str>]) -> Kept {
    let is_named = |pair: &[u8]| {
        let own = split(pair).map_or(pair, |(own, _)| own);
        names.iter().any(|name| name.as_bytes() == own)
    };
    if !pairs(field).any(is_named) {
        return Kept::All;
    }
    let kept: Vec<&[u8]> = pairs(field).filter(|pair| !pair.is_empty() && !is_named(pair)).collect();
    if kept.is_empty() { Kept::Nothing } else { Kept::Some(kept.join(&b"; "[..])) }
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

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Some servers part at a comma too: there is none in a value that a browser sends back as it was set.
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
        for nothing in ["sid=a", "SIDX=a", "xSID=a", "SID", "", ";;", "x=SID=a", "x=\"; SIDX=a\""] {
            assert!(found(&[nothing]).is_empty(), "{nothing}");
        }
    }

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
        ] {
            assert_eq!(without(field.as_bytes(), &names), kept, "{field}");
        }
    }
}
