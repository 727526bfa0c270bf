//! What a demo has to tell, and its form as one JSON document.

use std::collections::BTreeMap;

use serde::Serialize;

use super::control::{Calls, Eni, Pod};
use super::matrix::{Cell, Matrix, Target};
use super::simulation::Up;
use super::verdicts::Denials;

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) up: Up,
    /// Rows and columns of the matrix, in the order of the file.
    pub(crate) sources: Vec<String>,
    pub(crate) targets: Vec<Target>,
    pub(crate) expected: Matrix,
    pub(crate) pods: Vec<Pod>,
    pub(crate) before: Matrix,
    pub(crate) after: Matrix,
    pub(crate) denials: Denials,
    pub(crate) enis: Vec<Eni>,
    pub(crate) calls: Calls,
    /// Milliseconds of each ADD.
    pub(crate) add_ms: Vec<f64>,
}

impl Story {
    /// Whether all was allowed before, and the table was met afterwards.
    pub(crate) fn as_expected(&self) -> bool {
        self.before.len() == self.expected.len()
            && self.before.values().all(|allowed| *allowed)
            && self.after == self.expected
    }

    /// The ENIs attached to a node, by device index.
    pub(crate) fn enis_of(&self, node: &str) -> Vec<&Eni> {
        let mut enis: Vec<&Eni> = self
            .enis
            .iter()
            .filter(|eni| eni.node.as_deref() == Some(node) && eni.device_index.is_some())
            .collect();
        enis.sort_by_key(|eni| eni.device_index);
        enis
    }

    /// Calls of the nodes by operation; what others asked is not theirs.
    pub(crate) fn ec2_calls(&self) -> BTreeMap<&str, u64> {
        let mut sum = BTreeMap::new();
        for node in &self.up.nodes {
            for (operation, count) in self.calls.get(&node.name).into_iter().flatten() {
                *sum.entry(operation.as_str()).or_default() += count;
            }
        }
        sum
    }

    /// A percentile of the ADDs' durations, in milliseconds, by nearest rank.
    pub(crate) fn add_percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.add_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    ok: bool,
    nodes: Vec<NodeView<'a>>,
    pods: Vec<PodView<'a>>,
    matrix: MatrixView<'a>,
    ec2_calls: BTreeMap<&'a str, u64>,
    add_ms: Percentiles,
}

#[derive(Debug, Serialize)]
struct NodeView<'a> {
    name: &'a str,
    instance_type: &'a str,
    /// As a CIDR block.
    subnet: &'a str,
    enis: Vec<EniView<'a>>,
}

#[derive(Debug, Serialize)]
struct EniView<'a> {
    id: &'a str,
    device_index: Option<u32>,
    addresses: &'a [String],
    prefixes: &'a [String],
}

#[derive(Debug, Serialize)]
struct PodView<'a> {
    namespace: &'a str,
    name: &'a str,
    ip: Option<std::net::IpAddr>,
    node: Option<&'a str>,
    eni: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct MatrixView<'a> {
    before: Vec<CellView<'a>>,
    after: Vec<CellView<'a>>,
    expected: Vec<CellView<'a>>,
}

#[derive(Debug, Serialize)]
struct CellView<'a> {
    #[serde(flatten)]
    cell: &'a Cell,
    allowed: bool,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

/// The document of a story.
pub(crate) fn of(story: &Story) -> Document<'_> {
    Document {
        ok: story.as_expected(),
        nodes: story
            .up
            .nodes
            .iter()
            .map(|node| NodeView {
                name: &node.name,
                instance_type: &node.instance_type,
                subnet: story.up.subnet_of(node).unwrap_or(&node.subnet_id),
                enis: story
                    .enis_of(&node.name)
                    .into_iter()
                    .map(|eni| EniView {
                        id: &eni.id,
                        device_index: eni.device_index,
                        addresses: &eni.addresses,
                        prefixes: &eni.prefixes,
                    })
                    .collect(),
            })
            .collect(),
        pods: story
            .pods
            .iter()
            .map(|pod| PodView {
                namespace: &pod.namespace,
                name: &pod.name,
                ip: pod.ip,
                node: pod.node.as_deref(),
                eni: pod.eni.as_deref(),
            })
            .collect(),
        matrix: MatrixView {
            before: cells(&story.before),
            after: cells(&story.after),
            expected: cells(&story.expected),
        },
        ec2_calls: story.ec2_calls(),
        add_ms: Percentiles { p50: story.add_percentile(50), p99: story.add_percentile(99) },
    }
}

