//! The fields that a field selector may name, by kind.

use serde_json::Value;

use super::super::lookup::{flag, text};
use super::ResourceType;

/// Field names besides `metadata.name` and `metadata.namespace`.
pub(in super::super) fn known_fields(kind: &ResourceType) -> &'static [&'static str] {
    match kind.storage() {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "namespaces") => &["status.phase", "name"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "secrets") => &["type"],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    }
}

/// The values of [`known_fields`] of an object in the form that is kept.
pub(in super::super) fn selectable_fields(kind: &ResourceType, value: &Value) -> Vec<(&'static str, String)> {
    known_fields(kind).iter().map(|&name| (name, field(name, value))).collect()
}

fn field(name: &str, value: &Value) -> String {
    match name {
        "spec.hostNetwork" => flag(value, &["spec", "hostNetwork"]).to_string(),
        "spec.unschedulable" => flag(value, &["spec", "unschedulable"]).to_string(),
        "name" => text(value, &["metadata", "name"]).to_owned(),
        "source" => match text(value, &["source", "component"]) {
            "" => text(value, &["reportingComponent"]).to_owned(),
            component => component.to_owned(),
        },
        name => {
            let path: Vec<&str> = name.split('.').collect();
            text(value, &path).to_owned()
        }
    }
}
