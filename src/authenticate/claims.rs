//! The claims of a token, and how a configuration names one.

use serde_json::{Map, Value};

/// Largest NumericDate that is taken: the year 287396, far past any use, far below any overflow.
const MAX_DATE: f64 = 9_007_199_254_740_991.0;

/// The name of a claim, nested names with dots: `sub`, `realm_access.roles`.
///
/// A claim whose whole name is the text (`https://example.com/roles`) is found first; otherwise the
/// dots lead from object to object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<str>);

impl ClaimPath {
    /// A path from its text; `None` for an empty text or an empty part.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.split('.').all(|part| !part.is_empty());
        fits.then(|| Self(text.into()))
    }

    /// The text it was made from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Claims whose JSON was strict; nothing else is promised of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Wraps the members of a payload.
    #[must_use]
    pub const fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// Its members.
    #[must_use]
    pub fn into_members(self) -> Map<String, Value> {
        self.0
    }

    /// Puts a claim in the place of one by its own name; nothing takes it away.
    pub fn set(&mut self, name: &str, value: Option<Value>) {
        match value {
            Some(value) => drop(self.0.insert(name.to_owned(), value)),
            None => drop(self.0.remove(name)),
        }
    }

    /// The claim at a path; `null` counts as absent.
    #[must_use]
    pub fn at(&self, path: &ClaimPath) -> Option<&Value> {
        let whole = self.0.get(path.as_str());
        let found = whole.or_else(|| {
            let (first, rest) = path.as_str().split_once('.')?;
            rest.split('.').try_fold(self.0.get(first)?, |value, name| value.get(name))
        });
        found.filter(|value| !value.is_null())
    }

    /// Only what these paths find.
    #[must_use]
    pub fn keep(mut self, paths: &[ClaimPath]) -> Self {
        let mut kept = Map::new();
        for path in paths {
            let whole = path.as_str();
            let first = whole.split_once('.').map_or(whole, |(first, _)| first);
            // A path that has been looked for before leaves nothing here, and has its claim there.
            for name in [whole, first] {
                if let Some(value) = self.0.remove(name) {
                    kept.insert(name.to_owned(), value);
                }
            }
        }
        Self(kept)
    }

    /// About how many bytes of memory they take. A map of JSON has nodes for eleven members each,
    /// whether it has one or eleven, so a short text can take much.
    #[must_use]
    pub fn weight(&self) -> u64 {
        members_weight(&self.0)
    }

    /// A claim by its own name, `null` included.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A claim that has to be text if it is there (RFC 7519 §4.1: StringOrURI).
    ///
    /// # Errors
    /// `WrongType`, when it is there and no text, or empty.
    pub fn text(&self, name: &str) -> Result<Option<&str>, WrongType> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(WrongType),
        }
    }

    /// A claim that has to be a NumericDate if it is there (RFC 7519 §2), in whole seconds, rounded
    /// down.
    ///
    /// # Errors
    /// `WrongType`, when it is there and no number, negative or beyond any calendar.
    pub fn date(&self, name: &str) -> Result<Option<i64>, WrongType> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(seconds), Some(float)) if seconds >= 0 && float <= MAX_DATE => Ok(Some(seconds)),
                (None, Some(float)) if (0.0..=MAX_DATE).contains(&float) => Ok(Some(whole_seconds(float))),
                _ => Err(WrongType),
            },
            Some(_) => Err(WrongType),
        }
    }

    /// A claim that is one text or a list of texts (`aud`, roles); empty when it is absent.
    ///
    /// # Errors
    /// `WrongType`, when it is anything else.
    pub fn texts<'c>(&'c self, path: &ClaimPath) -> Result<Vec<&'c str>, WrongType> {
        match self.at(path) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(list)) => list.iter().map(|value| value.as_str().ok_or(WrongType)).collect(),
            Some(_) => Err(WrongType),
        }
    }
}

/// A claim does not have the JSON type that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

fn members_weight(members: &Map<String, Value>) -> u64 {
    let nodes = members.len() as u64 / 6 + 1;
    nodes * 640 + members.iter().map(|(name, value)| name.len() as u64 + 16 + weight(value)).sum::<u64>()
}

fn weight(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(text) => 48 + text.len() as u64,
        Value::Array(list) => 32 + list.iter().map(|element| weight(element) + 16).sum::<u64>(),
        Value::Object(members) => members_weight(members),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the caller has checked the range, below 2^53")]
fn whole_seconds(seconds: f64) -> i64 {
    seconds.floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::json;

    fn claims(text: &str) -> Claims {
        Claims::new(json::object(text.as_bytes()).expect("strict JSON"))
    }

    // Row 16, CVE-2026-25537: a claim of the wrong type is not an absent claim.
    #[test]
    fn a_date_of_the_wrong_type_is_wrong_and_not_absent() {
        for odd in ["\"1\"", "null", "[1]", "{}", "true", "-1", "1e300", "9007199254740993"] {
            assert_eq!(claims(&format!("{{\"exp\":{odd}}}")).date("exp"), Err(WrongType), "{odd}");
        }
        assert_eq!(claims(r#"{"exp":1700000000.9}"#).date("exp"), Ok(Some(1_700_000_000)));
        assert_eq!(claims(r#"{"exp":17e8}"#).date("exp"), Ok(Some(1_700_000_000)));
        assert_eq!(claims("{}").date("exp"), Ok(None));
    }

    #[test]
    fn a_whole_name_is_found_before_a_nested_one() {
        let claims = claims(r#"{"a.b":1,"a":{"b":2,"c":{"d":3}},"n":null,"https://x.y/r":"z"}"#);
        let at = |text: &str| claims.at(&ClaimPath::parse(text).expect("a path")).cloned();
        assert_eq!(at("a.b"), Some(1.into()));
        assert_eq!(at("a.c.d"), Some(3.into()));
        assert_eq!(at("a.x"), None);
        assert_eq!(at("n"), None);
        assert_eq!(at("https://x.y/r"), Some("z".into()));
        assert_eq!(ClaimPath::parse("a..b"), None);
    }

    #[test]
    fn what_is_kept_is_found_as_before_and_the_rest_is_gone() {
        let all = claims(r#"{"a.b":1,"a":{"b":2,"c":{"d":3}},"n":null,"https://x.y/r":"z","other":"secret"}"#);
        let paths: Vec<ClaimPath> = ["a.b", "a.c.d", "a", "n", "https://x.y/r", "absent.x"]
            .iter()
            .filter_map(|text| ClaimPath::parse(text))
            .collect();
        let kept = all.clone().keep(&paths);
        for path in &paths {
            assert_eq!(kept.at(path), all.at(path), "{}", path.as_str());
        }
        assert_eq!(kept.member("other"), None);
        assert_eq!(all.keep(&[]), claims("{}"));
    }
}
