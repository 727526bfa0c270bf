//! Services, their endpoints, and network policies.

use serde_json::{Value, json};

use super::super::lookup::{at, int, items, text};
use super::{Layout, age, column, joined, labels, name, or, wide};

pub(super) const SERVICES: Layout = Layout {
    columns: &[
        column("Name"),
        column("Type"),
        column("Cluster-IP"),
        column("External-IP"),
        column("Port(s)"),
        column("Age"),
        wide("Selector"),
    ],
    cells: |service| {
        let ports: Vec<String> = items(service, &["spec", "ports"])
            .iter()
            .map(|port| {
                let number = int(port, &["port"]).unwrap_or(0);
                let protocol = text(port, &["protocol"]);
                match int(port, &["nodePort"]).unwrap_or(0) {
                    0 => format!("{number}/{protocol}"),
                    node => format!("{number}:{node}/{protocol}"),
                }
            })
            .collect();
        vec![
            json!(name(service)),
            json!(text(service, &["spec", "type"])),
            json!(or(text(service, &["spec", "clusterIP"]), "<none>")),
            json!(external_address(service)),
            json!(joined(&ports)),
            age(service),
            json!(labels(at(service, &["spec", "selector"]))),
        ]
    },
};

fn external_address(service: &Value) -> String {
    let mut addresses: Vec<&str> =
        items(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match text(service, &["spec", "type"]) {
        "ExternalName" => return text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            for ingress in items(service, &["status", "loadBalancer", "ingress"]) {
                addresses.push(or(text(ingress, &["ip"]), text(ingress, &["hostname"])));
            }
            if addresses.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    joined(&addresses)
}

pub(super) const ENDPOINTS: Layout = Layout {
    columns: &[column("Name"), column("Endpoints"), column("Age")],
    cells: |endpoints| {
        let mut list = Vec::new();
        for subset in items(endpoints, &["subsets"]) {
            for address in items(subset, &["addresses"]) {
                for port in items(subset, &["ports"]) {
                    let number = int(port, &["port"]).unwrap_or(0);
                    list.push(format!("{}:{number}", text(address, &["ip"])));
                }
            }
        }
        vec![json!(name(endpoints)), json!(shortened(&list)), age(endpoints)]
    },
};

pub(super) const ENDPOINT_SLICES: Layout = Layout {
    columns: &[column("Name"), column("AddressType"), column("Ports"), column("Endpoints"), column("Age")],
    cells: |slice| {
        let ports: Vec<String> = items(slice, &["ports"])
            .iter()
            .map(|port| int(port, &["port"]).map_or_else(|| "*".to_owned(), |number| number.to_string()))
            .collect();
        let addresses: Vec<&str> = items(slice, &["endpoints"])
            .iter()
            .flat_map(|endpoint| items(endpoint, &["addresses"]))
            .filter_map(Value::as_str)
            .collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses) };
        vec![
            json!(name(slice)),
            json!(text(slice, &["addressType"])),
            json!(ports),
            json!(addresses),
            age(slice),
        ]
    },
};

/// The first three, and how many more.
fn shortened<T: AsRef<str>>(texts: &[T]) -> String {
    match texts.len() {
        0..=3 => joined(texts),
        count => format!("{} + {} more...", joined(&texts[..3]), count - 3),
    }
}

pub(super) const NETWORK_POLICIES: Layout = Layout {
    columns: &[column("Name"), column("Pod-Selector"), column("Age")],
    cells: |policy| {
        let selector = at(policy, &["spec", "podSelector"]);
        vec![json!(name(policy)), json!(selector_text(selector)), age(policy)]
    },
};

/// A `LabelSelector` object as kubectl writes it.
pub(super) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let mut terms: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    terms.sort();
    for term in items(selector, &["matchExpressions"]) {
        let key = text(term, &["key"]);
        let values: Vec<&str> = items(term, &["values"]).iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match text(term, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    joined(&terms)
}
