//! The compiler and the numbers that it keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ebpf_common::abi::{
    CLASS_NONE, CidrValue, PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PeerValue, PortAction, PortKey, PortValue,
    RowKey, RowValue,
};

use super::class::Class;
use super::epoch::bumped;
use super::heir::Estate;
use super::peer::{InNamespace, Terms, owners};
use super::profile::{Profile, prefixes};
use super::registry::Registry;
use super::row::{Judge, Verdicts};
use super::set::{Set, SetBuilder};
use super::term::Term;
use super::vip::leads;
use super::{Compiled, cidr};
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::ids::{ClassId, ProfileId, RuleId, RuleName, SetId, TermId};
use crate::model::{Cluster, Direction, LocalPod};
use crate::tables::{EndpointSets, Tables, Transition, VipTarget};

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

/// Compiles clusters one after the other, keeping the numbers of equal contents.
#[derive(Clone, Debug)]
pub struct Compiler {
    options: CompilerOptions,
    /// The last epoch given.
    epoch: u32,
    terms: Registry<Term>,
    classes: Registry<Class>,
    sets: Registry<Set>,
    profiles: Registry<Profile>,
    rules: Registry<RuleName>,
}

/// The numbers that stand in the maps.
#[derive(Debug, Default)]
struct InMaps {
    sets: BTreeSet<u32>,
    classes: BTreeSet<u32>,
    profiles: BTreeSet<u32>,
}

/// What one compilation looks at.
#[derive(Clone, Copy)]
struct View<'a> {
    cluster: &'a Cluster,
    local: &'a [LocalPod],
    in_maps: &'a InMaps,
    estate: Estate<'a>,
}

impl InMaps {
    fn of(tables: &Tables) -> Self {
        let mut found = Self::default();
        for endpoint in tables.endpoints.values() {
            found.sets.extend([endpoint.ingress.0, endpoint.egress.0]);
        }
        for (key, row) in &tables.rows {
            found.sets.insert(key.set);
            found.classes.insert(key.class);
            found.profiles.insert(row.profile);
        }
        found.classes.extend(tables.cidrs.values().map(|value| value.class));
        found.classes.extend(tables.peers.values().map(|value| value.class()));
        found.classes.extend(tables.vips.values().map(|target| target.class.0));
        found.profiles.extend(tables.ports.keys().map(|key| u32::from_be_bytes(key.profile_be)));
        found
    }
}

impl Compiler {
    /// A compiler that knows no contents yet.
    pub fn new(options: CompilerOptions) -> Self {
        let mut classes = Registry::new(CLASS_NONE);
        classes.intern(Class::none(), &BTreeSet::new());
        Self {
            options,
            epoch: options.first_epoch.saturating_sub(1),
            terms: Registry::new(1),
            classes,
            sets: Registry::new(1),
            profiles: Registry::new(PROFILE_ALLOW_ALL + 1),
            rules: Registry::new(1),
        }
    }

