//! A small EC2 with the limits, refusals, lag and losses of the real one, and
//! a node that runs the pool against it in simulated time.

mod addresses;
mod cloud;
mod node;
mod others;
mod watch;

pub(crate) use cloud::{Cloud, Fault, VPC, ZONE};
pub(crate) use node::{Node, Remains};
pub(crate) use others::Stranger;

use std::time::Duration;

use ipam_core::{InstanceTable, SubnetChoice, SubnetId, Targets};

/// Targets for an instance type of the built-in table, in the cloud's subnet.
pub(crate) fn targets_for(instance_type: &str) -> Targets {
    let limits = InstanceTable::default().find(instance_type).expect("readable").expect("known type");
    Targets::new(limits, SubnetId::new("subnet-a"))
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Subnets by discovery, as the cluster `ours`.
pub(crate) fn discover() -> SubnetChoice {
    SubnetChoice::Discover {
        vpc: VPC.to_owned(),
        zone: ZONE.to_owned(),
        node_subnet: SubnetId::new("subnet-a"),
        cluster: Some("ours".to_owned()),
    }
}
