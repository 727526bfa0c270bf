//! A pod's address before its status has one, and its annotation for audit.

use std::net::IpAddr;

use serde_json::json;

use super::fake::{FakeApi, PODS, POLICIES, pod};
use super::*;
use crate::k8s::Announcement;

fn announcement(name: &str, uid: &str, address: [u8; 4]) -> Announcement {
    Announcement {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: Some(uid.to_owned()),
        addresses: vec![address.into()],
    }
}

fn addresses(snapshot: &Snapshot, name: &str) -> Vec<IpAddr> {
    let pod = snapshot.cluster.namespaces.get("shop").and_then(|shop| shop.pods.get(name));
    pod.map(|pod| pod.addresses.to_vec()).unwrap_or_default()
}

#[tokio::test]
async fn an_address_is_announced_while_there_is_a_policy_and_nobody_knows_it() {
    let api = FakeApi::start().await;
    api.put(PODS, pod("shop", "known", NODE, "10.0.0.1"));
    let (handle, _driver) = synced(&api, pace()).await;
    handle.announce(announcement("new", "u0", [10, 0, 0, 2]));
    api.put(POLICIES, json!({"metadata": {"namespace": "shop", "name": "np"}, "spec": {"podSelector": {}}}));
    until(&handle, "the policy", |s| s.cluster.namespaces.values().any(|n| !n.policies.is_empty())).await;
    handle.announce(announcement("known", "u1", [10, 0, 0, 1]));
    handle.announce(announcement("new", "u2", [10, 0, 0, 2]));
    server_shows(|| !api.patched().is_empty()).await;
    let [(path, patch)] = &api.patched()[..] else { panic!("{:?}", api.patched()) };
    assert_eq!(path, "/api/v1/namespaces/shop/pods/new/status");
    assert_eq!(patch["metadata"]["uid"], "u2");

    // Such a condition is the pod's address, until its status has one.
    let mut waiting = pod("shop", "new", "node-b", "");
    waiting["status"] = json!({"phase": "Pending", "conditions": patch["status"]["conditions"]});
    api.put(PODS, waiting.clone());
    let told = until(&handle, "the pod", |s| !addresses(s, "new").is_empty()).await;
    assert_eq!(addresses(&told, "new"), [IpAddr::from([10, 0, 0, 2])]);
    waiting["status"]["podIPs"] = json!([{"ip": "10.0.0.3"}]);
    api.put(PODS, waiting);
    until(&handle, "the status to win", |s| addresses(s, "new") == [IpAddr::from([10, 0, 0, 3])]).await;
}

#[tokio::test]
async fn audit_is_what_the_annotation_of_a_local_pod_says() {
    let api = FakeApi::start().await;
    let annotated = |name: &str, node: &str, value: &str| {
        let mut pod = pod("shop", name, node, "10.0.0.1");
        pod["metadata"]["annotations"] = json!({"tidepool.dev/policy-audit": value});
        pod
    };
    api.put(PODS, annotated("on", NODE, "true"));
    api.put(PODS, annotated("off", NODE, "false"));
    api.put(PODS, annotated("wrong", NODE, "yes"));
    // Of other nodes' pods it is no matter.
    api.put(PODS, annotated("elsewhere", "node-b", "true"));
    api.put(PODS, annotated("wrong-elsewhere", "node-b", "yes"));
    let (handle, _driver) = synced(&api, pace()).await;
    let snapshot = handle.snapshot();
    let shop = &snapshot.cluster.namespaces["shop"];
    let audited: Vec<&str> =
        shop.pods.iter().filter(|(_, pod)| pod.audit).map(|(name, _)| name.as_ref()).collect();
    assert_eq!(audited, ["on"]);
    let [finding] = &snapshot.findings[..] else { panic!("{:?}", snapshot.findings) };
    assert_eq!((&*finding.name, finding.reason.as_str()), ("wrong", "InvalidAnnotation"));
    api.put(PODS, annotated("wrong", NODE, "true"));
    let mended = until(&handle, "the annotation to be mended", |s| s.findings.is_empty()).await;
    assert!(mended.cluster.namespaces["shop"].pods["wrong"].audit);
}

