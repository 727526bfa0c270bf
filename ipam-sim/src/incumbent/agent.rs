//! The daemon: boot, the pool monitor's passes, and pods.

use std::time::Duration;

use ipam_core::{EniId, Failure, MacAddr, Now, Operation, Reply};

use super::calls::{Attempt, Retries};
use super::datastore::{Datastore, Settings};
use crate::engine::{Agent, FoundEni, Host, PodId, Request, Ticket, Verdict, secs};

/// Two sleeps of 2.5 s between passes; the first pass comes after one.
const HALF_PASS_S: f64 = 2.5;
/// The shortest time between two returns of addresses.
const BETWEEN_DECREASES: Duration = Duration::from_secs(30);
/// The pause before a boot step that failed is tried again.
const BOOT_RETRY: Duration = Duration::from_secs(10);

/// The shortest time between its last action and a reconciliation.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);

/// What the one goroutine is at.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Boot, call by call; the number says which step.
    Boot(usize),
    Assign(super::growing::Assign),
    Eni(super::growing::NewEni),
    Return(super::freeing::Return),
    Free(super::freeing::Free),
    /// A read about an ENI that the metadata service lists and it does not know.
    Found(FoundEni),
}

/// What it waits for.
#[derive(Debug)]
enum Waiting {
    /// Nothing: a new pass at this time.
    Pass,
    /// A call's answer.
    Call { ticket: Ticket, attempt: Attempt, task: Task },
    /// The SDK's pause before the same call again.
    Sdk { attempt: Attempt, task: Task },
    /// A sleep in the midst of a task.
    Sleep { task: Task },
}

/// The incumbent on one node.
pub struct Incumbent {
    pub(super) store: Datastore,
    waiting: Waiting,
    wake: Option<Now>,
    serving: bool,
    /// Whether the pass under way has still to look for an ENI too many.
    to_free: bool,
    last_decrease: Option<Now>,
    pub(super) last_insufficient: Option<Now>,
    /// The last change of the pool, or reconciliation.
    pub(super) last_action: Option<Now>,
    started_before: bool,
    pub(super) creates: u64,
}

impl Incumbent {
    /// One that starts on a fresh node.
    pub fn new(settings: Settings, primary: EniId) -> Self {
        Self {
            store: Datastore::new(settings, primary),
            waiting: Waiting::Pass,
            wake: None,
            serving: false,
            to_free: false,
            last_decrease: None,
            last_insufficient: None,
            last_action: None,
            started_before: false,
            creates: 0,
        }
    }

    /// What it holds.
    pub fn store(&self) -> &Datastore {
        &self.store
    }

    pub(super) fn call(&mut self, request: Request, task: Task, host: &mut Host<'_>) {
        self.send(Attempt::first(request), task, host);
    }

    fn send(&mut self, attempt: Attempt, task: Task, host: &mut Host<'_>) {
        let ticket = host.call(attempt.request.clone(), false);
        self.waiting = Waiting::Call { ticket, attempt, task };
        self.wake_at(None, host);
    }

    pub(super) fn sleep(&mut self, pause: Duration, task: Task, host: &mut Host<'_>) {
        self.waiting = Waiting::Sleep { task };
        self.wake_at(Some(host.now() + pause), host);
    }

    fn wake_at(&mut self, at: Option<Now>, host: &mut Host<'_>) {
        self.wake = at;
        host.wake_at(at);
    }

    /// Its boot: reads, tags, group refresh; then one growth step, then it
    /// serves. (Its hourly sweep for leaked ENIs is a periodic read.)
    fn boot_on(&mut self, done: usize, host: &mut Host<'_>) {
        match self.boot_step(done) {
            Some(operation) => self.call(Request::Only(operation), Task::Boot(done), host),
            None => {
                self.started_before = true;
                self.to_free = false;
                if self.store.is_low() { self.increase(host) } else { self.pass_on(host) }
            }
        }
    }

    /// The call of a boot step.
    fn boot_step(&self, step: usize) -> Option<Operation> {
        let enis = self.store.eni_count();
        let tags = usize::from(!self.started_before);
        let calls = [
            (1, Operation::DescribeEnis),
            (tags, Operation::CreateTags),
            (enis, Operation::DescribeSubnets),
            (enis, Operation::Modify),
        ];
        calls.iter().flat_map(|(count, operation)| std::iter::repeat_n(*operation, *count)).nth(step)
    }

    fn booted(&mut self, step: usize, is_ok: bool, host: &mut Host<'_>) {
        // Security groups that could not be set are only logged; anything else
        // ends the process, and the kubelet starts it again.
        if is_ok || self.boot_step(step) == Some(Operation::Modify) {
            self.boot_on(step + 1, host);
        } else {
            self.sleep(BOOT_RETRY, Task::Boot(step), host);
        }
    }

