//! ADDs that end half-way: the client gives up, or the plugin is killed, at each step.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use system_tests::containerd::pods::{Cluster, Pod};
use system_tests::containerd::proxy::Hold;
use system_tests::containerd::traces::Traces;
use system_tests::house::text;
use tokio::sync::oneshot;

use super::list::{HOLDER, List};

/// How far the ADD has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// No address is free: it waits for one.
    Waits,
    /// The agent has leased an address, and the plugin does not know.
    Leased,
    /// The pair of links is there, and the agent does not know.
    Wired,
    /// Routes and filters are there, and the plugin does not know.
    Attached,
    /// Our plugin has ended well, and the next one of the list is at work.
    Chained,
}

const STEPS: [Step; 5] = [Step::Waits, Step::Leased, Step::Wired, Step::Attached, Step::Chained];

/// What ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client's deadline.
    Deadline,
    /// The client's connection.
    Client,
    /// SIGKILL for the plugin.
    Plugin,
}

/// The pool grows only when it must, by one address, and gives none a second time.
const SETTINGS: [(&str, &str); 3] =
    [("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "2"), ("IP_COOLDOWN_PERIOD", "600")];
/// The longest that a runtime waits for a sandbox, where the deadline ends it: it must come as far as the step.
const DEADLINE: Duration = Duration::from_secs(5);

/// At each step the ADD ends, nothing is left of it, and the same pod runs at the next attempt.
pub(crate) fn at_every_step() -> Result<()> {
    let cluster = Cluster::start("m5.4xlarge", &["loopback", "portmap"], &SETTINGS)?;
    let before = Traces::before(&cluster)?;
    let list = List::new(&cluster)?;
    for step in STEPS {
        for end in [End::Deadline, End::Client, End::Plugin] {
            // The deadline is the client's way to go away by itself: once is enough of waiting for it.
            if end == End::Deadline && step != Step::Waits {
                continue;
            }
            half_way(&cluster, &before, &list, step, end)
                .with_context(|| format!("{step:?}, ended by {end:?}\n{}", cluster.complaints()))?;
        }
    }
    Ok(())
}

fn half_way(cluster: &Cluster, before: &[Traces], list: &List, step: Step, end: End) -> Result<()> {
    let name = format!("{step:?}-{end:?}").to_lowercase();
    let uid = cluster.create_objects(&[(name.clone(), 0)])?.remove(&name).context("no such pod")?;
    list.put(cluster, step == Step::Chained)?;
    let fillers = if step == Step::Waits { fill(cluster)? } else { Vec::new() };
    match step {
        Step::Waits | Step::Chained => {}
        Step::Leased => list.proxy.hold(Hold::Answer("lease")),
        Step::Wired => list.proxy.hold(Hold::Question("attach")),
        Step::Attached => list.proxy.hold(Hold::Answer("attach")),
    }
    let runtime = &cluster.nodes[0].runtime;
    let config = cluster.sandbox_config(&name, &uid, 0, &[]);
    let (go, gone) = oneshot::channel();
    let outcome = std::thread::scope(|scope| -> Result<Result<String>> {
        let add = scope.spawn(|| match end {
            End::Deadline => runtime.cri.run_sandbox_within(&config, DEADLINE),
            End::Client => runtime.cri.run_sandbox_until(&config, gone),
            End::Plugin => runtime.cri.run_sandbox(&config),
        });
        match step {
            Step::Waits => cluster.world.wait("an ADD waits for an address", || {
                let pool = cluster.world.debug("node-1", "pool").ok()?;
                (pool["addresses"]["waiting"] == 1).then_some(())
            })?,
            Step::Chained => cluster.world.wait("the next plugin is at work", || {
                (runtime.processes(HOLDER).ok()?.len() == 1).then_some(())
            })?,
            _ => list.proxy.wait_until_held()?,
        }
        match end {
            End::Deadline => {}
            End::Client => drop(go.send(())),
            End::Plugin => {
                let program = if step == Step::Chained { HOLDER } else { "tidepool-cni" };
                let plugins = runtime.processes(program)?;
                ensure!(plugins.len() == 1, "{plugins:?} are {program}");
                kill(plugins[0], Signal::SIGKILL)?;
            }
        }
        add.join().map_err(|_| anyhow::anyhow!("a thread panicked"))
    })?;
    ensure!(outcome.is_err(), "the sandbox was made: {outcome:?}");
    let error = format!("{:#}", outcome.err().context("no error")?);
    let expected = match end {
        // The runtime kills the plugin when the client's time is over, and may still say so in time.
        End::Deadline => "took too long|deadline|signal: killed",
        End::Client => "the client went away",
        End::Plugin => "signal: killed",
    };
    ensure!(expected.split('|').any(|word| error.contains(word)), "{error}");

    list.proxy.release();
    if step == Step::Waits {
        let url = format!("{}/breakpoint?node=node-1", text(&cluster.world.up["control"]));
        ensure!(cluster.world.http.delete(&url).call()?.status().is_success(), "the breakpoint stays");
    }
    fillers.iter().try_for_each(|pod| cluster.end_pod(pod))?;
    list.remove(cluster)?;
    // The object stays, so that the kubelet tries again.
    Traces::wait_for_all_but_objects(cluster, before)?;

    let mut again = config.clone();
    if let Some(metadata) = &mut again.metadata {
        metadata.attempt += 1;
    }
    let pod = cluster.run_config(&name, again, 0)?;
    let other = cluster.create_objects(&[("other".to_owned(), 1)])?.remove("other").context("no such pod")?;
    let other = cluster.run_pod("other", &other, 1, &[])?;
    let wrong = cluster.ask_all(&[pod.clone(), other.clone()])?;
    ensure!(wrong.is_empty(), "{wrong:?}");
    cluster.end_pod(&pod)?;
    cluster.end_pod(&other)?;
    Traces::wait_for(cluster, before)
}

/// Pods that take what is free, while EC2 keeps the pool waiting for more.
fn fill(cluster: &Cluster) -> Result<Vec<Pod>> {
    let hold = r#"{"node": "node-1", "at": "before", "operation": "AssignPrivateIpAddresses"}"#;
    cluster.world.control("/breakpoint", Some(hold))?;
    let mut pods = Vec::new();
    loop {
        let pool = cluster.world.debug("node-1", "pool")?;
        if pool["addresses"]["free"] == 0 {
            return Ok(pods);
        }
        let name = format!("filler-{}", pods.len());
        let uid = cluster.create_objects(&[(name.clone(), 0)])?.remove(&name).context("no such pod")?;
        pods.push(cluster.run_pod(&name, &uid, 0, &[])?);
    }
}
