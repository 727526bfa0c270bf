//! aws-node's next start on a node that it had before.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::facts::is_read;
use super::{AwsNode, CHECKPOINT, Entry, Socket, cloud, host};
use crate::house::{items, text};
use crate::world::World;

impl AwsNode {
    /// What would keep it from going on with this node as its own, in words: it reads its checkpoint once at its
    /// start, trusts it where the pod's link and the address in EC2 are there, and repairs nothing of its pods but
    /// their rules' table. Empty where it goes on as if it had never been away.
    pub fn would_resume(&self, world: &World) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let facts = self.facts(world)?;
        match facts.conflists.keys().find(|name| is_read(name)) {
            Some(name) if name == "10-aws.conflist" => {}
            other => faults.push(format!("the runtime reads {other:?}")),
        }
        faults.extend(self.traces_of_ours(world)?);

        let entries = self.entries(world)?;
        let enis = cloud::enis(world, &self.node)?;
        let links = world.inside(&self.node, &["ip", "-o", "link"])?;
        let mut seen = BTreeSet::new();
        let mut known = BTreeMap::new();
        for entry in &entries {
            let (address, whose) =
                (entry.ipv4, format!("{}/{}", entry.metadata.k8s_pod_namespace, entry.metadata.k8s_pod_name));
            if !seen.insert(address) {
                faults.push(format!("{address} is in the checkpoint twice: it ends at once"));
            }
            known.insert(whose.clone(), address.to_string());
            if entry.network_name != "aws-cni" || entry.if_name != "eth0" || entry.container_id.len() != 64 {
                faults.push(format!("{whose}: no runtime has the key of {entry:?}"));
            }
            let link =
                self.link_of(world, &entry.metadata.k8s_pod_namespace, &entry.metadata.k8s_pod_name)?;
            if !links.contains(&format!(": {link}@")) {
                faults.push(format!("{whose}: without {link} it forgets the pod"));
            }
            let Some(eni) = enis.iter().find(|eni| eni.secondary.contains(&address)) else {
                faults.push(format!("{whose}: {address} is on no interface"));
                continue;
            };
            let times = |rule: &str| facts.rules.iter().filter(|found| found.starts_with(rule)).count();
            // Its DEL deletes one rule to the pod, and all of its table from it.
            let to = times(&format!("512: from all to {address} lookup main "));
            if to != 1 {
                faults.push(format!("{whose}: {to} rules to {address}"));
            }
            let (from, right) = (
                times(&format!("1536: from {address} ")),
                times(&format!("1536: from {address} lookup {} ", eni.table())),
            );
            if (from, right) != if eni.device == 0 { (0, 0) } else { (1, 1) } {
                faults.push(format!(
                    "{whose}: {from} rules from {address}, {right} of them to {}",
                    eni.table()
                ));
            }
            if !facts
                .routes
                .iter()
                .any(|route| route.starts_with(&format!("unicast {address} dev {link} table main")))
            {
                faults.push(format!("{whose}: no route to {address}"));
            }
        }
        for pod in
            world.pods()?.iter().filter(|pod| pod["node"] == self.node.as_str() && pod["ready"] == true)
        {
            let whose = format!("{}/{}", text(&pod["namespace"]), text(&pod["name"]));
            if known.get(&whose).map(String::as_str) != Some(text(&pod["ip"])) {
                faults.push(format!("{whose} has {}, the checkpoint {:?}", pod["ip"], known.get(&whose)));
            }
        }
        Ok(faults)
    }

    /// Of our agent, whose filters would decide without it, and whose translation would stay.
    fn traces_of_ours(&self, world: &World) -> Result<Vec<String>> {
        let facts = self.facts(world)?;
        let mut traces: Vec<String> = facts.filters.iter().map(|filter| format!("filter {filter}")).collect();
        if facts.firewall.get("nft").is_some_and(|rules| rules.contains("tidepool")) {
            traces.push("the table tidepool".into());
        }
        let pins = world
            .inside(&self.node, &["sh", "-c", "find /sys/fs/bpf -mindepth 1 -name '*tidepool*' | head -1"])?;
        if !pins.is_empty() {
            traces.push(format!("pins: {pins}"));
        }
        Ok(traces)
    }

    /// [`AwsNode::start_again`] on a node on which it goes on.
    pub fn resume(&mut self, world: &World) -> Result<()> {
        let faults = self.would_resume(world)?;
        ensure!(faults.is_empty(), "aws-node does not go on: {faults:#?}");
        self.start_again(world)
    }

    /// Starts it again: what it does to the node at its start, and its plugin knows the pods of the checkpoint.
    pub fn start_again(&mut self, world: &World) -> Result<()> {
        let enis = cloud::enis(world, &self.node)?;
        let mut allocations = String::new();
        for entry in self.entries(world)? {
            let eni = enis.iter().find(|eni| eni.secondary.contains(&entry.ipv4));
            let table = eni.map_or(254, cloud::Eni::table);
            allocations.push_str(&format!(
                "{} {} {} {table} {} {} {}\n",
                entry.container_id,
                entry.if_name,
                entry.ipv4,
                entry.metadata.k8s_pod_namespace,
                entry.metadata.k8s_pod_name,
                entry.allocation_timestamp,
            ));
        }
        host::write(world, &self.node, &format!("{}/allocations", host::STATE), &allocations)?;
        host::set_up(world, &self.node, &self.options, &enis)?;
        host::install_plugins(world, &self.node, &enis)?;
        self.come_alive(world, Socket::Unix)?;
        host::write_conflist(world, &self.node)
    }

    fn entries(&self, world: &World) -> Result<Vec<Entry>> {
        let checkpoint = self.checkpoint(world)?;
        ensure!(checkpoint["allocations"].is_array(), "{CHECKPOINT}: {checkpoint:#}");
        items(&checkpoint["allocations"]).map(|entry| Ok(serde_json::from_value(entry.clone())?)).collect()
    }
}
