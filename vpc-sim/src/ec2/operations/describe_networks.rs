//! DescribeSubnets, DescribeVpcs and DescribeSecurityGroups.

use std::collections::BTreeSet;

use super::Operation;
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::filter::Filters;
use crate::ec2::ids::{GroupId, SubnetId, VpcId};
use crate::ec2::model::{ACCOUNT, Group, REGION, Subnet, Vpc, zone_id};
use crate::ec2::paging::{PageSizes, Paging};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::tags::write_tags;
use crate::ec2::xml::Xml;

const PAGES: PageSizes = PageSizes::new(5, 1000);

const SUBNET_FILTERS: &[&str] = &[
    "availability-zone",
    "availability-zone-id",
    "availabilityZone",
    "available-ip-address-count",
    "cidr",
    "cidr-block",
    "cidrBlock",
    "default-for-az",
    "ipv6-cidr-block-association.ipv6-cidr-block",
    "map-public-ip-on-launch",
    "owner-id",
    "state",
    "subnet-arn",
    "subnet-id",
    "tag-key",
    "tag-value",
    "vpc-id",
];

const VPC_FILTERS: &[&str] =
    &["cidr", "is-default", "isDefault", "owner-id", "state", "tag-key", "tag-value", "vpc-id"];

const GROUP_FILTERS: &[&str] =
    &["description", "group-id", "group-name", "owner-id", "tag-key", "tag-value", "vpc-id"];

/// The request for subnets.
pub(super) struct Subnets {
    ids: BTreeSet<SubnetId>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Subnets {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PAGES, "SubnetId")?;
        let ids = params.ids("SubnetId")?.into_iter().collect();
        Ok(Self { ids, filters: Filters::parse(params, SUBNET_FILTERS)?, paging })
    }

    fn execute(self, state: &mut State, _now: SimTime) -> Result<Xml, ApiError> {
        if let Some(unknown) = self.ids.iter().find(|id| !state.subnets.contains_key(id)) {
            return Err(ApiError::not_found(IdKind::Subnet, unknown));
        }
        let chosen = state.subnets.values().filter(|subnet| {
            (self.ids.is_empty() || self.ids.contains(&subnet.id))
                && self.filters.pass(&subnet.tags, |name| subnet_attribute(subnet, name))
        });
        let (page, next) = self.paging.cut(chosen, |subnet| subnet.id.to_string());
        let mut xml = Xml::default();
        xml.list("subnetSet", page, write_subnet);
        xml.optional("nextToken", next);
        Ok(xml)
    }
}

fn subnet_arn(subnet: &Subnet) -> String {
    format!("arn:aws:ec2:{REGION}:{ACCOUNT}:subnet/{}", subnet.id)
}

fn subnet_attribute(subnet: &Subnet, name: &str) -> Vec<String> {
    vec![match name {
        "availability-zone" | "availabilityZone" => subnet.zone.clone(),
        "availability-zone-id" => zone_id(&subnet.zone),
        "available-ip-address-count" => subnet.space.available().to_string(),
        "cidr" | "cidr-block" | "cidrBlock" => subnet.space.cidr().to_string(),
        "default-for-az" | "map-public-ip-on-launch" => false.to_string(),
        "ipv6-cidr-block-association.ipv6-cidr-block" => {
            return subnet.space6.iter().map(|space| space.cidr().to_string()).collect();
        }
        "owner-id" => ACCOUNT.to_owned(),
        "state" => "available".to_owned(),
        "subnet-arn" => subnet_arn(subnet),
        "subnet-id" => subnet.id.to_string(),
        "vpc-id" => subnet.vpc.to_string(),
        _ => return Vec::new(),
    }]
}

fn write_subnet(xml: &mut Xml, subnet: &Subnet) {
    xml.text("subnetId", &subnet.id);
    xml.text("subnetArn", subnet_arn(subnet));
    xml.text("state", "available");
    xml.text("ownerId", ACCOUNT);
    xml.text("vpcId", &subnet.vpc);
    xml.text("cidrBlock", subnet.space.cidr());
    xml.list("ipv6CidrBlockAssociationSet", &subnet.space6, |xml, space| {
        xml.text("ipv6CidrBlock", space.cidr());
        xml.text("associationId", format!("subnet-cidr-assoc-{}", &subnet.id.as_str()[7..]));
        xml.element("ipv6CidrBlockState", |xml| xml.text("state", "associated"));
    });
    xml.text("availableIpAddressCount", subnet.space.available());
    xml.text("availabilityZone", &subnet.zone);
    xml.text("availabilityZoneId", zone_id(&subnet.zone));
    xml.text("defaultForAz", false);
    xml.text("mapPublicIpOnLaunch", false);
    xml.text("assignIpv6AddressOnCreation", false);
    write_tags(xml, &subnet.tags);
}

