//! Where requests go, as written.
//!
//! A target: `http://host:port`, or `{ url: http://host:port, weight: 3 }`. The upstream of a route:
//! `order`, or several with their shares, `{ order: 95, order-next: 5 }`.

use serde_json::json;

use super::count::Count;
use super::mistake::{Mistake, Mistakes};
use super::node::{Node, Value};
use super::place::At;
use super::section::{Named, Read, section};

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

/// The upstreams of a route, each with its share.
#[derive(Clone, Debug)]
pub struct UpstreamSource(pub Vec<(At<String>, usize)>);

impl Read for UpstreamSource {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Map(members) = &node.value {
            if members.is_empty() {
                let mistake = Mistake::new(node.place, path, "the mapping is empty");
                mistakes.add(mistake.allowed("names of upstreams with their shares: `{ order: 95, order-next: 5 }`"));
                return None;
            }
            let shares = Named::<Count<1000>>::read(node, path, mistakes)?;
            let is_whole = shares.entries.len() == shares.declared.len();
            let shares = shares.entries.into_iter().map(|(name, share)| (name, share.0));
            return is_whole.then(|| Self(shares.collect()));
        }
        let value = String::read(node, path, mistakes)?;
        Some(Self(vec![(At { value, place: node.place, trail: path.into() }, 1)]))
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [String::schema(), Named::<Count<1000>>::schema()] })
    }
}
