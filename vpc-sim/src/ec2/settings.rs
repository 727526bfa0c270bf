//! What can be set about the cloud, and what it is when nothing is set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::delay::Delay;
use super::throttle::Throttling;

/// How the cloud behaves. Every field can be changed while it runs, by
/// [`Cloud::update_settings`](super::Cloud::update_settings) or `POST /settings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What every sample, id and choice of address follows from.
    pub seed: u64,
    /// Which free addresses a subnet gives.
    pub placement: Placement,
    /// How long each operation takes.
    pub latency: Latencies,
    /// How many calls the account may make.
    pub throttling: Throttling,
    /// How late what was done is seen by others.
    pub consistency: Consistency,
    /// How long after a change in EC2 an instance's metadata shows it.
    pub imds_lag: Delay,
}

impl Default for Settings {
    /// The latencies and limits that were seen of AWS, with the longest tails
    /// cut off: a device appears within 5 seconds, and so does its metadata.
    fn default() -> Self {
        Self {
            seed: 1,
            placement: Placement::Random,
            latency: Latencies::default(),
            throttling: Throttling::default(),
            consistency: Consistency::default(),
            imds_lag: Delay::spread(1000, 10_000, 5000),
        }
    }
}

impl Settings {
    /// A cloud that answers at once, refuses nobody and shows everything at once.
    pub fn calm() -> Self {
        Self {
            latency: Latencies::none(),
            throttling: Throttling { enabled: false, ..Throttling::default() },
            consistency: Consistency::default(),
            imds_lag: Delay::NONE,
            ..Self::default()
        }
    }
}

/// Which of its free addresses a subnet gives when none is asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The lowest first: dense, and easy to foretell.
    Lowest,
    /// Any, by the seed: what EC2 does, and what fragments /28 blocks.
    Random,
}

/// How long operations take until they answer, and devices until they appear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latencies {
    /// CreateNetworkInterface.
    pub create: Delay,
    /// DeleteNetworkInterface.
    pub delete: Delay,
    /// AttachNetworkInterface, until it answers.
    pub attach: Delay,
    /// DetachNetworkInterface, until it answers.
    pub detach: Delay,
    /// From an attach until the device is there and its status is `attached`.
    pub device_attach: Delay,
    /// From a detach until the device is gone and the interface `available`.
    pub device_detach: Delay,
    /// Assign and unassign, IPv4 and IPv6.
    pub assign: Delay,
    /// ModifyNetworkInterfaceAttribute.
    pub modify: Delay,
    /// Describe operations.
    pub describe: Delay,
    /// All others.
    pub other: Delay,
    /// One operation by its name, before the groups above.
    pub operations: BTreeMap<String, Delay>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            create: Delay::spread(500, 2000, 5000),
            delete: Delay::spread(300, 1500, 5000),
            attach: Delay::spread(700, 3000, 5000),
            detach: Delay::spread(300, 1500, 5000),
            device_attach: Delay::spread(2000, 15_000, 5000),
            device_detach: Delay::spread(2000, 5000, 5000),
            assign: Delay::spread(300, 1500, 5000),
            modify: Delay::spread(300, 1500, 5000),
            describe: Delay::spread(150, 800, 5000),
            other: Delay::spread(150, 800, 5000),
            operations: BTreeMap::new(),
        }
    }
}

impl Latencies {
    /// Nothing takes any time.
    pub fn none() -> Self {
        Self {
            create: Delay::NONE,
            delete: Delay::NONE,
            attach: Delay::NONE,
            detach: Delay::NONE,
            device_attach: Delay::NONE,
            device_detach: Delay::NONE,
            assign: Delay::NONE,
            modify: Delay::NONE,
            describe: Delay::NONE,
            other: Delay::NONE,
            operations: BTreeMap::new(),
        }
    }

    /// How long `operation` takes until it answers.
    pub fn of(&self, operation: &str) -> Delay {
        if let Some(delay) = self.operations.get(operation) {
            return *delay;
        }
        match operation {
            "CreateNetworkInterface" => self.create,
            "DeleteNetworkInterface" => self.delete,
            "AttachNetworkInterface" => self.attach,
            "DetachNetworkInterface" => self.detach,
            "ModifyNetworkInterfaceAttribute" => self.modify,
            _ if operation.starts_with("Describe") => self.describe,
            _ if operation.starts_with("Assign") || operation.starts_with("Unassign") => self.assign,
            _ => self.other,
        }
    }
}

/// How late the effect of a call is seen. Off by default: AWS promises no more
/// than "eventually", but a client that does not know that should be met by it
/// on purpose, not by chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// How long after its creation an interface is not found by any other call.
    pub not_found: Delay,
    /// How long Describe shows an interface as it was before a change.
    pub stale: Delay,
}

impl Default for Consistency {
    fn default() -> Self {
        Self { not_found: Delay::NONE, stale: Delay::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_latency() {
        let mut latencies = Latencies::none();
        latencies.assign = Delay::always(1);
        latencies.describe = Delay::always(2);
        latencies.other = Delay::always(3);
        latencies.operations.insert("DescribeSubnets".into(), Delay::always(4));
        for (operation, ms) in [
            ("AssignPrivateIpAddresses", 1),
            ("UnassignIpv6Addresses", 1),
            ("DescribeInstances", 2),
            ("DescribeSubnets", 4),
            ("CreateTags", 3),
            ("CreateNetworkInterface", 0),
        ] {
            assert_eq!(latencies.of(operation), Delay::always(ms), "{operation}");
        }
    }

    #[test]
    fn settings_survive_json() {
        for settings in [Settings::default(), Settings::calm()] {
            let text = serde_json::to_string(&settings).expect("settings are JSON");
            assert_eq!(serde_json::from_str::<Settings>(&text).expect("and back"), settings);
        }
    }
}
