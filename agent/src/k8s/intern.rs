//! One copy of each name, label set and port list.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use policy_core::model::{ContainerPort, Labels, Name};

/// Hands out shared copies. What nobody else holds any more goes when the store has
/// doubled since the last look.
#[derive(Default)]
pub(super) struct Interner {
    names: Pool<str>,
    labels: Pool<Labels>,
    ports: Pool<[ContainerPort]>,
}

impl Interner {
    /// A shared copy of a name.
    pub(super) fn name(&mut self, text: &str) -> Name {
        self.names.get(text, || Name::from(text))
    }

    /// A shared copy of a label set, with shared keys and values.
    pub(super) fn labels(&mut self, map: &BTreeMap<String, String>) -> Arc<Labels> {
        let shared: Labels = map.iter().map(|(key, value)| (self.name(key), self.name(value))).collect();
        match self.labels.set.get(&shared) {
            Some(found) => Arc::clone(found),
            None => self.labels.insert(Arc::new(shared)),
        }
    }

    /// A shared copy of a port list.
    pub(super) fn ports(&mut self, list: Vec<ContainerPort>) -> Arc<[ContainerPort]> {
        match self.ports.set.get(list.as_slice()) {
            Some(found) => Arc::clone(found),
            None => self.ports.insert(list.into()),
        }
    }
}

struct Pool<T: ?Sized> {
    set: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { set: HashSet::new(), sweep_at: 1024 }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn get(&mut self, key: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        match self.set.get(key) {
            Some(found) => Arc::clone(found),
            None => self.insert(make()),
        }
    }

    fn insert(&mut self, value: Arc<T>) -> Arc<T> {
        if self.set.len() >= self.sweep_at {
            self.set.retain(|held| Arc::strong_count(held) > 1);
            self.sweep_at = (self.set.len() * 2).max(1024);
        }
        self.set.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_are_one_copy_and_unused_ones_go() {
        let mut interner = Interner::default();
        let map = |n: usize| BTreeMap::from([("app".to_owned(), n.to_string())]);
        let kept = interner.labels(&map(0));
        assert!(Arc::ptr_eq(&kept, &interner.labels(&map(0))));
        for n in 1..5000 {
            interner.labels(&map(n));
        }
        assert!(interner.labels.set.len() <= 1024 && interner.names.set.len() <= 2048);
        assert!(Arc::ptr_eq(&kept, &interner.labels(&map(0))));
    }
}
