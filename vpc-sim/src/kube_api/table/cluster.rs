//! Namespaces, events, leases, RBAC objects, definitions.

use serde_json::{Value, json};

use super::super::lookup::{int, items, text};
use super::age::since;
use super::{Layout, age, column, joined, name, or, wide};

pub(super) const NAMESPACES: Layout = Layout {
    columns: &[column("Name"), column("Status"), column("Age")],
    cells: |namespace| {
        vec![json!(name(namespace)), json!(text(namespace, &["status", "phase"])), age(namespace)]
    },
};

pub(super) const EVENTS: Layout = Layout {
    columns: &[
        column("Last Seen"),
        column("Type"),
        column("Reason"),
        column("Object"),
        wide("Subobject"),
        wide("Source"),
        column("Message"),
        wide("First Seen"),
        wide("Count"),
        wide("Name"),
    ],
    cells: event_cells,
};

fn event_cells(event: &Value) -> Vec<Value> {
    let object = |key: &str| text(event, &["involvedObject", key]);
    let time = text(event, &["eventTime"]);
    let first = or(text(event, &["firstTimestamp"]), time);
    let last = or(text(event, &["series", "lastObservedTime"]), or(text(event, &["lastTimestamp"]), first));
    let component = or(text(event, &["source", "component"]), text(event, &["reportingComponent"]));
    let host = or(text(event, &["source", "host"]), text(event, &["reportingInstance"]));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let count = int(event, &["series", "count"]).or_else(|| int(event, &["count"])).unwrap_or(1);
    vec![
        json!(since(last)),
        json!(text(event, &["type"])),
        json!(text(event, &["reason"])),
        json!(format!("{}/{}", object("kind").to_lowercase(), object("name"))),
        json!(object("fieldPath")),
        json!(source),
        json!(text(event, &["message"]).trim()),
        json!(since(first)),
        json!(count.to_string()),
        json!(name(event)),
    ]
}

pub(super) const LEASES: Layout = Layout {
    columns: &[column("Name"), column("Holder"), column("Age")],
    cells: |lease| vec![json!(name(lease)), json!(text(lease, &["spec", "holderIdentity"])), age(lease)],
};

pub(super) const ROLES: Layout = Layout {
    columns: &[column("Name"), column("Created At")],
    cells: |role| vec![json!(name(role)), json!(text(role, &["metadata", "creationTimestamp"]))],
};

pub(super) const BINDINGS: Layout = Layout {
    columns: &[
        column("Name"),
        column("Role"),
        column("Age"),
        wide("Users"),
        wide("Groups"),
        wide("ServiceAccounts"),
    ],
    cells: |binding| {
        let subjects = |kind: &str| {
            let subjects = items(binding, &["subjects"]).iter().filter(|subject| subject["kind"] == kind);
            let names: Vec<String> = subjects
                .map(|subject| match text(subject, &["namespace"]) {
                    "" => text(subject, &["name"]).to_owned(),
                    namespace => format!("{namespace}/{}", text(subject, &["name"])),
                })
                .collect();
            json!(if names.is_empty() { String::new() } else { joined(&names) })
        };
        let role = format!("{}/{}", text(binding, &["roleRef", "kind"]), text(binding, &["roleRef", "name"]));
        vec![
            json!(name(binding)),
            json!(role),
            age(binding),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

pub(super) const DEFINITIONS: Layout = Layout {
    columns: &[column("Name"), column("Created At")],
    cells: |definition| {
        vec![json!(name(definition)), json!(text(definition, &["metadata", "creationTimestamp"]))]
    },
};
