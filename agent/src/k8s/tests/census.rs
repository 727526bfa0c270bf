//! Who needs EC2, as the watch of pods shows it.

use ipam_core::Lane;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::fake::{FakeApi, Kind, Misdeed, PODS, pod, status};
use super::*;
use crate::k8s::Waiting;

fn bound(name: &str, node: &str) -> Value {
    bound_since(name, node, "")
}

fn bound_since(name: &str, node: &str, time: &str) -> Value {
    let mut pod = pod("shop", name, node, "10.0.0.1");
    pod["status"] = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": time}]});
    pod
}

/// Waits for a reading with some property.
async fn reading(handle: &ClusterHandle, what: &str, holds: impl Fn(&Waiting) -> bool) -> Waiting {
    let mut waiting = handle.waiting();
    let found = timeout(BOUND, waiting.wait_for(|told| told.as_ref().is_some_and(&holds))).await;
    match found {
        Ok(Ok(told)) => told.clone().expect("it was there"),
        _ => panic!("waited for {what}; last: {:#?}", handle.waiting().borrow().clone()),
    }
}

fn ahead(told: &Waiting) -> u32 {
    told.queue.turns[Lane::Assign as usize].ahead
}

fn names(told: &Waiting) -> Vec<&str> {
    told.here.iter().map(|pod| pod.name.as_str()).collect()
}

#[tokio::test]
async fn nodes_that_wait_are_counted_as_pods_come_and_get_addresses() {
    let api = FakeApi::start().await;
    for node in 0..3 {
        api.put(PODS, bound(&format!("early-{node}"), &format!("node-{node}")));
    }
    let (handle, _driver) = synced(&api, pace()).await;
    let told = reading(&handle, "three nodes", |told| ahead(told) == 3).await;
    assert_eq!((told.queue.nodes, names(&told).len()), (3, 0));

    let generation = handle.snapshot().generation;
    api.put(PODS, bound("mine", NODE));
    let told = reading(&handle, "our pod", |told| !told.here.is_empty()).await;
    assert_eq!((names(&told), ahead(&told), told.queue.nodes), (vec!["mine"], 3, 4));
    assert_eq!(told.here[0].uid.as_deref(), Some("uid-mine"));
    // Two pods of a node are one node; it leaves the line with the last.
    api.put(PODS, bound("more", "node-0"));
    api.put(PODS, pod("shop", "early-0", "node-0", "10.0.0.9"));
    api.put(PODS, pod("shop", "early-1", "node-1", "10.0.0.8"));
    let told = reading(&handle, "one to leave", |told| ahead(told) == 2).await;
    assert_eq!(names(&told), ["mine"]);
    api.delete(PODS, "shop", "more");
    reading(&handle, "the next to leave", |told| ahead(told) == 1).await;
    // Those on the host's network and those that are done need nothing.
    let mut host = bound("host", "node-7");
    host["spec"]["hostNetwork"] = json!(true);
    api.put(PODS, host);
    let mut done = bound("early-2", "node-2");
    done["status"]["phase"] = json!("Succeeded");
    api.put(PODS, done);
    reading(&handle, "an empty line before us", |told| ahead(told) == 0).await;
    // Pods of other nodes that only wait are nothing that policy sees.
    let after = handle.snapshot();
    assert!(after.generation - generation <= 4, "{} snapshots", after.generation - generation);
}

#[tokio::test]
async fn pods_that_have_waited_for_ever_are_not_in_line_for_an_agent_that_starts() {
    let api = FakeApi::start().await;
    for node in 0..3 {
        api.put(PODS, bound_since(&format!("stuck-{node}"), &format!("node-{node}"), "2026-01-01T00:00:00Z"));
    }
    api.put(PODS, bound("fresh", "node-2"));
    let (handle, _driver) = synced(&api, pace()).await;
    api.put(PODS, bound("mine", NODE));
    reading(&handle, "one node before us", |told| !told.here.is_empty() && ahead(told) == 0).await;
}

#[tokio::test]
async fn agents_that_boot_stand_in_line_for_their_first_look() {
    let api = FakeApi::start().await;
    let agent = |node: &str, ready: &str| {
        let mut pod = pod("kube-system", &format!("tidepool-{node}"), node, "10.0.0.1");
        pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "tidepool"});
        pod["spec"]["hostNetwork"] = json!(true);
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": ready, "lastTransitionTime": ""}]);
        pod
    };
    for node in ["node-1", "node-2", NODE] {
        api.put(PODS, agent(node, "False"));
    }
    let (handle, _driver) = synced(&api, pace()).await;
    let looks = |told: &Waiting| told.queue.turns[Lane::Describe as usize];
    reading(&handle, "three that boot", |told| looks(told).in_line && told.queue.nodes == 3).await;
    api.put(PODS, agent(NODE, "True"));
    reading(&handle, "us to be ready", |told| !looks(told).in_line && looks(told).ahead == 2).await;
    api.put(PODS, agent("node-1", "True"));
    api.delete(PODS, "kube-system", "tidepool-node-2");
    reading(&handle, "all of them", |told| looks(told).ahead == 0).await;
}

#[tokio::test]
async fn a_list_anew_forgets_nodes_whose_pods_are_gone() {
    let api = FakeApi::start().await;
    api.put(PODS, bound("gone", "node-1"));
    api.put(PODS, bound("stays", "node-2"));
    let (handle, _driver) = synced(&api, pace()).await;
    reading(&handle, "two nodes", |told| ahead(told) == 2).await;
    // The watch is told nothing of the deletion, and then has to list anew.
    api.delete_silently(PODS, "shop", "gone");
    let expired = status(410, "Expired", "too old resource version: 46 (49)");
    api.misdeed(PODS, Kind::Watch, Misdeed::Status(410, expired.to_string(), None));
    api.end_watches();
    reading(&handle, "one node", |told| ahead(told) == 1).await;
}

#[tokio::test]
async fn pods_of_aws_node_on_this_node_are_named() {
    let api = FakeApi::start().await;
    let of = |name: &str, node: &str, owner: &str, phase: &str| {
        let mut pod = pod("kube-system", name, node, "10.0.0.1");
        pod["metadata"]["ownerReferences"] = json!([{"kind": "DaemonSet", "name": owner, "uid": "u"}]);
        pod["status"]["phase"] = json!(phase);
        pod
    };
    for (name, node, owner, phase) in [
        ("aws-node-a", NODE, "aws-node", "Running"),
        ("aws-node-b", "node-b", "aws-node", "Running"),
        ("aws-node-c", NODE, "aws-node", "Failed"),
        ("kube-proxy-a", NODE, "kube-proxy", "Running"),
    ] {
        api.put(PODS, of(name, node, owner, phase));
    }
    let (handle, _driver) = connected(&api, pace()).await;
    let mut named = handle.incumbents();
    let mut wait = async |wanted: &[&str]| {
        let found =
            timeout(BOUND, named.wait_for(|now| now.as_deref().is_some_and(|now| now == wanted))).await;
        assert!(matches!(found, Ok(Ok(_))), "not {wanted:?}: {:?}", handle.incumbents().borrow().clone());
    };
    wait(&["kube-system/aws-node-a"]).await;
    api.put(PODS, of("aws-node-d", NODE, "aws-node", "Pending"));
    wait(&["kube-system/aws-node-a", "kube-system/aws-node-d"]).await;
    api.delete(PODS, "kube-system", "aws-node-a");
    api.put(PODS, of("aws-node-d", NODE, "aws-node", "Succeeded"));
    wait(&[]).await;
}
