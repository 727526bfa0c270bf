//! CI-like churn: pods come at a steady pace, work for a while and go.

use super::config::{Config, limits_of};
use super::row::{NODE, Row, Scene};
use crate::engine::{World, at_secs, secs};

/// The shortest and the longest life of a pod, in seconds.
const LIFE_S: (f64, f64) = (40.0, 120.0);
/// How long pods keep coming, in seconds.
const COMING_S: f64 = 1200.0;
/// How long a released address rests, in seconds.
const COOLDOWN_S: f64 = 30.0;
/// How much of the node's addresses is leased or cools down at any time.
const LOAD: f64 = 0.93;
/// How many of the pods that the node accepts run at any time.
const CROWD: f64 = 0.85;

/// In every configuration: on a node that it fills, and on one with room.
pub(crate) fn rows(seed: u64) -> Vec<Row> {
    let tight = Config::ALL.map(|config| row(config, seed));
    let roomy = Config::ALL.map(|config| with_room(config, seed));
    tight.into_iter().chain(roomy).collect()
}

/// So many pods that those running and the addresses that cool down fill the
/// node: with prefixes its ENIs are capped, or it would have far more addresses
/// than pods.
pub fn row(config: Config, seed: u64) -> Row {
    let limits = limits_of("m5.large");
    let config = if config.prefixes { config.capped(1) } else { config };
    let (capacity, max_pods) = (f64::from(config.capacity(&limits)), f64::from(config.max_pods(&limits)));
    let life = (LIFE_S.0 + LIFE_S.1) / 2.0;
    let per_second = (LOAD * capacity / (life + COOLDOWN_S)).min(CROWD * max_pods / life);
    churn("churn", "m5.large", config, per_second, seed)
}

/// About twenty pods at any time where 56 could run.
pub(crate) fn with_room(config: Config, seed: u64) -> Row {
    churn("churn with room", "m5.xlarge", config, 0.25, seed)
}

fn churn(name: &str, instance: &str, config: Config, per_second: f64, seed: u64) -> Row {
    let mut scene = Scene::new(name, config, limits_of(instance), seed);
    scene.end = at_secs(60.0 + COMING_S + 600.0);
    let pods = (per_second * COMING_S) as u64;
    scene.row(|world: &mut World| {
        for pod in 0..pods {
            let at = at_secs(60.0 + pod as f64 / per_second);
            let shell = world.shell();
            let lived = LIFE_S.0 + (LIFE_S.1 - LIFE_S.0) * shell.draw(&[super::FOR_LIFETIMES, pod]);
            shell.add_pod(NODE, at, Some(secs(lived)));
        }
    })
}
