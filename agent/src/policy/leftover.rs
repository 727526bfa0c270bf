//! What is no longer needed leaves the maps after a grace period, and nobody waits for that.
//!
//! The period (10 to 20 ms) runs on a thread of its own; changes and newcomers are served meanwhile. If one of them came
//! into force before it was over, another period is needed: what was left may have been used again in between.

use std::collections::BTreeSet;
use std::sync::mpsc as threads;

use ebpf_common::abi::PortKey;
use policy_core::{Step, Tables};
use tokio::sync::mpsc;

use super::KernelError;
use super::worker::Command;

/// So often something may come in between before the worker itself waits: maps must not grow under a stream of changes.
const PATIENCE: u32 = 8;

/// Blocks for a grace period.
pub(super) type Wait = Box<dyn FnMut() -> Result<(), KernelError> + Send>;

/// What becomes of the removals when a period is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// They are due.
    Due(Vec<Step>),
    /// Another period is under way, or nothing is left.
    Later,
    /// Something came in between too often: they are due after a period in which everybody waits.
    Overdue(Vec<Step>),
}

/// Removals, and the period that they wait for. They begin with [`Step::Grace`]: when the period is over, it may be
/// recorded, so that numbers are free that programs might have read before.
#[derive(Debug)]
pub(super) struct Leftover {
    steps: Vec<Step>,
    /// Another one with each change that could use again what is left.
    turn: u64,
    waiting: bool,
    disturbed: u32,
    periods: threads::Sender<u64>,
}

impl Leftover {
    /// Starts the thread, which ends with this value; it says when a period is over by [`Command::GraceOver`].
    pub(super) fn new(mut wait: Wait, tell: mpsc::WeakSender<Command>) -> std::io::Result<Self> {
        let (periods, asked) = threads::channel::<u64>();
        std::thread::Builder::new().name("grace".to_owned()).spawn(move || {
            for turn in asked {
                let outcome = wait();
                // Nobody is there any more: the process ends.
                let Some(worker) = tell.upgrade() else { return };
                if worker.blocking_send(Command::GraceOver(turn, outcome)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { steps: Vec::new(), turn: 0, waiting: false, disturbed: 0, periods })
    }

    /// These removals stand now; `changed`: something came into force with them.
    pub(super) fn plan(&mut self, changed: bool, steps: Vec<Step>) {
        if changed || steps != self.steps {
            self.turn += 1;
            self.steps = steps;
        }
        self.ask();
    }

    /// Something went out of use without a plan: a period that is under way began too early for it.
    pub(super) fn disturb(&mut self) {
        self.turn += 1;
    }

    /// The removals, for whoever waits for a period of his own.
    pub(super) fn take(&mut self) -> Vec<Step> {
        self.turn += 1;
        std::mem::take(&mut self.steps)
    }

    /// The period for `turn` is over.
    pub(super) fn over(&mut self, turn: u64) -> Over {
        self.waiting = false;
        if turn == self.turn {
            self.disturbed = 0;
            return Over::Due(std::mem::take(&mut self.steps));
        }
        self.disturbed += 1;
        if self.disturbed < PATIENCE || self.steps.is_empty() {
            self.ask();
            return Over::Later;
        }
        self.disturbed = 0;
        self.turn += 1;
        Over::Overdue(std::mem::take(&mut self.steps))
    }

    /// Whether something is still to go, or a period is under way.
    pub(super) fn is_pending(&self) -> bool {
        self.waiting || !self.steps.is_empty()
    }

    fn ask(&mut self) {
        if !self.waiting && !self.steps.is_empty() {
            // The thread lives as long as this value.
            self.waiting = self.periods.send(self.turn).is_ok();
        }
    }
}

/// Of the removals that were planned for after a flip that did not come, those of what nothing leads to as the maps
/// stand: rows of sets that no endpoint has, and ports of profiles that no other row leads to.
pub(super) fn unreachable(removals: &[Step], maps: &Tables) -> Vec<Step> {
    let sets: BTreeSet<u32> = maps.endpoints.values().flat_map(|one| [one.ingress.0, one.egress.0]).collect();
    let mut rows = BTreeSet::new();
    for step in removals {
        if let Step::RemoveRows(list) = step {
            rows.extend(list.iter().copied().filter(|key| !sets.contains(&key.set)));
        }
    }
    let staying = maps.rows.iter().filter(|(key, _)| !rows.contains(key));
    let profiles: BTreeSet<u32> = staying.map(|(_, row)| row.profile).collect();
    let mut ports = Vec::new();
    for step in removals {
        if let Step::RemovePorts(list) = step {
            let led_to = |key: &PortKey| profiles.contains(&u32::from_be_bytes(key.profile_be));
            ports.extend(list.iter().copied().filter(|key| !led_to(key)));
        }
    }
    let steps = [Step::Grace, Step::RemoveRows(rows.into_iter().collect()), Step::RemovePorts(ports)];
    let needed = |step: &Step| if *step == Step::Grace { !removals.is_empty() } else { !step.is_empty() };
    steps.into_iter().filter(needed).collect()
}

#[cfg(test)]
mod tests {
    use policy_core::SetId;

    use super::*;

    fn removal(profile: u32) -> Vec<Step> {
        let key = ebpf_common::abi::RowKey { set: SetId(1).0, class: profile };
        vec![Step::RemoveRows(vec![key])]
    }

    fn leftover() -> (Leftover, mpsc::Receiver<Command>, mpsc::Sender<Command>) {
        let (sender, receiver) = mpsc::channel(8);
        let leftover = Leftover::new(Box::new(|| Ok(())), sender.downgrade()).expect("a thread");
        (leftover, receiver, sender)
    }

    fn elapsed(receiver: &mut mpsc::Receiver<Command>) -> u64 {
        match receiver.blocking_recv() {
            Some(Command::GraceOver(turn, Ok(()))) => turn,
            _ => panic!("something else came"),
        }
    }

    #[test]
    fn removals_are_due_when_nothing_came_in_between() {
        let (mut leftover, mut receiver, _sender) = leftover();
        leftover.plan(true, removal(1));
        // A change that touched nothing.
        leftover.plan(false, removal(1));
        assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Due(removal(1)));
        leftover.plan(false, Vec::new());
        assert!(!leftover.is_pending(), "nothing is left to wait for");
    }

    #[test]
    fn what_came_in_between_needs_a_period_of_its_own() {
        for (changed, then) in [(true, removal(1)), (false, removal(2))] {
            let (mut leftover, mut receiver, _sender) = leftover();
            leftover.plan(true, removal(1));
            leftover.plan(changed, then.clone());
            assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Later);
            assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Due(then));
        }
    }

    #[test]
    fn what_went_in_between_needs_a_period_of_its_own() {
        let (mut leftover, mut receiver, _sender) = leftover();
        leftover.plan(true, removal(1));
        leftover.disturb();
        leftover.plan(false, removal(1));
        assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Later);
        assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Due(removal(1)));
    }

    #[test]
    fn under_a_stream_of_changes_the_worker_waits_now_and_then() {
        let (mut leftover, mut receiver, _sender) = leftover();
        leftover.plan(true, removal(0));
        for place in 1..PATIENCE {
            leftover.plan(true, removal(place));
            assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Later);
        }
        leftover.plan(true, removal(PATIENCE));
        assert_eq!(leftover.over(elapsed(&mut receiver)), Over::Overdue(removal(PATIENCE)));
    }
}
