//! What could not be taken as given.

use std::collections::BTreeMap;

use super::engine::Compiler;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::model::{Cluster, Name};
use crate::tables::VipAddress;

impl Compiler {
    /// Brings the findings up to date, where any may be another.
    pub(super) fn report(&mut self, cluster: &Cluster) {
        if std::mem::take(&mut self.state.services.retell) {
            let found = self.mixed(cluster);
            self.state.told &= found == self.state.mixed_findings;
            self.state.mixed_findings = found;
        }
        if std::mem::replace(&mut self.state.told, true) {
            return;
        }
        let mut findings: Vec<Finding> =
            self.subjects.values().filter_map(|subject| subject.finding.clone()).collect();
        findings.extend(self.state.conflicts.values().flatten().cloned());
        findings.extend(self.state.service_conflicts.values().flatten().cloned());
        findings.extend(self.state.mixed_findings.iter().cloned());
        findings.sort();
        findings.dedup();
        self.tell(findings);
    }

    /// Services of which pods of this node may reach only some backends.
    fn mixed(&self, cluster: &Cluster) -> Vec<Finding> {
        if self.state.mixed.is_empty() {
            return Vec::new();
        }
        let wanted = self.wanted_sets();
        let mut first: BTreeMap<(&Name, &Name), VipAddress> = BTreeMap::new();
        for (class, _) in self.state.mixed.iter().filter(|(_, set)| wanted.contains(set)) {
            for key in self.state.services.unlike.get(class).into_iter().flatten() {
                for (namespace, name) in self.state.services.at(key) {
                    let content = cluster.namespaces.get(namespace);
                    let service = content.and_then(|content| content.services.get(name));
                    if service.is_some_and(|service| service.addresses.contains(&key.address)) {
                        let known = first.entry((namespace, name)).or_insert(*key);
                        *known = (*known).min(*key);
                    }
                }
            }
        }
        let finding = |((namespace, name), key): ((&Name, &Name), VipAddress)| Finding {
            kind: ObjectKind::Service,
            namespace: Name::clone(namespace),
            name: Name::clone(name),
            path: "spec".into(),
            reason: FindingReason::MixedBackends,
            message: format!(
                "egress policies of pods on this node allow only some backends of {} {}/{}; to these pods it is denied",
                key.address, key.protocol, key.port
            ),
        };
        first.into_iter().map(finding).collect()
    }
}