#[tokio::test]
async fn an_annotation_alone_audits_nobody_where_the_node_does_not_heed_it() {
    let api = FakeApi::start().await;
    for (name, value) in [("on", "true"), ("off", "false")] {
        let mut pod = pod("shop", name, NODE, "10.0.0.1");
        pod["metadata"]["annotations"] = json!({"tidepool.dev/policy-audit": value});
        api.put(PODS, pod);
    }
    let (handle, _driver) = start(api.client().await, Options { pod_audit: false, ..options(pace()) });
    let snapshot = until(&handle, "the pods", |s| s.cluster.pods().count() == 2).await;
    assert!(snapshot.cluster.pods().all(|(_, _, pod)| !pod.audit));
    let [finding] = &snapshot.findings[..] else { panic!("{:?}", snapshot.findings) };
    assert_eq!((&*finding.name, finding.reason.as_str()), ("on", "AuditDisabled"));
}

#[tokio::test]
async fn an_announcement_is_taken_back_where_it_may_still_count() {
    let api = FakeApi::start().await;
    api.put(PODS, pod("shop", "known", NODE, "10.0.0.1"));
    api.put(POLICIES, json!({"metadata": {"namespace": "shop", "name": "np"}, "spec": {"podSelector": {}}}));
    let mut waiting = pod("shop", "new", NODE, "");
    waiting["metadata"]["uid"] = json!("u2");
    waiting["status"] = json!({"phase": "Pending"});
    api.put(PODS, waiting.clone());
    let (handle, _driver) = synced(&api, pace()).await;
    // Nobody announced that one.
    handle.withdraw(announcement("known", "u1", [10, 0, 0, 1]));
    handle.announce(announcement("new", "u2", [10, 0, 0, 2]));
    // An older sandbox ends late.
    handle.withdraw(announcement("new", "u2", [10, 0, 0, 9]));
    handle.withdraw(announcement("new", "u2", [10, 0, 0, 2]));
    server_shows(|| api.patched().len() == 2).await;
    let statuses: Vec<_> =
        api.patched().iter().map(|(_, patch)| patch["status"]["conditions"].clone()).collect();
    assert_eq!((&statuses[0][0]["status"], &statuses[1][0]["status"]), (&json!("True"), &json!("False")));

    // What the agent before this one announced is taken back, too.
    waiting["status"]["conditions"] = statuses[0].clone();
    api.put(PODS, waiting.clone());
    until(&handle, "the pod's address", |s| !addresses(s, "new").is_empty()).await;
    handle.withdraw(announcement("new", "u2", [10, 0, 0, 2]));
    server_shows(|| api.patched().len() == 3).await;
    waiting["status"]["conditions"] = statuses[1].clone();
    api.put(PODS, waiting);
    until(&handle, "the address to go", |s| addresses(s, "new").is_empty()).await;
}

#[tokio::test]
async fn an_announced_address_ranks_below_one_of_a_status() {
    let api = FakeApi::start().await;
    let condition = json!([{"type": "tidepool.dev/Attached", "status": "True", "message": "10.0.0.2"}]);
    let mut stale = pod("shop", "a-stale", "node-b", "");
    stale["status"] = json!({"phase": "Pending", "conditions": condition});
    let mut nowhere = stale.clone();
    nowhere["metadata"]["name"] = json!("a-nowhere");
    nowhere["spec"] = json!({});
    api.put(PODS, stale);
    api.put(PODS, nowhere);
    api.put(PODS, pod("shop", "new", "node-c", "10.0.0.2"));
    let (handle, _driver) = synced(&api, pace()).await;
    let snapshot = handle.snapshot();
    assert_eq!(pod_names(&snapshot), ["shop/a-stale", "shop/new"]);
    let owner = snapshot.cluster.owner([10, 0, 0, 2].into()).map(|(_, name, _)| name.to_string());
    assert_eq!(owner.as_deref(), Some("new"));
}
