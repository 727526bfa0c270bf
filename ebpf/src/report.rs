//! Counters and events: what user space learns of a packet.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ringbuf_output};
use ebpf_common::abi::{Control, Counter, CtKey, Direction, Event, LOST_EVENTS, Reason, stat_index};
use ebpf_common::env::Env;
use ebpf_common::verdict::Work;

use crate::kernel::Kernel;
use crate::maps::{CONTROL, EVENTS, RULEHITS, STATS, lookup};

/// Counts a packet by its reason and its rule, and reports it if somebody listens.
#[inline(always)]
pub(crate) fn count(kernel: &Kernel, dir: Direction, reason: Reason, work: &Work) {
    let len = u64::from(work.facts.len);
    if let Some(counter) = lookup::<_, _, Counter>(&STATS, &stat_index(dir, reason)) {
        add(counter, len);
    }
    if work.judged
        && let Some(counter) = lookup::<_, _, Counter>(&RULEHITS, &work.rule)
    {
        add(counter, len);
    }
    if work.judged || !reason.passes() {
        report(kernel, reason, work);
    }
}

#[inline(always)]
fn add(counter: *mut Counter, len: u64) {
    // SAFETY: the entry is this CPU's, and only user space reads it meanwhile.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += len;
    }
}

#[inline(never)]
fn report(kernel: &Kernel, reason: Reason, work: &Work) {
    let Some(control) = lookup::<_, _, Control>(&CONTROL, &0_u32) else {
        return;
    };
    // SAFETY: both are aligned words that user space writes whole.
    let (listeners, sample) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*control).listeners),
            core::ptr::read_volatile(&raw const (*control).sample_allowed),
        )
    };
    if listeners == 0 {
        return;
    }
    let told = !reason.passes() || matches!(reason, Reason::Audited);
    // SAFETY: the helper has no preconditions.
    if !told && (sample == 0 || unsafe { bpf_get_prandom_u32() } % sample != 0) {
        return;
    }
    let key = if work.parsed { &work.key } else { &CtKey::NONE };
    let event = Event {
        time_ns: kernel.now_ns(),
        peer: key.peer_addr().bytes(),
        ifindex: work.facts.ifindex,
        rule: work.rule,
        class: work.class,
        pod_port: key.pod_port,
        peer_port: key.peer_port,
        len: work.facts.len,
        proto: key.proto,
        family: key.family,
        direction: work.dir as u8,
        reason: reason as u8,
        slot: work.slot,
        pad: 0,
    };
    // A full ring loses the event, which is counted like its packet.
    // SAFETY: the record is as long as said, and the map is a ring buffer.
    let refused = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            core::ptr::from_ref(&event).cast_mut().cast(),
            size_of::<Event>() as u64,
            0,
        )
    };
    if refused != 0
        && let Some(counter) = lookup::<_, _, Counter>(&STATS, &LOST_EVENTS)
    {
        add(counter, u64::from(work.facts.len));
    }
}
