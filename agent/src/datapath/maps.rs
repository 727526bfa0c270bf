//! Handles to all maps, by name and type.

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use ebpf_common::abi::{
    CidrValue, Control, Counter, CtKey, CtValue, Endpoint, Meta, PeerKey4, PeerKey6, PeerValue, PortKey,
    PortValue, RowKey, RowValue, SlotValue, VipKey, VipValue, map,
};

use super::plain::Plain;
use super::{MapError, OpenError};

type Hash<K, V> = HashMap<MapData, Plain<K>, Plain<V>>;
type Trie<const N: usize, V> = LpmTrie<MapData, [u8; N], Plain<V>>;

/// The maps. Writing is `&mut`: one thread writes, so that reading a value,
/// changing it and writing it back needs no lock.
pub(super) struct Maps {
    pub(super) ep: Array<MapData, Plain<Endpoint>>,
    pub(super) ifslot: HashMap<MapData, u32, Plain<SlotValue>>,
    pub(super) peer4: Hash<PeerKey4, PeerValue>,
    pub(super) peer6: Hash<PeerKey6, PeerValue>,
    pub(super) cidr4: Trie<4, CidrValue>,
    pub(super) cidr6: Trie<16, CidrValue>,
    pub(super) row: Hash<RowKey, RowValue>,
    pub(super) port: Hash<PortKey, PortValue>,
    pub(super) vip: Hash<VipKey, VipValue>,
    pub(super) ct: Hash<CtKey, CtValue>,
    pub(super) ct_new: Hash<CtKey, CtValue>,
    pub(super) budget: Array<MapData, u64>,
    pub(super) stats: PerCpuArray<MapData, Plain<Counter>>,
    pub(super) rulehits: PerCpuArray<MapData, Plain<Counter>>,
    pub(super) control: Array<MapData, Plain<Control>>,
    pub(super) meta: Array<MapData, Plain<Meta>>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, OpenError> {
        Ok(Self {
            ep: typed(ebpf, map::EP)?,
            ifslot: typed(ebpf, map::IFSLOT)?,
            peer4: typed(ebpf, map::PEER4)?,
            peer6: typed(ebpf, map::PEER6)?,
            cidr4: typed(ebpf, map::CIDR4)?,
            cidr6: typed(ebpf, map::CIDR6)?,
            row: typed(ebpf, map::ROW)?,
            port: typed(ebpf, map::PORT)?,
            vip: typed(ebpf, map::VIP)?,
            ct: typed(ebpf, map::CT)?,
            ct_new: typed(ebpf, map::CT_NEW)?,
            budget: typed(ebpf, map::BUDGET)?,
            stats: typed(ebpf, map::STATS)?,
            rulehits: typed(ebpf, map::RULEHITS)?,
            control: typed(ebpf, map::CONTROL)?,
            meta: typed(ebpf, map::META)?,
        })
    }
}

fn typed<T: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, OpenError> {
    let map = ebpf.take_map(name).ok_or(OpenError::Missing { name })?;
    Ok(T::try_from(map).map_err(MapError::aya(name, "use it as its type"))?)
}
