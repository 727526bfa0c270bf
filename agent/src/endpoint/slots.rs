//! Places in the endpoint map.

use std::collections::BTreeSet;

/// The last slot; the map is made this large. A filter's class id carries 16 bits of it, and the most pods
/// that any instance type can have is 737.
pub const MAX_SLOT: u16 = 4095;

/// A place in the endpoint map. 0 is never given: the kernel looks endpoints without a class id up by link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number, where it is one.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (1..=MAX_SLOT).contains(&number).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

/// Which slots are taken. A returned slot is given again as late as possible, so that a filter which is just
/// going away does not read its successor's endpoint.
#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: BTreeSet<Slot>,
    last: u16,
}

impl Slots {
    /// Takes a certain slot; false where somebody has it.
    pub(super) fn take(&mut self, slot: Slot) -> bool {
        self.taken.insert(slot)
    }

    /// Takes the next free slot after the last one given.
    pub(super) fn next(&mut self) -> Option<Slot> {
        let slot = (self.last + 1..=MAX_SLOT)
            .chain(1..=self.last)
            .map(Slot)
            .find(|slot| !self.taken.contains(slot))?;
        self.last = slot.0;
        self.taken.insert(slot);
        Some(slot)
    }

    pub(super) fn give_back(&mut self, slot: Slot) {
        self.taken.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_last() {
        let mut slots = Slots::default();
        let first = slots.next().expect("all are free");
        slots.give_back(first);
        let mut seen = BTreeSet::new();
        for _ in 0..usize::from(MAX_SLOT) - 1 {
            let slot = slots.next().expect("free");
            assert_ne!(slot, first, "given again before all others");
            assert!(seen.insert(slot));
        }
        assert_eq!(slots.next(), Some(first));
        assert_eq!(slots.next(), None, "full");
    }

    #[test]
    fn zero_is_no_slot() {
        assert_eq!(Slot::new(0), None);
        assert_eq!(Slot::new(MAX_SLOT).map(Slot::number), Some(MAX_SLOT));
        assert_eq!(Slot::new(MAX_SLOT + 1), None);
    }
}
