//! Answers, and what may differ between two of them.

use serde_json::{Value, json};

use super::script::Ask;

/// What a server said.
pub(crate) struct Answer {
    pub(crate) code: u16,
    content_type: Option<String>,
    retry_after: Option<String>,
    /// The JSON documents of the body, one a line or pretty-printed as one.
    pub(crate) lines: Vec<Value>,
}

impl Answer {
    pub(crate) fn new(
        code: u16,
        content_type: Option<String>,
        retry_after: Option<String>,
        text: String,
    ) -> Self {
        let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let lines = documents.collect::<Result<_, _>>().unwrap_or_else(|_| vec![json!(text.trim())]);
        Self { code, content_type, retry_after, lines }
    }
}

/// Different for each server and each run.
const VOLATILE: [&str; 5] =
    ["uid", "creationTimestamp", "resourceVersion", "deletionTimestamp", "lastTransitionTime"];

/// What the reference leaves out (it has few defaults and no cluster
/// addresses), or only it has.
const ONE_SIDED: [&str; 12] = [
    "managedFields",
    "qosClass",
    "clusterIPs",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "revisionHistoryLimit",
    "updateStrategy",
    "allocatable",
    "continue",
    "storageVersionHash",
    "serverAddressByClientCIDRs",
];

/// The differences that matter, one a line.
pub(crate) fn differences(ask: &Ask, real: &Answer, simulated: &Answer) -> Vec<String> {
    let mut out = Vec::new();
    let mut compare = |what: &str, real: &dyn std::fmt::Debug, simulated: &dyn std::fmt::Debug| {
        let (real, simulated) = (format!("{real:?}"), format!("{simulated:?}"));
        if real != simulated {
            out.push(format!("{what}: real {real}, simulated {simulated}"));
        }
    };
    compare("code", &real.code, &simulated.code);
    compare("content type", &real.content_type, &simulated.content_type);
    compare("retry-after", &real.retry_after, &simulated.retry_after);
    let normal = |answer: &Answer| {
        let mut lines = json!(answer.lines);
        normalise(&mut lines, ask.other_words);
        lines
    };
    walk("", &normal(real), &normal(simulated), &mut out);
    out
}

/// Removes what may differ, and Go's zero values, which are written or not.
fn normalise(value: &mut Value, other_words: bool) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !ONE_SIDED.contains(&key.as_str()));
            for (key, value) in map.iter_mut() {
                if VOLATILE.contains(&key.as_str()) {
                    *value = if value.is_null() { Value::Null } else { json!("…") };
                } else if other_words && key == "message" {
                    *value = json!("…");
                } else {
                    normalise(value, other_words);
                }
            }
            map.retain(|key, value| key != "lastTransitionTime" && !is_zero(value));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normalise(item, other_words)),
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn walk(path: &str, real: &Value, simulated: &Value, out: &mut Vec<String>) {
    match (real, simulated) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                walk(&format!("{path}.{key}"), a, b, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{n}]"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path}: real {a}, simulated {b}")),
    }
}
