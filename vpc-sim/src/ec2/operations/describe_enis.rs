//! DescribeNetworkInterfaces, and how an interface is written.

use std::collections::{BTreeMap, BTreeSet};

use super::Operation;
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::filter::Filters;
use crate::ec2::ids::EniId;
use crate::ec2::model::{ACCOUNT, Attachment, Eni, private_dns_name, zone_id};
use crate::ec2::paging::{PageSizes, Paging};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::tags::write_tags;
use crate::ec2::xml::Xml;

const FILTERS: &[&str] = &[
    "addresses.association.owner-id",
    "addresses.association.public-ip",
    "addresses.primary",
    "addresses.private-ip-address",
    "association.allocation-id",
    "association.association-id",
    "association.ip-owner-id",
    "association.public-dns-name",
    "association.public-ip",
    "attachment.attach-time",
    "attachment.attachment-id",
    "attachment.delete-on-termination",
    "attachment.device-index",
    "attachment.instance-id",
    "attachment.instance-owner-id",
    "attachment.network-card-index",
    "attachment.status",
    "availability-zone",
    "availability-zone-id",
    "description",
    "group-id",
    "group-name",
    "interface-type",
    "ipv6-addresses.ipv6-address",
    "mac-address",
    "network-interface-id",
    "owner-id",
    "private-dns-name",
    "private-ip-address",
    "requester-id",
    "requester-managed",
    "source-dest-check",
    "status",
    "subnet-id",
    "tag-key",
    "tag-value",
    "vpc-id",
];

/// The request.
pub(super) struct Describe {
    ids: BTreeSet<EniId>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Describe {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PageSizes::new(5, 1000), "NetworkInterfaceId")?;
        let ids = params.ids("NetworkInterfaceId")?.into_iter().collect();
        Ok(Self { ids, filters: Filters::parse(params, FILTERS)?, paging })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let state = &*state;
        let found = state.enis.values().filter(|record| record.found_from <= now);
        let found = found.map(|record| record.as_shown(now));
        let ghosts = state.ghosts.iter().map(|(_, eni)| eni);
        let shown: BTreeMap<&EniId, &Eni> = ghosts.chain(found).map(|eni| (&eni.id, eni)).collect();
        if let Some(unknown) = self.ids.iter().find(|id| !shown.contains_key(id)) {
            return Err(ApiError::not_found(IdKind::Interface, unknown));
        }
        let chosen = shown.into_values().filter(|eni| {
            (self.ids.is_empty() || self.ids.contains(&eni.id))
                && self.filters.pass(&eni.tags, |name| attribute(state, eni, now, name))
        });
        let (page, next) = self.paging.cut(chosen, |eni| eni.id.to_string());
        let mut xml = Xml::default();
        xml.list("networkInterfaceSet", page, |xml, eni| {
            write_eni(xml, state, eni, eni.status(now), now);
        });
        xml.optional("nextToken", next);
        Ok(xml)
    }
}

/// The values of a filter's attribute.
fn attribute(state: &State, eni: &Eni, now: SimTime, name: &str) -> Vec<String> {
    let text = |value: &dyn ToString| vec![value.to_string()];
    let attached = |get: &dyn Fn(&Attachment) -> String| eni.attachment.iter().map(get).collect::<Vec<_>>();
    let addresses = || eni.primary.iter().chain(&eni.secondaries);
    match name {
        "addresses.primary" => {
            let primary = eni.primary.iter().map(|_| "true");
            let others = eni.secondaries.iter().map(|_| "false");
            primary.chain(others).map(str::to_owned).collect()
        }
        "addresses.private-ip-address" => addresses().map(ToString::to_string).collect(),
        "attachment.attach-time" => attached(&|a| a.began.to_string()),
        "attachment.attachment-id" => attached(&|a| a.id.to_string()),
        "attachment.delete-on-termination" => attached(&|a| a.delete_on_termination.to_string()),
        "attachment.device-index" => attached(&|a| a.device_index.to_string()),
        "attachment.instance-id" => attached(&|a| a.instance.to_string()),
        "attachment.instance-owner-id" => attached(&|_| ACCOUNT.to_owned()),
        "attachment.network-card-index" => attached(&|a| a.network_card.to_string()),
        "attachment.status" => attached(&|a| a.status(now).to_owned()),
        "availability-zone" => text(&eni.zone),
        "availability-zone-id" => text(&zone_id(&eni.zone)),
        "description" => text(&eni.description),
        "group-id" => eni.groups.iter().map(ToString::to_string).collect(),
        "group-name" => eni.groups.iter().filter_map(|id| Some(state.groups.get(id)?.name.clone())).collect(),
        "interface-type" => text(&eni.kind.name()),
        "ipv6-addresses.ipv6-address" => eni.ipv6.iter().map(ToString::to_string).collect(),
        "mac-address" => text(&eni.mac),
        "network-interface-id" => text(&eni.id),
        "owner-id" => text(&ACCOUNT),
        "private-dns-name" => eni.primary.map(private_dns_name).into_iter().collect(),
        "private-ip-address" => eni.primary.iter().map(ToString::to_string).collect(),
        "requester-managed" => text(&false),
        "source-dest-check" => text(&eni.source_dest_check),
        "status" => text(&eni.status(now)),
        "subnet-id" => text(&eni.subnet),
        "vpc-id" => text(&eni.vpc),
        // No interface here has a public address or another service for its maker.
        _ => Vec::new(),
    }
}

