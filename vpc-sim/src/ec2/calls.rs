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
    kept: VecDeque<CallRecord>,
}

impl CallLog {
    pub(crate) fn add(&mut self, record: CallRecord) {
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
