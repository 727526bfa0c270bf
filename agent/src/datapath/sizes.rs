//! How large the maps are made.

use ebpf_common::abi::{capacity, map};

/// Capacities of the maps that an operator may want larger or smaller. They hold
/// for maps that are made; a pinned one keeps its size until the node reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Pod addresses per family.
    pub peers: u32,
    /// Elementary prefixes per family.
    pub cidrs: u32,
    /// Rows of all live sets.
    pub rows: u32,
    /// Port prefixes of all live profiles.
    pub ports: u32,
    /// Service addresses with port and protocol.
    pub vips: u32,
    /// Flows seen both ways; about 110 bytes each.
    pub flows: u32,
    /// Flows seen one way.
    pub new_flows: u32,
    /// Fragmented packets under way.
    pub fragments: u32,
}

impl Sizes {
    /// Kernels before mid-2025 park 128 free elements of an LRU on each CPU, so
    /// that a small one starves on a large node.
    const PER_CPU: u32 = 512;

    /// The capacities for a node with this many CPUs.
    #[must_use]
    pub fn for_cpus(cpus: u32) -> Self {
        let small = Self::PER_CPU.saturating_mul(cpus);
        Self {
            peers: capacity::PEERS,
            cidrs: capacity::CIDRS,
            rows: capacity::ROWS,
            ports: capacity::PORTS,
            vips: capacity::VIPS,
            flows: capacity::CT.max(small),
            new_flows: capacity::CT_NEW.max(small),
            fragments: capacity::FRAGS.max(small),
        }
    }

    /// Map names with their capacities.
    pub(super) fn by_map(&self) -> [(&'static str, u32); 10] {
        [
            (map::PEER4, self.peers),
            (map::PEER6, self.peers),
            (map::CIDR4, self.cidrs),
            (map::CIDR6, self.cidrs),
            (map::ROW, self.rows),
            (map::PORT, self.ports),
            (map::VIP, self.vips),
            (map::CT, self.flows),
            (map::CT_NEW, self.new_flows),
            (map::FRAG, self.fragments),
        ]
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::for_cpus(
            std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1)),
        )
    }
}