    /// Compiles the policy of this node's pods.
    ///
    /// `installed` is what the maps hold now; its numbers are not given to other
    /// contents, and the way from it is made safe by [`Compiled::transition`]. Numbers
    /// are free again once they are in `installed` no more: [`plan`](crate::plan())
    /// removes them after the grace period.
    pub fn compile(&mut self, cluster: &Cluster, local: &[LocalPod], installed: &Tables) -> Compiled {
        let in_maps = InMaps::of(installed);
        let mut findings = Vec::new();
        let chosen = self.choose_sets(cluster, local, &in_maps, &mut findings);
        let live: BTreeSet<u32> = chosen.values().flatten().map(|set| set.0).collect();
        let leaving: BTreeSet<u32> = installed
            .endpoints
            .values()
            .flat_map(|endpoint| [endpoint.ingress.0, endpoint.egress.0])
            .filter(|set| *set != 0 && !live.contains(set))
            .collect();

        let unknown: BTreeSet<u32> =
            leaving.iter().copied().filter(|set| self.sets.get(*set).is_none()).collect();
        let estate = Estate { installed, unknown: !unknown.is_empty() };
        let view = View { cluster, local, in_maps: &in_maps, estate };

        let mut tables = Tables::default();
        let used = self.fill_addresses(view, live.union(&leaving), &mut tables, &mut findings);
        let mut mixed = BTreeSet::new();
        for set in live.iter().filter(|set| **set != 0) {
            let out = (&mut tables.rows, &mut tables.ports);
            mixed.extend(self.fill_rows(SetId(*set), &used, &in_maps, out));
        }
        let mut transition = Transition::default();
        for set in &leaving {
            let out = (&mut transition.rows, &mut transition.ports);
            self.fill_rows(SetId(*set), &used, &in_maps, out);
        }
        for class in &used {
            if let Some(content) = self.classes.get(class.0) {
                estate.rows(&unknown, *class, content, &mut transition);
            }
        }
        transition.rows.retain(|key, _| !tables.rows.contains_key(key) && !installed.rows.contains_key(key));
        transition
            .ports
            .retain(|key, _| !tables.ports.contains_key(key) && !installed.ports.contains_key(key));

        self.fill_endpoints(local, &chosen, installed, &mut tables);
        self.report_mixed(cluster, &tables, &mixed, &mut findings);
        self.sweep(&tables, &transition, &in_maps);
        let rules = self.names(&tables);
        findings.sort();
        findings.dedup();
        Compiled { tables, transition, rules, findings }
    }

