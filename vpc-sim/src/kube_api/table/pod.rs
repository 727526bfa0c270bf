//! Pods.

use serde_json::{Value, json};

use super::super::lookup::{at, int, items, text};
use super::{Layout, age, column, name, or, wide};

pub(super) const LAYOUT: Layout = Layout {
    columns: &[
        column("Name"),
        column("Ready"),
        column("Status"),
        column("Restarts"),
        column("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn cells(pod: &Value) -> Vec<Value> {
    let total = items(pod, &["spec", "containers"]).len();
    let statuses = items(pod, &["status", "containerStatuses"]);
    let ready =
        statuses.iter().filter(|one| one["ready"] == true && one["state"].get("running").is_some()).count();
    let restarts: i64 = statuses.iter().filter_map(|one| int(one, &["restartCount"])).sum();
    let node = text(pod, &["spec", "nodeName"]);
    let nominated = text(pod, &["status", "nominatedNodeName"]);
    vec![
        json!(name(pod)),
        json!(format!("{ready}/{total}")),
        json!(state(pod)),
        json!(restarts.to_string()),
        age(pod),
        json!(or(text(pod, &["status", "podIP"]), "<none>")),
        json!(or(node, "<none>")),
        json!(or(nominated, "<none>")),
        json!(gates(pod)),
    ]
}

/// The word in the STATUS column: the phase, unless something says more.
fn state(pod: &Value) -> String {
    let phase = text(pod, &["status", "phase"]);
    let mut state = or(text(pod, &["status", "reason"]), phase).to_owned();
    let waiting_or_ended = |status: &Value| {
        let waiting = text(status, &["state", "waiting", "reason"]);
        let ended = text(status, &["state", "terminated", "reason"]);
        if !waiting.is_empty() {
            return Some(waiting.to_owned());
        }
        let terminated = at(status, &["state", "terminated"])?;
        if !ended.is_empty() {
            return Some(ended.to_owned());
        }
        Some(match int(terminated, &["signal"]) {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", int(terminated, &["exitCode"]).unwrap_or(0)),
        })
    };
    let init = items(pod, &["status", "initContainerStatuses"]);
    let initializing = init.iter().enumerate().find_map(|(n, status)| {
        let ended = at(status, &["state", "terminated"]);
        if ended.is_some_and(|ended| int(ended, &["exitCode"]).unwrap_or(0) == 0) {
            return None;
        }
        Some(match waiting_or_ended(status).filter(|reason| reason != "PodInitializing") {
            Some(reason) => format!("Init:{reason}"),
            None => format!("Init:{n}/{}", items(pod, &["spec", "initContainers"]).len()),
        })
    });
    if let Some(initializing) = initializing {
        state = initializing;
    } else {
        let statuses = items(pod, &["status", "containerStatuses"]);
        // The first container's word wins.
        for status in statuses.iter().rev() {
            if let Some(reason) = waiting_or_ended(status) {
                state = reason;
            }
        }
        let running =
            statuses.iter().any(|one| at(one, &["state", "running"]).is_some() && one["ready"] == true);
        if state == "Completed" && running {
            state = if is_ready(pod) { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        let lost = text(pod, &["status", "reason"]) == "NodeLost";
        let ended = matches!(phase, "Succeeded" | "Failed");
        state = match (lost, ended) {
            (true, _) => "Unknown".to_owned(),
            (false, false) => "Terminating".to_owned(),
            (false, true) => state,
        };
    }
    state
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == Some("True")
}

fn condition<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let conditions = items(pod, &["status", "conditions"]);
    conditions.iter().find(|one| one["type"] == name).map(|one| text(one, &["status"]))
}

fn gates(pod: &Value) -> String {
    let gates = items(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])) == Some("True"));
    format!("{}/{}", passed.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_column() {
        for (pod, expected) in [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (json!({"status": {"phase": "Running"}, "metadata": {"deletionTimestamp": "x"}}), "Terminating"),
            (
                json!({"status": {"phase": "Pending", "containerStatuses": [
                    {"state": {"waiting": {"reason": "ContainerCreating"}}},
                ]}}),
                "ContainerCreating",
            ),
            (
                json!({"status": {"phase": "Running", "containerStatuses": [
                    {"state": {"terminated": {"exitCode": 3}}},
                ]}}),
                "ExitCode:3",
            ),
            (
                json!({"spec": {"initContainers": [{}, {}]}, "status": {"phase": "Pending", "initContainerStatuses": [
                    {"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}},
                ]}}),
                "Init:1/2",
            ),
        ] {
            assert_eq!(state(&pod), expected, "{pod}");
        }
    }
}
