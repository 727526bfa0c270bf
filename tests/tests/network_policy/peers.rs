//! Who is let in.

use anyhow::Result;

use super::cast::{Pod, Port, SCTP_80, TCP_80, UDP_80, X_A, X_B, X_C, Y_A, Y_B};
use super::cluster::Cluster;

/// `x/a` is reached by these peers only.
fn only(cluster: &mut Cluster, own: Port, peers: &str, may: impl Fn(Pod) -> bool) -> Result<()> {
    let spec = format!(
        "{{podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Ingress], ingress: [{{from: [{peers}]}}]}}"
    );
    cluster.policy('x', "only", &spec)?;
    cluster.expect(own, |from, to, _| to == X_A && !may(from))
}

fn deny_ingress(cluster: &mut Cluster, own: Port) -> Result<()> {
    cluster.policy('x', "deny-ingress", "{podSelector: {}, policyTypes: [Ingress]}")?;
    cluster.expect(own, |_, to, _| to.namespace == 'x')
}

/// Ingress to `x/a` from `y/a` alone.
fn one_of_another_namespace(cluster: &mut Cluster, own: Port) -> Result<()> {
    let peer = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}},
        podSelector: {matchLabels: {pod: a}}}";
    only(cluster, own, peer, |from| from == Y_A)
}

pub(crate) fn deny_all_ingress(cluster: &mut Cluster) -> Result<()> {
    deny_ingress(cluster, TCP_80)
}

pub(crate) fn deny_all_ingress_udp(cluster: &mut Cluster) -> Result<()> {
    deny_ingress(cluster, UDP_80)
}

pub(crate) fn deny_all_ingress_sctp(cluster: &mut Cluster) -> Result<()> {
    deny_ingress(cluster, SCTP_80)
}

pub(crate) fn deny_all(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "deny-all", "{podSelector: {}, policyTypes: [Ingress, Egress]}")?;
    cluster.expect(TCP_80, |from, to, _| from.namespace == 'x' || to.namespace == 'x')
}

pub(crate) fn pod_of_own_namespace(cluster: &mut Cluster) -> Result<()> {
    only(cluster, TCP_80, "{podSelector: {matchLabels: {pod: b}}}", |from| from == X_B)
}

pub(crate) fn one_target(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "deny-ingress", "{podSelector: {}, policyTypes: [Ingress]}")?;
    cluster.policy(
        'x',
        "allow-to-a",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress],
          ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]}",
    )?;
    cluster.expect(TCP_80, |_, to, _| to.namespace == 'x' && to != X_A)
}

pub(crate) fn all_namespaces(cluster: &mut Cluster) -> Result<()> {
    only(cluster, TCP_80, "{namespaceSelector: {}}", |_| true)
}

pub(crate) fn other_namespace(cluster: &mut Cluster) -> Result<()> {
    let peer = "{namespaceSelector: {matchLabels: {ns: y}}}";
    only(cluster, TCP_80, peer, |from| from.namespace == 'y')
}

pub(crate) fn pod_by_expression(cluster: &mut Cluster) -> Result<()> {
    let peer = "{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}";
    only(cluster, TCP_80, peer, |from| from == X_B)
}

pub(crate) fn namespace_by_expression(cluster: &mut Cluster) -> Result<()> {
    let peer = "{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y]}]}}";
    only(cluster, TCP_80, peer, |from| from.namespace == 'y')
}

/// All other namespaces.
const NOT_X: &str = "namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}";

pub(crate) fn pod_or_namespace(cluster: &mut Cluster) -> Result<()> {
    let peers = format!("{{{NOT_X}}}, {{podSelector: {{matchLabels: {{pod: b}}}}}}");
    only(cluster, TCP_80, &peers, |from| from.namespace != 'x' || from == X_B)
}

pub(crate) fn pod_and_namespace(cluster: &mut Cluster) -> Result<()> {
    let peer = format!("{{{NOT_X}, podSelector: {{matchLabels: {{pod: b}}}}}}");
    only(cluster, TCP_80, &peer, |from| from.namespace != 'x' && from.name == 'b')
}

pub(crate) fn pods_and_namespaces(cluster: &mut Cluster) -> Result<()> {
    let pods = "podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}";
    only(cluster, TCP_80, &format!("{{{NOT_X}, {pods}}}"), |from| from.namespace != 'x' && from.name != 'a')
}

pub(crate) fn any_of_the_pods(cluster: &mut Cluster) -> Result<()> {
    let peers = "{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}";
    only(cluster, TCP_80, peers, |from| from == X_B || from == X_C)
}

pub(crate) fn pod_of_other_namespace(cluster: &mut Cluster) -> Result<()> {
    one_of_another_namespace(cluster, TCP_80)
}

pub(crate) fn pod_of_other_namespace_udp(cluster: &mut Cluster) -> Result<()> {
    one_of_another_namespace(cluster, UDP_80)
}

pub(crate) fn pod_of_other_namespace_sctp(cluster: &mut Cluster) -> Result<()> {
    one_of_another_namespace(cluster, SCTP_80)
}

pub(crate) fn own_namespace(cluster: &mut Cluster) -> Result<()> {
    cluster.policy(
        'x',
        "own-namespace",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}",
    )?;
    cluster.expect(TCP_80, |from, to, _| to.namespace == 'x' && from.namespace != 'x')
}

pub(crate) fn default_label(cluster: &mut Cluster) -> Result<()> {
    let peer = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}";
    only(cluster, TCP_80, peer, |from| from.namespace == 'y')
}

pub(crate) fn default_label_by_expression(cluster: &mut Cluster) -> Result<()> {
    cluster.policy(
        'x',
        "not-to-y",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector:
          {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [y]}]}}]}]}",
    )?;
    cluster.expect(TCP_80, |from, to, _| from == X_A && to.namespace == 'y')
}

pub(crate) fn client_decides(cluster: &mut Cluster) -> Result<()> {
    cluster.policy(
        'x',
        "to-y-a",
        "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{
          namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: a}}}]}]}",
    )?;
    for server in ["a", "b"] {
        cluster.policy(
            'y',
            &format!("from-x-a-{server}"),
            &format!(
                "{{podSelector: {{matchLabels: {{pod: {server}}}}}, policyTypes: [Ingress], ingress: [{{from: [{{
                   namespaceSelector: {{matchLabels: {{ns: x}}}}, podSelector: {{matchLabels: {{pod: a}}}}}}]}}]}}"
            ),
        )?;
    }
    cluster
        .expect(TCP_80, |from, to, _| (from == X_A && to != Y_A) || ((to == Y_A || to == Y_B) && from != X_A))
}
