//! A path pattern: literal segments, `{name}` for one segment, a final `/**` for this and all below.
//!
//! ABNF: `pattern = 1*( "/" segment ) [ "/**" ] / "/**"`, `segment = literal / "{" name "}"`. A
//! literal is written in canonical form (`admit::path`), so that it can match at all.

use http::uri::PathAndQuery;

use super::path::CanonicalPath;
use crate::percent;

/// Longest pattern, in segments.
pub const MAX_SEGMENTS: usize = 64;
/// Longest pattern, in bytes.
pub const MAX_LENGTH: usize = 2048;

/// A parsed path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
    takes_rest: bool,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this text, decoded, so that `@all` and `%40all` are one; empty after a final `/`.
    Literal(String),
    /// Any one segment that is not empty.
    Parameter(String),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternFault {
    /// It does not begin with `/`.
    NoLeadingSlash,
    /// A path in this form is refused as ambiguous, or is rewritten to another before it is matched.
    NotCanonical,
    /// `**` or `*` anywhere but as the last segment.
    MisplacedWildcard,
    /// `{` and `}` that do not enclose a whole segment, or a name outside `[A-Za-z_][A-Za-z0-9_]*`.
    BadParameter(String),
    /// The same parameter twice.
    RepeatedParameter(String),
    /// More than [`MAX_SEGMENTS`] segments or [`MAX_LENGTH`] bytes.
    TooLong,
}

impl Pattern {
    /// Reads a pattern such as `/members/{member_id}/orders`.
    ///
    /// # Errors
    /// [`PatternFault`].
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        if text.len() > MAX_LENGTH {
            return Err(PatternFault::TooLong);
        }
        let path = text.strip_prefix('/').ok_or(PatternFault::NoLeadingSlash)?;
        let (path, takes_rest) = match path.strip_suffix("**") {
            Some("") => (None, true),
            Some(before) => (Some(before.strip_suffix('/').ok_or(PatternFault::MisplacedWildcard)?), true),
            None => (Some(path), false),
        };
        let mut segments = Vec::new();
        for segment in path.iter().flat_map(|path| path.split('/')) {
            segments.push(Segment::parse(segment, &segments)?);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(PatternFault::TooLong);
        }
        if !path.is_none_or(is_canonical) {
            return Err(PatternFault::NotCanonical);
        }
        Ok(Self { text: text.to_owned(), segments, takes_rest })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its segments, without the final `/**`.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends in `/**`.
    #[must_use]
    pub const fn takes_rest(&self) -> bool {
        self.takes_rest
    }

    /// The place of a parameter among the parameters, by its name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<usize> {
        self.parameters().position(|parameter| parameter == name)
    }

    /// The names of the parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The pattern of the paths that a rewrite makes of those that this one matches: without its first `strip` segments,
    /// and with those of `add` before the rest.
    #[must_use]
    pub fn rewritten(&self, strip: usize, add: Option<&Self>) -> Self {
        let added = add.into_iter().flat_map(|add| add.segments.iter());
        let mut segments: Vec<Segment> = added.chain(self.segments.iter().skip(strip)).cloned().collect();
        // Of a path of which nothing is left `/` goes on.
        if segments.is_empty() && !self.takes_rest {
            segments.push(Segment::Literal(String::new()));
        }
        Self { text: String::new(), segments, takes_rest: self.takes_rest }
    }

    /// Whether it matches a canonical path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut rest = path.strip_prefix('/').unwrap_or(path).split('/').map(percent::decode);
        let is_rest = self.segments.iter().all(|segment| match (segment, rest.next()) {
            (Segment::Literal(text), Some(here)) => *text == here,
            (Segment::Parameter(_), Some(here)) => !here.is_empty(),
            (Segment::Literal(_) | Segment::Parameter(_), None) => false,
        });
        is_rest && (self.takes_rest || rest.next().is_none())
    }

    /// Whether the two match exactly the same paths: equal but for the names of parameters.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.contains(other) && other.contains(self)
    }

    /// Whether every path that `other` matches is matched by this one too.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let enough = if self.takes_rest {
            other.segments.len() >= self.segments.len()
        } else {
            other.segments.len() == self.segments.len() && !other.takes_rest
        };
        enough && self.segments.iter().zip(&other.segments).all(|(mine, theirs)| mine.contains(theirs))
    }

    /// Whether some path is matched by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (long, short) = if self.segments.len() >= other.segments.len() { (self, other) } else { (other, self) };
        let reaches = long.segments.len() == short.segments.len() || short.takes_rest;
        reaches && long.segments.iter().zip(&short.segments).all(|(a, b)| a.contains(b) || b.contains(a))
    }
}

