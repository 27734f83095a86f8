//! Reference sets of one session, by part.

use std::collections::BTreeMap;

use cstore_types::PartNo;

use super::records::RefSet;

/// Sets of one or more parts. Most sessions have one part, which needs no map.
#[derive(Debug)]
pub(super) enum Parts {
    One(PartNo, RefSet),
    Many(BTreeMap<PartNo, RefSet>),
}

impl Parts {
    pub(super) fn get(&self, part: PartNo) -> Option<&RefSet> {
        match self {
            Self::One(only, set) => (*only == part).then_some(set),
            Self::Many(sets) => sets.get(&part),
        }
    }

    pub(super) fn get_mut(&mut self, part: PartNo) -> Option<&mut RefSet> {
        match self {
            Self::One(only, set) => (*only == part).then_some(set),
            Self::Many(sets) => sets.get_mut(&part),
        }
    }

    /// Adds the set of a part. Returns the set that the part had before.
    pub(super) fn insert(&mut self, part: PartNo, set: RefSet) -> Option<RefSet> {
        match self {
            Self::One(only, old) if *only == part => Some(std::mem::replace(old, set)),
            Self::One(only, old) => {
                let sets = BTreeMap::from([(*only, *old), (part, set)]);
                *self = Self::Many(sets);
                None
            }
            Self::Many(sets) => sets.insert(part, set),
        }
    }

    /// Returns all parts with their sets, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PartNo, RefSet)> {
        let (one, many) = match self {
            Self::One(part, set) => (Some((*part, *set)), None),
            Self::Many(sets) => (None, Some(sets.iter().map(|(part, set)| (*part, *set)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cstore_log::Location;
    use cstore_types::SealSeq;
    use proptest::prelude::*;

    use super::*;

    fn set(number: u64) -> RefSet {
        RefSet {
            location: Location::default(),
            seal_seq: SealSeq(number),
        }
    }

    proptest! {
        #[test]
        fn parts_are_those_of_a_map(first in 0u32..4, later in proptest::collection::vec(0u32..4, 0..8)) {
            let mut parts = Parts::One(PartNo(first), set(0));
            let mut expected = BTreeMap::from([(PartNo(first), set(0))]);
            for (number, part) in (1..).zip(later) {
                let part = PartNo(part);
                prop_assert_eq!(parts.insert(part, set(number)), expected.insert(part, set(number)));
            }
            for part in (0..5).map(PartNo) {
                prop_assert_eq!(parts.get(part), expected.get(&part));
                prop_assert_eq!(parts.get_mut(part), expected.get_mut(&part));
            }
            prop_assert_eq!(parts.iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