fn cells(matrix: &Matrix) -> Vec<CellView<'_>> {
    matrix.iter().map(|(cell, allowed)| CellView { cell, allowed: *allowed }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(add_ms: Vec<f64>) -> Story {
        let up = r#"{"ec2":"http://e","control":"http://c","kubeconfig":"/k",
            "vpc":{"id":"vpc-1","cidr":"10.20.0.0/16"},"subnets":[{"id":"subnet-1","cidr":"10.20.0.0/20","az":"a"}],
            "security_group":"sg-1","nodes":[{"name":"n1","instance_id":"i-1","instance_type":"m5.large",
            "subnet_id":"subnet-1","imds":"http://i","ec2":"http://127.0.0.1","kubeconfig":"/n",
            "netns":"/proc/1/ns/net","mntns":"/proc/1/ns/mnt"}]}"#;
        let target = Target { to: "a/y".into(), protocol: "TCP".into(), port: 80 };
        let cell = Cell { from: "a/x".into(), target };
        Story {
            up: serde_json::from_str(up).expect("a document as vpc-sim prints it"),
            sources: Vec::new(),
            targets: Vec::new(),
            expected: [(cell.clone(), false)].into(),
            pods: Vec::new(),
            before: [(cell.clone(), true)].into(),
            after: [(cell, false)].into(),
            denials: Denials::new(),
            enis: serde_json::from_str(
                r#"[{"id":"eni-2","node":"n1","device_index":1,"addresses":["10.20.0.9"]},
                    {"id":"eni-1","node":"n1","device_index":0,"addresses":["10.20.0.4"]},
                    {"id":"eni-3","node":null,"device_index":null}]"#,
            )
            .expect("ENIs as the control endpoint shows them"),
            calls: serde_json::from_str(r#"{"n1":{"DescribeSubnets":2},"":{"DescribeSubnets":40}}"#)
                .expect("calls as the control endpoint shows them"),
            add_ms,
        }
    }

    #[test]
    fn the_document_has_the_promised_fields() {
        let story = story(vec![3.0, 1.0, 2.0]);
        let value = serde_json::to_value(of(&story)).expect("a document is JSON");
        let expected = serde_json::json!({
            "ok": true,
            "nodes": [{"name": "n1", "instance_type": "m5.large", "subnet": "10.20.0.0/20", "enis": [
                {"id": "eni-1", "device_index": 0, "addresses": ["10.20.0.4"], "prefixes": []},
                {"id": "eni-2", "device_index": 1, "addresses": ["10.20.0.9"], "prefixes": []}]}],
            "pods": [],
            "matrix": {
                "before": [{"from": "a/x", "to": "a/y", "protocol": "TCP", "port": 80, "allowed": true}],
                "after": [{"from": "a/x", "to": "a/y", "protocol": "TCP", "port": 80, "allowed": false}],
                "expected": [{"from": "a/x", "to": "a/y", "protocol": "TCP", "port": 80, "allowed": false}]},
            "ec2_calls": {"DescribeSubnets": 2},
            "add_ms": {"p50": 2.0, "p99": 3.0},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        assert_eq!(story(Vec::new()).add_percentile(50), 0.0);
        assert_eq!(story(vec![7.0]).add_percentile(99), 7.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(story(hundred.clone()).add_percentile(50), 50.0);
        assert_eq!(story(hundred).add_percentile(99), 99.0);
    }

    #[test]
    fn a_denied_cell_before_the_policies_is_a_failure() {
        let mut story = story(Vec::new());
        assert!(story.as_expected());
        story.before.values_mut().for_each(|allowed| *allowed = false);
        assert!(!story.as_expected());
    }
}
