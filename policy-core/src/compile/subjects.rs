//! The sets of this node's pods, and the flip.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebpf_common::abi::{PROFILE_ALLOW_ALL, RowKey, RowValue};

use super::book::{SpaceChange, merge};
use super::engine::Compiler;
use super::epoch::narrows;
use super::row::to_own_node;
use super::set::SetBuilder;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::ids::{ClassId, SetId};
use crate::model::{
    Cluster, ClusterPolicy, Direction, LocalPod, Name, OrderedPolicy, Pod, PodIdentity, Policy,
};
use crate::tables::EndpointSets;

/// A pod of this node.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    identity: Option<PodIdentity>,
    /// What the API knows of it.
    pod: Option<Arc<Pod>>,
    /// Ingress and egress; 0 where nothing isolates it.
    pub(super) sets: [u32; 2],
    audit: bool,
    pub(super) finding: Option<Finding>,
}

impl Compiler {
    /// Chooses the sets of this node's pods. Yields the sets that became active, and those
    /// that ceased to be.
    pub(super) fn choose(
        &mut self,
        cluster: &Cluster,
        local: &[LocalPod],
        changes: &[SpaceChange],
    ) -> (Vec<u32>, Vec<u32>) {
        let spaces: BTreeMap<&Name, &SpaceChange> = changes.iter().map(|one| (&one.name, one)).collect();
        let mut policies: BTreeMap<&Name, Vec<Arc<Policy>>> = BTreeMap::new();
        let mut wide: Vec<Arc<ClusterPolicy>> = Vec::new();
        merge(self.state.policies.iter(), cluster.cluster_policies.iter(), |_, old, new| {
            wide.extend([old, new].into_iter().flatten().cloned());
        });
        let mut subjects = BTreeMap::new();
        let mut ordered: Option<Vec<OrderedPolicy>> = None;
        for one in local {
            let pod = one.identity.as_ref().and_then(|identity| cluster.pod(identity)).cloned();
            let before = self.subjects.remove(&one.slot).filter(|before| {
                let same_pod = match (&before.pod, &pod) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    (None, None) => true,
                    _ => false,
                };
                same_pod && before.identity == one.identity
            });
            let before = before.filter(|_| {
                let Some((identity, pod)) = one.identity.as_ref().zip(pod.as_ref()) else { return true };
                let content = cluster.namespaces.get(&identity.namespace);
                let labels = content.and_then(|content| content.labels.as_deref());
                if wide.iter().any(|policy| policy.subject.matches(labels, &pod.labels) != Some(false)) {
                    return false;
                }
                let Some(change) = spaces.get(&identity.namespace) else { return true };
                let (Some(old), Some(new)) = (&change.old, &change.new) else { return false };
                let touched = policies.entry(&change.name).or_insert_with(|| {
                    let mut touched = Vec::new();
                    merge(old.policies.iter(), new.policies.iter(), |_, old, new| {
                        touched.extend([old, new].into_iter().flatten().cloned());
                    });
                    touched
                });
                old.labels == new.labels && !touched.iter().any(|policy| policy.subject.matches(&pod.labels))
            });
            let subject = match before {
                Some(subject) => subject,
                None => {
                    self.state.told = false;
                    let ordered = ordered.get_or_insert_with(|| cluster.ordered_policies());
                    self.subject(cluster, ordered, one, pod)
                }
            };
            subjects.insert(one.slot, subject);
        }
        // Whoever left may have left a finding behind.
        self.state.told &= self.subjects.is_empty();
        self.subjects = subjects;

