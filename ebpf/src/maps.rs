//! The maps. What each is for, how large and what happens when it is full is
//! said in `ebpf_common::abi`; the agent may override each capacity.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem};
use aya_ebpf::macros::btf_map;
use ebpf_common::abi::{
    self, CidrValue, Control, Counter, CtKey, CtValue, Endpoint, Event, FragKey, FragValue, Meta, PeerKey4,
    PeerKey6, PeerValue, PortKey, PortValue, RowKey, RowValue, SlotValue, VipKey, VipValue, capacity,
};
use ebpf_common::verdict::Work;

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "ep")]
pub(crate) static EP: Array<Endpoint, { capacity::ENDPOINTS as usize }> = Array::new();
#[btf_map(name = "ifslot")]
pub(crate) static IFSLOT: HashMap<u32, SlotValue, { capacity::SLOTS as usize }, SPARSE> = HashMap::new();
/// Slots by the low bits of ifindexes. Not pinned.
#[btf_map(name = "hint")]
pub(crate) static HINT: Array<u32, { capacity::HINTS as usize }> = Array::new();
#[btf_map(name = "peer4")]
pub(crate) static PEER4: HashMap<PeerKey4, PeerValue, { capacity::PEERS as usize }, SPARSE> = HashMap::new();
#[btf_map(name = "peer6")]
pub(crate) static PEER6: HashMap<PeerKey6, PeerValue, { capacity::PEERS as usize }, SPARSE> = HashMap::new();
#[btf_map(name = "cidr4")]
pub(crate) static CIDR4: LpmTrie<[u8; 4], CidrValue, { capacity::CIDRS as usize }> = LpmTrie::new();
#[btf_map(name = "cidr6")]
pub(crate) static CIDR6: LpmTrie<[u8; 16], CidrValue, { capacity::CIDRS as usize }> = LpmTrie::new();
#[btf_map(name = "row")]
pub(crate) static ROW: HashMap<RowKey, RowValue, { capacity::ROWS as usize }, SPARSE> = HashMap::new();
#[btf_map(name = "port")]
pub(crate) static PORT: HashMap<PortKey, PortValue, { capacity::PORTS as usize }, SPARSE> = HashMap::new();
#[btf_map(name = "vip")]
pub(crate) static VIP: HashMap<VipKey, VipValue, { capacity::VIPS as usize }, SPARSE> = HashMap::new();
#[btf_map(name = "ct")]
pub(crate) static CT: LruHashMap<CtKey, CtValue, { capacity::CT as usize }> = LruHashMap::new();
#[btf_map(name = "ct_new")]
pub(crate) static CT_NEW: LruHashMap<CtKey, CtValue, { capacity::CT_NEW as usize }> = LruHashMap::new();
#[btf_map(name = "frag")]
pub(crate) static FRAG: LruHashMap<FragKey, FragValue, { capacity::FRAGS as usize }> = LruHashMap::new();
/// Tick (high half) and new entries in it (low half).
#[btf_map(name = "budget")]
pub(crate) static BUDGET: Array<u64, { capacity::SLOTS as usize }> = Array::new();
#[btf_map(name = "stats")]
pub(crate) static STATS: PerCpuArray<Counter, { abi::STATS_LEN as usize }> = PerCpuArray::new();
#[btf_map(name = "rulehits")]
pub(crate) static RULEHITS: PerCpuArray<Counter, { capacity::RULES as usize }> = PerCpuArray::new();
#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { capacity::EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map(name = "control")]
pub(crate) static CONTROL: Array<Control, 1> = Array::new();
/// Not read here: it holds what must outlive the agent.
#[btf_map(name = "meta")]
pub(crate) static META: Array<Meta, 1> = Array::new();

/// What is known of the packet in hand; too large for the stack. Not pinned.
#[btf_map(name = "work")]
pub(crate) static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

const _: () = assert!(size_of::<Key<[u8; 4]>>() == size_of::<abi::CidrKey4>());
const _: () = assert!(size_of::<Key<[u8; 16]>>() == size_of::<abi::CidrKey6>());

/// Looks up a key; the value may be overwritten or become another key's at any
/// time after.
#[inline(always)]
pub(crate) fn lookup<M, K, V>(map: &'static M, key: &K) -> Option<*mut V> {
    // SAFETY: the loader puts the map's address here, and the verifier checks
    // that it reads as many bytes of key as the map says.
    let value = unsafe { bpf_map_lookup_elem(address(map), core::ptr::from_ref(key).cast_mut().cast()) };
    if value.is_null() { None } else { Some(value.cast()) }
}

/// Writes a value, over an older one of the same key. That it fails (the map is
/// full, or another CPU holds the bucket) means that the flow is judged again.
#[inline(always)]
pub(crate) fn update<M, K, V>(map: &'static M, key: &K, value: &V) {
    // SAFETY: as in `lookup`, for the value too.
    let _ = unsafe {
        bpf_map_update_elem(
            address(map),
            core::ptr::from_ref(key).cast_mut().cast(),
            core::ptr::from_ref(value).cast_mut().cast(),
            0,
        )
    };
}

/// Deletes a key.
#[inline(always)]
pub(crate) fn delete<M, K>(map: &'static M, key: &K) {
    // SAFETY: as in `lookup`.
    let _ = unsafe { bpf_map_delete_elem(address(map), core::ptr::from_ref(key).cast_mut().cast()) };
}

#[inline(always)]
fn address<M>(map: &'static M) -> *mut core::ffi::c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}
