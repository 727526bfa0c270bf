//! The cluster that ADD and DEL are measured in.

use anyhow::Result;
use serde_json::{Value, json};

use super::Options;
use super::api::{Api, running};
use super::node::Pod;

const NAMESPACE: &str = "bench";
/// A node that is not simulated.
const ELSEWHERE: &str = "node-elsewhere";
/// Pods elsewhere: how many share a namespace.
const NEIGHBOURS: u32 = 20;

/// Makes the pods of `node`, a policy that isolates them, and what else the cluster has; returns the node's pods.
pub(super) fn fill(api: &Api, node: &str, options: &Options) -> Result<Vec<Pod>> {
    api.seed(namespace(NAMESPACE))?;
    let name = |place: u32| format!("pod-{place}");
    api.seed((0..options.pods).map(|place| pod(NAMESPACE, &name(place), node, None)))?;
    let pods = (0..options.pods).map(|place| {
        let uid = api.uid(NAMESPACE, &name(place))?;
        Ok(Pod { namespace: NAMESPACE.to_owned(), name: name(place), uid })
    });
    let pods = pods.collect::<Result<_>>()?;
    let others = options.cluster_pods.unwrap_or(0);
    for number in 0..others.div_ceil(NEIGHBOURS) {
        let here = format!("{NAMESPACE}-{number}");
        api.seed(namespace(&here))?;
        let members = 0..NEIGHBOURS.min(others - number * NEIGHBOURS);
        api.seed(members.map(|place| {
            // What has no address concerns no policy.
            let [_, high, middle, low] = (number * NEIGHBOURS + place).to_be_bytes();
            let address = format!("10.{}.{middle}.{low}", 64 + high);
            pod(&here, &name(place), ELSEWHERE, Some(&address))
        }))?;
    }
    Ok(pods)
}

fn namespace(name: &str) -> [Value; 2] {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "team": name } },
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "callers", "namespace": name },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
                "ports": [{ "protocol": "TCP", "port": 8080 }],
            }],
            "egress": [{ "to": [{ "namespaceSelector": { "matchLabels": { "team": name } } }] }],
        },
    });
    [namespace, policy]
}

fn pod(namespace: &str, name: &str, node: &str, address: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": "web", "pod": name } },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "web", "image": "web", "ports": [{ "containerPort": 8080 }] }],
        },
        "status": address.map_or_else(|| json!({ "phase": "Pending" }), running),
    })
}
