//! Light validation: what would surprise the software under test if it passed.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::super::error::FieldFault;
use super::super::lookup::{at, flag, int, items, text};
use super::naming::{is_label_value, is_qualified};
use super::pod_rules::{check_pod_spec, check_pod_update};
use super::{Flavour, ResourceType};

/// Faults of an object by itself.
pub(in super::super) fn check_create(kind: &ResourceType, value: &Value) -> Vec<FieldFault> {
    let mut faults = super::name_faults(kind, value);
    if let Flavour::Custom(custom) = &kind.flavour {
        faults.extend(custom.check(value));
        return faults;
    }
    match kind.storage() {
        ("", "pods") => check_pod_spec(&value["spec"], "spec", &mut faults),
        ("", "services") => check_service(&value["spec"], &mut faults),
        ("networking.k8s.io", "networkpolicies") => check_network_policy(&value["spec"], &mut faults),
        ("apps", "daemonsets") => check_daemon_set(&value["spec"], &mut faults),
        ("discovery.k8s.io", "endpointslices") => check_endpoint_slice(value, &mut faults),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings")
            if text(value, &["roleRef", "name"]).is_empty() =>
        {
            faults.push(FieldFault::required("roleRef.name", ""));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => check_definition(value, &mut faults),
        _ => {}
    }
    faults
}

/// Faults of a change.
pub(in super::super) fn check_update(kind: &ResourceType, old: &Value, new: &Value) -> Vec<FieldFault> {
    let mut faults = check_create(kind, new);
    match kind.storage() {
        ("", "pods") => check_pod_update(old, new, &mut faults),
        ("", "services") => {
            let before = text(old, &["spec", "clusterIP"]);
            let after = text(new, &["spec", "clusterIP"]);
            let had_one = !before.is_empty() && text(new, &["spec", "type"]) != "ExternalName";
            if had_one && text(old, &["spec", "type"]) != "ExternalName" && before != after {
                let field = "spec.clusterIPs[0]";
                faults.push(FieldFault::invalid(field, &json!([after]), "may not change once set"));
            }
        }
        ("apps", "daemonsets") => immutable(old, new, &["spec", "selector"], &mut faults),
        ("", "secrets") => immutable(old, new, &["type"], &mut faults),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            immutable(old, new, &["roleRef"], &mut faults);
        }
        ("discovery.k8s.io", "endpointslices") => immutable(old, new, &["addressType"], &mut faults),
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            immutable(old, new, &["spec", "group"], &mut faults);
            immutable(old, new, &["spec", "scope"], &mut faults);
            immutable(old, new, &["spec", "names", "plural"], &mut faults);
        }
        _ => {}
    }
    if matches!(kind.storage(), ("", "configmaps" | "secrets")) && flag(old, &["immutable"]) {
        for key in ["data", "binaryData", "immutable"] {
            if old.get(key) != new.get(key) {
                faults.push(FieldFault::forbidden(key, "field is immutable when `immutable` is set"));
            }
        }
    }
    faults
}

fn immutable(old: &Value, new: &Value, path: &[&str], faults: &mut Vec<FieldFault>) {
    let (before, after) = (at(old, path), at(new, path));
    if before != after {
        let value = after.cloned().unwrap_or(Value::Null);
        faults.push(FieldFault::invalid(path.join("."), &value, "field is immutable"));
    }
}

pub(super) fn check_port(field: String, port: i64, faults: &mut Vec<FieldFault>) {
    if !(1..=65_535).contains(&port) {
        faults.push(FieldFault::invalid(field, &json!(port), "must be between 1 and 65535, inclusive"));
    }
}

pub(super) fn check_one_of(
    value: &Value,
    key: &str,
    field: String,
    allowed: &[&str],
    faults: &mut Vec<FieldFault>,
) {
    if let Some(found) = value.get(key)
        && !found.as_str().is_some_and(|found| allowed.contains(&found))
    {
        faults.push(FieldFault::unsupported(field, found, allowed));
    }
}

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

