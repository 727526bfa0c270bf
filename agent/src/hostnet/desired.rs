//! What is wanted, in terms of ENIs and pods.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Mac, TABLE_MAIN};

/// An ENI that is attached to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniLink {
    /// Its Ethernet address: how its link is found, whatever it is called.
    pub mac: Mac,
    /// Its device index; 0 on network card 0 is the primary ENI.
    pub device_index: u32,
    /// Its network card.
    pub network_card: u32,
    /// Its primary address.
    pub primary_ip: IpAddr,
    /// Its subnet's CIDR.
    pub subnet: IpNetwork,
    /// The subnet's router: the first address after the network's.
    pub gateway: IpAddr,
    /// The routing table of what leaves by it ([`table_of`]).
    pub table: u32,
}

/// The routing table of an ENI: main for the primary one, device index + 1 for others on card 0; on further cards
/// 10000 + 100 × card + device index, as amazon-ec2-net-utils has it.
pub fn table_of(device_index: u32, network_card: u32) -> u32 {
    match (device_index, network_card) {
        (0, 0) => TABLE_MAIN,
        (index, 0) => index + 1,
        (index, card) => 10_000 + 100 * card + index,
    }
}

/// A pod as the host's routing knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRoute {
    /// The pod's address.
    pub address: IpAddr,
    /// Name of the host's end of its veth pair.
    pub host_ifname: String,
    /// Index of that end.
    pub host_ifindex: u32,
    /// Ethernet address of the host's end, by which it is known when somebody renames it.
    pub host_mac: Option<Mac>,
    /// Ethernet address of the pod's end, for a permanent neighbour entry; none for a pod that another plugin
    /// wired: it is asked by ARP.
    pub pod_mac: Option<Mac>,
    /// The table of the ENI that has the pod's address; none while nobody knows that ENI: then a rule that leads
    /// what the pod sends to a table is left as it stands.
    pub table: Option<u32>,
}

/// Which port a translated connection gets (`AWS_VPC_K8S_CNI_RANDOMIZESNAT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// `none`: the pod's own port where it is free.
    Own,
    /// `hashrandom`.
    Hash,
    /// `prng`, the default.
    Random,
}

/// What happens to packets that leave the VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnatMode {
    /// They leave by the primary ENI with its primary address.
    Internal(PortChoice),
    /// They leave as they are, by the pod's ENI: a NAT gateway translates (`AWS_VPC_K8S_CNI_EXTERNALSNAT`).
    External,
}

/// All but the pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNet {
    /// The primary ENI. Its link, addresses and routes are the operating system's; only rp_filter and forwarding
    /// are set.
    pub primary: EniLink,
    /// The other ENIs that pods may use.
    pub secondary: Vec<EniLink>,
    /// The CIDRs of the VPC.
    pub vpc_cidrs: Vec<IpNetwork>,
    /// Destinations outside the VPC that see the pod's own address (`AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS`).
    pub exclude_snat: Vec<IpNetwork>,
    /// Destinations that are always reached by the primary ENI (`AWS_EXTERNAL_SERVICE_CIDRS`).
    pub external_services: Vec<IpNetwork>,
    /// What happens to packets that leave the VPC.
    pub snat: SnatMode,
    /// NodePort connections to pods on secondary ENIs return by the primary ENI (`AWS_VPC_CNI_NODE_PORT_SUPPORT`).
    pub node_port: bool,
    /// The bit that marks what leaves by the primary ENI (`AWS_VPC_K8S_CNI_CONNMARK`).
    pub mark: u32,
    /// What names of pods' host ends begin with.
    pub veth_prefix: String,
    /// MTU of secondary ENIs, in bytes.
    pub eni_mtu: u32,
}

/// The whole of what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// All but the pods.
    pub node: NodeNet,
    /// The pods that are attached.
    pub pods: Vec<PodRoute>,
}
