//! Creating objects.

use rand::RngExt as _;
use serde_json::{Map, Value, json};

use super::super::clock;
use super::super::error::{ApiError, FieldFault};
use super::super::kinds::{CRDS, PODS, ResourceType, SERVICES, check_create, prepare_definition};
use super::super::lookup::{as_object, object, text};
use super::object::{Stored, key};
use super::options::{Strictness, WriteOptions, Written};
use super::{State, Store};

impl Store {
    /// Creates an object.
    ///
    /// # Errors
    /// As the API answers them: 400 for what cannot be read, 403 and 404 about
    /// the namespace, 409 if it exists, 422 for what is invalid.
    pub(in super::super) fn create(
        &self,
        kind: &ResourceType,
        namespace: Option<&str>,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let warnings = read_object(kind, &mut value, options.strictness)?;
        let mut value = kind.keep(value);
        let meta = object(as_object(&mut value), "metadata");
        if meta.get("resourceVersion").is_some_and(|version| version != "") {
            return Err(ApiError::unexplained("resourceVersion should not be set on objects to be created"));
        }
        for key in [
            "resourceVersion",
            "managedFields",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            meta.shift_remove(key);
        }
        settle_namespace_field(meta, namespace)?;
        meta.insert("uid".into(), json!(new_uid()));
        meta.insert("creationTimestamp".into(), json!(clock::now()));
        if kind.has_generation() {
            meta.insert("generation".into(), json!(1));
        }
        // A kubelet registers its node together with the status.
        if kind.has_status && kind.kind != "Node" && !options.with_status {
            as_object(&mut value).shift_remove("status");
        }

        let mut state = self.lock();
        let name = state.choose_name(kind, namespace, &mut value);
        if let Some(namespace) = namespace {
            state.admit(kind, &name, namespace)?;
        }
        prepare(kind, &mut value);
        let mut faults = check_create(kind, &value);
        let key = key(namespace.unwrap_or_default(), &name);
        if faults.is_empty() && state.get(kind, &key).is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        if faults.is_empty() && kind.is(SERVICES) {
            faults = state.allocate(None, &mut value);
        }
        if !faults.is_empty() {
            return Err(ApiError::invalid(kind, &name, &faults));
        }
        if options.dry_run {
            return Ok(Written { object: Stored::of(kind, &value, state.version).into(), warnings });
        }
        let object = state.put(kind, value);
        if kind.is(CRDS) {
            state.serve_definitions();
        }
        Ok(Written { object, warnings })
    }
}

/// Checks that `value` is of this kind, and reads it. Returns warnings.
pub(super) fn read_object(
    kind: &ResourceType,
    value: &mut Value,
    strictness: Strictness,
) -> Result<Vec<String>, ApiError> {
    let Value::Object(map) = value else {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    };
    let expected = kind.api_version();
    let found = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if !found.is_empty() && found != expected {
        return Err(ApiError::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: the API version in the data ({found}) does not \
             match the expected API version ({expected})",
            kind.kind,
            found.rsplit('/').next().unwrap_or_default(),
        )));
    }
    let found = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !found.is_empty() && found != kind.kind {
        return Err(ApiError::bad_request(format!(
            "{found} in version {:?} cannot be handled as a {}: converting ({found}) to ({}): unknown conversion",
            kind.version, kind.kind, kind.kind,
        )));
    }
    if kind.is_custom() && ["kind", "apiVersion"].iter().any(|key| !map.contains_key(*key)) {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): its kind or apiVersion is missing",
            kind.kind,
        )));
    }
    for key in ["kind", "apiVersion"] {
        map.shift_remove(key);
    }
    map.shift_insert(0, "kind".into(), json!(kind.kind));
    map.shift_insert(1, "apiVersion".into(), json!(expected));
    let unknown = kind.read(value)?;
    let lines = unknown.iter().map(|path| format!("unknown field {path:?}"));
    match strictness {
        Strictness::Ignore => Ok(Vec::new()),
        Strictness::Warn => Ok(lines.collect()),
        Strictness::Strict if unknown.is_empty() => Ok(Vec::new()),
        Strictness::Strict => Err(ApiError::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: strict decoding error: {2}",
            kind.kind,
            kind.version,
            lines.collect::<Vec<_>>().join(", "),
        ))),
    }
}

/// What the server sets by itself in a kind's objects, and the defaults.
pub(super) fn prepare(kind: &ResourceType, value: &mut Value) {
    kind.fill_in(value);
    if kind.is(PODS) {
        super::pods::set_quality(value);
    }
    if kind.is(CRDS) {
        prepare_definition(value);
    }
}

/// The object's namespace is that of the request.
fn settle_namespace_field(meta: &mut Map<String, Value>, namespace: Option<&str>) -> Result<(), ApiError> {
    let found = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let Some(namespace) = namespace else {
        meta.shift_remove("namespace");
        return Ok(());
    };
    if !found.is_empty() && found != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta.insert("namespace".into(), json!(namespace));
    Ok(())
}

impl State {
    /// The object's name; made from `generateName` where it has none.
    fn choose_name(&self, kind: &ResourceType, namespace: Option<&str>, value: &mut Value) -> String {
        let name = text(value, &["metadata", "name"]);
        let base = text(value, &["metadata", "generateName"]);
        if !name.is_empty() || base.is_empty() {
            return name.to_owned();
        }
        // As long as the real server allows, so that the suffix still fits.
        let base: String = base.chars().take(58).collect();
        let name = loop {
            let name = format!("{base}{}", random_suffix());
            if self.get(kind, &key(namespace.unwrap_or_default(), &name)).is_none() {
                break name;
            }
        };
        value["metadata"]["name"] = json!(name);
        name
    }

    /// Serves the custom resources of all definitions.
    pub(super) fn serve_definitions(&mut self) {
        let Some(kind) = self.kind_of(CRDS) else { return };
        let definitions: Vec<Value> = self
            .collection(&kind)
            .map(|collection| collection.range(None, None).map(|one| one.stored_value(&kind)).collect())
            .unwrap_or_default();
        let mut types = super::builtins();
        for definition in &definitions {
            types.extend(super::super::kinds::custom_types(definition));
        }
        self.set_types(types);
    }
}

/// Five characters that make no words, as the real server chooses them.
fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// A random UUID (version 4).
fn new_uid() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The fault of a PUT that doesn't say which version it replaces.
pub(super) fn version_required() -> FieldFault {
    FieldFault::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update")
}
