//! Validation of pods.

use serde_json::{Value, json};

use super::super::error::FieldFault;
use super::super::lookup::{int, items, text};
use super::naming::is_label;
use super::rules::{check_one_of, check_port};

/// Faults of a pod's specification, or of a template's, at `base`.
pub(super) fn check_pod_spec(spec: &Value, base: &str, faults: &mut Vec<FieldFault>) {
    let containers = items(spec, &["containers"]);
    if containers.is_empty() {
        faults.push(FieldFault::required(format!("{base}.containers"), ""));
    }
    check_one_of(
        spec,
        "restartPolicy",
        format!("{base}.restartPolicy"),
        &["Always", "Never", "OnFailure"],
        faults,
    );
    let volumes: Vec<&str> = items(spec, &["volumes"]).iter().map(|one| text(one, &["name"])).collect();
    let mut names: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        for (n, container) in items(spec, &[list]).iter().enumerate() {
            let field = |key: &str| format!("{base}.{list}[{n}].{key}");
            let name = text(container, &["name"]);
            if name.is_empty() {
                faults.push(FieldFault::required(field("name"), ""));
            } else if !is_label(name) {
                let detail =
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'";
                faults.push(FieldFault::invalid(field("name"), &json!(name), detail));
            } else if names.contains(&name) {
                faults.push(FieldFault::duplicate(field("name"), &json!(name)));
            }
            names.push(name);
            if text(container, &["image"]).is_empty() {
                faults.push(FieldFault::required(field("image"), ""));
            }
            for (m, port) in items(container, &["ports"]).iter().enumerate() {
                let field = |key: &str| field(&format!("ports[{m}].{key}"));
                check_port(field("containerPort"), int(port, &["containerPort"]).unwrap_or_default(), faults);
                if let Some(host) = int(port, &["hostPort"]).filter(|&host| host != 0) {
                    check_port(field("hostPort"), host, faults);
                }
                check_one_of(port, "protocol", field("protocol"), &["SCTP", "TCP", "UDP"], faults);
            }
            for (m, mount) in items(container, &["volumeMounts"]).iter().enumerate() {
                let name = text(mount, &["name"]);
                if !volumes.contains(&name) {
                    let message = format!("Not found: {name:?}");
                    let field = field(&format!("volumeMounts[{m}].name"));
                    faults.push(FieldFault { field, reason: "FieldValueNotFound", message });
                }
            }
        }
    }
}

/// A pod's specification stays as it is, but for a few fields.
pub(super) fn check_pod_update(old: &Value, new: &Value, faults: &mut Vec<FieldFault>) {
    if frozen(old) != frozen(new) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
            existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
            previously negative)";
        faults.push(FieldFault::forbidden("spec", detail));
    }
}

/// The specification without what may change.
fn frozen(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    if let Value::Object(map) = &mut spec {
        for free in ["activeDeadlineSeconds", "tolerations"] {
            map.shift_remove(free);
        }
        for list in ["containers", "initContainers"] {
            for container in super::super::lookup::each(map, list) {
                container.shift_remove("image");
            }
        }
    }
    spec
}
