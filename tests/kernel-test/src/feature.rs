//! Kernel features, each found by trying it in a namespace of its own.
//!
//! `cargo xtask setup` names the missing ones of [`REQUIRED`]; tests find them
//! through [`Need`](crate::Need). One list, so that setup never passes a
//! machine on which `REQUIRE_KERNEL=1` then fails.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::NetNs;

/// Something that the kernel, or the right to use it, must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Effective user id 0.
    Root,
    /// `CONFIG_NET_NS`.
    NetworkNamespaces,
    /// Mount namespaces.
    MountNamespaces,
    /// `CONFIG_VETH`.
    Veth,
    /// `CONFIG_IP_MULTIPLE_TABLES`: rules and tables beyond main.
    PolicyRouting,
    /// `CONFIG_OVERLAY_FS`: a node's own view of /etc and /opt.
    Overlay,
    /// `CONFIG_BPF_SYSCALL` with ring buffers (5.8).
    Bpf,
    /// The file system that maps are pinned in.
    Bpffs,
    /// `CONFIG_NET_SCH_INGRESS` (clsact) and `CONFIG_NET_CLS_BPF`.
    ClsBpf,
    /// `CONFIG_NF_TABLES` with `CONFIG_NFT_NAT`, and the `nft` command.
    Nftables,
    /// `CONFIG_VLAN_8021Q`; optional.
    Vlan,
    /// `CONFIG_IP_SCTP`; optional.
    Sctp,
}

/// What the demo and the tests cannot do without.
pub const REQUIRED: [Feature; 10] = [
    Feature::Root,
    Feature::NetworkNamespaces,
    Feature::MountNamespaces,
    Feature::Veth,
    Feature::PolicyRouting,
    Feature::Overlay,
    Feature::Bpf,
    Feature::Bpffs,
    Feature::ClsBpf,
    Feature::Nftables,
];

/// Answers so far: a feature does not come or go while a process runs.
static FOUND: Mutex<BTreeMap<Feature, Result<(), String>>> = Mutex::new(BTreeMap::new());

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::NetworkNamespaces => "network namespaces",
            Self::MountNamespaces => "mount namespaces",
            Self::Veth => "veth pairs",
            Self::PolicyRouting => "policy routing",
            Self::Overlay => "overlay file systems",
            Self::Bpf => "BPF with ring buffers",
            Self::Bpffs => "the BPF file system",
            Self::ClsBpf => "the clsact qdisc with the bpf classifier",
            Self::Nftables => "nftables with NAT",
            Self::Vlan => "802.1Q links",
            Self::Sctp => "SCTP sockets",
        })
    }
}

impl Feature {
    /// `Ok` where it can be used here and now, else the reason in words. The
    /// first answer is kept for the life of the process.
    pub fn check(self) -> Result<(), String> {
        // The lock is held while probing: parallel trials ask the same thing.
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(self).or_insert_with(|| self.probe()).clone()
    }

