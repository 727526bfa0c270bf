//! Built-in objects, checked against the published types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::error::ApiError;
use super::ResourceType;

/// An object does not have the shape of its type.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub(in super::super) struct DecodeError {
    path: String,
    cause: String,
}

/// Reads `value` as `T` and writes it again: fields that `T` doesn't have are gone.
pub(super) fn decode<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, DecodeError> {
    let typed: T = serde_path_to_error::deserialize(value)
        .map_err(|error| DecodeError { path: error.path().to_string(), cause: error.inner().to_string() })?;
    serde_json::to_value(typed).map_err(|error| DecodeError { path: ".".into(), cause: error.to_string() })
}

/// Checks types, and removes and returns unknown fields.
pub(super) fn read(
    kind: &ResourceType,
    decode: fn(&Value) -> Result<Value, DecodeError>,
    value: &mut Value,
) -> Result<Vec<String>, ApiError> {
    drop_nulls(value);
    quantities_to_text(value);
    let known = decode(value).map_err(|error| {
        ApiError::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: {error}",
            kind.kind, kind.version
        ))
    })?;
    let mut unknown = Vec::new();
    drop_unknown(value, &known, "", &mut unknown);
    Ok(unknown)
}

/// A null is the same as an absent field.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Quantities may be written as numbers (`cpu: 1`); they are kept as text.
fn quantities_to_text(value: &mut Value) {
    const MAPS: [&str; 6] = ["limits", "requests", "capacity", "allocatable", "overhead", "hard"];
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Object(quantities) if MAPS.contains(&key.as_str()) => {
                        for quantity in quantities.values_mut().filter(|one| one.is_number()) {
                            *quantity = Value::String(quantity.to_string());
                        }
                    }
                    Value::Number(number) if key == "sizeLimit" => {
                        *value = Value::String(number.to_string());
                    }
                    other => quantities_to_text(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_to_text),
        _ => {}
    }
}

fn drop_unknown(value: &mut Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (value, known) {
        (Value::Object(map), Value::Object(known)) => {
            map.retain(|key, value| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => {
                        drop_unknown(value, known, &path, unknown);
                        true
                    }
                    None => {
                        unknown.push(path);
                        false
                    }
                }
            });
        }
        (Value::Array(items), Value::Array(known)) => {
            for (at, (item, known)) in items.iter_mut().zip(known).enumerate() {
                drop_unknown(item, known, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::builtins;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_found_and_removed() {
        let types = builtins();
        let pod = types.iter().find(|kind| kind.kind == "Pod").expect("a built-in kind");
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {
                "containers": [{
                    "name": "c", "imagee": "typo",
                    "resources": {"limits": {"cpu": 1, "memory": "64Mi"}},
                    "ports": [{"containerPort": 80, "hostport": 1}],
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        });
        let unknown = pod.read(&mut value).expect("types are right");
        assert_eq!(unknown, ["spec.containers[0].imagee", "spec.containers[0].ports[0].hostport"]);
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a"},
            "spec": {
                "containers": [{
                    "name": "c",
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
                    "ports": [{"containerPort": 80}],
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let types = builtins();
        let pod = types.iter().find(|kind| kind.kind == "Pod").expect("a built-in kind");
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": "eighty"}]}]},
        });
        let error = pod.read(&mut value).expect_err("a port is a number");
        assert_eq!(error.code(), 400);
        assert!(error.to_string().contains("spec.containers[0].ports[0].containerPort"), "{error}");
    }
}
