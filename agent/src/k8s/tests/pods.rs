//! What becomes of objects, and the questions that others ask.

use policy_core::PodIdentity;
use policy_core::model::{Backends, PodState};
use serde_json::json;

use super::fake::{FakeApi, Kind, Misdeed, NAMESPACES, NODES, PODS, POLICIES, SERVICES, SLICES, pod, status};
use super::*;
use crate::k8s::{EventKind, EventObject, EventSpec, PodError};

fn identity(name: &str, uid: Option<&str>) -> PodIdentity {
    PodIdentity { namespace: "shop".into(), name: name.into(), uid: uid.map(Into::into) }
}

#[tokio::test]
async fn burst_is_told_once_and_noise_not_at_all() {
    let api = FakeApi::start().await;
    api.put(PODS, pod("shop", "a", "other", "10.0.0.1"));
    let (handle, _driver) = synced(&api, pace()).await;
    let before = handle.snapshot().generation;
    for n in 0..200 {
        api.put(PODS, pod("shop", &format!("b{n}"), "other", &format!("10.0.1.{n}")));
    }
    let after = until(&handle, "all pods", |s| pod_names(s).len() == 201).await.generation;
    assert!(after - before <= 20, "{} snapshots of 200 changes", after - before);

    // A heartbeat of the kubelet changes nothing that matters.
    let mut noisy = pod("shop", "a", "other", "10.0.0.1");
    noisy["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    api.put(PODS, noisy);
    api.put(PODS, pod("shop", "end", "other", "10.0.2.1"));
    let last = until(&handle, "the last pod", |s| pod_names(s).len() == 202).await;
    assert_eq!(last.generation, after + 1);
}

#[tokio::test]
async fn pods_that_do_not_matter_are_not_kept() {
    let api = FakeApi::start().await;
    let mut pending = pod("shop", "pending", "other", "10.0.0.1");
    pending["status"] = json!({"phase": "Pending"});
    let mut done = pod("shop", "done", "other", "10.0.0.2");
    done["status"]["phase"] = json!("Succeeded");
    let mut mine = pod("shop", "mine", NODE, "10.0.0.3");
    mine["status"] = json!({"phase": "Pending"});
    mine["spec"]["initContainers"] = json!([
        {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 15000}]},
        {"name": "init", "ports": [{"name": "init", "containerPort": 1}]},
    ]);
    let mut leaving = pod("shop", "leaving", "other", "10.0.0.4");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut mirror = pod("shop", "static", NODE, "10.0.0.5");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash", "other": "x"});
    for object in [pending, done, mine, leaving, mirror] {
        api.put(PODS, object);
    }
    let (handle, _driver) = synced(&api, pace()).await;
    let cluster = handle.snapshot().cluster;
    assert_eq!(pod_names(&handle.snapshot()), ["shop/leaving", "shop/mine", "shop/static"]);
    let leaving = cluster.pod(&identity("leaving", None)).expect("kept");
    assert_eq!(leaving.state, PodState::Terminating);
    let mine = cluster.pod(&identity("mine", Some("uid-mine"))).expect("kept with its UID");
    assert_eq!(mine.named_port("side", policy_core::model::Protocol::Tcp), [15000]);
    assert!(mine.named_port("init", policy_core::model::Protocol::Tcp).is_empty());
    assert!(cluster.pod(&identity("static", Some("hash"))).is_some(), "known as the kubelet knows it");
}

