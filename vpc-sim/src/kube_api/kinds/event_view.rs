//! `events.k8s.io/v1`: the core events under other field names.

use serde_json::{Value, json};

/// New name, old name.
const FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// From `events.k8s.io/v1` to `v1`.
pub(super) fn to_core(mut value: Value) -> Value {
    rename(&mut value, |(new, old)| (new, old));
    value["apiVersion"] = json!("v1");
    // A required field of the core type.
    if value.get("involvedObject").is_none() {
        value["involvedObject"] = json!({});
    }
    value
}

/// From `v1` to `events.k8s.io/v1`.
pub(super) fn from_core(mut value: Value) -> Value {
    rename(&mut value, |(new, old)| (old, new));
    value["apiVersion"] = json!("events.k8s.io/v1");
    value
}

fn rename(value: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Value::Object(map) = value else { return };
    for (from, to) in FIELDS.map(direction) {
        if let Some(field) = map.shift_remove(from) {
            map.insert(to.to_owned(), field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "text", "reason": "Why",
            "reportingController": "tidepool", "action": "Do", "type": "Normal",
        });
        let core = to_core(event.clone());
        assert_eq!(core["involvedObject"]["name"], "p");
        assert_eq!(core["message"], "text");
        assert_eq!(from_core(core), event);
    }
}