/// The inside of an interface's element.
pub(super) fn write_eni(xml: &mut Xml, state: &State, eni: &Eni, status: &str, now: SimTime) {
    xml.text("networkInterfaceId", &eni.id);
    xml.text("subnetId", &eni.subnet);
    xml.text("vpcId", &eni.vpc);
    xml.text("availabilityZone", &eni.zone);
    xml.text("availabilityZoneId", zone_id(&eni.zone));
    xml.text("description", &eni.description);
    xml.text("ownerId", ACCOUNT);
    xml.text("requesterManaged", false);
    xml.text("status", status);
    xml.text("macAddress", eni.mac);
    xml.optional("privateIpAddress", eni.primary);
    xml.optional("privateDnsName", eni.primary.map(private_dns_name));
    xml.text("sourceDestCheck", eni.source_dest_check);
    xml.text("interfaceType", eni.kind.name());
    write_groups(xml, state, eni);
    if let Some(attachment) = &eni.attachment {
        xml.element("attachment", |xml| {
            write_attachment(xml, attachment, now);
            xml.text("instanceId", &attachment.instance);
            xml.text("instanceOwnerId", ACCOUNT);
        });
    }
    write_addresses(xml, eni);
    write_tags(xml, &eni.tags);
}

/// What an attachment is, whoever's side it is written on.
pub(super) fn write_attachment(xml: &mut Xml, attachment: &Attachment, now: SimTime) {
    xml.text("attachmentId", &attachment.id);
    xml.text("deviceIndex", attachment.device_index);
    xml.text("networkCardIndex", attachment.network_card);
    xml.text("status", attachment.status(now));
    xml.text("attachTime", attachment.began);
    xml.text("deleteOnTermination", attachment.delete_on_termination);
}

/// The interface's groups.
pub(super) fn write_groups(xml: &mut Xml, state: &State, eni: &Eni) {
    xml.list("groupSet", &eni.groups, |xml, id| {
        xml.text("groupId", id);
        xml.optional("groupName", state.groups.get(id).map(|group| &group.name));
    });
}

/// The interface's addresses and prefixes.
pub(super) fn write_addresses(xml: &mut Xml, eni: &Eni) {
    let primary = eni.primary.iter().map(|address| (address, true));
    let all = primary.chain(eni.secondaries.iter().map(|address| (address, false)));
    xml.list("privateIpAddressesSet", all, |xml, (address, is_primary)| {
        xml.text("privateIpAddress", address);
        xml.text("privateDnsName", private_dns_name(*address));
        xml.text("primary", is_primary);
    });
    xml.list("ipv4PrefixSet", &eni.prefixes, |xml, prefix| xml.text("ipv4Prefix", prefix));
    xml.list("ipv6AddressesSet", eni.ipv6.iter().enumerate(), |xml, (index, address)| {
        xml.text("ipv6Address", address);
        xml.text("isPrimaryIpv6", eni.primary_ipv6 && index == 0);
    });
    xml.list("ipv6PrefixSet", &eni.ipv6_prefixes, |xml, prefix| xml.text("ipv6Prefix", prefix));
}
