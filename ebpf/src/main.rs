//! The two kernel programs. All they do themselves is to fetch bytes and map
//! values and to turn a verdict into a traffic control code; what they decide
//! stands in `ebpf-common`, which the tests run on the host.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "64-bit compare-and-exchange has no stable name for this target")]

mod kernel;
mod maps;
mod report;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_common::abi::{ABI_VERSION, Direction};
use ebpf_common::verdict::{Work, decide};

use crate::kernel::Kernel;

/// Nothing of ours: what stands behind in the chain, or the stack, goes on.
const TC_PASS: i32 = -1;
/// Fail closed: a packet that is not understood or not allowed ends here.
const TC_DROP: i32 = 2;

/// From a pod: clsact ingress of the host end.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, Direction::Out)
}

/// To a pod: clsact egress of the host end.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    run(&ctx, Direction::In)
}

#[inline(always)]
fn run(ctx: &TcContext, dir: Direction) -> i32 {
    let Some(work) = maps::lookup::<_, _, Work>(&maps::WORK, &0_u32) else {
        return TC_DROP;
    };
    // SAFETY: the memory is this CPU's, programs of this kind do not interrupt
    // one another on it, and zeroed memory is a `Work`.
    let work = unsafe { &mut *work };
    let kernel = Kernel::new(ctx.skb.skb);
    let reason = decide(&kernel, dir, work);
    report::count(&kernel, dir, reason, work);
    if reason.passes() { TC_PASS } else { TC_DROP }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier refuses a program that could come here.
    unsafe { core::hint::unreachable_unchecked() }
}

/// Which layouts the programs were compiled with. The loader has no use for the section, and
/// the agent reads it from the file: `ebpf_common::abi::ABI_SECTION`.
#[unsafe(link_section = "tidepool.abi")]
#[unsafe(no_mangle)]
static ABI: [u8; 4] = ABI_VERSION.to_ne_bytes();

/// Every helper that the programs use may be called under any licence but two;
/// the kernel asks for a compatible one by this text.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
