//! All that pods could leave on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use kernel_test::bpf_map::entries_in_use;
use serde_json::Value;

use super::pods::Cluster;
use crate::house::{items, text};
use crate::world::PORT;

/// Where the agent pins its maps.
const PINS: &str = "/sys/fs/bpf/tidepool";
/// How many reports a slot may still make: of the slot and not of its pod, and renewed by the time that passes.
const UNCLEARED: &str = "/budget";

/// What there is that belongs to no node, but to pods. Two of a node are equal where no pod was left in between,
/// however often the agent or the runtime was started anew and whatever ENIs came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// But for the loopback's and those of ENIs.
    links: BTreeSet<String>,
    /// To and from pods: with the priorities 512 and 1536.
    rules: BTreeSet<String>,
    /// Over links of pods.
    routes: BTreeSet<String>,
    neighbours: BTreeSet<String>,
    /// Lines of nftables, other people's tables too, that count nothing.
    nftables: BTreeSet<String>,
    /// What is pinned.
    pins: BTreeSet<String>,
    /// Of containers that are not the agent's.
    cgroups: BTreeSet<String>,
    /// Mounted network namespaces, and roots of containers that are not the agent's.
    mounts: BTreeSet<String>,
    /// What libcni and plugins keep of attachments.
    cni_files: BTreeSet<String>,
    /// The runtime's, but for the agent's.
    sandboxes: BTreeSet<String>,
    shims: usize,
    plugins: usize,
    /// The agent's view, and that of its file.
    endpoints: Vec<Value>,
    leased: Value,
    leases_on_disk: usize,
    /// Pods of the cluster that the agent knows.
    known: Value,
    /// What the agent believes to be in the maps.
    policy: Value,
    /// What is in them, by their names.
    entries: BTreeMap<String, usize>,
}

