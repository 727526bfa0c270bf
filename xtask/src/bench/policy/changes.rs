//! The changes, one after the other, and how long each took.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{self, APPS, LOCAL_NAMESPACES, Size, TEAMS};
use crate::bench::api::{Api, running};
use crate::bench::node::BenchNode;
use crate::demo::interrupt::Interrupt;
use crate::demo::simulation;

/// How long one may take before nothing more is expected.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);
/// Between two changes: not in step with anything.
const REST: Duration = Duration::from_millis(7);

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A pod elsewhere gets a label by which a rule for pods of the node names it.
    PodLabel,
    /// The same in a namespace with thousands of pods.
    CrowdedLabel,
    /// A policy for pods of the node, whose peers no rule has named so far.
    NewPolicy,
    /// A pod elsewhere, in a namespace with pods of the node, gets its address.
    NewPeer,
    /// One of the new policies goes.
    PolicyDeleted,
    /// A namespace's label, by which policies of pods of the node name its pods.
    NamespaceLabel,
    /// A policy whose peers are all pods of all namespaces by a label that all have.
    Everything,
}

impl Change {
    pub(super) const ALL: [Self; 7] = [
        Self::PodLabel,
        Self::CrowdedLabel,
        Self::NewPolicy,
        Self::NewPeer,
        Self::PolicyDeleted,
        Self::NamespaceLabel,
        Self::Everything,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PodLabel => "a pod's label",
            Self::CrowdedLabel => "a pod's label in a crowd",
            Self::NewPolicy => "a new policy",
            Self::NewPeer => "a new peer pod",
            Self::PolicyDeleted => "a policy deleted",
            Self::NamespaceLabel => "a namespace's label",
            Self::Everything => "all pods move",
        }
    }

    /// How many times it is made where the others are made `count` times.
    pub(super) fn times(self, count: u32) -> u32 {
        match self {
            // What it named stays told apart from the rest for a while, so that a second one would move less.
            Self::Everything => 1,
            _ => count,
        }
    }

    /// What must be there before it, and is not measured.
    fn prepare(self, api: &Api, number: u32) -> Result<bool> {
        match self {
            Self::NewPeer => {
                let pod = cluster::pod(here(number), 3, &peer(number), "node-elsewhere", None);
                api.post(&format!("{}/pods", core(here(number))), &pod)?;
                Ok(false)
            }
            Self::CrowdedLabel if number == 0 => {
                let peers = json!({
                    "namespaceSelector": { "matchLabels": { "team": cluster::CROWD } },
                    "podSelector": { "matchLabels": { "role": "caller" } },
                });
                api.post(&policies(here(0)), &policy("crowd", 0, &peers))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn make(self, api: &Api, size: Size, number: u32) -> Result<()> {
        match self {
            Self::PodLabel => {
                // Those of one deployment in turn, of each namespace in turn.
                let place = 1 + APPS * (number / LOCAL_NAMESPACES);
                let pod = format!("{}/pods/app-1-{place}", core(here(number)));
                api.patch(&pod, &json!({ "metadata": { "labels": { "role": "caller" } } }))
            }
            Self::CrowdedLabel => {
                let pod = format!("/api/v1/namespaces/{}/pods/app-1-{number}", cluster::CROWD);
                api.patch(&pod, &json!({ "metadata": { "labels": { "role": "caller" } } }))
            }
            Self::NewPolicy => {
                let peers = json!({
                    "namespaceSelector": { "matchLabels": { "team": cluster::team(number % TEAMS) } },
                    "podSelector": { "matchLabels": { "app": format!("app-{}", number / TEAMS % APPS) } },
                });
                let policy = policy(&format!("new-{number}"), number, &peers);
                api.post(&policies(here(number)), &policy).map(drop)
            }
            Self::NewPeer => {
                let path = format!("{}/pods/{}/status", core(here(number)), peer(number));
                // No other pod has it.
                let address = cluster::address((1 << 19) + number);
                api.patch(&path, &json!({ "status": running(&address) }))
            }
            Self::PolicyDeleted => api.delete(&format!("{}/new-{number}", policies(here(number)))),
            Self::NamespaceLabel => {
                let labels = json!({ "team": cluster::team((number / 2) % TEAMS) });
                // One that pods of the node name by its team, and moves from team to team.
                let path =
                    format!("/api/v1/namespaces/{}", cluster::namespace(size.namespaces() - 1 - number % 2));
                api.patch(&path, &json!({ "metadata": { "labels": labels } }))
            }
            Self::Everything => {
                let exists = json!([{ "key": "app", "operator": "Exists" }]);
                let peers = json!({ "namespaceSelector": {}, "podSelector": { "matchExpressions": exists } });
                let policy = policy(&format!("everybody-{number}"), number, &peers);
                api.post(&policies(here(number)), &policy).map(drop)
            }
        }
    }
}

/// A change that came into force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// From before the request to the API to the last map write.
    pub(super) from_write: Duration,
    /// From the agent's watch to there.
    pub(super) from_arrival: Duration,
    pub(super) compile: Duration,
    pub(super) apply: Duration,
    pub(super) addresses: u64,
    pub(super) entries: u64,
}

/// As the agent's page has it.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Told {
    number: u64,
    arrived_us: u64,
    in_force_us: u64,
    compile_us: u64,
    apply_us: u64,
    addresses: u64,
    entries: u64,
}

