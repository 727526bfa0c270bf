//! Custom resources: what a `CustomResourceDefinition` makes of itself.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::clock;
use super::super::error::FieldFault;
use super::super::lookup::{at, flag, items, text};
use super::{Flavour, ResourceType, schema};

/// One served version of a custom resource.
#[derive(Debug)]
pub(in super::super) struct CustomVersion {
    schema: Value,
    /// `additionalPrinterColumns`, as given.
    pub(in super::super) columns: Vec<Value>,
    preserve_unknown: bool,
}

impl CustomVersion {
    /// Removes unknown fields and returns their paths.
    pub(super) fn read(&self, value: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if self.preserve_unknown {
            return unknown;
        }
        if let Value::Object(map) = value {
            // The schema says nothing about these three.
            let own: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
                .iter()
                .filter_map(|&key| map.shift_remove_entry(key))
                .collect();
            schema::prune(value, &self.schema, "", &mut unknown);
            if let Value::Object(map) = value {
                for (at, (key, value)) in own.into_iter().enumerate() {
                    map.shift_insert(at, key, value);
                }
            }
        }
        unknown
    }

    pub(super) fn fill_in(&self, value: &mut Value) {
        schema::fill_in(value, &self.schema);
    }

    pub(super) fn check(&self, value: &Value) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        schema::check(value, &self.schema, "", &mut faults);
        faults
    }
}

/// The resource types that a definition serves; none while it is being deleted.
pub(in super::super) fn custom_types(definition: &Value) -> Vec<Arc<ResourceType>> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let strings = |key: &str| {
        items(names, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let served = items(spec, &["versions"]).iter().filter(|version| flag(version, &["served"]));
    served
        .map(|version| {
            let schema = at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or_else(|| json!({}));
            let preserve_unknown = flag(spec, &["preserveUnknownFields"])
                || flag(&schema, &["x-kubernetes-preserve-unknown-fields"]);
            Arc::new(ResourceType {
                group: text(spec, &["group"]).into(),
                version: text(version, &["name"]).into(),
                plural: text(names, &["plural"]).into(),
                singular: text(names, &["singular"]).into(),
                kind: text(names, &["kind"]).into(),
                list_kind: text(names, &["listKind"]).into(),
                short_names: strings("shortNames"),
                categories: strings("categories"),
                namespaced: text(spec, &["scope"]) == "Namespaced",
                has_status: at(version, &["subresources", "status"]).is_some(),
                flavour: Flavour::Custom(Arc::new(CustomVersion {
                    schema,
                    columns: items(version, &["additionalPrinterColumns"]).to_vec(),
                    preserve_unknown,
                })),
            })
        })
        .collect()
}

/// Sets the status that makes clients believe that a definition is served (it is).
pub(in super::super) fn prepare_definition(definition: &mut Value) {
    let now = clock::now();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message,
        })
    };
    let stored: Vec<Value> = items(definition, &["spec", "versions"])
        .iter()
        .filter(|version| flag(version, &["storage"]))
        .map(|version| version["name"].clone())
        .collect();
    let mut stored_before = items(definition, &["status", "storedVersions"]).to_vec();
    stored_before.extend(
        stored.into_iter().filter(|name| !items(definition, &["status", "storedVersions"]).contains(name)),
    );
    let conditions = match at(definition, &["status", "conditions"]) {
        Some(Value::Array(conditions)) if !conditions.is_empty() => json!(conditions),
        _ => json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]),
    };
    definition["status"] = json!({
        "conditions": conditions,
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": stored_before,
    });
}
