//! DescribeInstanceTypes.

use std::collections::BTreeSet;

use super::Operation;
use crate::ec2::clock::SimTime;
use crate::ec2::error::ApiError;
use crate::ec2::filter::Filters;
use crate::ec2::instance_types::InstanceType;
use crate::ec2::paging::{PageSizes, Paging};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::tags::Tags;
use crate::ec2::xml::Xml;

const FILTERS: &[&str] = &[
    "bare-metal",
    "hypervisor",
    "instance-type",
    "network-info.ipv4-addresses-per-interface",
    "network-info.ipv6-addresses-per-interface",
    "network-info.ipv6-supported",
    "network-info.maximum-network-cards",
    "network-info.maximum-network-interfaces",
    "vcpu-info.default-vcpus",
];

/// The request.
pub(super) struct Describe {
    names: BTreeSet<String>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Describe {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PageSizes::new(5, 100), "InstanceType")?;
        let names: BTreeSet<String> = params.texts("InstanceType")?.into_iter().collect();
        if names.len() > 100 {
            return Err(ApiError::invalid("No more than 100 instance types can be named"));
        }
        Ok(Self { names, filters: Filters::parse(params, FILTERS)?, paging })
    }

    fn execute(self, _state: &mut State, _now: SimTime) -> Result<Xml, ApiError> {
        if let Some(unknown) = self.names.iter().find(|name| InstanceType::find(name).is_none()) {
            return Err(ApiError::new(
                "InvalidInstanceType",
                format!("The following supplied instance types do not exist: [{unknown}]"),
            ));
        }
        let untagged = Tags::new();
        let chosen = InstanceType::all().iter().filter(|kind| {
            (self.names.is_empty() || self.names.contains(kind.name))
                && self.filters.pass(&untagged, |name| attribute(kind, name))
        });
        let (page, next) = self.paging.cut(chosen, |kind| kind.name.to_owned());
        let mut xml = Xml::default();
        xml.list("instanceTypeSet", page, write_type);
        xml.optional("nextToken", next);
        Ok(xml)
    }
}

fn attribute(kind: &InstanceType, name: &str) -> Vec<String> {
    vec![match name {
        "bare-metal" => kind.bare_metal.to_string(),
        "hypervisor" => return kind.hypervisor.iter().map(|name| (*name).to_owned()).collect(),
        "instance-type" => kind.name.to_owned(),
        "network-info.ipv4-addresses-per-interface" => kind.ipv4_per_eni.to_string(),
        "network-info.ipv6-addresses-per-interface" => kind.ipv6_per_eni.to_string(),
        "network-info.ipv6-supported" => (kind.ipv6_per_eni > 0).to_string(),
        "network-info.maximum-network-cards" => kind.enis_per_card.len().to_string(),
        "network-info.maximum-network-interfaces" => kind.max_enis.to_string(),
        "vcpu-info.default-vcpus" => kind.vcpus.to_string(),
        _ => return Vec::new(),
    }]
}

fn write_type(xml: &mut Xml, kind: &InstanceType) {
    xml.text("instanceType", kind.name);
    xml.text("bareMetal", kind.bare_metal);
    xml.optional("hypervisor", kind.hypervisor);
    xml.element("vCpuInfo", |xml| xml.text("defaultVCpus", kind.vcpus));
    xml.element("networkInfo", |xml| {
        xml.text("maximumNetworkInterfaces", kind.max_enis);
        xml.text("maximumNetworkCards", kind.enis_per_card.len());
        xml.text("defaultNetworkCardIndex", kind.default_card);
        xml.list("networkCards", kind.enis_per_card.iter().enumerate(), |xml, (index, enis)| {
            xml.text("networkCardIndex", index);
            xml.text("maximumNetworkInterfaces", enis);
        });
        xml.text("ipv4AddressesPerInterface", kind.ipv4_per_eni);
        xml.text("ipv6AddressesPerInterface", kind.ipv6_per_eni);
        xml.text("ipv6Supported", kind.ipv6_per_eni > 0);
    });
}
