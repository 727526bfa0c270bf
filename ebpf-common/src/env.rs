//! The maps and the clock, as the verdict sees them.

use crate::abi::{
    Addr, CidrValue, CtKey, CtState, CtValue, Endpoint, FragKey, FragValue, PeerValue, PortKey, PortValue,
    Reason, RowKey, RowValue, SlotValue, VipKey, VipValue,
};
use crate::packet::Packet;

/// Which of the two tables of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `ct`: flows seen both ways.
    Settled,
    /// `ct_new`: flows seen one way.
    New,
}

/// Switches that hold for the whole node. Constants of the loaded program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Packets to a pod from any address of this node pass, whoever sent them.
    /// NodePort clients then bypass ingress policy. For compatibility only.
    pub trust_node_addresses: bool,
    /// Every endpoint is audited instead of enforced.
    pub audit: bool,
}

/// A flow's entry where it stands. It may become another flow's at any time;
/// the tag in its state tells.
pub trait Entry: Copy {
    /// The tick of the last packet, and the state, read whole and last.
    fn glance(&self) -> (u32, CtState);
    /// Copies it, the state read whole and last.
    fn load(&self, value: &mut CtValue);
    /// Replaces the state if it still is `old`; tells whether it was.
    fn exchange(&self, old: u64, new: u64) -> bool;
    /// Writes the tick of the last packet.
    fn touch(&self, tick: u32);
    /// Writes the rule of the last evaluation.
    fn set_rule(&self, rule: u32);
}

/// All that the verdict reads and writes. The kernel programs implement it with
/// helpers, [`crate::host`] with tables.
pub trait Env: Packet {
    /// What stands for a flow's entry.
    type Entry: Entry;

    /// CLOCK_MONOTONIC_COARSE in nanoseconds.
    fn now_ns(&self) -> u64;
    /// The node's switches.
    fn switches(&self) -> Switches;
    /// Copies the endpoint in a slot or its [`shadow`](crate::abi::shadow_of), which is not verified.
    ///
    /// # Errors
    /// [`Reason::NoEndpoint`] if there is no such element.
    fn endpoint(&self, index: u32, ep: &mut Endpoint) -> Result<(), Reason>;
    /// The slot that an interface may have: no more than a hint, which its endpoint proves or not. 0 where none is known.
    fn hint(&self, ifindex: u32) -> u32;
    /// Remembers the slot of an interface, in place of another's.
    fn set_hint(&self, ifindex: u32, slot: u32);
    /// The slot of an interface.
    fn slot_of(&self, ifindex: u32) -> Option<SlotValue>;
    /// The value of an address, not verified.
    fn peer(&self, addr: &Addr) -> Option<PeerValue>;
    /// The longest prefix that holds an address.
    fn cidr(&self, addr: &Addr) -> Option<CidrValue>;
    /// A service's value, not verified.
    fn vip(&self, key: &VipKey) -> Option<VipValue>;
    /// A row.
    fn row(&self, key: &RowKey) -> Option<RowValue>;
    /// An entry of a profile; its length is part of the key.
    fn port(&self, key: &PortKey) -> Option<PortValue>;
    /// A flow's entry.
    fn flow(&self, table: Table, key: &CtKey) -> Option<Self::Entry>;
    /// Writes a flow, over an older one of the same key.
    fn put_flow(&self, table: Table, key: &CtKey, value: &CtValue);
    /// Forgets a flow.
    fn drop_flow(&self, table: Table, key: &CtKey);
    /// Ports of a fragmented packet, not verified.
    fn fragment(&self, key: &FragKey) -> Option<FragValue>;
    /// Keeps the ports of a fragmented packet.
    fn put_fragment(&self, key: &FragKey, value: &FragValue);
    /// Takes one new entry from a slot's budget for this tick; false if it is spent.
    fn spend(&self, slot: u32, tick: u32, budget: u32) -> bool;
}
