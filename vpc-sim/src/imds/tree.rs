//! The tree of keys: each leaf's text by its path, directories made of them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde_json::json;

use crate::ec2::{
    ACCOUNT, Instance, InstanceId, InstanceState, REGION, SimTime, State, private_dns_name, zone_id,
};

/// The role whose credentials an instance gets.
pub(super) const ROLE: &str = "vpc-sim-node";

/// Versions that the tree is served under besides `latest`.
const VERSIONS: [&str; 2] = ["2021-07-15", "2024-04-11"];

/// All that one instance's metadata says at one time.
#[derive(Debug, Default)]
pub(super) struct Tree {
    leaves: BTreeMap<String, String>,
}

impl Tree {
    /// What `instance` is told at `now`; none where it does not run.
    pub(super) fn of(state: &State, instance: &InstanceId, now: SimTime) -> Option<Self> {
        let instance = state.instances.get(instance)?;
        if instance.state == InstanceState::Terminated {
            return None;
        }
        let mut tree = Self::default();
        tree.instance_keys(state, instance, now);
        tree.interface_keys(state, instance, now);
        for (path, text) in &instance.metadata.notices {
            tree.put(&format!("meta-data/{path}"), text);
        }
        Some(tree)
    }

    /// The text of a path: a leaf's own, or a directory's listing.
    pub(super) fn get(&self, path: &str) -> Option<String> {
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Some([&VERSIONS[..], &["latest"]].concat().join("\n"));
        }
        let (version, rest) = path.split_once('/').unwrap_or((path, ""));
        if version != "latest" && !VERSIONS.contains(&version) {
            return None;
        }
        if let Some(leaf) = self.leaves.get(rest) {
            return Some(leaf.clone());
        }
        self.listing(rest)
    }

    fn listing(&self, directory: &str) -> Option<String> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let below = self.leaves.range(prefix.clone()..);
        let below = below.take_while(|(path, _)| path.starts_with(&prefix));
        let mut entries: Vec<String> = below
            .map(|(path, _)| match path[prefix.len()..].split_once('/') {
                // The top is listed without slashes.
                Some((name, _)) if directory.is_empty() => name.to_owned(),
                Some((name, _)) => format!("{name}/"),
                None => path[prefix.len()..].to_owned(),
            })
            .collect();
        entries.dedup();
        (!entries.is_empty()).then(|| entries.join("\n"))
    }

    fn put(&mut self, path: &str, text: impl Display) {
        self.leaves.insert(path.to_owned(), text.to_string());
    }

    /// A list, one a line; nothing at all where it is empty.
    fn put_lines<T: Display>(&mut self, path: &str, lines: impl IntoIterator<Item = T>) {
        let lines: Vec<String> = lines.into_iter().map(|line| line.to_string()).collect();
        if !lines.is_empty() {
            self.put(path, lines.join("\n"));
        }
    }

    fn instance_keys(&mut self, state: &State, instance: &Instance, now: SimTime) {
        let primary = state.enis.get(&instance.primary_eni).map(|record| &record.eni);
        let address = primary.and_then(|eni| eni.primary);
        for (key, text) in [
            ("ami-id", "ami-00000000000000001"),
            ("ami-launch-index", "0"),
            ("instance-action", "none"),
            ("instance-id", instance.id.as_str()),
            ("instance-life-cycle", "on-demand"),
            ("instance-type", instance.kind.name),
            ("placement/availability-zone", instance.zone.as_str()),
            ("placement/availability-zone-id", &zone_id(&instance.zone)),
            ("placement/region", REGION),
            ("profile", "default-hvm"),
            ("reservation-id", instance.reservation.as_str()),
            ("services/domain", "amazonaws.com"),
            ("services/partition", "aws"),
        ] {
            self.put(&format!("meta-data/{key}"), text);
        }
        if let Some(address) = address {
            let name = private_dns_name(address);
            self.put("meta-data/hostname", &name);
            self.put("meta-data/local-hostname", &name);
            self.put("meta-data/local-ipv4", address);
        }
        if let Some(eni) = primary {
            self.put("meta-data/mac", eni.mac);
            let groups = eni.groups.iter().filter_map(|id| state.groups.get(id));
            self.put_lines("meta-data/security-groups", groups.map(|group| &group.name));
        }
        let arn = format!("arn:aws:iam::{ACCOUNT}:instance-profile/{ROLE}");
        let info = json!({
            "Code": "Success",
            "LastUpdated": instance.launched.to_seconds_text(),
            "InstanceProfileArn": arn,
            "InstanceProfileId": "AIPA0000000000000SIM",
        });
        self.put("meta-data/iam/info", format!("{info:#}"));
        let role = format!("meta-data/iam/security-credentials/{ROLE}");
        let credentials = json!({
            "Code": "Success",
            "LastUpdated": now.to_seconds_text(),
            "Type": "AWS-HMAC",
            "AccessKeyId": "ASIA000000000000VSIM",
            "SecretAccessKey": "vpc-sim-takes-any-signature-at-all-00000",
            "Token": "vpc-sim",
            "Expiration": (now + Duration::from_secs(6 * 3600)).to_seconds_text(),
        });
        self.put(&role, format!("{credentials:#}"));
        let document = json!({
            "accountId": ACCOUNT,
            "architecture": "x86_64",
            "availabilityZone": instance.zone,
            "billingProducts": null,
            "devpayProductCodes": null,
            "marketplaceProductCodes": null,
            "imageId": "ami-00000000000000001",
            "instanceId": instance.id,
            "instanceType": instance.kind.name,
            "kernelId": null,
            "pendingTime": instance.launched.to_seconds_text(),
            "privateIp": address,
            "ramdiskId": null,
            "region": REGION,
            "version": "2017-09-30",
        });
        self.put("dynamic/instance-identity/document", format!("{document:#}"));
    }

    fn interface_keys(&mut self, state: &State, instance: &Instance, now: SimTime) {
        for eni in instance.metadata.shown(now) {
            let at = format!("meta-data/network/interfaces/macs/{}", eni.mac);
            let Some(held) = &eni.attachment else {
                continue;
            };
            for (key, text) in [
                ("device-number", held.device_index.to_string()),
                ("interface-id", eni.id.to_string()),
                ("mac", eni.mac.to_string()),
                // Amazon's documents name the second, its own agent asks for the first.
                ("network-card", held.network_card.to_string()),
                ("network-card-index", held.network_card.to_string()),
                ("owner-id", ACCOUNT.to_owned()),
                ("subnet-id", eni.subnet.to_string()),
                ("vpc-id", eni.vpc.to_string()),
            ] {
                self.put(&format!("{at}/{key}"), text);
            }
            self.put_lines(&format!("{at}/security-group-ids"), &eni.groups);
            let groups = eni.groups.iter().filter_map(|id| state.groups.get(id));
            self.put_lines(&format!("{at}/security-groups"), groups.map(|group| &group.name));
            let addresses = eni.primary.iter().chain(&eni.secondaries);
            self.put_lines(&format!("{at}/local-ipv4s"), addresses);
            if let Some(address) = eni.primary {
                self.put(&format!("{at}/local-hostname"), private_dns_name(address));
            }
            self.put_lines(&format!("{at}/ipv4-prefix"), &eni.prefixes);
            self.put_lines(&format!("{at}/ipv6s"), &eni.ipv6);
            self.put_lines(&format!("{at}/ipv6-prefix"), &eni.ipv6_prefixes);
            if let Some(subnet) = state.subnets.get(&eni.subnet) {
                self.put(&format!("{at}/subnet-ipv4-cidr-block"), subnet.space.cidr());
                let cidr6 = subnet.space6.iter().map(|space| space.cidr());
                self.put_lines(&format!("{at}/subnet-ipv6-cidr-blocks"), cidr6);
            }
            if let Some(vpc) = state.vpcs.get(&eni.vpc) {
                self.put(&format!("{at}/vpc-ipv4-cidr-block"), vpc.cidr);
                self.put(&format!("{at}/vpc-ipv4-cidr-blocks"), vpc.cidr);
                self.put_lines(&format!("{at}/vpc-ipv6-cidr-blocks"), vpc.ipv6_cidr);
            }
        }
    }
}
