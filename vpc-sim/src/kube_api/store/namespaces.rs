//! Namespaces: who may create in them, and how they go.
//!
//! The store itself stands in for the namespace controller: deleting a
//! namespace deletes its contents at once, and it goes with the last of them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::clock;
use super::super::error::ApiError;
use super::super::kinds::{NAMESPACES, ResourceType};
use super::super::lookup::{at, items};
use super::State;
use super::delete::Deleted;
use super::object::Stored;
use super::options::DeleteOptions;

impl State {
    /// Whether a new object may go into `namespace`.
    ///
    /// # Errors
    /// 404 if the namespace doesn't exist, 403 if it is being deleted.
    pub(super) fn admit(&self, kind: &ResourceType, name: &str, namespace: &str) -> Result<(), ApiError> {
        let object = self
            .kind_of(NAMESPACES)
            .and_then(|namespaces| self.get(&namespaces, namespace))
            .ok_or_else(|| ApiError::namespace_not_found(namespace))?;
        match object.field("status.phase") {
            Some("Terminating") => Err(ApiError::terminating(kind, name, namespace)),
            _ => Ok(()),
        }
    }

    /// Marks a namespace, empties it, and removes it if that left nothing.
    pub(super) fn delete_namespace(
        &mut self,
        kind: &ResourceType,
        current: Arc<Stored>,
        mut value: Value,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let name = current.name.clone();
        if matches!(name.as_str(), "default" | "kube-system" | "kube-public") {
            return Err(ApiError::forbidden(kind, &name, "this namespace may not be deleted"));
        }
        let mut marked = current;
        if at(&value, &["metadata", "deletionTimestamp"]).is_none() {
            value["metadata"]["deletionTimestamp"] = json!(clock::now());
            value["status"]["phase"] = json!("Terminating");
            if options.dry_run {
                return Ok(Deleted::Marked(Stored::of(kind, &value, marked.version).into()));
            }
            marked = self.put(kind, value);
        } else if options.dry_run {
            return Ok(Deleted::Marked(marked));
        }
        for kind in self.types.clone().iter().filter(|kind| kind.namespaced && !kind.is_event_view()) {
            self.empty(kind, Some(&name));
        }
        self.finish_namespace(&name);
        Ok(Deleted::Marked(marked))
    }

    /// Removes a namespace that is being deleted and holds nothing any more.
    pub(super) fn finish_namespace(&mut self, name: &str) {
        let Some(kind) = self.kind_of(NAMESPACES) else { return };
        let Some(namespace) = self.get(&kind, name) else { return };
        if namespace.field("status.phase") != Some("Terminating") {
            return;
        }
        let holds_something = self.types.iter().filter(|kind| kind.namespaced).any(|kind| {
            self.collection(kind)
                .is_some_and(|collection| collection.range(Some(name), None).next().is_some())
        });
        let mut value = namespace.stored_value(&kind);
        if holds_something || at(&value, &["metadata", "deletionTimestamp"]).is_none() {
            return;
        }
        // Ours is done; others' finalizers may still hold it.
        let others: Vec<Value> = items(&value, &["spec", "finalizers"])
            .iter()
            .filter(|one| *one != "kubernetes")
            .cloned()
            .collect();
        let held = !others.is_empty() || !items(&value, &["metadata", "finalizers"]).is_empty();
        let changed = items(&value, &["spec", "finalizers"]).len() != others.len();
        value["spec"]["finalizers"] = json!(others);
        if held {
            if changed {
                self.put(&kind, value);
            }
            return;
        }
        self.take_out(&kind, value);
    }
}
