//! Running a program on a packet that is nowhere.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun, TestRunOptions};
use ebpf_common::abi::Direction;

use super::Datapath;
use super::open::{FROM_POD, TO_POD};

/// The return value by which a program leaves a packet to whoever comes next.
const TC_ACT_UNSPEC: u32 = u32::MAX;

/// What the socket buffer says beside the bytes. The slot can not be given: test
/// runs have no class id, and look the interface up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestContext {
    /// The interface; it has to exist in the calling thread's namespace. 1 is loopback.
    pub ifindex: u32,
    /// The interface that the packet entered the node by; 0 if made by the node.
    pub ingress_ifindex: u32,
    /// How often to run; the time is an average.
    pub repeat: u32,
}

/// What a test run gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Whether the packet would pass.
    pub passed: bool,
    /// Time of one run, with what the kernel adds.
    pub took: Duration,
}

/// Offsets in `struct __sk_buff`, and its length.
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const LEN: usize = 192;

impl Datapath {
    /// Runs a program on a frame (BPF_PROG_TEST_RUN), with all its effects on maps.
    ///
    /// # Errors
    /// Where the kernel refuses: frames shorter than 14 bytes, for example.
    pub fn test_run(&self, dir: Direction, frame: &[u8], ctx: &TestContext) -> Result<Ran, ProgramError> {
        let name = match dir {
            Direction::In => TO_POD,
            Direction::Out => FROM_POD,
        };
        let program = self.program(name).ok_or(ProgramError::NotLoaded)?;
        let mut skb = [0_u8; LEN];
        skb[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&ctx.ingress_ifindex.to_ne_bytes());
        skb[IFINDEX..IFINDEX + 4].copy_from_slice(&ctx.ifindex.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&skb);
        options.repeat = ctx.repeat.max(1);
        let result = program.test_run(options)?;
        Ok(Ran { passed: result.return_value == TC_ACT_UNSPEC, took: result.duration })
    }
}
