//! Names, labels and annotations.

use serde_json::{Value, json};

use super::super::error::FieldFault;
use super::super::lookup::{at, text};
use super::ResourceType;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
    an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
    regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

/// Faults in `metadata`: the name by the kind's rule, labels and annotations.
pub(in super::super) fn name_faults(kind: &ResourceType, value: &Value) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    let name = text(value, &["metadata", "name"]);
    if name.is_empty() {
        faults.push(FieldFault::required("metadata.name", "name or generateName is required"));
    } else if let Some(detail) = name_fault(kind, name) {
        faults.push(FieldFault::invalid("metadata.name", &json!(name), detail));
    }
    for (key, value) in entries(value, "labels") {
        let field = "metadata.labels";
        if !is_qualified(key) {
            faults.push(FieldFault::invalid(field, &json!(key), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
        let content = value.as_str().unwrap_or_default();
        if !is_label_value(content) {
            faults.push(FieldFault::invalid(field, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
    }
    for (key, _) in entries(value, "annotations") {
        if !is_qualified(&key.to_lowercase()) {
            faults.push(FieldFault::invalid("metadata.annotations", &json!(key), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
    }
    faults
}

fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    at(value, &["metadata", key]).and_then(Value::as_object).into_iter().flatten()
}

fn name_fault(kind: &ResourceType, name: &str) -> Option<&'static str> {
    match kind.group.as_str() {
        // Any path segment will do.
        "rbac.authorization.k8s.io" => {
            (name == "." || name == ".." || name.contains(['/', '%'])).then_some("may not contain '/' or '%'")
        }
        "" if kind.plural == "namespaces" => (!is_label(name)).then_some(LABEL),
        "" if kind.plural == "services" => {
            (!is_label(name) || name.starts_with(|c: char| c.is_ascii_digit())).then_some(LABEL_1035)
        }
        _ => (!is_subdomain(name)).then_some(SUBDOMAIN),
    }
}

/// An RFC 1123 label of at most 63 characters.
pub(super) fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

/// A label or annotation key: `[prefix/]name`.
pub(super) fn is_qualified(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// A label's value: empty, or up to 63 characters between alphanumeric ends.
pub(super) fn is_label_value(value: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= 63
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && value.starts_with(ends)
            && value.ends_with(ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, subdomain, label) in [
            ("a", true, true),
            ("a.b-c", true, false),
            ("A", false, false),
            ("-a", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_subdomain(name), is_label(name)), (subdomain, label), "{name:?}");
        }
        for (key, valid) in
            [("app", true), ("k8s.io/App_1", true), ("/x", false), ("a/b/c", false), ("x-", false)]
        {
            assert_eq!(is_qualified(key), valid, "{key:?}");
        }
    }
}
