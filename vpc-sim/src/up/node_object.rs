//! The Node object of a node, as a kubelet on EC2 registers it.

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::UpError;
use crate::ec2::{InstanceFacts, InstanceType};

/// Makes the Node object, or makes one that is there already right, and returns
/// its uid.
pub(super) async fn register(
    client: &kube::Client,
    facts: &InstanceFacts,
    region: &str,
) -> Result<String, UpError> {
    let failed = |source| UpError::Kubernetes { what: format!("register the node {}", facts.name), source };
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(object(facts, region))
        .map_err(|error| failed(kube::Error::SerdeError(error)))?;
    let made = match nodes.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // Left by a simulation that was killed, on an API that outlived it.
            let old = nodes.get(&facts.name).await.map_err(failed)?;
            let parameters = DeleteParams {
                preconditions: Some(Preconditions { uid: old.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            nodes.delete(&facts.name, &parameters).await.map_err(failed)?;
            nodes.create(&PostParams::default(), &node).await
        }
        other => other,
    };
    let made = made.map_err(failed)?;
    // A status that comes with the object is ignored.
    let patch = Patch::Merge(json!({"status": status(facts)}));
    nodes.patch_status(&facts.name, &PatchParams::default(), &patch).await.map_err(failed)?;
    Ok(made.uid().unwrap_or_default())
}

/// Deletes the Node object that [`register`] made. One that is gone is no error.
pub(super) async fn unregister(client: &kube::Client, name: &str, uid: &str) -> Result<(), UpError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match nodes.delete(name, &parameters).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(UpError::Kubernetes { what: format!("delete the node {name}"), source }),
        Ok(_) => Ok(()),
    }
}

fn object(facts: &InstanceFacts, region: &str) -> Value {
    let InstanceFacts { name, instance_id, instance_type, az, .. } = facts;
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture(),
                "node.kubernetes.io/instance-type": instance_type,
                "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": az,
            },
        },
        "spec": {"providerID": format!("aws:///{az}/{instance_id}")},
    })
}

/// The status without conditions but one: nobody has said anything of it yet.
fn status(facts: &InstanceFacts) -> Value {
    let resources = resources(facts);
    let architecture = architecture();
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": facts.primary_ip},
            {"type": "InternalDNS", "address": facts.private_dns_name},
            {"type": "Hostname", "address": facts.name},
        ],
        "nodeInfo": {
            "architecture": architecture,
            "operatingSystem": "linux",
            "osImage": "vpc-sim",
            "kernelVersion": kernel_release(),
            "containerRuntimeVersion": format!("vpc-sim://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": "v1.33.0",
            "kubeProxyVersion": "",
            "bootID": "",
            "machineID": "",
            "systemUUID": "",
        },
        "conditions": [{
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusNeverUpdated",
            "message": "Kubelet never posted node status.",
        }],
    })
}

fn resources(facts: &InstanceFacts) -> Value {
    // Memory is not among what limits a network: 4 GiB per processor, as the
    // general purpose types have.
    let vcpus = InstanceType::find(&facts.instance_type).map_or(2, |found| found.vcpus);
    json!({
        "cpu": vcpus.to_string(),
        "memory": format!("{}Gi", u64::from(vcpus) * 4),
        "pods": facts.max_pods.to_string(),
    })
}

/// The machine's architecture in the words of Kubernetes.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
