//! Endpoints: what is known of a pod beside its policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf_common::abi::{Endpoint, EndpointFlags, SlotValue, capacity, map, shadow_of};

use super::{Datapath, MapError};

/// A pod as the filters have to know it. Policy is not part of it: that comes by
/// [`policy_core::Step::SetEndpoints`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Index of the host end.
    pub ifindex: u32,
    /// The pod's IPv4 address; without one no IPv4 packet passes.
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address; without one no IPv6 packet but neighbour discovery passes.
    pub ipv6: Option<Ipv6Addr>,
    /// The pod's own hardware address: no packet of another leaves it.
    pub mac: [u8; 6],
    /// New flow entries per tick of 1.07 s that the pod may cause; 0 means no limit.
    pub budget: u32,
}

impl EndpointSpec {
    /// The same with an address of either family.
    #[must_use]
    pub fn with_address(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.ipv4 = Some(v4),
            IpAddr::V6(v6) => self.ipv6 = Some(v6),
        }
        self
    }

    /// The map's value; sets, epoch and flags are those of `policy`.
    fn value(&self, policy: &Endpoint) -> Endpoint {
        Endpoint {
            ifindex: self.ifindex,
            flags: EndpointFlags::ACTIVE | policy.flags & OF_POLICY,
            set_in: policy.set_in,
            set_out: policy.set_out,
            epoch: policy.epoch,
            budget: self.budget,
            addr6: self.ipv6.map_or([0; 16], |v6| v6.octets()),
            addr4: self.ipv4.map_or([0; 4], |v4| v4.octets()),
            mac: self.mac,
            ..Endpoint::EMPTY
        }
    }
}

/// The flags that come with a pod's sets.
pub(super) const OF_POLICY: u32 =
    EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT | EndpointFlags::AUDIT;

/// A pod whose policy is not known yet: isolated by sets that have no rows, so
/// that all is denied.
const CLOSED: Endpoint =
    Endpoint { flags: EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT, ..Endpoint::EMPTY };

impl Datapath {
    /// Writes a pod into a slot. One that is there already with the same interface
    /// and addresses keeps its policy; any other begins closed: nothing passes
    /// until its sets are written.
    ///
    /// # Errors
    /// Where a map can not be written, or the slot is out of range.
    pub fn set_endpoint(&mut self, slot: u32, spec: &EndpointSpec) -> Result<(), MapError> {
        let old = self.read_endpoint(slot)?;
        let same = old.filter(|old| {
            let value = spec.value(old);
            (value.ifindex, value.addr4, value.addr6, value.mac)
                == (old.ifindex, old.addr4, old.addr6, old.mac)
        });
        if let Some(old) = old.filter(|_| same.is_none()) {
            self.drop_ifslot(old.ifindex, slot)?;
        }
        self.write_endpoint(slot, &spec.value(same.as_ref().unwrap_or(&CLOSED)))?;
        self.set_ifslot(spec.ifindex, slot)
    }

    /// Empties a slot: its filters drop everything from now on.
    ///
    /// # Errors
    /// Where a map can not be written, or the slot is out of range.
    pub fn clear_endpoint(&mut self, slot: u32) -> Result<(), MapError> {
        if let Some(old) = self.read_endpoint(slot)? {
            self.drop_ifslot(old.ifindex, slot)?;
        }
        self.put_endpoint(slot, Endpoint::EMPTY).map_err(MapError::aya(map::EP, "empty a slot"))?;
        self.maps.budget.set(slot, 0, 0).map_err(MapError::aya(map::BUDGET, "forget what was spent"))
    }

    /// All slots in use with the interface of each.
    ///
    /// # Errors
    /// Where the map can not be read.
    pub fn endpoints(&self) -> Result<Vec<(u32, EndpointSpec)>, MapError> {
        let mut found = Vec::new();
        for slot in 1..capacity::SLOTS {
            let Some(ep) = self.read_endpoint(slot)? else { continue };
            found.push((
                slot,
                EndpointSpec {
                    ifindex: ep.ifindex,
                    ipv4: (ep.addr4 != [0; 4]).then(|| ep.addr4.into()),
                    ipv6: (ep.addr6 != [0; 16]).then(|| ep.addr6.into()),
                    mac: ep.mac,
                    budget: ep.budget,
                },
            ));
        }
        Ok(found)
    }

    /// The value in a slot, if it is in use and whole.
    pub(super) fn read_endpoint(&self, slot: u32) -> Result<Option<Endpoint>, MapError> {
        let value = self.maps.ep.get(&slot, 0).map_err(MapError::aya(map::EP, "read a slot"))?.0;
        Ok(Some(value).filter(|ep| ep.verify(slot) && ep.flags().has(EndpointFlags::ACTIVE)))
    }

    pub(super) fn write_endpoint(&mut self, slot: u32, value: &Endpoint) -> Result<(), MapError> {
        self.put_endpoint(slot, value.sealed(slot)).map_err(MapError::aya(map::EP, "write a slot"))
    }

    /// The shadow first, so that one of the two is whole at any moment. A slot that is out of range has none.
    fn put_endpoint(&mut self, slot: u32, value: Endpoint) -> Result<(), aya::maps::MapError> {
        self.maps.ep.set(shadow_of(slot), super::plain::Plain(value), 0)?;
        self.maps.ep.set(slot, super::plain::Plain(value), 0)
    }

    /// What is right already is not written again: while an element is overwritten a look-up may miss it, and the
    /// pod's packets would be told by their source address.
    fn set_ifslot(&mut self, ifindex: u32, slot: u32) -> Result<(), MapError> {
        let value = SlotValue::new(ifindex, slot);
        match self.maps.ifslot.get(&ifindex, 0) {
            Ok(found) if found.0 == value => return Ok(()),
            Ok(_) | Err(aya::maps::MapError::KeyNotFound) => {}
            Err(error) => return Err(MapError::aya(map::IFSLOT, "read an interface")(error)),
        }
        let value = super::plain::Plain(value);
        self.maps.ifslot.insert(ifindex, value, 0).map_err(MapError::aya(map::IFSLOT, "add an interface"))
    }

    /// Forgets an interface, unless another slot has it by now.
    fn drop_ifslot(&mut self, ifindex: u32, slot: u32) -> Result<(), MapError> {
        match self.maps.ifslot.get(&ifindex, 0) {
            Ok(value) if value.0 == SlotValue::new(ifindex, slot) => {}
            Ok(_) | Err(aya::maps::MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(MapError::aya(map::IFSLOT, "read an interface")(error)),
        }
        match self.maps.ifslot.remove(&ifindex) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(MapError::aya(map::IFSLOT, "forget an interface")(error)),
        }
    }
}
