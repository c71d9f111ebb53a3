//! An identity header, as written: `sub`, or `{ claim: name, encoding: percent }`.

use serde_json::json;

use super::mistake::Mistakes;
use super::node::{Node, Value};
use super::place::At;
use super::section::{Read, section};
use crate::authenticate::claims::ClaimPath;
use crate::authenticate::headers::Encoding;

section! {
    /// A claim and how it is written into a header.
    pub struct HeaderClaim {
        /// The claim.
        required claim: ClaimPath,
        /// `percent` (visible ASCII but `%` and `,` as it is, the rest as `%XX`), `base64url`, `json`, or `ascii` (refuses others).
        default encoding: Encoding = "percent",
    }
}

/// What one identity header carries.
#[derive(Clone, Debug)]
pub struct HeaderSource {
    /// The claim.
    pub claim: ClaimPath,
    /// How it is written.
    pub encoding: Encoding,
}

impl Read for HeaderSource {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let HeaderClaim { claim: At { value: claim, .. }, encoding } = HeaderClaim::read(node, path, mistakes)?;
            return Some(Self { claim, encoding: encoding.value });
        }
        let claim = ClaimPath::read(node, path, mistakes)?;
        Some(Self { claim, encoding: Encoding::Percent })
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [ClaimPath::schema(), HeaderClaim::schema()] })
    }
}
