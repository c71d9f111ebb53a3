//! Hash slots: which of 16,384 parts of a cluster a key is in (Redis Cluster specification).

use std::fmt;

/// How many there are.
pub(in crate::store::redis) const COUNT: u16 = 16_384;
const WORDS: usize = COUNT as usize / 64;

/// The hash slot of a key: CRC16 (XMODEM) of its hash tag, where it has one, and otherwise of the whole.
pub(in crate::store::redis) fn slot_of(key: &str) -> u16 {
    crc16(tag(key).as_bytes()) % COUNT
}

/// What is between the first `{` and the next `}`, unless that is nothing.
fn tag(key: &str) -> &str {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    tagged.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

/// A set of hash slots.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::store::redis) struct Slots(Box<[u64; WORDS]>);

impl Slots {
    pub(in crate::store::redis) fn new() -> Self {
        Self(Box::new([0; WORDS]))
    }

    pub(in crate::store::redis) fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word |= 1 << (slot % 64);
        }
    }

    pub(super) fn remove(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word &= !(1 << (slot % 64));
        }
    }

    pub(in crate::store::redis) fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        (0..COUNT).filter(|slot| self.contains(*slot))
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.iter().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_slot_of_its_hash_tag() {
        // The check value of the specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12182);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        // The specification's own odd cases: an empty tag is none, and only the first `{` counts.
        assert_eq!(tag("foo{}{bar}"), "foo{}{bar}");
        assert_eq!((tag("foo{{bar}}zap"), tag("foo{bar}{zap}"), tag("foo{bar")), ("{bar", "bar", "foo{bar"));
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let mut slots = Slots::new();
        for slot in [0, 63, 64, COUNT - 1] {
            slots.insert(slot);
        }
        slots.insert(COUNT);
        slots.remove(63);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [0, 64, COUNT - 1]);
        assert!(!slots.contains(63) && !slots.contains(COUNT));
    }
}
