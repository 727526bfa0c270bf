//! Many nodes of the incumbent's on one account.

use std::time::Duration;

use crate::engine::{Account, Figures, Latencies, NodeId, World, at_secs};
use crate::scenario::{Config, FleetFigures, limits_of};

/// A fleet that scales out at once: fresh nodes boot and their pods are bound
/// to them at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct FleetSpec<'a> {
    /// Nodes.
    pub nodes: u32,
    /// Pods on each.
    pub pods_per_node: u32,
    /// The nodes' instance type.
    pub instance: &'a str,
    /// The configuration of all nodes.
    pub config: Config,
    /// Every draw follows from it.
    pub seed: u64,
    /// When the run ends at the latest, in seconds.
    pub end_s: f64,
    /// The soonest that the token buckets alone allow, for the row.
    pub bound_s: f64,
}

/// Runs the fleet until every pod has an address, or `end_s`.
pub fn run(spec: &FleetSpec<'_>) -> (Figures, FleetFigures) {
    let limits = limits_of(spec.instance);
    let room = spec.nodes * (limits.enis() * limits.ipv4_per_eni + spec.pods_per_node);
    let mut world = World::new(spec.seed, Latencies::ec2(), Account::documented(), room);
    for node in 0..spec.nodes {
        let (config, cooldown) = (spec.config, Duration::from_secs(30));
        world.add_node(limits.clone(), cooldown, |_, primary| config.theirs(&limits, primary));
        for _ in 0..spec.pods_per_node {
            world.shell().add_pod(NodeId(node as usize), at_secs(0.0), None);
        }
    }
    let mut now_s = 0.0;
    while now_s < spec.end_s && !world.all_placed() {
        now_s += 10.0;
        world.run_until(at_secs(now_s));
    }
    let time_to = |share| world.time_to(share).map(|time| time.as_secs_f64());
    let fleet = FleetFigures {
        nodes: u64::from(spec.nodes),
        bound_s: spec.bound_s,
        time_to_50_s: time_to(0.5),
        time_to_100_s: time_to(1.0),
    };
    (world.figures_by_pod(), fleet)
}
