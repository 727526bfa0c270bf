//! Restraint and bookkeeping around every EC2 call.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use ipam_core::{
    AccountLimits, AttachmentId, EniId, EniRecord, InstanceId, InstanceLimits, Operation, SecurityGroupId,
    SubnetQuery, SubnetRecord, Want,
};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::{Assigned, CallObserver, CallReport, Ec2, Ec2Error, Ec2Result, InstanceRecord, NewEni};

/// How many calls of one operation this node may make.
///
/// The account's own buckets (100 and 5 a second for most mutating calls) are
/// shared by every node. A part of each is the most that one node may take,
/// whatever goes wrong in it: enough for the largest instance to create and
/// attach all its ENIs at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CallBudget {
    /// The cluster's share of the account's buckets.
    pub account: AccountLimits,
    /// Calls of one operation at once, however large the account's bucket is.
    pub burst: u32,
    /// Calls of one operation a second after that, likewise.
    pub per_second: f64,
    /// The longest that a call may take before its outcome counts as unknown.
    pub deadline: Duration,
}

/// The part of a full bucket that one node may take at once, and at least so
/// many calls: an instance has up to 15 ENIs on its first card.
const BURST_PART: f64 = 0.3;
const BURST_AT_LEAST: f64 = 15.0;
/// The part of what flows in that one node may take, and at least so much.
const REFILL_PART: f64 = 0.4;
const REFILL_AT_LEAST: f64 = 0.5;

impl CallBudget {
    /// This node's part of the bucket of `operation`: calls at once, and calls
    /// a second after that.
    fn part(&self, operation: Operation) -> (f64, f64) {
        let whole = self.account.bucket(operation);
        let burst = (whole.capacity * BURST_PART).max(BURST_AT_LEAST);
        let per_second = (whole.per_second * REFILL_PART).max(REFILL_AT_LEAST);
        (burst.min(f64::from(self.burst)), per_second.min(self.per_second).max(f64::MIN_POSITIVE))
    }
}

impl Default for CallBudget {
    fn default() -> Self {
        Self {
            account: AccountLimits::default(),
            burst: 60,
            per_second: 16.0,
            deadline: Duration::from_secs(30),
        }
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
    fn take(&mut self, (burst, per_second): (f64, f64), now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.filled).as_secs_f64() * per_second;
        self.tokens = (self.tokens + earned).min(burst);
        self.filled = now;
        self.tokens -= 1.0;
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            // Never zero: see `part`.
            Duration::from_secs_f64(-self.tokens / per_second)
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
            let part = self.budget.part(operation);
            buckets.entry(operation).or_insert(Bucket { tokens: part.0, filled: now }).take(part, now)
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
            error: result.as_ref().err(),
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

    fn describe_unattached<'a>(
        &'a self,
        cluster: &'a str,
        vpc: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(self.call(Operation::DescribeEnis, self.inner.describe_unattached(cluster, vpc)))
    }

    fn living_instances<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>> {
        Box::pin(self.call(Operation::DescribeInstances, self.inner.living_instances(instances)))
    }

    fn describe_subnets<'a>(&'a self, query: &'a SubnetQuery) -> BoxFuture<'a, Ec2Result<Vec<SubnetRecord>>> {
        Box::pin(self.call(Operation::DescribeSubnets, self.inner.describe_subnets(query)))
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
    use ipam_core::{AccountLimits, Operation};
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn a_burst_then_one_after_the_other() {
        let part = (2.0, 4.0);
        let start = Instant::now();
        let mut bucket = Bucket { tokens: 2.0, filled: start };
        let waits: Vec<u128> = (0..5).map(|_| bucket.take(part, start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 250, 500, 750]);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.take(part, later), Duration::ZERO);
        assert!((bucket.tokens - 1.0).abs() < 1e-9, "never above the burst: {}", bucket.tokens);
    }

    #[test]
    fn one_node_never_takes_more_than_its_part_of_a_bucket() {
        let budget = CallBudget::default();
        assert_eq!(budget.part(Operation::Assign), (30.0, 2.0));
        assert_eq!(budget.part(Operation::Attach), (15.0, 2.0));
        assert_eq!(budget.part(Operation::DescribeEnis), (30.0, 8.0));
        let raised = CallBudget { account: AccountLimits::scaled(4.0).expect("in range"), ..budget };
        assert_eq!(raised.part(Operation::CreateEni), (60.0, 8.0));
        // All ENIs of an instance at once, however small the share.
        let small = CallBudget { account: AccountLimits::scaled(0.01).expect("in range"), ..budget };
        assert_eq!(small.part(Operation::CreateEni), (15.0, 0.5));
    }
}
