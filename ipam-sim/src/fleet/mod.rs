//! Thousands of nodes on one account's token buckets.
//!
//! Fresh nodes boot together and their pods are bound to them: each agent reads
//! its ENIs first and then asks for what its pods need. Calls are counted from
//! the boot.

mod watch;

use std::time::Duration;

use ipam_core::{AccountLimits, Operation, Refusal, Shape};

use crate::engine::{Account, Bucket, Dice, Figures, Latencies, NodeId, PlannerNode, World, at_secs, secs};
use crate::scenario::{Column, Config, Evidence, FleetFigures, Row, limits_of};
pub use watch::Knowledge;
use watch::Watch;

/// Pods are bound this long before their first ADD, more or less.
const BEFORE_ADD_S: (f64, f64) = (0.8, 0.4);
/// Pods of one node are bound within this time.
const NODE_S: f64 = 0.3;
/// A run that has not ended by then is given up.
const END_S: f64 = 8000.0;
/// What draws are for.
const FOR_NODE: u64 = 21;
const FOR_BINDING: u64 = 22;
const FOR_ADD: u64 = 23;

/// A fleet that scales out.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// The scenario's name.
    pub name: &'static str,
    /// Nodes.
    pub nodes: u32,
    /// Pods on each.
    pub pods: u32,
    /// Their instance type.
    pub instance: &'static str,
    /// Their configuration.
    pub config: Config,
    /// Within how long all pods are bound, in seconds.
    pub over_s: f64,
    /// How late the Kubernetes API shows anything, in seconds.
    pub lag_s: f64,
    /// The part of the published buckets that there is.
    pub share: f64,
    /// The part that agents are told of (`TIDEPOOL_EC2_RATE_SCALE`).
    pub told: f64,
    /// What agents know of each other.
    pub knowledge: Knowledge,
}

impl Fleet {
    /// 5,000 nodes at once, each with pods that fit the primary ENI.
    pub const BASE: Self = Self {
        name: "fleet of 5000",
        nodes: 5000,
        pods: 9,
        instance: "m5.large",
        config: Config::DEFAULT,
        over_s: 0.0,
        lag_s: 0.3,
        share: 1.0,
        told: 1.0,
        knowledge: Knowledge::Turns,
    };

    /// 500 nodes of the same.
    const SMALL: Self = Self { name: "fleet of 500", nodes: 500, ..Self::BASE };

    /// The fleets of the table.
    pub const ALL: [Self; 8] = [
        Self::SMALL,
        Self { name: "fleet of 500, new ENIs", pods: 20, ..Self::SMALL },
        Self { name: "fleet of 500 over 120 s", over_s: 120.0, ..Self::SMALL },
        Self { name: "fleet of 500, API 10 s late", lag_s: 10.0, ..Self::SMALL },
        Self { name: "fleet of 500, half told of", share: 0.5, told: 0.5, ..Self::SMALL },
        Self { name: "half an account, 500", share: 0.5, ..Self::SMALL },
        Self::BASE,
        Self { name: "fleet of 5000, new ENIs", pods: 20, ..Self::BASE },
    ];

    /// The soonest that the buckets allow, in seconds: one assign for each
    /// node, and create, attach and modify for each new ENI.
    pub fn bound_s(&self) -> f64 {
        let limits = limits_of(self.instance);
        let nodes = f64::from(self.nodes);
        let enis = self.pods.div_ceil(limits.slots_per_eni()).saturating_sub(1);
        let creates = nodes * f64::from(enis);
        let calls = [
            (Operation::Assign, nodes),
            (Operation::CreateEni, creates),
            (Operation::Attach, creates),
            (Operation::Modify, creates),
        ];
        let shared = |operation, calls: f64| {
            let Bucket { capacity, refill } = Bucket::documented(operation);
            Bucket { capacity: capacity * self.share, refill: refill * self.share }.bound_s(calls)
        };
        calls.into_iter().map(|(operation, calls)| shared(operation, calls)).fold(0.0, f64::max)
    }

