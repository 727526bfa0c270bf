//! The kernel as the verdict sees it.

use aya_ebpf::Global;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes, bpf_skb_pull_data};
use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use ebpf_common::abi::{
    Addr, CidrKey4, CidrKey6, CidrValue, CtKey, CtState, CtValue, Endpoint, Family, FragKey, FragValue,
    PeerKey4, PeerKey6, PeerValue, PortKey, PortValue, Reason, RowKey, RowValue, SlotValue, VipKey, VipValue,
    hint_of,
};
use ebpf_common::env::{Entry, Env, Switches, Table};
use ebpf_common::packet::{Facts, Packet};

use crate::maps::{
    BUDGET, CIDR4, CIDR6, CT, CT_NEW, EP, FRAG, HINT, IFSLOT, PEER4, PEER6, PORT, ROW, VIP, delete, lookup,
    update,
};

/// Set by the agent at load time; see [`Switches`].
#[unsafe(no_mangle)]
static TRUST_NODE_ADDRESSES: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static AUDIT_ALL: Global<u8> = Global::new(0);

/// Headers that are read by direct access: Ethernet, IPv6 and TCP. A packet
/// ring in the pod sends less of them in the linear area.
const LINEAR: u32 = 14 + 40 + 20;

/// Loads what need not be aligned from an address and a constant offset. The
/// compiler would load single bytes; the machines that this runs on load unaligned
/// words, so the instruction is written out. The bytes have to be readable.
macro_rules! load_at {
    ($size:literal, $from:expr, $offset:expr) => {{
        let word: u64;
        asm!(
            concat!("{word} = *(", $size, " *)({from} + {offset})"),
            from = in(reg) $from,
            offset = const $offset,
            word = lateout(reg) word,
            options(readonly, nostack)
        );
        word
    }};
}

/// A statement for each index below a constant of at most five: in a loop the
/// index would be none.
macro_rules! each {
    ($count:ident, $i:ident, $work:expr) => {
        each!(@ $count, $i, $work, 0, 1, 2, 3, 4)
    };
    (@ $count:ident, $i:ident, $work:expr, $($index:literal),*) => {
        const { assert!($count <= 5) };
        $(if $count > $index {
            const $i: usize = $index;
            $work;
        })*
    };
}

/// The socket buffer, and what the verifier needs to be told of it.
pub(crate) struct Kernel {
    skb: *mut __sk_buff,
}

impl Kernel {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        let kernel = Self { skb };
        let len = kernel.len();
        let wanted = if len < LINEAR { len } else { LINEAR };
        if (kernel.data_end() - kernel.data()) < wanted as usize {
            // If it fails, what is missing can not be read, and the packet is dropped.
            // SAFETY: the pointer is the program's context.
            let _ = unsafe { bpf_skb_pull_data(skb, wanted) };
        }
        kernel
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the pointer is the program's context.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the pointer is the program's context.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the pointer is the program's context.
        unsafe { (*self.skb).data_end as usize }
    }
}

impl Packet for Kernel {
    #[inline(always)]
    fn facts(&self) -> Facts {
        // SAFETY: the pointer is the program's context.
        unsafe {
            let skb = self.skb;
            Facts {
                len: (*skb).len,
                protocol: u16::from_be((*skb).protocol as u16),
                vlan_present: (*skb).vlan_present != 0,
                ifindex: (*skb).ifindex,
                ingress_ifindex: (*skb).ingress_ifindex,
                slot: (*skb).tc_classid,
            }
        }
    }

    #[inline(always)]
    fn head<const OFF: usize, const N: usize>(&self) -> Option<[u8; N]> {
        let start = self.data() + OFF;
        if start + N > self.data_end() {
            return None;
        }
        // SAFETY: the range was just checked, in the form that the verifier knows.
        Some(unsafe { read_unaligned(start) })
    }

    #[inline(always)]
    fn words<const OFF: usize, const N: usize>(&self) -> Option<[u32; N]> {
        let data = self.data();
        if data + OFF + 4 * N > self.data_end() {
            return None;
        }
        let mut words = [0; N];
        // SAFETY: the range was just checked, in the form that the verifier knows.
        unsafe {
            each!(N, I, words[I] = load_at!("u32", data, OFF + 4 * I) as u32);
        }
        Some(words)
    }

    #[inline(always)]
    fn long_words<const OFF: usize, const N: usize>(&self) -> Option<[u64; N]> {
        let data = self.data();
        if data + OFF + 8 * N > self.data_end() {
            return None;
        }
        let mut words = [0; N];
        // SAFETY: as in `words`.
        unsafe {
            each!(N, I, words[I] = load_at!("u64", data, OFF + 8 * I));
        }
        Some(words)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes or fails.
        let ret = unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: it did not fail.
        if ret == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
    }
}

