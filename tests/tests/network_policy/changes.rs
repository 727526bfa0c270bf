//! What changes while policies are in force.

use anyhow::Result;

use super::cast::{TCP_80, TCP_81, X_A, X_B};
use super::cluster::Cluster;

pub(crate) fn policy_updated(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "mutable", "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}")?;
    cluster.expect(TCP_81, |_, _, _| false)?;
    cluster.policy('x', "mutable", "{podSelector: {}, policyTypes: [Ingress], ingress: []}")?;
    cluster.expect(TCP_81, |_, to, _| to.namespace == 'x')
}

pub(crate) fn namespace_updated(cluster: &mut Cluster) -> Result<()> {
    cluster.policy(
        'x',
        "from-updated",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress],
          ingress: [{from: [{namespaceSelector: {matchLabels: {ns2: updated}}}]}]}",
    )?;
    cluster.expect(TCP_80, |_, to, _| to == X_A)?;
    cluster.label_namespace('y', "ns2", "updated")?;
    cluster.expect(TCP_80, |from, to, _| to == X_A && from.namespace != 'y')
}

pub(crate) fn peer_updated(cluster: &mut Cluster) -> Result<()> {
    cluster.policy(
        'x',
        "from-updated",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress],
          ingress: [{from: [{podSelector: {matchLabels: {pod: b, pod2: updated}}}]}]}",
    )?;
    cluster.expect(TCP_80, |_, to, _| to == X_A)?;
    cluster.label_pod(X_B, "pod2", "updated")?;
    cluster.expect(TCP_80, |from, to, _| to == X_A && from != X_B)
}

pub(crate) fn target_updated(cluster: &mut Cluster) -> Result<()> {
    let spec = "{podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress]}";
    cluster.policy_of_nobody('x', "isolated", spec)?;
    cluster.expect(TCP_80, |_, _, _| false)?;
    cluster.label_pod(X_A, "target", "isolated")?;
    cluster.selects('x', "isolated");
    cluster.expect(TCP_80, |_, to, _| to == X_A)
}

pub(crate) fn policy_deleted(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "deny-all", "{podSelector: {}, policyTypes: [Ingress, Egress]}")?;
    cluster.expect(TCP_80, |from, to, _| from.namespace == 'x' || to.namespace == 'x')?;
    cluster.delete_policies()?;
    cluster.expect(TCP_80, |_, _, _| false)
}
