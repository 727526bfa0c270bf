//! What is particular to pods: binding, grace, quality of service.

use serde_json::{Value, json};

use super::super::clock;
use super::super::error::ApiError;
use super::super::kinds::{PODS, ResourceType};
use super::super::lookup::{as_object, at, int, items, object, text};
use super::Store;
use super::object::key;
use super::options::DeleteOptions;

impl Store {
    /// Binds a pod to a node, as a scheduler asks for.
    ///
    /// # Errors
    /// 400 without a target, 404 without the pod, 409 if it is bound or being deleted.
    pub(in super::super) fn bind(
        &self,
        namespace: &str,
        name: &str,
        binding: &Value,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let node = text(binding, &["target", "name"]);
        if node.is_empty() {
            return Err(ApiError::bad_request("a Binding with target.name is needed"));
        }
        let mut state = self.lock();
        let kind = state.kind_of(PODS).ok_or_else(ApiError::no_such_path)?;
        let missing = || ApiError::not_found(&kind, name);
        let pod = state.get(&kind, &key(namespace, name)).ok_or_else(missing)?;
        let mut value = pod.stored_value(&kind);
        check_unbound(&kind, name, &value)?;
        if dry_run {
            return Ok(());
        }
        value["spec"]["nodeName"] = json!(node);
        if let Some(annotations) = at(binding, &["metadata", "annotations"]).and_then(Value::as_object) {
            let own = object(object(as_object(&mut value), "metadata"), "annotations");
            own.extend(annotations.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        let generation = int(&value, &["metadata", "generation"]).unwrap_or(0) + 1;
        value["metadata"]["generation"] = json!(generation);
        let mut conditions = items(&value, &["status", "conditions"]).to_vec();
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastTransitionTime": clock::now(),
        }));
        value["status"]["conditions"] = json!(conditions);
        state.put(&kind, value);
        Ok(())
    }
}

fn check_unbound(kind: &ResourceType, name: &str, pod: &Value) -> Result<(), ApiError> {
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return Err(ApiError::conflict(
            kind,
            name,
            &format!("pod {name} is being deleted, cannot be assigned to a host"),
        ));
    }
    match text(pod, &["spec", "nodeName"]) {
        "" => Ok(()),
        node => {
            let why = format!("pod {name} is already assigned to node {node:?}");
            Err(ApiError::conflict(kind, name, &why))
        }
    }
}

/// How long a pod stays after it was deleted: 0 if nothing of it runs.
pub(super) fn grace_seconds(pod: &Value, options: &DeleteOptions) -> i64 {
    let unbound = text(pod, &["spec", "nodeName"]).is_empty();
    let finished = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
    match options.grace_seconds {
        _ if unbound || finished => 0,
        Some(grace) => grace.max(0),
        None => int(pod, &["spec", "terminationGracePeriodSeconds"]).map_or(30, |grace| grace.max(1)),
    }
}

/// `status.qosClass`, from the resources of the containers.
pub(super) fn set_quality(pod: &mut Value) {
    let containers =
        || ["containers", "initContainers"].into_iter().flat_map(|list| items(pod, &["spec", list]));
    let quantity = |container: &Value, list: &str, name: &str| {
        let found = text(container, &["resources", list, name]);
        (!found.is_empty() && found != "0").then(|| found.to_owned())
    };
    let mut any = false;
    let mut all = true;
    for container in containers() {
        for resource in ["cpu", "memory"] {
            let limit = quantity(container, "limits", resource);
            let request = quantity(container, "requests", resource);
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    let class = match (any, all) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    };
    let status = object(as_object(pod), "status");
    status.entry("qosClass").or_insert(json!(class));
}
