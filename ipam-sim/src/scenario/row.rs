//! One scenario in one configuration, run by both agents.

use ipam_core::{InstanceLimits, Now, Refusal};
use serde::Serialize;

use super::config::Config;
use crate::engine::{Account, Figures, Latencies, NodeId, World};

/// A line of the table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The configuration's name.
    pub config: String,
    /// Pods that came.
    pub pods: u64,
    /// Our agent's figures.
    #[serde(flatten)]
    pub ours: Figures,
    /// What only fleets have.
    #[serde(flatten)]
    pub fleet: Option<FleetFigures>,
    /// The incumbent's figures on the same work.
    pub incumbent: Column,
    /// What the promises are checked against.
    #[serde(skip)]
    pub evidence: Evidence,
}

/// The incumbent's column: the same keys.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Column {
    /// The scenario's name.
    pub scenario: String,
    /// The configuration's name.
    pub config: String,
    /// Pods that came.
    pub pods: u64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// What only fleets have.
    #[serde(flatten)]
    pub fleet: Option<FleetFigures>,
}

/// What only fleets have.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct FleetFigures {
    /// Nodes.
    pub nodes: u64,
    /// The soonest that the token buckets alone allow.
    pub bound_s: f64,
    /// From the first arrival until half of all pods have had an address.
    pub time_to_50_s: Option<f64>,
    /// Until all have.
    pub time_to_100_s: Option<f64>,
}

/// What a run shows beside its figures.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Evidence {
    /// The longest single way to an address in our run, in seconds: one
    /// assign, or one new ENI from its create to its link.
    pub longest_way_s: f64,
    /// Mutating calls that one assign for each ENI there was and three calls
    /// for each new one allow.
    pub calls_allowed: u64,
    /// Why ADDs of ours ended without an address, and how often.
    pub reasons: Vec<(String, u64)>,
    /// Breaches of what no agent may do, by either.
    pub breaches: Vec<String>,
}

/// Which of the two runs a scene.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Our agent.
    Ours,
    /// The incumbent.
    Incumbent,
}

/// A node, a cloud, a trace.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The scenario's name.
    pub scenario: String,
    /// The configuration.
    pub config: Config,
    /// The instance type's limits.
    pub limits: InstanceLimits,
    /// Every draw follows from it.
    pub seed: u64,
    /// How long things take.
    pub latencies: Latencies,
    /// The account.
    pub account: Account,
    /// Addresses in the subnet.
    pub addresses: u32,
    /// Which refusals the scenario itself causes.
    pub caused: fn(&Refusal) -> bool,
    /// When it is over.
    pub end: Now,
}

/// The node of a scene with one.
pub const NODE: NodeId = NodeId(0);

impl Scene {
    /// A scene on a quiet account and in a large subnet.
    pub fn new(scenario: impl Into<String>, config: Config, limits: InstanceLimits, seed: u64) -> Self {
        Self {
            scenario: scenario.into(),
            config,
            limits,
            seed,
            latencies: Latencies::ec2(),
            account: Account::documented(),
            addresses: 4096,
            caused: |_| false,
            end: Now::default(),
        }
    }

    /// The world with its node, nobody there yet.
    ///
    /// # Panics
    ///
    /// Where the subnet has no address for the node itself: a scene's fault.
    pub fn world(&self, side: Side) -> World {
        let mut world = World::new(self.seed, self.latencies.clone(), self.account.clone(), self.addresses);
        world.excuse(self.caused);
        let (config, limits) = (self.config, self.limits.clone());
        let cooldown = std::time::Duration::from_secs(30);
        let node = world.add_node(limits.clone(), cooldown, |instance, primary| match side {
            Side::Ours => config.ours(&limits, instance, primary),
            Side::Incumbent => config.theirs(&limits, primary),
        });
        assert_eq!(node, Some(NODE), "{}: the subnet has no room for the node", self.scenario);
        world
    }

    /// Runs it for both and puts them side by side. `act` puts the work in and
    /// may let time pass.
    pub fn row(&self, act: impl Fn(&mut World)) -> Row {
        let run = |side| {
            let mut world = self.world(side);
            act(&mut world);
            world.run_until(self.end);
            world
        };
        let (ours, theirs) = (run(Side::Ours), run(Side::Incumbent));
        let (assign, attach) = ours.longest();
        let pods = |world: &World| u64::try_from(world.pods()).unwrap_or(u64::MAX);
        let breaches = ours
            .breaches()
            .iter()
            .map(|breach| format!("ours: {breach}"))
            .chain(theirs.breaches().iter().map(|breach| format!("incumbent: {breach}")))
            .collect();
        Row {
            scenario: self.scenario.clone(),
            config: self.config.name.to_owned(),
            pods: pods(&ours),
            ours: ours.figures(),
            fleet: None,
            incumbent: Column {
                scenario: self.scenario.clone(),
                config: self.config.name.to_owned(),
                pods: pods(&theirs),
                figures: theirs.figures(),
                fleet: None,
            },
            evidence: Evidence {
                longest_way_s: assign.max(attach).as_secs_f64(),
                calls_allowed: calls_allowed(&ours),
                reasons: ours.reasons().map(|(reason, count)| (reason.to_owned(), count)).collect(),
                breaches,
            },
        }
    }
}

/// One assign for each ENI that was there when the first pod came, and create,
/// attach and modify for each that came after.
fn calls_allowed(world: &World) -> u64 {
    let creates: u64 = world
        .calls()
        .filter(|(operation, _)| *operation == ipam_core::Operation::CreateEni)
        .map(|(_, count)| count.calls - count.throttled)
        .sum();
    world.enis_at_start() + 3 * creates
}
