//! The compiler: what changed in the cluster becomes what changes in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ebpf_common::abi::{CLASS_NONE, RowValue};
use ipnetwork::IpNetwork;

use super::addresses::{LocalOwner, NodeEntry};
use super::book::{Book, Disputes};
use super::cidr::Elementary;
use super::force::TermsInForce;
use super::maps::Maps;
use super::numbers::Numbers;
use super::reach::Reach;
use super::registry::Counts;
use super::services::Services;
use super::subjects::Subject;
use crate::finding::Finding;
use crate::ids::{RuleId, RuleName, SetId};
use crate::model::{Cluster, ClusterPolicy, LocalNode, LocalPod, Name, Node};
use crate::plan::Step;
use crate::tables::{Tables, VipAddress};

/// How a compiler works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompilerOptions {
    /// The epoch that the first change gets; greater than any in the maps.
    pub first_epoch: u32,
    /// Up to this many namespaces, every namespace has classes of its own, so that a
    /// rule for whole namespaces moves no address when it arrives. Beyond it such a
    /// rule splits classes like any other, as the rows would become too many.
    pub split_namespaces: usize,
}

impl Default for CompilerOptions {
    fn default() -> Self {
        Self { first_epoch: 1, split_namespaces: 1024 }
    }
}

/// Turns clusters, one after the other, into steps on the maps. Numbers belong to contents and are kept from one
/// update to the next; the work of an update is that of what changed since the one before.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub(super) options: CompilerOptions,
    /// The last epoch given.
    pub(super) epoch: u32,
    pub(super) maps: Maps,
    pub(super) numbers: Numbers,
    /// This node's pods by slot.
    pub(super) subjects: BTreeMap<u32, Subject>,
    pub(super) state: State,
    findings: Arc<[Finding]>,
}

/// What was seen last and what follows from it. It can be dropped and built anew.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Classes are split by namespace.
    pub(super) split: bool,
    /// Addresses are on the way from a former agent's maps; see the module `heir`.
    pub(super) heirs: bool,
    pub(super) book: Book,
    pub(super) disputes: Disputes,
    pub(super) local: BTreeMap<IpAddr, LocalOwner>,
    pub(super) policies: BTreeMap<Name, Arc<ClusterPolicy>>,
    pub(super) node: LocalNode,
    pub(super) nodes: BTreeMap<Name, Arc<Node>>,
    pub(super) service_cidrs: Vec<IpNetwork>,
    pub(super) terms: TermsInForce,
    pub(super) elementary: Elementary,
    pub(super) node_entries: BTreeMap<IpAddr, NodeEntry>,
    pub(super) services: Services,
    pub(super) usage: Usage,
    /// Sets of endpoints, as they are or as they shall be.
    pub(super) active: BTreeSet<u32>,
    /// Whom each active set speaks of.
    pub(super) reach: Reach,
    /// What each active set says to class 0.
    pub(super) defaults: BTreeMap<u32, RowValue>,
    /// Class of a Service and set that allows only some of its backends.
    pub(super) mixed: BTreeSet<(u32, u32)>,
    pub(super) conflicts: BTreeMap<IpAddr, Vec<Finding>>,
    pub(super) service_conflicts: BTreeMap<VipAddress, Vec<Finding>>,
    pub(super) mixed_findings: Vec<Finding>,
    /// Findings may be others than those that were told.
    pub(super) told: bool,
}

/// Which classes addresses shall have.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    pub(super) users: Counts,
    /// Classes that were taken up or dropped in this update.
    pub(super) touched: BTreeSet<u32>,
}

impl Usage {
    pub(super) fn add(&mut self, class: u32) {
        if self.users.add(class) {
            self.touched.insert(class);
        }
    }

    pub(super) fn take(&mut self, class: u32) {
        if self.users.take(class) {
            self.touched.insert(class);
        }
    }
}

/// What an update asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// What is to be done, in this order; see [`Step`]. Empty where the maps hold everything already.
    pub steps: Vec<Step>,
}

/// What a set is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetRules {
    /// What isolates its pods, by name.
    pub isolation: Vec<RuleName>,
    /// The rules in the order in which they are looked at.
    pub rules: Vec<RuleName>,
}

impl Compiler {
    /// A compiler for maps that hold `installed`: nothing, or what an agent before this one left. Its numbers are
    /// not given to other contents while they are in the maps.
    pub fn new(options: CompilerOptions, installed: Tables) -> Self {
        let mut compiler = Self {
            options,
            epoch: options.first_epoch.saturating_sub(1),
            numbers: Numbers::new(&installed),
            maps: Maps::new(installed),
            subjects: BTreeMap::new(),
            state: State::default(),
            findings: Arc::default(),
        };
        compiler.start_anew(false, false);
        compiler
    }

