//! Which ports are let in and out.

use anyhow::Result;
use system_tests::probe::Protocol;

use super::cast::{Port, SCTP_80, SCTP_81, TCP_80, TCP_81, UDP_80, UDP_81, X_A};
use super::cluster::Cluster;

const ALL: &str = "podSelector: {}";
const A: &str = "podSelector: {matchLabels: {pod: a}}";
const FROM_Y: &str = "from: [{namespaceSelector: {matchLabels: {ns: y}}}]";

/// A policy in `x` with one rule.
fn rule(cluster: &mut Cluster, name: &str, subject: &str, direction: &str, rule: &str) -> Result<()> {
    let key = direction.to_lowercase();
    cluster.policy('x', name, &format!("{{{subject}, policyTypes: [{direction}], {key}: [{{{rule}}}]}}"))
}

fn one_port_from_y(cluster: &mut Cluster, own: Port) -> Result<()> {
    let ports = format!("ports: [{{port: 81, protocol: {}}}]", own.0);
    rule(cluster, "port-from-y", A, "Ingress", &format!("{FROM_Y}, {ports}"))?;
    cluster.expect(own, |from, to, port| to == X_A && !(from.namespace == 'y' && port == own))
}

pub(crate) fn one_port(cluster: &mut Cluster) -> Result<()> {
    one_port_from_y(cluster, TCP_81)
}

pub(crate) fn one_port_udp(cluster: &mut Cluster) -> Result<()> {
    one_port_from_y(cluster, UDP_81)
}

pub(crate) fn one_port_sctp(cluster: &mut Cluster) -> Result<()> {
    one_port_from_y(cluster, SCTP_81)
}

pub(crate) fn stacked(cluster: &mut Cluster) -> Result<()> {
    one_port_from_y(cluster, TCP_81)?;
    let second = format!("{FROM_Y}, ports: [{{port: 80, protocol: TCP}}]");
    rule(cluster, "other-port-from-y", A, "Ingress", &second)?;
    cluster.expect(TCP_80, |from, to, port| to == X_A && !(from.namespace == 'y' && port.0 == Protocol::Tcp))
}

pub(crate) fn allow_all(cluster: &mut Cluster) -> Result<()> {
    rule(cluster, "allow-all", ALL, "Ingress", "")?;
    cluster.expect(TCP_80, |_, _, _| false)?;
    cluster.expect(TCP_81, |_, _, _| false)
}

pub(crate) fn named_in(cluster: &mut Cluster) -> Result<()> {
    rule(cluster, "named", ALL, "Ingress", "ports: [{port: serve-81-tcp}]")?;
    cluster.expect(TCP_81, |_, to, port| to.namespace == 'x' && port != TCP_81)
}

pub(crate) fn named_in_from_y(cluster: &mut Cluster) -> Result<()> {
    let named = format!("{FROM_Y}, ports: [{{port: serve-80-tcp, protocol: TCP}}]");
    rule(cluster, "named-from-y", A, "Ingress", &named)?;
    cluster.expect(TCP_80, |from, to, port| to == X_A && !(from.namespace == 'y' && port == TCP_80))
}

pub(crate) fn named_out(cluster: &mut Cluster) -> Result<()> {
    rule(cluster, "named", ALL, "Egress", "ports: [{port: serve-80-tcp}]")?;
    cluster.expect(TCP_80, |from, _, port| from.namespace == 'x' && port != TCP_80)
}

pub(crate) fn whole_protocol(cluster: &mut Cluster) -> Result<()> {
    rule(cluster, "tcp", A, "Ingress", "ports: [{protocol: TCP}]")?;
    cluster.expect(TCP_80, |_, to, port| to == X_A && port.0 != Protocol::Tcp)?;
    // Of datagrams all but those to the one are answered.
    cluster.expect(UDP_80, |_, to, port| to == X_A && port.0 != Protocol::Tcp)
}

/// A port for all pods of `x`, then everything.
fn then_everything(cluster: &mut Cluster, direction: &str) -> Result<()> {
    rule(cluster, "port-80", ALL, direction, "ports: [{port: 80}]")?;
    let ingress = direction == "Ingress";
    cluster.expect(TCP_81, |from, to, port| {
        (if ingress { to } else { from }).namespace == 'x' && port != TCP_80
    })?;
    rule(cluster, "everything", ALL, direction, "")?;
    cluster.expect(TCP_81, |_, _, _| false)
}

pub(crate) fn everything_in_wins(cluster: &mut Cluster) -> Result<()> {
    then_everything(cluster, "Ingress")
}

pub(crate) fn everything_out_wins(cluster: &mut Cluster) -> Result<()> {
    then_everything(cluster, "Egress")
}

pub(crate) fn sctp_is_not_tcp(cluster: &mut Cluster) -> Result<()> {
    cluster.policy('x', "deny-ingress", "{podSelector: {}, policyTypes: [Ingress]}")?;
    rule(cluster, "sctp-81", A, "Ingress", "ports: [{port: 81, protocol: SCTP}]")?;
    cluster.expect(TCP_81, |_, to, port| to.namespace == 'x' && !(to == X_A && port == SCTP_81))
}

pub(crate) fn sctp_isolates(cluster: &mut Cluster) -> Result<()> {
    rule(cluster, "sctp-80", A, "Ingress", "ports: [{port: 80, protocol: SCTP}]")?;
    cluster.expect(TCP_81, |_, to, port| to == X_A && port != SCTP_80)
}

pub(crate) fn udp_is_not_tcp(cluster: &mut Cluster) -> Result<()> {
    rule(cluster, "udp-81", A, "Ingress", "ports: [{port: 81, protocol: UDP}]")?;
    cluster.expect(TCP_81, |_, to, port| to == X_A && port != UDP_81)
}
