//! One object as it is kept.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::super::kinds::{ResourceType, selectable_fields};
use super::super::lookup::text;

/// One version of one object; it never changes.
///
/// The text is kept ready to be sent, because lists and watches send it far
/// more often than anybody looks inside.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Stored {
    pub(in super::super) namespace: String,
    pub(in super::super) name: String,
    pub(in super::super) version: u64,
    labels: Vec<(String, String)>,
    fields: Vec<(&'static str, String)>,
    /// The JSON object without its opening brace, `kind` and `apiVersion`.
    tail: Bytes,
}

impl Stored {
    /// Takes `value` (in the form that is kept) with `metadata.resourceVersion`
    /// already set, and the values of its selectable fields.
    pub(in super::super) fn new(value: &Value, version: u64, fields: Vec<(&'static str, String)>) -> Self {
        let labels = value["metadata"]["labels"].as_object().map(|labels| {
            let pair = |(key, value): (&String, &Value)| {
                (key.clone(), value.as_str().unwrap_or_default().to_owned())
            };
            labels.iter().map(pair).collect()
        });
        Self {
            namespace: text(value, &["metadata", "namespace"]).to_owned(),
            name: text(value, &["metadata", "name"]).to_owned(),
            version,
            labels: labels.unwrap_or_default(),
            fields,
            tail: tail(value),
        }
    }

    pub(super) fn of(kind: &ResourceType, value: &Value, version: u64) -> Self {
        Self::new(value, version, selectable_fields(kind, value))
    }

    pub(in super::super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a field that selectors may name.
    pub(in super::super) fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            path => self.fields.iter().find(|(name, _)| *name == path).map(|(_, value)| value.as_str()),
        }
    }

    /// The object without its opening brace, `kind` and `apiVersion`.
    pub(in super::super) fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// The object in the form of `kind`'s version.
    pub(in super::super) fn value(&self, kind: &ResourceType) -> Value {
        kind.show(self.stored_value(kind))
    }

    /// The object in the form that is kept, under `kind`'s name and version.
    pub(super) fn stored_value(&self, kind: &ResourceType) -> Value {
        let mut text = Vec::with_capacity(self.tail.len() + 64);
        text.extend_from_slice(kind.head().as_bytes());
        text.extend_from_slice(&self.tail);
        // Written by `tail` below, so it parses.
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The same state under another version.
    pub(in super::super) fn at_version(&self, kind: &ResourceType, version: u64) -> Self {
        let mut value = self.stored_value(kind);
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        Self::of(kind, &value, version)
    }

    /// Key in its collection: `namespace/name`, or the name alone.
    pub(super) fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }
}

/// Key of an object in its collection; the order of lists is the order of keys.
pub(super) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn tail(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    let entries = value.as_object().into_iter().flatten();
    for (key, value) in entries.filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion")) {
        if !out.is_empty() {
            out.push(b',');
        }
        // Writing a `Value` to memory can't fail.
        let _ = serde_json::to_writer(&mut out, key);
        out.push(b':');
        let _ = serde_json::to_writer(&mut out, value);
    }
    out.push(b'}');
    out.into()
}
