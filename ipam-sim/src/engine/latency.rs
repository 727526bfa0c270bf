//! How long EC2 takes.

use std::time::Duration;

use ipam_core::Operation;

use super::clock::secs;
use super::dice::Dice;

/// A distribution of times.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Spread {
    /// Always the same, in seconds.
    Fixed(f64),
    /// Lognormal through its median and its 99th percentile, in seconds.
    Log {
        /// Half are quicker.
        p50: f64,
        /// One of a hundred is slower.
        p99: f64,
    },
    /// Uniform between two times, in seconds.
    Between(f64, f64),
}

impl Spread {
    /// One time of it, the same for the same names.
    pub fn draw(self, dice: &Dice, names: &[u64]) -> Duration {
        match self {
            Self::Fixed(time) => secs(time),
            Self::Log { p50, p99 } => {
                // The 99th percentile of a normal lies 2.326 deviations out.
                let sigma = (p99 / p50).ln() / 2.326_347_9;
                secs(p50 * (sigma * dice.normal(names)).exp())
            }
            Self::Between(low, high) => secs(low + (high - low) * dice.uniform(names)),
        }
    }
}

/// Every time that the world takes.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// CreateNetworkInterface.
    pub create: Spread,
    /// AttachNetworkInterface, the call alone.
    pub attach: Spread,
    /// AssignPrivateIpAddresses.
    pub assign: Spread,
    /// UnassignPrivateIpAddresses.
    pub unassign: Spread,
    /// ModifyNetworkInterfaceAttribute, CreateTags.
    pub modify: Spread,
    /// DetachNetworkInterface, the call alone.
    pub detach: Spread,
    /// DeleteNetworkInterface.
    pub delete: Spread,
    /// Every Describe.
    pub describe: Spread,
    /// From the attach until the kernel shows the device.
    pub device: Spread,
    /// From the attach until the metadata service lists ENI and addresses; at
    /// least as long as the device takes.
    pub imds: Spread,
    /// From the detach until EC2 has done it.
    pub detached: Spread,
    /// How far a describe lags behind the changes.
    pub describe_lag: Duration,
}

impl Latencies {
    /// What is known of EC2's times: medians and tails of public measurements
    /// (the operators' threads and metrics that the design cites), where there
    /// are none an estimate.
    pub fn ec2() -> Self {
        let call = Spread::Log { p50: 0.3, p99: 1.5 };
        Self {
            create: Spread::Log { p50: 0.5, p99: 2.0 },
            attach: Spread::Log { p50: 0.7, p99: 3.0 },
            assign: call,
            unassign: call,
            modify: call,
            detach: call,
            delete: call,
            describe: Spread::Log { p50: 0.15, p99: 0.8 },
            device: Spread::Log { p50: 2.0, p99: 15.0 },
            imds: Spread::Log { p50: 1.0, p99: 10.0 },
            detached: Spread::Between(1.0, 5.0),
            describe_lag: Duration::from_secs(1),
        }
    }

    /// The time of a call to `operation`.
    pub(crate) fn of(&self, operation: Operation) -> Spread {
        match operation {
            Operation::CreateEni => self.create,
            Operation::Attach => self.attach,
            Operation::Assign => self.assign,
            Operation::Unassign => self.unassign,
            Operation::Modify | Operation::CreateTags => self.modify,
            Operation::Detach => self.detach,
            Operation::DeleteEni => self.delete,
            Operation::DescribeEnis
            | Operation::DescribeSubnets
            | Operation::DescribeInstances
            | Operation::DescribeInstanceTypes => self.describe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;
    use crate::engine::dice::Dice;

    #[test]
    fn lognormal_goes_through_its_percentiles() {
        let spread = Spread::Log { p50: 0.5, p99: 2.0 };
        let dice = Dice::new(3);
        let mut times: Vec<f64> = (0..20_000).map(|n| spread.draw(&dice, &[n]).as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        assert!((times[10_000] - 0.5).abs() < 0.02, "{}", times[10_000]);
        assert!((times[19_800] - 2.0).abs() < 0.2, "{}", times[19_800]);
    }
}
