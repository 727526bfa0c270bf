//! ClusterNetworkPolicies, whose kind need not be there, and the nodes that they speak of.

use policy_core::FindingReason;
use serde_json::{Value, json};

use super::fake::{CLUSTER_POLICIES, FakeApi, Kind, Misdeed, NODES, status};
use super::*;
use crate::k8s::EventSpec;

fn policy(name: &str, priority: u32, peer: &Value) -> Value {
    json!({
        "metadata": {"name": name, "uid": name},
        "spec": {
            "tier": "Admin", "priority": priority, "subject": {"namespaces": {}},
            "egress": [{"action": "Deny", "to": [peer]}],
        },
    })
}

fn of_nodes(name: &str, priority: u32) -> Value {
    policy(name, priority, &json!({"nodes": {}}))
}

fn of_networks(name: &str, priority: u32) -> Value {
    policy(name, priority, &json!({"networks": ["10.0.0.0/8"]}))
}

fn node(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"zone": "a"}},
        "status": {"addresses": [
            {"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name},
        ]},
    })
}

fn priority(snapshot: &Snapshot, name: &str) -> Option<u16> {
    Some(snapshot.cluster.cluster_policies.get(name)?.priority)
}

fn peer_nodes(handle: &ClusterHandle) -> crate::k8s::WatchStatus {
    handle.watches().into_iter().find(|watch| watch.kind == "peer nodes").expect("a watch of nodes")
}

#[tokio::test]
async fn a_kind_that_is_not_there_is_none_and_may_come() {
    let api = FakeApi::start().await;
    api.serve(CLUSTER_POLICIES, false);
    let (handle, _driver) = synced(&api, pace()).await;
    let watch = handle.watches().into_iter().find(|watch| watch.kind == "clusternetworkpolicies");
    assert!(matches!(&watch, Some(watch) if watch.missing && watch.failing.is_none()), "{watch:?}");
    api.serve(CLUSTER_POLICIES, true);
    api.put(CLUSTER_POLICIES, of_networks("p", 1));
    until(&handle, "the policy", |s| priority(s, "p") == Some(1)).await;
    assert!(handle.watches().iter().all(|watch| !watch.missing));
    // And may go.
    api.serve(CLUSTER_POLICIES, false);
    api.end_watches();
    until(&handle, "the policy to go", |s| priority(s, "p").is_none()).await;
    assert!(api.count(CLUSTER_POLICIES, Kind::Streaming) >= 1);
}

