//! Flows that run already when filters come to a pod.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ebpf_common::abi::{CtState, capacity, map};
use ebpf_common::conntrack::tick;
use ebpf_common::env::Table;
use netlink::conntrack::{Flow, Timeouts};
use netlink::{address, conntrack};
use nix::time::{ClockId, clock_gettime};

use super::plain::Plain;
use super::seed::{self, Node, Place, Seed};
use super::{Datapath, InheritError, MapError};

impl Datapath {
    /// Writes an entry for each flow that the kernel tracks for the endpoints in `slots`, so that filters attached
    /// now know them: they run on until the pod's policy changes, and are then judged as every other. Without it,
    /// what a pod answers would be taken for a flow of its own. Returns how many entries were written.
    ///
    /// Called before filters are attached and again after: a flow may begin in between. What an entry of the pod's
    /// present policy says, and what was denied, stays.
    ///
    /// # Errors
    /// Where connection tracking, addresses or maps cannot be read, or a map cannot be written.
    pub fn inherit(&mut self, slots: &BTreeSet<u32>) -> Result<usize, InheritError> {
        let node = self.node()?;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_err(InheritError::Clock)?;
        let now = Duration::from_nanos(now.tv_sec().unsigned_abs() * 1_000_000_000)
            + Duration::from_nanos(now.tv_nsec().unsigned_abs());
        let timeouts = Timeouts::read();
        let mut planted: Result<usize, MapError> = Ok(0);
        let mut plant = |flow: &Flow| {
            // What was silent for longer than the filters would keep it, they take for ended.
            let seen = now.saturating_sub(timeouts.silent(flow));
            let seen = tick(u64::try_from(seen.as_nanos()).unwrap_or(u64::MAX));
            for seed in seed::entries(flow, &node, seen).into_iter().flatten() {
                if let Ok(count) = planted
                    && slots.contains(&seed.slot)
                {
                    planted = self.plant(&seed).map(|written| count + usize::from(written));
                }
            }
        };
        conntrack::open()
            .and_then(|mut socket| conntrack::each_flow(&mut socket, &mut plant))
            .map_err(InheritError::Conntrack)?;
        Ok(planted?)
    }

    fn node(&mut self) -> Result<Node, InheritError> {
        let mut node = Node::default();
        for slot in 1..capacity::SLOTS {
            let Some(ep) = self.read_endpoint(slot)? else { continue };
            let place = Place { slot, ifindex: ep.ifindex, epoch: ep.epoch };
            let v4 = (ep.addr4 != [0; 4]).then(|| IpAddr::from(ep.addr4));
            let v6 = (ep.addr6 != [0; 16]).then(|| IpAddr::from(ep.addr6));
            node.pods.extend(v4.into_iter().chain(v6).map(|address| (address, place)));
        }
        let addresses = address::list(&mut self.netlink).map_err(InheritError::Addresses)?;
        node.own = addresses.into_iter().map(|address| address.network.ip()).collect();
        Ok(node)
    }

    /// Whether an entry was written.
    fn plant(&mut self, seed: &Seed) -> Result<bool, MapError> {
        let key = Plain(seed.key);
        for table in [&self.maps.ct, &self.maps.ct_new] {
            match table.get(&key, 0) {
                Ok(Plain(found)) => {
                    let state = found.state();
                    let told = state.tag() == seed.key.tag();
                    let current = state.epoch() == CtState(seed.value.state).epoch();
                    if told && (current || state.has(CtState::DENIED)) {
                        return Ok(false);
                    }
                }
                Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(MapError::aya(map::CT, "read a flow")(error)),
            }
        }
        let (table, name) = match seed.table {
            Table::Settled => (&mut self.maps.ct, map::CT),
            Table::New => (&mut self.maps.ct_new, map::CT_NEW),
        };
        table.insert(key, Plain(seed.value), 0).map_err(MapError::aya(name, "write a flow"))?;
        Ok(true)
    }
}
