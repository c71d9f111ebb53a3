//! A target, as written: `http://host:port`, or `{ url: http://host:port, weight: 3 }`.

use serde_json::json;

use super::count::Count;
use super::mistake::Mistakes;
use super::node::{Node, Value};
use super::place::At;
use super::section::{Read, section};

section! {
    /// A target and its share.
    pub struct WeighedTarget {
        /// `http://host:port` or `https://host:port`.
        required url: String,
        /// Its share of the requests, beside the others.
        default weight: Count<1000> = "1",
    }
}

/// Where a service is.
#[derive(Clone, Debug)]
pub struct TargetSource {
    /// `http://host:port` or `https://host:port`.
    pub url: At<String>,
    /// Its share of the requests.
    pub weight: usize,
}

impl Read for TargetSource {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let WeighedTarget { url, weight } = WeighedTarget::read(node, path, mistakes)?;
            return Some(Self { url, weight: weight.0 });
        }
        let value = String::read(node, path, mistakes)?;
        Some(Self { url: At { value, place: node.place, trail: path.into() }, weight: 1 })
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [String::schema(), WeighedTarget::schema()] })
    }
}
