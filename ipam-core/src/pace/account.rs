//! The account's token buckets at EC2, as far as this cluster may use them.

use std::fmt;

use crate::plan::Operation;

/// How much of a bucket the cluster plans to use. The rest is what keeps
/// refusals away: calls do not arrive as evenly as they are planned.
const OF_BURST: f64 = 0.9;
/// The same for what flows in. 5,000 nodes so take 1,034 s where the bucket
/// alone takes 980 s.
const OF_REFILL: f64 = 0.95;

/// The share of EC2's published request buckets that this cluster may use.
///
/// EC2 counts requests by account, region and action. The published figures
/// are in [`AccountLimits::bucket`]; an account can have raised ones, and
/// clusters can share an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccountLimits {
    permille: u32,
}

/// The smallest and the largest share that makes sense, in thousandths.
const RANGE: std::ops::RangeInclusive<f64> = 10.0..=1_000_000.0;

/// A share that is no number from 0.01 to 1000.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[error("{0} is not a share from 0.01 to 1000 of EC2's published request rates")]
pub struct ShareError(pub f64);

/// A token bucket: requests at once, and requests a second after that.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    /// Tokens that it holds when it is full.
    pub capacity: f64,
    /// Tokens that flow in, a second.
    pub per_second: f64,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self { permille: 1000 }
    }
}

impl AccountLimits {
    /// A `share` of the published figures: 0.5 where two clusters share an
    /// account, 4.0 where EC2 has raised its limits fourfold.
    ///
    /// # Errors
    ///
    /// A share that is not within 0.01 and 1000.
    pub fn scaled(share: f64) -> Result<Self, ShareError> {
        let permille = (share * 1000.0).round();
        if !RANGE.contains(&permille) {
            return Err(ShareError(share));
        }
        // In range, so it fits and is whole.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against RANGE")]
        let permille = permille as u32;
        Ok(Self { permille })
    }

    /// The share.
    pub fn share(self) -> f64 {
        f64::from(self.permille) / 1000.0
    }

    /// The bucket of `operation`, in the cluster's share.
    pub fn bucket(self, operation: Operation) -> Bucket {
        let (capacity, per_second) = match operation {
            Operation::CreateEni
            | Operation::DeleteEni
            | Operation::Modify
            | Operation::Assign
            | Operation::Unassign => (100.0, 5.0),
            // Not listed by itself: a mutating call like any other.
            Operation::Attach | Operation::Detach => (50.0, 5.0),
            Operation::CreateTags => (100.0, 10.0),
            Operation::DescribeEnis
            | Operation::DescribeSubnets
            | Operation::DescribeInstances
            | Operation::DescribeInstanceTypes => (100.0, 20.0),
        };
        Bucket { capacity: capacity * self.share(), per_second: per_second * self.share() }
    }

    /// What is planned with of a chain of calls: the smallest of their buckets,
    /// less a reserve.
    pub(super) fn planned(self, chain: &[Operation]) -> Bucket {
        let whole = chain.iter().map(|operation| self.bucket(*operation)).reduce(|a, b| Bucket {
            capacity: a.capacity.min(b.capacity),
            per_second: a.per_second.min(b.per_second),
        });
        let whole = whole.unwrap_or(Bucket { capacity: 0.0, per_second: 1.0 });
        Bucket { capacity: whole.capacity * OF_BURST, per_second: whole.per_second * OF_REFILL }
    }
}

impl fmt::Display for AccountLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.share())
    }
}

#[cfg(test)]
mod tests {
    use super::AccountLimits;
    use crate::plan::Operation;

    #[test]
    fn a_share_scales_every_bucket() {
        let half = AccountLimits::scaled(0.5).expect("in range");
        for operation in Operation::ALL {
            let (whole, part) = (AccountLimits::default().bucket(operation), half.bucket(operation));
            assert_eq!(whole.capacity * 0.5, part.capacity, "{operation}");
            assert_eq!(whole.per_second * 0.5, part.per_second, "{operation}");
        }
        let chain = [Operation::CreateEni, Operation::Attach, Operation::Modify];
        assert_eq!(AccountLimits::default().planned(&chain).capacity, 45.0);
    }

    #[test]
    fn a_share_out_of_range_is_refused() {
        for share in [0.0, -1.0, 0.001, 1001.0, f64::NAN, f64::INFINITY] {
            let error = AccountLimits::scaled(share).expect_err("out of range");
            assert!(error.to_string().contains("0.01 to 1000"), "{error}");
        }
    }
}
