//! From one cluster to the next, step by step.

use std::sync::Arc;

use policy_core::model::{Name, Requirement, Selector, Subject};
use policy_core::{Cluster, Compiler, CompilerOptions, LocalPod, Step, Tables};

/// The old policies on the new pods: what a moment between two changes may show. First
/// the subjects: the old cluster, with a mark on each pod for every ClusterNetworkPolicy
/// whose namespaces its own was among, as that may have changed.
pub(super) fn between(old: &Cluster, new: &Cluster) -> [Cluster; 2] {
    let mut subjects = old.clone();
    let mut cluster = new.clone();
    let names: Vec<_> = old.namespaces.keys().chain(new.namespaces.keys()).cloned().collect();
    for name in names {
        let policies = old.namespaces.get(&name).map(|content| content.policies.clone());
        cluster.namespace_mut(&name).policies = policies.unwrap_or_default();
    }
    let mark = |policy: &Name| Name::from(format!("home/{policy}"));
    let names: Vec<_> = old.namespaces.keys().cloned().collect();
    for name in names {
        let content = subjects.namespace_mut(&name);
        let Some(home) = content.labels.clone() else { continue };
        let marks: Vec<_> = old
            .cluster_policies
            .iter()
            .filter(|(_, policy)| policy.subject.namespaces.matches(&home))
            .map(|(name, _)| (mark(name), "".into()))
            .collect();
        for pod in content.pods.values_mut() {
            let pod = Arc::make_mut(pod);
            let own = pod.labels.iter().map(|(key, value)| (Name::clone(key), Name::clone(value)));
            pod.labels = Arc::new(own.chain(marks.iter().cloned()).collect());
        }
    }
    cluster.cluster_policies = old.cluster_policies.clone();
    for (name, policy) in &mut cluster.cluster_policies {
        let subject = &mut Arc::make_mut(policy).subject;
        if !subject.namespaces.is_everything() {
            let asked = subject.pods.requirements().iter().cloned().chain([Requirement::Exists(mark(name))]);
            *subject = Subject { namespaces: Selector::everything(), pods: Selector::new(asked) };
        }
    }
    [subjects, cluster]
}

/// Every step cut into its entries, as a reader may see them one by one.
pub(super) fn single(steps: Vec<Step>) -> Vec<Step> {
    fn each<T>(list: Vec<T>, make: fn(Vec<T>) -> Step) -> Vec<Step> {
        list.into_iter().map(|one| make(vec![one])).collect()
    }
    steps
        .into_iter()
        .flat_map(|step| match step {
            Step::AddPorts(list) => each(list, Step::AddPorts),
            Step::AddRows(list) => each(list, Step::AddRows),
            Step::SetCidrs(list) => each(list, Step::SetCidrs),
            Step::RemoveCidrs(list) => each(list, Step::RemoveCidrs),
            Step::SetPeers(list) => each(list, Step::SetPeers),
            Step::RemovePeers(list) => each(list, Step::RemovePeers),
            Step::SetVips(list) => each(list, Step::SetVips),
            Step::RemoveVips(list) => each(list, Step::RemoveVips),
            Step::SetEndpoints(list) => each(list, Step::SetEndpoints),
            Step::Grace => vec![Step::Grace],
            Step::RemoveRows(list) => each(list, Step::RemoveRows),
            Step::RemovePorts(list) => each(list, Step::RemovePorts),
        })
        .collect()
}

pub(super) fn compiler(split_namespaces: usize) -> Compiler {
    Compiler::new(CompilerOptions { split_namespaces, ..CompilerOptions::default() }, Tables::default())
}

/// Endpoints that are gone are cleared by whoever took them away.
pub(super) fn clear(compiler: &mut Compiler, local: &[LocalPod]) {
    let slots: Vec<u32> = compiler.installed().endpoints.keys().copied().collect();
    for slot in slots.into_iter().filter(|slot| !local.iter().any(|one| one.slot == *slot)) {
        compiler.clear_endpoint(slot);
    }
}

/// Carries out a whole update.
pub(super) fn settle(compiler: &mut Compiler, cluster: &Cluster, local: &[LocalPod]) -> Tables {
    for step in compiler.update(cluster, local).steps {
        compiler.record(&step);
    }
    compiler.installed().clone()
}

/// What the maps hold after these steps.
pub(super) fn after(maps: &Tables, steps: &[Step]) -> Tables {
    let mut maps = maps.clone();
    for step in steps {
        maps.record(step);
    }
    maps
}
