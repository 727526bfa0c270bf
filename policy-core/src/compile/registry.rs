//! Numbers for contents, and how many use them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Gives each content a number and keeps it until it is told to forget it.
#[derive(Clone, Debug)]
pub(super) struct Registry<K> {
    by_content: HashMap<Arc<K>, u32>,
    by_id: BTreeMap<u32, Arc<K>>,
    /// Numbers below `next` that nothing has.
    free: BTreeSet<u32>,
    next: u32,
}

impl<K: Eq + Hash> Registry<K> {
    /// An empty registry; numbers below `first` are never given, nor those in `taken` (in
    /// the maps, with content that is not known) before they are forgotten.
    pub(super) fn new(first: u32, taken: &BTreeSet<u32>) -> Self {
        let next = taken.last().map_or(first, |last| first.max(last.saturating_add(1)));
        let free = (first..next).filter(|id| !taken.contains(id)).collect();
        Self { by_content: HashMap::new(), by_id: BTreeMap::new(), free, next }
    }

    /// The number of a content, the lowest free one when it is new, and whether it is.
    pub(super) fn number(&mut self, content: K) -> (u32, bool) {
        if let Some(id) = self.by_content.get(&content) {
            return (*id, false);
        }
        let id = self.free.pop_first().unwrap_or(self.next);
        self.next = self.next.max(id.saturating_add(1));
        let content = Arc::new(content);
        self.by_content.insert(Arc::clone(&content), id);
        self.by_id.insert(id, content);
        (id, true)
    }

    /// Gives a content one of the numbers that were taken; refused where either has another already.
    pub(super) fn adopt(&mut self, content: K, id: u32) -> bool {
        let is_taken = id < self.next && !self.free.contains(&id) && !self.by_id.contains_key(&id);
        if !is_taken || self.by_content.contains_key(&content) {
            return false;
        }
        let content = Arc::new(content);
        self.by_content.insert(Arc::clone(&content), id);
        self.by_id.insert(id, content);
        true
    }

    /// The number of a content.
    pub(super) fn intern(&mut self, content: K) -> u32 {
        self.number(content).0
    }

    /// The content of a number.
    pub(super) fn get(&self, id: u32) -> Option<&Arc<K>> {
        self.by_id.get(&id)
    }

    /// All numbers with their contents.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<K>)> {
        self.by_id.iter().map(|(id, content)| (*id, content))
    }

    /// Forgets a number; it may be given again.
    pub(super) fn forget(&mut self, id: u32) -> Option<Arc<K>> {
        self.free.insert(id);
        let content = self.by_id.remove(&id)?;
        self.by_content.remove(&content);
        Some(content)
    }
}

/// How often each number is used.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(HashMap<u32, u32>);

impl Counts {
    pub(super) fn has(&self, id: u32) -> bool {
        self.0.contains_key(&id)
    }

    /// One more; whether it is the first.
    pub(super) fn add(&mut self, id: u32) -> bool {
        let count = self.0.entry(id).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Some less; whether none is left.
    pub(super) fn take(&mut self, id: u32) -> bool {
        match self.0.get_mut(&id) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => self.0.remove(&id).is_some(),
            None => false,
        }
    }

    pub(super) fn get(&self, id: u32) -> u32 {
        self.0.get(&id).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_the_maps_are_not_given_before_they_are_forgotten() {
        let mut registry = Registry::new(1, &[2, 4].into());
        let given: Vec<u32> = ["a", "b", "c", "a"].map(|one| registry.intern(one)).into();
        assert_eq!(given, [1, 3, 5, 1]);
        registry.forget(4);
        registry.forget(3);
        assert_eq!((registry.intern("b"), registry.intern("d"), registry.intern("e")), (3, 4, 6));
    }

    #[test]
    fn only_a_number_that_was_taken_is_adopted_once_and_by_a_new_content() {
        let mut registry = Registry::new(1, &[2, 4].into());
        assert_eq!(registry.intern("a"), 1);
        let adopted = [("a", 2), ("b", 1), ("b", 3), ("b", 5), ("b", 2), ("c", 2), ("b", 4), ("c", 4)]
            .map(|(content, id)| registry.adopt(content, id));
        assert_eq!(adopted, [false, false, false, false, true, false, false, true]);
        assert_eq!((registry.intern("b"), registry.intern("c"), registry.intern("d")), (2, 4, 3));
    }

    #[test]
    fn counts_tell_first_and_last() {
        let mut counts = Counts::default();
        assert!(counts.add(7) && !counts.add(7));
        assert_eq!(counts.get(7), 2);
        assert!(!counts.take(7) && counts.take(7) && !counts.take(7));
        assert!(!counts.has(7));
    }
}
