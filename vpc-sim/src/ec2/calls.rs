//! The log of requests: counted by node and operation, the last ones kept whole.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::clock::SimTime;

/// Calls by operation, by node. The node of the top-level listener is "".
pub type Calls = BTreeMap<String, BTreeMap<String, u64>>;

/// Requests that are kept whole.
const KEPT: usize = 10_000;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// When it came.
    pub at: SimTime,
    /// Whose listener it came to.
    pub node: String,
    /// Which of that listener's calls since the last reset; the first is 1.
    pub number: u64,
    /// The operation, as it was asked for.
    pub operation: String,
    /// The code of the refusal.
    pub code: Option<String>,
    /// How long the answer took, in milliseconds.
    pub delay_ms: u64,
    /// The form, as it was sent, without what signs it.
    pub parameters: String,
}

/// All requests since the last reset.
#[derive(Debug, Default)]
pub(crate) struct CallLog {
    counted: Calls,
    numbers: BTreeMap<String, u64>,
    kept: VecDeque<CallRecord>,
}

impl CallLog {
    /// Counts a call and keeps it, with the number that it has by that.
    pub(crate) fn add(&mut self, mut record: CallRecord) {
        let number = self.numbers.entry(record.node.clone()).or_default();
        *number += 1;
        record.number = *number;
        let of_node = self.counted.entry(record.node.clone()).or_default();
        *of_node.entry(record.operation.clone()).or_default() += 1;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
    }

    /// Counts without keeping.
    pub(crate) fn count(&mut self, node: &str, operation: &str) {
        let of_node = self.counted.entry(node.to_owned()).or_default();
        *of_node.entry(operation.to_owned()).or_default() += 1;
    }

    pub(crate) fn counted(&self) -> &Calls {
        &self.counted
    }

    pub(crate) fn kept(&self) -> impl Iterator<Item = &CallRecord> {
        self.kept.iter()
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}
