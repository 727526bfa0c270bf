//! The thread that owns compiler and maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use policy_core::{Cluster, Compiler, CompilerOptions, LocalPod, Step};
use rpc::{Refusal, code};
use tokio::sync::{mpsc, oneshot, watch};

use super::enforcer::PolicyReport;
use super::filters::Filters;
use super::leftover::{self, Leftover, Over};
use super::look::{InForce, Look};
use super::{Binding, Changes, Kernel, KernelError, Programmed, Unfinished};
use crate::cause::chain;
use crate::endpoint::{Endpoint, Slot};
use crate::metrics::Metrics;

type Reply = oneshot::Sender<Result<(), Refusal>>;

pub(super) enum Command {
    /// An endpoint comes; answered when it is in force.
    Attach(Endpoint, LocalPod, Reply),
    /// An endpoint of a former agent: as it stands until [`Command::Activate`].
    Adopt(Endpoint, LocalPod, Reply),
    /// An endpoint goes.
    Detach(Slot, u32, oneshot::Sender<()>),
    /// All former endpoints are known, compile from now on.
    Activate(Reply),
    /// The cluster's snapshot changed; the first of what is new reached the agent at this moment.
    Changed(Instant),
    /// Which slot a link's filters have.
    SlotOf(u32, oneshot::Sender<Option<Slot>>),
    /// Which addresses the maps have for a link.
    AddressesOf(u32, oneshot::Sender<Vec<IpAddr>>),
    /// Empties the slots of a link that belongs to no endpoint.
    Discard(u32, oneshot::Sender<()>),
    /// Fresh counters into the metrics.
    Count(oneshot::Sender<()>),
    /// Filters that somebody took off are put back.
    Verify(oneshot::Sender<()>),
    /// Somebody asks what is in force.
    Look(Look),
    /// The grace period for what was left at this turn is over, or could not be waited for.
    GraceOver(u64, Result<(), KernelError>),
}

pub(super) struct Worker<K> {
    pub(super) kernel: K,
    pub(super) compiler: Compiler,
    pub(super) local: BTreeMap<Slot, (LocalPod, Binding)>,
    pub(super) filters: Filters,
    snapshot: Box<dyn Fn() -> Arc<Cluster> + Send>,
    pub(super) report: watch::Sender<Arc<PolicyReport>>,
    changes: Changes,
    pub(super) metrics: Metrics,
    pub(super) active: bool,
    /// Why the newest policy is not in force, where it is not.
    unapplied: Option<String>,
    /// What is no longer needed and still in the maps.
    leftover: Leftover,
}

impl<K: Kernel> Worker<K> {
    /// Reads what stands in the maps, so that no number of it is given to other contents.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read.
    pub(super) fn new(
        mut kernel: K,
        snapshot: Box<dyn Fn() -> Arc<Cluster> + Send>,
        report: watch::Sender<Arc<PolicyReport>>,
        changes: Changes,
        metrics: Metrics,
        commands: mpsc::WeakSender<Command>,
    ) -> Result<Self, KernelError> {
        let (installed, last_epoch) = kernel.installed()?;
        // Epochs come from one counter of the node and are never used again, restarts included.
        let first_epoch = last_epoch + 1;
        let options = CompilerOptions { first_epoch, ..CompilerOptions::default() };
        let compiler = Compiler::new(options, installed);
        let leftover = Leftover::new(kernel.grace(), commands)?;
        Ok(Self {
            kernel,
            compiler,
            local: BTreeMap::new(),
            filters: Filters::default(),
            snapshot,
            report,
            changes,
            metrics,
            active: false,
            unapplied: None,
            leftover,
        })
    }

