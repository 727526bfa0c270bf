//! Whoever counts EC2 calls.

use std::time::Duration;

use ipam_core::{FailureClass, Operation};

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallOutcome {
    /// EC2 did it.
    Done,
    /// It failed, for a reason of this class.
    Failed(FailureClass),
}

impl CallOutcome {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(class) => class.as_str(),
        }
    }
}

/// One call that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallReport {
    /// The call.
    pub operation: Operation,
    /// How it ended.
    pub outcome: CallOutcome,
    /// From the request to the answer, without the wait for our own bucket.
    pub took: Duration,
    /// The wait for our own bucket before it.
    pub held_back: Duration,
}

/// Told of every call when it has ended. Called on the task that made the
/// call: it must not block.
pub trait CallObserver: Send + Sync {
    /// A call has ended.
    fn call_ended(&self, report: CallReport);
}

/// Looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl CallObserver for NoObserver {
    fn call_ended(&self, _: CallReport) {}
}
