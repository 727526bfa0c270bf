//! Where pods may go, by peers and by addresses.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::cast::{TCP_80, TCP_81, X_A, X_B, Y_A, Y_B};
use super::cluster::Cluster;

/// A policy for the egress of `x/a` to one peer.
fn to(cluster: &mut Cluster, name: &str, peer: &str) -> Result<()> {
    let spec = format!(
        "{{podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{{to: [{peer}]}}]}}"
    );
    cluster.policy('x', name, &spec)
}

pub(crate) fn denied_to_one(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "deny-egress", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}")?;
    cluster.expect(TCP_80, |from, _, _| from == X_A)
}

pub(crate) fn denied_to_all(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "deny-egress", "{podSelector: {}, policyTypes: [Egress]}")?;
    cluster.expect(TCP_80, |from, _, _| from.namespace == 'x')
}

pub(crate) fn both_directions(cluster: &mut Cluster) -> Result<()> {
    cluster.policy(
        'x',
        "both",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress, Ingress],
          ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: [{ports: [{port: 80}]}]}",
    )?;
    for own in [TCP_80, TCP_81] {
        cluster
            .expect(own, |from, to, port| (to == X_A && from != X_B) || (from == X_A && port != TCP_80))?;
    }
    Ok(())
}

pub(crate) fn pod_of_other_namespace(cluster: &mut Cluster) -> Result<()> {
    let peer = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}},
        podSelector: {matchLabels: {pod: a}}}";
    to(cluster, "to-y-a", peer)?;
    cluster.expect(TCP_80, |from, to, _| from == X_A && to != Y_A)
}

pub(crate) fn block(cluster: &mut Cluster) -> Result<()> {
    let server = cluster.address(Y_B);
    to(cluster, "to-block", &format!("{{ipBlock: {{cidr: {server}/32}}}}"))?;
    cluster.expect(TCP_80, |from, to, _| from == X_A && to != Y_B)
}

/// Everything around an address but itself.
fn around(server: Ipv4Addr) -> String {
    let base = Ipv4Addr::from(u32::from(server) & 0xf000_0000);
    format!("{{ipBlock: {{cidr: {base}/4, except: [{server}/32]}}}}")
}

pub(crate) fn except(cluster: &mut Cluster) -> Result<()> {
    let peer = around(cluster.address(X_B));
    to(cluster, "to-block", &peer)?;
    cluster.expect(TCP_80, |from, to, _| from == X_A && to == X_B)
}

pub(crate) fn except_and_block(cluster: &mut Cluster) -> Result<()> {
    except(cluster)?;
    let server = cluster.address(X_B);
    // Another policy may allow what this one excepts, and then no policy may.
    let alone = format!("{{ipBlock: {{cidr: {server}/32}}}}");
    to(cluster, "to-excepted", &alone)?;
    cluster.expect(TCP_80, |_, _, _| false)?;
    to(cluster, "to-block", &alone)?;
    cluster.expect(TCP_80, |from, to, _| from == X_A && to != X_B)
}

pub(crate) fn independent(cluster: &mut Cluster) -> Result<()> {
    const A: &str = "podSelector: {matchLabels: {pod: a}}";
    cluster.policy('x', "all-out", &format!("{{{A}, policyTypes: [Egress], egress: [{{}}]}}"))?;
    cluster.expect(TCP_80, |_, _, _| false)?;
    cluster.policy('x', "none-in", &format!("{{{A}, policyTypes: [Ingress]}}"))?;
    cluster.expect(TCP_80, |_, to, _| to == X_A)
}
