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

/// Every link is looked at this often, whatever was heard: tcx is not announced. Each look asks four times under the
/// lock of all networking, so that looking at all links every second would slow down every ADD.
const SWEEP: Duration = Duration::from_secs(30);

/// Flows are not read again so soon for links that refuse filters over and over.
const INHERIT_AGAIN: Duration = Duration::from_secs(10);

/// What is known of the filters on local pods' links.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// Those whose filters are still to be attached, or could not be.
    pub(super) missing: BTreeSet<Slot>,
    /// Those that ran before this agent: nobody can refuse them any more.
    pub(super) adopted: BTreeSet<Slot>,
    /// Those of `adopted` whose links take no filters, and why.
    refusing: BTreeMap<Slot, String>,
    /// Those through whose links flows run that the maps do not know.
    flowing: BTreeSet<Slot>,
    /// What runs before ours, by others.
    foreign: BTreeMap<Slot, Vec<String>>,
    /// Links of pods that are gone, which were still there.
    lingering: BTreeSet<u32>,
    swept: Option<Instant>,
    inherited: Option<Instant>,
}

impl Filters {
    /// A pod that is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.missing.remove(&slot);
        self.adopted.remove(&slot);
        self.refusing.remove(&slot);
        self.flowing.remove(&slot);
        self.foreign.remove(&slot);
    }

    fn note_foreign(&mut self, slot: Slot, foreign: Vec<String>) {
        if foreign.is_empty() {
            self.foreign.remove(&slot);
        } else {
            self.foreign.insert(slot, foreign);
        }
    }
}

impl<K: Kernel> Worker<K> {
    /// After a start: every link gets the programs of this agent, and those that had no filters of ours, or the node
    /// agent's too, have flows that nobody knows.
    pub(super) fn survey_all(&mut self) {
        self.filters.missing = self.local.keys().copied().collect();
        for (slot, (_, binding)) in &self.local {
            let known = self.kernel.look(binding).is_ok_and(|survey| survey.ours && !survey.incumbent);
            if !known {
                self.filters.flowing.insert(*slot);
            }
        }
        self.kernel.tidy();
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
            let heard = match &touched {
                Touched::Links(links) => links.contains(&binding.end.ifindex),
                Touched::Any => true,
            };
            if !heard || self.filters.missing.contains(slot) {
                continue;
            }
            let survey = match self.kernel.look(binding) {
                Ok(survey) => survey,
                Err(error) => {
                    let link = &binding.end.ifname;
                    tracing::warn!(link, error = chain(&*error), "its filters could not be looked at");
                    continue;
                }
            };
            // Gone with its pod; the DEL is still to come.
            if !self.kernel.lives(binding.end.ifindex) {
                continue;
            }
            if survey.incumbent {
                tracing::warn!(link = binding.end.ifname, "the node agent has put filters on it");
                self.filters.flowing.insert(*slot);
            } else if !survey.ours {
                tracing::warn!(link = binding.end.ifname, "something else had removed its filters");
            }
            if survey.incumbent || !survey.ours {
                let reason = "filter".to_owned();
                self.metrics.host_repairs.get_or_create(&ReasonLabel { reason }).inc();
                self.filters.missing.insert(*slot);
            }
            self.filters.note_foreign(*slot, survey.foreign);
        }
        let refusing = self.filters.refusing.clone();
        self.attach_missing();
        if self.filters.refusing != refusing || self.filters.foreign != foreign {
            let findings = self.filter_findings();
            self.report.send_modify(|report| {
                let report = Arc::make_mut(report);
                let ours = [FindingReason::NotFiltered, FindingReason::ForeignFilter];
                report.findings.retain(|finding| !ours.contains(&finding.reason));
                report.findings.extend(findings);
                self.metrics.policy_findings.set(gauge(report.findings.len()));
            });
        }
    }

    /// Attaches every filter that is missing; returns what failed.
    fn attach_missing(&mut self) -> BTreeMap<Slot, Refusal> {
        let unknown = self.inherit();
        let (mut failed, mut refusing) = (BTreeMap::new(), BTreeMap::new());
        let mut inherited = BTreeSet::new();
        for slot in self.filters.missing.clone() {
            let Some((_, binding)) = self.local.get(&slot) else {
                self.filters.missing.remove(&slot);
                continue;
            };
            let outcome = match unknown.get(&slot) {
                // Filters that do not know its flows would cut them.
                Some(refusal) => Err(refusal.clone()),
                None => self.kernel.attach(binding).map_err(|error| refused("attach-filters", &error)),
            };
            match outcome {
                Ok(foreign) => {
                    if !foreign.is_empty() && self.filters.foreign.get(&slot) != Some(&foreign) {
                        tracing::warn!(
                            link = binding.end.ifname,
                            ?foreign,
                            "other filters stand on this link"
                        );
                    }
                    self.filters.note_foreign(slot, foreign);
                    self.filters.missing.remove(&slot);
                    if self.filters.flowing.remove(&slot) {
                        inherited.insert(u32::from(slot.number()));
                    }
                }
                Err(refusal) => {
                    failed.insert(slot, refusal.clone());
                    if !self.kernel.lives(binding.end.ifindex) {
                        // Nothing can pass a link that is gone.
                        self.filters.missing.remove(&slot);
                    } else if self.filters.adopted.contains(&slot) {
                        // It is tried again every second: said once.
                        if self.filters.refusing.get(&slot) != Some(&refusal.message) {
                            tracing::error!(
                                link = binding.end.ifname, error = %refusal,
                                "a pod that ran before runs on without policy: its link takes no filters"
                            );
                        }
                        refusing.insert(slot, refusal.message);
                    } else {
                        tracing::error!(link = binding.end.ifname, error = %refusal, "filters were not attached");
                    }
                }
            }
        }
        self.filters.refusing = refusing;
        if !inherited.is_empty() {
            // Flows that began since they were read.
            if let Err(error) = self.kernel.inherit(&inherited) {
                tracing::warn!(error = chain(&*error), "flows that began just now may be cut");
            }
            self.kernel.tidy();
        }
        failed
    }

    /// Makes flows known that run through links which are about to get filters; returns who has to wait for theirs.
    fn inherit(&mut self) -> BTreeMap<Slot, Refusal> {
        let filters = &mut self.filters;
        let due: BTreeSet<Slot> = filters.flowing.intersection(&filters.missing).copied().collect();
        let stubborn = due.iter().all(|slot| filters.refusing.contains_key(slot));
        let recently = filters.inherited.is_some_and(|read| read.elapsed() < INHERIT_AGAIN);
        if due.is_empty() || (stubborn && recently) {
            return BTreeMap::new();
        }
        match self.kernel.inherit(&due.iter().map(|slot| u32::from(slot.number())).collect()) {
            Ok(flows) => {
                filters.inherited = Some(Instant::now());
                tracing::info!(pods = due.len(), flows, "flows that run already are known to the filters");
                BTreeMap::new()
            }
            Err(error) => {
                filters.inherited = None;
                let refusal = refused("read-flows", &error);
                due.into_iter().map(|slot| (slot, refusal.clone())).collect()
            }
        }
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

    /// What keeps the node from serving. A pod that ran before and whose link refuses is told by a finding instead:
    /// it would run without policy on a node that refuses everybody, too.
    pub(super) fn lacking_filters(&self) -> Option<String> {
        let refusing = &self.filters.refusing;
        let lacking = self.filters.missing.iter().filter(|slot| !refusing.contains_key(slot)).count();
        (lacking != 0).then(|| format!("{lacking} links lack their filters"))
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
