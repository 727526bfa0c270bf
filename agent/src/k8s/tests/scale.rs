//! A table of many pods: what one change costs, and what a pod costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_core::model::Cluster;

use super::*;
use crate::k8s::object::{Container, Meta, PodIp, PodLite, PodSpec, PodStatus, Port};
use crate::k8s::table::{Table, Update};
use crate::k8s::watch::Change;

const NAMESPACES: usize = 1000;

fn pod(number: usize) -> PodLite {
    let workload = number / 50;
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let labels = BTreeMap::from([
        pair("app", format!("app-{workload}")),
        pair("pod-template-hash", format!("{:010x}", workload * 7919)),
        pair("team", format!("team-{}", workload % 40)),
        pair("version", format!("v{}", workload % 5)),
    ]);
    let [_, a, b, c] = u32::try_from(number).expect("few pods").to_be_bytes();
    PodLite {
        metadata: Meta {
            name: format!("app-{workload}-{:010x}-{number:05x}", workload * 7919),
            namespace: format!("ns-{}", workload % NAMESPACES),
            uid: format!("{number:036}"),
            labels,
            ..Meta::default()
        },
        spec: PodSpec {
            node_name: format!("ip-10-0-{}-{}.ec2.internal", number / 30 / 256, number / 30 % 256),
            containers: vec![Container {
                ports: vec![Port { name: Some("http".into()), container_port: 8080, ..Port::default() }],
                ..Container::default()
            }],
            ..PodSpec::default()
        },
        status: PodStatus {
            phase: "Running".into(),
            pod_ips: vec![PodIp { ip: format!("10.{a}.{b}.{c}") }],
            ..PodStatus::default()
        },
    }
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("with its memory");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

fn listed(pods: usize) -> Table {
    let mut table = Table::new(NODE, Vec::new(), fleet());
    table.apply(Update::Pods(Change::Begins));
    for number in 0..pods {
        table.apply(Update::Pods(Change::Listed(pod(number))));
    }
    table.apply(Update::Pods(Change::Complete));
    table
}

/// Namespaces that two snapshots do not share.
fn different(one: &Cluster, other: &Cluster) -> usize {
    let pairs = one.namespaces.iter().zip(&other.namespaces);
    pairs.filter(|((_, one), (_, other))| !Arc::ptr_eq(one, other)).count()
}

/// `TIDEPOOL_TABLE_PODS=150000 cargo test … k8s::tests::scale -- --nocapture` measures.
#[test]
fn a_change_of_one_pod_copies_nothing_of_other_namespaces() {
    let pods = std::env::var("TIDEPOOL_TABLE_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(5000);
    let before = resident_kib();
    let mut table = listed(pods);
    let bytes = resident_kib().saturating_sub(before) * 1024 / pods;
    let first = table.cluster();
    let mut changed = pod(7);
    changed.metadata.labels.insert("version".into(), "next".into());
    let began = std::time::Instant::now();
    assert!(table.apply(Update::Pods(Change::Applied(changed))));
    let second = table.cluster();
    let took = began.elapsed();
    println!("{pods} pods: {bytes} bytes each (resident), {took:?} for one change");
    assert_eq!(different(&first, &second), 1);
    let shared = |cluster: &Cluster| cluster.namespaces["ns-0"].pods.values().next_back().map(Arc::as_ptr);
    assert_eq!(shared(&first), shared(&second), "its neighbours are shared too");
}
