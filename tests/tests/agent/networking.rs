//! Where addresses come from, and how far the pool may go for them: custom networking, discovered subnets, ENIs
//! of others, nodes that are cordoned or end, and modes that change on a running node.
//!
//! The cases are those of aws-node's own suites (custom-networking, eni-subnet-discovery, ipamd/warm_target,
//! cni/PD_toggle), on a simulated VPC.

#[path = "networking/custom.rs"]
mod custom;
#[path = "networking/discovery.rs"]
mod discovery;
#[path = "networking/foreign.rs"]
mod foreign;
#[path = "networking/modes.rs"]
mod modes;
#[path = "networking/node_state.rs"]
mod node_state;
#[path = "networking/targets.rs"]
mod targets;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use system_tests::house::{items, text};

use super::world::World;

type Body = fn() -> Result<()>;

/// All of them, by what they show.
pub(crate) const TESTS: &[(&str, Body)] = &[
    ("custom_networking_follows_the_nodes_eni_config", custom::custom_networking),
    ("new_enis_are_made_in_the_discovered_subnet_with_most_room", discovery::discovery),
    ("without_leave_to_describe_subnets_the_nodes_own_serves", discovery::discovery_refused),
    ("enis_of_others_are_counted_and_never_touched", foreign::foreign_enis),
    ("security_groups_follow_the_primary_eni_by_one_call", foreign::security_groups),
    ("a_cordoned_node_grows_for_waiting_pods_only", node_state::cordoned),
    ("an_instance_that_ends_changes_nothing_and_says_so", node_state::terminating),
    ("addresses_that_others_provision_are_used", node_state::provisioned_by_others),
    ("modes_switch_under_running_pods", modes::mode_switch),
    ("the_pool_holds_what_its_targets_say", targets::warm_targets),
    ("the_pool_holds_as_many_prefixes_as_its_targets_say", targets::warm_prefixes),
];

/// The node of these tests.
const NODE: &str = "node-1";
/// A pool that reads EC2 every second and has no patience; the simulated EC2 has no lag.
const QUICK: &[(&str, &str)] = &[
    ("TIDEPOOL_RECONCILE_PERIOD", "1"),
    ("TIDEPOOL_SHRINK_AFTER", "0.5"),
    ("TIDEPOOL_ENI_MIN_AGE", "0.5"),
    ("TIDEPOOL_GIVE_UP_AFTER", "2"),
    ("TIDEPOOL_DELETE_DELAY", "0.2"),
    ("TIDEPOOL_EC2_LAG", "0.5"),
    ("IP_COOLDOWN_PERIOD", "1"),
    ("TIDEPOOL_LOG", "info"),
];
/// EC2 calls that change something.
const CHANGES: [&str; 8] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "CreateTags",
];

/// [`QUICK`] and more.
fn quick<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(more).copied().collect()
}

impl World {
    /// A call of EC2 by somebody else than the nodes; the XML of its answer.
    fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut form = vec![("Action", action), ("Version", "2016-11-15")];
        form.extend(parameters);
        let mut response = self.http.post(text(&self.up["ec2"])).send_form(form)?;
        let body = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "{action}: {body}");
        Ok(body)
    }

    fn tag(&self, resource: &str, key: &str, value: &str) -> Result<()> {
        let parameters = [("ResourceId.1", resource), ("Tag.1.Key", key), ("Tag.1.Value", value)];
        self.ec2("CreateTags", &parameters).map(drop)
    }

    /// A further subnet in the zone of the node; its id.
    fn add_subnet(&self, cidr: &str) -> Result<String> {
        let own = text(&self.node(NODE)?["subnet_id"]);
        let subnet = items(&self.up["subnets"]).find(|subnet| subnet["id"] == own).context("no subnet")?;
        let body = json!({"vpc_id": self.up["vpc"]["id"], "cidr": cidr, "az": subnet["az"]});
        Ok(text(&self.control("/subnets", Some(&body.to_string()))?["id"]).to_owned())
    }

    fn add_group(&self, name: &str) -> Result<String> {
        let body = json!({"vpc_id": self.up["vpc"]["id"], "name": name});
        Ok(text(&self.control("/security-groups", Some(&body.to_string()))?["id"]).to_owned())
    }

    /// A JSON merge patch of an object of the Kubernetes API.
    fn patch(&self, path: &str, patch: &Value) -> Result<()> {
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

    fn patch_node(&self, patch: &Value) -> Result<()> {
        self.patch(&format!("/api/v1/nodes/{NODE}"), patch)
    }

    /// The node's interfaces as EC2 has them.
    fn enis(&self) -> Result<Vec<Value>> {
        let all = self.control("/enis", None)?;
        Ok(items(&all).filter(|eni| eni["node"] == NODE && eni["status"] == "in-use").cloned().collect())
    }

    /// Those beside the primary one.
    fn secondary_enis(&self) -> Result<Vec<Value>> {
        Ok(self.enis()?.into_iter().filter(|eni| eni["device_index"] != 0).collect())
    }

    /// How often the node changed something in EC2, by call.
    fn changes(&self) -> Result<Vec<(String, u64)>> {
        let calls = self.calls(NODE)?;
        Ok(calls.into_iter().filter(|(name, _)| CHANGES.contains(&name.as_str())).collect())
    }

    /// Waits until the agent has read its ENIs from EC2 twice: a pool that wanted to do something has done it.
    fn two_readings(&self) -> Result<()> {
        let count = || Some(self.calls(NODE).ok()?.get("DescribeNetworkInterfaces").copied().unwrap_or(0));
        let before = count().unwrap_or(0);
        // Two calls each.
        self.wait("EC2 is read twice", || (count()? >= before + 5).then_some(()))
    }

    /// The address of a pod that runs.
    fn address_of(&self, pod: &str) -> Result<std::net::IpAddr> {
        self.wait_for_pods(&[pod])?;
        Ok(text(&self.pod(pod)?["ip"]).parse()?)
    }

    /// Waits for a pod that cannot have an address, and returns why.
    fn refusal_of(&self, pod: &str, says: &str) -> Result<String> {
        self.wait(&format!("{pod} is refused: {says}"), || {
            let pod = self.pod(pod).ok()?;
            let message = pod["message"].as_str()?;
            message.to_lowercase().contains(says).then(|| message.to_owned())
        })
    }
}

/// The first `<name>…</name>` of an answer.
fn field<'a>(xml: &'a str, name: &str) -> Result<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>")).with_context(|| format!("no {name} in {xml}"))?;
    Ok(rest.split('<').next().unwrap_or_default())
}

fn is_in(address: std::net::IpAddr, cidr: &str) -> Result<bool> {
    Ok(cidr.parse::<IpNetwork>()?.contains(address))
}

/// A list of text as a set.
fn set(value: &Value) -> BTreeSet<String> {
    items(value).map(|one| text(one).to_owned()).collect()
}
