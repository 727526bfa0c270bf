//! What is on the node, in texts that can be compared, and what of it is aws-node's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{AwsNode, node_agent};
use crate::world::World;

/// The node's state, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As `ip -details rule` prints them, duplicates too.
    pub rules: Vec<String>,
    /// Unicast routes of IPv4 in all tables but the local one.
    pub routes: BTreeSet<String>,
    /// Those of the node itself.
    pub neighbours: BTreeSet<String>,
    /// What iptables of both kinds and nft list.
    pub firewall: BTreeMap<String, String>,
    /// Filters of links `eni*`: `link hook filter`.
    pub filters: BTreeSet<String>,
    /// Below aws-eks-nodeagent's folder.
    pub pins: BTreeSet<String>,
    /// Files in /etc/cni/net.d.
    pub conflists: BTreeMap<String, String>,
}

impl AwsNode {
    /// What is on the node now.
    pub fn facts(&self, world: &World) -> Result<Facts> {
        let ask = |script: &str| world.inside(&self.node, &["sh", "-c", script]);
        let lines = |script: &str| -> Result<Vec<String>> { Ok(ask(script)?.lines().map(plain).collect()) };
        let mut firewall = BTreeMap::new();
        for (name, script) in [
            ("iptables-nft", "iptables-nft-save 2>/dev/null | grep -v '^#' | sed 's/ *\\[[0-9:]*\\]$//'"),
            (
                "iptables-legacy",
                "iptables-legacy-save 2>/dev/null | grep -v '^#' | sed 's/ *\\[[0-9:]*\\]$//'",
            ),
            ("nft", "nft --stateless list ruleset"),
        ] {
            firewall.insert(name.to_owned(), ask(script)?);
        }
        let mut conflists = BTreeMap::new();
        for name in ask("ls /etc/cni/net.d")?.lines() {
            conflists.insert(
                name.to_owned(),
                world.inside(&self.node, &["cat", &format!("/etc/cni/net.d/{name}")])?,
            );
        }
        let filters = "for link in $(ip -o link | sed -n 's/^[0-9]*: \\(eni[^@:]*\\).*/\\1/p'); do for hook in ingress egress; do \
            tc filter show dev $link $hook 2>/dev/null | grep ' handle ' | sed \"s/^/$link $hook /\"; done; done";
        Ok(Facts {
            rules: lines("ip -details rule")?,
            routes: lines("ip -4 -details route show table all | grep -v 'table local'")?
                .into_iter()
                .collect(),
            neighbours: lines("ip -4 neigh show nud permanent")?.into_iter().collect(),
            firewall,
            filters: lines(filters)?.into_iter().collect(),
            pins: lines(&format!("find {} -type f 2>/dev/null || true", node_agent::PINS))?
                .into_iter()
                .collect(),
            conflists,
        })
    }

    /// What of aws-node's the node still has that a take-over must have replaced or removed, in words; pods' addresses,
    /// links and tables stay. Empty where all is done.
    pub fn leftovers(&self, world: &World) -> Result<Vec<String>> {
        let facts = self.facts(world)?;
        let mut left = Vec::new();
        let theirs = |line: &&String| line.contains("proto unspec") || line.contains("proto boot");
        left.extend(facts.rules.iter().filter(theirs).map(|rule| format!("rule {rule}")));
        left.extend(facts.routes.iter().filter(theirs).map(|route| format!("route {route}")));
        for (tool, rules) in &facts.firewall {
            let lines = rules.lines().filter(|line| {
                ["AWS-SNAT-CHAIN", "AWS-CONNMARK-CHAIN", "\"AWS, ", "table ip aws-cni"]
                    .iter()
                    .any(|sign| line.contains(sign))
            });
            left.extend(lines.map(|line| format!("{tool}: {}", line.trim())));
        }
        left.extend(
            facts
                .filters
                .iter()
                .filter(|filter| filter.contains("handle_ingress") || filter.contains("handle_egress"))
                .map(|filter| format!("filter {filter}")),
        );
        left.extend(facts.pins.iter().map(|pin| format!("pin {pin}")));
        left.extend(
            facts
                .conflists
                .iter()
                .filter(|(name, list)| is_read(name) && list.contains("\"type\": \"aws-cni\""))
                .map(|(name, _)| format!("/etc/cni/net.d/{name}")),
        );
        Ok(left)
    }
}

/// Whether runtimes read a file of that name.
pub(super) fn is_read(name: &str) -> bool {
    [".conflist", ".conf", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// A line without indentation and doubled blanks.
fn plain(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
