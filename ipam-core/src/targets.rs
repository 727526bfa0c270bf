//! What the operator wants, and what the instance allows.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{AccountLimits, Hold, InstanceLimits, SecurityGroupId, SubnetId};

/// How addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocationMode {
    /// Single secondary addresses.
    Secondary,
    /// /28 prefixes; single addresses where a subnet has no free /28.
    Prefix,
}

/// How far the pool may change its ENIs and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Growth {
    /// As the targets say.
    Normal,
    /// For pods that wait, nothing warm, and nothing is given back: a cordoned
    /// node still gets DaemonSet pods.
    DemandOnly,
    /// No EC2 change at all: the instance is going away, or the operator
    /// provisions the addresses.
    None,
}

/// The pool's patience. Defaults suit EC2; tests and simulations set others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How long the first waiting ADD waits for others to be served by the
    /// same EC2 call. Part of every cold ADD, so short.
    pub coalesce: Duration,
    /// How long a pool below its warm target, with nobody waiting, waits for
    /// more to be missing before it asks.
    pub refill_delay: Duration,
    /// How long addresses must have been surplus before they are given back.
    pub shrink_after: Duration,
    /// The youngest ENI that may be given back.
    pub eni_min_age: Duration,
    /// When an unattached ENI of ours that nothing wants is deleted.
    pub give_up_after: Duration,
    /// The first attempt to delete a detached ENI comes this long after the
    /// detach, which EC2 finishes on its own time.
    pub delete_delay: Duration,
    /// How long a describe may contradict the reply of a change.
    pub lag: Duration,
    /// How long an attached ENI may be without a link before its addresses
    /// no longer count as on their way.
    pub link_patience: Duration,
    /// Time between two periodic reads of EC2's truth; jittered by a quarter.
    pub reconcile_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            coalesce: Duration::from_millis(30),
            refill_delay: Duration::from_secs(1),
            shrink_after: Duration::from_secs(60),
            eni_min_age: Duration::from_secs(60),
            give_up_after: Duration::from_secs(60),
            delete_delay: Duration::from_secs(5),
            lag: Duration::from_secs(60),
            link_patience: Duration::from_secs(180),
            reconcile_every: Duration::from_secs(300),
        }
    }
}

/// Which subnets pods' addresses come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubnetChoice {
    /// These, in order of preference: the node's own, or an ENIConfig's.
    Fixed(Vec<SubnetId>),
    /// Those of the node's VPC and zone that their tags offer to pods; most
    /// free addresses first (`ENABLE_SUBNET_DISCOVERY`).
    Discover {
        /// The node's VPC.
        vpc: String,
        /// The node's availability zone.
        zone: String,
        /// The primary ENI's subnet; it needs no tag.
        node_subnet: SubnetId,
        /// The cluster's name; without it the subnets' cluster tags are not
        /// looked at.
        cluster: Option<String>,
    },
}

/// The pool's targets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Targets {
    /// Single addresses or prefixes.
    pub mode: AllocationMode,
    /// ENIs' worth of free addresses to keep; ignored when an address target
    /// is set, and in prefix mode.
    pub warm_eni: u32,
    /// Free addresses to keep; overrides `warm_eni` and `warm_prefix`.
    pub warm_ip: Option<u32>,
    /// The least number of addresses to hold; alone it means no warm ones.
    pub minimum_ip: Option<u32>,
    /// Free /28s to keep in prefix mode.
    pub warm_prefix: u32,
    /// A cap on ENIs below the instance's own.
    pub max_eni: Option<u32>,
    /// Pods that the node accepts; the pool never holds more than that free,
    /// leased and on their way together.
    pub max_pods: u32,
    /// How long a released address rests before it is leased again.
    pub cooldown: Duration,
    /// The instance's limits.
    pub limits: InstanceLimits,
    /// Whether pods may have addresses of the primary ENI; not so with
    /// custom networking.
    pub use_primary: bool,
    /// Where pods' addresses come from.
    pub subnet_choice: SubnetChoice,
    /// Security groups of our ENIs; empty: those of the primary ENI.
    pub security_groups: BTreeSet<SecurityGroupId>,
    /// How far the pool may change its ENIs and addresses.
    pub growth: Growth,
    /// Why `growth` is [`Growth::None`], for those who are refused.
    pub hold: Option<Hold>,
    /// The pool's patience.
    pub timing: Timing,
    /// The cluster's share of the account's request rates
    /// (`TIDEPOOL_EC2_RATE_SCALE`).
    pub account: AccountLimits,
}

impl Targets {
    /// The incumbent's defaults for an instance of these limits: one ENI's
    /// worth of free addresses, thirty seconds of cooldown.
    pub fn new(limits: InstanceLimits, subnet: SubnetId) -> Self {
        Self {
            mode: AllocationMode::Secondary,
            warm_eni: 1,
            warm_ip: None,
            minimum_ip: None,
            warm_prefix: 1,
            max_eni: None,
            max_pods: limits.max_pods(false),
            cooldown: Duration::from_secs(30),
            limits,
            use_primary: true,
            subnet_choice: SubnetChoice::Fixed(vec![subnet]),
            security_groups: BTreeSet::new(),
            growth: Growth::Normal,
            hold: None,
            timing: Timing::default(),
            account: AccountLimits::default(),
        }
    }

    /// Whether free addresses are counted singly (`WARM_IP_TARGET`,
    /// `MINIMUM_IP_TARGET`) and not by ENI or prefix.
    pub fn counts_addresses(&self) -> bool {
        self.warm_ip.is_some() || self.minimum_ip.is_some()
    }

    /// Whether prefixes are asked for.
    pub fn asks_prefixes(&self) -> bool {
        self.mode == AllocationMode::Prefix && self.limits.prefixes
    }

    /// ENIs that the default network card may carry for us and others.
    pub fn eni_limit(&self) -> u32 {
        let instance = self.limits.enis();
        self.max_eni.map_or(instance, |max| max.min(instance).max(1))
    }

    /// How long an ADD should wait for an address before it is refused: the
    /// cooldown must fit, since cooling addresses may be all that is left.
    pub fn lease_patience(&self) -> Duration {
        Duration::from_secs(20).max(self.cooldown + Duration::from_secs(5))
    }
}
