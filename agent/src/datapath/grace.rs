//! Waiting until no program runs any more that began before.

use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::syscall::membarrier_global;

/// Returns after an RCU grace period (8 to 16 ms), in which every program that
/// ran when it was called has ended.
///
/// # Errors
/// Where the kernel offers neither way.
pub fn wait() -> io::Result<()> {
    // EINVAL under nohz_full, EPERM where a seccomp profile forbids it.
    membarrier_global().or_else(|_| by_packet_socket())
}

/// The kernel closes a packet socket only after a grace period
/// (`packet_release` calls `synchronize_net`), whether or not it received anything.
fn by_packet_socket() -> io::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    drop(socket);
    Ok(())
}
