//! The token buckets that all nodes of an account share.

use std::collections::BTreeMap;

use ipam_core::{Now, Operation};

/// One bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    /// Tokens that it holds when it is full.
    pub capacity: f64,
    /// Tokens that flow in each second.
    pub refill: f64,
}

impl Bucket {
    /// What EC2 documents for `operation`, by account, region and action. Said
    /// here once more, not taken from the planner: a wrong figure there must
    /// show as refusals here.
    pub const fn documented(operation: Operation) -> Self {
        let (capacity, refill) = match operation {
            Operation::CreateEni
            | Operation::DeleteEni
            | Operation::Modify
            | Operation::Assign
            | Operation::Unassign => (100.0, 5.0),
            // Not listed by itself: the general figures of changing calls.
            Operation::Attach | Operation::Detach => (50.0, 5.0),
            Operation::CreateTags => (100.0, 10.0),
            Operation::DescribeEnis
            | Operation::DescribeSubnets
            | Operation::DescribeInstances
            | Operation::DescribeInstanceTypes => (100.0, 20.0),
        };
        Self { capacity, refill }
    }

    /// The soonest that `calls` calls can be through, in seconds.
    pub fn bound_s(self, calls: f64) -> f64 {
        ((calls - self.capacity) / self.refill).max(0.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Now,
}

/// The account: a bucket for each action; a refused call takes no token.
#[derive(Clone, Debug)]
pub struct Account {
    buckets: BTreeMap<Operation, Bucket>,
    levels: BTreeMap<Operation, Level>,
    /// Times in which every call is refused: others use the account up.
    closed: Vec<(Now, Now)>,
}

impl Account {
    /// The documented buckets, full.
    pub fn documented() -> Self {
        let buckets = Operation::ALL.map(|operation| (operation, Bucket::documented(operation)));
        Self { buckets: BTreeMap::from(buckets), levels: BTreeMap::new(), closed: Vec::new() }
    }

    /// The documented buckets, of which others leave only a `share`; more than
    /// one where EC2 has raised the account's limits.
    pub fn shared(share: f64) -> Self {
        let mut account = Self::documented();
        for bucket in account.buckets.values_mut() {
            bucket.capacity *= share;
            bucket.refill *= share;
        }
        account
    }

    /// Buckets that are never empty.
    pub fn unlimited() -> Self {
        Self { buckets: BTreeMap::new(), levels: BTreeMap::new(), closed: Vec::new() }
    }

    /// Others use the account up from `from` until `until`.
    pub fn close(&mut self, from: Now, until: Now) {
        self.closed.push((from, until));
    }

    /// Whether a call to `operation` passes now.
    pub fn admit(&mut self, operation: Operation, now: Now) -> bool {
        if self.closed.iter().any(|(from, until)| *from <= now && now < *until) {
            return false;
        }
        let Some(bucket) = self.buckets.get(&operation) else {
            return true;
        };
        let level = self.levels.entry(operation).or_insert(Level { tokens: bucket.capacity, at: now });
        let flowed = now.since(level.at).as_secs_f64() * bucket.refill;
        level.tokens = (level.tokens + flowed).min(bucket.capacity);
        level.at = now;
        if level.tokens < 1.0 {
            return false;
        }
        level.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Account;
    use crate::engine::clock::at_secs;
    use ipam_core::Operation;

    #[test]
    fn a_bucket_empties_and_fills_and_refusals_are_free() {
        let mut account = Account::documented();
        let now = at_secs(10.0);
        let passed = (0..500).filter(|_| account.admit(Operation::Assign, now)).count();
        assert_eq!(passed, 100);
        // Buckets of different actions do not touch.
        assert!(account.admit(Operation::CreateEni, now));
        let later = at_secs(12.0);
        let passed = (0..500).filter(|_| account.admit(Operation::Assign, later)).count();
        assert_eq!(passed, 10);
        account.close(at_secs(100.0), at_secs(200.0));
        assert!(!account.admit(Operation::DescribeEnis, at_secs(199.9)));
        assert!(account.admit(Operation::DescribeEnis, at_secs(200.0)));
    }
}
