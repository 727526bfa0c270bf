//! Many pods at once on an empty node.

use super::config::{Config, limits_of};
use super::row::{NODE, Row, Scene};
use crate::engine::{World, at_secs};

/// Instance type and pods.
const BURSTS: [(&str, u32); 4] =
    [("m5.large", 20), ("m5.xlarge", 50), ("m5.4xlarge", 110), ("m5.4xlarge", 200)];

/// Each burst in secondary and prefix mode, with the default targets and with
/// those for scarce addresses.
pub(crate) fn rows(seed: u64) -> Vec<Row> {
    let configs = [Config::DEFAULT, Config::FIVE_TEN, Config::PREFIX, Config::PREFIX_FIVE_TEN];
    BURSTS
        .iter()
        .flat_map(|(instance, pods)| configs.map(|config| row(instance, *pods, config, seed)))
        .collect()
}

/// One of them. The node has been up for a minute; half an hour later all is
/// as it will stay.
pub fn row(instance: &str, pods: u32, config: Config, seed: u64) -> Row {
    let mut scene = Scene::new(format!("burst {instance} {pods}"), config, limits_of(instance), seed);
    scene.end = at_secs(3600.0);
    scene.row(|world: &mut World| {
        for _ in 0..pods {
            world.shell().add_pod(NODE, at_secs(60.0), None);
        }
    })
}
