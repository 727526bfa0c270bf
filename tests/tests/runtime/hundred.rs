//! Many pods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use system_tests::containerd::pods::{Cluster, Pod, name_at, side_by_side};
use system_tests::containerd::traces::Traces;
use system_tests::house::{items, text};
use system_tests::world::PORT;
use system_tests::world::questions::in_netns;

use super::confined;

/// How many pods there are on each node.
const PODS: [usize; 2] = [100, 12];
/// A port of the first node, which leads to its first pod.
const HOST_PORT: u16 = 18080;

/// A hundred pods of one node, and some of another, eight at a time: each reaches each, and nothing is left.
pub(crate) fn all() -> Result<()> {
    let cluster = Cluster::start("m5.4xlarge", &["loopback", "portmap"], &[])?;
    confined::check(&cluster)?;
    let before = Traces::before(&cluster)?;
    let wanted = wanted();
    let uids = cluster.create_objects(&wanted)?;

    let started = Instant::now();
    let pods = side_by_side(8, &wanted, |(name, node)| {
        let ports = if name == "pod-0-0" { &[(PORT, HOST_PORT)][..] } else { &[] };
        cluster.run_pod(name, &uids[name], *node, ports)
    })
    .with_context(|| cluster.complaints())?;
    println!("{} pods run after {:?}", pods.len(), started.elapsed());
    for (node, count) in PODS.into_iter().enumerate() {
        let during = Traces::of(&cluster, node)?;
        for (what, there) in during.counts() {
            ensure!(there == count, "{there} {what} for {count} pods: {during:#?}");
        }
        let told = pods.iter().filter(|pod| pod.node == node).map(|pod| pod.address.clone()).collect();
        ensure!(during.addresses() == told, "the runtime has others: {told:?} {during:#?}");
    }

    let started = Instant::now();
    let wrong = cluster.ask_all(&pods)?;
    ensure!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), pods.len() * (pods.len() - 1));
    println!("each has reached each after {:?}", started.elapsed());
    exec_reaches(&cluster, &pods)?;
    host_port_leads_to_the_pod(&cluster)?;

    let started = Instant::now();
    side_by_side(8, &pods, |pod| cluster.end_pod(pod)).with_context(|| cluster.complaints())?;
    println!("they have ended after {:?}", started.elapsed());
    Traces::wait_for(&cluster, &before)
}

/// The names of the pods, with their nodes.
pub(crate) fn wanted() -> Vec<(String, usize)> {
    PODS.iter()
        .enumerate()
        .flat_map(|(node, count)| (0..*count).map(move |number| (format!("pod-{node}-{number}"), node)))
        .collect()
}

/// A process of a pod's container reaches a pod of its own node and one of the other.
fn exec_reaches(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let from = pods.first().context("no pods")?;
    for to in pods.iter().filter(|to| to.name == "pod-0-1" || to.name == "pod-1-0") {
        let script = format!("printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {} {PORT}", to.address);
        let cri = &cluster.nodes[from.node].runtime.cri;
        let (code, said, complaint) = cri.exec(&from.container, &["/bin/sh", "-c", &script])?;
        ensure!(code == 0 && said.trim_end().ends_with(&to.name), "{code}: {said} {complaint}");
    }
    Ok(())
}

/// The other node reaches a port of the first one, and a port that nobody mapped is closed.
fn host_port_leads_to_the_pod(cluster: &Cluster) -> Result<()> {
    let address = address_of(cluster, "node-1")?;
    let netns = PathBuf::from(text(&cluster.world.node("node-2")?["netns"]));
    let ask = |port| in_netns(&netns, move || Ok(name_at(SocketAddr::new(address, port))));
    let said = ask(HOST_PORT)?.context("the host port")?;
    ensure!(said == "pod-0-0", "{said}");
    ensure!(ask(HOST_PORT + 1)?.is_err(), "a port that nobody mapped is open");
    Ok(())
}

/// A node's own address.
fn address_of(cluster: &Cluster, node: &str) -> Result<std::net::IpAddr> {
    let object = cluster.world.kubernetes(&format!("/api/v1/nodes/{node}"))?;
    let found = items(&object["status"]["addresses"]).find(|one| one["type"] == "InternalIP");
    Ok(text(&found.with_context(|| object.to_string())?["address"]).parse()?)
}
