//! What a cloud does to a node: full and fragmented subnets, throttling, lag.

use ipam_core::Refusal;

use super::config::{Config, limits_of};
use super::row::{NODE, Row, Scene};
use crate::engine::{Spread, World, at_secs};

/// A subnet that runs full under a burst, and gets room again.
pub(crate) fn full_subnet(seed: u64) -> Vec<Row> {
    [Config::DEFAULT, Config::FIVE_TEN, Config::PREFIX]
        .map(|config| {
            let mut scene = Scene::new("full subnet", config, limits_of("m5.xlarge"), seed);
            scene.end = at_secs(2400.0);
            scene.caused = |reason| matches!(reason, Refusal::SubnetFull { .. } | Refusal::Fragmented { .. });
            scene.addresses = 256;
            scene.row(|world: &mut World| {
                world.shell().script(at_secs(50.0), |shell| {
                    if let Some(subnet) = shell.cloud.subnet_mut() {
                        subnet.crowd(15);
                    }
                });
                world.shell().script(at_secs(660.0), |shell| {
                    if let Some(subnet) = shell.cloud.subnet_mut() {
                        subnet.vacate(100);
                    }
                });
                burst(world, 50, 60.0);
            })
        })
        .into_iter()
        .collect()
}

/// A subnet with a neighbour in every /28, in prefix mode.
pub(crate) fn fragmented_subnet(seed: u64) -> Vec<Row> {
    [Config::PREFIX, Config::PREFIX_FIVE_TEN]
        .map(|config| {
            let mut scene = Scene::new("fragmented subnet", config, limits_of("m5.xlarge"), seed);
            scene.end = at_secs(2400.0);
            scene.row(|world: &mut World| {
                world.shell().script(at_secs(0.0), |shell| {
                    if let Some(subnet) = shell.cloud.subnet_mut() {
                        subnet.fragment();
                    }
                });
                burst(world, 50, 60.0);
            })
        })
        .into_iter()
        .collect()
}

/// Others use the account up for an hour, from before a burst on.
pub(crate) fn throttling(seed: u64) -> Vec<Row> {
    [Config::DEFAULT, Config::FIVE_TEN, Config::PREFIX]
        .map(|config| {
            let mut scene = Scene::new("hour of throttling", config, limits_of("m5.xlarge"), seed);
            scene.end = at_secs(2.0 * 3600.0);
            scene.caused = |reason| matches!(reason, Refusal::Throttled { .. } | Refusal::Queued { .. });
            scene.account.close(at_secs(50.0), at_secs(3650.0));
            scene.row(|world: &mut World| burst(world, 40, 60.0))
        })
        .into_iter()
        .collect()
}

/// The metadata service lists a new ENI a minute late.
pub(crate) fn lagging_imds(seed: u64) -> Vec<Row> {
    [Config::DEFAULT, Config::FIVE_TEN, Config::PREFIX]
        .map(|config| {
            let mut scene = Scene::new("IMDS lags 60 s", config, limits_of("m5.xlarge"), seed);
            scene.end = at_secs(2400.0);
            scene.latencies.imds = Spread::Fixed(60.0);
            scene.row(|world: &mut World| burst(world, 50, 60.0))
        })
        .into_iter()
        .collect()
}

fn burst(world: &mut World, pods: u32, at_s: f64) {
    for _ in 0..pods {
        world.shell().add_pod(NODE, at_secs(at_s), None);
    }
}
