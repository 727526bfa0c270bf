//! Configurations, each for both agents.

use ipam_core::{
    AllocationMode, EniRecord, InstanceId, InstanceLimits, InstanceTable, SubnetChoice, Targets,
};

use crate::engine::{Agent, PlannerNode, VPC, ZONE};
use crate::incumbent::{Incumbent, Settings};

/// A configuration by the knobs that operators know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its name in the table.
    pub name: &'static str,
    /// `ENABLE_PREFIX_DELEGATION`
    pub prefixes: bool,
    /// `WARM_ENI_TARGET`
    pub warm_eni: u32,
    /// `WARM_IP_TARGET`
    pub warm_ip: Option<u32>,
    /// `MINIMUM_IP_TARGET`
    pub minimum_ip: Option<u32>,
    /// `WARM_PREFIX_TARGET`
    pub warm_prefix: u32,
    /// `MAX_ENI`
    pub max_eni: Option<u32>,
}

impl Config {
    const BASE: Self = Self {
        name: "default",
        prefixes: false,
        warm_eni: 1,
        warm_ip: None,
        minimum_ip: None,
        warm_prefix: 1,
        max_eni: None,
    };
    /// The incumbent's defaults: one ENI's worth of free addresses.
    pub const DEFAULT: Self = Self::BASE;
    /// The thriftiest targets in use.
    pub const ONE_THREE: Self =
        Self { name: "WARM_IP=1 MIN=3", warm_ip: Some(1), minimum_ip: Some(3), ..Self::BASE };
    /// Usual targets where addresses are scarce.
    pub const FIVE_TEN: Self =
        Self { name: "WARM_IP=5 MIN=10", warm_ip: Some(5), minimum_ip: Some(10), ..Self::BASE };
    /// Prefixes with their default target.
    pub const PREFIX: Self = Self { name: "prefix", prefixes: true, ..Self::BASE };
    /// Prefixes, counted by address.
    pub const PREFIX_FIVE_TEN: Self =
        Self { name: "prefix WARM_IP=5 MIN=10", prefixes: true, ..Self::FIVE_TEN };
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::DEFAULT, Self::ONE_THREE, Self::FIVE_TEN, Self::PREFIX, Self::PREFIX_FIVE_TEN];

    /// With at most `enis` ENIs.
    pub const fn capped(self, enis: u32) -> Self {
        Self { max_eni: Some(enis), ..self }
    }

    /// Pods that a node of `limits` accepts.
    pub fn max_pods(&self, limits: &InstanceLimits) -> u32 {
        // What EKS sets for large instances, where the recommended cap of 110
        // would not hold the burst of 200.
        if self.prefixes && limits.instance_type == "m5.4xlarge" {
            limits.max_pods(false)
        } else {
            limits.max_pods(self.prefixes)
        }
    }

    /// Addresses for pods that a node can have.
    pub fn capacity(&self, limits: &InstanceLimits) -> u32 {
        let enis = self.max_eni.unwrap_or(u32::MAX).min(limits.enis());
        enis * limits.slots_per_eni() * if self.prefixes { 16 } else { 1 }
    }

    /// What our planner is told.
    pub fn targets(&self, limits: &InstanceLimits, primary: &EniRecord) -> Targets {
        let mut targets = Targets::new(limits.clone(), primary.subnet.clone());
        // Both agents' default: the node's subnet, and tagged ones beside it.
        targets.subnet_choice = SubnetChoice::Discover {
            vpc: VPC.to_owned(),
            zone: ZONE.to_owned(),
            node_subnet: primary.subnet.clone(),
            cluster: None,
        };
        if self.prefixes {
            targets.mode = AllocationMode::Prefix;
        }
        targets.warm_eni = self.warm_eni;
        targets.warm_ip = self.warm_ip;
        targets.minimum_ip = self.minimum_ip;
        targets.warm_prefix = self.warm_prefix;
        targets.max_eni = self.max_eni;
        targets.max_pods = self.max_pods(limits);
        targets
    }

    /// What the incumbent is told.
    pub fn settings(&self, limits: &InstanceLimits) -> Settings {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Settings {
            max_eni: count(self.max_eni.unwrap_or(u32::MAX).min(limits.enis())),
            per_eni: count(limits.slots_per_eni()),
            max_pods: count(self.max_pods(limits)),
            prefixes: self.prefixes && limits.prefixes,
            warm_eni: count(self.warm_eni),
            warm_ip: count(self.warm_ip.unwrap_or(0)),
            minimum_ip: count(self.minimum_ip.unwrap_or(0)),
            warm_prefix: count(self.warm_prefix),
            cooldown: std::time::Duration::from_secs(30),
        }
    }

    /// Our agent on an instance.
    pub fn ours(&self, limits: &InstanceLimits, instance: InstanceId, primary: &EniRecord) -> Box<dyn Agent> {
        Box::new(PlannerNode::new(instance, self.targets(limits, primary)))
    }

    /// The incumbent on an instance.
    pub fn theirs(&self, limits: &InstanceLimits, primary: &EniRecord) -> Box<dyn Agent> {
        Box::new(Incumbent::new(self.settings(limits), primary.id.clone()))
    }
}

/// The limits of an instance type of the built-in table.
///
/// # Panics
///
/// On a type that the table lacks: scenarios name their types in the source,
/// and a test runs them all.
pub fn limits_of(instance_type: &str) -> InstanceLimits {
    match InstanceTable::default().find(instance_type) {
        Ok(Some(limits)) => limits,
        other => panic!("{instance_type} is not in the table that ships: {other:?}"),
    }
}