#[tokio::test]
async fn one_server_that_is_behind_takes_no_policy_away() {
    let api = FakeApi::start().await;
    api.put(CLUSTER_POLICIES, of_networks("p", 1));
    let (handle, _driver) = synced(&api, pace()).await;
    let absent = || Misdeed::Status(404, "404 page not found\n".to_owned(), None);
    // The watch ends, and two of three lists meet such a server.
    api.misdeed(CLUSTER_POLICIES, Kind::Watch, absent());
    api.misdeed(CLUSTER_POLICIES, Kind::Streaming, absent());
    api.misdeed(CLUSTER_POLICIES, Kind::Streaming, absent());
    let before = handle.snapshot().generation;
    api.end_watches();
    server_shows(|| api.is_done()).await;
    api.put(CLUSTER_POLICIES, of_networks("p", 2));
    let after = until(&handle, "the change", |s| priority(s, "p") == Some(2)).await;
    assert_eq!(after.generation, before + 1, "it was never gone");
    let missed: Vec<_> = handle.watches().into_iter().filter(|watch| watch.missing).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[tokio::test]
async fn one_server_that_is_behind_at_the_start_takes_no_policy_away() {
    let api = FakeApi::start().await;
    api.put(CLUSTER_POLICIES, of_networks("p", 1));
    for _ in 0..2 {
        let absent = Misdeed::Status(404, "404 page not found\n".to_owned(), None);
        api.misdeed(CLUSTER_POLICIES, Kind::Streaming, absent);
    }
    let (handle, _driver) = connected(&api, pace()).await;
    let first = until(&handle, "the first snapshot", |s| s.generation > 0).await;
    assert_eq!(priority(&first, "p"), Some(1));
}

#[tokio::test]
async fn nodes_are_watched_only_while_a_policy_speaks_of_them() {
    let api = FakeApi::start().await;
    api.put(NODES, node(NODE, "10.1.0.1"));
    api.put(NODES, node("node-b", "10.1.0.2"));
    api.put(CLUSTER_POLICIES, of_networks("p", 1));
    let (handle, _driver) = synced(&api, pace()).await;
    assert!(handle.snapshot().cluster.nodes.is_empty());
    assert_eq!(api.count(NODES, Kind::Streaming), 1, "only this node's own");

    api.put(CLUSTER_POLICIES, of_nodes("p", 2));
    let snapshot = until(&handle, "the policy with its nodes", |s| priority(s, "p") == Some(2)).await;
    let names: Vec<&str> = snapshot.cluster.nodes.keys().map(AsRef::as_ref).collect();
    assert_eq!(names, [NODE, "node-b"]);
    assert_eq!(&*snapshot.cluster.nodes["node-b"].addresses, [std::net::IpAddr::from([10, 1, 0, 2])]);
    api.put(NODES, node("node-c", "10.1.0.3"));
    until(&handle, "a third node", |s| s.cluster.nodes.len() == 3).await;
    // A heartbeat changes nothing.
    let before = handle.snapshot().generation;
    let mut noisy = node("node-b", "10.1.0.2");
    noisy["status"]["conditions"] = json!([{"type": "Ready"}]);
    api.put(NODES, noisy);
    api.delete(NODES, "", "node-c");
    until(&handle, "two nodes", |s| s.cluster.nodes.len() == 2).await;
    assert_eq!(handle.snapshot().generation, before + 1);

    api.delete(CLUSTER_POLICIES, "", "p");
    let last = until(&handle, "no policy", |s| priority(s, "p").is_none()).await;
    assert!(last.cluster.nodes.is_empty());
    assert!(peer_nodes(&handle).synced);
}

#[tokio::test]
async fn a_policy_waits_for_its_nodes_and_the_older_one_stays() {
    let api = FakeApi::start().await;
    api.put(NODES, node(NODE, "10.1.0.1"));
    api.put(CLUSTER_POLICIES, of_networks("p", 1));
    let (handle, _driver) = synced(&api, pace()).await;
    let refused = status(403, "Forbidden", "nodes is forbidden").to_string();
    for _ in 0..1000 {
        api.misdeed(NODES, Kind::Streaming, Misdeed::Status(403, refused.clone(), None));
    }
    api.put(CLUSTER_POLICIES, of_nodes("p", 2));
    api.put(CLUSTER_POLICIES, of_nodes("q", 3));
    server_shows(|| peer_nodes(&handle).failing.is_some()).await;
    // Others are not held up.
    api.put(CLUSTER_POLICIES, of_networks("r", 4));
    let snapshot = until(&handle, "another policy", |s| priority(s, "r") == Some(4)).await;
    assert_eq!((priority(&snapshot, "p"), priority(&snapshot, "q")), (Some(1), None));
    assert!(!peer_nodes(&handle).synced);
    let told = |snapshot: &Snapshot| {
        let held = snapshot.findings.iter().filter(|finding| finding.reason == FindingReason::HeldBack);
        held.map(|finding| finding.name.to_string()).collect::<Vec<_>>()
    };
    assert!(told(&snapshot).is_empty(), "not at once");
    until(&handle, "what is held to be told", |s| told(s) == ["p", "q"]).await;
    // One that waits may go, too.
    api.delete(CLUSTER_POLICIES, "", "q");
    until(&handle, "no more to be told of it", |s| told(s) == ["p"]).await;
    api.forgive();
    let snapshot = until(&handle, "the policy with its nodes", |s| priority(s, "p") == Some(2)).await;
    assert!(told(&snapshot).is_empty());
    assert_eq!((snapshot.cluster.nodes.len(), priority(&snapshot, "q")), (1, None));
}

#[tokio::test]
async fn a_start_waits_for_the_nodes_that_policies_speak_of() {
    let api = FakeApi::start().await;
    api.put(NODES, node(NODE, "10.1.0.1"));
    api.put(CLUSTER_POLICIES, of_nodes("p", 1));
    let (handle, _driver) = {
        for _ in 0..1000 {
            // Whichever of the two watches of nodes comes first meets it.
            api.misdeed(NODES, Kind::Streaming, Misdeed::Status(500, "internal".to_owned(), None));
        }
        connected(&api, pace()).await
    };
    server_shows(|| peer_nodes(&handle).failing.is_some()).await;
    assert!(!handle.synced());
    api.forgive();
    let first = until(&handle, "the first snapshot", |s| s.generation > 0).await;
    assert_eq!((priority(&first, "p"), first.cluster.nodes.len()), (Some(1), 1));
}

#[tokio::test]
async fn findings_are_of_the_object_and_one_list_while_nothing_changes() {
    let api = FakeApi::start().await;
    let names = policy("p", 1, &json!({"domainNames": ["example.com"]}));
    api.put(CLUSTER_POLICIES, names);
    let (handle, _driver) = synced(&api, pace()).await;
    let snapshot = handle.snapshot();
    let [finding] = &snapshot.findings[..] else { panic!("{:?}", snapshot.findings) };
    let event = EventSpec::from(finding);
    assert_eq!((event.object.kind, event.object.namespace.as_str()), ("ClusterNetworkPolicy", ""));
    assert_eq!(event.object.api_version, "policy.networking.k8s.io/v1alpha2");
    api.put(CLUSTER_POLICIES, of_networks("other", 1));
    let next = until(&handle, "another policy", |s| priority(s, "other").is_some()).await;
    assert!(std::sync::Arc::ptr_eq(&snapshot.findings, &next.findings));
    api.delete(CLUSTER_POLICIES, "", "p");
    let last = until(&handle, "the policy to go", |s| priority(s, "p").is_none()).await;
    assert!(last.findings.is_empty());
}
