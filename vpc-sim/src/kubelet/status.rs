//! The status of pods and nodes, as a kubelet writes it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::spec::containers;

/// What is known of a pod that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) host_ip: IpAddr,
    pub(super) addresses: Vec<IpAddr>,
    /// RFC 3339.
    pub(super) since: String,
}

/// The patch for a pod whose containers run and are ready.
pub(super) fn running(pod: &Pod, state: &Running) -> Value {
    let since = &state.since;
    let statuses: Vec<Value> = containers(pod)
        .iter()
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image.as_deref().unwrap_or_default(),
                "imageID": "",
                "containerID": format!("vpc-sim://{}/{}", pod.metadata.uid.as_deref().unwrap_or_default(), container.name),
                "ready": true,
                "started": true,
                "restartCount": 0,
                "state": {"running": {"startedAt": since}},
            })
        })
        .collect();
    let conditions: Vec<Value> = CONDITIONS.iter().map(|kind| condition(kind, "True", since, None)).collect();
    let addresses: Vec<Value> = state.addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"status": {
        "phase": "Running",
        "reason": null,
        "message": null,
        "hostIP": state.host_ip,
        "hostIPs": [{"ip": state.host_ip}],
        "podIP": state.addresses.first(),
        "podIPs": addresses,
        "startTime": since,
        "conditions": conditions,
        "containerStatuses": statuses,
    }})
}

/// The patch for a pod that has no sandbox yet, and why.
pub(super) fn waiting(pod: &Pod, host_ip: IpAddr, now: &str, why: Option<&str>) -> Value {
    let statuses: Vec<Value> = containers(pod)
        .iter()
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image.as_deref().unwrap_or_default(),
                "imageID": "",
                "ready": false,
                "started": false,
                "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating", "message": why}},
            })
        })
        .collect();
    let not_ready = Some(("ContainersNotReady", why.unwrap_or("the sandbox is being made")));
    json!({"status": {
        "phase": "Pending",
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "conditions": [
            condition("PodReadyToStartContainers", "False", now, None),
            condition("Initialized", "True", now, None),
            condition("Ready", "False", now, not_ready),
            condition("ContainersReady", "False", now, not_ready),
            condition("PodScheduled", "True", now, None),
        ],
        "containerStatuses": statuses,
    }})
}

/// The patch for a pod that fits on no node.
pub(super) fn unschedulable(now: &str, why: &str) -> Value {
    json!({"status": {
        "conditions": [condition("PodScheduled", "False", now, Some(("Unschedulable", why)))],
    }})
}

/// The patch for a node whose network is ready, or is not and why.
pub(super) fn node_ready(now: &str, problem: Option<&str>) -> Value {
    let ready = match problem {
        None => node_condition("Ready", "True", now, "KubeletReady", "kubelet is posting ready status"),
        Some(why) => {
            let message = format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{why}"
            );
            node_condition("Ready", "False", now, "KubeletNotReady", &message)
        }
    };
    let fine = |kind: &str, reason: &str, message: &str| node_condition(kind, "False", now, reason, message);
    json!({"status": {"conditions": [
        fine("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        fine("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        fine("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ]}})
}

const CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

fn condition(kind: &str, status: &str, since: &str, why: Option<(&str, &str)>) -> Value {
    let mut condition = json!({
        "type": kind,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": since,
    });
    if let Some((reason, message)) = why {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    condition
}

fn node_condition(kind: &str, status: &str, now: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind,
        "status": status,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    })
}
