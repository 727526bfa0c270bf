//! Which links have their filters, and what becomes of those that have not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_core::{Finding, FindingReason, LocalPod, ObjectKind};
use rpc::Refusal;

use super::worker::{Batch, Worker, gauge, refused};
use super::{Binding, Kernel, Touched};
use crate::cause::chain;
use crate::endpoint::Slot;
use crate::metrics::ReasonLabel;

/// Every link is looked at this often, whatever was heard. Each look asks four times under the lock of all
/// networking, so that looking at all links every second would slow down every ADD.
const SWEEP: Duration = Duration::from_secs(30);

/// What is known of the filters on local pods' links.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// Those whose filters are still to be attached, or could not be.
    pub(super) missing: BTreeSet<Slot>,
    /// Those that ran before this agent: nobody can refuse them any more.
    pub(super) adopted: BTreeSet<Slot>,
    /// Those whose links take no filters, and why.
    pub(super) refusing: BTreeMap<Slot, String>,
    /// Those that ran before this agent, and through whose links flows run that the maps do not know: ours are still
    /// to take the place of the node agent's, or of none.
    flowing: BTreeSet<Slot>,
    /// The first filters of this run are still to be attached.
    pub(super) adopting: bool,
    /// What runs before ours, by others.
    foreign: BTreeMap<Slot, Vec<String>>,
    /// Those filtered by tcx, which is not announced: asked for every second.
    by_tcx: BTreeSet<Slot>,
    /// Those on whose links something changed that could not be looked at.
    unseen: BTreeSet<Slot>,
    /// Links of pods that are gone, which were still there.
    lingering: BTreeSet<u32>,
    swept: Option<Instant>,
    /// When flows were last read.
    pub(super) inherited: Option<Instant>,
}

impl Filters {
    /// A pod that is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.missing.remove(&slot);
        self.adopted.remove(&slot);
        self.refusing.remove(&slot);
        self.flowing.remove(&slot);
        self.foreign.remove(&slot);
        self.by_tcx.remove(&slot);
        self.unseen.remove(&slot);
    }

    fn note_foreign(&mut self, slot: Slot, link: &str, foreign: Vec<String>) {
        if foreign.is_empty() {
            self.foreign.remove(&slot);
        } else if self.foreign.get(&slot) != Some(&foreign) {
            tracing::warn!(link, ?foreign, "other filters run before ours");
            self.foreign.insert(slot, foreign);
        }
    }
}

impl<K: Kernel> Worker<K> {
    /// After a start: every link gets the programs of this agent, and those that had no filters of ours, or the node
    /// agent's too, have flows that nobody knows. Only now is the node agent gone for certain: filters and pins of its
    /// that come later are those of one that runs.
    pub(super) fn survey_all(&mut self) {
        self.filters.missing = self.local.keys().copied().collect();
        let fresh = self.kernel.is_fresh();
        for (slot, (_, binding)) in &self.local {
            let known =
                !fresh && self.kernel.look(binding).is_ok_and(|survey| survey.ours && !survey.incumbent);
            if !known {
                self.filters.flowing.insert(*slot);
            }
        }
        self.filters.adopting = true;
        self.kernel.tidy();
        self.kernel.unpin_incumbent();
        // What this agent does itself is not heard; what others did was just seen.
        self.kernel.touched();
        self.filters.swept = Some(Instant::now());
    }

    /// A pod is gone: nothing of its filters outlives its link.
    pub(super) fn release_link(&mut self, ifindex: u32) {
        if self.kernel.forget(ifindex) {
            self.filters.lingering.insert(ifindex);
        }
    }

