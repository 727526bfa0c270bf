//! Pods whose rates the runtime limits: the distribution's bandwidth plugin after ours, on the same link.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::containerd::pods::{Cluster, Pod};
use system_tests::containerd::traces::Traces;
use system_tests::world::PORT;
use system_tests::world::manifests::only;
use system_tests::world::questions::in_netns;

/// Bits per second, as a pod is annotated, and as tc shows it.
const RATES: [(&str, &str); 2] =
    [("kubernetes.io/ingress-bandwidth", "20M"), ("kubernetes.io/egress-bandwidth", "30M")];
const SHOWN: [&str; 2] = ["rate 20Mbit", "rate 30Mbit"];

/// Both rates are in force, and so is the policy in both directions, also after the agent was killed; and nothing of it
/// stays.
pub(crate) fn both_ways() -> Result<()> {
    let cluster = Cluster::start("m5.4xlarge", &["loopback", "portmap", "bandwidth"], &[])?;
    let before = Traces::before(&cluster)?;
    checks(&cluster).with_context(|| cluster.complaints())?;
    Traces::wait_for(&cluster, &before)
}

fn checks(cluster: &Cluster) -> Result<()> {
    // `db` hears `web` only, and is heard by nobody else: it may answer, and begin nothing.
    let policies = [only("db", "db", "web"), silent("db")].concat();
    cluster.world.apply(&policies)?;
    let pods = [run(cluster, "db", 0)?, run(cluster, "web", 0)?, run(cluster, "other", 1)?];
    in_force(cluster, &pods)?;
    let node = &cluster.nodes[0];
    node.agent.crash(&node.runtime)?;
    cluster.world.wait_until_ready("node-1")?;
    in_force(cluster, &pods)?;
    pods.iter().try_for_each(|pod| cluster.end_pod(pod))?;
    cluster.world.delete(&policies)
}

fn run(cluster: &Cluster, name: &str, node: usize) -> Result<Pod> {
    let uid = cluster.create_objects(&[(name.to_owned(), node)])?.remove(name).context("no such pod")?;
    let mut config = cluster.sandbox_config(name, &uid, node, &[]);
    config.annotations = RATES.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    cluster.run_config(name, config, node)
}

/// A policy by which pods begin no connection.
fn silent(app: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: silent-{app}, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: {app}}}}}
  policyTypes: [Egress]
"
    )
}

fn in_force(cluster: &Cluster, pods: &[Pod; 3]) -> Result<()> {
    let [db, web, other] = pods;
    for (node, count) in [("node-1", 2), ("node-2", 1)] {
        let qdiscs = cluster.world.inside(node, &["tc", "qdisc"])?;
        let shaped =
            |rate: &str| qdiscs.lines().filter(|line| line.contains("tbf") && line.contains(rate)).count();
        ensure!(SHOWN.iter().all(|rate| shaped(rate) == count), "{node}: {qdiscs}");
    }
    for (from, to, allowed) in
        [(web, db, true), (other, db, false), (db, web, false), (other, web, true), (web, other, true)]
    {
        // Longer than it takes on a busy machine, or as long as it takes to see that nothing comes.
        let patience = Duration::from_millis(if allowed { 10_000 } else { 400 });
        let target = SocketAddr::new(to.address.parse()?, PORT);
        let outcome =
            in_netns(&cluster.netns(from)?, move || Ok(TcpStream::connect_timeout(&target, patience)))?;
        let is_right = match &outcome {
            Ok(_) => allowed,
            Err(error) => !allowed && error.kind() == std::io::ErrorKind::TimedOut,
        };
        ensure!(is_right, "{} to {}: {outcome:?}", from.name, to.name);
    }
    Ok(())
}
