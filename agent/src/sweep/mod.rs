//! ENIs that nobody's node gives up any more: found by their tags, deleted by one elected agent of the cluster.
//!
//! A node deletes its own unattached ENIs. What is left is of nodes that are gone: their instance ended between a
//! create and an attach, or between a detach and a delete, or before EC2 was told to delete the ENI with it. Once in a
//! period the holder of a Lease asks EC2 for unattached ENIs with the cluster's tag, and deletes what [`plan`] finds to
//! be nobody's. [`Election`] decides who that is; [`Sweeper`] carries both out.

mod election;
mod plan;
mod sweeper;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use ipam_core::{EniId, EniRecord, InstanceId};

use crate::config::Config;
use crate::ec2::Ec2Result;

pub use election::{Election, LeaseRecord, Reply, Request};
pub use plan::{Kept, Patience, Plan, plan, suspects};
pub use sweeper::{Report, Sweeper};

/// The name of the Lease, in the namespace of the agents.
pub const LEASE: &str = "tidepool-leak-sweeper";

/// Beyond this a dead holder would be replaced too late; below it, the Lease of a long period costs the API server
/// more than it is worth.
const LONGEST_LEASE: Duration = Duration::from_secs(600);
/// Below this an API server that is slow for a moment would cost the holder its Lease.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// What a sweeper must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// This node's name: what stands in the Lease when it holds it.
    pub node: String,
    /// The cluster's name, which its ENIs' tags carry.
    pub cluster: String,
    /// The VPC's id: cluster names need not be unique in an account.
    pub vpc: String,
    /// Between two sweeps.
    pub period: Duration,
    /// How long a node that lives keeps an unattached ENI that it does not want.
    pub give_up_after: Duration,
}

impl Settings {
    /// The settings by the operator's configuration; `None` where there shall be no sweeper on this node: without a
    /// cluster's name, with the clean-up switched off, or where the operator forbids every change of EC2.
    #[must_use]
    pub fn new(config: &Config, vpc: &str, give_up_after: Duration) -> Option<Self> {
        if !config.leaked_eni_cleanup || config.provisioning_disabled {
            return None;
        }
        Some(Self {
            node: config.node_name.clone(),
            cluster: config.cluster_name.clone()?,
            vpc: vpc.to_owned(),
            period: config.sweep_period,
            give_up_after,
        })
    }

    /// How old an ENI must be.
    #[must_use]
    pub fn patience(&self) -> Patience {
        let orphaned = self.give_up_after * 2;
        Patience { orphaned, living: orphaned + self.period }
    }

    /// How long the Lease lasts without a renewal.
    #[must_use]
    pub fn lease(&self) -> Duration {
        (self.period / 6).clamp(SHORTEST_LEASE, LONGEST_LEASE)
    }
}

/// EC2, as far as a sweep needs it.
pub trait Leftovers: Send + Sync {
    /// Unattached ENIs with the tags of `cluster` and of some instance, in `vpc`.
    fn unattached<'a>(&'a self, cluster: &'a str, vpc: &'a str) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>>;

    /// Those of the instances that run or are about to.
    fn living<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>>;

    /// Deletes an ENI.
    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>>;

    /// Writes the time of its creation on an ENI that has none.
    fn date<'a>(&'a self, eni: &'a EniId, created_at: String) -> BoxFuture<'a, Ec2Result<()>>;
}

/// Where the Lease is.
pub trait LeaseStore: Send + Sync {
    /// Carries a request out, within `patience`; whatever goes wrong is [`Reply::Failed`].
    fn ask<'a>(&'a self, request: &'a Request, terms: &'a LeaseTerms) -> BoxFuture<'a, Reply>;
}

/// What a node writes into a Lease, and how long it waits for the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseTerms {
    /// Its name.
    pub holder: String,
    /// How long it lasts without a renewal.
    pub duration: Duration,
    /// How long the request may take.
    pub patience: Duration,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::Settings;
    use crate::config::{Config, Environment};

    struct Variables(BTreeMap<&'static str, &'static str>);

    impl Environment for Variables {
        fn get(&self, name: &str) -> Option<String> {
            self.0.get(name).map(|value| (*value).to_owned())
        }

        fn names(&self) -> Vec<String> {
            self.0.keys().map(|name| (*name).to_owned()).collect()
        }
    }

    fn settings(more: &[(&'static str, &'static str)]) -> Option<Settings> {
        let mut variables = BTreeMap::from([("MY_NODE_NAME", "n1"), ("CLUSTER_NAME", "blue")]);
        variables.extend(more.iter().copied());
        let (config, _) = Config::read(&Variables(variables)).expect("sound");
        Settings::new(&config, "vpc-1", Duration::from_secs(60))
    }

    #[test]
    fn who_takes_part() {
        for (what, more, takes_part) in [
            ("a cluster's node", [("A", "")], true),
            ("a node of no cluster", [("CLUSTER_NAME", "")], false),
            ("switched off", [("DISABLE_LEAKED_ENI_CLEANUP", "true")], false),
            ("no change of EC2 at all", [("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true")], false),
        ] {
            assert_eq!(settings(&more).is_some(), takes_part, "{what}");
        }
    }

    #[test]
    fn times_follow_from_two_knobs() {
        let read = settings(&[]).expect("it takes part");
        let patience = read.patience();
        assert_eq!((read.node.as_str(), read.cluster.as_str(), read.vpc.as_str()), ("n1", "blue", "vpc-1"));
        assert_eq!(patience.orphaned, Duration::from_secs(120), "2 T");
        assert_eq!(patience.living, Duration::from_secs(120 + 3600));
        for (period, lease) in [("1", 3), ("60", 10), ("3600", 600), ("86400", 600)] {
            let settings = settings(&[("TIDEPOOL_SWEEP_PERIOD", period)]).expect("it takes part");
            assert_eq!(settings.lease(), Duration::from_secs(lease), "{period}");
        }
    }
}
