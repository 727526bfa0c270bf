//! Maps, programs and filters as the policy thread needs them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ebpf_common::abi::Direction;
use netlink::tc::{self, Changes};
use policy_core::{Step, Tables};

use crate::cause::chain;
use crate::datapath::{Datapath, EMBEDDED, EndpointSpec, OpenError, Options, Via};
use crate::endpoint::Slot;
use crate::policy::{Attached, Binding, Kernel, KernelError, PacketCount, Survey, Touched, Unfinished};

/// New flow entries that one pod may cause in a tick of 1.07 s: far more than a busy server opens, and little
/// enough that a flood cannot push other pods' idle flows out of the table within their age.
const BUDGET: u32 = 20_000;

/// The loaded datapath, and what is heard of filters.
#[derive(Debug)]
pub struct KernelPort(Datapath, Option<Changes>);

impl KernelPort {
    /// Drives `datapath`. To be called in the network namespace that it was opened in.
    #[must_use]
    pub fn new(datapath: Datapath) -> Self {
        let changes = Changes::open();
        if let Err(error) = &changes {
            tracing::warn!(
                error = chain(error),
                "changes of filters are not heard; every link is looked at instead"
            );
        }
        Self(datapath, changes.ok())
    }

    /// Loads the embedded programs over the maps pinned below `root`.
    ///
    /// # Errors
    ///
    /// As [`Datapath::open`].
    pub fn open(root: &Path, options: &Options) -> Result<Datapath, OpenError> {
        Datapath::open(EMBEDDED, root, options)
    }
}

impl Kernel for KernelPort {
    fn installed(&mut self) -> Result<(Tables, u32), KernelError> {
        Ok((self.0.installed()?, self.0.last_epoch()?))
    }

    fn bind(&mut self, binding: &Binding) -> Result<(), KernelError> {
        let spec = EndpointSpec {
            ifindex: binding.end.ifindex,
            mac: binding.end.pod_mac,
            budget: BUDGET,
            ..EndpointSpec::default()
        };
        let spec = binding.addresses.iter().fold(spec, |spec, address| spec.with_address(*address));
        Ok(self.0.set_endpoint(u32::from(binding.slot.number()), &spec)?)
    }

    fn clear(&mut self, slot: u32) -> Result<(), KernelError> {
        Ok(self.0.clear_endpoint(slot)?)
    }

    fn apply(&mut self, step: &Step) -> Result<(), Unfinished> {
        let applied = self.0.apply_step(step);
        applied.map_err(|unfinished| Unfinished { done: unfinished.done, error: unfinished.source.into() })
    }

    fn grace(&self) -> Box<dyn FnMut() -> Result<(), KernelError> + Send> {
        Box::new(|| Ok(crate::datapath::wait_grace()?))
    }

    fn attach(&mut self, binding: &Binding, take_over: bool) -> Result<Attached, KernelError> {
        let (ifindex, slot) = (binding.end.ifindex, u32::from(binding.slot.number()));
        let via = if binding.egress_shaped { Via::Tcx } else { Via::Clsact };
        let attached = self.0.attach(ifindex, &binding.end.ifname, slot, via, take_over)?;
        if attached.replaced {
            tracing::info!(link = binding.end.ifname, "took the place of the node agent's filters");
        }
        Ok(Attached { foreign: attached.foreign, by_tcx: attached.via == Via::Tcx })
    }

    fn inherit(&mut self, slots: &BTreeSet<u32>) -> Result<usize, KernelError> {
        Ok(self.0.inherit(slots)?)
    }

    fn look(&mut self, binding: &Binding) -> Result<Survey, KernelError> {
        let survey = self.0.look(binding.end.ifindex, u32::from(binding.slot.number()))?;
        Ok(Survey {
            ours: survey.ours,
            incumbent: !survey.incumbent.is_empty(),
            ahead: survey.ahead,
            foreign: survey.foreign,
        })
    }

