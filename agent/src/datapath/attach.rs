//! Filters on a pod's host end.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use ebpf_common::abi::map;
use netlink::tc::{self, BpfFilter, CLSACT, Filter, Hook};
use netlink::{Batch, Error as NetlinkError};

use super::open::{FROM_POD, TO_POD, program_mut};
use super::{AttachError, Datapath, MapError};

/// First of all filters.
pub const PRIORITY: u16 = 1;
/// Not 1: the node agent's cleaner deletes filters with that handle.
pub const HANDLE: u32 = 0x7d;

/// Both programs and where they go: a pod sends what its host end receives.
const HOOKS: [(&str, Hook); 2] = [(FROM_POD, Hook::Ingress), (TO_POD, Hook::Egress)];

/// How filters are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// The clsact qdisc: 0.2 ms for both.
    #[default]
    Clsact,
    /// tcx links (Linux 6.6), 8 to 16 ms each: beside an `ingress` qdisc, which
    /// the bandwidth plugin puts or will put there.
    Tcx,
}

/// What stands on an interface after attaching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// How ours are attached.
    pub via: Via,
    /// Filters of others that run before ours and may let packets past them.
    pub foreign: Vec<String>,
}

impl Datapath {
    /// Puts both filters on an interface, or replaces their programs in place.
    /// Where an `ingress` qdisc stands already, tcx is used whatever is asked for.
    ///
    /// The interface must be in the namespace in which this datapath was opened;
    /// for tcx that must be the calling thread's too.
    ///
    /// # Errors
    /// Where the kernel refuses, or what stands there afterwards is not ours.
    pub fn attach(
        &mut self,
        ifindex: u32,
        ifname: &str,
        slot: u32,
        via: Via,
    ) -> Result<Attached, AttachError> {
        let classid = u16::try_from(slot).ok().filter(|slot| *slot != 0).ok_or(AttachError::Slot { slot })?;
        let via = match via {
            Via::Clsact if self.has_clsact(ifindex)? => Via::Clsact,
            _ => Via::Tcx,
        };
        match via {
            Via::Clsact => self.attach_clsact(ifindex, classid)?,
            Via::Tcx => self.attach_tcx(ifindex, ifname)?,
        }
        let foreign = self.foreign_filters(ifindex, ifname, via)?;
        Ok(Attached { via, foreign })
    }

