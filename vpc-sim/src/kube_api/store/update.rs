//! Changing objects: replace, patch, and their subresources.

use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::kinds::{CRDS, NAMESPACES, ResourceType, SERVICES, check_update};
use super::super::lookup::{as_object, at, copy_or_remove, int, items, object, text};
use super::create::{prepare, read_object, version_required};
use super::object::{Stored, key};
use super::options::{Part, WriteOptions, Written};
use super::{State, Store};

/// Metadata that only the server sets.
const SERVER_OWNED: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
];

impl Store {
    /// Changes one object: `change` gets it as it is, in the form of `kind`'s
    /// version, and returns it as it shall be. If that says a
    /// `metadata.resourceVersion`, it must be the current one.
    ///
    /// An unchanged object keeps its version, and nobody is told.
    ///
    /// # Errors
    /// Those of `change`, and as the API answers them.
    pub(in super::super) fn update(
        &self,
        kind: &ResourceType,
        (namespace, name): (Option<&str>, &str),
        part: Part,
        options: &WriteOptions,
        change: impl FnOnce(Value) -> Result<Value, ApiError>,
    ) -> Result<Written, ApiError> {
        let mut state = self.lock();
        let key = key(namespace.unwrap_or_default(), name);
        let current = state.get(kind, &key).ok_or_else(|| ApiError::not_found(kind, name))?;
        let old = current.stored_value(kind);
        let mut new = change(kind.show(old.clone()))?;
        let warnings = read_object(kind, &mut new, options.strictness)?;
        let mut new = kind.keep(new);
        check_identity(kind, namespace, name, &old, &new)?;
        keep_what_is_not_ours(kind, part, &old, &mut new);
        prepare(kind, &mut new);
        if new == old {
            return Ok(Written { object: current, warnings });
        }
        let mut faults = match part {
            Part::Main => check_update(kind, &old, &new),
            Part::Status if kind.is_custom() => check_update(kind, &old, &new),
            Part::Status | Part::Finalize => Vec::new(),
        };
        if faults.is_empty() && kind.is(SERVICES) {
            faults = state.allocate(Some(&old), &mut new);
        }
        if !faults.is_empty() {
            return Err(ApiError::invalid(kind, name, &faults));
        }
        if kind.has_generation() && body(&old) != body(&new) {
            let next = int(&old, &["metadata", "generation"]).unwrap_or(0) + 1;
            new["metadata"]["generation"] = json!(next);
        }
        if options.dry_run {
            return Ok(Written { object: Stored::of(kind, &new, current.version).into(), warnings });
        }
        let object = if is_finished(kind, &new) {
            state.remove(kind, new)
        } else {
            let object = state.put(kind, new);
            if kind.is(CRDS) {
                state.serve_definitions();
            }
            object
        };
        Ok(Written { object, warnings })
    }
}

impl State {
    /// Removes an object for good, and what only waited for that.
    pub(super) fn remove(&mut self, kind: &ResourceType, last: Value) -> std::sync::Arc<Stored> {
        let object = self.take_out(kind, last);
        if kind.is(CRDS) {
            self.serve_definitions();
        }
        if !object.namespace.is_empty() {
            self.finish_namespace(&object.namespace);
        }
        if kind.is_custom() {
            self.finish_definition(kind);
        }
        object
    }
}

fn check_identity(
    kind: &ResourceType,
    namespace: Option<&str>,
    name: &str,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    let meta = |key| text(new, &["metadata", key]);
    if meta("name") != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            meta("name"),
        )));
    }
    if let Some(namespace) = namespace
        && !meta("namespace").is_empty()
        && meta("namespace") != namespace
    {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the URL ({namespace})",
            meta("namespace"),
        )));
    }
    let uid = text(old, &["metadata", "uid"]);
    if !meta("uid").is_empty() && meta("uid") != uid {
        let why =
            format!("Precondition failed: UID in precondition: {}, UID in object meta: {uid}", meta("uid"));
        return Err(ApiError::conflict(kind, name, &why));
    }
    match meta("resourceVersion") {
        "" if kind.needs_version() => {
            Err(ApiError::invalid_kind(&kind.group, &kind.plural, name, &[version_required()]))
        }
        "" => Ok(()),
        version if version == text(old, &["metadata", "resourceVersion"]) => Ok(()),
        _ => Err(ApiError::modified(kind, name)),
    }
}

/// Takes from `old` everything that a write of this part may not change.
fn keep_what_is_not_ours(kind: &ResourceType, part: Part, old: &Value, new: &mut Value) {
    let root = as_object(new);
    let meta = object(root, "metadata");
    for key in SERVER_OWNED.into_iter().chain(["namespace", "generateName"]) {
        copy_or_remove(meta, old.get("metadata"), key);
    }
    for key in ["managedFields", "selfLink"] {
        meta.shift_remove(key);
    }
    match part {
        Part::Main => {
            if kind.has_status {
                copy_or_remove(root, Some(old), "status");
            }
            // Only the finalize subresource changes these.
            if kind.is(NAMESPACES) {
                copy_or_remove(object(root, "spec"), old.get("spec"), "finalizers");
            }
            // Emptied means kept, here.
            if kind.is(SERVICES) {
                let spec = object(root, "spec");
                if spec.get("clusterIP").is_none_or(|address| address == "")
                    && at(old, &["spec", "clusterIP"]).is_some()
                    && spec.get("type") != Some(&json!("ExternalName"))
                {
                    for key in ["clusterIP", "clusterIPs"] {
                        copy_or_remove(spec, old.get("spec"), key);
                    }
                }
            }
        }
        Part::Status => {
            copy_or_remove(meta, old.get("metadata"), "ownerReferences");
            if kind.is_custom() {
                copy_or_remove(root, Some(old), "metadata");
            }
            let keys: Vec<String> = root
                .keys()
                .chain(old.as_object().into_iter().flat_map(|old| old.keys()))
                .filter(|key| !matches!(key.as_str(), "metadata" | "status"))
                .cloned()
                .collect();
            for key in keys {
                copy_or_remove(root, Some(old), &key);
            }
        }
        Part::Finalize => {
            let finalizers = root.get("spec").and_then(|spec| spec.get("finalizers")).cloned();
            for key in ["spec", "status"] {
                copy_or_remove(root, Some(old), key);
            }
            let spec = object(root, "spec");
            spec.insert("finalizers".into(), finalizers.unwrap_or_else(|| json!([])));
        }
    }
}

/// Everything that `metadata.generation` counts.
fn body(value: &Value) -> Vec<(&String, &Value)> {
    let entries = value.as_object().into_iter().flatten();
    let mut body: Vec<_> =
        entries.filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status")).collect();
    body.sort_by_key(|(key, _)| *key);
    body
}

/// An object that was only kept by what this write removed.
fn is_finished(kind: &ResourceType, value: &Value) -> bool {
    let deleted = at(value, &["metadata", "deletionTimestamp"]).is_some();
    let held = !items(value, &["metadata", "finalizers"]).is_empty();
    let grace = int(value, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let namespace_held = kind.is(NAMESPACES) && !items(value, &["spec", "finalizers"]).is_empty();
    deleted && !held && grace == 0 && !namespace_held
}
