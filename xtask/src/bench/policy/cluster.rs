//! A large cluster: namespaces with deployments, a default deny and policies that open it again.

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench::api::{Api, running};
use crate::bench::node::Pod;

/// Pods of a namespace, and the fewest and the most namespaces.
const PODS_EACH: u32 = 150;
const NAMESPACES: (u32, u32) = (60, 1000);
/// How many teams own them.
pub(super) const TEAMS: u32 = 50;
/// Deployments of a namespace.
pub(super) const APPS: u32 = 10;
/// Namespaces of which the node has two pods each, of these deployments.
pub(super) const LOCAL_NAMESPACES: u32 = 55;
pub(super) const LOCAL_APPS: [u32; 2] = [2, 5];
/// A namespace with more pods than any other, up to so many, and a label that names it.
pub(super) const CROWD: &str = "crowd";
const CROWD_PODS: u32 = 20_000;
/// A node that is not simulated.
const ELSEWHERE: &str = "node-elsewhere";
/// Its address and those of all pods that are not on the node.
const POD_BLOCK: u8 = 64;

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Pods that are not on the node.
    pub(super) pods: u32,
    /// NetworkPolicies.
    pub(super) policies: u32,
}

impl Size {
    /// Over how many namespaces they are spread.
    pub(super) fn namespaces(self) -> u32 {
        (self.pods / PODS_EACH).clamp(NAMESPACES.0, NAMESPACES.1)
    }

    /// How many are in one namespace besides these.
    pub(super) fn crowd(self) -> u32 {
        CROWD_PODS.min(self.pods / 5)
    }
}

/// A namespace's name.
pub(super) fn namespace(number: u32) -> String {
    format!("ns-{number}")
}

/// The label value of a team.
pub(super) fn team(number: u32) -> String {
    format!("team-{number}")
}

/// An address of the block that pods elsewhere have.
pub(super) fn address(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("10.{}.{middle}.{low}", POD_BLOCK + high)
}

/// Puts it in; returns the node's pods, which the kubelet has not begun yet.
pub(super) fn fill(api: &Api, node: &str, size: Size) -> Result<Vec<Pod>> {
    let namespaces = size.namespaces();
    api.seed((0..namespaces).map(|number| {
        let env = ["prod", "stage", "dev"][number as usize % 3];
        let labels = json!({ "team": team(number % TEAMS), "env": env });
        json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace(number), "labels": labels },
        })
    }))?;
    api.seed((0..namespaces).flat_map(services))?;
    api.seed((0..size.policies).map(|number| policy(number % namespaces, number / namespaces)))?;
    let spread = size.pods - size.crowd();
    api.seed((0..spread).map(|number| {
        let (here, place) = (number % namespaces, number / namespaces);
        let name = format!("app-{}-{place}", place % APPS);
        pod(here, place % APPS, &name, ELSEWHERE, Some(&address(number)))
    }))?;
    let metadata = json!({ "name": CROWD, "labels": { "team": CROWD } });
    api.seed([json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })])?;
    api.seed((0..size.crowd()).map(|number| {
        let name = format!("app-1-{number}");
        let mut pod = pod(0, 1, &name, ELSEWHERE, Some(&address(spread + number)));
        pod["metadata"]["namespace"] = json!(CROWD);
        pod
    }))?;
    let mut local = Vec::new();
    for number in 0..LOCAL_NAMESPACES {
        for app in LOCAL_APPS {
            let name = format!("app-{app}-local");
            api.seed([pod(number, app, &name, node, None)])?;
            let namespace = namespace(number);
            local.push(Pod { uid: api.uid(&namespace, &name)?, namespace, name });
        }
    }
    Ok(local)
}

/// A pod as long as pods are.
pub(super) fn pod(number: u32, app: u32, name: &str, node: &str, address: Option<&str>) -> Value {
    let variable =
        |name: &str| json!({ "name": name, "value": "postgres://database.example.com:5432/orders" });
    let environment = ["DATABASE_URL", "CACHE_URL", "QUEUE_URL"].map(variable);
    let tier = ["front", "back", "data"][app as usize % 3];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace(number),
            "labels": {
                "app": format!("app-{app}"),
                "app.kubernetes.io/name": format!("app-{app}"),
                "tier": tier,
                "pod-template-hash": format!("{:010x}", u64::from(number) * 7919 + u64::from(app)),
            },
            "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "9090" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{app}"),
                "uid": "6b5a1f0e-7f5b-4c5e-9a55-0d8e8a7f1c11", "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "containers": [{
                "name": "main",
                "image": "registry.example.com/shop/service@sha256:0c1e2d3f4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7e8f9a0b1c2d3e4f5",
                "ports": [
                    { "name": "http", "containerPort": 8080 },
                    { "name": "metrics", "containerPort": 9090 },
                ],
                "env": environment,
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
            }],
        },
        "status": address.map_or_else(|| json!({ "phase": "Pending" }), running),
    })
}

/// Two Services of a namespace, for the deployments of which the node has pods.
fn services(number: u32) -> [Value; 2] {
    LOCAL_APPS.map(|app| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": format!("app-{app}"), "namespace": namespace(number) },
            "spec": {
                "selector": { "app": format!("app-{app}") },
                "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
            },
        })
    })
}

/// A policy of a namespace: of ten kinds, what clusters have.
fn policy(number: u32, kind: u32) -> Value {
    let pods = |app: u32| json!({ "podSelector": { "matchLabels": { "app": format!("app-{app}") } } });
    let own = json!({ "matchLabels": { "app": format!("app-{}", kind % APPS) } });
    let port = |port: Value| json!([{ "protocol": "TCP", "port": port }]);
    let spec = match kind % 10 {
        0 => json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }),
        1 => json!({
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } } }],
                "ports": [{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }],
            }],
        }),
        2 => json!({
            "podSelector": own,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [pods(1), pods(3)], "ports": port(json!("http")) }],
            "egress": [{ "to": [pods(5)], "ports": port(json!(8080)) }],
        }),
        3 => json!({
            "podSelector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["app-2", "app-5"] }] },
            "ingress": [{
                "from": [{
                    "namespaceSelector": { "matchLabels": { "team": team(number % TEAMS) } },
                    "podSelector": { "matchLabels": { "tier": "front" } },
                }],
                "ports": port(json!(8080)),
            }],
        }),
        4 => json!({
            "podSelector": { "matchLabels": { "tier": "data" } },
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.0.0/16"] } }],
                "ports": port(json!(443)),
            }],
        }),
        5 => json!({
            "podSelector": own,
            "ingress": [
                { "from": [pods(2)], "ports": port(json!("http")) },
                { "from": [{ "podSelector": { "matchLabels": { "role": "caller" } } }], "ports": port(json!(8080)) },
            ],
        }),
        6 => json!({
            "podSelector": { "matchLabels": { "tier": "data" } },
            "ingress": [{
                "from": [{ "namespaceSelector": { "matchLabels": { "env": "prod" } } }],
                "ports": port(json!("metrics")),
            }],
        }),
        _ => json!({
            "podSelector": own,
            "ingress": [{ "from": [pods((kind + 1) % APPS)], "ports": port(json!(8080)) }],
        }),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": format!("policy-{kind}"), "namespace": namespace(number) },
        "spec": spec,
    })
}
