//! Deleting objects: at once, when their finalizers are gone, or, for pods on
//! a node, when the kubelet says so.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::clock;
use super::super::error::ApiError;
use super::super::kinds::{CRDS, NAMESPACES, PODS, ResourceType};
use super::super::lookup::{at, int, items, text};
use super::object::{Stored, key};
use super::options::{DeleteOptions, ListQuery};
use super::{State, Store};

/// The outcome of a delete.
#[derive(Debug)]
pub(in super::super) enum Deleted {
    /// It is gone; this was its last state.
    Removed(Arc<Stored>),
    /// It stays, marked, until something else happens.
    Marked(Arc<Stored>),
}

impl Deleted {
    pub(in super::super) fn object(&self) -> &Arc<Stored> {
        match self {
            Self::Removed(object) | Self::Marked(object) => object,
        }
    }
}

impl Store {
    /// Deletes one object.
    ///
    /// # Errors
    /// 404 if there is none, 409 if a precondition fails, 403 for the namespaces
    /// that every cluster has.
    pub(in super::super) fn delete(
        &self,
        kind: &ResourceType,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let key = key(namespace.unwrap_or_default(), name);
        self.lock().delete(kind, &key, name, options)
    }

    /// Deletes all objects that the query selects, and returns them.
    ///
    /// # Errors
    /// Those of the list; objects that are gone meanwhile are passed over.
    pub(in super::super) fn delete_all(
        &self,
        kind: &ResourceType,
        namespace: Option<&str>,
        query: &ListQuery,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Stored>>, ApiError> {
        let page = self.list(kind, namespace, query)?;
        let mut deleted = Vec::with_capacity(page.items.len());
        for object in page.items {
            let result = self.lock().delete(kind, &object.key(), &object.name, options);
            match result {
                Ok(outcome) => deleted.push(Arc::clone(outcome.object())),
                Err(error) if error.code() == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

impl State {
    pub(super) fn delete(
        &mut self,
        kind: &ResourceType,
        key: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let current = self.get(kind, key).ok_or_else(|| ApiError::not_found(kind, name))?;
        let mut value = current.stored_value(kind);
        check_preconditions(kind, name, &value, options)?;
        if kind.is(NAMESPACES) {
            return self.delete_namespace(kind, current, value, options);
        }
        let grace = if kind.is(PODS) { super::pods::grace_seconds(&value, options) } else { 0 };
        let marked = at(&value, &["metadata", "deletionTimestamp"]).is_some();
        // Instances are deleted with their definition, which waits for them.
        let instances = kind.is(CRDS) && !options.dry_run && !self.delete_instances(&value);
        let held = !items(&value, &["metadata", "finalizers"]).is_empty() || instances;
        if grace == 0 && !held {
            if options.dry_run {
                return Ok(Deleted::Removed(current));
            }
            if kind.is(PODS) {
                mark(&mut value, 0);
            }
            return Ok(Deleted::Removed(self.remove(kind, value)));
        }
        let pending = int(&value, &["metadata", "deletionGracePeriodSeconds"]);
        if marked && pending.is_none_or(|pending| pending <= grace) {
            return Ok(Deleted::Marked(current));
        }
        mark(&mut value, grace);
        if options.dry_run {
            return Ok(Deleted::Marked(Stored::of(kind, &value, current.version).into()));
        }
        Ok(Deleted::Marked(self.put(kind, value)))
    }

    /// Deletes the objects of a definition; whether none is left.
    fn delete_instances(&mut self, definition: &Value) -> bool {
        let storage = (text(definition, &["spec", "group"]), text(definition, &["spec", "names", "plural"]));
        let Some(kind) = self.kind_of(storage) else { return true };
        self.empty(&kind, None)
    }

    /// Deletes all objects of a kind (in a namespace); whether none is left.
    pub(super) fn empty(&mut self, kind: &ResourceType, namespace: Option<&str>) -> bool {
        let objects: Vec<Arc<Stored>> = self
            .collection(kind)
            .map(|collection| collection.range(namespace, None).cloned().collect())
            .unwrap_or_default();
        for object in objects {
            // It was there under this lock; what stays waits for its finalizers or its kubelet.
            let _ = self.delete(kind, &object.key(), &object.name, &DeleteOptions::default());
        }
        self.collection(kind).is_none_or(|collection| collection.range(namespace, None).next().is_none())
    }

    /// Removes the definition of `kind` if it only waited for its last object.
    pub(super) fn finish_definition(&mut self, kind: &ResourceType) {
        let Some(crds) = self.kind_of(CRDS) else { return };
        let Some(definition) = self.get(&crds, &kind.qualified()) else { return };
        let value = definition.stored_value(&crds);
        let empty =
            self.collection(kind).is_none_or(|collection| collection.range(None, None).next().is_none());
        let held = !items(&value, &["metadata", "finalizers"]).is_empty();
        if empty && !held && at(&value, &["metadata", "deletionTimestamp"]).is_some() {
            self.remove(&crds, value);
        }
    }
}

/// Marks an object as being deleted, `grace` seconds from now.
fn mark(value: &mut Value, grace: i64) {
    let meta = &mut value["metadata"];
    // Only the first mark counts as a change.
    if meta.get("deletionTimestamp").is_none()
        && let Some(generation) = meta["generation"].as_i64()
    {
        meta["generation"] = json!(generation + 1);
    }
    meta["deletionTimestamp"] = json!(clock::after(grace));
    meta["deletionGracePeriodSeconds"] = json!(grace);
}

fn check_preconditions(
    kind: &ResourceType,
    name: &str,
    value: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let checks = [("UID", "uid", &options.uid), ("ResourceVersion", "resourceVersion", &options.version)];
    for (label, field, wanted) in checks {
        let found = text(value, &["metadata", field]);
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "the {label} in the precondition ({wanted}) does not match the {label} in record ({found}). \
                 The object might have been deleted and then recreated"
            );
            return Err(ApiError::other_object(kind, name, &why));
        }
    }
    Ok(())
}
