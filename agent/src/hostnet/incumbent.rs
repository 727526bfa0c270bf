//! Another agent's routing rules beside ours, and what goes when the node is given back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::{
    Batch, Family, PROTOCOL, PROTOCOL_KERNEL,
    nft::{self, TableFamily},
    rule::{self, Rule},
};

use super::{
    HostNet, HostNetError, PodRoute, snat,
    wanted::{is_of_pod, pod_rules},
};

/// Rounds until nothing is left: only somebody who writes at the same time needs more than one.
const ROUNDS: usize = 3;

impl HostNet {
    /// Removes rules of others that say the same as one of ours that stands, and any that lead our pods elsewhere. At
    /// every moment one of a pair stands. Returns how many went.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn displace(&self) -> Result<usize, HostNetError> {
        // Pods that were adopted a moment ago have nothing of ours yet.
        self.reconcile()?;
        let mut state = self.lock();
        let mut removed = 0;
        for _ in 0..ROUNDS {
            let mut batch = Batch::new();
            for family in [Family::V4, Family::V6] {
                let Ok(standing) = rule::list(&mut state.route, family) else { continue };
                for displaced in displaced(&standing, &state.pods) {
                    displaced.remove(&mut batch);
                    removed += 1;
                }
            }
            if batch.is_empty() {
                break;
            }
            state.route.run(batch)?;
        }
        Ok(removed)
    }
}

/// Another's rule that goes.
#[derive(Debug, PartialEq, Eq)]
struct Displaced<'a> {
    theirs: &'a Rule,
    /// Its twin of ours, where the kernel would take that one for it: a rule without a protocol is removed by its
    /// content alone, the first that fits.
    in_front: Option<&'a Rule>,
}

impl Displaced<'_> {
    fn remove(&self, batch: &mut Batch) {
        rule::delete(batch, self.theirs);
        if let Some(ours) = self.in_front {
            // That was ours; now theirs is in front.
            rule::add(batch, ours);
            rule::delete(batch, self.theirs);
        }
    }
}

fn displaced<'a>(standing: &'a [Rule], pods: &BTreeMap<IpAddr, PodRoute>) -> Vec<Displaced<'a>> {
    let others =
        standing.iter().enumerate().filter(|(_, rule)| ![PROTOCOL, PROTOCOL_KERNEL].contains(&rule.protocol));
    others
        .filter_map(|(place, theirs)| {
            let twin = Rule { protocol: PROTOCOL, ..theirs.clone() };
            let twin = standing.iter().position(|rule| *rule == twin);
            // While nobody knows a pod's ENI, whatever leads what it sends is left; and so is all until ours stands.
            let misleads = pods.iter().any(|(address, pod)| {
                let led = || pod_rules(pod).iter().all(|ours| standing.contains(ours));
                pod.table.is_some() && is_of_pod(theirs, *address) && led()
            });
            (twin.is_some() || misleads).then(|| Displaced {
                theirs,
                in_front: twin
                    .filter(|ours| *ours < place && theirs.protocol == 0)
                    .and_then(|ours| standing.get(ours)),
            })
        })
        .collect()
}

/// Removes our nftables table. Routes and rules stay: pods run on by them.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn withdraw_translation() -> Result<(), HostNetError> {
    let mut socket = nft::open()?;
    nft::remove(&mut socket, TableFamily::Ip, snat::TABLE)?;
    nft::remove(&mut socket, TableFamily::Ip6, snat::TABLE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ipnetwork::IpNetwork;

    use super::*;

    const MAIN: u32 = netlink::TABLE_MAIN;

    fn address() -> IpAddr {
        IpAddr::from([10, 0, 0, 7])
    }

    fn to_pod(protocol: u8) -> Rule {
        Rule { to: Some(IpNetwork::from(address())), protocol, ..Rule::new(512, MAIN) }
    }

    fn from_pod(protocol: u8, table: u32) -> Rule {
        Rule { from: Some(IpNetwork::from(address())), protocol, ..Rule::new(1536, table) }
    }

    fn pods(table: Option<u32>) -> BTreeMap<IpAddr, PodRoute> {
        let pod = PodRoute {
            address: address(),
            host_ifname: "eni1".into(),
            host_ifindex: 5,
            host_mac: None,
            pod_mac: None,
            table,
        };
        BTreeMap::from([(pod.address, pod)])
    }

    fn gone<'a>(standing: &'a [Rule], pods: &BTreeMap<IpAddr, PodRoute>) -> Vec<&'a Rule> {
        displaced(standing, pods).into_iter().map(|one| one.theirs).collect()
    }

    #[test]
    fn a_twin_goes_only_where_ours_stands() {
        let mark = |protocol| Rule { mark: Some((0x80, 0x80)), protocol, ..Rule::new(1024, MAIN) };
        let none = BTreeMap::new();
        assert!(gone(&[mark(0)], &none).is_empty(), "ours is not there");
        assert_eq!(gone(&[mark(0), mark(PROTOCOL)], &none), [&mark(0)]);
        let other = Rule { more: true, ..mark(3) };
        assert!(gone(&[other, mark(PROTOCOL)], &none).is_empty(), "it asks for more");
        let kernel = mark(PROTOCOL_KERNEL);
        assert!(gone(&[kernel, mark(PROTOCOL)], &none).is_empty());
        let stranger = Rule { to: Some(IpNetwork::from(address())), protocol: 3, ..Rule::new(600, 7) };
        assert!(gone(&[stranger], &pods(Some(MAIN))).is_empty(), "another priority is another program's");
    }

    #[test]
    fn what_leads_our_pods_goes_but_for_pods_whose_eni_nobody_knows() {
        let standing = [to_pod(0), to_pod(PROTOCOL), from_pod(0, 3), from_pod(PROTOCOL, 2)];
        assert_eq!(gone(&standing, &pods(Some(2))), [&standing[0], &standing[2]]);
        let adopted = [to_pod(0), from_pod(0, 2)];
        assert!(gone(&adopted, &pods(Some(2))).is_empty(), "ours is not there yet");
        assert_eq!(gone(&standing, &pods(None)), [&standing[0]]);
    }

    #[test]
    fn one_of_a_pair_always_stands() {
        let standing = [to_pod(PROTOCOL), to_pod(0)];
        let found = displaced(&standing, &BTreeMap::new());
        assert_eq!(found[0].in_front, Some(&standing[0]), "the kernel would remove ours first");
        let standing = [to_pod(0), to_pod(PROTOCOL)];
        assert_eq!(displaced(&standing, &BTreeMap::new())[0].in_front, None);
        let standing = [to_pod(PROTOCOL), to_pod(3)];
        assert_eq!(displaced(&standing, &BTreeMap::new())[0].in_front, None, "it has a protocol");
    }
}
