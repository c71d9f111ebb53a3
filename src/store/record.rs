//! Records of sessions: what a service, or the gateway, keeps of a login at one key.
//!
//! A record is text (JSON, in one value) or a hash (a field for each attribute). Who made an identity of a record
//! keeps its fingerprint: the identity holds as long as that of the record is the same, and is over with the record.
//! Fingerprints have a key that is drawn anew by each process, so that nobody can look for two records with the same.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::Standing;

/// How a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordForm {
    /// One value.
    Text,
    /// Fields with values.
    Hash,
}

/// A record as it is read.
#[derive(Clone, PartialEq, Eq)]
pub enum RecordValue {
    /// One value.
    Text(Vec<u8>),
    /// Fields with values, in the order of their names.
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
}

/// A record, and until when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it holds.
    pub value: RecordValue,
    /// Milliseconds of life left; `None` is for ever.
    pub remaining: Option<u64>,
}

/// A record's key, and what the identity was made of that stands on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKey {
    /// Its name in the store.
    pub name: Arc<str>,
    /// How it is kept.
    pub form: RecordForm,
    /// What it held.
    pub fingerprint: Fingerprint,
}

impl RecordKey {
    /// What the record that is there now says of an identity: nothing is left of one whose record is gone, or another
    /// one.
    #[must_use]
    pub fn judge(&self, there: Found<'_>) -> Standing {
        match there {
            Found::Nothing => Standing::Revoked,
            Found::Unreadable => Standing::Unknown,
            Found::Value(value) if value.fingerprint() == self.fingerprint => Standing::Clear,
            Found::Value(_) => Standing::Revoked,
        }
    }
}

/// What is there of a record.
#[derive(Clone, Copy, Debug)]
pub enum Found<'v> {
    /// It is gone.
    Nothing,
    /// Something that is no record, or no answer.
    Unreadable,
    /// This.
    Value(&'v RecordValue),
}

/// What a record holds, in 62 bits; never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(i64);

impl RecordValue {
    /// A hash from its fields, in any order.
    #[must_use]
    pub fn hash(mut fields: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        fields.sort_unstable();
        Self::Hash(fields)
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Text(bytes) => Fingerprint::of([&**bytes].into_iter()),
            Self::Hash(fields) => Fingerprint::of(fields.iter().flat_map(|(name, value)| [&**name, &**value])),
        }
    }
}

impl std::fmt::Debug for RecordValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(bytes) => write!(f, "Text({} bytes)", bytes.len()),
            Self::Hash(fields) => write!(f, "Hash({} fields)", fields.len()),
        }
    }
}

impl Fingerprint {
    fn of<'p>(parts: impl Iterator<Item = &'p [u8]>) -> Self {
        static KEY: OnceLock<hmac::Key> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let mut secret = [0; 32];
            // Without randomness there is no TLS either.
            let _filled = SystemRandom::new().fill(&mut secret);
            hmac::Key::new(hmac::HMAC_SHA256, &secret)
        });
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        let bits = tag.as_ref().iter().take(8).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
        Self(i64::try_from(bits >> 2).unwrap_or(0))
    }

    /// As a number from 0 to 2^62 - 1.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fields: &[(&str, &str)]) -> Fingerprint {
        let bytes = |text: &str| text.as_bytes().to_vec();
        RecordValue::hash(fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect()).fingerprint()
    }

    #[test]
    fn what_differs_in_anything_has_another_fingerprint_and_the_order_of_fields_is_nothing() {
        assert_eq!(hash(&[("a", "1"), ("b", "2")]), hash(&[("b", "2"), ("a", "1")]));
        let all = [
            hash(&[("a", "1"), ("b", "2")]),
            hash(&[("a", "2"), ("b", "1")]),
            hash(&[("a", "1b2")]),
            hash(&[("a1", "b2")]),
            hash(&[]),
            RecordValue::Text(Vec::new()).fingerprint(),
            RecordValue::Text(b"a1b2".to_vec()).fingerprint(),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(one.number() >= 0);
            // Nothing and no fields are told apart by how they are read.
            assert!(all.iter().skip(place + 1).filter(|other| *other == one).count() <= usize::from(place == 4));
        }
    }
}
