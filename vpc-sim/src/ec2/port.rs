//! What the cloud tells the network that carries its packets.
//!
//! The cloud decides what is attached where and which addresses belong to an
//! interface; the fabric makes links and routes of it. Neither knows the other
//! but through this trait.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ids::{EniId, InstanceId, Mac, SubnetId};

/// An interface as the guest of an instance is to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniLink {
    /// The interface.
    pub eni_id: EniId,
    /// The instance it is attached to.
    pub instance_id: InstanceId,
    /// The node's name, as given to [`Cloud::add_instance`](super::Cloud::add_instance).
    pub node: String,
    /// 0 is the primary interface.
    pub device_index: u32,
    /// 0 on instance types with one network card.
    pub network_card: u32,
    /// The link's address.
    pub mac: Mac,
    /// The interface's first address. It is among those of `addresses_changed` too.
    pub primary_ip: IpAddr,
    /// The subnet the interface is in.
    pub subnet_id: SubnetId,
    /// The subnet's addresses.
    pub subnet_cidr: IpNetwork,
    /// The subnet's router: its second address.
    pub gateway: IpAddr,
    /// Whether the VPC drops what this interface sends from, or gets for, an
    /// address that it does not hold.
    pub source_dest_check: bool,
}

/// The network below the cloud.
///
/// All calls come from one thread, in the order of their modelled time, outside
/// of every lock of the cloud: they may block and may call the cloud. A change
/// that is due at once is told before EC2 answers the request that made it, so
/// what an answer promises is already routed.
pub trait FabricPort: Send + Sync {
    /// The interface appears in its instance. The primary interface of a new
    /// instance comes this way too. `addresses_changed` follows at once.
    fn attached(&self, link: EniLink);

    /// The interface is gone from its instance.
    fn detached(&self, eni_id: &EniId);

    /// All addresses and prefixes of an attached interface, the primary first:
    /// single addresses as /32 and /128, prefixes as /28 and /80.
    fn addresses_changed(&self, eni_id: &EniId, addresses: Vec<IpNetwork>);

    /// The source and destination check of an attached interface was switched.
    fn source_dest_check_changed(&self, eni_id: &EniId, enabled: bool);
}

/// A fabric that carries nothing, where only the API is wanted.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoFabric;

impl FabricPort for NoFabric {
    fn attached(&self, _link: EniLink) {}
    fn detached(&self, _eni_id: &EniId) {}
    fn addresses_changed(&self, _eni_id: &EniId, _addresses: Vec<IpNetwork>) {}
    fn source_dest_check_changed(&self, _eni_id: &EniId, _enabled: bool) {}
}
