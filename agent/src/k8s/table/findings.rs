//! What in objects could not be taken as written.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_core::{Finding, ObjectKind};

use super::Key;

/// Kept by object; the list of all is made when it is asked for and different.
#[derive(Default)]
pub(super) struct Findings {
    by_object: BTreeMap<(ObjectKind, Key), Vec<Finding>>,
    /// What is not the fault of any object.
    others: Vec<Finding>,
    shown: Arc<[Finding]>,
    stale: bool,
}

impl Findings {
    /// What stands in an object now; true: it is something else than before.
    pub(super) fn set(&mut self, kind: ObjectKind, key: &Key, findings: Vec<Finding>) -> bool {
        if findings.is_empty() {
            return self.forget(kind, key);
        }
        let object = (kind, key.clone());
        if self.by_object.get(&object) == Some(&findings) {
            return false;
        }
        self.by_object.insert(object, findings);
        self.stale = true;
        true
    }

    /// The object is gone; true: there were some.
    pub(super) fn forget(&mut self, kind: ObjectKind, key: &Key) -> bool {
        // Most objects never have any, and a key is not copied for nothing.
        let forgotten = !self.by_object.is_empty() && self.by_object.remove(&(kind, key.clone())).is_some();
        self.stale |= forgotten;
        forgotten
    }

    /// What stands that no object is at fault for; true: it is something else than before.
    pub(super) fn set_others(&mut self, findings: Vec<Finding>) -> bool {
        let other = self.others != findings;
        self.others = findings;
        self.stale |= other;
        other
    }

    /// All of them; the same list while nothing is different.
    pub(super) fn all(&mut self) -> Arc<[Finding]> {
        if std::mem::take(&mut self.stale) {
            self.shown = self.by_object.values().flatten().chain(&self.others).cloned().collect();
        }
        Arc::clone(&self.shown)
    }
}
