//! What a kubelet reads in a pod's spec, and what it knows for plugins.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Map, Value, json};

use super::cni::PodIdentity;
use super::sandbox::Protocol;

/// The annotation for [`status_delay`], in milliseconds.
const STATUS_DELAY: &str = "vpc-sim/status-delay-ms";

/// Whose pod it is. `None` of a pod that no API server has seen.
pub(super) fn identity(pod: &Pod) -> Option<PodIdentity> {
    Some(PodIdentity {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
    })
}

/// Whether the pod uses its node's own network.
pub(super) fn is_host_network(pod: &Pod) -> bool {
    spec(pod).and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether nothing is to run any more: it succeeded or failed.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether somebody asked for its deletion.
pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

pub(super) fn containers(pod: &Pod) -> &[Container] {
    spec(pod).map_or(&[], |spec| spec.containers.as_slice())
}

/// The ports that the pod's containers declare and that can be served.
pub(super) fn declared_ports(pod: &Pod) -> BTreeSet<(Protocol, u16)> {
    containers(pod)
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            Some((protocol, u16::try_from(port.container_port).ok()?))
        })
        .collect()
}

/// How long the kubelet takes to write that a pod runs: real ones take up to two seconds.
pub(super) fn status_delay(pod: &Pod) -> Option<Duration> {
    let text = pod.metadata.annotations.as_ref()?.get(STATUS_DELAY)?;
    text.parse().ok().map(Duration::from_millis)
}

/// What the runtime gives to plugins that declare the capability. The keys are
/// written as containerd writes them.
pub(super) fn capability_args(pod: &Pod) -> Map<String, Value> {
    let mut args = Map::new();
    let mappings: Vec<Value> = containers(pod)
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(json!({
                "HostPort": port.host_port?,
                "ContainerPort": port.container_port,
                "Protocol": port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                "HostIP": port.host_ip.as_deref().unwrap_or_default(),
            }))
        })
        .collect();
    if !mappings.is_empty() {
        args.insert("portMappings".to_owned(), Value::Array(mappings));
    }
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let rate = |direction: &str| {
        let text = annotations.get(&format!("kubernetes.io/{direction}-bandwidth"))?;
        bits_per_second(text)
    };
    let mut bandwidth = Map::new();
    for (direction, key) in [("ingress", "Ingress"), ("egress", "Egress")] {
        if let Some(rate) = rate(direction) {
            bandwidth.insert(format!("{key}Rate"), rate.into());
            // As kubelets do: no limit to the burst but what a u32 holds.
            bandwidth.insert(format!("{key}Burst"), i32::MAX.into());
        }
    }
    if !bandwidth.is_empty() {
        args.insert("bandwidth".to_owned(), Value::Object(bandwidth));
    }
    args.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(annotations));
    args
}

/// A quantity of bits per second: digits, and one of the suffixes of Kubernetes.
fn bits_per_second(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> anyhow::Result<Pod> {
        Ok(serde_yaml_ng::from_str(text)?)
    }

    #[test]
    fn ports_are_those_declared_once_each() -> anyhow::Result<()> {
        let pod = pod("
spec:
  containers:
  - name: a
    ports: [{containerPort: 80}, {containerPort: 80, protocol: TCP}, {containerPort: 53, protocol: UDP}]
  - name: b
    ports: [{containerPort: 9, protocol: SCTP}]
")?;
        let ports: Vec<_> = declared_ports(&pod).into_iter().collect();
        assert_eq!(ports, [(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
        Ok(())
    }

    #[test]
    fn capabilities_carry_host_ports_and_rates() -> anyhow::Result<()> {
        let pod = pod("
metadata: {annotations: {kubernetes.io/egress-bandwidth: 10M}}
spec:
  containers:
  - name: a
    ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81}]
")?;
        let args = capability_args(&pod);
        assert_eq!(
            args["portMappings"],
            json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}])
        );
        assert_eq!(args["bandwidth"], json!({"EgressRate": 10_000_000, "EgressBurst": i32::MAX}));
        Ok(())
    }

    #[test]
    fn rates_are_quantities() {
        for (text, expected) in
            [("1000", Some(1000)), ("10M", Some(10_000_000)), ("1Ki", Some(1024)), ("x", None), ("1x", None)]
        {
            assert_eq!(bits_per_second(text), expected, "{text}");
        }
    }
}
