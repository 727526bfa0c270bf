//! The objects of one resource, and what lately happened to them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::object::Stored;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Happened {
    Added,
    Modified,
    Deleted,
}

/// One change; a deletion's object is its last state with the deletion's version.
#[derive(Debug)]
pub(in super::super) struct Change {
    pub(in super::super) version: u64,
    pub(in super::super) happened: Happened,
    pub(in super::super) object: Arc<Stored>,
    pub(in super::super) previous: Option<Arc<Stored>>,
}

/// All objects of one resource.
#[derive(Debug)]
pub(super) struct Collection {
    objects: BTreeMap<String, Arc<Stored>>,
    /// In the order of versions.
    history: VecDeque<Arc<Change>>,
    /// Changes after this version are all in the history.
    oldest: u64,
    limit: usize,
    /// Says the latest version to open watches; whoever is slow reads the
    /// history later, so nothing queues up here.
    pulse: watch::Sender<u64>,
}

impl Collection {
    pub(super) fn new(version: u64, limit: usize) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            oldest: version,
            limit,
            pulse: watch::Sender::new(version),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Stored>> {
        self.objects.get(key)
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    pub(super) fn put(&mut self, object: Arc<Stored>) {
        let previous = self.objects.insert(object.key(), Arc::clone(&object));
        let happened = if previous.is_some() { Happened::Modified } else { Happened::Added };
        self.record(Change { version: object.version, happened, object, previous });
    }

    /// Removes the object whose last state is `object`.
    pub(super) fn remove(&mut self, object: Arc<Stored>) {
        let previous = self.objects.remove(&object.key());
        self.record(Change { version: object.version, happened: Happened::Deleted, object, previous });
    }

    fn record(&mut self, change: Change) {
        self.pulse.send_replace(change.version);
        self.history.push_back(Arc::new(change));
        self.trim();
    }

    fn trim(&mut self) {
        while self.history.len() > self.limit {
            if let Some(change) = self.history.pop_front() {
                self.oldest = change.version;
            }
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.trim();
    }

    /// Forgets all history up to `version`.
    pub(super) fn forget(&mut self, version: u64) {
        self.history.clear();
        self.oldest = version;
    }

    /// Up to `limit` changes after `version`, or `None` if it is too old.
    pub(super) fn changes_after(&self, version: u64, limit: usize) -> Option<Vec<Arc<Change>>> {
        if version < self.oldest {
            return None;
        }
        let start = self.history.partition_point(|change| change.version <= version);
        Some(self.history.range(start..).take(limit).cloned().collect())
    }

    /// The objects of `namespace` (all if `None`) whose key comes after `start`.
    pub(super) fn range(
        &self,
        namespace: Option<&str>,
        start: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Stored>> {
        in_range(&self.objects, namespace, start)
    }

    /// The objects as they were at `version`, or `None` if it is too old.
    pub(super) fn at(&self, version: u64) -> Option<BTreeMap<String, Arc<Stored>>> {
        let changes = self.changes_after(version, usize::MAX)?;
        let mut objects = self.objects.clone();
        for change in changes.iter().rev() {
            match &change.previous {
                Some(previous) => objects.insert(previous.key(), Arc::clone(previous)),
                None => objects.remove(&change.object.key()),
            };
        }
        Some(objects)
    }
}

/// The objects of `namespace` (all if `None`) whose key comes after `start`.
pub(super) fn in_range<'a>(
    objects: &'a BTreeMap<String, Arc<Stored>>,
    namespace: Option<&str>,
    start: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Stored>> {
    // '0' is the character after '/'.
    let (first, end) = match namespace {
        Some(namespace) => {
            (Bound::Included(format!("{namespace}/")), Bound::Excluded(format!("{namespace}0")))
        }
        None => (Bound::Unbounded, Bound::Unbounded),
    };
    let first = match start {
        Some(start) => Bound::Excluded(start.to_owned()),
        None => first,
    };
    // A start beyond the end would be an inverted range, which panics.
    let inverted = matches!((&first, &end), (Bound::Excluded(a), Bound::Excluded(b)) if a >= b);
    (!inverted).then(|| objects.range((first, end))).into_iter().flatten().map(|(_, object)| object)
}
