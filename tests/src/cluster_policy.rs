//! ClusterNetworkPolicies for tests: the definition of their kind, and objects of it as JSON, which is YAML.

use serde_json::{Value, json};

/// The CustomResourceDefinition, with the fields and bounds of `policy.networking.k8s.io/v1alpha2` (those that are
/// experimental too).
pub fn definition() -> String {
    let rule = |peers: &str, peer: Value| {
        json!({
            "type": "object",
            "required": ["action", peers],
            "properties": {
                "name": {"type": "string", "maxLength": 100},
                "action": {"type": "string", "enum": ["Accept", "Deny", "Pass"]},
                peers: {"type": "array", "minItems": 1, "maxItems": 25, "items": peer},
                "protocols": {"type": "array", "minItems": 1, "maxItems": 25, "items": protocol()},
            },
        })
    };
    let strings = json!({"type": "array", "minItems": 1, "maxItems": 25, "items": {"type": "string"}});
    let (namespaces, pods) = (selector(), namespaced_pod());
    let own = one_of(json!({"namespaces": namespaces, "pods": pods}));
    let to = one_of(json!({
        "namespaces": namespaces, "pods": pods, "nodes": selector(), "networks": strings, "domainNames": strings,
    }));
    let spec = json!({
        "type": "object",
        "required": ["priority", "subject", "tier"],
        "properties": {
            "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
            "priority": {"type": "integer", "minimum": 0, "maximum": 1000},
            "subject": own,
            "ingress": {"type": "array", "maxItems": 25, "items": rule("from", own.clone())},
            "egress": {"type": "array", "maxItems": 25, "items": rule("to", to)},
        },
    });
    let schema = json!({
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            "spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "clusternetworkpolicies.policy.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": "policy.networking.k8s.io",
            "scope": "Cluster",
            "names": {
                "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList",
                "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy", "shortNames": ["cnp"],
            },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema},
                "additionalPrinterColumns": [
                    column("Tier", ".spec.tier"), column("Priority", ".spec.priority"),
                ],
            }],
        },
    })
    .to_string()
}

/// An object with exactly one of these properties.
fn one_of(properties: Value) -> Value {
    json!({"type": "object", "minProperties": 1, "maxProperties": 1, "properties": properties})
}

fn selector() -> Value {
    let requirement = json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": {"type": "string"}, "operator": {"type": "string"},
            "values": {"type": "array", "items": {"type": "string"}},
        },
    });
    json!({
        "type": "object",
        "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {"type": "array", "items": requirement},
        },
    })
}

fn namespaced_pod() -> Value {
    json!({
        "type": "object",
        "required": ["namespaceSelector", "podSelector"],
        "properties": {"namespaceSelector": selector(), "podSelector": selector()},
    })
}

fn protocol() -> Value {
    let number = json!({"type": "integer", "minimum": 1, "maximum": 65535});
    let range = json!({
        "type": "object", "required": ["end", "start"], "properties": {"start": number, "end": number},
    });
    let port = one_of(json!({"number": number, "range": range}));
    let transport = json!({"type": "object", "minProperties": 1, "properties": {"destinationPort": port}});
    one_of(json!({
        "tcp": transport, "udp": transport, "sctp": transport,
        "destinationNamedPort": {"type": "string"},
    }))
}

/// A policy of these rules; a direction without rules is left out.
pub fn policy(
    name: &str,
    (tier, priority): (&str, u16),
    subject: &Value,
    ingress: &[Value],
    egress: &[Value],
) -> String {
    let mut spec = json!({"tier": tier, "priority": priority, "subject": subject});
    for (direction, rules) in [("ingress", ingress), ("egress", egress)] {
        if !rules.is_empty() {
            spec[direction] = json!(rules);
        }
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}

/// Manifests one after the other.
pub fn together<'a>(manifests: impl IntoIterator<Item = &'a String>) -> String {
    manifests.into_iter().map(|one| format!("---\n{one}\n")).collect()
}
