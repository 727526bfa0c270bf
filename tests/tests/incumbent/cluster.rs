//! Two nodes with pods on the primary and on a secondary ENI of each.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::house::{items, text};
use system_tests::kube_proxy::Endpoint;
use system_tests::world::{PORT, World};

/// The nodes.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];
/// Three interfaces of three secondary addresses each: five pods are on two of them.
pub(crate) const SMALL: &str = "t3.small";
/// How many pods of a node span two interfaces.
pub(crate) const SPANNING: usize = 5;
/// A pool that asks EC2 once, for two interfaces, and is quiet then.
pub(crate) const POOL: &[(&str, &str)] = &[
    ("MINIMUM_IP_TARGET", "6"),
    ("WARM_IP_TARGET", "1"),
    ("IP_COOLDOWN_PERIOD", "1"),
    ("TIDEPOOL_LOG", "warn"),
];
/// The first device's table.
const MAIN: u64 = 254;

/// A pod that runs, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) netns: PathBuf,
    /// The routing table of its ENI.
    pub(crate) table: u64,
}

impl Placed {
    pub(crate) fn is_on_primary(&self) -> bool {
        self.table == MAIN
    }

    /// Behind a Service.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { address: (self.address, PORT), node: self.node.clone() }
    }

    /// As its server calls itself.
    pub(crate) fn full_name(&self) -> String {
        format!("default/{}", self.name)
    }
}

/// The pods of one node, by their ENI.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) primary: Vec<Placed>,
    pub(crate) secondary: Vec<Placed>,
}

impl Placement {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Placed> + Clone {
        self.primary.iter().chain(&self.secondary)
    }
}

/// A pod in `default` that listens by TCP and UDP.
pub(crate) fn pod(name: &str, node: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{app: many, pod: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: registry.example/echo
      ports: [{{containerPort: {PORT}}}, {{containerPort: {PORT}, protocol: UDP}}]
"
    )
}

/// Names of a node's pods.
pub(crate) fn names(node: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{node}-pod-{number}")).collect()
}

/// The manifest of such pods.
pub(crate) fn manifest(node: &str, count: usize) -> String {
    names(node, count).iter().map(|name| pod(name, node)).collect()
}

/// Creates pods that span two interfaces on each node, and says where they are.
pub(crate) fn populate(world: &World) -> Result<[Placement; 2]> {
    for node in NODES {
        world.apply(&manifest(node, SPANNING))?;
    }
    Ok([spanning(world, NODES[0])?, spanning(world, NODES[1])?])
}

/// Waits for the pods of a node that span two interfaces; at least two of them are on each.
pub(crate) fn spanning(world: &World, node: &str) -> Result<Placement> {
    let (primary, secondary): (Vec<Placed>, Vec<Placed>) =
        placed(world, node, &names(node, SPANNING))?.into_iter().partition(Placed::is_on_primary);
    ensure!(primary.len() >= 2 && secondary.len() >= 2, "{node}: {primary:#?}\n{secondary:#?}");
    Ok(Placement { primary, secondary })
}

/// Waits for pods of a node, and says where they are.
pub(crate) fn placed(world: &World, node: &str, names: &[String]) -> Result<Vec<Placed>> {
    world.wait_for_pods(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let (endpoints, pods) = (world.debug(node, "endpoints")?, world.pods()?);
    let place = |name: &String| -> Result<Placed> {
        let full = format!("default/{name}");
        let endpoint = items(&endpoints).find(|one| one["pod"] == *full).context("no endpoint")?;
        let pod = pods.iter().find(|one| one["name"] == **name).context("no pod")?;
        Ok(Placed {
            name: name.clone(),
            node: node.to_owned(),
            address: text(&pod["ip"]).parse()?,
            netns: PathBuf::from(text(&pod["netns"])),
            table: endpoint["table"].as_u64().context("no table")?,
        })
    };
    names.iter().map(|name| place(name).with_context(|| name.clone())).collect()
}

/// What the fabric carried and dropped.
#[derive(Debug, Clone)]
pub(crate) struct Fabric(Value);

impl Fabric {
    pub(crate) fn look(world: &World) -> Result<Self> {
        Ok(Self(world.control("/fabric", None)?))
    }

    fn eni(&self, node: &str, device_index: u64) -> Result<&Value> {
        let mut enis = items(&self.0["enis"]);
        let found = enis.find(|eni| eni["node"] == node && eni["device_index"] == device_index);
        found.with_context(|| format!("{node} has no device {device_index}"))
    }

    /// The node's primary address.
    pub(crate) fn primary_address(&self, node: &str) -> Result<Ipv4Addr> {
        Ok(text(&self.eni(node, 0)?["primary_ip"]).parse()?)
    }

    /// Packets that the node sent by a device.
    pub(crate) fn sent(&self, node: &str, device_index: u64) -> Result<u64> {
        self.eni(node, device_index)?["sent_packets"].as_u64().context("no counter")
    }

    /// Packets whose source was not on the interface that sent them.
    pub(crate) fn wrong_source(&self) -> Result<u64> {
        self.0["wrong_source_drops"].as_u64().context("no counter")
    }

    /// Packets that were to leave the VPC and may not.
    pub(crate) fn no_way_out(&self) -> Result<u64> {
        self.0["no_way_out_drops"].as_u64().context("no counter")
    }

    /// Nothing was dropped for a source that is not the sender's, and nothing is wrong.
    pub(crate) fn must_be_clean(&self) -> Result<()> {
        ensure!(self.0["wrong_source_drops"] == 0 && items(&self.0["problems"]).count() == 0, "{:#}", self.0);
        Ok(())
    }
}

/// The namespace of a node.
pub(crate) fn netns_of_node(world: &World, node: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(text(&world.node(node)?["netns"])))
}

/// The namespace of the internet's host.
pub(crate) fn netns_of_internet(world: &World) -> Result<PathBuf> {
    Ok(PathBuf::from(world.up["internet"].as_str().context("no internet")?))
}
