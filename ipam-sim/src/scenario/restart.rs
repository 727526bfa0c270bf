//! The agent is killed and starts again, with its pods running.

use super::config::{Config, limits_of};
use super::row::{NODE, Row, Scene};
use crate::engine::{PodId, World, at_secs};

/// Pods that run when it happens.
const PODS: u32 = 30;
/// Pods that end shortly before, and that come shortly after, where they do.
const EXCHANGED: u32 = 10;

/// In every configuration: a restart on a quiet node, and one amid cooldowns.
pub(crate) fn rows(seed: u64) -> Vec<Row> {
    let quiet = Config::ALL.map(|config| quiet(config, seed));
    let cooling = Config::ALL.map(|config| while_cooling(config, seed));
    quiet.into_iter().chain(cooling).collect()
}

/// A restart on a node where nothing else happens. Calls are counted from it.
pub fn quiet(config: Config, seed: u64) -> Row {
    let scene = scene("restart", config, seed);
    scene.row(|world| {
        settle(world);
        world.count_from_now();
        let now = world.shell().now();
        world.shell().restart(NODE, now);
    })
}

/// Some pods end five seconds before the restart, others come right after it.
pub fn while_cooling(config: Config, seed: u64) -> Row {
    let scene = scene("restart while cooling", config, seed);
    scene.row(|world| {
        settle(world);
        world.count_from_now();
        let shell = world.shell();
        let now = shell.now();
        (0..EXCHANGED).for_each(|pod| shell.end_pod(PodId(pod as usize), now + crate::engine::secs(1.0)));
        shell.restart(NODE, now + crate::engine::secs(6.0));
        for _ in 0..EXCHANGED {
            shell.add_pod(NODE, now + crate::engine::secs(8.0), None);
        }
    })
}

fn scene(name: &str, config: Config, seed: u64) -> Scene {
    let mut scene = Scene::new(name, config, limits_of("m5.xlarge"), seed);
    scene.end = at_secs(2400.0);
    scene
}

fn settle(world: &mut World) {
    for _ in 0..PODS {
        world.shell().add_pod(NODE, at_secs(60.0), None);
    }
    world.run_until(at_secs(1200.0));
}
