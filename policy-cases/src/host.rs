//! The maps as tables, and the programs' own code on the host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use ebpf_common::abi::{CidrKey4, CidrKey6, Direction, Endpoint, EndpointFlags, PeerKey4, PeerKey6};
use ebpf_common::host::{Decision, Host};
use policy_core::Tables;

use crate::ask::{Ask, By, Crossing, Heard, OUTSIDE};
use crate::places::Places;
use crate::scene::Scene;

/// The hardware address of every pod where no link is real.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The host's copy of the programs with what stands in their maps.
#[derive(Debug, Default)]
pub(crate) struct HostModel {
    host: Host,
}

impl HostModel {
    pub(crate) fn new() -> Self {
        let mut host = Host::default();
        host.now = 1000;
        Self { host }
    }

    /// Takes over what the maps hold; flows stay. A slot's interface has the slot's number.
    pub(crate) fn fill(&mut self, tables: &Tables, addresses: &BTreeMap<u32, Vec<IpAddr>>) {
        let host = &mut self.host;
        // A denied flow is judged again once a tick.
        host.now += 1;
        host.row = tables.rows.clone().into_iter().collect();
        host.port = tables.ports.clone().into_iter().collect();
        host.cidr4.clear();
        host.cidr6.clear();
        host.peer4.clear();
        host.peer6.clear();
        host.vip.clear();
        host.ep.clear();
        host.ifslot.clear();
        for (prefix, value) in &tables.cidrs {
            match prefix.network() {
                IpAddr::V4(a) => drop(host.cidr4.insert(CidrKey4::new(a.octets(), prefix.prefix()), *value)),
                IpAddr::V6(a) => drop(host.cidr6.insert(CidrKey6::new(a.octets(), prefix.prefix()), *value)),
            }
        }
        for (address, value) in &tables.peers {
            match address {
                IpAddr::V4(a) => drop(host.peer4.insert(PeerKey4 { addr: a.octets() }, *value)),
                IpAddr::V6(a) => drop(host.peer6.insert(PeerKey6 { addr: a.octets() }, *value)),
            }
        }
        for (address, target) in &tables.vips {
            let key = address.key();
            host.vip.insert(key, target.value(&key));
        }
        for (slot, sets) in &tables.endpoints {
            let flag = |set: bool, flag: u32| if set { flag } else { 0 };
            let mut endpoint = Endpoint {
                ifindex: *slot,
                flags: EndpointFlags::ACTIVE
                    | flag(sets.ingress.0 != 0, EndpointFlags::ISOLATED_IN)
                    | flag(sets.egress.0 != 0, EndpointFlags::ISOLATED_OUT)
                    | flag(sets.audit, EndpointFlags::AUDIT),
                set_in: sets.ingress.0,
                set_out: sets.egress.0,
                epoch: sets.epoch,
                mac: MAC,
                ..Endpoint::EMPTY
            };
            for address in addresses.get(slot).into_iter().flatten() {
                match address {
                    IpAddr::V4(a) => endpoint.addr4 = a.octets(),
                    IpAddr::V6(a) => endpoint.addr6 = a.octets(),
                }
            }
            host.put_endpoint(*slot, endpoint);
        }
    }

    /// What the code says at each link that a packet crosses; past one that drops it, it is
    /// asked at the other all the same.
    pub(crate) fn decide(
        &self,
        ask: &Ask,
        scene: &Scene,
        places: &Places,
    ) -> Result<Vec<(Crossing, Decision)>> {
        let frame = ask.frame();
        let slot = |party: usize| places.slot(&scene.parties[party]);
        ask.crossings(scene)
            .into_iter()
            .map(|crossing| {
                let from = match crossing.by {
                    By::Pod(party) => slot(party)?,
                    By::Node => 0,
                    By::Outside => OUTSIDE,
                };
                let facts = Host::facts(&frame, slot(crossing.party)?, from);
                let decision = self.host.run(crossing.direction, &frame, facts);
                Ok((crossing, decision))
            })
            .collect()
    }
}

/// What the ends say all in all.
pub(crate) fn ends(list: &[(Direction, bool)]) -> Heard {
    let passes = |way| list.iter().all(|(direction, passed)| *direction != way || *passed);
    Heard::Ends { egress: passes(Direction::Out), ingress: passes(Direction::In) }
}
