//! A record becomes claims.
//!
//! 1. Its members are the claims, under their own names or those that the configuration gives them; what is mapped is
//!    found at its path alone.
//! 2. How a field is written is said, and never guessed by how it looks.
//! 3. One that cannot be read, is too long or names a member twice is none.

use serde_json::{Map, Value};

use super::Sessions;
use crate::authenticate::claims::Claims;
use crate::authenticate::json;
use crate::denial::Denial;
use crate::store::RecordValue;

/// Longest record, in bytes.
pub const MAX_RECORD: usize = 64 * 1024;
/// Times from this on are in milliseconds: as seconds they would be in the year 5138.
const MILLIS_FROM: i64 = 100_000_000_000;

/// How members of a record are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// As JSON.
    Json,
    /// As text, whatever it looks like; `roles` with commas between them.
    Text,
    /// As JSON with the names of Java's types, beside the times of Spring Session.
    Spring,
}

impl Sessions {
    /// The claims of a record; `None` where it cannot be read.
    pub(super) fn read(&self, value: RecordValue) -> Option<Claims> {
        let mut members = match value {
            RecordValue::Text(text) if text.len() <= MAX_RECORD => json::object(&text)?,
            RecordValue::Text(_) => return None,
            RecordValue::Hash(fields) => self.fields(fields)?,
        };
        let moved: Vec<_> = {
            let record = Claims::new(std::mem::take(&mut members));
            let moved = self.claims.iter().map(|(name, path)| (name.clone(), record.at(path).cloned()));
            let moved = moved.collect();
            members = record.into_members();
            moved
        };
        for (name, value) in moved {
            // What has another name in the record is not what has this one there.
            members.remove(&*name);
            if let Some(value) = value {
                members.insert(name.into(), value);
            }
        }
        // Ids of members are numbers in many a table.
        if let Some(subject) = members.get_mut("sub")
            && let Some(number) = subject.as_i64()
        {
            *subject = Value::String(number.to_string());
        }
        if self.writing == Writing::Text
            && let Some(Value::String(began)) = members.get("iat")
            && let Ok(began) = began.parse::<i64>()
        {
            members.insert("iat".to_owned(), began.into());
        }
        if self.writing == Writing::Text
            && let Some(Value::String(roles)) = members.get("roles")
        {
            let roles = roles.split(',').map(str::trim).filter(|role| !role.is_empty()).map(Value::from);
            let roles = roles.collect::<Vec<_>>();
            members.insert("roles".to_owned(), roles.into());
        }
        members.insert("iss".to_owned(), Value::from(&*self.issuer));
        Some(Claims::new(members))
    }

    /// The members of a hash.
    fn fields(&self, fields: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Map<String, Value>> {
        let length: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if length > MAX_RECORD {
            return None;
        }
        let read = |(name, value): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8(name).ok()?;
            let value = match self.writing {
                // SECURITY: never one or the other by how it looks: a name that somebody chose could be JSON.
                Writing::Text => Value::String(String::from_utf8(value).ok()?),
                Writing::Json => json::value(&value)?,
                Writing::Spring => {
                    let mut value = json::value(&value)?;
                    untyped(&mut value);
                    value
                }
            };
            Some((name, value))
        };
        fields.into_iter().map(read).collect()
    }
}

/// A time in seconds, from one in seconds or milliseconds.
pub(super) const fn seconds(time: i64) -> i64 {
    if time >= MILLIS_FROM { time / 1000 } else { time }
}

/// When a session of Spring ends: it stays in the store for a while after it has ended, and its times say so.
pub(super) fn springs_end(claims: &Claims) -> Result<i64, Denial> {
    let whole = |name: &str| claims.member(name).and_then(Value::as_i64).ok_or(Denial::MalformedSession);
    let (accessed, longest) = (whole("lastAccessedTime")?, whole("maxInactiveInterval")?);
    // Less than nothing is for ever there.
    Ok(if longest < 0 { i64::MAX } else { seconds(accessed).saturating_add(longest) })
}

/// Types that Java's serializer names before a list.
const LISTS: [&str; 10] = [
    "java.util.ArrayList",
    "java.util.LinkedList",
    "java.util.HashSet",
    "java.util.LinkedHashSet",
    "java.util.TreeSet",
    "java.util.Arrays$ArrayList",
    "java.util.ImmutableCollections$ListN",
    "java.util.ImmutableCollections$List12",
    "java.util.ImmutableCollections$SetN",
    "java.util.Collections$UnmodifiableRandomAccessList",
];
/// And before a number.
const NUMBERS: [&str; 3] = ["java.lang.Long", "java.math.BigInteger", "java.math.BigDecimal"];

/// Takes off the names of types that Java's serializer writes: `["java.util.ArrayList", [...]]`.
fn untyped(value: &mut Value) {
    if let Value::Array(pair) = value
        && let [Value::String(kind), inner] = pair.as_mut_slice()
        && ((inner.is_array() && LISTS.contains(&kind.as_str()))
            || (inner.is_number() && NUMBERS.contains(&kind.as_str())))
    {
        *value = inner.take();
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(untyped),
        Value::Object(members) => members.values_mut().for_each(untyped),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
