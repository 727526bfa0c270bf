//! The tests of `test/e2e/network/netpol` by their names and in their order: 42 by TCP, then three each by UDP and SCTP.

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::shared::Scenario;
use super::{changes, egress, peers, ports};

pub(crate) const ALL: [(&str, Scenario); 48] = [
    ("should support a 'default-deny-ingress' policy", peers::deny_all_ingress),
    ("should support a 'default-deny-all' policy", peers::deny_all),
    (
        "should enforce policy to allow traffic from pods within server namespace based on PodSelector",
        peers::pod_of_own_namespace,
    ),
    ("should enforce policy to allow ingress traffic for a target", peers::one_target),
    ("should enforce policy to allow ingress traffic from pods in all namespaces", peers::all_namespaces),
    (
        "should enforce policy to allow traffic only from a different namespace, based on NamespaceSelector",
        peers::other_namespace,
    ),
    ("should enforce policy based on PodSelector with MatchExpressions", peers::pod_by_expression),
    (
        "should enforce policy based on NamespaceSelector with MatchExpressions",
        peers::namespace_by_expression,
    ),
    ("should enforce policy based on PodSelector or NamespaceSelector", peers::pod_or_namespace),
    ("should enforce policy based on PodSelector and NamespaceSelector", peers::pod_and_namespace),
    (
        "should enforce policy based on Multiple PodSelectors and NamespaceSelectors",
        peers::pods_and_namespaces,
    ),
    ("should enforce policy based on any PodSelectors", peers::any_of_the_pods),
    (
        "should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector",
        peers::pod_of_other_namespace,
    ),
    ("should enforce policy based on Ports", ports::one_port),
    ("should enforce multiple, stacked policies with overlapping podSelectors", ports::stacked),
    ("should support allow-all policy", ports::allow_all),
    ("should allow ingress access on one named port", ports::named_in),
    ("should allow ingress access from namespace on one named port", ports::named_in_from_y),
    ("should allow egress access on one named port", ports::named_out),
    ("should enforce updated policy", changes::policy_updated),
    ("should allow ingress access from updated namespace", changes::namespace_updated),
    ("should allow ingress access from updated pod", changes::peer_updated),
    ("should deny ingress from pods on other namespaces", peers::own_namespace),
    ("should deny ingress access to updated pod", changes::target_updated),
    ("should deny egress from pods based on PodSelector", egress::denied_to_one),
    ("should deny egress from all pods in a namespace", egress::denied_to_all),
    ("should work with Ingress, Egress specified together", egress::both_directions),
    (
        "should support denying of egress traffic on the client side (even if the server explicitly allows this traffic)",
        peers::client_decides,
    ),
    (
        "should enforce egress policy allowing traffic to a server in a different namespace based on PodSelector and NamespaceSelector",
        egress::pod_of_other_namespace,
    ),
    (
        "should enforce ingress policy allowing any port traffic to a server on a specific protocol",
        ports::whole_protocol,
    ),
    (
        "should enforce multiple ingress policies with ingress allow-all policy taking precedence",
        ports::everything_in_wins,
    ),
    (
        "should enforce multiple egress policies with egress allow-all policy taking precedence",
        ports::everything_out_wins,
    ),
    ("should stop enforcing policies after they are deleted", changes::policy_deleted),
    ("should allow egress access to server in CIDR block", egress::block),
    ("should enforce except clause while egress access to server in CIDR block", egress::except),
    (
        "should ensure an IP overlapping both IPBlock.CIDR and IPBlock.Except is allowed",
        egress::except_and_block,
    ),
    (
        "should enforce policies to check ingress and egress policies can be controlled independently based on PodSelector",
        egress::independent,
    ),
    (
        "should not mistakenly treat 'protocol: SCTP' as 'protocol: TCP', even if the plugin doesn't support SCTP",
        ports::sctp_is_not_tcp,
    ),
    (
        "should properly isolate pods that are selected by a policy allowing SCTP, even if the plugin doesn't support SCTP",
        ports::sctp_isolates,
    ),
    ("should not allow access by TCP when a policy specifies only UDP", ports::udp_is_not_tcp),
    (
        "should enforce policy to allow traffic based on NamespaceSelector with MatchLabels using default ns label",
        peers::default_label,
    ),
    (
        "should enforce policy based on NamespaceSelector with MatchExpressions using default ns label",
        peers::default_label_by_expression,
    ),
    ("should support a 'default-deny-ingress' policy, by UDP", peers::deny_all_ingress_udp),
    ("should enforce policy based on Ports, by UDP", ports::one_port_udp),
    (
        "should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector, by UDP",
        peers::pod_of_other_namespace_udp,
    ),
    ("should support a 'default-deny-ingress' policy, by SCTP", peers::deny_all_ingress_sctp),
    ("should enforce policy based on Ports, by SCTP", ports::one_port_sctp),
    (
        "should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector, by SCTP",
        peers::pod_of_other_namespace_sctp,
    ),
];

/// A scenario, and what its policies are to say instead of what.
type Broken = (Scenario, (&'static str, &'static str));

const BROKEN: [Broken; 8] = [
    (peers::deny_all_ingress, ("policyTypes: [Ingress]", "policyTypes: [Ingress], ingress: [{}]")),
    (peers::pod_of_own_namespace, ("{pod: b}", "{pod: c}")),
    (peers::pod_or_namespace, ("}, {podSelector", ", podSelector")),
    (ports::one_port, ("port: 81", "port: 80")),
    (ports::one_port_sctp, ("SCTP", "TCP")),
    (ports::named_out, ("serve-80-tcp", "serve-80-udp")),
    (egress::block, ("/32}", "/4}")),
    (changes::peer_updated, ("pod2: updated", "pod2: late")),
];

/// Each of these must fail, by what arrives.
pub(crate) fn broken(cluster: &mut Cluster) -> Result<()> {
    for (scenario, (right, wrong)) in BROKEN {
        cluster.must_fail(scenario, (right, wrong)).with_context(|| format!("{wrong} instead of {right}"))?;
    }
    Ok(())
}
