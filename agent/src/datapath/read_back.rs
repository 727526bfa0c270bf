//! What stands in the maps already, from an agent before this one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::MapError as AyaError;
use ebpf_common::abi::{Endpoint, EndpointFlags, VipKey, VipValue, capacity, map};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use policy_core::model::Protocol;
use policy_core::{ClassId, EndpointSets, SetId, Tables, VipAddress, VipTarget};

use super::{Datapath, MapError};

impl Datapath {
    /// The whole policy state of the maps. Which sandbox was in a slot is not in
    /// them: it is empty.
    ///
    /// # Errors
    /// Where a map can not be read.
    pub fn installed(&self) -> Result<Tables, MapError> {
        let mut tables = Tables {
            ports: all(map::PORT, self.maps.port.iter(), |(key, value)| Some((key.0, value.0)))?,
            rows: all(map::ROW, self.maps.row.iter(), |(key, value)| Some((key.0, value.0)))?,
            vips: all(map::VIP, self.maps.vip.iter(), |(key, value)| vip(&key.0, &value.0))?,
            ..Tables::default()
        };
        tables.cidrs = all(map::CIDR4, self.maps.cidr4.iter(), |(key, value)| {
            let prefix = Ipv4Network::new(Ipv4Addr::from(key.data()), length(key.prefix_len())?).ok()?;
            Some((IpNetwork::V4(prefix), value.0))
        })?;
        tables.cidrs.append(&mut all(map::CIDR6, self.maps.cidr6.iter(), |(key, value)| {
            let prefix = Ipv6Network::new(Ipv6Addr::from(key.data()), length(key.prefix_len())?).ok()?;
            Some((IpNetwork::V6(prefix), value.0))
        })?);
        tables.peers = all(map::PEER4, self.maps.peer4.iter(), |(key, value)| {
            Some((IpAddr::from(key.0.addr), value.0))
        })?;
        tables.peers.append(&mut all(map::PEER6, self.maps.peer6.iter(), |(key, value)| {
            Some((IpAddr::from(key.0.addr), value.0))
        })?);
        for slot in 1..capacity::SLOTS {
            if let Some(ep) = self.read_endpoint(slot)? {
                tables.endpoints.insert(slot, sets(&ep));
            }
        }
        Ok(tables)
    }
}

fn all<E, K: Ord, V>(
    map: &'static str,
    entries: impl Iterator<Item = Result<E, AyaError>>,
    translate: impl Fn(E) -> Option<(K, V)>,
) -> Result<BTreeMap<K, V>, MapError> {
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(MapError::aya(map, "read its entries"))?;
        found.extend(translate(entry));
    }
    Ok(found)
}

fn length(bits: u32) -> Option<u8> {
    u8::try_from(bits).ok()
}

fn vip(key: &VipKey, value: &VipValue) -> Option<(VipAddress, VipTarget)> {
    let protocol =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == key.proto)?;
    let [a, b, c, d, ..] = key.addr;
    let address = if key.family == 4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(key.addr) };
    let target = VipTarget { class: ClassId(value.class), port: value.target_port };
    Some((VipAddress { address, port: key.port, protocol }, target))
}

fn sets(ep: &Endpoint) -> EndpointSets {
    EndpointSets {
        sandbox: "".into(),
        ingress: SetId(ep.set_in),
        egress: SetId(ep.set_out),
        epoch: ep.epoch,
        audit: EndpointFlags(ep.flags).has(EndpointFlags::AUDIT),
    }
}
