//! A packet ring in the pod: its frames come with nothing but the link header in the linear area.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, ensure};
use ebpf_common::abi::Reason;
use ebpf_common::frame::Frame;

use super::packets::{count, link_address};
use super::wire::{Who, Wire, counted, set_option};

/// One block of one page holds two frames.
const BLOCK: usize = 4096;
const SLOT: usize = 2048;
const BLOCKS: usize = 4;
/// Where a frame begins in its slot.
const DATA: usize = libc::TPACKET2_HDRLEN - size_of::<libc::sockaddr_ll>();

/// A ring of frames to be sent, in the calling thread's namespace.
struct Ring {
    fd: OwnedFd,
    memory: *mut u8,
}

impl Ring {
    fn open(link: &str) -> Result<Self> {
        // SAFETY: the call takes integers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(
            &fd,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as i32),
        )?;
        let request = libc::tpacket_req {
            tp_block_size: u32::try_from(BLOCK)?,
            tp_block_nr: u32::try_from(BLOCKS)?,
            tp_frame_size: u32::try_from(SLOT)?,
            tp_frame_nr: u32::try_from(BLOCKS * BLOCK / SLOT)?,
        };
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        let (protection, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of the ring that was just made, of its size.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), BLOCKS * BLOCK, protection, kind, fd.as_raw_fd(), 0) };
        ensure!(memory != libc::MAP_FAILED, "mapping: {}", std::io::Error::last_os_error());
        let address = link_address(link, 0x0800_u16.to_be())?;
        // SAFETY: the address is valid for the length that is given.
        let bound = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address).try_into()?)
        };
        ensure!(bound == 0, "binding: {}", std::io::Error::last_os_error());
        Ok(Self { fd, memory: memory.cast() })
    }

    /// Sends frames, at most as many as there are slots; returns when the kernel took all.
    fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        ensure!(frames.len() <= BLOCKS * BLOCK / SLOT);
        for (number, frame) in frames.iter().enumerate() {
            ensure!(frame.len() <= SLOT - DATA);
            // SAFETY: the slot is inside the mapping, and its size was checked; the kernel reads it only after its
            // status says so.
            unsafe {
                let slot = self.memory.add(number * SLOT);
                std::ptr::copy_nonoverlapping(frame.as_ptr(), slot.add(DATA), frame.len());
                let header: *mut libc::tpacket2_hdr = slot.cast();
                (*header).tp_len = u32::try_from(frame.len())?;
                (*header).tp_snaplen = (*header).tp_len;
                std::ptr::write_volatile(&raw mut (*header).tp_status, libc::TP_STATUS_SEND_REQUEST);
            }
        }
        // SAFETY: no buffer is given.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), std::ptr::null(), 0, 0) };
        let expected: usize = frames.iter().map(Vec::len).sum();
        ensure!(sent == isize::try_from(expected)?, "{sent}: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own. What fails here goes with the process.
        let _ = unsafe { libc::munmap(self.memory.cast(), BLOCKS * BLOCK) };
    }
}

pub(crate) fn ring_of_a_pod() -> Result<()> {
    let wire = Wire::new()?;
    wire.with(|dp| {
        let frame = |port, six: bool| {
            let (me, to) = if six { (Who::A.v6(), Who::B.v6()) } else { (Who::A.v4(), Who::B.v4()) };
            Frame::tcp((me, 4000), (to, port), 2).bytes()
        };
        let ring = |frames: &[Vec<u8>]| wire.send_by(Who::A, Who::B, || Ring::open("eth0")?.send(frames));
        for six in [false, true] {
            let came = ring(&[frame(81, six), frame(22, six)])?;
            ensure!(came.is_empty(), "denied, and it came: {came:02x?}");
            let came = ring(&[frame(80, six), frame(81, six)])?;
            ensure!(came.len() == 1, "of two, one is allowed: {came:02x?}");
        }
        ensure!(count(dp, Reason::Policy)? == 6, "{:?}", counted(dp)?);
        // Frames shorter than what is asked of longer ones.
        for (me, to) in [(Who::A.v4(), Who::B.v4()), (Who::A.v6(), Who::B.v6())] {
            let came = ring(&[Frame::udp((me, 4000), (to, 53)).bytes()])?;
            ensure!(came.len() == 1, "a datagram of no bytes: {came:02x?}");
        }
        ensure!(count(dp, Reason::Truncated)? == 0, "what was not linear was not there: {:?}", counted(dp)?);
        // Cut off inside its headers, it is what it seems: too short.
        for len in [20, 33, 40, 53] {
            let mut cut = frame(80, false);
            cut.truncate(len);
            ensure!(ring(&[cut])?.is_empty(), "{len} bytes came");
        }
        ensure!(count(dp, Reason::Truncated)? == 4, "{:?}", counted(dp)?);
        Ok(())
    })
}
