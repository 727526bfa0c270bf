//! What can go wrong.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The programs and maps could not be made ready.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The agent carries no programs.
    #[error("built without the eBPF programs; build with cargo xtask build")]
    NoObject,
    /// The programs were compiled with other layouts than the agent.
    #[error("the eBPF object has layout version {}, not {wanted}; build both together with cargo xtask build",
        found.map_or_else(|| "none".to_owned(), |found| found.to_string()))]
    Object {
        /// What it says; nothing if it says none.
        found: Option<u32>,
        /// What this agent writes.
        wanted: u32,
    },
    /// The pin directory is not on a bpf file system.
    #[error("{} is not on a bpf file system; mount one: mount -t bpf bpf /sys/fs/bpf", path.display())]
    NotBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory could not be made.
    #[error("pin directory {}", path.display())]
    PinRoot {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map is not what this version would make.
    #[error(
        "pinned map {name} has {what} {found}, not {wanted}; it was made by something else: reboot the node or remove it"
    )]
    PinnedMap {
        /// The map.
        name: &'static str,
        /// Which property differs.
        what: &'static str,
        /// What it has.
        found: u32,
        /// What it should have.
        wanted: u32,
    },
    /// The pinned maps are of another layout version.
    #[error("pinned maps have layout version {found}, not {wanted}")]
    Version {
        /// What they have.
        found: u32,
        /// What this agent writes.
        wanted: u32,
    },
    /// The kernel refused the object.
    #[error("loading the eBPF object")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel refused a program.
    #[error("loading the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the verifier's words.
        source: Box<aya::programs::ProgramError>,
    },
    /// The object lacks a map or program.
    #[error("the eBPF object has no {name}")]
    Missing {
        /// What it lacks.
        name: &'static str,
    },
    /// A map could not be opened or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// No netlink socket.
    #[error("netlink")]
    Netlink(#[from] netlink::Error),
}

/// A map could not be read or written.
#[derive(Debug, Error)]
#[error("map {map}: cannot {what}")]
pub struct MapError {
    /// The map.
    pub map: &'static str,
    /// What was tried, as a verb phrase.
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// Whether there is no room: an operator would make the map larger.
    pub full: bool,
}

impl MapError {
    pub(super) fn aya(map: &'static str, what: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| {
            let full = matches!(
                &source,
                aya::maps::MapError::SyscallError(error) if is_full(&error.io_error)
            );
            Self { map, what, source: source.into(), full }
        }
    }

    pub(super) fn io(map: &'static str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { map, what, full: is_full(&source), source: source.into() }
    }
}

/// A hash or trie without room says E2BIG or ENOSPC.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM))
}

/// A step was not carried out, or only up to some entry.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// A map refused an entry.
    #[error("step {step}")]
    Map {
        /// [`policy_core::Step::name`].
        step: &'static str,
        /// Why.
        source: MapError,
    },
    /// The endpoint to be flipped is not there.
    #[error("no endpoint in slot {slot}")]
    NoEndpoint {
        /// The slot.
        slot: u32,
    },
    /// The kernel gives no grace period.
    #[error("waiting for running programs to end")]
    Grace(#[source] io::Error),
}

/// A step was carried out up to some entry.
#[derive(Debug, Error)]
#[error("{done} entries of it are written")]
pub struct Unfinished {
    /// How many entries stand in the maps, from the first of its list on.
    pub done: usize,
    /// Why not the next one.
    pub source: ApplyError,
}

impl ApplyError {
    /// Whether a map is full: the one fault that an operator can mend.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Map { source, .. } if source.full)
    }
}

/// Flows that run could not be brought over.
#[derive(Debug, Error)]
pub enum InheritError {
    /// The kernel does not tell the flows that it tracks.
    #[error("reading tracked connections; the kernel needs nf_conntrack_netlink")]
    Conntrack(#[source] netlink::Error),
    /// The node's addresses could not be listed.
    #[error("listing the node's addresses")]
    Addresses(#[source] netlink::Error),
    /// No time.
    #[error("reading the clock")]
    Clock(#[source] nix::errno::Errno),
    /// A map could not be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Filters could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel refused.
    #[error("filters of interface {ifindex}")]
    Netlink {
        /// The interface.
        ifindex: u32,
        /// Why.
        source: netlink::Error,
    },
    /// The kernel accepted, but what stands there is not what was asked for.
    #[error("interface {ifindex}: {what} after attaching")]
    ReadBack {
        /// The interface.
        ifindex: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The interface has an `ingress` qdisc, beside which only tcx works (Linux 6.6).
    #[error("interface {ifindex} has an ingress qdisc, and tcx is refused")]
    Tcx {
        /// The interface.
        ifindex: u32,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A pin could not be made or removed: a tcx link would not be kept beyond this process, or kept too long.
    #[error("interface {ifindex}: a pin cannot be made or removed")]
    Pin {
        /// The interface; 0 where it is not of one.
        ifindex: u32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The slot is not one.
    #[error("slot {slot} is out of range")]
    Slot {
        /// The slot.
        slot: u32,
    },
    /// The map of interfaces could not be written.
    #[error(transparent)]
    Map(#[from] MapError),
}
