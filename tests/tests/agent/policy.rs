//! Policy as connections meet it: before the first packet, and when it changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use system_tests::house::{items, text};

use super::restart::echoes;
use system_tests::world::manifests::{only, pod};
use system_tests::world::{STILL_POOL, World};

/// A second for the change, which takes a tenth of it on an idle machine, and another for the look.
const PROMPT: Duration = Duration::from_secs(2);

pub(crate) fn first_packet() -> Result<()> {
    let world = Arc::new(World::start(STILL_POOL)?);
    let clients = [pod("web", "node-1", "web"), pod("other", "node-1", "other"), only("db", "db", "web")];
    world.apply(&clients.concat())?;
    world.wait_for_pods(&["web", "other"])?;
    let pool = world.settled_pool("node-2")?;

    // Every address that a pod of the other node may get is tried without a pause from before there is one.
    // A refusal is an answer too: the pod's, which has no server yet.
    let addresses: Vec<String> = items(&pool["enis"])
        .flat_map(|eni| items(&eni["addresses"]))
        .map(|address| text(address).to_owned())
        .collect();
    ensure!(addresses.len() >= 9, "{pool:#}");
    let over = Arc::new(AtomicBool::new(false));
    let hammer = {
        let (world, over) = (Arc::clone(&world), Arc::clone(&over));
        std::thread::spawn(move || -> Result<u32> {
            let pairs: Vec<(&str, &str)> =
                addresses.iter().map(|address| ("other", address.as_str())).collect();
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                for ((allowed, detail), (_, to)) in world.probe(50, &pairs)?.into_iter().zip(&pairs) {
                    ensure!(
                        !allowed && detail != "refused" && detail != "reset",
                        "other reached {to}: {detail}"
                    );
                }
                rounds += 1;
            }
            Ok(rounds)
        })
    };
    let names = ["db-0", "db-1", "db-2", "db-3", "db-4", "db-5"];
    let outcome = (|| {
        for name in names {
            world.apply(&pod(name, "node-2", "db"))?;
            // The very first connection of one that is allowed.
            world.wait_for_pods(&[name])?;
            world.must_reach("web", name)?;
        }
        // One that comes as a client is denied from its first connection on.
        world.apply(&pod("stranger", "node-1", "other"))?;
        world.wait_for_pods(&["stranger"])?;
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| ("stranger", *name)).collect();
        for (allowed, detail) in world.probe(300, &pairs)? {
            ensure!(!allowed, "a stranger got through: {detail}");
        }
        // And one that is allowed at once: the other node has heard of it before it runs.
        world.apply(&pod("web-2", "node-1", "web"))?;
        world.wait_for_pods(&["web-2"])?;
        let start = Instant::now();
        world.wait_for_verdict("web-2", "db-0", true)?;
        ensure!(start.elapsed() < PROMPT, "web-2 was let in after {:?}", start.elapsed());
        Ok(())
    })();
    over.store(true, Ordering::Relaxed);
    let rounds = hammer.join().map_err(|_| anyhow::anyhow!("the thread that tries panicked"))?;
    // What it found came first.
    ensure!(rounds? > 5, "the addresses were hardly tried");
    outcome
}

pub(crate) fn changes() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    let pods = [pod("web", "node-1", "web"), pod("near", "node-2", "web"), pod("db", "node-2", "db")];
    world.apply(&pods.concat())?;
    world.wait_for_pods(&["web", "near", "db"])?;
    let policy = only("db", "db", "web");
    world.apply(&policy)?;
    world.must_reach("web", "db")?;
    // One flow from the other node, one from the same.
    let mut flows = [world.connect("web", "db")?, world.connect("near", "db")?];
    for flow in &mut flows {
        echoes(flow, Duration::from_secs(5))?;
    }

    // A label of the clients changes: both live flows die, and new ones are denied.
    world.apply(&[pod("web", "node-1", "other"), pod("near", "node-2", "other")].concat())?;
    let start = Instant::now();
    for flow in &mut flows {
        // Each try waits shorter than the kernel takes to send a lost byte again.
        world.wait("a revoked flow dies", || echoes(flow, Duration::from_millis(150)).err())?;
    }
    ensure!(start.elapsed() < PROMPT, "flows died after {:?}", start.elapsed());
    for (allowed, detail) in world.probe(400, &[("web", "db"), ("near", "db")])? {
        ensure!(!allowed, "{detail}");
    }

    // Back, then the policy's own peer changes, then the policy goes.
    follows(&world, true, || world.apply(&pod("web", "node-1", "web")))?;
    follows(&world, false, || world.apply(&only("db", "db", "nobody")))?;
    follows(&world, true, || world.delete(&policy))?;
    // The label of the selected pod decides too.
    follows(&world, false, || {
        world
            .apply(&only("db", "closed", "nobody"))
            .and_then(|()| world.apply(&pod("db", "node-2", "closed")))
    })?;
    follows(&world, true, || world.apply(&pod("db", "node-2", "open")))
}

/// Changes something, and measures until `web` to `db` is as it should be.
fn follows(world: &World, allowed: bool, change: impl FnOnce() -> Result<()>) -> Result<()> {
    change()?;
    let start = Instant::now();
    world.wait_for_verdict("web", "db", allowed)?;
    ensure!(start.elapsed() < PROMPT, "allowed: {allowed} only after {:?}", start.elapsed());
    Ok(())
}