/// Loads bytes in the largest pieces. A packet's fields are not aligned as the
/// compiler would have them, and it would load single bytes; the machines that
/// this runs on load unaligned words, so the instructions are written out.
///
/// # Safety
/// The N bytes at the address are readable.
#[inline(always)]
unsafe fn read_unaligned<const N: usize>(address: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at + 4 <= N {
        // SAFETY: promised by the caller.
        let word = unsafe { load_at!("u32", address + at, 0) as u32 }.to_ne_bytes();
        bytes[at] = word[0];
        bytes[at + 1] = word[1];
        bytes[at + 2] = word[2];
        bytes[at + 3] = word[3];
        at += 4;
    }
    while at + 2 <= N {
        // SAFETY: promised by the caller.
        let half = unsafe { load_at!("u16", address + at, 0) as u16 }.to_ne_bytes();
        bytes[at] = half[0];
        bytes[at + 1] = half[1];
        at += 2;
    }
    const { assert!(N % 2 == 0) };
    bytes
}

/// A flow's entry in a map.
#[derive(Clone, Copy)]
pub(crate) struct Slot(NonNull<CtValue>);

impl Entry for Slot {
    #[inline(always)]
    fn glance(&self) -> (u32, CtState) {
        // SAFETY: a pointer that a lookup returned stays mapped while the program
        // runs; each field is one aligned access.
        unsafe {
            let entry = self.0.as_ptr();
            let seen = core::ptr::read_volatile(&raw const (*entry).last_seen);
            (seen, CtState(core::ptr::read_volatile(&raw const (*entry).state)))
        }
    }

    #[inline(always)]
    fn load(&self, value: &mut CtValue) {
        // SAFETY: as in `glance`.
        unsafe {
            let entry = self.0.as_ptr();
            value.last_seen = core::ptr::read_volatile(&raw const (*entry).last_seen);
            value.rule = core::ptr::read_volatile(&raw const (*entry).rule);
            value.origin_ifindex = core::ptr::read_volatile(&raw const (*entry).origin_ifindex);
            // Last: if its tag is right now, the others were this flow's too.
            value.state = core::ptr::read_volatile(&raw const (*entry).state);
            value.pad = 0;
        }
    }

    #[inline(always)]
    fn exchange(&self, old: u64, new: u64) -> bool {
        // SAFETY: as in `load`; the state is eight-byte aligned.
        let (_, done) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                &raw mut (*self.0.as_ptr()).state,
                old,
                new,
            )
        };
        done
    }

    #[inline(always)]
    fn touch(&self, tick: u32) {
        // SAFETY: as in `load`. Should the entry be another flow's by now, that
        // one lives a little longer.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0.as_ptr()).last_seen, tick) };
    }

    #[inline(always)]
    fn set_rule(&self, rule: u32) {
        // SAFETY: as in `load`. The rule is told, never acted on.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0.as_ptr()).rule, rule) };
    }
}

/// Copies a map value word by word, each word read once: a check of the copy
/// must not be followed by a second read of the original.
#[inline(always)]
fn copy_words<V: Copy, const WORDS: usize>(value: *const V) -> [u64; WORDS] {
    const { assert!(size_of::<V>() == 8 * WORDS) };
    let mut words = [0; WORDS];
    let mut i = 0;
    while i < WORDS {
        // SAFETY: values of maps are eight-byte aligned and this long.
        words[i] = unsafe { core::ptr::read_volatile(value.cast::<u64>().add(i)) };
        i += 1;
    }
    words
}

impl Env for Kernel {
    type Entry = Slot;

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn switches(&self) -> Switches {
        Switches { trust_node_addresses: TRUST_NODE_ADDRESSES.load() != 0, audit: AUDIT_ALL.load() != 0 }
    }

    #[inline(always)]
    fn endpoint(&self, index: u32, ep: &mut Endpoint) -> Result<(), Reason> {
        let value: *mut Endpoint = lookup(&EP, &index).ok_or(Reason::NoEndpoint)?;
        let words: [u64; 8] = copy_words(value);
        // SAFETY: any bits are an endpoint (it derives FromBytes).
        *ep = unsafe { core::mem::transmute::<[u64; 8], Endpoint>(words) };
        Ok(())
    }

    #[inline(always)]
    fn hint(&self, ifindex: u32) -> u32 {
        let value: Option<*mut u32> = lookup(&HINT, &hint_of(ifindex));
        // SAFETY: an aligned word of an array.
        value.map_or(0, |value| unsafe { core::ptr::read_volatile(value) })
    }

