//! Filters by tcx: links that are pinned, one per hook.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use netlink::tc::Hook;

use super::attach::HOOKS;
use super::open::program_mut;
use super::syscall::query_tcx;
use super::{AttachError, Datapath, bpffs};

/// `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// Whether the kernel has tcx (Linux 6.6). Of the calling thread's network namespace only the loopback is asked.
#[must_use]
pub fn has_tcx() -> bool {
    /// The loopback's index in every namespace.
    const LOOPBACK: u32 = 1;
    query_tcx(LOOPBACK, BPF_TCX_INGRESS).is_ok()
}

impl Datapath {
    pub(super) fn attach_tcx(&mut self, ifindex: u32, ifname: &str) -> Result<(), AttachError> {
        for (name, hook) in HOOKS {
            let pin = self.link_pin(ifindex, name);
            let id = self.program_id(ifindex, name)?;
            let program = program_mut(&mut self.ebpf, name)
                .ok_or(AttachError::ReadBack { ifindex, what: "a program is missing" })?;
            if let Ok(old) = PinnedLink::from_pin(&pin)
                && replace(program, old)
                && standing(ifindex, hook).contains(&id)
            {
                continue;
            }
            create(program, ifindex, ifname, hook, &pin)?;
        }
        Ok(())
    }

    /// Whether our programs are the first at both tcx hooks of an interface: two questions to the kernel and nothing
    /// else.
    #[must_use]
    pub fn leads_by_tcx(&self, ifindex: u32) -> bool {
        HOOKS.iter().all(|(name, hook)| {
            let ours = self.ids.get(name);
            ours.is_some() && standing(ifindex, *hook).first() == ours
        })
    }

    /// Whether an interface has a tcx link of ours, attached by whichever agent.
    pub(super) fn has_tcx(&self, ifindex: u32) -> bool {
        HOOKS.iter().any(|(name, _)| self.link_pin(ifindex, name).exists())
    }

    /// The program of a pinned link.
    pub(super) fn linked_program(&self, ifindex: u32, name: &str) -> Option<u32> {
        let link = PinnedLink::from_pin(self.link_pin(ifindex, name)).ok()?;
        Some(FdLink::from(link).info().ok()?.program_id())
    }

    /// Where a tcx link is pinned: without that it would end with this process.
    fn link_pin(&self, ifindex: u32, program: &str) -> PathBuf {
        self.pins.join(format!("link_{ifindex}_{program}"))
    }

    /// Takes the pins of an interface away; its links end with them.
    pub(super) fn unpin_links(&self, ifindex: u32) -> Result<(), AttachError> {
        for (name, _) in HOOKS {
            remove(&self.link_pin(ifindex, name), ifindex)?;
        }
        Ok(())
    }

    /// Takes away maps and links that agents with older layouts pinned; returns how many of those there were. For when
    /// all filters are replaced: an older link's program goes on by what it knew, and the maps hold tens of MiB.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn unpin_older(&self) -> Result<usize, AttachError> {
        let pin = |error: std::io::Error| AttachError::Pin { ifindex: 0, source: error.into() };
        bpffs::unpin_older(&self.pins, is_link).map_err(pin)
    }

    /// Takes away the pins of interfaces that are gone; returns how many interfaces.
    ///
    /// # Errors
    /// Where the pins cannot be listed or removed.
    pub fn forget_gone(&mut self) -> Result<usize, AttachError> {
        let gone: Vec<u32> = linked(&self.pins)?.into_iter().filter(|ifindex| !lives(*ifindex)).collect();
        gone.iter().try_for_each(|ifindex| self.unpin_links(*ifindex))?;
        Ok(gone.len())
    }
}

/// Whether the calling thread's namespace has the interface.
pub(super) fn lives(ifindex: u32) -> bool {
    // For a link that is not there, nix 0.31 tells an empty name and no error.
    nix::net::if_::if_indextoname(ifindex).is_ok_and(|name| !name.is_empty())
}

/// Ids of the programs at a hook in their order. Before Linux 6.6 there is
/// nothing to ask for.
pub(super) fn standing(ifindex: u32, hook: Hook) -> Vec<u32> {
    let attach_type = match hook {
        Hook::Ingress => BPF_TCX_INGRESS,
        Hook::Egress => BPF_TCX_EGRESS,
    };
    query_tcx(ifindex, attach_type).unwrap_or_default()
}

/// Interfaces with links that are pinned in a folder.
pub(super) fn linked(pins: &Path) -> Result<BTreeSet<u32>, AttachError> {
    match std::fs::read_dir(pins) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(AttachError::Pin { ifindex: 0, source: error.into() }),
        Ok(entries) => {
            Ok(entries.filter_map(|entry| pinned_interface(entry.ok()?.file_name().to_str()?)).collect())
        }
    }
}

/// Whether a pin is one of ours for a link.
pub(super) fn is_link(name: &str) -> bool {
    pinned_interface(name).is_some()
}

/// The interface in the name of a link's pin.
fn pinned_interface(name: &str) -> Option<u32> {
    let (ifindex, program) = name.strip_prefix("link_")?.split_once('_')?;
    let ours = HOOKS.iter().any(|(name, _)| *name == program);
    ifindex.parse().ok().filter(|_| ours)
}

fn remove(pin: &Path, ifindex: u32) -> Result<(), AttachError> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(AttachError::Pin { ifindex, source: error.into() })
        }
        _ => Ok(()),
    }
}

/// Whether a pinned link took the program. One whose interface is gone does too:
/// indexes come again, so what stands on the interface is looked at.
fn replace(program: &mut SchedClassifier, old: PinnedLink) -> bool {
    let link = SchedClassifierLink::try_from(FdLink::from(old));
    let replaced = link.ok().and_then(|link| program.attach_to_link(link).ok());
    // The pin holds the link; this handle is not needed.
    replaced.map(|id| drop(program.take_link(id))).is_some()
}

fn create(
    program: &mut SchedClassifier,
    ifindex: u32,
    ifname: &str,
    hook: Hook,
    pin: &Path,
) -> Result<(), AttachError> {
    let refused = |source| AttachError::Tcx { ifindex, source: Box::new(source) };
    let unpinned = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Pin { ifindex, source };
    remove(pin, ifindex)?;
    let attach_type = match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    };
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(ifname, attach_type, options).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|error| unpinned(error.into()))?;
    link.pin(pin).map(drop).map_err(|error| unpinned(error.into()))
}

#[cfg(test)]
mod tests {
    use super::pinned_interface;

    #[test]
    fn a_pin_names_its_interface() {
        assert_eq!(pinned_interface("link_17_from_pod"), Some(17));
        assert_eq!(pinned_interface("link_x_from_pod"), None);
        assert_eq!(pinned_interface("link_17_of_somebody"), None);
        assert_eq!(pinned_interface("peer4"), None);
    }
}
