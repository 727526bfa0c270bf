//! AssignIpv6Addresses and UnassignIpv6Addresses.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;

use super::assign::check_takes_addresses;
use super::attach::prefixes_unsupported;
use super::{Operation, count};
use crate::ec2::clock::SimTime;
use crate::ec2::error::ApiError;
use crate::ec2::ids::EniId;
use crate::ec2::model::UNATTACHED_ADDRESSES;
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::wanted_addresses::Wanted6;
use crate::ec2::xml::Xml;

/// The request to assign.
pub(super) struct Assign {
    eni: EniId,
    wanted: Wanted6,
}

impl Operation for Assign {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let eni = params.id("NetworkInterfaceId")?;
        let wanted = Wanted6 {
            addresses: params.list("Ipv6Addresses")?,
            count: count(params, "Ipv6AddressCount")?,
            prefixes: params.list("Ipv6Prefix")?,
            prefix_count: count(params, "Ipv6PrefixCount")?,
        };
        wanted.check_combination()?;
        if wanted.places() == 0 {
            return Err(ApiError::missing("Ipv6Addresses, Ipv6AddressCount, Ipv6Prefix or Ipv6PrefixCount"));
        }
        Ok(Self { eni, wanted })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        check_takes_addresses(eni)?;
        let limit = match &eni.attachment {
            None => UNATTACHED_ADDRESSES,
            Some(attachment) => {
                let kind = state.instance(&attachment.instance)?.kind;
                if self.wanted.has_prefixes() && !kind.takes_prefixes() {
                    return Err(prefixes_unsupported(kind.name));
                }
                kind.ipv6_per_eni
            }
        };
        if eni.ipv6_places().saturating_add(self.wanted.places()) > limit {
            return Err(ApiError::too_many_addresses());
        }
        let subnet_id = eni.subnet.clone();
        let mut subnet = state.subnet(&subnet_id)?.clone();
        let (addresses, prefixes) = self.wanted.take(&mut subnet, &mut state.rng)?;
        state.subnets.insert(subnet_id, subnet);
        state.change_eni(&self.eni, now, |eni| {
            eni.ipv6.extend(&addresses);
            eni.ipv6_prefixes.extend(&prefixes);
        });
        state.tell_addresses(&self.eni, now);
        let mut xml = Xml::default();
        xml.text("networkInterfaceId", &self.eni);
        xml.texts("assignedIpv6Addresses", addresses);
        xml.texts("assignedIpv6PrefixSet", prefixes);
        Ok(xml)
    }
}

/// The request to unassign.
pub(super) struct Unassign {
    eni: EniId,
    addresses: BTreeSet<Ipv6Addr>,
    prefixes: BTreeSet<Ipv6Network>,
}

impl Operation for Unassign {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let eni = params.id("NetworkInterfaceId")?;
        let addresses: BTreeSet<_> = params.list("Ipv6Addresses")?.into_iter().collect();
        let prefixes: BTreeSet<_> = params.list("Ipv6Prefix")?.into_iter().collect();
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(ApiError::missing("Ipv6Addresses or Ipv6Prefix"));
        }
        Ok(Self { eni, addresses, prefixes })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        if !self.addresses.iter().all(|address| eni.ipv6.contains(address))
            || !self.prefixes.iter().all(|prefix| eni.ipv6_prefixes.contains(prefix))
        {
            return Err(ApiError::invalid(format!(
                "Some of the IPv6 addresses are not assigned to interface {}",
                self.eni
            )));
        }
        if eni.primary_ipv6 && eni.ipv6.first().is_some_and(|a| self.addresses.contains(a)) {
            return Err(ApiError::invalid(format!(
                "The primary IPv6 address of the interface {} cannot be unassigned.",
                self.eni
            )));
        }
        let subnet_id = eni.subnet.clone();
        if let Some(space6) = state.subnets.get_mut(&subnet_id).and_then(|subnet| subnet.space6.as_mut()) {
            self.addresses.iter().for_each(|address| space6.give(*address));
            self.prefixes.iter().for_each(|prefix| space6.give_block(*prefix));
        }
        state.change_eni(&self.eni, now, |eni| {
            eni.ipv6.retain(|held| !self.addresses.contains(held));
            eni.ipv6_prefixes.retain(|held| !self.prefixes.contains(held));
        });
        state.tell_addresses(&self.eni, now);
        let mut xml = Xml::default();
        xml.text("networkInterfaceId", &self.eni);
        xml.texts("unassignedIpv6Addresses", &self.addresses);
        xml.texts("unassignedIpv6PrefixSet", &self.prefixes);
        Ok(xml)
    }
}
