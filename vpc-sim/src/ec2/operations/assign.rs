//! AssignPrivateIpAddresses and UnassignPrivateIpAddresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::attach::prefixes_unsupported;
use super::{Operation, count, done};
use crate::ec2::clock::SimTime;
use crate::ec2::error::ApiError;
use crate::ec2::ids::EniId;
use crate::ec2::model::{Eni, UNATTACHED_ADDRESSES};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::wanted_addresses::Wanted4;
use crate::ec2::xml::Xml;

/// The request to assign.
pub(super) struct Assign {
    eni: EniId,
    wanted: Wanted4,
    allow_reassignment: bool,
}

impl Operation for Assign {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let eni = params.id("NetworkInterfaceId")?;
        let wanted = Wanted4 {
            addresses: params.list("PrivateIpAddress")?,
            count: count(params, "SecondaryPrivateIpAddressCount")?,
            prefixes: params.list("Ipv4Prefix")?,
            prefix_count: count(params, "Ipv4PrefixCount")?,
        };
        wanted.check_combination()?;
        if wanted.places() == 0 {
            return Err(ApiError::missing(
                "PrivateIpAddress, SecondaryPrivateIpAddressCount, Ipv4Prefix or Ipv4PrefixCount",
            ));
        }
        let allow_reassignment = params.flag("AllowReassignment")?.unwrap_or(false);
        Ok(Self { eni, wanted, allow_reassignment })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        check_takes_addresses(eni)?;
        check_room(state, eni, &self.wanted)?;
        let subnet_id = eni.subnet.clone();
        let moved = if self.allow_reassignment { self.movable(state, eni) } else { Vec::new() };
        // All or nothing: the subnet is changed only when everything was had.
        let mut subnet = state.subnet(&subnet_id)?.clone();
        moved.iter().for_each(|(_, address)| subnet.space.give(*address));
        let placement = state.settings.placement;
        let (addresses, prefixes) = self.wanted.take(&mut subnet, placement, &mut state.rng)?;
        state.subnets.insert(subnet_id, subnet);
        for (from, address) in moved {
            state.change_eni(&from, now, |eni| eni.secondaries.retain(|held| *held != address));
            state.tell_addresses(&from, now);
        }
        state.change_eni(&self.eni, now, |eni| {
            eni.secondaries.extend(&addresses);
            eni.prefixes.extend(&prefixes);
        });
        state.tell_addresses(&self.eni, now);
        let mut xml = Xml::default();
        xml.text("networkInterfaceId", &self.eni);
        xml.list("assignedPrivateIpAddressesSet", addresses, |xml, address| {
            xml.text("privateIpAddress", address);
        });
        xml.list("assignedIpv4PrefixSet", prefixes, |xml, prefix| xml.text("ipv4Prefix", prefix));
        Ok(xml)
    }
}

impl Assign {
    /// The wanted addresses that other interfaces of the subnet hold as
    /// secondary ones, and who holds them.
    fn movable(&self, state: &State, eni: &Eni) -> Vec<(EniId, Ipv4Addr)> {
        let others = state.enis.values().map(|record| &record.eni);
        others
            .filter(|other| other.id != eni.id && other.subnet == eni.subnet)
            .flat_map(|other| other.secondaries.iter().map(move |held| (other.id.clone(), *held)))
            .filter(|(_, held)| self.wanted.addresses.contains(held))
            .collect()
    }
}

/// Interfaces without any address get none.
pub(super) fn check_takes_addresses(eni: &Eni) -> Result<(), ApiError> {
    if eni.primary.is_none() {
        return Err(ApiError::invalid(format!(
            "Network interface '{}' of type '{}' does not support IP addresses",
            eni.id,
            eni.kind.name()
        )));
    }
    Ok(())
}

/// Whether the instance, or an interface on its own, takes as many more.
fn check_room(state: &State, eni: &Eni, wanted: &Wanted4) -> Result<(), ApiError> {
    let limit = match &eni.attachment {
        None => UNATTACHED_ADDRESSES,
        Some(attachment) => {
            let kind = state.instance(&attachment.instance)?.kind;
            if wanted.has_prefixes() && !kind.takes_prefixes() {
                return Err(prefixes_unsupported(kind.name));
            }
            kind.ipv4_per_eni
        }
    };
    if eni.ipv4_places().saturating_add(wanted.places()) > limit {
        return Err(ApiError::too_many_addresses());
    }
    Ok(())
}

/// The request to unassign.
pub(super) struct Unassign {
    eni: EniId,
    addresses: BTreeSet<Ipv4Addr>,
    prefixes: BTreeSet<Ipv4Network>,
}

impl Operation for Unassign {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let eni = params.id("NetworkInterfaceId")?;
        let addresses: BTreeSet<_> = params.list("PrivateIpAddress")?.into_iter().collect();
        let prefixes: BTreeSet<_> = params.list("Ipv4Prefix")?.into_iter().collect();
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(ApiError::missing("PrivateIpAddress or Ipv4Prefix"));
        }
        Ok(Self { eni, addresses, prefixes })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        if eni.primary.is_some_and(|primary| self.addresses.contains(&primary)) {
            return Err(ApiError::invalid(format!(
                "The primary IP address of the interface {} cannot be unassigned.",
                self.eni
            )));
        }
        let strange = self.addresses.iter().filter(|a| !eni.secondaries.contains(a));
        let strange = strange.map(ToString::to_string);
        let blocks = self.prefixes.iter().filter(|p| !eni.prefixes.contains(p));
        let strange: Vec<String> = strange.chain(blocks.map(ToString::to_string)).collect();
        if !strange.is_empty() {
            return Err(ApiError::invalid(format!(
                "Some of {strange:?} are not assigned to interface {}",
                self.eni
            )));
        }
        let subnet_id = eni.subnet.clone();
        if let Some(subnet) = state.subnets.get_mut(&subnet_id) {
            self.addresses.iter().for_each(|address| subnet.space.give(*address));
            self.prefixes.iter().for_each(|prefix| subnet.space.give_block(*prefix));
        }
        state.change_eni(&self.eni, now, |eni| {
            eni.secondaries.retain(|held| !self.addresses.contains(held));
            eni.prefixes.retain(|held| !self.prefixes.contains(held));
        });
        state.tell_addresses(&self.eni, now);
        Ok(done())
    }
}