    #[inline(always)]
    fn set_hint(&self, ifindex: u32, slot: u32) {
        if let Some(value) = lookup::<_, _, u32>(&HINT, &hint_of(ifindex)) {
            // SAFETY: as in `hint`.
            unsafe { core::ptr::write_volatile(value, slot) };
        }
    }

    #[inline(always)]
    fn slot_of(&self, ifindex: u32) -> Option<SlotValue> {
        let value: *mut u64 = lookup(&IFSLOT, &ifindex)?;
        Some(SlotValue(copy_words::<u64, 1>(value)[0]))
    }

    #[inline(always)]
    fn peer(&self, addr: &Addr) -> Option<PeerValue> {
        let value: *mut u64 = match addr.family {
            Family::V4 => lookup(&PEER4, &PeerKey4 { addr: addr.head() })?,
            Family::V6 => lookup(&PEER6, &PeerKey6 { addr: addr.bytes() })?,
        };
        Some(PeerValue(copy_words::<u64, 1>(value)[0]))
    }

    #[inline(always)]
    fn cidr(&self, addr: &Addr) -> Option<CidrValue> {
        let value: *mut CidrValue = match addr.family {
            Family::V4 => lookup(&CIDR4, &CidrKey4 { prefix_len: 32, addr: addr.head() })?,
            Family::V6 => lookup(&CIDR6, &CidrKey6 { prefix_len: 128, addr: addr.bytes() })?,
        };
        // SAFETY: nodes of a trie are replaced whole and freed after the program.
        Some(unsafe { *value })
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<VipValue> {
        let value: *mut VipValue = lookup(&VIP, key)?;
        // SAFETY: each field is one aligned access.
        unsafe {
            Some(VipValue {
                class: core::ptr::read_volatile(&raw const (*value).class),
                target_port: core::ptr::read_volatile(&raw const (*value).target_port),
                flags: core::ptr::read_volatile(&raw const (*value).flags),
                check: core::ptr::read_volatile(&raw const (*value).check),
            })
        }
    }

    #[inline(always)]
    fn row(&self, key: &RowKey) -> Option<RowValue> {
        let value: *mut RowValue = lookup(&ROW, key)?;
        // SAFETY: rows are never overwritten, and deleted a grace period after
        // the last program that could ask for them.
        Some(unsafe { *value })
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<PortValue> {
        let value: *mut PortValue = lookup(&PORT, key)?;
        // SAFETY: as in `row`.
        Some(unsafe { *value })
    }

    #[inline(always)]
    fn flow(&self, table: Table, key: &CtKey) -> Option<Slot> {
        match table {
            Table::Settled => lookup(&CT, key).and_then(NonNull::new).map(Slot),
            Table::New => lookup(&CT_NEW, key).and_then(NonNull::new).map(Slot),
        }
    }

    #[inline(always)]
    fn put_flow(&self, table: Table, key: &CtKey, value: &CtValue) {
        match table {
            Table::Settled => update(&CT, key, value),
            Table::New => update(&CT_NEW, key, value),
        }
    }

    #[inline(always)]
    fn drop_flow(&self, table: Table, key: &CtKey) {
        match table {
            Table::Settled => delete(&CT, key),
            Table::New => delete(&CT_NEW, key),
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragKey) -> Option<FragValue> {
        let value: *mut FragValue = lookup(&FRAG, key)?;
        // SAFETY: each field is one aligned access.
        unsafe {
            Some(FragValue {
                src_port: core::ptr::read_volatile(&raw const (*value).src_port),
                dst_port: core::ptr::read_volatile(&raw const (*value).dst_port),
                seen: core::ptr::read_volatile(&raw const (*value).seen),
                check: core::ptr::read_volatile(&raw const (*value).check),
            })
        }
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragKey, value: &FragValue) {
        update(&FRAG, key, value);
    }

    #[inline(always)]
    fn spend(&self, slot: u32, tick: u32, budget: u32) -> bool {
        let Some(cell) = lookup::<_, _, u64>(&BUDGET, &slot) else {
            return false;
        };
        // Two CPUs may count one entry for both: the budget is a dam, no bill.
        // SAFETY: one aligned word, read and written whole.
        let used = unsafe { core::ptr::read_volatile(cell) };
        let spent = if (used >> 32) as u32 == tick { used as u32 } else { 0 };
        if spent >= budget {
            return false;
        }
        let next = u64::from(tick) << 32 | u64::from(spent + 1);
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(cell, next) };
        true
    }
}
