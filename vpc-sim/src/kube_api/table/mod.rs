//! Objects as tables, with the columns that kubectl users know.

mod age;
mod cluster;
mod custom;
mod network;
mod node;
mod pod;
mod workload;

use serde_json::{Value, json};

use super::kinds::{Flavour, ResourceType};
use super::lookup::text;

/// How much of its object each row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// A column; those that are wide are only shown with `-o wide`.
#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

const fn column(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}

/// The columns of one kind, and how to fill them.
struct Layout {
    columns: &'static [Column],
    cells: fn(&Value) -> Vec<Value>,
}

const PLAIN: Layout = Layout {
    columns: &[column("Name"), column("Age")],
    cells: |object| vec![json!(name(object)), age(object)],
};

/// A `Table` of `objects`, with the list's metadata.
pub(super) fn table(kind: &ResourceType, objects: &[Value], include: Include, meta: &Value) -> Value {
    let row = |cells: Vec<Value>, object: &Value| {
        let shown = match include {
            Include::Nothing => Value::Null,
            Include::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            }),
            Include::Object => object.clone(),
        };
        json!({"cells": cells, "object": shown})
    };
    let (columns, rows): (Vec<Value>, Vec<Value>) = match &kind.flavour {
        Flavour::Custom(custom) => (
            custom::columns(custom),
            objects.iter().map(|object| row(custom::cells(custom, object), object)).collect(),
        ),
        Flavour::Builtin(_) => {
            let layout = layout(kind);
            let definitions = layout.columns.iter().map(|column| {
                let format = if column.name == "Name" { "name" } else { "" };
                definition(column.name, column.kind, format, "", u8::from(column.wide))
            });
            (
                definitions.collect(),
                objects.iter().map(|object| row((layout.cells)(object), object)).collect(),
            )
        }
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn definition(name: &str, kind: &str, format: &str, description: &str, priority: u8) -> Value {
    json!({
        "name": name, "type": kind, "format": format, "description": description, "priority": priority,
    })
}

fn layout(kind: &ResourceType) -> Layout {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pod::LAYOUT,
        ("", "nodes") => node::LAYOUT,
        ("", "namespaces") => cluster::NAMESPACES,
        ("", "events") => cluster::EVENTS,
        ("", "services") => network::SERVICES,
        ("", "endpoints") => network::ENDPOINTS,
        ("", "configmaps") => workload::CONFIG_MAPS,
        ("", "secrets") => workload::SECRETS,
        ("", "serviceaccounts") => workload::SERVICE_ACCOUNTS,
        ("discovery.k8s.io", "endpointslices") => network::ENDPOINT_SLICES,
        ("networking.k8s.io", "networkpolicies") => network::NETWORK_POLICIES,
        ("apps", "daemonsets") => workload::DAEMON_SETS,
        ("apps", "controllerrevisions") => workload::CONTROLLER_REVISIONS,
        ("coordination.k8s.io", "leases") => cluster::LEASES,
        ("rbac.authorization.k8s.io", "rolebindings") => cluster::BINDINGS,
        ("rbac.authorization.k8s.io", "clusterrolebindings") => cluster::BINDINGS,
        ("rbac.authorization.k8s.io", _) => cluster::ROLES,
        ("apiextensions.k8s.io", _) => cluster::DEFINITIONS,
        _ => PLAIN,
    }
}

fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

fn age(object: &Value) -> Value {
    json!(age::since(text(object, &["metadata", "creationTimestamp"])))
}

/// The text, or `otherwise` if it is empty.
fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// The texts joined by commas, or `<none>`.
fn joined<T: AsRef<str>>(texts: &[T]) -> String {
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    or(&texts.join(","), "<none>").to_owned()
}

/// A map of strings as `a=b,c=d`, or `<none>`.
fn labels(map: Option<&Value>) -> String {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let mut pairs: Vec<String> =
        entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    joined(&pairs)
}
