//! What the API fills in where a manifest says nothing.

use serde_json::{Map, Value, json};

use super::super::lookup::{as_object, default, each, object, text};
use super::ResourceType;
use super::pod_defaults::fill_in_pod_spec;

/// Fills in a built-in object, in the form that is kept.
pub(super) fn fill_in(kind: &ResourceType, value: &mut Value) {
    let root = as_object(value);
    match kind.storage() {
        ("", "namespaces") => {
            let spec = object(root, "spec");
            if !spec.contains_key("finalizers") {
                spec.insert("finalizers".into(), json!(["kubernetes"]));
            }
            let name = root.get("metadata").map(|meta| text(meta, &["name"]).to_owned()).unwrap_or_default();
            if !name.is_empty() {
                object(object(root, "metadata"), "labels")
                    .insert("kubernetes.io/metadata.name".into(), json!(name));
            }
            default(object(root, "status"), "phase", "Active");
        }
        ("", "nodes") => {
            object(root, "spec");
            let status = object(root, "status");
            object(object(status, "daemonEndpoints"), "kubeletEndpoint").entry("Port").or_insert(json!(0));
            if !status.contains_key("allocatable")
                && let Some(capacity) = status.get("capacity").cloned()
            {
                status.insert("allocatable".into(), capacity);
            }
        }
        ("", "pods") => {
            fill_in_pod_spec(object(root, "spec"));
            default(object(root, "status"), "phase", "Pending");
        }
        ("", "services") => fill_in_service(root),
        ("", "endpoints") => {
            for subset in each(root, "subsets") {
                each(subset, "ports").for_each(|port| default(port, "protocol", "TCP"));
            }
        }
        ("", "secrets") => fill_in_secret(root),
        ("discovery.k8s.io", "endpointslices") => {
            for port in each(root, "ports") {
                default(port, "name", "");
                default(port, "protocol", "TCP");
            }
            each(root, "endpoints").for_each(|endpoint| {
                object(endpoint, "conditions");
            });
        }
        ("networking.k8s.io", "networkpolicies") => fill_in_network_policy(object(root, "spec")),
        ("apps", "daemonsets") => fill_in_daemon_set(root),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => fill_in_binding(root),
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            let spec = object(root, "spec");
            if !spec.contains_key("conversion") {
                spec.insert("conversion".into(), json!({"strategy": "None"}));
            }
            let names = object(spec, "names");
            let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            default(names, "singular", kind.to_lowercase());
            default(names, "listKind", format!("{kind}List"));
        }
        _ => {}
    }
}

fn fill_in_service(root: &mut Map<String, Value>) {
    let spec = object(root, "spec");
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if spec.get("sessionAffinity") == Some(&json!("ClientIP")) {
        default(object(object(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in each(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        let target = port.get("targetPort");
        if target.is_none() || target == Some(&json!(0)) || target == Some(&json!("")) {
            port.insert("targetPort".into(), number);
        }
    }
    let status = object(root, "status");
    object(status, "loadBalancer");
}

fn fill_in_secret(root: &mut Map<String, Value>) {
    use base64::Engine as _;
    default(root, "type", "Opaque");
    if let Some(Value::Object(plain)) = root.shift_remove("stringData") {
        let data = object(root, "data");
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, json!(encoded));
        }
    }
}

fn fill_in_network_policy(spec: &mut Map<String, Value>) {
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            each(rule, "ports").for_each(|port| default(port, "protocol", "TCP"));
        }
    }
    object(spec, "podSelector");
    let non_empty =
        |value: Option<&Value>| value.and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !non_empty(spec.get("policyTypes")) {
        let types =
            if non_empty(spec.get("egress")) { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

fn fill_in_daemon_set(root: &mut Map<String, Value>) {
    let spec = object(root, "spec");
    default(spec, "revisionHistoryLimit", 10);
    let strategy = object(spec, "updateStrategy");
    default(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = object(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
    let template = object(spec, "template");
    object(template, "metadata");
    fill_in_pod_spec(object(template, "spec"));
    let status = object(root, "status");
    for count in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
        default(status, count, 0);
    }
}

fn fill_in_binding(root: &mut Map<String, Value>) {
    default(object(root, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
    for subject in each(root, "subjects") {
        let group = match subject.get("kind").and_then(Value::as_str) {
            Some("User" | "Group") => "rbac.authorization.k8s.io",
            _ => continue,
        };
        default(subject, "apiGroup", group);
    }
}

#[cfg(test)]
mod tests {
    use super::super::builtins;
    use serde_json::{Value, json};

    fn filled(kind: &str, mut value: Value) -> Value {
        let types = builtins();
        let kind = types.iter().find(|one| one.kind == kind).expect("a built-in kind");
        kind.fill_in(&mut value);
        value
    }

    #[test]
    fn policy_types_follow_the_rules_given() {
        for (spec, expected) in [
            (json!({"podSelector": {}}), json!(["Ingress"])),
            (json!({"podSelector": {}, "egress": []}), json!(["Ingress"])),
            (json!({"podSelector": {}, "egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), json!(["Egress"])),
        ] {
            let policy = filled("NetworkPolicy", json!({"metadata": {"name": "p"}, "spec": spec}));
            assert_eq!(policy["spec"]["policyTypes"], expected, "{policy}");
        }
    }

    #[test]
    fn a_service_port_targets_itself() {
        let service =
            filled("Service", json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}}));
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(service["spec"]["ports"][1]["targetPort"], "web");
    }
}
