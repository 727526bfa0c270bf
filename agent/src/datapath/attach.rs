//! Filters on a pod's host end.

use std::os::fd::{AsFd, BorrowedFd};

use ebpf_common::abi::map;
use netlink::tc::{self, BpfFilter, CLSACT, Filter, Hook};
use netlink::{Batch, Error as NetlinkError};

use super::open::{FROM_POD, TO_POD};
use super::{AttachError, Datapath, MapError, tcx};

/// First of all filters.
pub const PRIORITY: u16 = 1;
/// Not 1: the node agent's cleaner deletes filters with that handle.
pub const HANDLE: u32 = 0x7d;

/// Both programs and where they go: a pod sends what its host end receives.
pub(super) const HOOKS: [(&str, Hook); 2] = [(FROM_POD, Hook::Ingress), (TO_POD, Hook::Egress)];

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
    /// Filters of the node agent stood there, and are gone now.
    pub replaced: bool,
}

/// What stands on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Both of ours stand, with the slot that was asked for.
    pub ours: bool,
    /// Filters of the node agent ([`super::incumbent`]).
    pub incumbent: Vec<Filter>,
    /// Those of them that run before ours.
    pub ahead: Vec<String>,
    /// Filters of others that run before ours and may let packets past them.
    pub foreign: Vec<String>,
}