/// The request for VPCs.
pub(super) struct Vpcs {
    ids: BTreeSet<VpcId>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Vpcs {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PAGES, "VpcId")?;
        let ids = params.ids("VpcId")?.into_iter().collect();
        Ok(Self { ids, filters: Filters::parse(params, VPC_FILTERS)?, paging })
    }

    fn execute(self, state: &mut State, _now: SimTime) -> Result<Xml, ApiError> {
        if let Some(unknown) = self.ids.iter().find(|id| !state.vpcs.contains_key(id)) {
            return Err(ApiError::not_found(IdKind::Vpc, unknown));
        }
        let chosen = state.vpcs.values().filter(|vpc| {
            (self.ids.is_empty() || self.ids.contains(&vpc.id))
                && self.filters.pass(&vpc.tags, |name| vpc_attribute(vpc, name))
        });
        let (page, next) = self.paging.cut(chosen, |vpc| vpc.id.to_string());
        let mut xml = Xml::default();
        xml.list("vpcSet", page, |xml, vpc| {
            let association = |kind: &str| format!("vpc-cidr-assoc-{kind}{}", &vpc.id.as_str()[5..]);
            xml.text("vpcId", &vpc.id);
            xml.text("ownerId", ACCOUNT);
            xml.text("state", "available");
            xml.text("cidrBlock", vpc.cidr);
            xml.list("cidrBlockAssociationSet", [vpc.cidr], |xml, cidr| {
                xml.text("cidrBlock", cidr);
                xml.text("associationId", association("4"));
                xml.element("cidrBlockState", |xml| xml.text("state", "associated"));
            });
            xml.list("ipv6CidrBlockAssociationSet", vpc.ipv6_cidr, |xml, cidr| {
                xml.text("ipv6CidrBlock", cidr);
                xml.text("associationId", association("6"));
                xml.element("ipv6CidrBlockState", |xml| xml.text("state", "associated"));
            });
            xml.text("isDefault", false);
            write_tags(xml, &vpc.tags);
        });
        xml.optional("nextToken", next);
        Ok(xml)
    }
}

fn vpc_attribute(vpc: &Vpc, name: &str) -> Vec<String> {
    vec![match name {
        "cidr" => vpc.cidr.to_string(),
        "is-default" | "isDefault" => false.to_string(),
        "owner-id" => ACCOUNT.to_owned(),
        "state" => "available".to_owned(),
        "vpc-id" => vpc.id.to_string(),
        _ => return Vec::new(),
    }]
}

/// The request for security groups.
pub(super) struct Groups {
    ids: BTreeSet<GroupId>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Groups {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PAGES, "GroupId")?;
        let ids = params.ids("GroupId")?.into_iter().collect();
        Ok(Self { ids, filters: Filters::parse(params, GROUP_FILTERS)?, paging })
    }

    fn execute(self, state: &mut State, _now: SimTime) -> Result<Xml, ApiError> {
        if let Some(unknown) = self.ids.iter().find(|id| !state.groups.contains_key(id)) {
            return Err(ApiError::not_found(IdKind::Group, unknown));
        }
        let chosen = state.groups.values().filter(|group| {
            (self.ids.is_empty() || self.ids.contains(&group.id))
                && self.filters.pass(&group.tags, |name| group_attribute(group, name))
        });
        let (page, next) = self.paging.cut(chosen, |group| group.id.to_string());
        let mut xml = Xml::default();
        xml.list("securityGroupInfo", page, |xml, group| {
            xml.text("ownerId", ACCOUNT);
            xml.text("groupId", &group.id);
            xml.text("groupName", &group.name);
            xml.text("groupDescription", &group.description);
            xml.text("vpcId", &group.vpc);
            write_tags(xml, &group.tags);
        });
        xml.optional("nextToken", next);
        Ok(xml)
    }
}

fn group_attribute(group: &Group, name: &str) -> Vec<String> {
    vec![match name {
        "description" => group.description.clone(),
        "group-id" => group.id.to_string(),
        "group-name" => group.name.clone(),
        "owner-id" => ACCOUNT.to_owned(),
        "vpc-id" => group.vpc.to_string(),
        _ => return Vec::new(),
    }]
}
