//! Numbers for contents.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Gives each content a number and keeps it until [`Registry::sweep`] finds it unused.
#[derive(Clone, Debug)]
pub(super) struct Registry<K> {
    by_content: HashMap<Arc<K>, u32>,
    by_id: BTreeMap<u32, Arc<K>>,
    first: u32,
    /// No number below this one is free.
    hint: u32,
}

impl<K: Eq + Hash> Registry<K> {
    /// An empty registry; numbers below `first` are never given.
    pub(super) fn new(first: u32) -> Self {
        Self { by_content: HashMap::new(), by_id: BTreeMap::new(), first, hint: first }
    }

    /// The number of a content, the lowest free one when it is new. Numbers in
    /// `reserved` (in the maps, with content that is not known) are not free.
    pub(super) fn intern(&mut self, content: K, reserved: &BTreeSet<u32>) -> u32 {
        if let Some(id) = self.by_content.get(&content) {
            return *id;
        }
        let mut id = self.hint;
        while self.by_id.contains_key(&id) || reserved.contains(&id) {
            id += 1;
        }
        self.hint = id + 1;
        let content = Arc::new(content);
        self.by_content.insert(Arc::clone(&content), id);
        self.by_id.insert(id, content);
        id
    }

    /// The content of a number.
    pub(super) fn get(&self, id: u32) -> Option<&Arc<K>> {
        self.by_id.get(&id)
    }

    /// All numbers with their contents.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<K>)> {
        self.by_id.iter().map(|(id, content)| (*id, content))
    }

    /// Forgets all numbers that are not in use; they may be given again.
    pub(super) fn sweep(&mut self, used: impl Fn(u32) -> bool) {
        self.by_id.retain(|id, _| used(*id));
        self.by_content.retain(|_, id| used(*id));
        self.hint = self.first;
    }
}