    /// Looks at links on which something changed, and puts back what somebody took off.
    pub(super) fn verify(&mut self) {
        if !self.active {
            return;
        }
        let mut touched = self.kernel.touched();
        if self.filters.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            touched = Touched::Any;
            self.filters.swept = Some(Instant::now());
            self.kernel.tidy();
        }
        let kernel = &mut self.kernel;
        self.filters.lingering.retain(|ifindex| kernel.forget(*ifindex));
        let foreign = self.filters.foreign.clone();
        for (slot, (_, binding)) in &self.local {
            if self.filters.missing.contains(slot) {
                continue;
            }
            let (ifindex, link) = (binding.end.ifindex, &binding.end.ifname);
            let heard = match &touched {
                Touched::Links(links) => links.contains(&ifindex),
                Touched::Any => true,
            };
            let told = heard || self.filters.unseen.contains(slot);
            if !told && (!self.filters.by_tcx.contains(slot) || self.kernel.leads(ifindex)) {
                continue;
            }
            let survey = self.kernel.look(binding);
            // Gone with its pod; the DEL is still to come.
            if !self.kernel.lives(ifindex) {
                self.filters.unseen.remove(slot);
                continue;
            }
            let survey = match survey {
                Ok(survey) => survey,
                Err(error) => {
                    // Not announced again: it is looked at until that succeeds.
                    if self.filters.unseen.insert(*slot) {
                        tracing::warn!(link, error = chain(&*error), "its filters could not be looked at");
                    }
                    continue;
                }
            };
            self.filters.unseen.remove(slot);
            if !survey.ours {
                tracing::warn!(link, "something else had removed its filters");
                let reason = "filter".to_owned();
                self.metrics.host_repairs.get_or_create(&ReasonLabel { reason }).inc();
                self.filters.missing.insert(*slot);
            }
            // A node agent that runs again puts back what is taken off it.
            let foreign = survey.foreign.into_iter().chain(survey.ahead).collect();
            self.filters.note_foreign(*slot, link, foreign);
        }
        let refusing = self.filters.refusing.clone();
        self.attach_missing();
        let error = self.error();
        let changed = self.report.borrow().error != error;
        if changed || self.filters.refusing != refusing || self.filters.foreign != foreign {
            let findings = self.filter_findings();
            self.report.send_modify(|report| {
                let report = Arc::make_mut(report);
                report.error = error;
                report.filters = findings.into();
                self.metrics.policy_findings.set(gauge(report.all_findings().count()));
            });
        }
    }

    /// Attaches every filter that is missing; returns what failed.
    fn attach_missing(&mut self) -> BTreeMap<Slot, Refusal> {
        let local = &self.local;
        self.filters.missing.retain(|slot| local.contains_key(slot));
        let (flowing, others): (Vec<Slot>, Vec<Slot>) =
            self.filters.missing.iter().partition(|slot| self.filters.flowing.contains(slot));
        let mut failed = BTreeMap::new();
        for slot in others {
            if let Err(refusal) = self.attach(slot, false) {
                failed.insert(slot, refusal);
            }
        }
        self.take_over(&flowing, &mut failed);
        self.filters.adopting = false;
        let mut refusing = BTreeMap::new();
        for (slot, refusal) in &failed {
            let Some((_, binding)) = self.local.get(slot) else { continue };
            if !self.kernel.lives(binding.end.ifindex) {
                // Nothing can pass a link that is gone.
                self.filters.missing.remove(slot);
                continue;
            }
            // It is tried again every second: said once.
            if self.filters.refusing.get(slot) != Some(&refusal.message) {
                tracing::error!(link = binding.end.ifname, error = %refusal, "a link takes no filters");
            }
            refusing.insert(*slot, refusal.message.clone());
        }
        self.filters.refusing = refusing;
        if self.filters.missing.is_empty() {
            self.kernel.unpin_older();
        }
        failed
    }

    /// Both filters on one link.
    pub(super) fn attach(&mut self, slot: Slot, take_over: bool) -> Result<(), Refusal> {
        let Some((_, binding)) = self.local.get(&slot) else { return Ok(()) };
        let attached =
            self.kernel.attach(binding, take_over).map_err(|error| refused("attach-filters", &error))?;
        self.filters.note_foreign(slot, &binding.end.ifname, attached.foreign);
        self.filters.missing.remove(&slot);
        self.filters.flowing.remove(&slot);
        if attached.by_tcx {
            self.filters.by_tcx.insert(slot);
        } else {
            self.filters.by_tcx.remove(&slot);
        }
        Ok(())
    }

    /// Filters for newcomers and for whoever else lacks them. Returns the newcomers that are refused: as if they
    /// had never come; the runtime tries again.
    pub(super) fn attach_filters(
        &mut self,
        batch: &Batch,
        applied: &Result<(), Refusal>,
    ) -> BTreeMap<Slot, Refusal> {
        let newcomers: BTreeSet<Slot> = batch.attached.iter().map(|(slot, _)| *slot).collect();
        self.filters.missing.extend(&newcomers);
        let mut failed = match applied {
            Ok(()) => self.attach_missing(),
            Err(refusal) => newcomers.iter().map(|slot| (*slot, refusal.clone())).collect(),
        };
        failed.retain(|slot, _| newcomers.contains(slot) && !self.filters.adopted.contains(slot));
        for slot in failed.keys() {
            self.filters.forget(*slot);
            if let Some((_, binding)) = self.local.remove(slot) {
                self.clear(u32::from(slot.number()));
                self.release_link(binding.end.ifindex);
            }
        }
        failed
    }

    /// Which links keep the node from serving. A pod that ran before this agent and whose link refuses is told by a
    /// finding only: it would run without policy on a node that refuses everybody, too.
    pub(super) fn lacking_filters(&self) -> Option<String> {
        let Filters { missing, adopted, refusing, .. } = &self.filters;
        let lacking: Vec<Slot> = missing
            .iter()
            .copied()
            .filter(|slot| !(adopted.contains(slot) && refusing.contains_key(slot)))
            .collect();
        let first = lacking.iter().find_map(|slot| {
            let (_, binding) = self.local.get(slot)?;
            Some(format!("; {}: {}", binding.end.ifname, refusing.get(slot)?))
        });
        let why = first.unwrap_or_default();
        (!lacking.is_empty()).then(|| format!("{} links lack their filters{why}", lacking.len()))
    }

    pub(super) fn filter_findings(&self) -> Vec<Finding> {
        let refusing = self.filters.refusing.iter().filter_map(|(slot, why)| {
            let (pod, binding) = self.local.get(slot)?;
            let message =
                format!("no policy holds for it: its link {} takes no filters: {why}", binding.end.ifname);
            Some(finding(pod, binding, FindingReason::NotFiltered, message))
        });
        let foreign = self.filters.foreign.iter().filter_map(|(slot, foreign)| {
            let (pod, binding) = self.local.get(slot)?;
            let message = format!(
                "what others put on its link {} runs before policy and may let packets past it: {}",
                binding.end.ifname,
                foreign.join(", ")
            );
            Some(finding(pod, binding, FindingReason::ForeignFilter, message))
        });
        refusing.chain(foreign).collect()
    }
}

fn finding(pod: &LocalPod, binding: &Binding, reason: FindingReason, message: String) -> Finding {
    let (namespace, name) = pod.identity.as_ref().map_or_else(
        || ("".into(), binding.end.ifname.as_str().into()),
        |identity| (identity.namespace.clone(), identity.name.clone()),
    );
    Finding { kind: ObjectKind::Pod, namespace, name, path: String::new(), reason, message }
}
