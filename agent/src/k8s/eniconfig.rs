//! ENIConfigs: which subnet and security groups pods of a node have, with custom networking.
//!
//! Their kind is a custom one that need not be there. So they stand beside the table that policy is made of:
//! that one is complete without them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use super::error::ErrorClass;
use super::object::EniConfigLite;
use super::watch::{Change, Sink, WatchStatus};

/// Where they are listed.
pub(super) const PATH: &str = "/apis/crd.k8s.amazonaws.com/v1alpha1/eniconfigs";

/// One ENIConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EniConfig {
    /// `spec.subnet`; `None` where it is not there or empty.
    pub subnet: Option<String>,
    /// `spec.securityGroups`; empty: those of the primary ENI.
    pub security_groups: BTreeSet<String>,
}

impl From<EniConfigLite> for EniConfig {
    fn from(lite: EniConfigLite) -> Self {
        let stated = |text: &String| !text.is_empty();
        Self {
            subnet: Some(lite.spec.subnet.trim().to_owned()).filter(stated),
            security_groups: lite.spec.security_groups.into_iter().filter(stated).collect(),
        }
    }
}

/// What the API says of ENIConfigs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EniConfigs {
    /// Whether they were listed whole since the start; before that one that is missing here may be there.
    pub synced: bool,
    /// Whether the API says that it has no such kind: its CustomResourceDefinition was not applied.
    pub kind_missing: bool,
    /// What is wrong with the watch, as long as it is.
    pub failing: Option<String>,
    /// Each by its name.
    pub by_name: BTreeMap<String, EniConfig>,
}

/// Tells what the API says of ENIConfigs, and when that changes.
#[derive(Clone, Debug)]
pub struct EniConfigWatch {
    pub(super) list: watch::Receiver<Listed>,
    pub(super) status: watch::Receiver<WatchStatus>,
}

impl EniConfigWatch {
    /// What stands now; changes up to here are no longer told.
    pub fn current(&mut self) -> EniConfigs {
        let status = self.status.borrow_and_update().clone();
        let listed = self.list.borrow_and_update();
        EniConfigs {
            synced: listed.synced,
            kind_missing: status.failing.is_some() && status.class == Some(ErrorClass::Missing),
            failing: status.failing,
            by_name: listed.by_name.clone(),
        }
    }

    /// Waits for a change since the last [`Self::current`]. False when there will be none any more.
    pub async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.list.changed() => changed.is_ok(),
            changed = self.status.changed() => changed.is_ok(),
        }
    }
}

/// What was listed and watched since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    synced: bool,
    by_name: BTreeMap<String, EniConfig>,
}

/// Takes what the watch tells.
#[derive(Debug)]
pub(super) struct Keeper {
    shown: watch::Sender<Listed>,
    /// A list that is not whole yet.
    next: Option<BTreeMap<String, EniConfig>>,
}

impl Keeper {
    pub(super) fn new() -> (Self, watch::Receiver<Listed>) {
        let (shown, list) = watch::channel(Listed::default());
        (Self { shown, next: None }, list)
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<String, EniConfig>)) {
        match &mut self.next {
            Some(next) => change(next),
            None => {
                self.shown.send_if_modified(|listed| {
                    let before = listed.by_name.clone();
                    change(&mut listed.by_name);
                    listed.by_name != before
                });
            }
        }
    }
}

impl Sink<EniConfigLite> for Keeper {
    async fn take(&mut self, change: Change<EniConfigLite>) -> bool {
        match change {
            Change::Begins => self.next = Some(BTreeMap::new()),
            Change::Listed(object) | Change::Applied(object) => {
                let name = object.metadata.name.clone();
                self.change(|by_name| {
                    by_name.insert(name, object.into());
                });
            }
            Change::Deleted(object) => self.change(|by_name| {
                by_name.remove(&object.metadata.name);
            }),
            Change::Complete => {
                let by_name = self.next.take().unwrap_or_default();
                let next = Listed { synced: true, by_name };
                self.shown.send_if_modified(|listed| {
                    let is_new = *listed != next;
                    *listed = next;
                    is_new
                });
            }
        }
        !self.shown.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> EniConfigLite {
        serde_json::from_str(json).expect("what the API sends")
    }

    #[tokio::test]
    async fn a_new_list_replaces_the_old_one_and_changes_are_told_once() {
        let (mut keeper, mut list) = Keeper::new();
        let a = object(
            r#"{"metadata": {"name": "a"}, "spec": {"subnet": "subnet-a", "securityGroups": ["sg-1"]}}"#,
        );
        let bare = object(r#"{"metadata": {"name": "b"}, "spec": {"subnet": "", "securityGroups": null}}"#);
        for change in [Change::Begins, Change::Listed(a.clone()), Change::Listed(bare)] {
            assert!(keeper.take(change).await);
        }
        assert!(!list.has_changed().expect("open"), "a list that is not whole is not shown");
        assert!(keeper.take(Change::Complete).await);
        let shown = list.borrow_and_update().clone();
        assert!(shown.synced);
        assert_eq!(shown.by_name["a"].security_groups, BTreeSet::from(["sg-1".to_owned()]));
        assert_eq!(shown.by_name["b"], EniConfig::default());

        assert!(keeper.take(Change::Applied(a.clone())).await);
        assert!(!list.has_changed().expect("open"), "nothing is different");
        for change in [Change::Begins, Change::Listed(a), Change::Complete] {
            assert!(keeper.take(change).await);
        }
        assert_eq!(list.borrow_and_update().by_name.keys().collect::<Vec<_>>(), ["a"]);
    }
}
