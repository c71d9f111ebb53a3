//! Who answers: `HELLO` says whether it is a primary, and which connection this is.

use ::redis::{Cmd, Value, cmd};

/// What a Redis says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The connection's number there.
    pub(super) client: i64,
}

/// What a Redis may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It has all keys.
    Alone,
    /// It has those of some hash slots.
    Part,
}

/// Asks, in the protocol that the connection speaks.
pub(super) fn ask(protocol: u8) -> Cmd {
    let mut hello = cmd("HELLO");
    hello.arg(protocol);
    hello
}

impl Hello {
    /// Reads the answer of one that can be believed.
    ///
    /// # Errors
    /// Why it cannot: a replica may lag behind or be cut off; what is taken for the whole and is one
    /// part of a cluster does not have all keys.
    pub(super) fn read(reply: Option<&Value>, wanted: Mode) -> Result<Self, String> {
        if let Some(Value::ServerError(error)) = reply {
            return Err(format!("{}: Redis 6 or newer is needed", error.code()));
        }
        let pairs = pairs(reply);
        let member = |name: &str| pairs.iter().find(|(known, _)| text(known) == Some(name)).map(|(_, value)| *value);
        match (member("mode").and_then(text), wanted) {
            (Some("standalone"), Mode::Alone) | (Some("cluster"), Mode::Part) => {}
            (Some("cluster"), Mode::Alone) => {
                return Err(
                    "it is one node of a cluster: the URL is to be `redis+cluster://host:port,host:port`".into()
                );
            }
            (Some("standalone"), Mode::Part) => {
                return Err("it is no node of a cluster: the URL is to be `redis://host:port`".into());
            }
            (Some("sentinel"), _) => {
                return Err("it is a Sentinel: the URL is to be `redis+sentinel://host:port,host:port/service`".into());
            }
            (Some(_) | None, _) => return Err("an odd answer to HELLO".to_owned()),
        }
        match member("role").and_then(text) {
            Some("master") => {}
            Some(_) => return Err("it is a replica: what is revoked at the primary may not be here".to_owned()),
            None => return Err("an odd answer to HELLO".to_owned()),
        }
        let client = match member("id") {
            Some(Value::Int(id)) => *id,
            _ => return Err("an odd answer to HELLO".to_owned()),
        };
        Ok(Self { client })
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed has no members")]
fn pairs(reply: Option<&Value>) -> Vec<(&Value, &Value)> {
    match reply {
        Some(Value::Map(pairs)) => pairs.iter().map(|(name, value)| (name, value)).collect(),
        Some(Value::Array(parts)) => parts.chunks(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?))).collect(),
        _ => Vec::new(),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed is no text")]
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn only_a_primary_of_the_wanted_kind_is_believed() {
        let told = |mode: &str, role: &str| {
            let parts = [("server", "redis"), ("mode", mode), ("role", role)];
            let mut parts: Vec<Value> = parts.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
            parts.extend([bulk("id"), Value::Int(9)]);
            Hello::read(Some(&Value::Array(parts)), Mode::Alone)
        };
        assert_eq!(told("standalone", "master"), Ok(Hello { client: 9 }));
        for (mode, role) in [("cluster", "master"), ("sentinel", "master"), ("standalone", "replica"), ("", "")] {
            assert!(told(mode, role).is_err(), "{mode} {role}");
        }
        let map = vec![(bulk("mode"), bulk("standalone")), (bulk("role"), bulk("master")), (bulk("id"), Value::Int(1))];
        assert_eq!(Hello::read(Some(&Value::Map(map.clone())), Mode::Alone), Ok(Hello { client: 1 }));
        assert!(Hello::read(Some(&Value::Map(map)), Mode::Part).is_err());
        let map = vec![(bulk("mode"), bulk("cluster")), (bulk("role"), bulk("master")), (bulk("id"), Value::Int(1))];
        assert_eq!(Hello::read(Some(&Value::Map(map)), Mode::Part), Ok(Hello { client: 1 }));
        for odd in [None, Some(&Value::Nil), Some(&Value::Okay), Some(&bulk("PONG"))] {
            assert!(Hello::read(odd, Mode::Alone).is_err(), "{odd:?}");
        }
    }
}