fn check_service(spec: &Value, faults: &mut Vec<FieldFault>) {
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check_one_of(spec, "type", "spec.type".into(), &types, faults);
    let ports = items(spec, &["ports"]);
    let headless = text(spec, &["clusterIP"]) == "None";
    if ports.is_empty() && !headless && text(spec, &["type"]) != "ExternalName" {
        faults.push(FieldFault::required("spec.ports", ""));
    }
    for (n, port) in ports.iter().enumerate() {
        let field = |key: &str| format!("spec.ports[{n}].{key}");
        check_port(field("port"), int(port, &["port"]).unwrap_or_default(), faults);
        if let Some(target) = int(port, &["targetPort"]) {
            check_port(field("targetPort"), target, faults);
        }
        check_one_of(port, "protocol", field("protocol"), &PROTOCOLS, faults);
        if ports.len() > 1 && text(port, &["name"]).is_empty() {
            faults.push(FieldFault::required(field("name"), ""));
        }
        let key = |port: &Value| (text(port, &["protocol"]).to_owned(), int(port, &["port"]));
        let named = |port: &Value| text(port, &["name"]).to_owned();
        let earlier = &ports[..n];
        if earlier.iter().any(|other| key(other) == key(port)) {
            faults.push(FieldFault::duplicate(format!("spec.ports[{n}]"), port));
        } else if earlier.iter().any(|other| named(other) == named(port) && !named(port).is_empty()) {
            faults.push(FieldFault::duplicate(field("name"), &port["name"]));
        }
    }
    let address = text(spec, &["clusterIP"]);
    if !address.is_empty() && !headless && address.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(FieldFault::invalid("spec.clusterIPs[0]", &json!(address), detail));
    }
}

fn check_network_policy(spec: &Value, faults: &mut Vec<FieldFault>) {
    check_label_selector(&spec["podSelector"], "spec.podSelector", faults);
    for (n, found) in items(spec, &["policyTypes"]).iter().enumerate() {
        if !matches!(found.as_str(), Some("Ingress" | "Egress")) {
            let field = format!("spec.policyTypes[{n}]");
            faults.push(FieldFault::unsupported(field, found, &["Egress", "Ingress"]));
        }
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (n, rule) in items(spec, &[direction]).iter().enumerate() {
            let base = format!("spec.{direction}[{n}]");
            for (m, port) in items(rule, &["ports"]).iter().enumerate() {
                check_policy_port(port, &format!("{base}.ports[{m}]"), faults);
            }
            for (m, peer) in items(rule, &[peers]).iter().enumerate() {
                check_peer(peer, &format!("{base}.{peers}[{m}]"), faults);
            }
        }
    }
}

fn check_policy_port(port: &Value, base: &str, faults: &mut Vec<FieldFault>) {
    check_one_of(port, "protocol", format!("{base}.protocol"), &PROTOCOLS, faults);
    let number = int(port, &["port"]);
    if let Some(number) = number {
        check_port(format!("{base}.port"), number, faults);
    }
    if let Some(end) = int(port, &["endPort"]) {
        match number {
            None => faults.push(FieldFault::required(
                format!("{base}.port"),
                "must be specified when `endPort` is specified, and may not be a name",
            )),
            Some(number) if end < number => {
                let detail = "must be greater than or equal to `port`";
                faults.push(FieldFault::invalid(format!("{base}.endPort"), &json!(end), detail));
            }
            Some(_) => check_port(format!("{base}.endPort"), end, faults),
        }
    }
}

fn check_peer(peer: &Value, base: &str, faults: &mut Vec<FieldFault>) {
    let selectors = ["podSelector", "namespaceSelector"];
    for selector in selectors {
        check_label_selector(&peer[selector], &format!("{base}.{selector}"), faults);
    }
    let has_selector = selectors.iter().any(|key| peer.get(key).is_some());
    let Some(block) = peer.get("ipBlock") else {
        if !has_selector {
            faults.push(FieldFault::required(base, "must specify a peer"));
        }
        return;
    };
    if has_selector {
        faults.push(FieldFault::forbidden(base, "may not specify both ipBlock and another peer"));
    }
    let cidr = text(block, &["cidr"]);
    let Some(whole) = parse_cidr(cidr) else {
        let field = format!("{base}.ipBlock.cidr");
        faults.push(FieldFault::invalid(field, &json!(cidr), "must be a valid CIDR address"));
        return;
    };
    for (n, except) in items(block, &["except"]).iter().enumerate() {
        let field = format!("{base}.ipBlock.except[{n}]");
        match parse_cidr(except.as_str().unwrap_or_default()) {
            None => faults.push(FieldFault::invalid(field, except, "must be a valid CIDR address")),
            Some(part) => {
                let same_family = part.is_ipv4() == whole.is_ipv4();
                if !same_family || part.prefix() <= whole.prefix() || !whole.contains(part.ip()) {
                    let detail = format!("must be a strict subset of `cidr`: {cidr:?}");
                    faults.push(FieldFault::invalid(field, except, &detail));
                }
            }
        }
    }
}

