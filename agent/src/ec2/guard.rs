//! Restraint and bookkeeping around every EC2 call.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use ipam_core::{
    AttachmentId, EniId, EniRecord, InstanceId, InstanceLimits, Operation, SecurityGroupId, SubnetId,
    SubnetRecord, Want,
};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::{
    Assigned, CallObserver, CallOutcome, CallReport, Ec2, Ec2Error, Ec2Result, InstanceRecord, NewEni,
};

/// How many calls of one operation this node may make.
///
/// The account's own buckets (100 and 5 a second for most mutating calls) are
/// shared by every node; one node's part of them is small. The burst lets the
/// largest instance create and attach all its ENIs at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CallBudget {
    /// Calls at once.
    pub burst: u32,
    /// Calls a second after that.
    pub per_second: f64,
    /// The longest that a call may take before its outcome counts as unknown.
    pub deadline: Duration,
}

impl Default for CallBudget {
    fn default() -> Self {
        Self { burst: 20, per_second: 2.0, deadline: Duration::from_secs(30) }
    }
}

/// A token bucket that may go into debt: whoever takes a token that is not
/// there yet is told how long to wait for it, so that waiters are served in
/// the order in which they came.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, budget: &CallBudget, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.filled).as_secs_f64() * budget.per_second;
        self.tokens = (self.tokens + earned).min(f64::from(budget.burst));
        self.filled = now;
        self.tokens -= 1.0;
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.tokens / budget.per_second.max(f64::MIN_POSITIVE))
        }
    }
}

/// An [`Ec2`] with a token bucket and a deadline for each operation, and an
/// observer that is told of each call.
pub struct Guard {
    inner: Arc<dyn Ec2>,
    budget: CallBudget,
    observer: Arc<dyn CallObserver>,
    /// Protects the buckets' levels; held for arithmetic only, never across
    /// an await.
    buckets: Mutex<BTreeMap<Operation, Bucket>>,
}

impl Guard {
    /// Guards `inner`.
    pub fn new(inner: Arc<dyn Ec2>, budget: CallBudget, observer: Arc<dyn CallObserver>) -> Self {
        Self { inner, budget, observer, buckets: Mutex::new(BTreeMap::new()) }
    }

    async fn call<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Ec2Result<T>> + Send,
    ) -> Ec2Result<T> {
        let wait = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            buckets
                .entry(operation)
                .or_insert(Bucket { tokens: f64::from(self.budget.burst), filled: now })
                .take(&self.budget, now)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let begun = Instant::now();
        let result = tokio::time::timeout(self.budget.deadline, call).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", self.budget.deadline.as_secs());
            Err(Ec2Error::unanswered(operation, message, true, None))
        });
        self.observer.call_ended(CallReport {
            operation,
            outcome: match &result {
                Ok(_) => CallOutcome::Done,
                Err(error) => CallOutcome::Failed(error.class),
            },
            took: begun.elapsed(),
            held_back: wait,
        });
        result
    }
}

impl Ec2 for Guard {
    fn describe_self<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Ec2Result<InstanceRecord>> {
        Box::pin(self.call(Operation::DescribeInstances, self.inner.describe_self(instance)))
    }

    fn describe_enis<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(self.call(Operation::DescribeEnis, self.inner.describe_enis(instance)))
    }

    fn describe_subnets<'a>(
        &'a self,
        subnets: &'a [SubnetId],
    ) -> BoxFuture<'a, Ec2Result<Vec<SubnetRecord>>> {
        Box::pin(self.call(Operation::DescribeSubnets, self.inner.describe_subnets(subnets)))
    }

    fn instance_limits<'a>(
        &'a self,
        instance_type: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Option<InstanceLimits>>> {
        Box::pin(self.call(Operation::DescribeInstanceTypes, self.inner.instance_limits(instance_type)))
    }

    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Ec2Result<EniRecord>> {
        Box::pin(self.call(Operation::CreateEni, self.inner.create_eni(eni)))
    }

    fn attach<'a>(
        &'a self,
        eni: &'a EniId,
        instance: &'a InstanceId,
        device_index: u32,
        network_card: u32,
    ) -> BoxFuture<'a, Ec2Result<AttachmentId>> {
        let call = self.inner.attach(eni, instance, device_index, network_card);
        Box::pin(self.call(Operation::Attach, call))
    }

    fn set_delete_on_termination<'a>(
        &'a self,
        eni: &'a EniId,
        attachment: &'a AttachmentId,
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Modify, self.inner.set_delete_on_termination(eni, attachment)))
    }

    fn set_groups<'a>(
        &'a self,
        eni: &'a EniId,
        groups: &'a BTreeSet<SecurityGroupId>,
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Modify, self.inner.set_groups(eni, groups)))
    }

    fn assign<'a>(&'a self, eni: &'a EniId, want: Want) -> BoxFuture<'a, Ec2Result<Assigned>> {
        Box::pin(self.call(Operation::Assign, self.inner.assign(eni, want)))
    }

    fn unassign<'a>(
        &'a self,
        eni: &'a EniId,
        singles: &'a [IpAddr],
        prefixes: &'a [IpNetwork],
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Unassign, self.inner.unassign(eni, singles, prefixes)))
    }

    fn detach<'a>(&'a self, attachment: &'a AttachmentId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::Detach, self.inner.detach(attachment)))
    }

    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::DeleteEni, self.inner.delete(eni)))
    }

    fn tag<'a>(&'a self, eni: &'a EniId, tags: &'a BTreeMap<String, String>) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(self.call(Operation::CreateTags, self.inner.tag(eni, tags)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, CallBudget};
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn a_burst_then_one_after_the_other() {
        let budget = CallBudget { burst: 2, per_second: 4.0, deadline: Duration::from_secs(1) };
        let start = Instant::now();
        let mut bucket = Bucket { tokens: 2.0, filled: start };
        let waits: Vec<u128> = (0..5).map(|_| bucket.take(&budget, start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 250, 500, 750]);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.take(&budget, later), Duration::ZERO);
        assert!((bucket.tokens - 1.0).abs() < 1e-9, "never above the burst: {}", bucket.tokens);
    }
}