    /// The steps from what the maps hold to what they shall hold for this cluster and these pods of this node.
    ///
    /// Objects are taken for the same where their `Arc` is the same. A step counts when [`Self::record`] was told
    /// of it; what was not carried out is in the next update again.
    pub fn update(&mut self, cluster: &Cluster, local: &[LocalPod]) -> Update {
        self.forget();
        let heirs = self.has_unknown_sets();
        // Not back and forth for one namespace more or less.
        let limit = self.options.split_namespaces;
        let count = cluster.namespaces.len();
        let split = count <= limit
            && (self.state.split || self.state.book.spaces.is_empty() || count <= limit / 4 * 3);
        if heirs || self.state.heirs || split != self.state.split {
            self.start_anew(split, heirs);
        }
        let changes = self.state.book.changes(cluster);
        let (came, went) = self.choose(cluster, local, &changes);
        let change = self.enforce(&came, &went);
        let ranges = self.cut(cluster, &change);
        self.regroup(&change);
        self.respace(&changes);
        self.recheck(&ranges.ranges);
        self.place_nodes(cluster, !ranges.prefixes.is_empty() || change.nodes);
        self.place_pods(cluster, local, &changes);
        self.keep_former();
        self.lead_services(cluster, &changes, !ranges.prefixes.is_empty());
        self.fill_rows(&came, &went);
        self.flip(local);
        self.state.policies.clone_from(&cluster.cluster_policies);
        self.report(cluster);
        Update { steps: self.plan() }
    }

    /// Notes that a step was carried out, or some of its entries.
    pub fn record(&mut self, step: &Step) {
        self.maps.record(step);
    }

    /// Notes that a slot was cleared.
    pub fn clear_endpoint(&mut self, slot: u32) {
        self.maps.clear_endpoint(slot);
    }

    /// What the maps hold.
    pub fn installed(&self) -> &Tables {
        &self.maps.installed
    }

    /// Whether the last update took over a former agent's maps: the next one moves the addresses whose class says what
    /// they were, those that could not keep the number of a former class.
    pub fn is_taking_over(&self) -> bool {
        self.state.heirs
    }

    /// What a rule id stands for.
    pub fn rule(&self, id: RuleId) -> Option<Arc<RuleName>> {
        self.numbers.rules.get(id.0).cloned()
    }

    /// All rule ids with what they stand for.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Arc<RuleName>)> {
        self.numbers.rules.iter().map(|(id, name)| (RuleId(id), name))
    }

    /// What could not be taken as given; the same value as long as nothing changes in it.
    pub fn findings(&self) -> Arc<[Finding]> {
        Arc::clone(&self.findings)
    }

    /// What a set is made of; None for one of a former agent.
    pub fn rules_of(&self, set: SetId) -> Option<SetRules> {
        let content = self.numbers.sets.get(set.0)?;
        let name = |id: RuleId| self.numbers.rules.get(id.0).map(|name| name.as_ref().clone());
        Some(SetRules {
            isolation: content.isolations().iter().copied().filter_map(name).collect(),
            rules: content.rules().filter_map(|rule| name(rule.rule)).collect(),
        })
    }

    pub(super) fn tell(&mut self, findings: Vec<Finding>) {
        if *self.findings != *findings {
            self.findings = findings.into();
        }
    }

    /// Drops all that was derived; the next comparison with the cluster finds everything new.
    fn start_anew(&mut self, split: bool, heirs: bool) {
        self.maps.idle_classes.extend(self.numbers.classes.iter().map(|(id, _)| id));
        self.state = State { split, heirs, ..State::default() };
        self.state.usage.add(CLASS_NONE);
        self.maps.want_nothing();
    }

    /// Live pods are judged by sets that only a former agent knew.
    fn has_unknown_sets(&self) -> bool {
        let sets = self.maps.installed.endpoints.values().flat_map(|one| [one.ingress, one.egress]);
        sets.into_iter().any(|set| set.0 != 0 && self.numbers.sets.get(set.0).is_none())
    }

    /// Forgets contents that the maps do not name any more, nor shall.
    fn forget(&mut self) {
        let gone = self
            .numbers
            .sets
            .iter()
            .map(|(id, _)| id)
            .filter(|id| !self.state.active.contains(id) && self.maps.rows_of(*id).is_empty());
        for id in gone.collect::<Vec<_>>() {
            self.numbers.forget_set(id);
        }
        let mut idle: Vec<u32> = std::mem::take(&mut self.maps.idle_classes).into_iter().collect();
        while let Some(id) = idle.pop() {
            let used = self.state.usage.users.has(id) || self.maps.mentions.has(id);
            let left = self.maps.is_left(id);
            if id != CLASS_NONE && !used && !left && !self.numbers.is_part(id) {
                idle.extend(self.numbers.forget_class(id));
            }
        }
        for id in std::mem::take(&mut self.maps.idle_profiles) {
            if self.maps.profile_rows.has(id) {
                continue;
            }
            if self.ports_of(id).iter().any(|key| self.maps.installed.ports.contains_key(key)) {
                self.maps.idle_profiles.insert(id);
            } else {
                self.maps.foreign_ports.remove(&id);
                self.numbers.forget_profile(id);
            }
        }
    }
}
