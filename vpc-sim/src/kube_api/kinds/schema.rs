//! Structural schemas of custom resources: pruning, defaults and checks.
//!
//! Patterns, formats and validation rules (CEL) are not evaluated.

use serde_json::{Map, Value, json};

use super::super::error::FieldFault;

/// Removes fields that the schema doesn't name and collects their paths.
pub(super) fn prune(value: &mut Value, schema: &Value, path: &str, unknown: &mut Vec<String>) {
    let keeps = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    let embedded = schema.get("x-kubernetes-embedded-resource") == Some(&json!(true));
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let rest = schema.get("additionalProperties");
            map.retain(|key, value| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if let Some(schema) = properties.and_then(|properties| properties.get(key)) {
                    prune(value, schema, &path, unknown);
                    return true;
                }
                if let Some(rest) = rest.filter(|rest| **rest != json!(false)) {
                    prune(value, rest, &path, unknown);
                    return true;
                }
                let free = keeps || embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
                if !free {
                    unknown.push(path);
                }
                free
            });
        }
        Value::Array(list) => {
            if let Some(schema) = schema.get("items") {
                for (n, item) in list.iter_mut().enumerate() {
                    prune(item, schema, &format!("{path}[{n}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the defaults of absent fields, and removes nulls where the schema forbids them.
pub(super) fn fill_in(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            let none = Map::new();
            let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
            for (key, schema) in properties {
                let nullable = schema.get("nullable") == Some(&json!(true));
                if map.get(key).is_some_and(Value::is_null) && !nullable {
                    map.shift_remove(key);
                }
                if !map.contains_key(key)
                    && let Some(default) = schema.get("default")
                {
                    map.insert(key.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(key) {
                    fill_in(value, schema);
                }
            }
            if let Some(rest) = schema.get("additionalProperties").filter(|rest| rest.is_object()) {
                for (_, value) in map.iter_mut().filter(|(key, _)| !properties.contains_key(*key)) {
                    fill_in(value, rest);
                }
            }
        }
        Value::Array(list) => {
            if let Some(schema) = schema.get("items") {
                list.iter_mut().for_each(|item| fill_in(item, schema));
            }
        }
        _ => {}
    }
}

/// Checks types, required fields, enums, bounds and lengths.
pub(super) fn check(value: &Value, schema: &Value, path: &str, faults: &mut Vec<FieldFault>) {
    if value.is_null() && schema.get("nullable") == Some(&json!(true)) {
        return;
    }
    if !has_type(value, schema) {
        let wanted = schema["type"].as_str().unwrap_or("integer or string");
        let detail = format!("{path} in body must be of type {wanted}: {:?}", type_name(value));
        faults.push(FieldFault {
            field: path.to_owned(),
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {:?}: {detail}", type_name(value)),
        });
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let texts: Vec<String> =
            allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let names: Vec<&str> = texts.iter().map(String::as_str).collect();
        faults.push(FieldFault::unsupported(path, value, &names));
    }
    check_bounds(value, schema, path, faults);
    match value {
        Value::Object(map) => {
            for key in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                let key = key.as_str().unwrap_or_default();
                if !map.contains_key(key) {
                    faults.push(FieldFault::required(join(path, key), ""));
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let rest = schema.get("additionalProperties").filter(|rest| rest.is_object());
            for (key, value) in map {
                let schema = properties.and_then(|properties| properties.get(key)).or(rest);
                if let Some(schema) = schema {
                    check(value, schema, &join(path, key), faults);
                }
            }
        }
        Value::Array(list) => {
            if let Some(schema) = schema.get("items") {
                for (n, item) in list.iter().enumerate() {
                    check(item, schema, &format!("{path}[{n}]"), faults);
                }
            }
        }
        _ => {}
    }
}

fn check_bounds(value: &Value, schema: &Value, path: &str, faults: &mut Vec<FieldFault>) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (size, [least, most], words) = match value {
        Value::Number(number) => {
            let words = ["be greater than or equal to", "be less than or equal to", ""];
            (number.as_f64().unwrap_or_default(), ["minimum", "maximum"], words)
        }
        Value::String(text) => {
            let words = ["be at least", "be at most", " chars long"];
            (text.chars().count() as f64, ["minLength", "maxLength"], words)
        }
        Value::Array(list) => {
            (list.len() as f64, ["minItems", "maxItems"], ["have at least", "have at most", " items"])
        }
        Value::Object(map) => {
            let words = ["have at least", "have at most", " properties"];
            (map.len() as f64, ["minProperties", "maxProperties"], words)
        }
        _ => return,
    };
    let mut fault = |verb: &str, limit: f64| {
        let detail = format!("{path} in body should {verb} {limit}{}", words[2]);
        faults.push(FieldFault::invalid(path, value, &detail));
    };
    if let Some(limit) = bound(least).filter(|&limit| size < limit) {
        fault(words[0], limit);
    }
    if let Some(limit) = bound(most).filter(|&limit| size > limit) {
        fault(words[1], limit);
    }
}

fn has_type(value: &Value, schema: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The value at a simple path of printer columns: `.spec.replicas`, `.a[0].b`,
/// `.status.conditions[?(@.type=="Ready")].status`.
pub(in super::super) fn at_json_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = value;
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            // A backslash takes a dot literally, as in label keys.
            let (mut key, mut end, mut escaped) = (String::new(), after.len(), false);
            for (at, c) in after.char_indices() {
                match c {
                    _ if escaped => {
                        key.push(c);
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '.' | '[' => {
                        end = at;
                        break;
                    }
                    c => key.push(c),
                }
            }
            value = value.get(&key)?;
            rest = &after[end..];
        } else {
            let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
            value = match index.strip_prefix("?(@.").and_then(|test| test.strip_suffix(')')) {
                Some(test) => {
                    let (key, wanted) = test.split_once("==")?;
                    let wanted = wanted.trim().trim_matches(['"', '\'']);
                    let matches =
                        |item: &&Value| item.get(key.trim()).and_then(Value::as_str) == Some(wanted);
                    value.as_array()?.iter().find(matches)?
                }
                None => match index.parse::<usize>() {
                    Ok(index) => value.get(index)?,
                    Err(_) => value.get(index.trim_matches(['"', '\'']))?,
                },
            };
            rest = after;
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object", "required": ["subnet"],
            "properties": {
                "subnet": {"type": "string", "minLength": 1},
                "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                "groups": {"type": "array", "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "port": {"x-kubernetes-int-or-string": true},
            },
        }}})
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut value = json!({"spec": {"subnet": "s", "typo": 1, "free": {"any": 1}, "groups": null}});
        let mut unknown = Vec::new();
        prune(&mut value, &schema(), "", &mut unknown);
        fill_in(&mut value, &schema());
        assert_eq!(unknown, ["spec.typo"]);
        assert_eq!(value, json!({"spec": {"subnet": "s", "free": {"any": 1}, "mode": "a"}}));
    }

    #[test]
    fn faults_name_their_field() {
        for (value, field) in [
            (json!({}), "spec"),
            (json!({"spec": {}}), "spec.subnet"),
            (json!({"spec": {"subnet": 1}}), "spec.subnet"),
            (json!({"spec": {"subnet": ""}}), "spec.subnet"),
            (json!({"spec": {"subnet": "s", "mode": "c"}}), "spec.mode"),
            (json!({"spec": {"subnet": "s", "groups": [1]}}), "spec.groups[0]"),
            (json!({"spec": {"subnet": "s", "port": []}}), "spec.port"),
        ] {
            let mut faults = Vec::new();
            check(&value, &schema(), "", &mut faults);
            let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(fields, [field], "{value}");
        }
    }

    #[test]
    fn json_paths() {
        let value = json!({
            "spec": {"n": [1, {"m": "x"}], "a.b": 2},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (path, expected) in [
            (".spec.n[0]", Some(json!(1))),
            (".spec.n[1].m", Some(json!("x"))),
            (".spec.a\\.b", Some(json!(2))),
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".status.conditions[?(@.type=='Other')].status", None),
            (".missing.x", None),
        ] {
            assert_eq!(at_json_path(&value, path).cloned(), expected, "{path}");
        }
    }
}
