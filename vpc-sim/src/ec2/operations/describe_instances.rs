//! DescribeInstances.

use std::collections::BTreeSet;

use super::Operation;
use super::describe_enis::{write_addresses, write_attachment, write_groups};
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::filter::Filters;
use crate::ec2::ids::InstanceId;
use crate::ec2::model::{ACCOUNT, Eni, Instance, private_dns_name};
use crate::ec2::paging::{PageSizes, Paging};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::tags::write_tags;
use crate::ec2::xml::Xml;

const FILTERS: &[&str] = &[
    "availability-zone",
    "instance-id",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "instance.group-name",
    "network-interface.addresses.private-ip-address",
    "network-interface.attachment.attachment-id",
    "network-interface.network-interface-id",
    "network-interface.subnet-id",
    "owner-id",
    "private-dns-name",
    "private-ip-address",
    "reservation-id",
    "subnet-id",
    "tag-key",
    "tag-value",
    "vpc-id",
];

/// The request.
pub(super) struct Describe {
    ids: BTreeSet<InstanceId>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Describe {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PageSizes::new(5, 1000), "InstanceId")?;
        let ids = params.ids("InstanceId")?.into_iter().collect();
        Ok(Self { ids, filters: Filters::parse(params, FILTERS)?, paging })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let state = &*state;
        if let Some(unknown) = self.ids.iter().find(|id| !state.instances.contains_key(id)) {
            return Err(ApiError::not_found(IdKind::Instance, unknown));
        }
        let chosen = state.instances.values().filter(|instance| {
            (self.ids.is_empty() || self.ids.contains(&instance.id))
                && self.filters.pass(&instance.tags, |name| attribute(state, instance, now, name))
        });
        let (page, next) = self.paging.cut(chosen, |instance| instance.id.to_string());
        let mut xml = Xml::default();
        xml.list("reservationSet", page, |xml, instance| {
            xml.text("reservationId", &instance.reservation);
            xml.text("ownerId", ACCOUNT);
            xml.list("groupSet", std::iter::empty::<()>(), |_, ()| {});
            xml.list("instancesSet", [instance], |xml, i| write_instance(xml, state, i, now));
        });
        xml.optional("nextToken", next);
        Ok(xml)
    }
}

/// The interfaces of an instance as Describe shows them, by device.
fn shown_enis<'a>(state: &'a State, instance: &'a Instance, now: SimTime) -> Vec<&'a Eni> {
    let records = instance.enis.iter().filter_map(|id| state.enis.get(id));
    let shown = records.map(|record| record.as_shown(now));
    let mut shown: Vec<&Eni> = shown.filter(|eni| eni.attachment.is_some()).collect();
    shown.sort_by_key(|eni| eni.attachment.as_ref().map(|held| (held.network_card, held.device_index)));
    shown
}

fn primary_eni<'a>(state: &'a State, instance: &Instance) -> Option<&'a Eni> {
    let eni = &state.enis.get(&instance.primary_eni)?.eni;
    eni.attachment.is_some().then_some(eni)
}

fn attribute(state: &State, instance: &Instance, now: SimTime, name: &str) -> Vec<String> {
    let text = |value: &dyn ToString| vec![value.to_string()];
    let enis = |get: &dyn Fn(&Eni) -> Vec<String>| -> Vec<String> {
        shown_enis(state, instance, now).into_iter().flat_map(get).collect()
    };
    let primary = primary_eni(state, instance);
    let (code, state_name) = instance.state.code_and_name();
    match name {
        "availability-zone" => text(&instance.zone),
        "instance-id" => text(&instance.id),
        "instance-state-code" => text(&code),
        "instance-state-name" => text(&state_name),
        "instance-type" => text(&instance.kind.name),
        "instance.group-id" => primary.iter().flat_map(|eni| &eni.groups).map(ToString::to_string).collect(),
        "instance.group-name" => {
            let groups = primary.iter().flat_map(|eni| &eni.groups);
            groups.filter_map(|id| Some(state.groups.get(id)?.name.clone())).collect()
        }
        "network-interface.addresses.private-ip-address" => {
            enis(&|eni| eni.primary.iter().chain(&eni.secondaries).map(ToString::to_string).collect())
        }
        "network-interface.attachment.attachment-id" => {
            enis(&|eni| eni.attachment.iter().map(|held| held.id.to_string()).collect())
        }
        "network-interface.network-interface-id" => enis(&|eni| text(&eni.id)),
        "network-interface.subnet-id" => enis(&|eni| text(&eni.subnet)),
        "owner-id" => text(&ACCOUNT),
        "private-dns-name" => primary.and_then(|eni| eni.primary).map(private_dns_name).into_iter().collect(),
        "private-ip-address" => primary.and_then(|eni| eni.primary).iter().map(ToString::to_string).collect(),
        "reservation-id" => text(&instance.reservation),
        "subnet-id" => text(&instance.subnet),
        "vpc-id" => text(&instance.vpc),
        _ => Vec::new(),
    }
}

fn write_instance(xml: &mut Xml, state: &State, instance: &Instance, now: SimTime) {
    let (code, name) = instance.state.code_and_name();
    let primary = primary_eni(state, instance);
    let address = primary.and_then(|eni| eni.primary);
    xml.text("instanceId", &instance.id);
    xml.text("imageId", "ami-00000000000000001");
    xml.element("instanceState", |xml| {
        xml.text("code", code);
        xml.text("name", name);
    });
    xml.optional("privateDnsName", address.map(private_dns_name));
    xml.text("amiLaunchIndex", 0);
    xml.text("instanceType", instance.kind.name);
    xml.text("launchTime", instance.launched);
    xml.element("placement", |xml| {
        xml.text("availabilityZone", &instance.zone);
        xml.text("tenancy", "default");
    });
    xml.text("subnetId", &instance.subnet);
    xml.text("vpcId", &instance.vpc);
    xml.optional("privateIpAddress", address);
    if let Some(eni) = primary {
        xml.text("sourceDestCheck", eni.source_dest_check);
        write_groups(xml, state, eni);
    }
    write_tags(xml, &instance.tags);
    xml.optional("hypervisor", instance.kind.hypervisor);
    xml.list("networkInterfaceSet", shown_enis(state, instance, now), |xml, eni| {
        xml.text("networkInterfaceId", &eni.id);
        xml.text("subnetId", &eni.subnet);
        xml.text("vpcId", &eni.vpc);
        xml.text("description", &eni.description);
        xml.text("ownerId", ACCOUNT);
        xml.text("status", eni.status(now));
        xml.text("macAddress", eni.mac);
        xml.optional("privateIpAddress", eni.primary);
        xml.optional("privateDnsName", eni.primary.map(private_dns_name));
        xml.text("sourceDestCheck", eni.source_dest_check);
        xml.text("interfaceType", eni.kind.name());
        write_groups(xml, state, eni);
        if let Some(attachment) = &eni.attachment {
            xml.element("attachment", |xml| write_attachment(xml, attachment, now));
        }
        write_addresses(xml, eni);
    });
}