impl Datapath {
    /// Puts both filters on an interface, or replaces their programs in place.
    ///
    /// With `take_over` those of the node agent are then taken away. Ours run
    /// before theirs at once, so that no packet is unfiltered meanwhile; a flow
    /// that only theirs know of is for [`Datapath::inherit`] to bring over first.
    /// Without it they stay, and count as foreign.
    ///
    /// tcx is used whatever is asked for where an `ingress` qdisc stands already,
    /// and where tcx links of ours stand: more may be chained behind them.
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
        take_over: bool,
    ) -> Result<Attached, AttachError> {
        let classid = u16::try_from(slot).ok().filter(|slot| *slot != 0).ok_or(AttachError::Slot { slot })?;
        let place = match via {
            Via::Clsact if !self.has_tcx(ifindex) => self.make_clsact(ifindex)?,
            _ => Place::Taken,
        };
        let via = match place {
            Place::New | Place::Standing => {
                self.attach_clsact(ifindex, classid)?;
                Via::Clsact
            }
            Place::Taken => {
                self.attach_tcx(ifindex, ifname)?;
                Via::Tcx
            }
        };
        if matches!(place, Place::New) {
            // Nobody had a chain on it to put a filter into.
            return Ok(Attached { via, foreign: Vec::new(), replaced: false });
        }
        let survey = self.look(ifindex, slot)?;
        if !survey.ours {
            return Err(AttachError::ReadBack { ifindex, what: "a filter is missing" });
        }
        if !take_over {
            let foreign = survey.foreign.into_iter().chain(survey.ahead).collect();
            return Ok(Attached { via, foreign, replaced: false });
        }
        let mut batch = Batch::new();
        for filter in &survey.incumbent {
            tc::delete_filter(&mut batch, ifindex, filter.hook, filter.priority, filter.handle);
        }
        let replaced = !batch.is_empty();
        self.run(ifindex, batch)?;
        Ok(Attached { via, foreign: survey.foreign, replaced })
    }

    /// The kernel's number for our requests: announcements of changes carry it.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.netlink.port()
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

    /// What stands on an interface whose filters should have this slot.
    ///
    /// # Errors
    /// Where the kernel refuses to tell.
    pub fn look(&mut self, ifindex: u32, slot: u32) -> Result<Survey, AttachError> {
        let mut survey = Survey { ours: true, ..Survey::default() };
        for (name, hook) in HOOKS {
            // The program of whichever agent attached it.
            let program = match self.linked_program(ifindex, name) {
                Some(linked) => linked,
                None => self.program_id(ifindex, name)?,
            };
            let by_tcx = tcx::standing(ifindex, hook);
            let filters = self.filters(ifindex, hook)?;
            let first_tcx = by_tcx.iter().position(|id| *id == program);
            let before = &by_tcx[..first_tcx.unwrap_or(by_tcx.len())];
            survey.foreign.extend(before.iter().map(|id| format!("tcx {hook:?}: program {id}")));
            let with_slot = |filter: &Filter| filter.classid.is_some_and(|found| found & 0xffff == slot);
            let ours = filters.iter().position(|filter| is_ours(filter) && with_slot(filter));
            survey.ours &= ours.is_some() || first_tcx.is_some();
            // What tcx decides, no filter sees.
            let ahead = if first_tcx.is_some() { 0 } else { ours.unwrap_or(filters.len()) };
            for (place, filter) in filters.into_iter().enumerate() {
                let theirs = self.incumbent.has(&filter);
                if place < ahead {
                    let Filter { kind, priority, handle, .. } = &filter;
                    let told = format!("{hook:?}: {kind} priority {priority} handle {handle:#x}");
                    if theirs {
                        survey.ahead.push(format!("{told} of the node agent"));
                    } else {
                        survey.foreign.push(told);
                    }
                }
                if theirs {
                    survey.incumbent.push(filter);
                }
            }
        }
        Ok(survey)
    }

    /// Forgets an interface that is gone: its filters went with it, the pins of tcx links stay until now. Of one
    /// that is still there nothing is taken off: its slot is empty by then, so that its filters drop everything.
    /// Returns whether pins stay for that: to be called again once it is gone.
    ///
    /// # Errors
    /// Where a pin can not be removed.
    pub fn forget(&mut self, ifindex: u32) -> Result<bool, AttachError> {
        if !self.has_tcx(ifindex) {
            return Ok(false);
        }
        if tcx::lives(ifindex) {
            return Ok(true);
        }
        self.unpin_links(ifindex).map(|()| false)
    }

    /// Makes sure of clsact. An `ingress` qdisc in its place would accept a filter
    /// for egress and put it into its own chain.
    fn make_clsact(&mut self, ifindex: u32) -> Result<Place, AttachError> {
        let mut batch = Batch::new();
        tc::add_clsact(&mut batch, ifindex);
        match self.netlink.run(batch) {
            Ok(_) => return Ok(Place::New),
            Err(error) if error.is_existing() => {}
            Err(source) => return Err(AttachError::Netlink { ifindex, source }),
        }
        let standing = tc::standing(&mut self.netlink, ifindex).map_err(wrap(ifindex))?;
        Ok(if standing.as_deref() == Some(CLSACT) { Place::Standing } else { Place::Taken })
    }

    /// Both filters by one request; the kernel's echo of each is what is checked.
    fn attach_clsact(&mut self, ifindex: u32, classid: u16) -> Result<(), AttachError> {
        let mut batch = Batch::new();
        for (name, hook) in HOOKS {
            let fd = self.program_fd(ifindex, name)?;
            let filter = BpfFilter { ifindex, hook, priority: PRIORITY, handle: HANDLE, classid, name };
            tc::add_filter(&mut batch, &filter, fd);
        }
        let standing = tc::echoed(&self.netlink.run(batch).map_err(wrap(ifindex))?);
        for (name, hook) in HOOKS {
            let wanted = self.program_id(ifindex, name)?;
            let ours = standing.iter().find(|filter| filter.hook == hook && is_ours(filter));
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

    fn filters(&mut self, ifindex: u32, hook: Hook) -> Result<Vec<Filter>, AttachError> {
        tc::filters(&mut self.netlink, ifindex, hook).map_err(wrap(ifindex))
    }

    fn run(&mut self, ifindex: u32, batch: Batch) -> Result<(), AttachError> {
        self.netlink.run(batch).map(drop).map_err(wrap(ifindex))
    }

    fn program_fd(&self, ifindex: u32, name: &str) -> Result<BorrowedFd<'_>, AttachError> {
        self.program(name)
            .and_then(|program| program.fd().ok())
            .map(|fd| fd.as_fd())
            .ok_or(AttachError::ReadBack { ifindex, what: "a program is not loaded" })
    }

    pub(super) fn program_id(&self, ifindex: u32, name: &str) -> Result<u32, AttachError> {
        self.ids.get(name).copied().ok_or(AttachError::ReadBack { ifindex, what: "a program is not loaded" })
    }
}

/// What stood where clsact belongs.
#[derive(Clone, Copy)]
enum Place {
    New,
    Standing,
    /// Not a place for clsact's filters.
    Taken,
}

fn wrap(ifindex: u32) -> impl FnOnce(NetlinkError) -> AttachError {
    move |source| AttachError::Netlink { ifindex, source }
}

/// By its place and the name that we gave it.
pub(super) fn is_ours(filter: &Filter) -> bool {
    let name = HOOKS.iter().find(|(_, hook)| *hook == filter.hook).map(|(name, _)| *name);
    let place = filter.kind == "bpf" && filter.priority == PRIORITY && filter.handle == HANDLE;
    place && filter.name.as_deref() == name
}