        let mut active: BTreeSet<u32> = self.wanted_sets();
        let installed = self.maps.installed.endpoints.values();
        active.extend(installed.flat_map(|one| [one.ingress.0, one.egress.0]));
        // Programs that started before the last flip may still ask by these.
        active.extend(&self.maps.left_sets);
        active.remove(&0);
        let came = active.difference(&self.state.active).copied().collect();
        let went = self.state.active.difference(&active).copied().collect();
        self.state.active = active;
        (came, went)
    }

    /// The sets that this node's pods shall have.
    pub(super) fn wanted_sets(&self) -> BTreeSet<u32> {
        self.subjects.values().flat_map(|subject| subject.sets).filter(|set| *set != 0).collect()
    }

    fn subject(
        &mut self,
        cluster: &Cluster,
        ordered: &[OrderedPolicy],
        one: &LocalPod,
        pod: Option<Arc<Pod>>,
    ) -> Subject {
        let mut subject =
            Subject { identity: one.identity.clone(), pod, sets: [0; 2], audit: false, finding: None };
        let Some(identity) = &one.identity else { return subject };
        let mut builder = SetBuilder { rules: &mut self.numbers.rules, terms: &mut self.numbers.terms };
        let known = subject.pod.as_ref().zip(cluster.namespaces.get(&identity.namespace));
        let contents = match known {
            Some((pod, content)) => {
                subject.audit = pod.audit;
                [Direction::Ingress, Direction::Egress]
                    .map(|way| builder.of_pod(way, ordered, &identity.namespace, content, pod))
            }
            None => {
                subject.finding = Some(Finding {
                    kind: ObjectKind::Pod,
                    namespace: identity.namespace.clone(),
                    name: identity.name.clone(),
                    path: String::new(),
                    reason: FindingReason::UnknownPod,
                    message: "the API does not know this pod; nothing passes".into(),
                });
                [Some(builder.unknown()), Some(builder.unknown())]
            }
        };
        subject.sets = contents.map(|content| content.map_or(0, |content| self.numbers.set(content)));
        subject
    }

    /// Endpoints get their sets. One whose flows may be allowed no more gets a new epoch,
    /// and keeps it until it is in the maps.
    pub(super) fn flip(&mut self, local: &[LocalPod]) {
        let narrower = self.narrower();
        let next = self.epoch.wrapping_add(1);
        let slots: BTreeSet<u32> = local.iter().map(|one| one.slot).collect();
        self.maps.endpoints.retain(|slot, _| slots.contains(slot));
        for one in local {
            let Some(subject) = self.subjects.get(&one.slot) else { continue };
            let [ingress, egress] = subject.sets.map(SetId);
            let audit = subject.audit;
            let same = self.maps.endpoint(one.slot).filter(|before| {
                before.sandbox == one.sandbox
                    && before.audit <= audit
                    && (before.ingress, before.egress) == (ingress, egress)
                    && !narrower.contains(&ingress.0)
                    && !narrower.contains(&egress.0)
            });
            let epoch = same.map_or(next, |before| before.epoch);
            if same.is_none() {
                self.epoch = next;
            }
            let sandbox = one.sandbox.clone();
            self.maps.want_endpoint(one.slot, EndpointSets { sandbox, ingress, egress, epoch, audit });
        }
    }

    /// The sets, in the maps now and afterwards, by which some address loses a port that
    /// it had. A set that leaves gives its endpoints a new epoch anyway.
    fn narrower(&self) -> BTreeSet<u32> {
        let mut moves: BTreeSet<(ClassId, ClassId)> = BTreeSet::new();
        for (address, value) in &self.maps.peers {
            let to = value.map_or_else(|| self.outside_class(*address), |value| ClassId(value.class()));
            moves.insert((self.maps.class_of(*address), to));
        }
        moves.retain(|(from, to)| from != to);
        if moves.is_empty() {
            return BTreeSet::new();
        }
        let installed = self.maps.installed.endpoints.values();
        let sets: BTreeSet<u32> = installed.flat_map(|one| [one.ingress.0, one.egress.0]).collect();
        let sets: BTreeSet<u32> = sets.intersection(&self.wanted_sets()).copied().collect();
        let covers = |new: u32, old: u32| {
            let (new, old) = (self.numbers.profiles.get(new), self.numbers.profiles.get(old));
            new.zip(old).is_some_and(|(new, old)| new.covers(old))
        };
        let mut narrower = BTreeSet::new();
        for (from, to) in moves {
            for set in self.state.reach.sets_between(&self.numbers, [from.0, to.0], &sets) {
                let before = self.judged(set, from, |key| self.maps.installed.rows.get(&key).copied());
                let after = self.judged(set, to, |key| self.maps.row(key));
                if before.zip(after).is_some_and(|(before, after)| narrows(before, after, &covers)) {
                    narrower.insert(set);
                }
            }
        }
        narrower
    }

    /// The row by which a set judges a class.
    fn judged(&self, set: u32, class: ClassId, row: impl Fn(RowKey) -> Option<RowValue>) -> Option<RowValue> {
        let exact = row(RowKey { set, class: class.0 });
        let known = self.numbers.sets.get(set).zip(self.numbers.classes.get(class.0));
        if known.is_some_and(|(set, class)| to_own_node(set, class)) {
            return exact.or(Some(RowValue { profile: PROFILE_ALLOW_ALL, rule: 0 }));
        }
        exact.or_else(|| row(RowKey { set, class: 0 }))
    }
}
