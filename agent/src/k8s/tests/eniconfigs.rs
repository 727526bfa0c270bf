//! ENIConfigs: a kind that need not be there.

use serde_json::json;

use super::fake::{FakeApi, Kind, Misdeed, NODES, status};
use super::*;
use crate::k8s::{EniConfigWatch, EniConfigs};

const PATH: &str = "/apis/crd.k8s.amazonaws.com/v1alpha1/eniconfigs";

async fn until(watch: &mut EniConfigWatch, what: &str, holds: impl Fn(&EniConfigs) -> bool) -> EniConfigs {
    let found = timeout(BOUND, async {
        loop {
            let now = watch.current();
            if holds(&now) {
                return now;
            }
            assert!(watch.changed().await, "the watch ended");
        }
    });
    found.await.unwrap_or_else(|_| panic!("waited for {what}; {:?}", watch.current()))
}

#[tokio::test]
async fn the_rest_goes_on_without_the_kind_and_it_is_found_when_it_comes() {
    let api = FakeApi::start().await;
    let absent = status(404, "NotFound", "the server could not find the requested resource").to_string();
    for _ in 0..20 {
        api.misdeed(PATH, Kind::Streaming, Misdeed::Status(404, absent.clone(), None));
    }
    let options = Options {
        node: NODE.into(),
        pod_audit: false,
        eni_configs: true,
        service_cidrs: Vec::new(),
        fleet: fleet(),
        pace: pace(),
    };
    let (handle, _driver) = start(api.client().await, options);
    assert!(handle.wait_synced(Instant::now() + BOUND).await, "policy waits for ENIConfigs");
    let mut watch = handle.eni_configs().expect("asked for");
    let missing = until(&mut watch, "a missing kind", |now| now.kind_missing).await;
    assert!(!missing.synced);

    api.put(PATH, json!({"metadata": {"name": "zone-a"}, "spec": {"subnet": "subnet-1"}}));
    let there = until(&mut watch, "the list", |now| now.synced && now.by_name.contains_key("zone-a")).await;
    assert!(!there.kind_missing && there.failing.is_none());
    api.put(
        PATH,
        json!({"metadata": {"name": "zone-a"}, "spec": {"subnet": "subnet-2", "securityGroups": ["sg-1"]}}),
    );
    let moved = |now: &EniConfigs| now.by_name["zone-a"].subnet.as_deref() == Some("subnet-2");
    until(&mut watch, "the change", moved).await;
    api.delete(PATH, "", "zone-a");
    until(&mut watch, "the end", |now| now.by_name.is_empty()).await;
}

#[tokio::test]
async fn what_decides_a_nodes_place_and_growth_is_read_from_its_object() {
    let api = FakeApi::start().await;
    let node = |annotations: serde_json::Value| {
        json!({"metadata": {"name": NODE, "uid": "u-1", "labels": {"k8s.amazonaws.com/eniConfig": "by-label"},
            "annotations": annotations}, "spec": {"unschedulable": true}})
    };
    let long = "x".repeat(300);
    api.put(NODES, node(json!({"k8s.amazonaws.com/eniConfig": "by-annotation", "a/document": long})));
    let (handle, _driver) = synced(&api, pace()).await;
    let facts = handle.node().expect("listed");
    assert_eq!(facts.labels["k8s.amazonaws.com/eniConfig"], "by-label");
    assert_eq!(facts.annotations["k8s.amazonaws.com/eniConfig"], "by-annotation");
    assert!(!facts.annotations.contains_key("a/document"), "it can be no name");
    assert!(facts.unschedulable && !facts.terminating && facts.uid == "u-1");

    let mut leaving = node(serde_json::Value::Null);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.put(NODES, leaving);
    let terminating = |s: &Snapshot| s.node.as_ref().is_some_and(|node| node.terminating);
    super::until(&handle, "the end of the node", terminating).await;
}
