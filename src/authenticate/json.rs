//! JSON as a token may hold it: an object, no member named twice at any depth.
//!
//! Why: RFC 7519 §4 lets a parser take the first or the last of two equal names; a gateway and a
//! service that differ in this would see two callers in one token (RFC 8725 §2). Depth is bounded
//! by `serde_json` (128), size by the token's limit.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one strict object, to the last byte.
///
/// # Errors
/// `None` for anything that is not an object of strict JSON.
#[must_use]
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match value(bytes)? {
        Value::Object(members) => Some(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// Reads one strict value, to the last byte.
///
/// # Errors
/// `None` for anything that is not strict JSON.
#[must_use]
pub fn value(bytes: &[u8]) -> Option<Value> {
    // As a whole: text by text it takes many times as long to see that it is UTF-8.
    let text = std::str::from_utf8(bytes).ok()?;
    serde_json::from_str::<Strict>(text).ok().map(|strict| strict.0)
}

/// Whether a text in it, or a name, has control characters: such a claim cannot be told to a service.
#[must_use]
pub fn has_control(claim: &Value) -> bool {
    match claim {
        Value::String(text) => has_controls(text),
        Value::Array(list) => list.iter().any(has_control),
        Value::Object(members) => members.iter().any(|(name, value)| has_controls(name) || has_control(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn has_controls(text: &str) -> bool {
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.chars().any(char::is_control)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(element)) = elements.next_element()? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_refused_in_every_spelling_and_depth() {
        for text in [
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"sub":"a","s\u0075b":"b"}"#,
            r#"{"a":{"x":1,"x":1}}"#,
            r#"{"a":[{"x":1,"x":2}]}"#,
            "[1]",
            r#""x""#,
            r#"{"a":1} x"#,
            r#"{"a":1}{"#,
            r#"{"a":1e999}"#,
            "",
        ] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
        assert_eq!(object(("[".repeat(100_000)).as_bytes()), None);
        assert_eq!(object(("{\"a\":".repeat(10_000)).as_bytes()), None);
        assert!(object(br#" {"a":{"x":1},"b":{"x":1}} "#).is_some());
    }
}
