//! Layouts of every map: keys, values, check words and sizes.
//!
//! Each type is `repr(C)`, has no padding that the compiler chose (zerocopy's
//! derives refuse it) and consists of integers and byte arrays only. Fields are
//! in the byte order of the host unless their name ends in `_be`; byte arrays
//! that hold addresses are in network order.
//!
//! Hash maps have no atomic overwrite, and elements of deleted keys are used
//! again at once. So every value that may be overwritten carries a check word
//! or a tag over its key and itself; a reader copies, verifies, and looks up
//! again ([`READ_ATTEMPTS`] times) before it drops the packet.

mod address;
mod check;
mod conntrack;
mod control;
mod count;
mod endpoint;
mod event;
mod fragment;
mod peer;
mod row;
mod vip;

pub use address::{Addr, Family};
pub use check::{mix32, mix64};
pub use conntrack::{CtKey, CtState, CtValue, Origin, Path};
pub use control::{Control, Meta};
pub use count::{Counter, Direction, LOST_EVENTS, Reason, STATS_LEN, stat_index};
pub use endpoint::{Endpoint, EndpointFlags, SlotValue, hint_of, shadow_of};
pub use event::{EVENT_LEN, Event};
pub use fragment::{FragKey, FragValue};
pub use peer::{CIDR_SERVICE, CidrKey4, CidrKey6, CidrValue, PeerKey4, PeerKey6, PeerValue};
pub use row::{
    CLASS_NONE, PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PortAction, PortKey, PortValue, RowKey, RowValue,
};
pub use vip::{VipKey, VipValue};

/// The version of all layouts here together. It stands in the pinned `meta`
/// map and in the pin directory's name: maps of another version are never used.
pub const ABI_VERSION: u32 = 3;

/// The section of the object in which [`ABI_VERSION`] stands, four bytes in the order of
/// the host: programs and agent are built together, and the agent makes sure of it.
pub const ABI_SECTION: &str = "tidepool.abi";

/// How often a torn value is looked up again before the packet is dropped.
pub const READ_ATTEMPTS: u32 = 3;

/// IP protocol numbers that the datapath treats in a way of their own.
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Names of the maps, in the object, below the pin directory and in `bpftool`.
pub mod map {
    /// ARRAY by slot: [`super::Endpoint`]. Twice as many as there are slots: each has a
    /// shadow, [`super::shadow_of`].
    pub const EP: &str = "ep";
    /// HASH: ifindex → [`super::SlotValue`].
    pub const IFSLOT: &str = "ifslot";
    /// HASH: [`super::PeerKey4`] → [`super::PeerValue`].
    pub const PEER4: &str = "peer4";
    /// HASH: [`super::PeerKey6`] → [`super::PeerValue`].
    pub const PEER6: &str = "peer6";
    /// LPM_TRIE: [`super::CidrKey4`] → [`super::CidrValue`].
    pub const CIDR4: &str = "cidr4";
    /// LPM_TRIE: [`super::CidrKey6`] → [`super::CidrValue`].
    pub const CIDR6: &str = "cidr6";
    /// HASH: [`super::RowKey`] → [`super::RowValue`].
    pub const ROW: &str = "row";
    /// HASH: [`super::PortKey`] → [`super::PortValue`].
    pub const PORT: &str = "port";
    /// HASH: [`super::VipKey`] → [`super::VipValue`].
    pub const VIP: &str = "vip";
    /// LRU_HASH: [`super::CtKey`] → [`super::CtValue`], flows seen both ways.
    pub const CT: &str = "ct";
    /// LRU_HASH: the same, flows seen one way.
    pub const CT_NEW: &str = "ct_new";
    /// LRU_HASH: [`super::FragKey`] → [`super::FragValue`].
    pub const FRAG: &str = "frag";
    /// ARRAY by slot: new entries in the current tick, see [`crate::conntrack`].
    pub const BUDGET: &str = "budget";
    /// PERCPU_ARRAY by [`super::stat_index`]: [`super::Counter`].
    pub const STATS: &str = "stats";
    /// PERCPU_ARRAY by rule id: [`super::Counter`].
    pub const RULEHITS: &str = "rulehits";
    /// RINGBUF of [`super::Event`].
    pub const EVENTS: &str = "events";
    /// ARRAY of one [`super::Control`].
    pub const CONTROL: &str = "control";
    /// ARRAY of one [`super::Meta`].
    pub const META: &str = "meta";

    /// All of them.
    pub const ALL: [&str; 18] = [
        EP, IFSLOT, PEER4, PEER6, CIDR4, CIDR6, ROW, PORT, VIP, CT, CT_NEW, FRAG, BUDGET, STATS, RULEHITS,
        EVENTS, CONTROL, META,
    ];
}

/// Default capacities. The agent may override each when it creates the map.
pub mod capacity {
    /// Slots, slot 0 included, which is never an endpoint. A slot is the minor
    /// number of the filter's class id, so it could not exceed 65,535.
    pub const SLOTS: u32 = 4096;
    /// Elements of `ep`: the slots' own, then their shadows.
    pub const ENDPOINTS: u32 = 2 * SLOTS;
    /// Hints of interfaces' slots.
    pub const HINTS: u32 = 4096;
    /// Addresses of pods, per family.
    pub const PEERS: u32 = 262_144;
    /// Elementary prefixes, per family.
    pub const CIDRS: u32 = 65_536;
    /// Rows of all live sets.
    pub const ROWS: u32 = 262_144;
    /// Port prefixes of all live profiles.
    pub const PORTS: u32 = 65_536;
    /// Service addresses with port and protocol.
    pub const VIPS: u32 = 65_536;
    /// Flows seen both ways. When full, the least recently used one goes.
    pub const CT: u32 = 262_144;
    /// Flows seen one way. When full, the least recently used one goes.
    pub const CT_NEW: u32 = 65_536;
    /// Fragmented packets under way; the agent raises it to 512 per CPU, since
    /// older kernels park 128 free elements on each CPU.
    pub const FRAGS: u32 = 8192;
    /// Rule ids, which are dense; a hit of a higher id is not counted.
    pub const RULES: u32 = 65_536;
    /// Bytes of the event ring; a power of two and of whole pages.
    pub const EVENTS_BYTES: u32 = 1 << 20;
}
