//! Nodes.

use serde_json::{Value, json};

use super::super::lookup::{flag, items, text};
use super::{Layout, age, column, joined, name, or, wide};

pub(super) const LAYOUT: Layout = Layout {
    columns: &[
        column("Name"),
        column("Status"),
        column("Roles"),
        column("Age"),
        column("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells,
};

fn cells(node: &Value) -> Vec<Value> {
    let info = |key: &str| text(node, &["status", "nodeInfo", key]);
    let address = |kind: &str| {
        let addresses = items(node, &["status", "addresses"]);
        addresses.iter().find(|one| one["type"] == kind).map_or("<none>", |one| text(one, &["address"]))
    };
    vec![
        json!(name(node)),
        json!(state(node)),
        json!(roles(node)),
        age(node),
        json!(info("kubeletVersion")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(or(info("osImage"), "<unknown>")),
        json!(or(info("kernelVersion"), "<unknown>")),
        json!(or(info("containerRuntimeVersion"), "<unknown>")),
    ]
}

fn state(node: &Value) -> String {
    let ready = items(node, &["status", "conditions"]).iter().find(|one| one["type"] == "Ready");
    let mut state = match ready.map(|ready| text(ready, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(node, &["spec", "unschedulable"]) {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    joined(&roles)
}
