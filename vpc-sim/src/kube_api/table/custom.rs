//! Custom resources: the columns that their definition names.

use serde_json::{Value, json};

use super::super::kinds::{CustomVersion, at_json_path};
use super::super::lookup::text;
use super::{age, age::since, definition, name};

pub(super) fn columns(custom: &CustomVersion) -> Vec<Value> {
    let mut columns = vec![definition("Name", "string", "name", "", 0)];
    for column in &custom.columns {
        let priority = column["priority"].as_u64().and_then(|priority| u8::try_from(priority).ok());
        let (format, description) = (text(column, &["format"]), text(column, &["description"]));
        // Dates are sent as ages, as texts.
        let kind = text(column, &["type"]);
        columns.push(definition(text(column, &["name"]), kind, format, description, priority.unwrap_or(0)));
    }
    if custom.columns.is_empty() {
        columns.push(definition("Age", "date", "", "", 0));
    }
    columns
}

pub(super) fn cells(custom: &CustomVersion, object: &Value) -> Vec<Value> {
    let mut cells = vec![json!(name(object))];
    for column in &custom.columns {
        let value = at_json_path(object, text(column, &["jsonPath"]));
        cells.push(match (text(column, &["type"]), value) {
            ("date", value) => json!(since(value.and_then(Value::as_str).unwrap_or_default())),
            ("string", Some(value)) if !value.is_string() => json!(value.to_string()),
            (_, Some(value)) => value.clone(),
            (_, None) => Value::Null,
        });
    }
    if custom.columns.is_empty() {
        cells.push(age(object));
    }
    cells
}
