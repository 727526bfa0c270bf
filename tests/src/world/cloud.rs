//! EC2 and the Kubernetes API behind the agents' backs; where no node is named, the first is meant.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::World;
use crate::house::{items, text};

/// The first node.
const NODE: &str = "node-1";
/// EC2 calls that change something.
pub const CHANGES: [&str; 8] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "CreateTags",
];

impl World {
    /// A call of EC2 by somebody else than the nodes; the XML of its answer.
    pub fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let all =
            [("Action", action), ("Version", "2016-11-15")].into_iter().chain(parameters.iter().copied());
        let mut response = self.http.post(text(&self.up["ec2"])).send_form(all)?;
        let answer = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "{action}: {answer}");
        Ok(answer)
    }

    /// Tags a resource.
    pub fn tag(&self, resource: &str, key: &str, value: &str) -> Result<()> {
        let parameters = [("ResourceId.1", resource), ("Tag.1.Key", key), ("Tag.1.Value", value)];
        self.ec2("CreateTags", &parameters).map(drop)
    }

    /// A further subnet in the zone of the node; its id.
    pub fn add_subnet(&self, cidr: &str) -> Result<String> {
        let own = text(&self.node(NODE)?["subnet_id"]);
        let subnet = items(&self.up["subnets"]).find(|subnet| subnet["id"] == own).context("no subnet")?;
        let body = json!({"vpc_id": self.up["vpc"]["id"], "cidr": cidr, "az": subnet["az"]});
        Ok(text(&self.control("/subnets", Some(&body.to_string()))?["id"]).to_owned())
    }

    /// A further security group of the VPC; its id.
    pub fn add_group(&self, name: &str) -> Result<String> {
        let body = json!({"vpc_id": self.up["vpc"]["id"], "name": name});
        Ok(text(&self.control("/security-groups", Some(&body.to_string()))?["id"]).to_owned())
    }

    /// A JSON merge patch of an object of the Kubernetes API.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<()> {
        let file: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(&std::fs::read_to_string(text(&self.up["kubeconfig"]))?)?;
        let server = file["clusters"][0]["cluster"]["server"].as_str().context("no server")?;
        let request = self.http.patch(format!("{server}{path}"));
        let request = request.header("content-type", "application/merge-patch+json");
        let mut response = request.send(patch.to_string())?;
        let answer = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "{path}: {answer}");
        Ok(())
    }

    /// A JSON merge patch of the first Node.
    pub fn patch_node(&self, patch: &Value) -> Result<()> {
        self.patch(&format!("/api/v1/nodes/{NODE}"), patch)
    }

    /// The node's interfaces as EC2 has them.
    pub fn enis(&self) -> Result<Vec<Value>> {
        let all = self.control("/enis", None)?;
        Ok(items(&all).filter(|eni| eni["node"] == NODE && eni["status"] == "in-use").cloned().collect())
    }

    /// Those beside the primary one.
    pub fn secondary_enis(&self) -> Result<Vec<Value>> {
        Ok(self.enis()?.into_iter().filter(|eni| eni["device_index"] != 0).collect())
    }

    /// How often the node changed something in EC2, by call.
    pub fn changes(&self) -> Result<Vec<(String, u64)>> {
        let calls = self.calls(NODE)?;
        Ok(calls.into_iter().filter(|(name, _)| CHANGES.contains(&name.as_str())).collect())
    }

    /// Waits until the agent has read its ENIs from EC2 twice: a pool that wanted to do something has done it.
    pub fn two_readings(&self) -> Result<()> {
        let count = || Some(self.calls(NODE).ok()?.get("DescribeNetworkInterfaces").copied().unwrap_or(0));
        let before = count().unwrap_or(0);
        // Two calls each.
        self.wait("EC2 is read twice", || (count()? >= before + 5).then_some(()))
    }

    /// The address of a pod that runs.
    pub fn address_of(&self, pod: &str) -> Result<std::net::IpAddr> {
        self.wait_for_pods(&[pod])?;
        Ok(text(&self.pod(pod)?["ip"]).parse()?)
    }

    /// Waits for a pod that cannot have an address, and returns why.
    pub fn refusal_of(&self, pod: &str, says: &str) -> Result<String> {
        self.wait(&format!("{pod} is refused: {says}"), || {
            let pod = self.pod(pod).ok()?;
            let message = pod["message"].as_str()?;
            message.to_lowercase().contains(says).then(|| message.to_owned())
        })
    }
}