    /// The sets of each local pod: ingress, egress; 0 where nothing isolates it.
    fn choose_sets(
        &mut self,
        cluster: &Cluster,
        local: &[LocalPod],
        in_maps: &InMaps,
        findings: &mut Vec<Finding>,
    ) -> BTreeMap<u32, [SetId; 2]> {
        let mut chosen = BTreeMap::new();
        for one in local {
            let Some(identity) = &one.identity else {
                chosen.insert(one.slot, [SetId(0); 2]);
                continue;
            };
            let mut builder = SetBuilder { rules: &mut self.rules, terms: &mut self.terms };
            let known = cluster.pod(identity).zip(cluster.namespaces.get(&identity.namespace));
            let contents = match known {
                Some((pod, content)) => [Direction::Ingress, Direction::Egress]
                    .map(|way| builder.of_pod(way, &identity.namespace, content, pod)),
                None => {
                    findings.push(Finding {
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
            let ids = contents
                .map(|content| SetId(content.map_or(0, |content| self.sets.intern(content, &in_maps.sets))));
            chosen.insert(one.slot, ids);
        }
        chosen
    }

    /// Fills cidrs, peers and vips; yields the classes that they use.
    fn fill_addresses<'s>(
        &mut self,
        View { cluster, local, in_maps, estate }: View<'_>,
        sets: impl Iterator<Item = &'s u32>,
        tables: &mut Tables,
        findings: &mut Vec<Finding>,
    ) -> BTreeSet<ClassId> {
        let ids: BTreeSet<TermId> = sets
            .filter_map(|set| self.sets.get(*set))
            .flat_map(|set| set.terms().collect::<Vec<_>>())
            .collect();
        let list: Vec<(TermId, Arc<Term>)> =
            ids.into_iter().filter_map(|id| Some((id, Arc::clone(self.terms.get(id.0)?)))).collect();
        let split = cluster.namespaces.len() <= self.options.split_namespaces;
        let marks: Vec<_> = cluster.service_cidrs.iter().copied().chain(estate.marks()).collect();
        let terms = Terms::new(&list, &marks, split);
        let classes = &mut self.classes;
        let mut used = BTreeSet::from([ClassId(CLASS_NONE)]);
        let mut number = |class: Class| {
            let id = classes.intern(class, &in_maps.classes);
            used.insert(ClassId(id));
            id
        };

        for (prefix, blocks) in terms.blocks.iter() {
            let class = number(estate.of_prefix(prefix, Class::Outside { terms: blocks.into() }));
            let service = cluster.service_cidrs.iter().any(|range| cidr::encloses(*range, prefix));
            let value = if service { CidrValue::service(class) } else { CidrValue::new(class) };
            tables.cidrs.insert(prefix, value);
        }
        for address in &cluster.node.addresses {
            let class = Class::Outside { terms: terms.blocks.of(*address).into() };
            let class = number(estate.of_address(*address, class));
            tables.peers.insert(*address, PeerValue::new(*address, class).local_node());
        }
        let mut spaces: BTreeMap<&str, InNamespace<'_, '_>> = BTreeMap::new();
        for (address, owner) in owners(cluster, local, findings) {
            let class = spaces
                .entry(owner.namespace.as_ref())
                .or_insert_with(|| terms.of_namespace(owner.namespace, owner.content))
                .class(owner.pod, address);
            tables.peers.insert(address, PeerValue::new(address, number(estate.of_address(address, class))));
        }
        let class_of = |address: IpAddr| tables.class_of(address);
        let leads = leads(cluster, &class_of, findings);
        for (key, lead) in leads {
            let mut backends = lead.backends.into_iter();
            let target = match (backends.next(), backends.next()) {
                (None, _) => VipTarget { class: ClassId(CLASS_NONE), port: key.port },
                (Some(one), None) => VipTarget { class: one.class, port: one.port },
                (Some(one), Some(two)) => {
                    let backends = [one, two].into_iter().chain(backends).collect();
                    let (class, port) = estate.of_service(&key, Class::Service { backends });
                    VipTarget { class: ClassId(number(class)), port }
                }
            };
            tables.vips.insert(key, target);
        }
        used
    }

    /// Fills the rows of a set and the ports that they lead to; yields the classes of
    /// Services of which it allows only some backends.
    fn fill_rows(
        &mut self,
        set: SetId,
        used: &BTreeSet<ClassId>,
        in_maps: &InMaps,
        (rows, ports): (&mut BTreeMap<RowKey, RowValue>, &mut BTreeMap<PortKey, PortValue>),
    ) -> Vec<ClassId> {
        let Some(content) = self.sets.get(set.0).map(Arc::clone) else { return Vec::new() };
        let mut mixed = Vec::new();
        let mut default = None;
        // Class 0 is the least, so it comes first.
        for class in used {
            let Some(known) = self.classes.get(class.0).map(Arc::clone) else { continue };
            let judge = Judge { terms: &self.terms, classes: &self.classes };
            let row = match judge.verdicts(&content, &known) {
                Verdicts::Deny(rule) => RowValue { profile: PROFILE_DENY_ALL, rule: rule.0 },
                Verdicts::Mixed(rule) => {
                    mixed.push(*class);
                    RowValue { profile: PROFILE_DENY_ALL, rule: rule.0 }
                }
                Verdicts::Allow(rule) => RowValue { profile: PROFILE_ALLOW_ALL, rule: rule.0 },
                Verdicts::Ports(profile) => {
                    let rule = profile.isolation.0;
                    RowValue { profile: self.fill_ports(profile, in_maps, ports), rule }
                }
            };
            if default != Some(row) {
                rows.insert(RowKey { set: set.0, class: class.0 }, row);
            }
            default = default.or(Some(row));
        }
        mixed
    }

    fn fill_ports(
        &mut self,
        profile: Profile,
        in_maps: &InMaps,
        ports: &mut BTreeMap<PortKey, PortValue>,
    ) -> u32 {
        let id = self.profiles.intern(profile.clone(), &in_maps.profiles);
        let rest = PortValue::new(PortAction::Deny, profile.isolation.0);
        if ports.insert(PortKey::any(id), rest).is_none() {
            for (range, rule) in &profile.allowed {
                for (port, bits) in prefixes(*range) {
                    let key = PortKey::new(id, range.protocol.number(), port, bits);
                    ports.insert(key, PortValue::new(PortAction::Allow, rule.0));
                }
            }
        }
        id
    }

    /// Fills the endpoints. One whose flows may be allowed no more gets a new epoch.
    fn fill_endpoints(
        &mut self,
        local: &[LocalPod],
        chosen: &BTreeMap<u32, [SetId; 2]>,
        installed: &Tables,
        tables: &mut Tables,
    ) {
        let next = self.epoch.wrapping_add(1);
        let profiles = &self.profiles;
        let narrower = bumped(installed, tables, &|new: ProfileId, old: ProfileId| match (
            profiles.get(new.0),
            profiles.get(old.0),
        ) {
            (Some(new), Some(old)) => new.covers(old),
            _ => false,
        });
        for one in local {
            let Some([ingress, egress]) = chosen.get(&one.slot).copied() else { continue };
            let same = installed.endpoints.get(&one.slot).filter(|before| {
                before.sandbox == one.sandbox
                    && (before.ingress, before.egress) == (ingress, egress)
                    && !narrower.contains(&ingress)
                    && !narrower.contains(&egress)
            });
            let epoch = same.map_or(next, |before| before.epoch);
            if same.is_none() {
                self.epoch = next;
            }
            let sandbox = one.sandbox.clone();
            tables.endpoints.insert(one.slot, EndpointSets { sandbox, ingress, egress, epoch });
        }
    }

    fn report_mixed(
        &self,
        cluster: &Cluster,
        tables: &Tables,
        mixed: &BTreeSet<ClassId>,
        findings: &mut Vec<Finding>,
    ) {
        if mixed.is_empty() {
            return;
        }
        for (namespace, content) in &cluster.namespaces {
            for (name, service) in &content.services {
                let hit = tables.vips.iter().find(|(key, target)| {
                    mixed.contains(&target.class) && service.addresses.contains(&key.address)
                });
                let Some((key, _)) = hit else { continue };
                findings.push(Finding {
                    kind: ObjectKind::Service,
                    namespace: namespace.clone(),
                    name: name.clone(),
                    path: "spec".into(),
                    reason: FindingReason::MixedBackends,
                    message: format!(
                        "egress policies of pods on this node allow only some backends of \
                         {} {}/{}; to these pods it is denied",
                        key.address, key.protocol, key.port
                    ),
                });
            }
        }
    }

    /// Forgets contents that neither the new tables nor the maps need.
    fn sweep(&mut self, tables: &Tables, transition: &Transition, in_maps: &InMaps) {
        let mut new = InMaps::of(tables);
        // A plan that fails half way leaves these in the maps.
        new.profiles.extend(transition.rows.values().map(|row| row.profile));
        self.sets.sweep(|id| new.sets.contains(&id) || in_maps.sets.contains(&id));
        let mut classes: BTreeSet<u32> = new.classes.union(&in_maps.classes).copied().collect();
        classes.insert(CLASS_NONE);
        // A Service's class is made of others, which must keep their numbers with it.
        let parts: Vec<u32> = classes
            .iter()
            .filter_map(|id| self.classes.get(*id))
            .filter_map(|class| match class.present() {
                Class::Service { backends } => Some(backends.iter().map(|one| one.class.0)),
                _ => None,
            })
            .flatten()
            .collect();
        classes.extend(parts);
        self.classes.sweep(|id| classes.contains(&id));
        self.profiles.sweep(|id| new.profiles.contains(&id) || in_maps.profiles.contains(&id));

        let mut terms: BTreeSet<u32> = BTreeSet::new();
        let mut rules: BTreeSet<u32> = BTreeSet::new();
        for (_, set) in self.sets.iter() {
            terms.extend(set.terms().map(|id| id.0));
            rules.extend(set.rule_ids().map(|id| id.0));
        }
        for (_, class) in self.classes.iter() {
            terms.extend(class.terms().iter().map(|id| id.0));
            if let Class::Pod { ports, .. } = class.present() {
                terms.extend(ports.iter().map(|(id, _)| id.0));
            }
        }
        for (_, profile) in self.profiles.iter() {
            rules.insert(profile.isolation.0);
            rules.extend(profile.allowed.iter().map(|(_, rule)| rule.0));
        }
        self.terms.sweep(|id| terms.contains(&id));
        self.rules.sweep(|id| rules.contains(&id));
    }

    fn names(&self, tables: &Tables) -> BTreeMap<RuleId, RuleName> {
        let rows = tables.rows.values().map(|row| row.rule);
        let ports = tables.ports.values().map(|port| port.rule);
        rows.chain(ports)
            .collect::<BTreeSet<u32>>()
            .into_iter()
            .filter_map(|id| Some((RuleId(id), self.rules.get(id)?.as_ref().clone())))
            .collect()
    }
}
