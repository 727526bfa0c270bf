//! Where the agent is killed: found by running, worked off one by one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::operations::{expected, is_mutating};

/// How often a point is tried whose call does not come again: two calls that are made at once need not
/// come in the same order, nor two pods.
const TRIES: u32 = 3;

/// What the node goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The agent starts on a node that never had one, and gets its first pod.
    Birth,
    /// The agent starts on a node with a pod.
    Start,
    /// It grows to three ENIs and shrinks again.
    Life,
}

/// One call of a stage: the first, second, … of its operation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) stage: Stage,
    pub(crate) operation: String,
    pub(crate) occurrence: u64,
}

/// Where in the call's life, in the simulator's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum At {
    Before,
    After,
    Reply,
}

/// A place to die; then perhaps once more, at the first call of an operation after the restart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) call: Call,
    /// Which call of its stage it was in the run that showed it.
    pub(crate) ordinal: usize,
    pub(crate) at: At,
    pub(crate) again: Option<String>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { stage, operation, occurrence } = &self.call;
        write!(f, "{stage:?}, call {} ({operation} {occurrence}), {:?}", self.ordinal, self.at)?;
        match &self.again {
            Some(operation) => write!(f, ", and again after the next {operation}"),
            None => Ok(()),
        }
    }
}

/// All points: those that wait, and those that were reached.
#[derive(Debug, Default)]
pub(crate) struct Points {
    /// Every call seen, with its ordinal in the run that showed it.
    known: BTreeMap<Call, usize>,
    /// What recoveries have called.
    in_recovery: BTreeSet<String>,
    waiting: VecDeque<(Point, u32)>,
    reached: BTreeSet<Point>,
    /// Their calls did not come again.
    missed: Vec<Point>,
}

impl Points {
    /// Notes the calls of a stage in their order, up to a crash or to the end.
    pub(crate) fn saw(&mut self, stage: Stage, operations: &[String]) {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (index, operation) in operations.iter().enumerate() {
            let count = counts.entry(operation).or_default();
            *count += 1;
            let call = Call { stage, operation: operation.clone(), occurrence: *count };
            if self.known.contains_key(&call) {
                continue;
            }
            let ordinal = index + 1;
            self.known.insert(call.clone(), ordinal);
            for at in [At::After, At::Reply, At::Before] {
                if at != At::Before || is_mutating(operation) {
                    self.waiting.push_back((Point { call: call.clone(), ordinal, at, again: None }, 1));
                }
            }
        }
    }

    /// Notes what was called between a restart and the next rest, after a crash at `point`. An operation
    /// that no recovery has called before is a place to crash once more.
    pub(crate) fn saw_recovery(&mut self, point: &Point, operations: &[String]) {
        for operation in operations {
            if point.again.is_none() && self.in_recovery.insert(operation.clone()) {
                let again = Some(operation.clone());
                self.waiting.push_back((Point { again, ..point.clone() }, 1));
            }
        }
    }

    /// The next point, and which try of it this is.
    pub(crate) fn next(&mut self) -> Option<(Point, u32)> {
        self.waiting.pop_front()
    }

    /// How a run went: whether its calls came.
    pub(crate) fn ran(&mut self, point: Point, tries: u32, reached: bool) {
        if reached {
            self.reached.insert(point);
        } else if tries < TRIES {
            self.waiting.push_back((point, tries + 1));
        } else {
            self.missed.push(point);
        }
    }

    /// The calls, as they were found.
    pub(crate) fn listing(&self) -> String {
        let mut calls: Vec<_> = self.known.iter().collect();
        calls.sort_by_key(|(call, ordinal)| (call.stage, **ordinal));
        let line = |(call, ordinal): (&Call, &usize)| {
            format!("  {:?} {ordinal:>2}  {} {}\n", call.stage, call.operation, call.occurrence)
        };
        calls.into_iter().map(line).collect()
    }

    /// What was done; an error where an operation that must be there was never a place to die.
    pub(crate) fn summary(&self) -> Result<String> {
        for operation in expected() {
            for at in [At::Before, At::After, At::Reply] {
                let is_met = self.reached.iter().any(|point| {
                    point.call.operation == operation && point.at == at && point.again.is_none()
                });
                ensure!(
                    is_met || at == At::Before && !is_mutating(operation),
                    "no agent was killed at {operation}, {at:?}; seen were\n{}",
                    self.listing()
                );
            }
        }
        let twice = self.reached.iter().filter(|point| point.again.is_some()).count();
        Ok(format!(
            "{} crash points in {} calls, {twice} of them with a second crash; {} calls did not come again",
            self.reached.len(),
            self.known.len(),
            self.missed.len()
        ))
    }
}
