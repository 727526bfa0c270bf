//! Who has which address, found out from what stands on the node.
//!
//! The kernel says which pods run: a host end with our prefix, and the route that leads to it. Who they are say
//! others: the runtime's results, the agent that was here before. A link of our making is known by its MAC, which is
//! made of its sandbox's key; any other by its name, which is made of the pod's, together with its address. Where
//! nobody knows the sandbox, the lease gets a key that says so.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rpc::{PodRef, SandboxKey, host_ifname};

use super::HostEnd;
use super::transaction::macs;

/// The network of a key that was made up. No CNI network has it, so that a GC passes over it.
const UNKNOWN_NETWORK: &str = "unknown-network";
/// The network of clusters on AWS: where two results speak of a link, the one of this network is meant.
const USUAL_NETWORK: &str = "aws-cni";

/// A host end that stands, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The link; its pod's MAC is zero where it is not known.
    pub end: HostEnd,
    /// Addresses that the main table leads to it.
    pub addresses: Vec<IpAddr>,
}

/// What somebody wrote down of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where it was written down.
    pub pod: Option<PodRef>,
    /// What it was given.
    pub addresses: Vec<IpAddr>,
    /// Name and MAC of the host end, where they were written down.
    pub host_end: Option<(String, Option<[u8; 6]>)>,
}

/// A pod that runs and has no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose it is; see [`is_made_up`].
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// Its address.
    pub address: IpAddr,
    /// The host's end of its link.
    pub end: HostEnd,
}

/// Whether a key stands for a sandbox whose real key nobody knows.
#[must_use]
pub fn is_made_up(key: &SandboxKey) -> bool {
    key.network == UNKNOWN_NETWORK
}

/// What was found of links without a lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// Those that a lease can be made of.
    pub claims: Vec<Claim>,
    /// Links of which nobody knows the address.
    pub nameless: Vec<String>,
}

/// Every link in `standing` whose address is not in `leased`, with what `records` know of it.
#[must_use]
pub fn claims(prefix: &str, standing: &[Standing], records: &[Record], leased: &BTreeSet<IpAddr>) -> Claims {
    let mut found = Claims::default();
    let mut taken = leased.clone();
    let mut keys = BTreeSet::new();
    for one in standing {
        let record = records
            .iter()
            .filter_map(|record| Some((likeness(prefix, one, record)?, record)))
            .filter(|(_, record)| !keys.contains(&record.key))
            .max_by_key(|(likeness, _)| *likeness)
            .map(|(_, record)| record);
        let addresses = if one.addresses.is_empty() {
            record.map_or(&[][..], |record| &record.addresses[..])
        } else {
            &one.addresses[..]
        };
        // The record's where it has several; the kernel's in any case.
        let said = |address: &&IpAddr| record.is_some_and(|record| record.addresses.contains(address));
        let Some(address) = addresses.iter().find(said).or(addresses.first()).copied() else {
            found.nameless.push(one.end.ifname.clone());
            continue;
        };
        if !taken.insert(address) {
            continue;
        }
        let key = record.map_or_else(|| made_up(&one.end.ifname), |record| record.key.clone());
        keys.insert(key.clone());
        let pod = record.and_then(|record| record.pod.clone());
        found.claims.push(Claim { key, pod, address, end: one.end.clone() });
    }
    found
}

/// How surely a record is of this link; none where it is of another. Names alone do not do: pods of a StatefulSet
/// share theirs with their predecessors.
fn likeness(prefix: &str, one: &Standing, record: &Record) -> Option<(u8, bool)> {
    let usual = record.key.network == USUAL_NETWORK;
    let named = host_ifname(prefix, &record.key, record.pod.as_ref()) == one.end.ifname;
    let made_by_us = one.end.host_mac == macs(&record.key).0;
    if named && made_by_us {
        return Some((3, usual));
    }
    let written = record.host_end.as_ref();
    let same_end =
        written.is_some_and(|(name, mac)| *name == one.end.ifname && *mac == Some(one.end.host_mac));
    if same_end {
        return Some((2, usual));
    }
    let addressed = one.addresses.iter().any(|address| record.addresses.contains(address));
    (named && addressed).then_some((1, usual))
}

