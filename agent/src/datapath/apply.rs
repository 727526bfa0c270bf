//! Carrying out steps: one match.

use std::net::IpAddr;

use ebpf_common::abi::{CidrKey4, CidrKey6, CidrValue, EndpointFlags, PeerKey4, PeerKey6, PeerValue};
use ipnetwork::IpNetwork;
use policy_core::{EndpointSets, Step, VipAddress};

use super::bulk::Stopped;
use super::endpoint::OF_POLICY;
use super::{ApplyError, Datapath, Unfinished, grace};

impl Datapath {
    /// Carries out steps in their order, and the entries of each in theirs.
    ///
    /// # Errors
    /// At the first entry that fails; those before it are written. Every step may
    /// be repeated.
    pub fn apply(&mut self, steps: &[Step]) -> Result<(), ApplyError> {
        steps.iter().try_for_each(|step| self.apply_step(step)).map_err(|unfinished| unfinished.source)
    }

    /// Carries out one step, its entries in their order.
    ///
    /// # Errors
    /// At the first entry that fails, with the number of those before it: they are written.
    pub fn apply_step(&mut self, step: &Step) -> Result<(), Unfinished> {
        let name = step.name();
        let written = match step {
            Step::AddPorts(list) => self.bulk.port.write(list.iter().copied()),
            Step::AddRows(list) => self.bulk.row.write(list.iter().copied()),
            Step::SetCidrs(list) => self.set_cidrs(list),
            Step::RemoveCidrs(list) => self.remove_cidrs(list),
            Step::SetPeers(list) => self.set_peers(list),
            Step::RemovePeers(list) => self.remove_peers(list),
            Step::SetVips(list) => self.bulk.vip.write(list.iter().map(|(address, target)| {
                let key = address.key();
                (key, target.value(&key))
            })),
            Step::RemoveVips(list) => self.bulk.vip.remove(list.iter().map(VipAddress::key)),
            Step::SetEndpoints(list) => return self.flip(list),
            Step::Grace => {
                return grace::wait()
                    .map_err(|error| Unfinished { done: 0, source: ApplyError::Grace(error) });
            }
            Step::RemoveRows(list) => self.bulk.row.remove(list.iter().copied()),
            Step::RemovePorts(list) => self.bulk.port.remove(list.iter().copied()),
        };
        written.map_err(|Stopped { done, source }| Unfinished {
            done,
            source: ApplyError::Map { step: name, source },
        })
    }

    /// Sets and epoch of endpoints. The epoch is noted first: one that no endpoint
    /// has yet is only skipped, one that is not noted could be given out again.
    fn flip(&mut self, list: &[(u32, EndpointSets)]) -> Result<(), Unfinished> {
        let wrap = |source| ApplyError::Map { step: "set_endpoints", source };
        if let Some(highest) = list.iter().map(|(_, sets)| sets.epoch).max() {
            self.note_epoch(highest).map_err(|error| Unfinished { done: 0, source: wrap(error) })?;
        }
        for (done, (slot, sets)) in list.iter().enumerate() {
            self.flip_one(*slot, sets).map_err(|source| Unfinished { done, source })?;
        }
        Ok(())
    }

    fn flip_one(&mut self, slot: u32, sets: &EndpointSets) -> Result<(), ApplyError> {
        let wrap = |source| ApplyError::Map { step: "set_endpoints", source };
        let mut ep = self.read_endpoint(slot).map_err(wrap)?.ok_or(ApplyError::NoEndpoint { slot })?;
        ep.set_in = sets.ingress.0;
        ep.set_out = sets.egress.0;
        ep.epoch = sets.epoch;
        ep.flags &= !OF_POLICY;
        for (set, flag) in [
            (ep.set_in != 0, EndpointFlags::ISOLATED_IN),
            (ep.set_out != 0, EndpointFlags::ISOLATED_OUT),
            (sets.audit, EndpointFlags::AUDIT),
        ] {
            ep.flags |= if set { flag } else { 0 };
        }
        self.write_endpoint(slot, &ep).map_err(wrap)
    }

    fn set_peers(&mut self, list: &[(IpAddr, PeerValue)]) -> Result<(), Stopped> {
        in_runs(
            list,
            |(address, _)| address.is_ipv4(),
            |run, v4| {
                let entries = run.iter();
                if v4 {
                    self.bulk
                        .peer4
                        .write(entries.filter_map(|(address, value)| Some((key4(*address)?, *value))))
                } else {
                    self.bulk
                        .peer6
                        .write(entries.filter_map(|(address, value)| Some((key6(*address)?, *value))))
                }
            },
        )
    }

    fn remove_peers(&mut self, list: &[IpAddr]) -> Result<(), Stopped> {
        in_runs(list, IpAddr::is_ipv4, |run, v4| {
            let addresses = run.iter().copied();
            if v4 {
                self.bulk.peer4.remove(addresses.filter_map(key4))
            } else {
                self.bulk.peer6.remove(addresses.filter_map(key6))
            }
        })
    }

    fn set_cidrs(&mut self, list: &[(IpNetwork, CidrValue)]) -> Result<(), Stopped> {
        in_runs(
            list,
            |(prefix, _)| prefix.is_ipv4(),
            |run, v4| {
                let entries = run.iter();
                if v4 {
                    self.bulk
                        .cidr4
                        .write(entries.filter_map(|(prefix, value)| Some((prefix4(prefix)?, *value))))
                } else {
                    self.bulk
                        .cidr6
                        .write(entries.filter_map(|(prefix, value)| Some((prefix6(prefix)?, *value))))
                }
            },
        )
    }

    fn remove_cidrs(&mut self, list: &[IpNetwork]) -> Result<(), Stopped> {
        in_runs(list, IpNetwork::is_ipv4, |run, v4| {
            if v4 {
                self.bulk.cidr4.remove(run.iter().filter_map(prefix4))
            } else {
                self.bulk.cidr6.remove(run.iter().filter_map(prefix6))
            }
        })
    }
}

/// A list whose entries go to two maps, in its order: as many at a time as go to the same
/// one. So what stands after a fault is always the beginning of the list.
fn in_runs<T>(
    list: &[T],
    in_first: impl Fn(&T) -> bool,
    mut write: impl FnMut(&[T], bool) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    let mut before = 0;
    for run in list.chunk_by(|one, next| in_first(one) == in_first(next)) {
        write(run, run.first().is_some_and(&in_first))
            .map_err(|Stopped { done, source }| Stopped { done: before + done, source })?;
        before += run.len();
    }
    Ok(())
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

fn prefix4(prefix: &IpNetwork) -> Option<CidrKey4> {
    match prefix {
        IpNetwork::V4(v4) => Some(CidrKey4::new(v4.network().octets(), v4.prefix())),
        IpNetwork::V6(_) => None,
    }
}

fn prefix6(prefix: &IpNetwork) -> Option<CidrKey6> {
    match prefix {
        IpNetwork::V4(_) => None,
        IpNetwork::V6(v6) => Some(CidrKey6::new(v6.network().octets(), v6.prefix())),
    }
}
