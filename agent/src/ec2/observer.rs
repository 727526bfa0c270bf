//! Whoever counts EC2 calls.

use std::time::Duration;

use ipam_core::Operation;

use super::Ec2Error;

/// One call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct CallReport<'a> {
    /// The call.
    pub operation: Operation,
    /// How it failed; `None` when EC2 did it.
    pub error: Option<&'a Ec2Error>,
    /// From the request to the answer, without the wait for our own bucket.
    pub took: Duration,
    /// The wait for our own bucket before it.
    pub held_back: Duration,
}

impl CallReport<'_> {
    /// How it ended, in one word for metrics: `done` or the failure's class.
    pub const fn outcome(&self) -> &'static str {
        match self.error {
            None => "done",
            Some(error) => error.class.as_str(),
        }
    }

    /// EC2's error code; empty where the call was done or no answer came.
    pub fn code(&self) -> &str {
        self.error.and_then(|error| error.code.as_deref()).unwrap_or_default()
    }
}

/// Told of every call when it has ended. Called on the task that made the
/// call: it must not block.
pub trait CallObserver: Send + Sync {
    /// A call has ended.
    fn call_ended(&self, report: CallReport<'_>);
}

/// Looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl CallObserver for NoObserver {
    fn call_ended(&self, _: CallReport<'_>) {}
}
