//! ENIs as EC2 keeps them.

use std::net::{IpAddr, Ipv4Addr};

use ipam_core::{
    AttachmentId, AttachmentRecord, AttachmentStatus, EniId, EniKind, EniRecord, EniStatus, MacAddr, Now,
    SubnetId,
};
use ipnetwork::IpNetwork;

use super::shell::NodeId;

/// One ENI.
#[derive(Clone, Debug)]
pub(crate) struct CloudEni {
    pub(crate) record: EniRecord,
    /// The node whose agent made it, attached or not.
    pub(crate) node: NodeId,
    /// When a detach under way is done.
    pub(crate) detached_at: Option<Now>,
    /// When the metadata service of its node lists it.
    pub(crate) listed_at: Option<Now>,
}

impl CloudEni {
    pub(crate) fn new(number: u32, node: NodeId, subnet: SubnetId, primary_ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        let record = EniRecord {
            id: EniId::new(format!("eni-{number:08x}")),
            mac: MacAddr([2, 0, a, b, c, d]),
            subnet,
            kind: EniKind::Interface,
            status: EniStatus::Available,
            attachment: None,
            primary_ip: IpAddr::V4(primary_ip),
            singles: Vec::new(),
            prefixes: Vec::new(),
            groups: std::collections::BTreeSet::new(),
            tags: std::collections::BTreeMap::new(),
            requester_managed: false,
        };
        Self { record, node, detached_at: None, listed_at: None }
    }

    /// Every address that pods could have.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.record.singles.iter().copied().chain(self.record.prefixes.iter().flat_map(IpNetwork::iter))
    }

    pub(crate) fn carries(&self, address: IpAddr) -> bool {
        self.record.singles.contains(&address)
            || self.record.prefixes.iter().any(|prefix| prefix.contains(address))
    }

    /// Slots beside the primary address.
    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(self.record.singles.len() + self.record.prefixes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn attach(
        &mut self,
        number: u32,
        instance: ipam_core::InstanceId,
        device_index: u32,
    ) -> AttachmentId {
        let id = AttachmentId::new(format!("eni-attach-{number:08x}"));
        self.record.status = EniStatus::InUse;
        self.record.attachment = Some(AttachmentRecord {
            id: id.clone(),
            instance: Some(instance),
            device_index,
            network_card: 0,
            status: AttachmentStatus::Attached,
            delete_on_termination: device_index == 0,
        });
        id
    }
}
