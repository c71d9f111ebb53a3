//! Requests that say the same of themselves go to the same target, as long as that takes them.
//!
//! 1. What a header field or a cookie holds is hashed together with each target's address, and the highest score
//!    wins (rendezvous hashing, Thaler and Ravishankar 1998), more often where a target weighs more.
//! 2. A target that comes or goes moves what is its own and nothing else; every gateway and every
//!    worker comes to the same answer, and nothing is remembered.
//! 3. Who says nothing is balanced as if nothing was asked.
//!
//! It is for caches and sockets of services, not for safety: a client picks its own value.

use http::{HeaderMap, HeaderName};

use crate::cookie;

/// What of a request decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// The value of this field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(Box<str>),
}

impl Sticky {
    /// What a request says of itself; `None` where it says nothing, or two things.
    #[must_use]
    pub fn key(&self, headers: &HeaderMap) -> Option<Key> {
        let value = match self {
            Self::Header(name) => only(headers.get_all(name).iter().map(http::HeaderValue::as_bytes)),
            Self::Cookie(name) => only(cookie::values(headers, name)),
        };
        value.filter(|value| !value.is_empty()).map(|value| Key(hash(SEED, value)))
    }
}

/// What a request says of itself, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// How much it wants to a target: the highest score wins.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "53 bits are taken, as many as fit")]
    pub fn score(self, address: &str, weight: u32) -> f64 {
        let bits = mixed(hash(self.0, address.as_bytes())) >> 11;
        // Between 0 and 1, neither of them.
        let drawn = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(weight) / -drawn.ln()
    }
}

/// The only one; `None` where there is none or another.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next();
    first.filter(|_| all.next().is_none())
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: the same in every version of every gateway.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads what differs in a few bits over all of them (the end of `MurmurHash3`).
const fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sticky: &Sticky, fields: &[(&'static str, &'static str)]) -> Option<Key> {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")));
        sticky.key(&fields.collect())
    }

    #[test]
    fn a_request_that_says_one_thing_of_itself_has_a_key() {
        let header = Sticky::Header(HeaderName::from_static("x-tenant"));
        let cookie = Sticky::Cookie("SID".into());
        let (one, other) = (key(&header, &[("x-tenant", "a")]), key(&header, &[("x-tenant", "b")]));
        assert!(one.is_some() && one != other);
        for nothing in [&[][..], &[("x-tenant", "")], &[("x-tenant", "a"), ("x-tenant", "b")], &[("cookie", "SID=a")]] {
            assert_eq!(key(&header, nothing), None, "{nothing:?}");
        }
        let found = key(&cookie, &[("cookie", "SID=a")]);
        assert_eq!(found, one, "what it holds counts");
        for same in ["x=1; SID=a", "SID=a;x=1", " SID=a ", "SIDX=b; SID=a", "sid=b; SID=a"] {
            assert_eq!(key(&cookie, &[("cookie", same)]), found, "{same}");
        }
        assert_eq!(key(&cookie, &[("cookie", "x=1"), ("cookie", "SID=a")]), found, "crumbs of HTTP/2");
        for nothing in ["x=1", "SID", "SID=", "xSID=a", "SID=a; SID=b"] {
            assert_eq!(key(&cookie, &[("cookie", nothing)]), None, "{nothing}");
        }
    }

    #[test]
    fn keys_spread_as_targets_weigh_and_stay_where_they_are_when_one_goes() {
        let targets = [("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("10.0.0.3:80", 2)];
        let best = |key: Key, targets: &[(&str, u32)]| {
            let scored = targets.iter().map(|(address, weight)| (*address, key.score(address, *weight)));
            scored.reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(address, _)| address.to_owned())
        };
        let keys: Vec<Key> = (0..20_000).map(|number| Key(hash(SEED, format!("user-{number}").as_bytes()))).collect();
        let mut counts = std::collections::HashMap::new();
        for key in &keys {
            let here = best(*key, &targets).expect("a target");
            *counts.entry(here.clone()).or_insert(0) += 1;
            if here != "10.0.0.3:80" {
                assert_eq!(best(*key, &targets[..2]), Some(here), "who was elsewhere stays there");
            }
        }
        for (address, expected) in [("10.0.0.1:80", 5_000), ("10.0.0.2:80", 5_000), ("10.0.0.3:80", 10_000)] {
            let count: i32 = counts[address];
            assert!((expected - count).abs() < 300, "{address}: {count}");
        }
    }
}
