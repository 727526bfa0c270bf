//! Services as a node translates them: by nftables, in the shape of kube-proxy's rules.

use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Result;
use policy_core::model::Protocol;
use policy_core::oracle::resolve;

use crate::scene::{Kind, Scene};

/// The whole table, which replaces the one before. Of several backends the first is taken.
pub(crate) fn rules(scene: &Scene) -> Result<String> {
    let mut lines =
        String::from("table inet services {}\ndelete table inet services\ntable inet services {\n");
    lines.push_str("chain towards { type nat hook prerouting priority dstnat\n");
    let fronts = scene.parties.iter().filter(|party| matches!(party.kind, Kind::Service | Kind::Node));
    for address in fronts.flat_map(|party| &party.addresses) {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        for port in ports(scene) {
            for protocol in Protocol::ALL {
                let backends = resolve(&scene.cluster, *address, protocol, port);
                let Some((to, number)) = backends.and_then(|list| list.first().copied()) else { continue };
                let word = protocol.to_string().to_lowercase();
                let to = SocketAddr::new(to, number);
                writeln!(lines, "{family} daddr {address} {word} dport {port} dnat {family} to {to}")?;
            }
        }
    }
    lines.push_str("}\n}\n");
    Ok(lines)
}

/// Every port that may lead somewhere else.
fn ports(scene: &Scene) -> Vec<u16> {
    let mut list: Vec<u16> = Vec::new();
    for content in scene.cluster.namespaces.values() {
        let services = content.services.values().flat_map(|service| &service.ports);
        list.extend(services.flat_map(|port| [Some(port.port), port.node_port]).flatten());
        let pods = content.pods.values().flat_map(|pod| pod.ports.iter());
        list.extend(pods.filter_map(|port| port.host_port));
    }
    list.sort_unstable();
    list.dedup();
    list
}