fn made_up(ifname: &str) -> SandboxKey {
    SandboxKey {
        network: UNKNOWN_NETWORK.to_owned(),
        container_id: format!("behind-{ifname}"),
        ifname: "eth0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> SandboxKey {
        SandboxKey { network: "aws-cni".into(), container_id: id.into(), ifname: "eth0".into() }
    }

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "shop".into(), name: name.into(), uid: None }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn record(id: &str, name: &str, last: u8) -> Record {
        Record { key: key(id), pod: Some(pod(name)), addresses: vec![address(last)], host_end: None }
    }

    /// The link of pod `name`, with the MAC that we give sandbox `id`, or another's.
    fn link(name: &str, id: Option<&str>, routes: &[u8]) -> Standing {
        let host_mac = id.map_or([2, 9, 9, 9, 9, 9], |id| macs(&key(id)).0);
        let ifname = host_ifname("eni", &key("any"), Some(&pod(name)));
        Standing {
            end: HostEnd { ifname, ifindex: 7, host_mac, pod_mac: [0; 6] },
            addresses: routes.iter().copied().map(address).collect(),
        }
    }

    #[track_caller]
    fn check(standing: &[Standing], records: &[Record], leased: &[u8], expected: &[(&str, u8)]) {
        let leased = leased.iter().copied().map(address).collect();
        let found = claims("eni", standing, records, &leased);
        let told: Vec<(String, IpAddr)> =
            found.claims.iter().map(|claim| (claim.key.container_id.clone(), claim.address)).collect();
        let expected: Vec<(String, IpAddr)> =
            expected.iter().map(|(id, last)| ((*id).to_owned(), address(*last))).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_link_of_ours_is_known_by_its_mac() {
        let records = [record("old", "web-0", 5), record("new", "web-0", 6)];
        check(&[link("web-0", Some("new"), &[6])], &records, &[], &[("new", 6)]);
        // Its route was lost, too: the result says where it led.
        check(&[link("web-0", Some("new"), &[])], &records, &[], &[("new", 6)]);
    }

    #[test]
    fn another_plugin_s_link_is_known_by_name_and_address() {
        let records = [record("old", "web-0", 5), record("new", "web-0", 6)];
        check(&[link("web-0", None, &[6])], &records, &[], &[("new", 6)]);
        let mut same_end = record("by-end", "web-0", 9);
        same_end.host_end = Some((link("web-0", None, &[]).end.ifname, Some([2, 9, 9, 9, 9, 9])));
        check(&[link("web-0", None, &[])], &[same_end, record("no", "web-0", 6)], &[], &[("by-end", 9)]);
    }

    #[test]
    fn a_stranger_gets_a_key_that_says_so() {
        let standing = [link("web-0", None, &[6])];
        let found = claims("eni", &standing, &[record("other", "web-1", 6)], &BTreeSet::new());
        let [claim] = &found.claims[..] else { panic!("{found:?}") };
        assert!(is_made_up(&claim.key), "{}", claim.key);
        assert!(claim.key.container_id.contains(&standing[0].end.ifname));
        assert_eq!((claim.pod.as_ref(), claim.address), (None, address(6)));
    }

    #[test]
    fn leased_addresses_and_links_without_one_are_no_claims() {
        check(&[link("web-0", Some("a"), &[6])], &[record("a", "web-0", 6)], &[6], &[]);
        let found = claims("eni", &[link("web-0", None, &[])], &[record("a", "web-0", 6)], &BTreeSet::new());
        assert_eq!(found.claims, []);
        assert_eq!(found.nameless, [link("web-0", None, &[]).end.ifname]);
    }

    #[test]
    fn a_sandbox_has_one_link_and_an_address_one_sandbox() {
        let twice = [link("web-0", None, &[6]), link("web-0", None, &[6])];
        check(&twice, &[record("a", "web-0", 6)], &[], &[("a", 6)]);
        // Multus keeps a result of its own for the same interface.
        let mut multus = record("a", "web-0", 6);
        multus.key.network = "multus-cni-network".into();
        let found = claims("eni", &twice[..1], &[multus.clone(), record("a", "web-0", 6)], &BTreeSet::new());
        assert_eq!(found.claims[0].key.network, "aws-cni");
    }
}