    /// Serves until every sender is gone.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut batch = Batch::default();
            self.take(first, &mut batch);
            while let Ok(next) = commands.try_recv() {
                self.take(next, &mut batch);
            }
            if batch.compile && self.active {
                self.compile_and_apply(batch);
                if self.compiler.is_taking_over() && self.unapplied.is_none() {
                    self.finish_take_over();
                }
            } else {
                batch.answer(&Ok(()), &BTreeMap::new());
            }
        }
    }

    fn take(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::Attach(endpoint, pod, reply) => match self.admit(&endpoint, pod) {
                Ok(()) => {
                    batch.compile = true;
                    batch.attached.push((endpoint.slot, reply));
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Command::Adopt(endpoint, pod, reply) => {
                self.local.insert(endpoint.slot, (pod, binding(&endpoint)));
                self.filters.adopted.insert(endpoint.slot);
                drop(reply.send(Ok(())));
            }
            Command::Detach(slot, ifindex, reply) => {
                let ours = self.local.get(&slot).is_some_and(|(_, binding)| binding.end.ifindex == ifindex);
                if ours {
                    self.local.remove(&slot);
                    self.filters.forget(slot);
                    self.clear(u32::from(slot.number()));
                    self.release_link(ifindex);
                    batch.compile = true;
                }
                batch.detached.push(reply);
            }
            Command::Activate(reply) => match self.activate() {
                Ok(()) => {
                    batch.compile = true;
                    batch.activated.push(reply);
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Command::Verify(reply) => {
                self.verify();
                let _ = reply.send(());
            }
            Command::Changed(since) => {
                batch.compile = true;
                batch.since = Some(batch.since.map_or(since, |earlier| earlier.min(since)));
            }
            Command::GraceOver(turn, waited) => {
                // There may be room now for what found none.
                batch.compile |= self.remove_leftover(turn, waited) && self.unapplied.is_some();
            }
            Command::Look(look) => look(&InForce {
                compiler: &self.compiler,
                local: &self.local,
                leaving: self.leftover.is_pending(),
            }),
            Command::SlotOf(ifindex, reply) => drop(reply.send(self.kernel.slot_of(ifindex))),
            Command::AddressesOf(ifindex, reply) => {
                let bound = self.kernel.bound_to(ifindex).into_iter();
                let _ = reply.send(bound.flat_map(|(_, addresses)| addresses).collect());
            }
            Command::Discard(ifindex, reply) => {
                let claimed = |slot: u32| self.local.keys().any(|known| u32::from(known.number()) == slot);
                let bound = self.kernel.bound_to(ifindex);
                for (slot, _) in bound.into_iter().filter(|(slot, _)| !claimed(*slot)).collect::<Vec<_>>() {
                    self.clear(slot);
                    self.release_link(ifindex);
                }
                let _ = reply.send(());
            }
            Command::Count(reply) => {
                for count in self.kernel.counters() {
                    self.metrics.packets(count.direction, count.reason, count.packets, count.bytes);
                }
                let _ = reply.send(());
            }
        }
    }

    /// A closed slot for the newcomer: what comes before its sets are written is dropped.
    fn admit(&mut self, endpoint: &Endpoint, pod: LocalPod) -> Result<(), Refusal> {
        let binding = binding(endpoint);
        self.compiler.clear_endpoint(u32::from(endpoint.slot.number()));
        self.leftover.disturb();
        self.kernel.bind(&binding).map_err(|error| refused("endpoint-map", &error))?;
        self.local.insert(endpoint.slot, (pod, binding));
        self.filters.missing.insert(endpoint.slot);
        Ok(())
    }

    /// Slots of pods that are gone are emptied; those that live keep what is in force.
    ///
    /// A pod that lives without a lease means that the checkpoint was lost: its slot would be emptied, its routes
    /// removed, its address given to another. So nothing is done and nothing is served until an operator decides.
    fn activate(&mut self) -> Result<(), Refusal> {
        let claimed: BTreeSet<u32> = self.local.keys().map(|slot| u32::from(slot.number())).collect();
        let lost = self.kernel.unclaimed(&claimed).map_err(|error| refused("read-endpoints", &error))?;
        if !lost.is_empty() {
            let message = format!(
                "pods run behind {} and their leases are not in the state directory; restore it or drain the node \
                 and reboot it",
                lost.join(", ")
            );
            return Err(Refusal::new(code::TRY_AGAIN_LATER, "leases-lost", message));
        }
        self.active = true;
        let gone: Vec<u32> = self
            .compiler
            .installed()
            .endpoints
            .keys()
            .copied()
            .filter(|slot| !claimed.contains(slot))
            .collect();
        for slot in gone {
            self.clear(slot);
        }
        for (pod, binding) in self.local.values() {
            // One that stands already keeps its policy; what differs, or is new, is closed until its sets come.
            if let Err(error) = self.kernel.bind(binding) {
                tracing::error!(slot = pod.slot, error = chain(&*error), "an endpoint could not be bound");
            }
        }
        self.survey_all();
        Ok(())
    }

    pub(super) fn clear(&mut self, slot: u32) {
        self.compiler.clear_endpoint(slot);
        self.leftover.disturb();
        if let Err(error) = self.kernel.clear(slot) {
            tracing::error!(slot, %error, "a slot could not be emptied");
        }
    }

    /// Compiles and puts in force. What is no longer needed stays for a grace period.
    fn compile_and_apply(&mut self, batch: Batch) {
        let cluster = (self.snapshot)();
        let local: Vec<LocalPod> = self.local.values().map(|(pod, _)| pod.clone()).collect();
        let began = Instant::now();
        let steps = self.compiler.update(&cluster, &local).steps;
        let flip = steps.iter().position(|step| *step == Step::Grace).unwrap_or(steps.len());
        let (before, after) = steps.split_at(flip);

        let compile = began.elapsed();
        let outcome = self.apply(before);
        let first = (batch.finishes || !batch.activated.is_empty()).then_some(began);
        if let (Ok(()), Some(since), false) = (&outcome, batch.since.or(first), before.is_empty()) {
            let took = since.elapsed();
            if batch.since.is_some() {
                self.metrics.policy_seconds.observe(took.as_secs_f64());
            }
            let apply = began.elapsed().saturating_sub(compile);
            self.changes.note(Programmed::now(took, compile, apply, before));
        }
        let refused = self.attach_filters(&batch, &outcome);
        self.publish(&outcome);
        batch.answer(&outcome, &refused);
        let removals = match outcome {
            Ok(()) => after.to_vec(),
            // What fills the maps must not wait for what found no room in them.
            Err(_) => leftover::unreachable(after, self.compiler.installed()),
        };
        self.leftover.plan(!before.is_empty(), removals);
    }

    /// Moves the addresses whose classes say what they were for a former agent to those that need not, before any change
    /// has to wait for that. The former rows go first: maps need not have room for three times as many.
    fn finish_take_over(&mut self) {
        let former = self.leftover.take();
        match self.apply(&[Step::Grace]).and_then(|()| self.remove(&former)) {
            Ok(()) => self.compile_and_apply(Batch { finishes: true, ..Batch::default() }),
            Err(refusal) => {
                tracing::warn!(error = %refusal, "what a former agent left was not removed; the next change tries again");
            }
        }
    }

    /// Removes what no program can be using any more; returns whether something was removed.
    fn remove_leftover(&mut self, turn: u64, waited: Result<(), KernelError>) -> bool {
        let (over, waited) = match (self.leftover.over(turn), waited) {
            (Over::Later, _) => return false,
            (Over::Due(steps), Ok(())) => {
                // Nothing changed since the period began, so it was one for all that the compiler knows of.
                self.compiler.record(&Step::Grace);
                (steps, Ok(()))
            }
            (Over::Due(_), Err(error)) => (Vec::new(), Err(refused("grace", &error))),
            (Over::Overdue(steps), _) => (steps, self.apply(&[Step::Grace])),
        };
        if let Err(refusal) = waited.and_then(|()| self.remove(&over)) {
            tracing::warn!(error = %refusal, "what is no longer needed was not removed; the next change tries again");
            return false;
        }
        over.iter().any(|step| *step != Step::Grace)
    }

    /// What was planned for after a grace period, which has passed.
    fn remove(&mut self, planned: &[Step]) -> Result<(), Refusal> {
        planned
            .iter()
            .filter(|step| **step != Step::Grace)
            .try_for_each(|step| self.apply(std::slice::from_ref(step)))
    }

    /// What keeps the node from serving.
    pub(super) fn error(&self) -> Option<String> {
        self.unapplied.clone().or_else(|| self.lacking_filters())
    }

    /// Step by step, remembering what stands; stops at the first that fails. How many of its entries stand is known for
    /// certain: the kernel counts them in their order, and an entry that fails leaves what stood.
    fn apply(&mut self, steps: &[Step]) -> Result<(), Refusal> {
        for step in steps {
            if let Err(Unfinished { done, error }) = self.kernel.apply(step) {
                if done > 0 {
                    self.compiler.record(&step.prefix(done));
                }
                self.metrics.policy_errors.inc();
                tracing::error!(
                    step = step.name(),
                    entries = step.len(),
                    written = done,
                    error = chain(&*error),
                    "the older policy stays in force"
                );
                return Err(refused(step.name(), &error));
            }
            self.compiler.record(step);
        }
        Ok(())
    }

    fn publish(&mut self, outcome: &Result<(), Refusal>) {
        self.unapplied = outcome.as_ref().err().map(ToString::to_string);
        let (findings, filters) = (self.compiler.findings(), self.filter_findings());
        self.metrics.policy_findings.set(gauge(findings.len() + filters.len()));
        let installed = self.compiler.installed();
        self.metrics.endpoints.set(gauge(self.local.len()));
        self.report.send_replace(Arc::new(PolicyReport {
            error: self.error(),
            endpoints: installed.endpoints.clone(),
            local: self.local.values().map(|(pod, _)| pod.clone()).collect(),
            counts: [
                ("rows", installed.rows.len()),
                ("ports", installed.ports.len()),
                ("cidrs", installed.cidrs.len()),
                ("peers", installed.peers.len()),
                ("vips", installed.vips.len()),
            ]
            .into(),
            findings,
            filters: filters.into(),
        }));
    }
}

/// What one compilation answers.
#[derive(Default)]
pub(super) struct Batch {
    compile: bool,
    /// The second half of a take-over.
    finishes: bool,
    since: Option<Instant>,
    pub(super) attached: Vec<(Slot, Reply)>,
    detached: Vec<oneshot::Sender<()>>,
    activated: Vec<Reply>,
}

impl Batch {
    fn answer(self, outcome: &Result<(), Refusal>, failed: &BTreeMap<Slot, Refusal>) {
        // Whoever asked may have gone; then nobody needs the answer.
        for (slot, reply) in self.attached {
            drop(reply.send(failed.get(&slot).cloned().map_or_else(|| outcome.clone(), Err)));
        }
        for reply in self.activated {
            drop(reply.send(outcome.clone()));
        }
        for reply in self.detached {
            let _ = reply.send(());
        }
    }
}

pub(super) fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn binding(endpoint: &Endpoint) -> Binding {
    Binding {
        slot: endpoint.slot,
        end: endpoint.end.clone(),
        addresses: vec![endpoint.address],
        egress_shaped: endpoint.egress_shaped,
    }
}

pub(super) fn refused(step: &str, error: &KernelError) -> Refusal {
    Refusal::retryable(
        code::TRY_AGAIN_LATER,
        "policy-not-applied",
        format!("policy could not be put in force ({step}): {}", chain(&**error)),
    )
}
