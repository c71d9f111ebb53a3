//! A request target becomes one canonical path, or is refused because it could be read in two ways.
//!
//! In this order (DESIGN §4, RFC 3986 §6.2.2):
//!
//! 1. It starts with `/` (row 60: a target without it slips past prefix rules).
//! 2. Every byte is one that RFC 3986 §3.3 allows in a path; `\`, `;`, `#`, controls and non-ASCII
//!    are not.
//! 3. `%` is followed by two hex digits; unreserved characters are decoded, the hex of the rest is
//!    upper case.
//! 4. Not decodable: `%2F` (unless the route allows it), `%5C`, `%3B`, `%23`, control characters,
//!    and `%25` before two hex digits, which a second decoding would turn into something else.
//! 5. No segment is empty except the last, none is only dots and spaces.
//! 6. The decoded bytes are UTF-8, and no character of theirs becomes `/ \ . ;` under NFKC.
//!
//! The path alone is judged; the query goes on byte for byte. What it does not do: resolve dot
//! segments. A client that sends one is refused, because who resolves it decides what it means.

use http::uri::PathAndQuery;
use unicode_normalization::UnicodeNormalization;

use crate::denial::Denial;
use crate::percent::hex_pair;

/// A path that is matched and forwarded as the same bytes, with the request's query.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    target: PathAndQuery,
    has_encoded_slash: bool,
}

impl CanonicalPath {
    /// The canonical form of a request target in origin form (RFC 9112 §3.2.1).
    ///
    /// # Errors
    /// [`Denial::AmbiguousPath`] by the rules above.
    pub fn of(target: &PathAndQuery) -> Result<Self, Denial> {
        let raw = target.path();
        if raw == "/" {
            // Why: of `http://host#x` and `http://host?x` the library keeps a path that says `/` and
            // writes nothing; the empty path is `/` (RFC 9110 §4.2.3).
            let target = match target.query() {
                None => PathAndQuery::from_static("/"),
                Some(query) => PathAndQuery::try_from(format!("/?{query}")).map_err(|_| Denial::AmbiguousPath)?,
            };
            return Ok(Self { target, has_encoded_slash: false });
        }
        if is_plain(raw.as_bytes()) {
            return Ok(Self { target: target.clone(), has_encoded_slash: false });
        }
        let Canonical { path, has_encoded_slash } = canonicalise(raw).ok_or(Denial::AmbiguousPath)?;
        let whole = match target.query() {
            _ if path == raw => return Ok(Self { target: target.clone(), has_encoded_slash }),
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let target = PathAndQuery::try_from(whole).map_err(|_| Denial::AmbiguousPath)?;
        Ok(Self { target, has_encoded_slash })
    }

    /// The path, always with a leading `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.target.path()
    }

    /// What the upstream is sent: the path and the query.
    #[must_use]
    pub const fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// The path without its first `strip` segments, and with `add` before the rest; judged again.
    ///
    /// # Errors
    /// [`Denial::AmbiguousPath`] where that is no canonical path.
    pub fn rewritten(&self, strip: usize, add: &str) -> Result<Self, Denial> {
        let path = self.as_str();
        // Before a segment there is one `/`.
        let cut = path.match_indices('/').nth(strip).map_or(path.len(), |(at, _)| at);
        let rest = path.get(cut..).unwrap_or_default();
        let path = if add.is_empty() && rest.is_empty() { "/" } else { rest };
        let query = self.target.query().map_or_else(String::new, |query| format!("?{query}"));
        let whole = PathAndQuery::try_from(format!("{add}{path}{query}")).map_err(|_| Denial::AmbiguousPath)?;
        let judged = Self::of(&whole)?;
        // SECURITY: what is sent is what was judged, to the byte (row 57).
        if judged.as_str() == whole.path() { Ok(judged) } else { Err(Denial::AmbiguousPath) }
    }

    /// Whether a segment holds `%2F`, which only a route with `encoded_slash: allow` takes.
    #[must_use]
    pub const fn has_encoded_slash(&self) -> bool {
        self.has_encoded_slash
    }
}

struct Canonical {
    path: String,
    has_encoded_slash: bool,
}

/// What one byte of a raw path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stands for itself wherever it stands.
    Plain,
    /// `/` or `.`: needs a look at what is beside it.
    Structural,
    /// `%`.
    Percent,
    /// Never in a path.
    Refused,
}

const fn class(byte: u8) -> Class {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Plain,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Class::Plain,
        b'/' | b'.' => Class::Structural,
        b'%' => Class::Percent,
        _ => Class::Refused,
    }
}

/// The common case in one pass: only plain bytes, single slashes, and no segment that starts with
/// a dot.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for (place, &byte) in path.iter().enumerate() {
        let fits = match class(byte) {
            Class::Plain => place > 0,
            Class::Structural if byte == b'/' => previous != b'/',
            Class::Structural => place > 0 && previous != b'/',
            Class::Percent | Class::Refused => false,
        };
        if !fits {
            return false;
        }
        previous = byte;
    }
    !path.is_empty()
}

fn canonicalise(raw: &str) -> Option<Canonical> {
    let mut canonical = Canonical { path: String::with_capacity(raw.len()), has_encoded_slash: false };
    let mut segments = raw.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        canonical.path.push('/');
        if segment.is_empty() {
            if is_last {
                break;
            }
            return None;
        }
        let decoded = decode_segment(segment, &mut canonical)?;
        let text = std::str::from_utf8(&decoded).ok()?;
        // With `%2F` allowed the upstream may split here: its parts are held to the same rule.
        let is_clear =
            !text.split('/').any(is_dots_and_spaces) && !text.chars().any(folds_to_syntax) && !holds_encoding(&decoded);
        if !is_clear {
            return None;
        }
    }
    Some(canonical)
}

/// Appends the canonical form of one segment and returns its decoded bytes.
fn decode_segment(segment: &str, canonical: &mut Canonical) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        match class(byte) {
            Class::Plain | Class::Structural => {
                canonical.path.push(char::from(byte));
                decoded.push(byte);
            }
            Class::Refused => return None,
            Class::Percent => {
                let value = hex_pair(*bytes.next()?, *bytes.next()?)?;
                match value {
                    b'\\' | b';' | b'#' | 0..=0x1f | 0x7f => return None,
                    b'/' => canonical.has_encoded_slash = true,
                    _ => {}
                }
                if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
                    canonical.path.push(char::from(value));
                } else {
                    canonical.path.push_str(&format!("%{value:02X}"));
                }
                decoded.push(value);
            }
        }
    }
    Some(decoded)
}

/// SECURITY: what still looks encoded after decoding would be decoded again by someone; looked for
/// here and not in the raw text, where `%25%32%65` hides it.
fn holds_encoding(decoded: &[u8]) -> bool {
    decoded
        .windows(3)
        .any(|window| matches!(window, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

/// `""`, `.`, `..`, `. .`, `...`: what some servers trim into another segment, or into none.
fn is_dots_and_spaces(part: &str) -> bool {
    part.chars().all(|c| c == '.' || c == ' ')
}

/// SECURITY: fullwidth `／`, `．`, `＼`, `；` and their kin become syntax in a server that applies
/// NFKC.
fn folds_to_syntax(c: char) -> bool {
    !c.is_ascii() && c.nfkc().any(|folded| matches!(folded, '/' | '\\' | '.' | ';'))
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
