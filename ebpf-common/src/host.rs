//! The maps as tables, and packets as slices: the same verdict without a kernel.
//!
//! For tests and for tools that ask what the programs would do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::vec::Vec;

use crate::abi::{
    Addr, CidrKey4, CidrKey6, CidrValue, CtKey, CtState, CtValue, Direction, Endpoint, Family, FragKey,
    FragValue, PeerKey4, PeerKey6, PeerValue, PortKey, PortValue, Reason, RowKey, RowValue, SlotValue,
    VipKey, VipValue, hint_of, shadow_of,
};
use crate::conntrack::TICK_SHIFT;
use crate::env::{Entry, Env, Switches, Table};
use crate::packet::{Facts, Packet};
use crate::verdict::{Work, decide};

/// What the maps hold.
#[derive(Debug, Default)]
pub struct Host {
    /// `ep`: sealed values by slot, and by its shadow.
    pub ep: HashMap<u32, Endpoint>,
    /// `ifslot`.
    pub ifslot: HashMap<u32, SlotValue>,
    /// `peer4`.
    pub peer4: HashMap<PeerKey4, PeerValue>,
    /// `peer6`.
    pub peer6: HashMap<PeerKey6, PeerValue>,
    /// `cidr4`.
    pub cidr4: HashMap<CidrKey4, CidrValue>,
    /// `cidr6`.
    pub cidr6: HashMap<CidrKey6, CidrValue>,
    /// `row`.
    pub row: HashMap<RowKey, RowValue>,
    /// `port`.
    pub port: HashMap<PortKey, PortValue>,
    /// `vip`.
    pub vip: HashMap<VipKey, VipValue>,
    /// The node's switches.
    pub switches: Switches,
    /// The clock, in ticks.
    pub now: u32,
    flows: RefCell<HashMap<(Table, CtKey), CtValue>>,
    fragments: RefCell<HashMap<FragKey, FragValue>>,
    spent: RefCell<HashMap<u32, (u32, u32)>>,
    pub(crate) hints: RefCell<HashMap<u32, u32>>,
}

/// What was decided about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The reason that counts it.
    pub reason: Reason,
    /// The rule that decided, 0 if none did.
    pub rule: u32,
    /// The other end's class, if it was looked up.
    pub class: u32,
}

impl Host {
    /// Decides about a frame that crosses an interface.
    pub fn run(&self, dir: Direction, frame: &[u8], facts: Facts) -> Decision {
        let mut work = Work::EMPTY;
        let env = Crossing { host: self, frame, facts };
        let reason = decide(&env, dir, &mut work);
        Decision { reason, rule: work.rule, class: work.class }
    }

    /// A packet that crosses, for tests that stand between it and the tables.
    #[cfg(test)]
    pub(crate) fn crossing<'a>(&'a self, frame: &'a [u8], facts: Facts) -> Crossing<'a> {
        Crossing { host: self, frame, facts }
    }

    /// Puts an endpoint into a slot, and its interface into the table of those.
    pub fn put_endpoint(&mut self, slot: u32, endpoint: Endpoint) {
        self.ifslot.insert(endpoint.ifindex, SlotValue::new(endpoint.ifindex, slot));
        for index in [shadow_of(slot), slot] {
            self.ep.insert(index, endpoint.sealed(slot));
        }
    }

    /// All flows with the table of each, sorted by nothing.
    pub fn flows(&self) -> Vec<(Table, CtKey, CtState)> {
        self.flows.borrow().iter().map(|((table, key), value)| (*table, *key, value.state())).collect()
    }

    /// Forgets all flows and fragments.
    pub fn forget_flows(&mut self) {
        self.flows.borrow_mut().clear();
        self.fragments.borrow_mut().clear();
        self.spent.borrow_mut().clear();
    }

    /// The facts that the kernel would tell of a frame: the EtherType is taken for
    /// `skb->protocol`, as a received frame has it.
    #[must_use]
    pub fn facts(frame: &[u8], ifindex: u32, ingress_ifindex: u32) -> Facts {
        let protocol = frame.get(12..14).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        Facts {
            len: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            protocol,
            vlan_present: false,
            ifindex,
            ingress_ifindex,
            slot: 0,
        }
    }
}

/// One packet that crosses an interface.
pub(crate) struct Crossing<'a> {
    host: &'a Host,
    frame: &'a [u8],
    facts: Facts,
}

impl Packet for Crossing<'_> {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn head<const OFF: usize, const N: usize>(&self) -> Option<[u8; N]> {
        self.frame.get(OFF..OFF + N)?.try_into().ok()
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let offset = usize::try_from(offset).ok()?;
        self.frame.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

