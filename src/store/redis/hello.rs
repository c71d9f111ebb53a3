//! Who answers: `HELLO` says whether it is a primary, and which connection this is.

use ::redis::{Cmd, Value, cmd};

/// What a Redis says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The connection's number there.
    pub(super) client: i64,
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
    /// Why it cannot: a replica may lag behind or be cut off; of a cluster it would be one part.
    pub(super) fn read(reply: Option<&Value>) -> Result<Self, String> {
        if let Some(Value::ServerError(error)) = reply {
            return Err(format!("{}: Redis 6 or newer is needed", error.code()));
        }
        let pairs = pairs(reply);
        let member = |name: &str| pairs.iter().find(|(known, _)| text(known) == Some(name)).map(|(_, value)| *value);
        match member("mode").and_then(text) {
            Some("standalone") => {}
            Some(mode @ ("cluster" | "sentinel")) => return Err(format!("it is a {mode}, which is not supported")),
            Some(_) | None => return Err("an odd answer to HELLO".to_owned()),
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
    fn only_a_primary_that_stands_alone_is_believed() {
        let told = |mode: &str, role: &str| {
            let parts = [("server", "redis"), ("mode", mode), ("role", role)];
            let mut parts: Vec<Value> = parts.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
            parts.extend([bulk("id"), Value::Int(9)]);
            Hello::read(Some(&Value::Array(parts)))
        };
        assert_eq!(told("standalone", "master"), Ok(Hello { client: 9 }));
        for (mode, role) in [("cluster", "master"), ("sentinel", "master"), ("standalone", "replica"), ("", "")] {
            assert!(told(mode, role).is_err(), "{mode} {role}");
        }
        let map = vec![(bulk("mode"), bulk("standalone")), (bulk("role"), bulk("master")), (bulk("id"), Value::Int(1))];
        assert_eq!(Hello::read(Some(&Value::Map(map))), Ok(Hello { client: 1 }));
        for odd in [None, Some(&Value::Nil), Some(&Value::Okay), Some(&bulk("PONG"))] {
            assert!(Hello::read(odd).is_err(), "{odd:?}");
        }
    }
}
