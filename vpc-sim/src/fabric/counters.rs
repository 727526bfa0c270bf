//! What the fabric carried and dropped, as the kernel counts it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::FabricError;
use super::router::Router;

/// Counters of the whole fabric since it was made.
#[derive(Debug, Clone, Serialize)]
pub struct FabricCounters {
    /// Packets dropped because their source address is not on the interface
    /// that sent them, and packets of the internet for addresses that may not
    /// use it.
    pub wrong_source_drops: u64,
    /// Packets dropped because they were to leave the VPC and may not: only the
    /// primary address of a primary interface may.
    pub no_way_out_drops: u64,
    /// Every attached interface, by node and device index.
    pub enis: Vec<EniCounters>,
    /// What could not be done for the cloud. Empty, or something is broken.
    pub problems: Vec<String>,
}

/// One attached interface.
#[derive(Debug, Clone, Serialize)]
pub struct EniCounters {
    pub eni: String,
    pub node: String,
    pub device_index: u32,
    pub mac: String,
    pub primary_ip: IpAddr,
    pub addresses: Vec<IpNetwork>,
    /// Packets that the node sent on it, those dropped by the fabric included.
    pub sent_packets: u64,
    /// Packets delivered to the node on it.
    pub received_packets: u64,
}

pub(super) fn read(router: &mut Router, problems: Vec<String>) -> Result<FabricCounters, FabricError> {
    // Files below /proc/PID/net show the namespace of that thread.
    let netstat = router.ns().run(|| read_file("/proc/thread-self/net/netstat"))??;
    let mut enis: Vec<(String, EniCounters)> = router
        .cables()
        .map(|cable| {
            let counters = EniCounters {
                eni: cable.link.eni_id.to_string(),
                node: cable.link.node.clone(),
                device_index: cable.link.device_index,
                mac: cable.link.mac.to_string(),
                primary_ip: cable.link.primary_ip,
                addresses: cable.addresses.clone(),
                sent_packets: 0,
                received_packets: 0,
            };
            (cable.ifname.clone(), counters)
        })
        .collect();
    for (ifname, counters) in &mut enis {
        (counters.sent_packets, counters.received_packets) = router.packets(ifname)?;
    }
    let mut enis: Vec<EniCounters> = enis.into_iter().map(|(_, counters)| counters).collect();
    enis.sort_by(|a, b| (&a.node, a.device_index, &a.eni).cmp(&(&b.node, b.device_index, &b.eni)));
    Ok(FabricCounters {
        wrong_source_drops: field(&netstat, "TcpExt:", "IPReversePathFilter"),
        no_way_out_drops: router.lost_packets()?,
        enis,
        problems,
    })
}

fn read_file(path: &'static str) -> Result<String, FabricError> {
    std::fs::read_to_string(path).map_err(|source| FabricError::Read { path, source })
}

/// One number of a file in which a line of names precedes a line of numbers,
/// both with the group's name in front. 0 where the kernel has no such counter.
fn field(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let found = names
            .split_whitespace()
            .zip(numbers.split_whitespace())
            .find_map(|(key, number)| (key == name).then(|| number.parse().ok()).flatten());
        if let Some(number) = found {
            return number;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_counter_is_found_by_group_and_name() {
        let text = "TcpExt: A IPReversePathFilter\nTcpExt: 1 17\nIpExt: IPReversePathFilter\nIpExt: 9\n";
        assert_eq!(field(text, "TcpExt:", "IPReversePathFilter"), 17);
        assert_eq!(field(text, "IpExt:", "IPReversePathFilter"), 9);
        assert_eq!(field(text, "TcpExt:", "B"), 0);
    }
}