    /// The kernel's own name for it, for whoever builds one.
    pub fn kernel_config(self) -> Option<&'static str> {
        match self {
            Self::Root => None,
            Self::NetworkNamespaces => Some("CONFIG_NET_NS"),
            Self::MountNamespaces => Some("CONFIG_NAMESPACES"),
            Self::Veth => Some("CONFIG_VETH"),
            Self::PolicyRouting => Some("CONFIG_IP_MULTIPLE_TABLES"),
            Self::Overlay => Some("CONFIG_OVERLAY_FS"),
            Self::Bpf | Self::Bpffs => Some("CONFIG_BPF_SYSCALL"),
            Self::ClsBpf => Some("CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF"),
            Self::Nftables => Some("CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ"),
            Self::Vlan => Some("CONFIG_VLAN_8021Q"),
            Self::Sctp => Some("CONFIG_IP_SCTP"),
        }
    }

    fn probe(self) -> Result<(), String> {
        let missing = |detail: String| format!("{self}: {detail}");
        match self {
            Self::Root if nix::unistd::geteuid().is_root() => Ok(()),
            Self::Root => Err("this needs root".into()),
            Self::NetworkNamespaces => NetNs::new().map(|_| ()).map_err(|e| missing(e.to_string())),
            Self::MountNamespaces => NetNs::with_mounts()
                .map(|_| ())
                .map_err(|e| missing(e.to_string())),
            Self::Veth => in_own_namespace("ip", "link add probe0 type veth peer name probe1"),
            Self::PolicyRouting => {
                in_own_namespace("ip", "rule add from 192.168.0.1 lookup 1000 priority 1536")
            }
            Self::ClsBpf => in_own_namespace("tc", "qdisc add dev lo clsact").and_then(|()| {
                script_in_own_namespace(
                    "tc",
                    &["-batch", "-"],
                    "qdisc add dev lo clsact\n\
                     filter add dev lo ingress bpf bytecode \"1,6 0 0 0\"\n",
                )
            }),
            Self::Nftables => script_in_own_namespace(
                "nft",
                &["-f", "-"],
                "table ip probe {\n\
                   chain post { type nat hook postrouting priority srcnat;\n\
                     ip saddr 192.168.0.1 masquerade\n\
                     ip saddr 192.168.0.2 snat to 192.168.0.3\n\
                   }\n\
                   chain pre { type filter hook prerouting priority mangle;\n\
                     ct mark & 0x80 == 0x80 meta mark set ct mark & 0x80\n\
                   }\n\
                 }\n",
            ),
            Self::Vlan => script_in_own_namespace(
                "ip",
                &["-batch", "-"],
                "link add probe0 type veth peer name probe1\nlink add link probe0 name probe0.7 type vlan id 7\n",
            ),
            Self::Overlay => in_own_mounts("overlay", "lowerdir=/etc:/opt"),
            Self::Bpffs => in_own_mounts("bpf", ""),
            Self::Bpf => ring_buffer().map_err(|error| missing(error.to_string())),
            Self::Sctp => sctp_socket().map_err(|error| missing(error.to_string())),
        }
        .map_err(|reason| {
            let text = self.to_string();
            if reason.starts_with(&text) || self == Self::Root {
                reason
            } else {
                format!("{text}: {reason}")
            }
        })
    }
}

fn in_own_namespace(command: &str, arguments: &str) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    script_in_own_namespace(command, &arguments, "")
}

/// Runs a command with `input` on its standard input in a new namespace.
fn script_in_own_namespace(command: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let ns = NetNs::new().map_err(|error| error.to_string())?;
    let output = ns.run(|| {
        let mut child = Command::new(command)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ended early says why on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    });
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{command}: {error}")),
    }
}

/// Mounts a file system of this type over /mnt in a mount namespace of its own.
fn in_own_mounts(kind: &str, options: &str) -> Result<(), String> {
    let ns = NetNs::with_mounts().map_err(|error| error.to_string())?;
    ns.run(|| {
        nix::mount::mount(
            Some(kind),
            "/mnt",
            Some(kind),
            nix::mount::MsFlags::empty(),
            (!options.is_empty()).then_some(options),
        )
    })
    .map_err(|errno| errno.to_string())
}

/// Creates the smallest ring buffer that there is, and closes it.
#[expect(unsafe_code, reason = "the bpf system call has no safe wrapper here")]
fn ring_buffer() -> std::io::Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_RINGBUF: u32 = 27;
    const PAGE: u32 = 4096;
    // map_type, key_size, value_size, max_entries of union bpf_attr.
    let attributes: [u32; 4] = [BPF_MAP_TYPE_RINGBUF, 0, 0, PAGE];
    // SAFETY: the pointer and length describe `attributes`, which outlives the
    // call; the kernel takes the fields after them as zero.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes))
    };
    close_or_error(fd)
}

#[expect(unsafe_code, reason = "nix names no SCTP")]
fn sctp_socket() -> std::io::Result<()> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) };
    close_or_error(fd.into())
}

#[expect(unsafe_code, reason = "takes a raw descriptor from a system call")]
fn close_or_error(fd: libc::c_long) -> std::io::Result<()> {
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the system call just returned this descriptor and nobody else
    // has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