/// Whether what stands between the parameters is written as it is matched.
fn is_canonical(path: &str) -> bool {
    let sample: String = path
        .split('/')
        .map(|segment| if segment.starts_with('{') { "/x".to_owned() } else { format!("/{segment}") })
        .collect();
    let Ok(target) = PathAndQuery::try_from(sample.as_str()) else { return false };
    CanonicalPath::of(&target).is_ok_and(|canonical| canonical.as_str() == sample && target.query().is_none())
}

impl Segment {
    fn parse(text: &str, before: &[Self]) -> Result<Self, PatternFault> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let mut letters = name.chars();
            let starts = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !starts || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(PatternFault::BadParameter(text.to_owned()));
            }
            let parameter = Self::Parameter(name.to_owned());
            if before.contains(&parameter) {
                return Err(PatternFault::RepeatedParameter(name.to_owned()));
            }
            return Ok(parameter);
        }
        if text.contains(['{', '}']) {
            return Err(PatternFault::BadParameter(text.to_owned()));
        }
        if text.contains('*') {
            return Err(PatternFault::MisplacedWildcard);
        }
        Ok(Self::Literal(percent::decode(text)))
    }

    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Parameter(_), Self::Parameter(_)) => true,
            (Self::Parameter(_), Self::Literal(text)) => !text.is_empty(),
            (Self::Literal(mine), Self::Literal(theirs)) => mine == theirs,
            (Self::Literal(_), Self::Parameter(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, fault) in [
            ("", PatternFault::NoLeadingSlash),
            ("orders", PatternFault::NoLeadingSlash),
            ("/a/**/b", PatternFault::MisplacedWildcard),
            ("/a**", PatternFault::MisplacedWildcard),
            ("/a/*", PatternFault::MisplacedWildcard),
            ("/a/{}", PatternFault::BadParameter("{}".to_owned())),
            ("/a/{x}y", PatternFault::BadParameter("{x}y".to_owned())),
            ("/{a}/{a}", PatternFault::RepeatedParameter("a".to_owned())),
            ("/a//b", PatternFault::NotCanonical),
            ("/a/../b", PatternFault::NotCanonical),
            ("/%61", PatternFault::NotCanonical),
            ("/a?x", PatternFault::NotCanonical),
            ("/a#x", PatternFault::NotCanonical),
            ("/é", PatternFault::NotCanonical),
        ] {
            assert_eq!(Pattern::parse(text), Err(fault), "{text}");
        }
        assert_eq!(Pattern::parse(&"/a".repeat(MAX_SEGMENTS + 1)), Err(PatternFault::TooLong));
    }

    #[test]
    fn containing_and_overlapping() {
        for (wide, narrow) in [("/**", "/"), ("/**", "/a/b"), ("/a/**", "/a"), ("/a/**", "/a/"), ("/a/{x}", "/a/b")] {
            assert!(pattern(wide).contains(&pattern(narrow)), "{wide} {narrow}");
            assert!(pattern(wide).overlaps(&pattern(narrow)) && pattern(narrow).overlaps(&pattern(wide)));
            assert!(!pattern(narrow).contains(&pattern(wide)), "{narrow} {wide}");
        }
        assert!(pattern("/a/{x}").is_same(&pattern("/a/{y}")));
        assert!(pattern("/a/{x}/c").overlaps(&pattern("/a/b/{y}")));
        for (one, other) in [("/a", "/a/"), ("/a/{x}", "/a/"), ("/a/b", "/a/c"), ("/a/**", "/b"), ("/a", "/a/b")] {
            assert!(!pattern(one).overlaps(&pattern(other)), "{one} {other}");
        }
    }
}
