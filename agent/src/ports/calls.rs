//! EC2 calls as the rest of the agent hears of them: counted, remembered by what EC2 last said, and told on the
//! node's object where an operator should look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipam_core::{FailureClass, Operation};

use super::Teller;
use crate::ec2::{CallObserver, CallReport, Ec2Error};
use crate::metrics::Metrics;

/// How many calls in a row must fail before what usually passes by itself is told.
const PATIENCE: u32 = 3;

/// Hears of every EC2 call; clones are the same ear.
#[derive(Debug, Clone)]
pub struct CallPort {
    metrics: Metrics,
    teller: Teller,
    /// Protects what each operation last failed with; held for look-ups only, never across an await.
    failing: Arc<Mutex<BTreeMap<Operation, Failing>>>,
}

#[derive(Debug, Clone)]
struct Failing {
    class: FailureClass,
    said: String,
    in_a_row: u32,
}

impl CallPort {
    /// Counts into `metrics`, tells through `teller`.
    #[must_use]
    pub fn new(metrics: Metrics, teller: Teller) -> Self {
        Self { metrics, teller, failing: Arc::default() }
    }

    /// What EC2 answered to the last call of `operation`, if that failed.
    #[must_use]
    pub fn said(&self, operation: Operation) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.get(&operation).map(|failing| failing.said.clone())
    }

    fn note(&self, error: &Ec2Error) -> u32 {
        let said = match error.code.as_deref() {
            Some(code) if !code.is_empty() => format!("{code}: {}", error.message),
            _ => error.message.clone(),
        };
        let mut all = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(&error.operation).filter(|failing| failing.class == error.class);
        let in_a_row = before.map_or(0, |failing| failing.in_a_row) + 1;
        all.insert(error.operation, Failing { class: error.class, said, in_a_row });
        in_a_row
    }
}

impl CallObserver for CallPort {
    fn call_ended(&self, report: CallReport<'_>) {
        self.metrics.ec2_call(&report);
        let Some(error) = report.error else {
            self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(&report.operation);
            return;
        };
        let in_a_row = self.note(error);
        if let Some((reason, least)) = event(error.class)
            && in_a_row >= least
        {
            self.teller.node(reason, &format!("the pool's EC2 call failed: {error}"));
        }
    }
}

/// The Event of a class of failures, and how many in a row it takes. None for what is no failure to an operator: an
/// object that is gone already, or not yet visible.
const fn event(class: FailureClass) -> Option<(&'static str, u32)> {
    match class {
        // The incumbent's word.
        FailureClass::Permission => Some(("MissingIAMPermissions", 1)),
        FailureClass::Config => Some(("Ec2Configuration", 1)),
        FailureClass::Exhausted => Some(("SubnetExhausted", 1)),
        FailureClass::Bug => Some(("Ec2CallRefused", 1)),
        FailureClass::Limit => Some(("Ec2Limit", 1)),
        FailureClass::Throttled => Some(("Ec2Throttled", PATIENCE)),
        FailureClass::Retry => Some(("Ec2Unreachable", PATIENCE)),
        FailureClass::NotFound => None,
    }
}
