//! Limits as written: `5/minute`, and who is counted.

use serde_json::json;

use super::mistake::{Mistake, Mistakes};
use super::node::{Node, Value};
use super::section::{Read, section};
use super::value::parsed;
use crate::authenticate::claims::ClaimPath;
use crate::rate::RateKey;

/// What a limit may be per, in microseconds.
const PERIODS: [(&str, u64); 4] =
    [("second", 1_000_000), ("minute", 60_000_000), ("hour", 3_600_000_000), ("day", 86_400_000_000)];

/// How often: `5/minute`.
#[derive(Clone, Copy, Debug)]
pub struct RateSource {
    /// How many.
    pub count: u64,
    /// In how many microseconds.
    pub period: u64,
}

impl Read for RateSource {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a whole number from 1 to 1000000 and what it is per: `5/minute`, `100/second`, `hour`, `day`";
        parsed(node, path, allowed, mistakes, |text| {
            let (count, period) = text.split_once('/')?;
            let (_, period) = PERIODS.iter().find(|(name, _)| *name == period)?;
            let count = count.parse::<u64>().ok().filter(|count| (1..=1_000_000).contains(count))?;
            Some(Self { count, period: *period })
        })
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^([1-9][0-9]{0,6}/(second|minute|hour|day)|.*\\$\\{.*)$" })
    }
}

section! {
    /// The claim that is counted by.
    pub struct CountedClaim {
        /// Its name.
        required claim: ClaimPath,
    }
}

impl Read for RateKey {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "`client_ip`, `subject`, or `{ claim: NAME }`";
        match &node.value {
            Value::Map(_) => CountedClaim::read(node, path, mistakes).map(|counted| Self::Claim(counted.claim.value)),
            Value::Text(_) => parsed(node, path, allowed, mistakes, |text| match text {
                "client_ip" => Some(Self::ClientIp),
                "subject" => Some(Self::Subject),
                _ => None,
            }),
            Value::Null | Value::Bool(_) | Value::Whole(_) | Value::Fraction(_) | Value::List(_) => {
                mistakes.add(Mistake::new(node.place, path, node.value.shown()).allowed(allowed));
                None
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [{ "enum": ["client_ip", "subject"] }, CountedClaim::schema()] })
    }
}
