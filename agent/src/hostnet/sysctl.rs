//! The one sysctl that netlink has no request for.

use std::{fs, io};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Turns the node's IPv4 forwarding on, in the calling thread's network namespace. Where `/proc/sys` is read-only
/// (an unprivileged container) it stays as it is: the links that pods use get their own switch by netlink, which is
/// what the kernel asks; only programs that look at this file may complain.
///
/// # Errors
///
/// Where the file can be neither read nor written.
pub fn enable_forwarding() -> io::Result<()> {
    fs::read_to_string(IP_FORWARD)
        .and_then(|value| match value.trim() {
            "1" => Ok(()),
            _ => fs::write(IP_FORWARD, "1"),
        })
        .map_err(|error| io::Error::new(error.kind(), format!("{IP_FORWARD}: {error}")))
}
