//! Objects without a namespace: ClusterNetworkPolicies, and nodes as peers.
//!
//! Nodes are listed only while a policy speaks of them. Such a policy is held back until they are: in force without
//! its nodes it would let pass what it denies, or deny what it lets pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_core::model::{ClusterPolicy, Name};
use policy_core::{Finding, FindingReason, ObjectKind};

use super::row::Row;
use super::{Key, NODES, Table};
use crate::k8s::cluster_policy::{self, ClusterPolicyLite, speaks_of_nodes};
use crate::k8s::convert;
use crate::k8s::object::PeerNodeLite;

/// Which policies need nodes, and those that wait for them.
#[derive(Default)]
pub(super) struct NodeWants {
    /// Policies whose newest version speaks of nodes.
    speakers: BTreeSet<Name>,
    /// Newest versions that are not in force yet; older ones stay.
    held: BTreeMap<Name, Arc<ClusterPolicy>>,
}

impl NodeWants {
    /// Whether nodes must be listed.
    pub(super) fn any(&self) -> bool {
        !self.speakers.is_empty()
    }

    /// Whether a policy waits for them.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }
}

impl Row for ClusterPolicyLite {
    fn put(self, table: &mut Table, key: Key) -> bool {
        let (policy, findings) = cluster_policy::policy(&self);
        let found_other = table.findings.set(ObjectKind::ClusterNetworkPolicy, &key, findings);
        let name = key.1;
        let wants = &mut table.wants;
        if speaks_of_nodes(&policy) {
            wants.speakers.insert(Name::clone(&name));
            if !table.complete[NODES] {
                wants.held.insert(name, Arc::new(policy));
                return found_other;
            }
        } else {
            wants.speakers.remove(&name);
            wants.held.remove(&name);
        }
        let policies = &mut table.cluster.cluster_policies;
        if policies.get(&name).is_some_and(|old| **old == policy) {
            return found_other;
        }
        policies.insert(name, Arc::new(policy));
        true
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        table.findings.forget(ObjectKind::ClusterNetworkPolicy, key);
        table.wants.speakers.remove(&key.1);
        let held = table.wants.held.remove(&key.1).is_some();
        table.cluster.cluster_policies.remove(&key.1).is_some() || held
    }

    fn keys(table: &Table) -> Vec<Key> {
        let names = table.cluster.cluster_policies.keys().chain(table.wants.held.keys());
        let names: BTreeSet<&Name> = names.collect();
        names.into_iter().map(|name| (Name::from(""), Name::clone(name))).collect()
    }
}

impl Row for PeerNodeLite {
    fn put(self, table: &mut Table, _: Key) -> bool {
        let name = table.interner.name(&self.metadata.name);
        let node = convert::peer_node(&mut table.interner, &self);
        if table.cluster.nodes.get(&name).is_some_and(|old| **old == node) {
            return false;
        }
        table.cluster.nodes.insert(name, Arc::new(node));
        true
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        table.cluster.nodes.remove(&key.1).is_some()
    }

    fn keys(table: &Table) -> Vec<Key> {
        table.cluster.nodes.keys().map(|name| (Name::from(""), Name::clone(name))).collect()
    }
}

impl Table {
    /// Whether nodes must be listed now.
    pub(in crate::k8s) fn wants_nodes(&self) -> bool {
        self.wants.any()
    }

    /// Whether a policy waits for nodes.
    pub(in crate::k8s) fn holds_policies(&self) -> bool {
        self.wants.holds()
    }

    /// Tells which policies wait for nodes, if `told`; true: something else is told than before.
    pub(in crate::k8s) fn tell_held(&mut self, told: bool) -> bool {
        let held = self.wants.held.keys().filter(|_| told);
        let findings = held.map(|name| Finding {
            kind: ObjectKind::ClusterNetworkPolicy,
            namespace: "".into(),
            name: Name::clone(name),
            path: String::new(),
            reason: FindingReason::HeldBack,
            message: "it speaks of nodes, which cannot be listed: its newest version is not in force, an older one \
                      stays; see the agent's log, and let the agent list and watch nodes"
                .to_owned(),
        });
        let findings = findings.collect();
        self.findings.set_others(findings)
    }

    /// All nodes are known: what waited for them comes in force.
    pub(super) fn release_held(&mut self) {
        self.cluster.cluster_policies.extend(std::mem::take(&mut self.wants.held));
    }

    /// Nobody speaks of nodes any more, and they are no longer watched.
    pub(in crate::k8s) fn forget_nodes(&mut self) -> bool {
        self.complete[NODES] = false;
        self.seen[NODES] = None;
        !std::mem::take(&mut self.cluster.nodes).is_empty()
    }
}
