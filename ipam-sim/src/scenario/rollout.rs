//! Rolling updates of a Deployment whose pods all stand on one node.

use std::collections::BTreeSet;

use super::config::{Config, limits_of};
use super::row::{NODE, Row, Scene};
use crate::engine::{Agent, Driver, News, NodeId, PodId, Shell, World, at_secs, secs};

/// Replicas as a share of the node's addresses.
const REPLICAS: f64 = 0.66;
/// As a share of the pods that the node accepts, where that is less.
const CROWD: f64 = 0.6;
/// `maxSurge` (rounded up) and `maxUnavailable` (rounded down).
const QUARTER: f64 = 0.25;
/// From its address until a pod is ready, in seconds.
const READY_S: f64 = 3.0;
/// From its deletion until a pod is gone, in seconds.
const GRACE_S: f64 = 2.0;
/// Updates, one after the other.
const UPDATES: u32 = 3;
/// Between the end of one and the next, in seconds.
const PAUSE_S: f64 = 5.0;

/// In every configuration.
pub(crate) fn rows(seed: u64) -> Vec<Row> {
    Config::ALL.map(|config| row(config, seed)).into_iter().collect()
}

/// So many replicas that old, new and cooling addresses are more than the node
/// has: with prefixes its ENIs are capped.
pub fn row(config: Config, seed: u64) -> Row {
    let limits = limits_of("m5.large");
    let config = if config.prefixes { config.capped(1) } else { config };
    let mut scene = Scene::new("rolling update", config, limits.clone(), seed);
    scene.end = at_secs(3600.0);
    let replicas = (REPLICAS * f64::from(config.capacity(&limits)))
        .min(CROWD * f64::from(config.max_pods(&limits))) as usize;
    scene.row(|world: &mut World| {
        let mut deployment = Deployment::new(replicas);
        for _ in 0..replicas {
            deployment.old.insert(world.shell().add_pod(NODE, at_secs(60.0), None));
        }
        world.shell().look_at(at_secs(600.0));
        world.drive(Box::new(deployment));
    })
}

/// The controller: as many new pods as the surge allows, as many old ones gone
/// as may be unavailable.
struct Deployment {
    replicas: usize,
    surge: usize,
    unavailable: usize,
    old: BTreeSet<PodId>,
    new: BTreeSet<PodId>,
    ready: BTreeSet<PodId>,
    /// Pods that have their address, by when they are ready.
    starting: Vec<(ipam_core::Now, PodId)>,
    updates_left: u32,
    is_updating: bool,
}

impl Deployment {
    fn new(replicas: usize) -> Self {
        let quarter = QUARTER * replicas as f64;
        Self {
            replicas,
            surge: quarter.ceil() as usize,
            unavailable: quarter.floor() as usize,
            old: BTreeSet::new(),
            new: BTreeSet::new(),
            ready: BTreeSet::new(),
            starting: Vec::new(),
            updates_left: UPDATES,
            is_updating: false,
        }
    }

    fn reconcile(&mut self, shell: &mut Shell) {
        let now = shell.now();
        let (ready, starting) = self.starting.drain(..).partition(|(at, _)| *at <= now);
        self.starting = starting;
        self.ready.extend(ready.into_iter().map(|(_, pod): (_, PodId)| pod));
        if !self.is_updating {
            return;
        }
        while self.new.len() < self.replicas && self.old.len() + self.new.len() < self.replicas + self.surge {
            self.new.insert(shell.add_pod(NODE, now, None));
        }
        let is_ready = |pod: &PodId| self.ready.contains(pod);
        let mut available = self.old.iter().chain(&self.new).filter(|pod| is_ready(pod)).count();
        // Old pods that are not ready go first and cost nothing.
        let mut order: Vec<PodId> = self.old.iter().copied().collect();
        order.sort_by_key(|pod| self.ready.contains(pod));
        for pod in order {
            if self.ready.contains(&pod) {
                if available + self.unavailable <= self.replicas {
                    break;
                }
                available -= 1;
            }
            self.old.remove(&pod);
            self.ready.remove(&pod);
            shell.end_pod(pod, now + secs(GRACE_S));
        }
        if self.old.is_empty() && self.new.iter().all(|pod| self.ready.contains(pod)) {
            self.old = std::mem::take(&mut self.new);
            self.is_updating = false;
            shell.look_at(now + secs(PAUSE_S));
        }
    }
}

impl Driver for Deployment {
    fn hear(&mut self, news: News, shell: &mut Shell, _: &mut [Box<dyn Agent>], _: &mut Vec<NodeId>) {
        match news {
            News::Placed(pod) => {
                let ready_at = shell.now() + secs(READY_S);
                self.starting.push((ready_at, pod));
                shell.look_at(ready_at);
            }
            News::Look => {
                let settled = self.starting.iter().all(|(at, _)| *at <= shell.now());
                if !self.is_updating && self.updates_left > 0 && settled && shell.now() >= at_secs(600.0) {
                    self.is_updating = true;
                    self.updates_left -= 1;
                }
                self.reconcile(shell);
            }
            News::Arrived(_) | News::Ended(_) | News::Ready(_) => {}
        }
    }
}
