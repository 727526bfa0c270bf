//! The agent killed while pods come and go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use system_tests::containerd::pods::{Cluster, side_by_side};
use system_tests::containerd::traces::Traces;

use super::hundred;

/// How often the agent of the first node is killed while pods come, and while they go.
const KILLS: [u32; 2] = [6, 4];

/// A hundred pods come and go, eight at a time, while the agent is killed ten times at random moments. The runtime
/// notices nothing: every call of it succeeds.
pub(crate) fn ten_times() -> Result<()> {
    let seed = std::env::var("TIDEPOOL_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("TIDEPOOL_TEST_SEED={seed}");
    let cluster = Cluster::start("m5.4xlarge", &["loopback", "portmap"], &[])?;
    let outcome = come_and_go(&cluster, &mut ChaCha8Rng::seed_from_u64(seed));
    outcome.with_context(|| format!("TIDEPOOL_TEST_SEED={seed}"))
}

fn come_and_go(cluster: &Cluster, random: &mut ChaCha8Rng) -> Result<()> {
    let before = Traces::before(cluster)?;
    let wanted = hundred::wanted();
    let uids = cluster.create_objects(&wanted)?;
    let pods = meanwhile(cluster, KILLS[0], random, || {
        side_by_side(8, &wanted, |(name, node)| cluster.run_pod(name, &uids[name], *node, &[]))
    })?;
    cluster.world.wait_until_ready("node-1")?;
    let wrong = cluster.ask_all(&pods)?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    meanwhile(cluster, KILLS[1], random, || side_by_side(8, &pods, |pod| cluster.end_pod(pod)))?;
    cluster.world.wait_until_ready("node-1")?;
    Traces::wait_for(cluster, &before)
}

/// Does `work`, and kills the agent of the first node so often meanwhile, at random moments of its life. More pods come
/// and go there until the last kill, so that each of them meets some.
fn meanwhile<T: Send>(
    cluster: &Cluster,
    kills: u32,
    random: &mut ChaCha8Rng,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let node = &cluster.nodes[0];
    let ended = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let work = scope.spawn(|| -> Result<(T, u32)> {
            let result = work()?;
            let mut more = 0;
            while !ended.load(Ordering::SeqCst) {
                let name = format!("more-{kills}-{more}");
                let uid =
                    cluster.create_objects(&[(name.clone(), 0)])?.remove(&name).context("no such pod")?;
                let pod = cluster.run_pod(&name, &uid, 0, &[])?;
                cluster.end_pod(&pod)?;
                more += 1;
            }
            Ok((result, more))
        });
        let mut killed = || -> Result<()> {
            for number in 0..kills {
                // An agent starts in half a second: some of them die before they serve.
                std::thread::sleep(Duration::from_millis(random.random_range(0..2000)));
                ensure!(!work.is_finished(), "the pods ended before kill {number} of {kills}");
                node.agent.crash(&node.runtime)?;
            }
            Ok(())
        };
        let killed = killed();
        ended.store(true, Ordering::SeqCst);
        let worked = work.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        // Why the pods ended says more than that they did.
        worked.and_then(|worked| killed.map(|()| worked))
    });
    let (result, more) = result.with_context(|| cluster.complaints())?;
    println!("{kills} kills, and {more} pods beside those that were to come or go");
    Ok(result)
}