    /// Takes both filters off an interface; one that is gone is fine.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.unpin_links(ifindex)?;
        let mut batch = Batch::new();
        for (_, hook) in HOOKS {
            tc::delete_filter(&mut batch, ifindex, hook, PRIORITY, HANDLE);
        }
        self.run(ifindex, batch)
    }

    /// The slot that an interface's filters were attached with.
    ///
    /// # Errors
    /// Where the kernel refuses to tell.
    pub fn slot_of(&mut self, ifindex: u32) -> Result<Option<u32>, AttachError> {
        let ours = self.filters(ifindex, Hook::Ingress)?.into_iter().find(is_ours);
        if let Some(classid) = ours.and_then(|filter| filter.classid) {
            return Ok(Some(classid & 0xffff));
        }
        match self.maps.ifslot.get(&ifindex, 0) {
            Ok(value) => Ok(value.0.slot_of(ifindex)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(MapError::aya(map::IFSLOT, "read an interface")(error).into()),
        }
    }

    /// Whether both filters stand on an interface with this slot.
    ///
    /// # Errors
    /// Where the kernel refuses to tell.
    pub fn stands(&mut self, ifindex: u32, slot: u32) -> Result<bool, AttachError> {
        if HOOKS.iter().all(|(name, _)| self.link_pin(ifindex, name).exists()) {
            return Ok(true);
        }
        for (_, hook) in HOOKS {
            let ours = self.filters(ifindex, hook)?.into_iter().find(is_ours);
            if ours.and_then(|filter| filter.classid).is_none_or(|found| found & 0xffff != slot) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets an interface that is gone: its filters went with it, the pins of tcx links stay until now. Of one
    /// that is still there nothing is taken off: its slot is empty by then, so that its filters drop everything.
    ///
    /// # Errors
    /// Where a pin can not be removed.
    pub fn forget(&mut self, ifindex: u32) -> Result<(), AttachError> {
        // For a link that is not there, nix 0.31 tells an empty name and no error.
        if nix::net::if_::if_indextoname(ifindex).is_ok_and(|name| !name.is_empty()) {
            return Ok(());
        }
        self.unpin_links(ifindex)
    }

    fn unpin_links(&self, ifindex: u32) -> Result<(), AttachError> {
        for (name, _) in HOOKS {
            let pin = self.link_pin(ifindex, name);
            if pin.exists() {
                std::fs::remove_file(&pin)
                    .map_err(|error| AttachError::Pin { ifindex, source: error.into() })?;
            }
        }
        Ok(())
    }

    /// Makes sure of clsact; false if an `ingress` qdisc stands in its place. That
    /// one would accept a filter for egress and put it into its own chain.
    fn has_clsact(&mut self, ifindex: u32) -> Result<bool, AttachError> {
        let mut batch = Batch::new();
        tc::add_clsact(&mut batch, ifindex);
        match self.netlink.run(batch) {
            Ok(_) => return Ok(true),
            Err(error) if error.is_existing() => {}
            Err(source) => return Err(AttachError::Netlink { ifindex, source }),
        }
        let qdiscs = tc::qdiscs(&mut self.netlink).map_err(wrap(ifindex))?;
        let standing = qdiscs.iter().find(|qdisc| qdisc.ifindex == ifindex);
        Ok(standing.is_some_and(|qdisc| qdisc.kind == CLSACT))
    }

    fn attach_clsact(&mut self, ifindex: u32, classid: u16) -> Result<(), AttachError> {
        let mut batch = Batch::new();
        for (name, hook) in HOOKS {
            let fd = self.program_fd(ifindex, name)?;
            let filter = BpfFilter { ifindex, hook, priority: PRIORITY, handle: HANDLE, classid, name };
            tc::add_filter(&mut batch, &filter, fd);
        }
        self.run(ifindex, batch)?;
        for (name, hook) in HOOKS {
            let wanted = self.program_id(ifindex, name)?;
            let standing = self.filters(ifindex, hook)?;
            let ours = standing.iter().find(|filter| is_ours(filter));
            let Some(ours) = ours else {
                return Err(AttachError::ReadBack { ifindex, what: "a filter is missing" });
            };
            let right = ours.program == Some(wanted)
                && ours.direct_action
                && ours.classid.is_some_and(|found| found & 0xffff == u32::from(classid));
            if !right {
                return Err(AttachError::ReadBack { ifindex, what: "a filter is not as asked for" });
            }
        }
        Ok(())
    }

    fn attach_tcx(&mut self, ifindex: u32, ifname: &str) -> Result<(), AttachError> {
        for (name, hook) in HOOKS {
            let pin = self.link_pin(ifindex, name);
            let program = program_mut(&mut self.ebpf, name)
                .ok_or(AttachError::ReadBack { ifindex, what: "a program is missing" })?;
            if let Ok(old) = PinnedLink::from_pin(&pin)
                && replace_tcx(program, old)
            {
                continue;
            }
            create_tcx(program, ifindex, ifname, hook, &pin)?;
        }
        Ok(())
    }

    /// Filters of others that run before ours.
    fn foreign_filters(&mut self, ifindex: u32, ifname: &str, via: Via) -> Result<Vec<String>, AttachError> {
        let mut foreign = Vec::new();
        for (name, hook) in HOOKS {
            let ours = self.program_id(ifindex, name)?;
            // Before Linux 6.6 there is nothing to ask for.
            if let Ok((_, programs)) = SchedClassifier::query_tcx(ifname, tcx_type(hook)) {
                let before = programs.iter().take_while(|program| program.id() != ours);
                foreign.extend(before.map(|program| format!("tcx {hook:?}: program {}", program.id())));
            }
            if via == Via::Clsact {
                let before = self.filters(ifindex, hook)?.into_iter().take_while(|filter| !is_ours(filter));
                foreign.extend(before.map(|filter| {
                    format!(
                        "{hook:?}: {} priority {} handle {:#x}",
                        filter.kind, filter.priority, filter.handle
                    )
                }));
            }
        }
        Ok(foreign)
    }

    fn filters(&mut self, ifindex: u32, hook: Hook) -> Result<Vec<Filter>, AttachError> {
        tc::filters(&mut self.netlink, ifindex, hook).map_err(wrap(ifindex))
    }

    fn run(&mut self, ifindex: u32, batch: Batch) -> Result<(), AttachError> {
        self.netlink.run(batch).map(drop).map_err(wrap(ifindex))
    }

    /// Where a tcx link is pinned: without that it would end with this process.
    fn link_pin(&self, ifindex: u32, program: &str) -> PathBuf {
        self.pins.join(format!("link_{ifindex}_{program}"))
    }

    fn program_fd(&self, ifindex: u32, name: &str) -> Result<BorrowedFd<'_>, AttachError> {
        self.program(name)
            .and_then(|program| program.fd().ok())
            .map(|fd| fd.as_fd())
            .ok_or(AttachError::ReadBack { ifindex, what: "a program is not loaded" })
    }

    fn program_id(&self, ifindex: u32, name: &str) -> Result<u32, AttachError> {
        self.program(name)
            .and_then(|program| program.info().ok())
            .map(|info| info.id())
            .ok_or(AttachError::ReadBack { ifindex, what: "a program is not loaded" })
    }
}

fn wrap(ifindex: u32) -> impl FnOnce(NetlinkError) -> AttachError {
    move |source| AttachError::Netlink { ifindex, source }
}

fn is_ours(filter: &Filter) -> bool {
    filter.kind == "bpf" && filter.priority == PRIORITY && filter.handle == HANDLE
}

const fn tcx_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}

/// Whether a pinned link took the program. One whose interface is gone does not:
/// interface indexes come again after a reboot only, but pins go with it too.
fn replace_tcx(program: &mut SchedClassifier, old: PinnedLink) -> bool {
    let link = SchedClassifierLink::try_from(FdLink::from(old));
    let replaced = link.ok().and_then(|link| program.attach_to_link(link).ok());
    // The pin holds the link; this handle is not needed.
    replaced.map(|id| drop(program.take_link(id))).is_some()
}

fn create_tcx(
    program: &mut SchedClassifier,
    ifindex: u32,
    ifname: &str,
    hook: Hook,
    pin: &std::path::Path,
) -> Result<(), AttachError> {
    let refused = |source| AttachError::Tcx { ifindex, source: Box::new(source) };
    let unpinned = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Pin { ifindex, source };
    if pin.exists() {
        std::fs::remove_file(pin).map_err(|error| unpinned(error.into()))?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(ifname, tcx_type(hook), options).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|error| unpinned(error.into()))?;
    link.pin(pin).map(drop).map_err(|error| unpinned(error.into()))
}
