//! EC2's shapes into records of ours.

use std::net::Ipv4Addr;

use ipam_core::{
    AttachmentId, AttachmentRecord, AttachmentStatus, CardLimit, EniId, EniKind, EniRecord, EniStatus,
    InstanceId, InstanceLimits, Operation, SecurityGroupId, SubnetId, SubnetRecord,
};

use super::sdk::{
    AttachmentStatus as SdkAttachmentStatus, InstanceTypeHypervisor, InstanceTypeInfo, NetworkInterface,
    NetworkInterfaceStatus, NetworkInterfaceType, Subnet,
};
use crate::ec2::{Ec2Error, Ec2Result};

pub(super) fn read<T: std::str::FromStr>(operation: Operation, text: Option<&str>) -> Ec2Result<T> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|_| Ec2Error::nonsense(operation, format!("{text:?} in the answer")))
}

pub(super) fn unsigned(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

pub(super) fn subnet_of(operation: Operation, subnet: &Subnet) -> Ec2Result<SubnetRecord> {
    Ok(SubnetRecord {
        id: SubnetId::new(
            subnet.subnet_id().ok_or_else(|| Ec2Error::nonsense(operation, "a subnet without an id"))?,
        ),
        cidr: subnet.cidr_block().and_then(|cidr| cidr.parse().ok()),
        available: unsigned(subnet.available_ip_address_count()),
        zone: subnet.availability_zone().map(str::to_owned),
        vpc: subnet.vpc_id().map(str::to_owned),
        tags: subnet
            .tags()
            .iter()
            .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
            .collect(),
    })
}

pub(super) fn record_of(operation: Operation, eni: &NetworkInterface) -> Ec2Result<EniRecord> {
    let id =
        eni.network_interface_id().ok_or_else(|| Ec2Error::nonsense(operation, "an ENI without an id"))?;
    let mut singles = Vec::new();
    for address in eni.private_ip_addresses().iter().filter(|address| address.primary() != Some(true)) {
        singles.push(read(operation, address.private_ip_address())?);
    }
    let mut prefixes = Vec::new();
    for prefix in eni.ipv4_prefixes() {
        prefixes.push(read(operation, prefix.ipv4_prefix())?);
    }
    let attachment = eni.attachment().and_then(|attachment| {
        let status = match attachment.status() {
            Some(SdkAttachmentStatus::Attaching) => AttachmentStatus::Attaching,
            Some(SdkAttachmentStatus::Attached) => AttachmentStatus::Attached,
            _ => AttachmentStatus::Detaching,
        };
        Some(AttachmentRecord {
            id: AttachmentId::new(attachment.attachment_id()?),
            instance: attachment.instance_id().map(InstanceId::new),
            device_index: unsigned(attachment.device_index()),
            network_card: unsigned(attachment.network_card_index()),
            status,
            delete_on_termination: attachment.delete_on_termination() == Some(true),
        })
    });
    Ok(EniRecord {
        id: EniId::new(id),
        mac: read(operation, eni.mac_address())?,
        subnet: SubnetId::new(eni.subnet_id().unwrap_or_default()),
        kind: match eni.interface_type() {
            // IPv6 only: nothing there for pods.
            None | Some(NetworkInterfaceType::Interface) if eni.private_ip_address().is_none() => {
                EniKind::Other
            }
            None | Some(NetworkInterfaceType::Interface) => EniKind::Interface,
            Some(NetworkInterfaceType::Trunk) => EniKind::Trunk,
            Some(NetworkInterfaceType::Efa | NetworkInterfaceType::EfaOnly) => EniKind::Efa,
            Some(_) => EniKind::Other,
        },
        status: match eni.status() {
            Some(NetworkInterfaceStatus::Available) => EniStatus::Available,
            Some(NetworkInterfaceStatus::Attaching) => EniStatus::Attaching,
            Some(NetworkInterfaceStatus::Detaching) => EniStatus::Detaching,
            Some(NetworkInterfaceStatus::InUse | NetworkInterfaceStatus::Associated) => EniStatus::InUse,
            _ => EniStatus::Pending,
        },
        attachment,
        // An `efa-only` interface has no address at all; it must not make the node's others unreadable.
        primary_ip: match eni.private_ip_address() {
            None => Ipv4Addr::UNSPECIFIED.into(),
            stated => read(operation, stated)?,
        },
        singles,
        prefixes,
        groups: eni.groups().iter().filter_map(|group| group.group_id()).map(SecurityGroupId::new).collect(),
        tags: eni
            .tag_set()
            .iter()
            .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
            .collect(),
        requester_managed: eni.requester_managed() == Some(true),
    })
}

pub(super) fn limits_of(operation: Operation, info: &InstanceTypeInfo) -> Ec2Result<InstanceLimits> {
    let missing = || Ec2Error::nonsense(operation, "an instance type without network limits");
    let network = info.network_info().ok_or_else(missing)?;
    let default_card = unsigned(network.default_network_card_index());
    let mut cards: Vec<CardLimit> = network
        .network_cards()
        .iter()
        .map(|card| CardLimit {
            index: unsigned(card.network_card_index()),
            max_enis: unsigned(card.maximum_network_interfaces()),
        })
        .collect();
    if cards.is_empty() {
        cards.push(CardLimit { index: 0, max_enis: unsigned(network.maximum_network_interfaces()) });
    }
    let limits = InstanceLimits {
        instance_type: info.instance_type().map(|name| name.as_str().to_owned()).unwrap_or_default(),
        ipv4_per_eni: unsigned(network.ipv4_addresses_per_interface()),
        ipv6_per_eni: unsigned(network.ipv6_addresses_per_interface()),
        vcpus: unsigned(info.v_cpu_info().and_then(|cpus| cpus.default_v_cpus())),
        prefixes: info.bare_metal() == Some(true)
            || info.hypervisor() == Some(&InstanceTypeHypervisor::Nitro),
        default_card,
        cards,
    };
    if limits.enis() == 0 || limits.ipv4_per_eni == 0 {
        return Err(missing());
    }
    Ok(limits)
}
