//! The node's interfaces in EC2, made and tagged as aws-node does it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use crate::house::{items, strings, text};
use crate::world::World;

/// What [`World::command`] tells agents.
const CLUSTER: &str = "system-test";

/// One of the node's interfaces.
#[derive(Debug, Clone)]
pub(super) struct Eni {
    /// 0 is the primary one.
    pub(super) device: u64,
    pub(super) mac: String,
    /// Its own address.
    pub(super) primary: Ipv4Addr,
    /// Addresses for pods.
    pub(super) secondary: Vec<Ipv4Addr>,
}

impl Eni {
    /// Its routing table.
    pub(super) fn table(&self) -> u64 {
        if self.device == 0 { 254 } else { self.device + 1 }
    }
}

/// Gives the primary interface its addresses, and the node the further interfaces.
pub(super) fn make_enis(world: &World, node: &str, options: &Options) -> Result<()> {
    let facts = world.node(node)?.clone();
    let instance = text(&facts["instance_id"]);
    let count = options.addresses_per_eni.to_string();
    let own = [
        ("cluster.k8s.amazonaws.com/name", CLUSTER),
        ("eks:eni:owner", "amazon-vpc-cni"),
        ("node.k8s.amazonaws.com/instance_id", instance),
    ];
    let primary = in_use(world, node)?.into_iter().find(|eni| eni["device_index"] == 0);
    let primary = primary.context("no primary interface")?;
    for (key, value) in own {
        world.tag(text(&primary["id"]), key, value)?;
    }
    let more = [("NetworkInterfaceId", text(&primary["id"])), ("SecondaryPrivateIpAddressCount", &count)];
    world.ec2("AssignPrivateIpAddresses", &more)?;

    for device in 1..=options.secondary_enis {
        let description = format!("aws-K8S-{instance}");
        let created = [("node.k8s.amazonaws.com/createdAt", "2026-08-20T15:22:15Z")];
        let mut parameters = vec![
            ("SubnetId".to_owned(), text(&facts["subnet_id"]).to_owned()),
            ("SecurityGroupId.1".to_owned(), text(&world.up["security_group"]).to_owned()),
            ("Description".to_owned(), description),
            ("SecondaryPrivateIpAddressCount".to_owned(), count.clone()),
            ("TagSpecification.1.ResourceType".to_owned(), "network-interface".to_owned()),
        ];
        for (number, (key, value)) in own.iter().chain(&created).enumerate() {
            let tag = format!("TagSpecification.1.Tag.{}", number + 1);
            parameters.extend([
                (format!("{tag}.Key"), (*key).to_owned()),
                (format!("{tag}.Value"), (*value).to_owned()),
            ]);
        }
        let borrowed: Vec<(&str, &str)> =
            parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = world.ec2("CreateNetworkInterface", &borrowed)?;
        let id = element(&answer, "networkInterfaceId")?;
        let answer = world.ec2(
            "AttachNetworkInterface",
            &[("NetworkInterfaceId", id), ("InstanceId", instance), ("DeviceIndex", &device.to_string())],
        )?;
        let attachment = element(&answer, "attachmentId")?;
        world.ec2(
            "ModifyNetworkInterfaceAttribute",
            &[
                ("NetworkInterfaceId", id),
                ("Attachment.AttachmentId", attachment),
                ("Attachment.DeleteOnTermination", "true"),
            ],
        )?;
    }
    Ok(())
}

/// The node's interfaces, by device.
pub(super) fn enis(world: &World, node: &str) -> Result<Vec<Eni>> {
    let mut found = in_use(world, node)?
        .iter()
        .map(|eni| {
            let mut addresses = strings(&eni["addresses"]).map(str::parse);
            Ok(Eni {
                device: eni["device_index"].as_u64().context("no device index")?,
                mac: text(&eni["mac"]).to_owned(),
                primary: addresses.next().context("no address")??,
                secondary: addresses.collect::<Result<_, _>>()?,
            })
        })
        .collect::<Result<Vec<Eni>>>()?;
    found.sort_by_key(|eni| eni.device);
    Ok(found)
}

fn in_use(world: &World, node: &str) -> Result<Vec<Value>> {
    let all = world.control("/enis", None)?;
    Ok(items(&all).filter(|eni| eni["node"] == node && eni["status"] == "in-use").cloned().collect())
}

fn element<'a>(xml: &'a str, name: &str) -> Result<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>")).with_context(|| format!("no {name} in {xml}"))?;
    Ok(rest.split('<').next().unwrap_or_default())
}