impl Traces {
    /// Those of a node that are there now.
    pub fn of(cluster: &Cluster, node: usize) -> Result<Self> {
        let runtime = &cluster.nodes[node].runtime;
        let agent = &cluster.nodes[node].agent;
        let (name, world) = (runtime.node.as_str(), &cluster.world);
        let lines = |words: &[&str], wanted: &dyn Fn(&str) -> bool| -> Result<BTreeSet<String>> {
            let shown = world.inside(name, words)?;
            Ok(shown.lines().map(str::trim).filter(|line| wanted(line)).map(str::to_owned).collect())
        };
        let of_pods = |line: &str| line.contains(" dev eni") || line.contains(" dev tp");
        let is_pods_rule = |line: &str| line.starts_with("512:") || line.starts_with("1536:");
        let links = world.inside(name, &["ip", "-oneline", "link"])?;
        let links = links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned);
        let is_agents = |path: &str| agent.ids().iter().any(|id| path.contains(id.as_str()));
        let policy = world.debug(name, "policy")?;
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", runtime.init()?))?;
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let leases: Value = serde_json::from_str(&world.inside(name, &["cat", "/run/tidepool/pool.json"])?)?;
        Ok(Self {
            links: links.filter(|link| link != "lo" && !link.starts_with("eth")).collect(),
            rules: lines(&["ip", "rule"], &is_pods_rule)?,
            routes: lines(&["ip", "-4", "route", "show", "table", "all"], &of_pods)?,
            neighbours: lines(&["ip", "neighbour"], &of_pods)?,
            nftables: lines(&["nft", "--stateless", "list", "ruleset"], &|_| true)?,
            pins: lines(&["find", "/sys/fs/bpf"], &|_| true)?,
            cgroups: runtime
                .cgroups()
                .iter()
                .map(|path| path.display().to_string())
                .filter(|path| !is_agents(path))
                .collect(),
            mounts: mounts
                .filter(|at| at.contains("netns/") || (at.contains("io.containerd") && !is_agents(at)))
                .map(str::to_owned)
                .collect(),
            cni_files: lines(&["find", "/var/lib/cni", "/run/netns"], &|_| true)?,
            sandboxes: runtime
                .cri
                .sandboxes()?
                .into_iter()
                .map(|sandbox| sandbox.id)
                .filter(|id| !is_agents(id))
                .collect(),
            shims: runtime.processes("containerd-shim")?.len(),
            plugins: runtime.processes("tidepool-cni")?.len(),
            endpoints: items(&world.debug(name, "endpoints")?).cloned().collect(),
            leased: world.debug(name, "pool")?["addresses"]["leased"].clone(),
            leases_on_disk: leases["pool"]["leases"].as_array().map_or(0, Vec::len),
            known: world.debug(name, "kubernetes")?["pods"].clone(),
            policy: serde_json::json!([policy["pods"], policy["entries"]]),
            entries: entries_in_use(&runtime.path(PINS)?)?
                .into_iter()
                .filter(|(map, _)| !map.ends_with(UNCLEARED))
                .collect(),
        })
    }

    /// Those of every node after one pod with a host port was run and ended on each: portmap's own chains, which hold
    /// a rule for each pod, and libcni's directory are made once and stay.
    pub fn before(cluster: &Cluster) -> Result<Vec<Self>> {
        let empty = Self::of_all(cluster)?;
        for node in 0..cluster.nodes.len() {
            let name = format!("first-{node}");
            let uids = cluster.create_objects(&[(name.clone(), node)])?;
            let pod = cluster.run_pod(&name, &uids[&name], node, &[(PORT, 18079)])?;
            cluster.end_pod(&pod)?;
        }
        // The agent hears last that the object is gone.
        cluster.world.wait("the first pods are gone", || {
            let now = Self::of_all(cluster).ok()?;
            let forgotten = |(now, empty): (&Self, &Self)| {
                now.counts() == empty.counts()
                    && now.known == empty.known
                    && now.policy == empty.policy
                    && now.entries == empty.entries
            };
            now.iter().zip(&empty).all(forgotten).then_some(now)
        })
    }

    /// Those of every node.
    pub fn of_all(cluster: &Cluster) -> Result<Vec<Self>> {
        (0..cluster.nodes.len()).map(|node| Self::of(cluster, node)).collect()
    }

    /// Waits until every node has these again.
    pub fn wait_for(cluster: &Cluster, before: &[Self]) -> Result<()> {
        Self::wait_until(cluster, before, |now| now == before)
    }

    /// Waits until nothing is left but objects of pods.
    pub fn wait_for_all_but_objects(cluster: &Cluster, before: &[Self]) -> Result<()> {
        // What the agent knows of objects shows in the maps too.
        let blind = |one: &Self| Self {
            known: Value::Null,
            policy: Value::Null,
            entries: BTreeMap::new(),
            ..one.clone()
        };
        let same = |(now, before): (&Self, &Self)| blind(now) == blind(before);
        Self::wait_until(cluster, before, |now| now.iter().zip(before).all(same))
    }

    fn wait_until(cluster: &Cluster, before: &[Self], is_it: impl Fn(&[Self]) -> bool) -> Result<()> {
        let mut last = Ok(Vec::new());
        let same = cluster.world.wait("nothing is left", || {
            last = Self::of_all(cluster);
            last.as_ref().is_ok_and(|now| is_it(now)).then_some(())
        });
        same.with_context(|| match &last {
            Ok(now) => format!("{}\n{}", difference(before, now), cluster.complaints()),
            Err(error) => format!("{error:#}\n{}", cluster.complaints()),
        })
    }

    /// How many pods the node has by every account that knows of it.
    pub fn counts(&self) -> [(&'static str, usize); 7] {
        [
            ("links", self.links.len()),
            ("routes", self.routes.len()),
            ("endpoints", self.endpoints.len()),
            ("leased", self.leased.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)),
            ("leases on disk", self.leases_on_disk),
            // Each has a shadow.
            ("slots in the maps", self.in_use("/ep") / 2),
            ("links in the maps", self.in_use("/ifslot")),
        ]
    }

    fn in_use(&self, map: &str) -> usize {
        self.entries.iter().filter(|(name, _)| name.ends_with(map)).map(|(_, count)| count).sum()
    }

    /// The addresses of its pods, by the agent.
    pub fn addresses(&self) -> BTreeSet<String> {
        self.endpoints.iter().map(|one| text(&one["address"]).to_owned()).collect()
    }
}

/// The lines that only one of two has.
fn difference(before: &[Traces], now: &[Traces]) -> String {
    let lines = |traces: &[Traces]| -> BTreeSet<String> {
        traces
            .iter()
            .enumerate()
            .flat_map(|(node, one)| {
                format!("{one:#?}").lines().map(|line| format!("{node} {line}")).collect::<Vec<_>>()
            })
            .collect()
    };
    let (before, now) = (lines(before), lines(now));
    let gone = before.difference(&now).map(|line| format!("- {line}\n"));
    gone.chain(now.difference(&before).map(|line| format!("+ {line}\n"))).collect()
}