    fn pass(&mut self, host: &mut Host<'_>) {
        let now = host.now();
        self.to_free = true;
        if self.last_action.is_none_or(|last| now.since(last) > RECONCILE_EVERY)
            && let Some(found) = self.unknown_eni(host)
        {
            self.last_action = Some(now);
            return self.call(Request::Only(Operation::DescribeEnis), Task::Found(found), host);
        }
        if self.store.is_low() {
            self.increase(host);
        } else if self.store.is_high()
            && self.last_decrease.is_none_or(|last| now.since(last) > BETWEEN_DECREASES)
        {
            self.last_decrease = Some(now);
            self.decrease(host);
        } else {
            self.pass_on(host);
        }
    }

    /// An ENI that a step left half done, by the metadata service.
    fn unknown_eni(&self, host: &Host<'_>) -> Option<FoundEni> {
        let known = self.store.eni_ids();
        host.imds_enis().into_iter().find(|found| !known.contains(&found.id))
    }

    fn found_answered(&mut self, found: FoundEni, is_ok: bool, host: &mut Host<'_>) {
        if is_ok {
            self.store.add_eni(found.id.clone(), Some(found.attachment), host.now());
            self.store.add_blocks(&found.id, found.blocks.into_iter());
        }
        self.pass_on(host);
    }

    /// What the pass was at is over, well or not.
    pub(super) fn pass_on(&mut self, host: &mut Host<'_>) {
        if std::mem::take(&mut self.to_free) && self.free_extra(host) {
            return;
        }
        let pause = if self.serving { 2.0 * HALF_PASS_S } else { HALF_PASS_S };
        if !self.serving {
            self.serving = true;
            host.ready();
        }
        self.waiting = Waiting::Pass;
        self.wake_at(Some(host.now() + secs(pause)), host);
    }

    fn answered(&mut self, task: Task, answer: Result<Reply, Failure>, host: &mut Host<'_>) {
        match task {
            Task::Boot(step) => self.booted(step, answer.is_ok(), host),
            Task::Assign(assign) => self.assign_answered(assign, answer, host),
            Task::Eni(eni) => self.eni_answered(eni, answer, host),
            Task::Return(rest) => self.return_answered(rest, answer, host),
            Task::Free(free) => self.free_answered(free, answer, host),
            Task::Found(found) => self.found_answered(found, answer.is_ok(), host),
        }
    }

    pub(super) fn doubling(first_s: f64) -> Retries {
        Retries::new(first_s, 60.0)
    }
}

impl Agent for Incumbent {
    fn boot(&mut self, host: &mut Host<'_>) {
        self.boot_on(0, host);
    }

    fn restart(&mut self, host: &mut Host<'_>) {
        self.serving = false;
        self.last_decrease = None;
        self.store.forget_cooldowns();
        self.boot_on(0, host);
    }

    fn add(&mut self, pod: PodId, host: &mut Host<'_>) {
        match self.store.assign(pod, host.now(), || host.dice()) {
            Some(address) => host.placed(pod, address),
            None => host.turned_away(pod, &Verdict::NoAddress),
        }
    }

    fn del(&mut self, pod: PodId, host: &mut Host<'_>) {
        self.store.unassign(pod, host.now());
    }

    fn replied(&mut self, ticket: Ticket, answer: Result<Reply, Failure>, host: &mut Host<'_>) {
        let (attempt, task) = match std::mem::replace(&mut self.waiting, Waiting::Pass) {
            Waiting::Call { ticket: expected, attempt, task } if expected == ticket => (attempt, task),
            // An answer to the process before.
            other => {
                self.waiting = other;
                return;
            }
        };
        if let Err(failure) = answer
            && let Some((attempt, pause)) = attempt.again(failure, host.dice())
        {
            self.waiting = Waiting::Sdk { attempt, task };
            return self.wake_at(Some(host.now() + pause), host);
        }
        self.answered(task, answer, host);
    }

    fn link_up(&mut self, _mac: MacAddr, _host: &mut Host<'_>) {}

    fn wake(&mut self, host: &mut Host<'_>) {
        self.wake = None;
        match std::mem::replace(&mut self.waiting, Waiting::Pass) {
            Waiting::Pass => self.pass(host),
            Waiting::Sdk { attempt, task } => self.send(attempt, task, host),
            Waiting::Sleep { task: Task::Boot(done) } => self.boot_on(done, host),
            Waiting::Sleep { task: Task::Eni(eni) } => self.eni_goes_on(eni, host),
            Waiting::Sleep { task: Task::Free(free) } => self.free_goes_on(free, host),
            // Nobody else sleeps.
            other => self.waiting = other,
        }
    }

    fn step(&mut self, _host: &mut Host<'_>) {}
}
