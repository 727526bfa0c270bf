//! The kinds that the API serves, and each kind's own rules: what may stand in
//! an object, what is filled in, which fields a selector may name.

mod builtin;
mod custom;
mod defaults;
mod event_view;
mod fields;
mod naming;
mod pod_defaults;
mod pod_rules;
mod rules;
mod schema;
mod typed;

use std::sync::Arc;

use serde_json::Value;

pub(super) use builtin::{CRDS, NAMESPACES, PODS, SERVICES, builtins};
pub(super) use custom::{CustomVersion, custom_types, prepare_definition};
pub(super) use fields::{known_fields, selectable_fields};
pub(super) use naming::name_faults;
pub(super) use rules::{check_create, check_update};
pub(super) use schema::at_json_path;

use super::error::ApiError;
use builtin::Builtin;

/// One resource in one version, as discovery shows it.
#[derive(Debug)]
pub(super) struct ResourceType {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) list_kind: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    /// Has a status subresource, so that status is ignored elsewhere.
    pub(super) has_status: bool,
    pub(super) flavour: Flavour,
}

/// Where the rules of a kind come from.
#[derive(Debug)]
pub(super) enum Flavour {
    Builtin(&'static Builtin),
    Custom(Arc<CustomVersion>),
}

impl ResourceType {
    /// `v1` or `group/version`, as `apiVersion` says it.
    pub(super) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pods` or `leases.coordination.k8s.io`, as error messages say it.
    pub(super) fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The group and plural under which the objects are kept: the same for
    /// all versions, and for both groups of events.
    pub(super) fn storage(&self) -> (&str, &str) {
        if self.is_event_view() { ("", "events") } else { (&self.group, &self.plural) }
    }

    /// Whether this is the given built-in resource.
    pub(super) fn is(&self, (group, plural): (&str, &str)) -> bool {
        self.group == group && self.plural == plural
    }

    /// `events.k8s.io` shows the core events under other field names.
    pub(super) fn is_event_view(&self) -> bool {
        self.group == "events.k8s.io" && self.plural == "events"
    }

    pub(super) fn is_custom(&self) -> bool {
        matches!(self.flavour, Flavour::Custom(_))
    }

    /// `metadata.generation` counts the changes outside of metadata and status.
    pub(super) fn has_generation(&self) -> bool {
        match &self.flavour {
            Flavour::Builtin(builtin) => builtin.generation,
            Flavour::Custom(_) => true,
        }
    }

    /// PUT of a missing object creates it.
    pub(super) fn creates_on_put(&self) -> bool {
        matches!(&self.flavour, Flavour::Builtin(builtin) if builtin.create_on_put)
    }

    /// PUT needs the version that it replaces.
    pub(super) fn needs_version(&self) -> bool {
        match &self.flavour {
            Flavour::Builtin(builtin) => builtin.needs_version,
            Flavour::Custom(_) => true,
        }
    }

    /// DELETE answers with the object and not with a `Status`.
    pub(super) fn returns_deleted(&self) -> bool {
        self.is(PODS) || self.is(SERVICES)
    }

    /// The verbs of the resource itself.
    pub(super) const VERBS: [&'static str; 8] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

    /// `{"kind":…,"apiVersion":…,` as every object of this type begins.
    pub(super) fn head(&self) -> String {
        format!(r#"{{"kind":"{}","apiVersion":"{}","#, self.kind, self.api_version())
    }

    /// Turns an object as a client wrote it into the form that is kept, and
    /// returns the paths of the fields that this kind doesn't have (removed).
    pub(super) fn read(&self, value: &mut Value) -> Result<Vec<String>, ApiError> {
        match &self.flavour {
            Flavour::Builtin(builtin) => typed::read(self, builtin.decode, value),
            Flavour::Custom(custom) => Ok(custom.read(value)),
        }
    }

    /// Fills in what clients rely on.
    pub(super) fn fill_in(&self, value: &mut Value) {
        match &self.flavour {
            Flavour::Builtin(_) => defaults::fill_in(self, value),
            Flavour::Custom(custom) => custom.fill_in(value),
        }
    }

    /// From the form of this version to the form that is kept.
    pub(super) fn keep(&self, value: Value) -> Value {
        if self.is_event_view() { event_view::to_core(value) } else { value }
    }

    /// From the form that is kept to the form of this version.
    pub(super) fn show(&self, value: Value) -> Value {
        if self.is_event_view() { event_view::from_core(value) } else { value }
    }
}
