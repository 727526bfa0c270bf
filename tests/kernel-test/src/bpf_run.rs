//! Classifiers written as instructions, run on a frame: what a datapath's programs are measured beside.

use std::io::Error;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bpf::{self, Element};

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;

/// The fields of `union bpf_attr` that a run needs. The kernel writes what came out into it.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// A loaded classifier, with the map that it asks.
#[derive(Debug)]
pub struct Classifier {
    program: OwnedFd,
    _map: Option<OwnedFd>,
}

impl Classifier {
    /// One that passes every packet and does nothing else.
    ///
    /// # Errors
    /// The system call's.
    pub fn empty() -> Result<Self> {
        Ok(Self { program: bpf::load(&[MOV_R0 | imm(-1), EXIT], "empty")?, _map: None })
    }

    /// One that finds the same key of 28 bytes in a hash of recently used elements, as often as is said, asks the
    /// precise clock once if that is said, and passes the packet.
    ///
    /// # Errors
    /// The system call's.
    pub fn lookups(count: u32, clock: bool) -> Result<Self> {
        Self::finding(bpf::map(BPF_MAP_TYPE_LRU_HASH, 28, 24, 262_144, "looked_up")?, count, clock)
    }

    /// One that finds a number of four bytes in a hash, and passes the packet.
    ///
    /// # Errors
    /// The system call's.
    pub fn number() -> Result<Self> {
        Self::finding(bpf::map(BPF_MAP_TYPE_HASH, 4, 8, 4096, "looked_up")?, 1, false)
    }

    fn finding(map: OwnedFd, count: u32, clock: bool) -> Result<Self> {
        let (key, value) = ([0_u8; 28], [0_u8; 24]);
        let element = Element {
            map_fd: u32::try_from(map.as_raw_fd())?,
            unused: 0,
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        };
        bpf::bpf(BPF_MAP_UPDATE_ELEM, &element).context("writing the element")?;
        let mut program = vec![
            STORE_STACK | offset(-8),
            STORE_STACK | offset(-16),
            STORE_STACK | offset(-24),
            STORE_STACK | offset(-32),
        ];
        for _ in 0..count {
            program.extend([
                MAP_TO_R1 | u64::from(map.as_raw_fd().cast_unsigned()) << 32,
                0,
                MOV_R2_FRAME,
                ADD_R2 | imm(-32),
                CALL | imm(1),
                // Not there: go on behind the read. There: read, as whoever looks up does.
                JUMP_IF_R0_ZERO | offset(1),
                READ_R1_FROM_R0,
            ]);
        }
        if clock {
            program.push(CALL | imm(5));
        }
        program.extend([MOV_R0 | imm(-1), EXIT]);
        Ok(Self { program: bpf::load(&program, "lookups")?, _map: Some(map) })
    }

    /// The mean time of one of `repeat` runs on a frame.
    ///
    /// # Errors
    /// The system call's.
    #[expect(unsafe_code, reason = "the bpf system call has no safe wrapper here")]
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let mut attributes = TestRun {
            prog_fd: u32::try_from(self.program.as_raw_fd())?,
            data_size_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        let size = size_of::<TestRun>();
        // SAFETY: the structure is as long as is said, the frame too, and both outlive the call.
        let outcome = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size) };
        if outcome != 0 {
            return Err(Error::last_os_error()).context("running a classifier");
        }
        Ok(Duration::from_nanos(attributes.duration.into()))
    }
}

// Instructions (`struct bpf_insn`): code, registers (destination in the low half), offset, immediate.
const MOV_R0: u64 = 0xb7;
const EXIT: u64 = 0x95;
const CALL: u64 = 0x85;
/// `*(u64 *)(r10 + offset) = 0`
const STORE_STACK: u64 = 0x7a | 0x0a << 8;
/// `r1 = map`, two instructions long; register 1, source `BPF_PSEUDO_MAP_FD`.
const MAP_TO_R1: u64 = 0x18 | 0x11 << 8;
/// `r2 = r10`
const MOV_R2_FRAME: u64 = 0xbf | 0xa2 << 8;
const ADD_R2: u64 = 0x07 | 0x02 << 8;
const JUMP_IF_R0_ZERO: u64 = 0x15;
/// `r1 = *(u64 *)(r0 + 0)`
const READ_R1_FROM_R0: u64 = 0x79 | 0x01 << 8;

const fn imm(value: i32) -> u64 {
    (value.cast_unsigned() as u64) << 32
}

const fn offset(value: i16) -> u64 {
    (value.cast_unsigned() as u64) << 16
}
