//! What a runtime and a kubelet do more than once, or begin anew.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::containerd::message::PodSandbox;
use system_tests::containerd::pods::{Cluster, Pod};
use system_tests::containerd::proxy::Hold;
use system_tests::containerd::traces::Traces;
use system_tests::world::PORT;
use system_tests::world::questions::in_netns;

use super::list::List;

type Part = fn(&Cluster) -> Result<()>;

/// All of these on the same nodes.
pub(crate) fn all() -> Result<()> {
    let cluster = Cluster::start("m5.4xlarge", &["loopback", "portmap"], &[])?;
    let before = Traces::before(&cluster)?;
    let parts: [(&str, Part); 4] = [
        ("the runtime is killed", runtime_killed),
        ("the runtime is killed while it adds a pod", runtime_killed_at_work),
        ("everything is deleted twice", deleted_twice),
        ("a pod of the same name comes early", same_name),
    ];
    for (what, part) in parts {
        part(&cluster).with_context(|| format!("{what}\n{}", cluster.complaints()))?;
        Traces::wait_for(&cluster, &before).with_context(|| what.to_owned())?;
    }
    Ok(())
}

fn object(cluster: &Cluster, name: &str, node: usize) -> Result<String> {
    cluster.create_objects(&[(name.to_owned(), node)])?.remove(name).context("no such pod")
}

fn run(cluster: &Cluster, name: &str, node: usize) -> Result<Pod> {
    cluster.run_pod(name, &object(cluster, name, node)?, node, &[])
}

fn reach(cluster: &Cluster, pods: &[&Pod]) -> Result<()> {
    let pods: Vec<Pod> = pods.iter().map(|pod| (*pod).clone()).collect();
    let wrong = cluster.ask_all(&pods)?;
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

/// containerd is killed while pods run: an open connection lives on, and the next containerd knows them and removes
/// them with their network.
fn runtime_killed(cluster: &Cluster) -> Result<()> {
    let (web, db) = (run(cluster, "web", 0)?, run(cluster, "db", 1)?);
    let mut open = connection(cluster, &web, &db)?;
    let runtime = &cluster.nodes[0].runtime;
    runtime.kill_containerd()?;
    // The request comes over the connection that was there before.
    open.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    open.read_to_string(&mut answer)?;
    ensure!(answer.trim_end().ends_with("db"), "{answer}");

    let known = runtime.cri.sandboxes()?;
    ensure!(known.iter().any(|one| one.id == web.sandbox && one.state == 0), "{known:?}");
    cluster.wait_for_network()?;
    let late = run(cluster, "late", 0)?;
    reach(cluster, &[&web, &db, &late])?;
    [web, db, late].iter().try_for_each(|pod| cluster.end_pod(pod))
}

fn connection(cluster: &Cluster, from: &Pod, to: &Pod) -> Result<TcpStream> {
    let target = SocketAddr::new(to.address.parse()?, PORT);
    in_netns(&cluster.netns(from)?, move || {
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    })
}

/// containerd is killed while a plugin works for it. The next one ends the sandbox that was never finished, so that the
/// plugin, which has outlived its runtime, comes to attach after the DEL of its own sandbox.
fn runtime_killed_at_work(cluster: &Cluster) -> Result<()> {
    let list = List::new(cluster)?;
    list.put(cluster, false)?;
    list.proxy.hold(Hold::Question("attach"));
    let uid = object(cluster, "web", 0)?;
    let config = cluster.sandbox_config("web", &uid, 0, &[]);
    let runtime = &cluster.nodes[0].runtime;
    std::thread::scope(|scope| -> Result<()> {
        let add = scope.spawn(|| runtime.cri.run_sandbox(&config));
        list.proxy.wait_until_held()?;
        runtime.kill_containerd()?;
        let outcome = add.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        ensure!(outcome.is_err(), "the sandbox was made: {outcome:?}");
        Ok(())
    })?;
    list.remove(cluster)?;
    let is_webs = |one: &PodSandbox| one.metadata.as_ref().is_some_and(|metadata| metadata.name == "web");
    let unfinished =
        runtime.cri.sandboxes()?.into_iter().find(is_webs).context("the sandbox is forgotten")?;
    ensure!(unfinished.state != 0, "the sandbox is ready: {unfinished:?}");
    runtime.cri.stop_sandbox(&unfinished.id)?;
    list.proxy.release();
    cluster
        .world
        .wait("the plugin has ended", || runtime.processes("tidepool-cni").ok()?.is_empty().then_some(()))?;
    runtime.cri.remove_sandbox(&unfinished.id)?;

    let mut again = config.clone();
    if let Some(metadata) = &mut again.metadata {
        metadata.attempt += 1;
    }
    let web = cluster.run_config("web", again, 0)?;
    let db = run(cluster, "db", 1)?;
    reach(cluster, &[&web, &db])?;
    [web, db].iter().try_for_each(|pod| cluster.end_pod(pod))
}

/// The runtime sends DEL for each stop, and once more without a namespace for the removal.
fn deleted_twice(cluster: &Cluster) -> Result<()> {
    let (web, db) = (run(cluster, "web", 0)?, run(cluster, "db", 0)?);
    let cri = &cluster.nodes[0].runtime.cri;
    for _ in 0..2 {
        cri.stop_sandbox(&web.sandbox)?;
    }
    reach(cluster, &[&db])?;
    for _ in 0..2 {
        cri.remove_sandbox(&web.sandbox)?;
    }
    cluster.delete_object("web")?;
    cluster.end_pod(&db)
}

/// As of a StatefulSet whose old pod is still being ended: the late DELs do not touch the new one.
fn same_name(cluster: &Cluster) -> Result<()> {
    let other = run(cluster, "other", 1)?;
    let old = run(cluster, "web-0", 0)?;
    reach(cluster, &[&old, &other])?;
    cluster.delete_object("web-0")?;
    let new = run(cluster, "web-0", 0)?;
    ensure!(new.address != old.address, "both have {}", new.address);
    reach(cluster, &[&new, &other])?;
    let cri = &cluster.nodes[0].runtime.cri;
    cri.stop_sandbox(&old.sandbox)?;
    reach(cluster, &[&new, &other])?;
    cri.remove_sandbox(&old.sandbox)?;
    reach(cluster, &[&new, &other])?;
    [new, other].iter().try_for_each(|pod| cluster.end_pod(pod))
}
