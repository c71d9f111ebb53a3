//! The kinds of value that a file of policy tests holds.

use serde_json::{Map, Value as Json, json};

use crate::config::mistake::{Mistake, Mistakes};
use crate::config::node::{Node, Text, Value};
use crate::config::place::At;
use crate::config::section::Read;
use crate::config::value::text;
use crate::denial::Denial;

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub struct OneOrMore<T>(pub Vec<At<T>>);

impl<T: Read> Read for OneOrMore<T> {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::List(list) = &node.value {
            if list.is_empty() {
                mistakes.add(Mistake::new(node.place, path, "the list is empty").allowed("at least one"));
                return None;
            }
            return Vec::read(node, path, mistakes).map(Self);
        }
        let value = T::read(node, path, mistakes)?;
        Some(Self(vec![At { value, place: node.place, trail: path.into() }]))
    }

    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema(), "minItems": 1 }, { "type": "string", "pattern": "\\$\\{" }] })
    }
}

/// The first line of a request: `GET /orders/42`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// Its method.
    pub method: String,
    /// Its path, or a whole URL.
    pub target: String,
}

/// What is asked for: a path, a whole URL, or `*`. No `#`: what comes after it is sent by nobody.
#[must_use]
pub fn target(text: &str) -> Option<http::Uri> {
    let is_one = text.starts_with('/') || text.starts_with("https://") || text.starts_with("http://") || text == "*";
    (is_one && !text.contains('#')).then(|| text.parse().ok()).flatten()
}

impl Read for RequestLine {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a method and a path with a space between them: `GET /orders/42`";
        let value = text(node, path, allowed, mistakes)?;
        let parts = value.text.split_once(' ').filter(|(method, target)| {
            let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            is_method && self::target(target).is_some()
        });
        if parts.is_none() {
            mistakes.add(Mistake::new(node.place, path, node.value.shown()).allowed(allowed));
        }
        parts.map(|(method, target)| Self { method: method.to_owned(), target: target.to_owned() })
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^[A-Z-]+ [^ ]+$" })
    }
}

/// What has to come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It goes to the service.
    Allowed,
    /// It is a browser's question, and is answered.
    Preflight,
    /// It comes to a route, and goes no further, for whatever reason.
    Refused,
    /// It is refused with this status.
    Status(u16),
    /// It is refused for this reason.
    Reason(&'static str),
}

const WORDS: [(&str, Expected); 3] =
    [("allowed", Expected::Allowed), ("preflight", Expected::Preflight), ("refused", Expected::Refused)];

impl Read for Expected {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed =
            "`allowed`, `preflight`, `refused`, a status from 400 to 599, or a reason as logs have it: `missing_role`";
        let found = match &node.value {
            Value::Whole(status) => {
                u16::try_from(*status).ok().filter(|status| (400..600).contains(status)).map(Self::Status)
            }
            Value::Text(Text { text, .. }) => {
                let word = WORDS.iter().find(|(word, _)| word == text).map(|(_, meaning)| *meaning);
                word.or_else(|| Denial::LABELS.iter().find(|label| *label == text).map(|label| Self::Reason(label)))
            }
            Value::Null | Value::Bool(_) | Value::Fraction(_) | Value::List(_) | Value::Map(_) => None,
        };
        if found.is_none() {
            let mistake = Mistake::new(node.place, path, node.value.shown()).allowed(allowed);
            let words = WORDS.iter().map(|(word, _)| *word).chain(Denial::LABELS);
            let written = if let Value::Text(Text { text, is_secret: false }) = &node.value { text } else { "" };
            mistakes.add(mistake.near(written, words));
        }
        found
    }

    fn schema() -> Json {
        let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).chain(Denial::LABELS).collect();
        json!({ "anyOf": [{ "enum": words }, { "type": "integer", "minimum": 400, "maximum": 599 }] })
    }
}

/// What a header has to say; nothing: it must not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said(pub Option<String>);

impl Read for Said {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self(None)),
            Value::Whole(number) => Some(Self(Some(number.to_string()))),
            Value::Bool(value) => Some(Self(Some(value.to_string()))),
            Value::Fraction(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                text(node, path, "text, or `null` where the header must not be there", mistakes)
                    .map(|text| Self(Some(text.text.clone())))
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": ["string", "integer", "boolean", "null"] })
    }
}

/// Claims: any JSON by their names.
#[derive(Clone, Debug)]
pub struct Claims(pub Map<String, Json>);

impl Read for Claims {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if let Json::Object(members) = json_of(node) {
            return Some(Self(members));
        }
        let mistake = Mistake::new(node.place, path, format!("{} where a mapping is needed", node.value.shown()));
        mistakes.add(mistake.allowed("claims with their values: `{ sub: kim, roles: [customer] }`"));
        None
    }

    fn schema() -> Json {
        json!({ "type": "object" })
    }
}

/// A value of the file as JSON.
fn json_of(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Whole(number) => (*number).into(),
        Value::Fraction(number) => (*number).into(),
        Value::Text(text) => text.text.as_str().into(),
        Value::List(list) => list.iter().map(json_of).collect(),
        Value::Map(members) => {
            let members = members.iter().map(|(key, value)| (key.name.clone(), json_of(value)));
            Json::Object(members.collect())
        }
    }
}