    fn world(&self, seed: u64, ours: bool) -> World {
        let limits = limits_of(self.instance);
        let room = self.nodes * (limits.enis() * limits.ipv4_per_eni + 1);
        let mut world = World::new(seed, Latencies::ec2(), Account::shared(self.share), room);
        world.excuse(|reason| {
            // One pod of 100,000 is left whose last call is under way at its deadline.
            let late = matches!(reason, Refusal::StillGrowing);
            late || matches!(reason, Refusal::Throttled { .. } | Refusal::Queued { .. } | Refusal::Starting)
        });
        let mut shape = Shape { per_eni: limits.slots_per_eni(), uses_primary: true, warm: 0 };
        for _ in 0..self.nodes {
            world.add_node(limits.clone(), Duration::from_secs(30), |instance, primary| {
                if !ours {
                    return self.config.theirs(&limits, primary);
                }
                let targets = self.config.targets(&limits, primary);
                shape = Shape::of(&targets);
                let mut node = PlannerNode::new(instance, targets);
                if self.knowledge != Knowledge::Nothing {
                    node.follow_driver();
                }
                Box::new(node)
            });
        }
        let dice = Dice::new(seed);
        let told = AccountLimits::scaled(self.told).unwrap_or_default();
        let mut watch = Watch::new(self.nodes, told, shape, dice).telling(self.knowledge, secs(self.lag_s));
        for node in 0..self.nodes {
            let names = |what, pod: u32| [what, u64::from(node), u64::from(pod)];
            let begin = self.over_s * dice.uniform(&names(FOR_NODE, 0));
            for pod in 0..self.pods {
                let bound = begin + NODE_S * dice.uniform(&names(FOR_BINDING, pod));
                let add = bound + BEFORE_ADD_S.0 + BEFORE_ADD_S.1 * dice.uniform(&names(FOR_ADD, pod));
                let node = NodeId(node as usize);
                let pod = world.shell().add_pod(node, at_secs(add), None);
                watch.bound(node, pod, at_secs(bound));
            }
        }
        if ours {
            world.shell().look_at(at_secs(0.0) + watch::LISTED);
            world.drive(Box::new(watch));
        }
        world.run_until(at_secs(0.0));
        world
    }

    /// Runs it until every pod has an address.
    pub fn run(&self, seed: u64, ours: bool) -> (World, Figures, FleetFigures) {
        let mut world = self.world(seed, ours);
        let mut now_s = 0.0;
        while now_s < END_S && !world.all_placed() {
            now_s += 10.0;
            world.run_until(at_secs(now_s));
        }
        let time_to = |share| world.time_to(share).map(|time| time.as_secs_f64());
        let fleet = FleetFigures {
            nodes: u64::from(self.nodes),
            bound_s: self.bound_s(),
            time_to_50_s: time_to(0.5),
            time_to_100_s: time_to(1.0),
        };
        let figures = world.figures_by_pod();
        (world, figures, fleet)
    }

    /// The row of the table.
    pub fn row(&self, seed: u64) -> Row {
        let (ours, figures, fleet) = self.run(seed, true);
        let (theirs, incumbent, incumbent_fleet) = self.run(seed, false);
        let pods = u64::from(self.nodes) * u64::from(self.pods);
        let config = format!("{} {}x{}", self.config.name, self.instance, self.pods);
        Row {
            scenario: self.name.to_owned(),
            config: config.clone(),
            pods,
            ours: figures,
            fleet: Some(fleet),
            incumbent: Column {
                scenario: self.name.to_owned(),
                config,
                pods,
                figures: incumbent,
                fleet: Some(incumbent_fleet),
            },
            evidence: Evidence {
                reasons: ours.reasons().map(|(reason, count)| (reason.to_owned(), count)).collect(),
                breaches: ours
                    .breaches()
                    .iter()
                    .map(|breach| format!("ours: {breach}"))
                    .chain(theirs.breaches().iter().map(|breach| format!("incumbent: {breach}")))
                    .collect(),
                ..Evidence::default()
            },
        }
    }
}

/// The fleet's rows.
pub fn rows(seed: u64) -> Vec<Row> {
    crate::parallel::map(&Fleet::ALL, |fleet| fleet.row(seed))
}
