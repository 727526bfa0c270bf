//! What a test may need from the machine.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Feature;

/// One thing that a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// Effective user id 0.
    Root,
    /// Network namespaces, veth pairs and policy routing.
    NetNs,
    /// Mount namespaces and overlay file systems.
    Mounts,
    /// The bpf system call, ring buffers, and a file system to pin maps in.
    Bpf,
    /// The clsact qdisc with the bpf classifier.
    Tc,
    /// nftables with NAT, and the `nft` command to read it back.
    Nft,
    /// containerd and runc, the plugins that every runtime calls, and busybox for images.
    ContainerRuntime,
    /// 802.1Q links. Not required: only the trunk tests use them.
    Vlan,
    /// SCTP sockets. Not required.
    Sctp,
    /// A command in `PATH`.
    Tool(&'static str),
    /// An environment variable that is set, for instance to a folder of data.
    Env(&'static str),
    /// A module that the Python named by `TIDEPOOL_PYTHON` can import.
    Python(&'static str),
    /// So many processors. Not required: only tests of what happens at once use them.
    Processors(usize),
}

/// Variables that `cargo xtask test` always sets: their absence is a fault
/// wherever the kernel is required.
const ALWAYS_SET: [&str; 3] = ["TIDEPOOL_BIN_DIR", "TIDEPOOL_EBPF_OBJECT", "TIDEPOOL_PYTHON"];

impl Need {
    /// Whether `REQUIRE_KERNEL=1` makes the lack of it a failure.
    pub fn is_required(self) -> bool {
        match self {
            Self::Root
            | Self::NetNs
            | Self::Mounts
            | Self::Bpf
            | Self::Tc
            | Self::Nft
            | Self::ContainerRuntime
            | Self::Python(_) => true,
            Self::Env(name) => ALWAYS_SET.contains(&name),
            Self::Vlan | Self::Sctp | Self::Tool(_) | Self::Processors(_) => false,
        }
    }

    /// `Ok` where this machine has it, else the reason in words.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Root => all(&[Feature::Root]),
            Self::NetNs => {
                all(&[Feature::Root, Feature::NetworkNamespaces, Feature::Veth, Feature::PolicyRouting])
            }
            Self::Mounts => all(&[Feature::Root, Feature::MountNamespaces, Feature::Overlay]),
            Self::Bpf => all(&[Feature::Root, Feature::Bpf, Feature::Bpffs]),
            Self::Tc => all(&[Feature::Root, Feature::NetworkNamespaces, Feature::ClsBpf]),
            Self::Nft => all(&[Feature::Root, Feature::NetworkNamespaces, Feature::Nftables]),
            Self::ContainerRuntime => container_runtime(),
            Self::Vlan => all(&[Feature::Root, Feature::NetworkNamespaces, Feature::Vlan]),
            Self::Sctp => all(&[Feature::Sctp]),
            Self::Tool(name) => {
                find_in_path(name).map(|_| ()).ok_or_else(|| format!("the command {name} is not in PATH"))
            }
            Self::Env(name) => std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(|_| ())
                .ok_or_else(|| format!("{name} is not set")),
            Self::Python(module) => python_imports(module),
            Self::Processors(wanted) => match std::thread::available_parallelism() {
                Ok(found) if found.get() >= wanted => Ok(()),
                found => Err(format!("{} processors, not {wanted}", found.map_or(0, |found| found.get()))),
            },
        }
    }
}

fn all(features: &[Feature]) -> Result<(), String> {
    features.iter().try_for_each(|feature| feature.check())
}

/// The first file called `name` in a directory of `PATH`, or where commands of
/// root are: ordinary users have no sbin in their PATH, but sudo has.
pub fn find_in_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name.as_ref()))
        .find(|file| file.is_file())
}

fn container_runtime() -> Result<(), String> {
    let missing =
        ["containerd", "ctr", "runc", "busybox"].into_iter().find(|name| find_in_path(name).is_none());
    if let Some(name) = missing {
        return Err(format!("the command {name} is not in PATH"));
    }
    let plugins = PathBuf::from("/usr/lib/cni");
    match ["loopback", "portmap"].into_iter().find(|name| !plugins.join(name).is_file()) {
        Some(name) => Err(format!("{} has no {name}", plugins.display())),
        None => Ok(()),
    }
}

fn python_imports(module: &str) -> Result<(), String> {
    let python = std::env::var_os("TIDEPOOL_PYTHON")
        .filter(|value| !value.is_empty())
        .ok_or("TIDEPOOL_PYTHON is not set")?;
    let found = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if found { Ok(()) } else { Err(format!("{} has no module {module}", python.to_string_lossy())) }
}
