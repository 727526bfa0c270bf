//! The agent killed while pods come and go.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

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

/// Does `work`, and kills the agent of the first node so often meanwhile, at random moments of its life.
fn meanwhile<T: Send>(
    cluster: &Cluster,
    kills: u32,
    random: &mut ChaCha8Rng,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let node = &cluster.nodes[0];
    let started = Instant::now();
    let done_before = AtomicU32::new(u32::MAX);
    let killed = AtomicU32::new(0);
    let result = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let result = work();
            done_before.store(killed.load(Ordering::SeqCst), Ordering::SeqCst);
            result
        });
        for _ in 0..kills {
            // An agent starts in half a second: some of them die before they serve.
            std::thread::sleep(Duration::from_millis(random.random_range(0..2000)));
            node.agent.crash(&node.runtime)?;
            killed.fetch_add(1, Ordering::SeqCst);
        }
        work.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    });
    println!(
        "{} of {kills} kills came before all was done, after {:?}",
        done_before.load(Ordering::SeqCst).min(kills),
        started.elapsed()
    );
    result.with_context(|| cluster.complaints())
}