/// Where a flow's entry stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    host: &'a Host,
    table: Table,
    key: CtKey,
}

impl Slot<'_> {
    fn with<T>(&self, work: impl FnOnce(&mut CtValue) -> T) -> Option<T> {
        self.host.flows.borrow_mut().get_mut(&(self.table, self.key)).map(work)
    }
}

impl Entry for Slot<'_> {
    fn glance(&self) -> (u32, CtState) {
        self.with(|entry| (entry.last_seen, entry.state())).unwrap_or((0, CtState(0)))
    }

    fn load(&self, value: &mut CtValue) {
        self.with(|entry| *value = *entry);
    }

    fn exchange(&self, old: u64, new: u64) -> bool {
        self.with(|entry| {
            let same = entry.state == old;
            if same {
                entry.state = new;
            }
            same
        })
        .unwrap_or(false)
    }

    fn touch(&self, tick: u32) {
        self.with(|entry| entry.last_seen = tick);
    }

    fn set_rule(&self, rule: u32) {
        self.with(|entry| entry.rule = rule);
    }
}

impl<'a> Env for Crossing<'a> {
    type Entry = Slot<'a>;

    fn now_ns(&self) -> u64 {
        u64::from(self.host.now) << TICK_SHIFT
    }

    fn switches(&self) -> Switches {
        self.host.switches
    }

    fn endpoint(&self, index: u32, ep: &mut Endpoint) -> Result<(), Reason> {
        // The kernel's array has every element below its size, empty or not.
        if index >= crate::abi::capacity::ENDPOINTS {
            return Err(Reason::NoEndpoint);
        }
        *ep = self.host.ep.get(&index).copied().unwrap_or(Endpoint::EMPTY);
        Ok(())
    }

    fn hint(&self, ifindex: u32) -> u32 {
        self.host.hints.borrow().get(&hint_of(ifindex)).copied().unwrap_or(0)
    }

    fn set_hint(&self, ifindex: u32, slot: u32) {
        self.host.hints.borrow_mut().insert(hint_of(ifindex), slot);
    }

    fn slot_of(&self, ifindex: u32) -> Option<SlotValue> {
        self.host.ifslot.get(&ifindex).copied()
    }

    fn peer(&self, addr: &Addr) -> Option<PeerValue> {
        match addr.family {
            Family::V4 => self.host.peer4.get(&PeerKey4 { addr: addr.head() }).copied(),
            Family::V6 => self.host.peer6.get(&PeerKey6 { addr: addr.bytes() }).copied(),
        }
    }

    fn cidr(&self, addr: &Addr) -> Option<CidrValue> {
        match addr.family {
            Family::V4 => (0..=32)
                .rev()
                .find_map(|bits| self.host.cidr4.get(&CidrKey4::new(addr.head(), bits)).copied()),
            Family::V6 => (0..=128)
                .rev()
                .find_map(|bits| self.host.cidr6.get(&CidrKey6::new(addr.bytes(), bits)).copied()),
        }
    }

    fn vip(&self, key: &VipKey) -> Option<VipValue> {
        self.host.vip.get(key).copied()
    }

    fn row(&self, key: &RowKey) -> Option<RowValue> {
        self.host.row.get(key).copied()
    }

    fn port(&self, key: &PortKey) -> Option<PortValue> {
        self.host.port.get(key).copied()
    }

    fn flow(&self, table: Table, key: &CtKey) -> Option<Slot<'a>> {
        let there = self.host.flows.borrow().contains_key(&(table, *key));
        there.then_some(Slot { host: self.host, table, key: *key })
    }

    fn put_flow(&self, table: Table, key: &CtKey, value: &CtValue) {
        self.host.flows.borrow_mut().insert((table, *key), *value);
    }

    fn drop_flow(&self, table: Table, key: &CtKey) {
        self.host.flows.borrow_mut().remove(&(table, *key));
    }

    fn fragment(&self, key: &FragKey) -> Option<FragValue> {
        self.host.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragKey, value: &FragValue) {
        self.host.fragments.borrow_mut().insert(*key, *value);
    }

    fn spend(&self, slot: u32, tick: u32, budget: u32) -> bool {
        let mut spent = self.host.spent.borrow_mut();
        let cell = spent.entry(slot).or_insert((tick, 0));
        if cell.0 != tick {
            *cell = (tick, 0);
        }
        if cell.1 >= budget {
            return false;
        }
        cell.1 += 1;
        true
    }
}
