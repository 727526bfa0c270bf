//! Carrying out steps: one match.

use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::lpm_trie::Key;
use ebpf_common::abi::{
    CidrKey4, CidrKey6, CidrValue, EndpointFlags, PeerKey4, PeerKey6, PeerValue, PortKey, map,
};
use ipnetwork::IpNetwork;
use policy_core::{EndpointSets, Step};

use super::plain::Plain;
use super::syscall::update_batch;
use super::{ApplyError, Datapath, MapError, grace};

/// Entries of one batch: enough that the call costs nothing beside the work,
/// few enough that a full map is noticed early.
const BATCH: usize = 4096;

impl Datapath {
    /// Carries out steps in their order, and the entries of each in theirs.
    ///
    /// # Errors
    /// At the first entry that fails; those before it are written. Every step may
    /// be repeated.
    pub fn apply(&mut self, steps: &[Step]) -> Result<(), ApplyError> {
        for step in steps {
            self.apply_one(step)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, step: &Step) -> Result<(), ApplyError> {
        let name = step.name();
        let written = match step {
            Step::AddPorts(list) => list.iter().try_for_each(|(key, value)| {
                let key = port_key(key);
                self.maps.port.insert(&key, Plain(*value), 0).map_err(MapError::aya(map::PORT, "add a port"))
            }),
            Step::AddRows(list) => list.iter().try_for_each(|(key, value)| {
                self.maps
                    .row
                    .insert(Plain(*key), Plain(*value), 0)
                    .map_err(MapError::aya(map::ROW, "add a row"))
            }),
            Step::SetCidrs(list) => list.iter().try_for_each(|(prefix, value)| self.set_cidr(prefix, *value)),
            Step::RemoveCidrs(list) => list.iter().try_for_each(|prefix| self.remove_cidr(prefix)),
            Step::SetPeers(list) => self.set_peers(list),
            Step::RemovePeers(list) => list.iter().try_for_each(|address| self.remove_peer(*address)),
            Step::SetVips(list) => list.iter().try_for_each(|(address, target)| {
                let key = address.key();
                let value = Plain(target.value(&key));
                self.maps.vip.insert(Plain(key), value, 0).map_err(MapError::aya(map::VIP, "set a service"))
            }),
            Step::RemoveVips(list) => list.iter().try_for_each(|address| {
                absent_is_fine(map::VIP, self.maps.vip.remove(&Plain(address.key())))
            }),
            Step::SetEndpoints(list) => return self.flip(list),
            Step::Grace => return grace::wait().map_err(ApplyError::Grace),
            Step::RemoveRows(list) => {
                list.iter().try_for_each(|key| absent_is_fine(map::ROW, self.maps.row.remove(&Plain(*key))))
            }
            Step::RemovePorts(list) => list
                .iter()
                .try_for_each(|key| absent_is_fine(map::PORT, self.maps.port.remove(&port_key(key)))),
        };
        written.map_err(|source| ApplyError::Map { step: name, source })
    }

    /// Sets and epoch of endpoints. The epoch is noted first: one that no endpoint
    /// has yet is only skipped, one that is not noted could be given out again.
    fn flip(&mut self, list: &[(u32, EndpointSets)]) -> Result<(), ApplyError> {
        let wrap = |source| ApplyError::Map { step: "set_endpoints", source };
        if let Some(highest) = list.iter().map(|(_, sets)| sets.epoch).max() {
            self.note_epoch(highest).map_err(wrap)?;
        }
        for (slot, sets) in list {
            let mut ep =
                self.read_endpoint(*slot).map_err(wrap)?.ok_or(ApplyError::NoEndpoint { slot: *slot })?;
            ep.set_in = sets.ingress.0;
            ep.set_out = sets.egress.0;
            ep.epoch = sets.epoch;
            ep.flags &= !(EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT);
            if ep.set_in != 0 {
                ep.flags |= EndpointFlags::ISOLATED_IN;
            }
            if ep.set_out != 0 {
                ep.flags |= EndpointFlags::ISOLATED_OUT;
            }
            self.write_endpoint(*slot, &ep).map_err(wrap)?;
        }
        Ok(())
    }

    /// Runs of one family are written by one call each, in the order of the list.
    fn set_peers(&mut self, list: &[(IpAddr, PeerValue)]) -> Result<(), MapError> {
        for run in list.chunk_by(|a, b| a.0.is_ipv4() == b.0.is_ipv4()) {
            for chunk in run.chunks(BATCH) {
                let values: Vec<PeerValue> = chunk.iter().map(|(_, value)| *value).collect();
                let keys4: Vec<PeerKey4> = chunk.iter().filter_map(|(address, _)| key4(*address)).collect();
                if keys4.is_empty() {
                    let keys6: Vec<PeerKey6> =
                        chunk.iter().filter_map(|(address, _)| key6(*address)).collect();
                    let (_, result) = update_batch(self.maps.peer6_fd.as_fd(), &keys6, &values);
                    result.map_err(MapError::io(map::PEER6, "set addresses"))?;
                } else {
                    let (_, result) = update_batch(self.maps.peer4_fd.as_fd(), &keys4, &values);
                    result.map_err(MapError::io(map::PEER4, "set addresses"))?;
                }
            }
        }
        Ok(())
    }

    fn remove_peer(&mut self, address: IpAddr) -> Result<(), MapError> {
        match address {
            IpAddr::V4(v4) => {
                absent_is_fine(map::PEER4, self.maps.peer4.remove(&Plain(PeerKey4 { addr: v4.octets() })))
            }
            IpAddr::V6(v6) => {
                absent_is_fine(map::PEER6, self.maps.peer6.remove(&Plain(PeerKey6 { addr: v6.octets() })))
            }
        }
    }

    fn set_cidr(&mut self, prefix: &IpNetwork, value: CidrValue) -> Result<(), MapError> {
        match prefix {
            IpNetwork::V4(v4) => {
                let key = CidrKey4::new(v4.network().octets(), v4.prefix());
                let key = Key::new(key.prefix_len, key.addr);
                self.maps
                    .cidr4
                    .insert(&key, Plain(value), 0)
                    .map_err(MapError::aya(map::CIDR4, "set a prefix"))
            }
            IpNetwork::V6(v6) => {
                let key = CidrKey6::new(v6.network().octets(), v6.prefix());
                let key = Key::new(key.prefix_len, key.addr);
                self.maps
                    .cidr6
                    .insert(&key, Plain(value), 0)
                    .map_err(MapError::aya(map::CIDR6, "set a prefix"))
            }
        }
    }

    fn remove_cidr(&mut self, prefix: &IpNetwork) -> Result<(), MapError> {
        match prefix {
            IpNetwork::V4(v4) => {
                let key = CidrKey4::new(v4.network().octets(), v4.prefix());
                absent_is_fine(map::CIDR4, self.maps.cidr4.remove(&Key::new(key.prefix_len, key.addr)))
            }
            IpNetwork::V6(v6) => {
                let key = CidrKey6::new(v6.network().octets(), v6.prefix());
                absent_is_fine(map::CIDR6, self.maps.cidr6.remove(&Key::new(key.prefix_len, key.addr)))
            }
        }
    }
}

fn key4(address: IpAddr) -> Option<PeerKey4> {
    match address {
        IpAddr::V4(v4) => Some(PeerKey4 { addr: v4.octets() }),
        IpAddr::V6(_) => None,
    }
}

fn key6(address: IpAddr) -> Option<PeerKey6> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(PeerKey6 { addr: v6.octets() }),
    }
}

/// The trie's key as aya has it: the length apart from the bytes.
pub(super) fn port_key(key: &PortKey) -> Key<[u8; 8]> {
    let p = key.profile_be;
    Key::new(key.prefix_len, [p[0], p[1], p[2], p[3], key.proto, key.pad, key.port_be[0], key.port_be[1]])
}

fn absent_is_fine(map: &'static str, result: Result<(), aya::maps::MapError>) -> Result<(), MapError> {
    match result {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other.map_err(MapError::aya(map, "remove an entry")),
    }
}
