//! Values that are one of a few words.

use serde_json::json;

use super::mistake::{Mistake, Mistakes};
use super::node::Node;
use super::section::Read;
use super::value::text;

/// One of a few words.
pub fn word<T: Copy>(node: &Node, path: &str, words: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
    let allowed = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let value = text(node, path, &allowed, mistakes)?;
    let found = words.iter().find(|(word, _)| *word == value.text).map(|(_, meaning)| *meaning);
    if found.is_none() {
        let mistake = Mistake::new(node.place, path, format!("unknown word {}", node.value.shown())).allowed(allowed);
        mistakes.add(mistake.near(&value.text, words.iter().map(|(word, _)| *word)));
    }
    found
}

fn words_schema<T>(words: &[(&str, T)]) -> serde_json::Value {
    json!({ "enum": words.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
}

macro_rules! words {
    ($type:ty: $($word:literal => $meaning:expr),+ $(,)?) => {
        impl Read for $type {
            fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
                word(node, path, &[$(($word, $meaning)),+], mistakes)
            }

            fn schema() -> serde_json::Value {
                words_schema(&[$(($word, $meaning)),+])
            }
        }
    };
}

words!(crate::route::RevocationMode:
    "tracked" => Self::Tracked,
    "lookup" => Self::Lookup,
    "off" => Self::Off,
);

words!(crate::route::WhenUnavailable:
    "deny" => Self::Deny,
    "allow" => Self::Allow,
);

words!(crate::forward::balance::Choice:
    "least_requests" => Self::LeastRequests,
    "round_robin" => Self::RoundRobin,
);

words!(crate::accept::tls::ClientAuth:
    "optional" => Self::Optional,
    "required" => Self::Required,
);

/// How a cookie's value holds a session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// It is the id.
    Plain,
    /// It is the id in base64.
    Base64,
    /// It is the id with a signature of express-session.
    Express,
}

words!(Encoding:
    "plain" => Self::Plain,
    "base64" => Self::Base64,
    "express" => Self::Express,
);

words!(crate::cookie::SameSite:
    "strict" => Self::Strict,
    "lax" => Self::Lax,
    "none" => Self::None,
);

/// What becomes of a login whose refresh token is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReuse {
    /// It ends.
    RevokeFamily,
    /// It goes on, and the token is refused.
    Refuse,
}

words!(OnReuse:
    "revoke_family" => Self::RevokeFamily,
    "refuse" => Self::Refuse,
);

/// What ends when an issuer says that a login has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// That login.
    Login,
    /// All of its subject, up to then.
    Subject,
}

words!(Ends:
    "login" => Self::Login,
    "subject" => Self::Subject,
);

/// Who shares a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateScope {
    /// All gateways of one store.
    Store,
    /// Nobody.
    Gateway,
}

words!(RateScope:
    "store" => Self::Store,
    "gateway" => Self::Gateway,
);

/// How the record of a session is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSource {
    /// One value, an object.
    Json,
    /// A field for each attribute, as text.
    Hash,
    /// A field for each attribute, as Spring Session writes them.
    Spring,
}

words!(RecordSource:
    "json" => Self::Json,
    "hash" => Self::Hash,
    "spring" => Self::Spring,
);

words!(crate::authenticate::certificate::Subject:
    "dn" => Self::Dn,
    "cn" => Self::CommonName,
    "dns" => Self::Dns,
    "uri" => Self::Uri,
    "email" => Self::Email,
);

words!(crate::authenticate::headers::Encoding:
    "percent" => Self::Percent,
    "base64url" => Self::Base64url,
    "json" => Self::Json,
    "ascii" => Self::Ascii,
);

/// Whether `%2F` may stand inside a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedSlash {
    /// It is 400.
    Refuse,
    /// It stays as it is.
    Allow,
}

words!(crate::route::Protocol:
    "websocket" => Self::WebSocket,
);

words!(EncodedSlash:
    "refuse" => Self::Refuse,
    "allow" => Self::Allow,
);