    fn leads(&mut self, ifindex: u32) -> bool {
        self.0.leads_by_tcx(ifindex)
    }

    fn touched(&mut self) -> Touched {
        match self.1.as_mut().map(|changes| changes.take(self.0.port())) {
            Some(tc::Touched::Links(links)) => Touched::Links(links),
            Some(tc::Touched::Any) | None => Touched::Any,
        }
    }

    fn tidy(&mut self) {
        if let Err(error) = self.0.forget_gone() {
            tracing::warn!(error = chain(&error), "pins of links that are gone were left");
        }
    }

    fn is_fresh(&self) -> bool {
        self.0.is_fresh()
    }

    fn unpin_older(&mut self) {
        match self.0.unpin_older() {
            Ok(0) => {}
            Ok(layouts) => tracing::info!(layouts, "removed maps of agents with older layouts"),
            Err(error) => {
                tracing::warn!(error = chain(&error), "maps of an agent with an older layout were left")
            }
        }
    }

    fn unpin_incumbent(&mut self) {
        match self.0.unpin_incumbent() {
            Ok(0) => {}
            Ok(pins) => tracing::info!(pins, "removed pins of the node agent that no link needs"),
            Err(error) => tracing::warn!(error = chain(&error), "pins of the node agent were left"),
        }
    }

    fn lives(&mut self, ifindex: u32) -> bool {
        link_name(ifindex).is_some()
    }

    fn forget(&mut self, ifindex: u32) -> bool {
        self.0.forget(ifindex).unwrap_or_else(|error| {
            tracing::warn!(ifindex, error = chain(&error), "the pins of a link that is gone were left");
            false
        })
    }

    fn unclaimed(&mut self, claimed: &BTreeSet<u32>) -> Result<Vec<String>, KernelError> {
        let standing = self.0.endpoints()?;
        let unclaimed = standing.into_iter().filter(|(slot, _)| !claimed.contains(slot));
        Ok(unclaimed.filter_map(|(_, endpoint)| link_name(endpoint.ifindex)).collect())
    }

    fn bound_to(&mut self, ifindex: u32) -> Vec<(u32, Vec<IpAddr>)> {
        let standing = self.0.endpoints().unwrap_or_else(|error| {
            tracing::warn!(ifindex, error = chain(&error), "the endpoints in the maps could not be read");
            Vec::new()
        });
        let of_link = standing.into_iter().filter(|(_, spec)| spec.ifindex == ifindex);
        of_link
            .map(|(slot, spec)| {
                let v6 = spec.ipv6.map(IpAddr::from);
                (slot, spec.ipv4.map(IpAddr::from).into_iter().chain(v6).collect())
            })
            .collect()
    }

    fn slot_of(&mut self, ifindex: u32) -> Option<Slot> {
        let slot = self
            .0
            .slot_of(ifindex)
            .inspect_err(|error| tracing::debug!(ifindex, error = chain(error), "filters could not be read"))
            .ok()??;
        Slot::new(u16::try_from(slot).ok()?)
    }

    fn counters(&mut self) -> Vec<PacketCount> {
        match self.0.counters() {
            Ok(counts) => counts
                .into_iter()
                .filter(|count| count.packets > 0)
                .map(|count| PacketCount {
                    direction: match count.direction {
                        Direction::In => "to_pod",
                        Direction::Out => "from_pod",
                    },
                    reason: count.reason.label(),
                    packets: count.packets,
                    bytes: count.bytes,
                })
                .collect(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "the packet counters could not be read");
                Vec::new()
            }
        }
    }
}

/// The name of a link that is there. For one that is not, nix 0.31 tells an empty name and no error.
fn link_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::link_name;

    #[test]
    fn a_link_that_is_not_there_has_no_name() {
        assert_eq!(link_name(1).as_deref(), Some("lo"));
        assert_eq!(link_name(0x7fff_fff0), None);
    }
}