/// A CIDR needs its prefix length here.
fn parse_cidr(text: &str) -> Option<IpNetwork> {
    if text.contains('/') { text.parse().ok() } else { None }
}

/// A `LabelSelector` object; null selects nothing and is fine.
pub(super) fn check_label_selector(selector: &Value, base: &str, faults: &mut Vec<FieldFault>) {
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let field = format!("{base}.matchLabels");
        if !is_qualified(key) {
            faults.push(FieldFault::invalid(field, &json!(key), "not a valid label key"));
        } else if !value.as_str().is_some_and(is_label_value) {
            faults.push(FieldFault::invalid(field, value, "not a valid label value"));
        }
    }
    for (n, term) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let field = |key: &str| format!("{base}.matchExpressions[{n}].{key}");
        let values = items(term, &["values"]);
        match text(term, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                faults.push(FieldFault::required(field("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                faults.push(FieldFault::forbidden(field("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                faults.push(FieldFault::invalid(field("operator"), &json!(other), detail));
            }
        }
        let key = text(term, &["key"]);
        if !is_qualified(key) {
            faults.push(FieldFault::invalid(field("key"), &json!(key), "not a valid label key"));
        }
    }
}

fn check_daemon_set(spec: &Value, faults: &mut Vec<FieldFault>) {
    check_pod_spec(&spec["template"]["spec"], "spec.template.spec", faults);
    let Some(selector) = spec.get("selector") else {
        faults.push(FieldFault::required("spec.selector", ""));
        return;
    };
    check_label_selector(selector, "spec.selector", faults);
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    if wanted.into_iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        let detail = "`selector` does not match template `labels`";
        faults.push(FieldFault::invalid("spec.template.metadata.labels", labels, detail));
    }
}

fn check_endpoint_slice(value: &Value, faults: &mut Vec<FieldFault>) {
    check_one_of(value, "addressType", "addressType".into(), &["FQDN", "IPv4", "IPv6"], faults);
    if text(value, &["addressType"]).is_empty() {
        faults.push(FieldFault::required("addressType", ""));
    }
    for (n, endpoint) in items(value, &["endpoints"]).iter().enumerate() {
        for (m, address) in items(endpoint, &["addresses"]).iter().enumerate() {
            let content = address.as_str().unwrap_or_default();
            let valid = match text(value, &["addressType"]) {
                "IPv4" => content.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => content.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => true,
            };
            if !valid {
                let field = format!("endpoints[{n}].addresses[{m}]");
                faults.push(FieldFault::invalid(field, address, "must be a valid IP address"));
            }
        }
    }
}

fn check_definition(value: &Value, faults: &mut Vec<FieldFault>) {
    let spec = &value["spec"];
    let expected = format!("{}.{}", text(spec, &["names", "plural"]), text(spec, &["group"]));
    let name = text(value, &["metadata", "name"]);
    if name != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        faults.push(FieldFault::invalid("metadata.name", &json!(name), detail));
    }
    check_one_of(spec, "scope", "spec.scope".into(), &["Cluster", "Namespaced"], faults);
    for (path, field) in [(["names", "kind"], "spec.names.kind"), (["names", "plural"], "spec.names.plural")]
    {
        if text(spec, &path).is_empty() {
            faults.push(FieldFault::required(field, ""));
        }
    }
    let versions = items(spec, &["versions"]);
    if versions.iter().filter(|version| flag(version, &["storage"])).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        faults.push(FieldFault::invalid("spec.versions", &Value::Null, detail));
    }
    for (n, version) in versions.iter().enumerate() {
        if at(version, &["schema", "openAPIV3Schema"]).is_none() {
            let field = format!("spec.versions[{n}].schema.openAPIV3Schema");
            faults.push(FieldFault::required(field, "schemas are required"));
        }
    }
}
