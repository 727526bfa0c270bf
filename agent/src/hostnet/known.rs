//! Which announcements of the kernel call for a look at the host's network.
//!
//! Nodes are busy: ARP, kube-proxy's tables, other agents' routes and the links of pods that come and go are
//! announced all the time. This is judged on tokio's own threads, without asking the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink::{Mac, PROTOCOL, TABLE_LOCAL, monitor::Change};

use super::{PodRoute, snat, wanted::RP_FILTER_LOOSE};

/// What announcements are compared with.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What names of pods' links begin with.
    pub(super) veth_prefix: Option<String>,
    /// Links whose settings are ours to keep, but for pods'.
    pub(super) links: BTreeSet<u32>,
    pods: BTreeMap<IpAddr, KnownPod>,
}

#[derive(Debug)]
struct KnownPod {
    ifindex: u32,
    mac: Option<Mac>,
}

impl Known {
    pub(super) fn add(&mut self, pod: &PodRoute) {
        self.pods.insert(pod.address, KnownPod { ifindex: pod.host_ifindex, mac: pod.pod_mac });
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        self.pods.remove(&address);
    }

    /// Whether this change of somebody else's may have touched what is ours.
    pub(super) fn concerned_by(&self, change: &Change) -> bool {
        match change {
            // What pods' links need comes with the pod; but one that is taken down loses its route without a word.
            Change::Link { index, name, up, forwarding } => {
                !self.is_of_pods(name) || ((!up || *forwarding == Some(false)) && self.is_pod(*index))
            }
            Change::LinkGone { index, name } => !self.is_of_pods(name) || self.is_pod(*index),
            // The kernel's own of every link that comes up.
            Change::Route { table: TABLE_LOCAL, .. } => false,
            // A route of another's may stand in the place of ours now.
            Change::Route { protocol, gone, .. } => !gone || *protocol == PROTOCOL,
            Change::Rule { gone } => *gone,
            Change::Neighbour { link, address, mac, permanent, gone } => {
                let pod = address.and_then(|address| self.pods.get(&address));
                pod.filter(|pod| pod.ifindex == *link)
                    .and_then(|pod| pod.mac)
                    .is_some_and(|ours| *gone || !permanent || *mac != Some(ours))
            }
            Change::Settings { index, forwarding, rp_filter } => {
                let index = u32::try_from(*index).ok();
                let changed = *forwarding == Some(0) || rp_filter.is_some_and(|mode| mode != RP_FILTER_LOOSE);
                changed && index.is_some_and(|index| self.links.contains(&index) || self.is_pod(index))
            }
            Change::Nftables { table } => table == snat::TABLE,
            Change::Address | Change::Lost => true,
        }
    }

    /// Whether the deletion of a pod may have begun with this change: a look is better taken after it.
    pub(super) fn is_farewell(&self, change: &Change) -> bool {
        match change {
            Change::Link { name, up, .. } => !up && self.is_of_pods(name),
            Change::LinkGone { name, .. } => self.is_of_pods(name),
            Change::Neighbour { gone, .. } => *gone,
            _ => false,
        }
    }

    fn is_of_pods(&self, name: &str) -> bool {
        self.veth_prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix))
    }

    fn is_pod(&self, index: u32) -> bool {
        self.pods.values().any(|pod| pod.ifindex == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn known() -> Known {
        let mut known = Known { veth_prefix: Some("eni".into()), links: [2].into(), ..Known::default() };
        let address = [10, 0, 0, 1].into();
        let host_ifname = "eni1".to_owned();
        let (host_mac, pod_mac) = (None, Some(MAC));
        known.add(&PodRoute { address, host_ifname, host_ifindex: 7, host_mac, pod_mac, table: None });
        known
    }

    #[test]
    fn the_daily_life_of_a_node_calls_for_nothing() {
        let known = known();
        let neighbour = |last, mac, permanent, gone| {
            let address = Some([10, 0, 0, last].into());
            Change::Neighbour { link: 7, address, mac: Some(mac), permanent, gone }
        };
        let link =
            |index, name: &str, up, forwarding| Change::Link { index, name: name.into(), up, forwarding };
        let settings = |index, forwarding, rp_filter| Change::Settings { index, forwarding, rp_filter };
        let ignored = [
            link(9, "eni9", true, Some(true)),
            link(9, "eni9", false, Some(true)),
            link(7, "eni1", true, Some(true)),
            link(7, "eni1", true, None),
            link(9, "eni9", true, Some(false)),
            Change::LinkGone { index: 9, name: "eni9".into() },
            Change::Route { table: TABLE_LOCAL, protocol: 2, gone: false },
            Change::Route { table: TABLE_LOCAL, protocol: 2, gone: true },
            Change::Route { table: 254, protocol: 4, gone: true },
            Change::Rule { gone: false },
            neighbour(2, OTHER, false, true),
            neighbour(1, MAC, true, false),
            settings(9, Some(0), None),
            settings(7, Some(1), Some(2)),
            settings(-1, Some(0), Some(1)),
            Change::Nftables { table: "kube-proxy".into() },
        ];
        for change in ignored {
            assert!(!known.concerned_by(&change), "{change:?}");
        }
        let heard = [
            link(7, "eni1", false, Some(true)),
            // Written by netlink: no announcement of its own.
            link(7, "eni1", true, Some(false)),
            link(3, "eth1", true, Some(true)),
            Change::LinkGone { index: 7, name: "eni1".into() },
            Change::LinkGone { index: 3, name: "eth1".into() },
            Change::Route { table: 254, protocol: PROTOCOL, gone: true },
            // Not asked for on our socket.
            Change::Route { table: 2, protocol: PROTOCOL, gone: false },
            Change::Route { table: 254, protocol: 4, gone: false },
            Change::Rule { gone: true },
            neighbour(1, MAC, true, true),
            neighbour(1, MAC, false, false),
            neighbour(1, OTHER, true, false),
            settings(7, Some(0), None),
            settings(2, None, Some(1)),
            Change::Nftables { table: snat::TABLE.into() },
            Change::Address,
            Change::Lost,
        ];
        for change in heard {
            assert!(known.concerned_by(&change), "{change:?}");
        }
    }
}
