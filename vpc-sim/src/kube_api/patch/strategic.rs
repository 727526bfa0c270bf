//! Strategic merge patch: a merge patch that knows the keys of lists.
//!
//! The directives are `$patch`, `$retainKeys`, `$setElementOrder/…` and
//! `$deleteFromPrimitiveList/…`, with the meanings of
//! k8s.io/apimachinery/pkg/util/strategicpatch.

use serde_json::{Map, Value, json};

use super::merge_keys::{ListMerge, list_merge};

const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Applies `patch` to `object`, an object of the built-in `kind`.
pub(super) fn merge(kind: &str, object: &mut Value, patch: &Value) -> Result<(), String> {
    Merge { kind, path: Vec::new() }.value(object, patch)
}

/// One descent into an object and its patch.
struct Merge<'a> {
    kind: &'a str,
    /// Field names from the root, without indices.
    path: Vec<&'a str>,
}

impl<'a> Merge<'a> {
    fn value(&mut self, target: &mut Value, patch: &'a Value) -> Result<(), String> {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => self.object(target, patch),
            (target, Value::Object(patch)) => {
                let mut fresh = Map::new();
                self.object(&mut fresh, patch)?;
                *target = Value::Object(fresh);
                Ok(())
            }
            (target, patch) => {
                *target = patch.clone();
                Ok(())
            }
        }
    }

    fn object(
        &mut self,
        target: &mut Map<String, Value>,
        patch: &'a Map<String, Value>,
    ) -> Result<(), String> {
        match patch.get("$patch").and_then(Value::as_str) {
            None | Some("merge") => {}
            Some("replace") => {
                *target = patch
                    .iter()
                    .filter(|(key, _)| *key != "$patch")
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                return Ok(());
            }
            Some("delete") => {
                target.clear();
                return Ok(());
            }
            Some(other) => return Err(format!("unknown patch type found in map: {other}")),
        }
        if let Some(Value::Array(keys)) = patch.get("$retainKeys") {
            target.retain(|key, _| keys.iter().any(|kept| kept == key));
        }
        for (key, value) in patch {
            if key.starts_with('$') {
                continue;
            }
            self.path.push(key);
            let done = self.field(target, key, value, patch.get(&format!("{ORDER}{key}")));
            self.path.pop();
            done?;
        }
        // Directives whose list is not in the patch itself.
        for (key, value) in patch {
            let Some(list) = value.as_array() else { continue };
            if let Some(field) = key.strip_prefix(DELETE_FROM) {
                if let Some(Value::Array(items)) = target.get_mut(field) {
                    items.retain(|item| !list.contains(item));
                }
            } else if let Some(field) = key.strip_prefix(ORDER)
                && !patch.contains_key(field)
            {
                self.path.push(field);
                let rule = list_merge(self.kind, &self.path);
                self.path.pop();
                if let Some(Value::Array(items)) = target.get_mut(field) {
                    let server_order = items.clone();
                    sort_by_order(items, list, &server_order, rule);
                }
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        target: &mut Map<String, Value>,
        key: &'a str,
        value: &'a Value,
        order: Option<&'a Value>,
    ) -> Result<(), String> {
        match value {
            Value::Null => {
                target.shift_remove(key);
            }
            Value::Object(_) => {
                let deletes = value.get("$patch") == Some(&json!("delete"));
                if deletes {
                    target.shift_remove(key);
                } else {
                    self.value(target.entry(key).or_insert_with(|| json!({})), value)?;
                }
            }
            Value::Array(items) => {
                let rule = list_merge(self.kind, &self.path);
                let slot = target.entry(key).or_insert_with(|| json!([]));
                let mut merged = match slot {
                    Value::Array(old) => std::mem::take(old),
                    _ => Vec::new(),
                };
                let server_order = merged.clone();
                self.list(&mut merged, items, rule)?;
                // Without an order of its own, the patch's list is one.
                let order = order.and_then(Value::as_array).unwrap_or(items);
                sort_by_order(&mut merged, order, &server_order, rule);
                *slot = Value::Array(merged);
            }
            plain => {
                target.insert(key.to_owned(), plain.clone());
            }
        }
        Ok(())
    }

    fn list(&mut self, target: &mut Vec<Value>, patch: &'a [Value], rule: ListMerge) -> Result<(), String> {
        match rule {
            ListMerge::Replace => *target = patch.to_vec(),
            ListMerge::Set => {
                for item in patch {
                    if !target.contains(item) {
                        target.push(item.clone());
                    }
                }
            }
            ListMerge::ByKey(key) => self.list_by_key(target, patch, key)?,
        }
        Ok(())
    }

    fn list_by_key(&mut self, target: &mut Vec<Value>, patch: &'a [Value], key: &str) -> Result<(), String> {
        let directive = |item: &Value, name: &str| item.get("$patch") == Some(&json!(name));
        if patch.iter().any(|item| directive(item, "replace")) {
            *target = patch.iter().filter(|item| !directive(item, "replace")).cloned().collect();
            return Ok(());
        }
        for item in patch {
            let Some(id) = item.get(key) else {
                return Err(format!("map: {item} does not contain declared merge key: {key}"));
            };
            if directive(item, "delete") {
                target.retain(|old| old.get(key) != Some(id));
                continue;
            }
            match target.iter_mut().find(|old| old.get(key) == Some(id)) {
                Some(old) => self.value(old, item)?,
                None => {
                    let mut fresh = json!({});
                    self.value(&mut fresh, item)?;
                    target.push(fresh);
                }
            }
        }
        Ok(())
    }
}

/// What two items of a list are compared by.
fn identity(item: &Value, rule: ListMerge) -> &Value {
    match rule {
        ListMerge::ByKey(key) => item.get(key).unwrap_or(item),
        ListMerge::Set | ListMerge::Replace => item,
    }
}

/// Puts the items that `order` names in its order; the others, which only the
/// server knows, keep their places relative to those as in `server_order`.
fn sort_by_order(items: &mut Vec<Value>, order: &[Value], server_order: &[Value], rule: ListMerge) {
    if rule == ListMerge::Replace {
        return;
    }
    let position = |list: &[Value], item: &Value| {
        list.iter().position(|other| identity(other, rule) == identity(item, rule))
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| position(order, item).is_some());
    named.sort_by_key(|item| position(order, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(other), Some(one)) = (others.peek(), named.peek()) {
        let before = match (position(server_order, other), position(server_order, one)) {
            (Some(other), Some(one)) => other < one,
            _ => false,
        };
        items.extend(if before { others.next() } else { named.next() });
    }
    items.extend(named.chain(others));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, object: Value, patch: Value, expected: Value) {
        let mut result = object.clone();
        merge(kind, &mut result, &patch).expect("a valid patch");
        assert_eq!(result, expected, "{object} + {patch}");
    }

    #[test]
    fn lists_merge_by_their_keys() {
        check(
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}),
        );
        check(
            "Service",
            json!({"spec": {"ports": [{"port": 80, "name": "x"}, {"port": 81}]}}),
            json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}, {"port": 82}], "$setElementOrder/ports": [{"port": 82}, {"port": 81}]}}),
            json!({"spec": {"ports": [{"port": 82}, {"port": 81}]}}),
        );
        check(
            "NetworkPolicy",
            json!({"spec": {"ingress": [{"ports": [{"port": 1}]}]}}),
            json!({"spec": {"ingress": [{"ports": [{"port": 2}]}]}}),
            json!({"spec": {"ingress": [{"ports": [{"port": 2}]}]}}),
        );
        check(
            "Node",
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "$setElementOrder/conditions": [{"type": "Ready"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}]}}),
        );
    }

    #[test]
    fn sets_and_directives() {
        check(
            "Pod",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        );
        check(
            "Pod",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
        );
        check(
            "Pod",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "$patch": "merge"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        );
        check(
            "Pod",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"c": "3", "$patch": "replace"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        );
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let mut object = json!({"spec": {"containers": [{"name": "a"}]}});
        merge("Pod", &mut object, &json!({"spec": {"containers": [{"image": "x"}]}})).expect_err("no name");
    }
}
