//! What must hold of a node at rest, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use system_tests::house::{items, strings, text};

use super::node::Target;

const OWNER: &str = "node.k8s.amazonaws.com/instance_id";

/// What the pool and EC2 say at one moment.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading {
    pool: Value,
    /// ENIs of the instance, and loose ones of its making.
    at_ec2: Vec<Value>,
    /// Calls that changed anything, so far.
    changes: u64,
}

impl Reading {
    pub(crate) fn take(target: &Target<'_>) -> Result<Self> {
        let calls = target.world.calls(&target.name)?;
        let changes = calls.iter().filter(|(name, _)| !name.starts_with("Describe")).map(|(_, count)| count);
        let changes = changes.sum();
        let pool = target.world.debug(&target.name, "pool")?;
        let instance = text(&target.world.node(&target.name)?["instance_id"]).to_owned();
        let enis = target.world.control("/enis", None)?;
        let ours = |eni: &&Value| {
            eni["instance_id"] == instance.as_str()
                || eni["instance_id"].is_null() && eni["tags"][OWNER] == instance.as_str()
        };
        let at_ec2 = items(&enis).filter(ours).cloned().collect();
        Ok(Self { pool, at_ec2, changes })
    }

    /// Whether nothing is left to do, nothing left over, and the pool knows all that EC2 has.
    pub(crate) fn judge(&self, warm: u64) -> Result<()> {
        let counts = &self.pool["addresses"];
        for none in ["pending", "waiting", "cooling"] {
            ensure!(counts[none] == 0, "{none} addresses: {counts}");
        }
        ensure!(counts["free"] == warm, "{warm} addresses should be free: {counts}");
        ensure!(
            items(&self.pool["contradicted"]).count() == 0,
            "contradicted: {}",
            self.pool["contradicted"]
        );
        let known: BTreeMap<&str, &Value> =
            items(&self.pool["enis"]).map(|eni| (text(&eni["id"]), eni)).collect();
        for eni in &self.at_ec2 {
            let id = text(&eni["id"]);
            ensure!(eni["status"] == "in-use", "{id} is {}: {eni}", eni["status"]);
            ensure!(eni["delete_on_termination"] == true, "{id} would outlive its instance: {eni}");
            let known = known.get(id).with_context(|| format!("the pool does not know {eni}"))?;
            ensure!(known["phase"] == "Attached", "EC2 has {id} attached, to the pool it is {known}");
            ensure!(known["primary"] == true || known["linked"] == true, "{id} has no link: {known}");
            ensure!(known["foreign"].is_null(), "{id} is not ours to the pool: {known}");
            let mut at_ec2: BTreeSet<&str> = strings(&eni["addresses"]).collect();
            at_ec2.remove(text(&known["primary_address"]));
            let in_pool: BTreeSet<&str> = strings(&known["addresses"]).collect();
            ensure!(known["primary"] == true || !in_pool.is_empty(), "{id} is attached and empty: {known}");
            ensure!(at_ec2 == in_pool, "{id}: EC2 has {at_ec2:?}, the pool {in_pool:?}");
            ensure!(items(&eni["prefixes"]).count() == 0, "{id} has prefixes: {eni}");
        }
        ensure!(known.len() == self.at_ec2.len(), "EC2 has {:#?}\nthe pool {:#}", self.at_ec2, self.pool);
        Ok(())
    }
}

/// Checks that these pods have the leases, one address each, and each address is at EC2 on an ENI of the node.
pub(crate) fn leases(target: &Target<'_>, pods: &[(String, String)]) -> Result<()> {
    let endpoints = target.world.debug(&target.name, "endpoints")?;
    let leases: Vec<(&str, &str)> = items(&endpoints)
        .map(|one| (text(&one["pod"]).trim_start_matches("default/"), text(&one["address"])))
        .collect();
    let distinct: BTreeSet<&str> = leases.iter().map(|(_, address)| *address).collect();
    ensure!(distinct.len() == leases.len(), "an address is leased twice: {leases:?}");
    let mut wanted: Vec<(&str, &str)> = pods.iter().map(|(pod, ip)| (pod.as_str(), ip.as_str())).collect();
    let mut held = leases.clone();
    wanted.sort_unstable();
    held.sort_unstable();
    ensure!(wanted == held, "running pods are {wanted:?}, leases {held:?}");
    let reading = Reading::take(target)?;
    for (pod, address) in leases {
        let has = |eni: &&Value| strings(&eni["addresses"]).any(|held| held == address);
        let Some(eni) = reading.at_ec2.iter().find(has) else {
            bail!("EC2 has the address {address} of {pod} on no ENI of {}", target.name);
        };
        ensure!(eni["node"] == target.name.as_str(), "{address} of {pod} is on a loose ENI: {eni}");
    }
    Ok(())
}

/// Checks that no two running pods of the whole cluster have an address in common, and that nobody sent from an
/// address of somebody else's.
pub(crate) fn cluster(target: &Target<'_>) -> Result<()> {
    let pods = target.world.pods()?;
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod["ready"] == true) {
        let (name, address) = (text(&pod["name"]), text(&pod["ip"]));
        if let Some(other) = seen.insert(address, name) {
            bail!("{name} and {other} both have {address}");
        }
    }
    let fabric = target.world.control("/fabric", None)?;
    ensure!(fabric["wrong_source_drops"] == 0, "{} wrong sources", fabric["wrong_source_drops"]);
    ensure!(items(&fabric["problems"]).count() == 0, "{fabric:#}");
    Ok(())
}

/// Checks that every change that was begun is noted as ended.
pub(crate) fn journal(target: &Target<'_>) -> Result<()> {
    let text = target.world.inside(&target.name, &["cat", "/var/lib/tidepool/ec2-intents.jsonl"])?;
    let mut open = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("in the journal: {line}"))?;
        let id = line["id"].as_u64();
        if line["line"] == "begin" {
            open.insert(id, line);
        } else if line["line"] == "end" {
            open.remove(&id);
        }
    }
    ensure!(open.is_empty(), "changes that never ended: {open:?}");
    Ok(())
}