/// Makes `change` again and again.
pub(super) fn measure(
    change: Change,
    count: u32,
    size: Size,
    node: &BenchNode,
    interrupt: &Interrupt,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut last = told(node, 0)?.last().map_or(0, |told| told.number);
    for number in 0..change.times(count) {
        interrupt.check()?;
        if change.prepare(node.api(), number)? {
            last = after(node, last, Duration::ZERO, interrupt)?.number;
        }
        std::thread::sleep(REST * (1 + number % 5));
        // What is still on its way belongs to what was before.
        last = told(node, last)?.last().map_or(last, |told| told.number);
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?;
        change.make(node.api(), size, number)?;
        let told = after(node, last, begun, interrupt).with_context(|| change.name())?;
        last = told.number;
        let from_write = Duration::from_micros(told.in_force_us).saturating_sub(begun);
        let from_arrival = Duration::from_micros(told.in_force_us.saturating_sub(told.arrived_us));
        samples.push(Sample {
            from_write,
            // One that came with others counts from the first of these.
            from_arrival: from_arrival.min(from_write),
            compile: Duration::from_micros(told.compile_us),
            apply: Duration::from_micros(told.apply_us),
            addresses: told.addresses,
            entries: told.entries,
        });
    }
    Ok(samples)
}

/// What the agent did first when everything was known: its compilation, and its map writes.
pub(super) fn first(node: &BenchNode) -> Result<Sample> {
    let first = told(node, 0)?.first().copied().context("nothing is in force")?;
    Ok(Sample {
        from_write: Duration::ZERO,
        from_arrival: Duration::from_micros(first.in_force_us.saturating_sub(first.arrived_us)),
        compile: Duration::from_micros(first.compile_us),
        apply: Duration::from_micros(first.apply_us),
        addresses: first.addresses,
        entries: first.entries,
    })
}

/// Waits until a change is in force, and its opposite: what the agent's start leaves to be done is done then.
pub(super) fn settle(node: &BenchNode, interrupt: &Interrupt) -> Result<()> {
    let last = told(node, 0)?.last().map_or(0, |told| told.number);
    let peers = json!({ "podSelector": { "matchLabels": { "app": "app-1" } } });
    node.api().post(&policies(here(0)), &policy("first", 0, &peers))?;
    let last = after(node, last, Duration::ZERO, interrupt)?.number;
    node.api().delete(&format!("{}/first", policies(here(0))))?;
    after(node, last, Duration::ZERO, interrupt).map(drop)
}

/// The next change that the agent puts in force, if what was there at a moment is in it.
fn after(node: &BenchNode, last: u64, since: Duration, interrupt: &Interrupt) -> Result<Told> {
    let begun = Instant::now();
    loop {
        let told = told(node, last)?;
        // What its compilation began after, it took in.
        let began = |told: &Told| told.in_force_us.saturating_sub(told.compile_us + told.apply_us);
        if let Some(told) = told.iter().find(|told| Duration::from_micros(began(told)) >= since) {
            return Ok(*told);
        }
        interrupt.check()?;
        if begun.elapsed() > PATIENCE {
            let log = simulation::tail(&node.agent()?.log);
            bail!("nothing came into force within {PATIENCE:?} after {since:?}, but {told:?}:\n{log}");
        }
        std::thread::sleep(PAUSE);
    }
}

fn told(node: &BenchNode, after: u64) -> Result<Vec<Told>> {
    let mut pages = node.agent()?.get::<Vec<Told>, _>([format!("/debug/changes?after={after}")])?;
    pages.pop().context("no answer")
}

/// A namespace with pods of the node.
fn here(number: u32) -> u32 {
    number % LOCAL_NAMESPACES
}

fn peer(number: u32) -> String {
    format!("peer-{number}")
}

fn core(namespace: u32) -> String {
    format!("/api/v1/namespaces/{}", cluster::namespace(namespace))
}

fn policies(namespace: u32) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", cluster::namespace(namespace))
}

/// One more door to pods of the node.
fn policy(name: &str, number: u32, peers: &Value) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "podSelector": { "matchLabels": { "app": "app-2" } },
            "ingress": [{ "from": [peers], "ports": [{ "protocol": "TCP", "port": 10_000 + number }] }],
        },
    })
}