#[tokio::test]
async fn policies_services_and_the_node_arrive() {
    let api = FakeApi::start().await;
    api.put(NAMESPACES, json!({"metadata": {"name": "shop", "labels": {"team": "one", "kubernetes.io/metadata.name": "lie"}}}));
    api.put(POLICIES, json!({
        "metadata": {"namespace": "shop", "name": "np"},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "nonsense"}}], "ports": [{"port": "web"}, {"port": 80, "endPort": 90}]}],
        },
    }));
    api.put(SERVICES, json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.100.0.1", "clusterIPs": ["10.100.0.1", "fd00::1"], "externalIPs": ["192.168.0.9"],
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web", "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.168.0.10"}, {"ip": "192.168.0.11", "ipMode": "Proxy"}]}},
    }));
    api.put(
        SERVICES,
        json!({"metadata": {"namespace": "shop", "name": "headless"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    );
    // Whoever may write Services claims any address so; the node translates neither.
    for (name, address, labels) in [
        ("outward", "None", json!({})),
        ("elsewhere", "10.100.0.3", json!({"service.kubernetes.io/service-proxy-name": "other"})),
    ] {
        api.put(
            SERVICES,
            json!({"metadata": {"namespace": "shop", "name": name, "labels": labels},
            "spec": {"clusterIP": address, "clusterIPs": [address], "externalIPs": ["169.254.169.254"],
                "selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        );
    }
    api.put(
        SERVICES,
        json!({"metadata": {"namespace": "shop", "name": "byhand"},
        "spec": {"clusterIP": "10.100.0.2", "ports": [{"name": "db", "port": 5432}]}}),
    );
    api.put(
        NODES,
        json!({"metadata": {"name": NODE, "uid": "u", "labels": {"zone": "a"}},
        "spec": {"unschedulable": true, "providerID": "aws:///us-west-2a/i-1"},
        "status": {"capacity": {"pods": "29", "cpu": "2"}, "addresses": [
            {"type": "InternalIP", "address": "10.20.0.4"}, {"type": "Hostname", "address": NODE},
            {"type": "ExternalIP", "address": "192.168.0.20"}]}}),
    );
    let (handle, _driver) = synced(&api, pace()).await;
    let snapshot = handle.snapshot();
    let shop = &snapshot.cluster.namespaces["shop"];
    let labels = shop.labels.as_ref().expect("seen");
    assert_eq!((labels.get("team"), labels.get("kubernetes.io/metadata.name")), (Some("one"), Some("shop")));
    assert_eq!(shop.policies.len(), 1);
    assert_eq!(snapshot.findings.len(), 1, "{:?}", snapshot.findings);
    assert_eq!(shop.services.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["byhand", "web"]);
    let web = &shop.services["web"];
    assert_eq!(web.addresses.len(), 4, "{:?}", web.addresses);
    assert_eq!(web.external, ["192.168.0.9".parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(web.ports[0].node_port, Some(30080));
    let node = handle.node().expect("the node");
    assert_eq!((node.max_pods, node.unschedulable), (Some(29), true));
    assert_eq!(node.internal_addresses, ["10.20.0.4".parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(snapshot.cluster.node.addresses.len(), 2);

    // Backends written by hand come and go with their slices.
    api.put(SLICES, json!({"metadata": {"namespace": "shop", "name": "byhand-1", "labels": {"kubernetes.io/service-name": "byhand"}},
        "ports": [{"name": "db", "port": 5433}], "endpoints": [{"addresses": ["10.9.9.9"]}]}));
    let listed = |s: &Snapshot| match &s.cluster.namespaces["shop"].services["byhand"].backends {
        Backends::Listed(list) => list.len(),
        Backends::Pods(_) => panic!("it has no selector"),
    };
    until(&handle, "the backend", |s| listed(s) == 1).await;
    api.delete(SLICES, "shop", "byhand-1");
    until(&handle, "the backend to go", |s| listed(s) == 0).await;
    api.delete(POLICIES, "shop", "np");
    let after =
        until(&handle, "the policy to go", |s| s.cluster.namespaces["shop"].policies.is_empty()).await;
    assert!(after.findings.is_empty());
}

#[tokio::test]
async fn pod_that_no_watch_has_told_of_is_asked_for() {
    let api = FakeApi::start().await;
    let (handle, _driver) = synced(&api, pace()).await;
    let deadline = || Instant::now() + BOUND;
    assert!(matches!(handle.local_pod(&identity("a", None), deadline()).await, Err(PodError::Absent(_))));

    // The next watch hears nothing of it.
    api.misdeed(PODS, Kind::Watch, Misdeed::Silence);
    api.end_watches();
    while api.count(PODS, Kind::Watch) == 0 {
        tokio::task::yield_now().await;
    }
    api.put(PODS, pod("shop", "a", NODE, "10.0.0.1"));
    let found = handle.local_pod(&identity("a", Some("uid-a")), deadline()).await.expect("it is there");
    assert_eq!(found.labels.get("app"), Some("a"));
    assert_eq!(pod_names(&handle.snapshot()), ["shop/a"], "the snapshot has it too");
    let other = handle.local_pod(&identity("a", Some("older")), deadline()).await;
    assert!(matches!(&other, Err(error @ PodError::Other { .. }) if !error.is_retryable()), "{other:?}");
    let path = "/api/v1/namespaces/shop/pods/b";
    api.misdeed(path, Kind::Get, Misdeed::Status(500, status(500, "InternalError", "no").to_string(), None));
    let failed = handle.local_pod(&identity("b", None), deadline()).await;
    assert!(matches!(&failed, Err(error @ PodError::Unasked { .. }) if error.is_retryable()), "{failed:?}");
}

#[tokio::test]
async fn events_are_created_once() {
    let api = FakeApi::start().await;
    let (handle, _driver) = synced(&api, pace()).await;
    let event = |message: &str| EventSpec {
        object: EventObject {
            api_version: "v1",
            kind: "Pod",
            namespace: "shop".into(),
            name: "a".into(),
            uid: Some("uid-a".into()),
        },
        kind: EventKind::Warning,
        reason: "AddressesExhausted",
        message: message.into(),
    };
    handle.publish_event(event("the subnet is full"));
    handle.publish_event(event("the subnet is full"));
    handle.publish_event(event("the last one"));
    let end = Instant::now() + BOUND;
    while api.created().len() < 2 {
        assert!(Instant::now() < end, "{:?}", api.created());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let created = api.created();
    assert_eq!(created.len(), 2);
    assert_eq!(created[0]["involvedObject"]["uid"], "uid-a");
    assert_eq!(created[0]["message"], "the subnet is full");
    assert_eq!(created[0]["metadata"]["namespace"], "shop");
    assert_eq!(created[1]["message"], "the last one");
    assert_ne!(created[0]["metadata"]["name"], created[1]["metadata"]["name"]);
    assert!(
        created[0]["firstTimestamp"].as_str().is_some_and(|time| time.ends_with('Z') && time.len() == 20)
    );
}
