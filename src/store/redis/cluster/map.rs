//! Which primary has which hash slot: what is made of claims and rumours.
//!
//! A slot belongs to the primary that claims it for itself; of several to the one with the highest epoch,
//! and to nobody where two have the same, or where others say that a node with a higher one has it and
//! that node has not said so itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::nodes::Address;
use super::slots::{COUNT, Slots, slot_of};

/// Which primary has which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store::redis) struct Map {
    /// Those that have slots.
    pub(in crate::store::redis) primaries: Vec<Primary>,
    /// Primaries that have none: slots may be on their way to them.
    pub(in crate::store::redis) spares: Vec<Primary>,
    /// For each slot the place of its primary; nothing where nobody has it. Empty for an empty map.
    owners: Vec<Option<u16>>,
}

/// A map, and how fresh it is.
#[derive(Clone, Debug, Default)]
pub(in crate::store::redis) struct Seen {
    pub(in crate::store::redis) map: Arc<Map>,
    /// Most of its primaries have answered what they were asked at this moment or later.
    pub(in crate::store::redis) at: Option<Instant>,
}

/// A primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::store::redis) struct Primary {
    pub(in crate::store::redis) id: String,
    pub(in crate::store::redis) address: Address,
    /// The same with its host's name.
    pub(in crate::store::redis) named: Option<Address>,
}

/// What a primary says it has.
#[derive(PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) primary: Primary,
    pub(super) epoch: u64,
    pub(super) slots: Slots,
}

/// What others say that a node has.
#[derive(PartialEq, Eq)]
pub(super) struct Rumour {
    pub(super) epoch: u64,
    pub(super) slots: Slots,
}

impl Map {
    /// The place in `primaries` of the one that has the key.
    pub(in crate::store::redis) fn place_of(&self, key: &str) -> Option<usize> {
        self.owners.get(usize::from(slot_of(key))).copied().flatten().map(usize::from)
    }

    /// Who has the key.
    pub(in crate::store::redis) fn owner_of(&self, key: &str) -> Option<&Primary> {
        self.primaries.get(self.place_of(key)?)
    }

    /// How many slots nobody has.
    pub(super) fn orphans(&self) -> usize {
        usize::from(COUNT) - self.owners.iter().flatten().count()
    }

    pub(super) fn of(claims: &BTreeMap<String, Claim>, rumours: &BTreeMap<String, Rumour>) -> Self {
        let winner = |slot: u16| {
            let claimed = || claims.values().filter(|claim| claim.slots.contains(slot));
            let epoch = claimed().map(|claim| claim.epoch).max()?;
            let mut best = claimed().filter(|claim| claim.epoch == epoch);
            let winner = best.next().filter(|_| best.next().is_none())?;
            let is_outbid = |(id, rumour): (&String, &Rumour)| {
                *id != winner.primary.id && rumour.epoch > epoch && rumour.slots.contains(slot)
            };
            (!rumours.iter().any(is_outbid)).then_some(winner)
        };
        let mut map = Self::default();
        for slot in 0..COUNT {
            let place = winner(slot).and_then(|claim| {
                let known = map.primaries.iter().position(|primary| *primary == claim.primary);
                let place = known.unwrap_or_else(|| {
                    map.primaries.push(claim.primary.clone());
                    map.primaries.len() - 1
                });
                u16::try_from(place).ok()
            });
            map.owners.push(place);
        }
        let spare = claims.values().map(|claim| &claim.primary).filter(|primary| !map.primaries.contains(primary));
        map.spares = spare.cloned().collect();
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(range: std::ops::Range<u16>) -> Slots {
        let mut slots = Slots::new();
        range.for_each(|slot| slots.insert(slot));
        slots
    }

    fn claims(all: &[(&str, u64, std::ops::Range<u16>)]) -> BTreeMap<String, Claim> {
        let claim = |(id, epoch, range): &(&str, u64, std::ops::Range<u16>)| {
            let address = Address { host: (*id).to_owned(), port: 1 };
            let primary = Primary { id: (*id).to_owned(), address, named: None };
            ((*id).to_owned(), Claim { primary, epoch: *epoch, slots: slots(range.clone()) })
        };
        all.iter().map(claim).collect()
    }

    #[test]
    fn the_highest_epoch_has_the_slot_and_nobody_where_that_is_not_sure() {
        let claims = claims(&[("a", 1, 0..100), ("b", 2, 50..200), ("c", 2, 150..300), ("d", 0, 0..10)]);
        let owners = |rumours: &BTreeMap<String, Rumour>| {
            let map = Map::of(&claims, rumours);
            let owner =
                |slot: u16| map.owners[usize::from(slot)].map(|place| map.primaries[usize::from(place)].id.clone());
            [0, 49, 50, 149, 150, 199, 200, 299, 300].map(owner).map(Option::unwrap_or_default).join(" ")
        };
        assert_eq!(owners(&BTreeMap::new()), "a a b b   c c ");
        let map = Map::of(&claims, &BTreeMap::new());
        assert_eq!((map.primaries.len(), map.spares[0].id.as_str()), (3, "d"), "`d` has nothing");
        assert_eq!(Map::default().place_of("x"), None);
        // Others say that `e` has taken over from `a`: it is nobody's until `e` says so itself. An old
        // rumour, and one about who is asked itself, say nothing.
        let rumour = |epoch, range| Rumour { epoch, slots: slots(range) };
        let rumours = [("e", rumour(3, 0..49)), ("f", rumour(1, 50..150)), ("c", rumour(9, 200..300))];
        assert_eq!(owners(&rumours.into_iter().map(|(id, rumour)| (id.to_owned(), rumour)).collect()), " a b b   c c ");
    }
}
