//! What is wanted, in the kernel's terms.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use netlink::{
    Mac, PROTOCOL, TABLE_MAIN, address::Address, link::Link, neighbour::Neighbour, nft::Table, route::Route,
    rule::Rule,
};

use super::{Action, ActionKind, Desired, EniLink, NodeNet, PodRoute, SnatMode, action::rule_in_words, snat};

/// To a pod, look in main.
const TO_POD: u32 = 512;
/// By mark, look in main.
const BY_MARK: u32 = 1024;
/// To an external service, look in main.
const TO_EXTERNAL_SERVICE: u32 = 1535;
/// From a pod, look in its ENI's table.
const FROM_POD: u32 = 1536;
/// From a secondary ENI's own address, look in its table.
pub(super) const FROM_ENI: u32 = 32_765;

/// Sources may arrive by another link than the one that leads to them.
pub(super) const RP_FILTER_LOOSE: u32 = 2;

/// Something that is wanted and cannot be had now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Finding {
    /// No link has the Ethernet address of this ENI (yet).
    EniWithoutLink {
        /// The ENI's address.
        mac: Mac,
    },
    /// The host's end of this pod's veth pair is gone.
    PodWithoutLink {
        /// The pod's address.
        address: IpAddr,
        /// What the link was called.
        host_ifname: String,
    },
    /// Nothing was asked for yet: the node's ENIs are not known.
    NotAsked,
    /// No CIDR of the VPC is known: nothing is translated, or all would be.
    NoVpcCidrs,
    /// Another's rule for this pod is asked before ours and leads elsewhere. It stays: it is not ours.
    PrecedingRule {
        /// The pod's address.
        address: IpAddr,
        /// The rule.
        rule: Rule,
    },
    /// Somebody else removes or changes what is ours of this kind again and again: it is put back ever more seldom.
    Contested(ActionKind),
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EniWithoutLink { mac } => write!(out, "no link has the Ethernet address {mac} of an ENI"),
            Self::PodWithoutLink { address, host_ifname } => {
                write!(out, "link {host_ifname} of the pod with {address} is gone")
            }
            Self::NotAsked => out.write_str("the node's ENIs are not known yet"),
            Self::NoVpcCidrs => out.write_str("no CIDR of the VPC is known"),
            Self::PrecedingRule { address, rule } => write!(
                out,
                "another program's rule precedes ours for the pod with {address}: {} (protocol {})",
                rule_in_words(rule),
                rule.protocol
            ),
            Self::Contested(kind) => write!(
                out,
                "another program removes or changes our objects of kind {} again and again: they are put back \
                 ever more seldom, up to once in five seconds",
                kind.as_str()
            ),
        }
    }
}

/// A link's settings that are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LinkSettings {
    pub(super) up: bool,
    pub(super) mtu: Option<u32>,
    pub(super) loose_sources: bool,
    pub(super) forwarding: bool,
}

/// Objects that are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub(super) links: BTreeMap<u32, LinkSettings>,
    pub(super) addresses: BTreeSet<Address>,
    pub(super) routes: BTreeSet<Route>,
    pub(super) neighbours: BTreeSet<Neighbour>,
    pub(super) rules: BTreeSet<Rule>,
    pub(super) table: Option<Table>,
    /// Per link, subnets that the kernel must have no route for in main.
    pub(super) unrouted: BTreeSet<(u32, IpNetwork)>,
    /// Pods whose table is not known: their rules into a table stay.
    pub(super) undecided: BTreeSet<IpAddr>,
    /// The link of each secondary ENI.
    pub(super) enis: BTreeMap<Mac, u32>,
    pub(super) findings: Vec<Finding>,
}

/// One address as a network.
pub(super) fn host(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The objects for `desired` where these links exist.
pub(super) fn wanted(desired: &Desired, links: &[Link]) -> Wanted {
    let mut wanted = Wanted::default();
    let node = &desired.node;
    wanted.node_rules(node);
    match by_mac(links, node.primary.mac) {
        Some(link) => wanted.primary(node, link),
        None => wanted.findings.push(Finding::EniWithoutLink { mac: node.primary.mac }),
    }
    for eni in &node.secondary {
        match by_mac(links, eni.mac) {
            Some(link) => wanted.secondary(eni, link, node.eni_mtu),
            None => wanted.findings.push(Finding::EniWithoutLink { mac: eni.mac }),
        }
    }
    let present: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    for pod in &desired.pods {
        if present.get(&pod.host_ifindex).is_some_and(|link| is_link_of(link, pod)) {
            wanted.pod(pod);
        } else {
            wanted
                .findings
                .push(Finding::PodWithoutLink { address: pod.address, host_ifname: pod.host_ifname.clone() });
        }
    }
    wanted
}

/// The index alone is not enough: the kernel gives it to another link some day. A link that was renamed is the pod's
/// still.
fn is_link_of(link: &Link, pod: &PodRoute) -> bool {
    link.name == pod.host_ifname || (pod.host_mac.is_some() && link.mac == pod.host_mac)
}

/// The ENI's link: hardware before a VLAN or macvlan on top of it, which has the same address.
fn by_mac(links: &[Link], mac: Mac) -> Option<&Link> {
    let found = links.iter().filter(|link| link.mac == Some(mac));
    found.min_by_key(|link| (link.kind.is_some(), link.index))
}

/// The rules of a pod.
pub(super) fn pod_rules(pod: &PodRoute) -> Vec<Rule> {
    let to = Rule { to: Some(host(pod.address)), ..Rule::new(TO_POD, TABLE_MAIN) };
    let elsewhere = pod.table.filter(|table| *table != TABLE_MAIN);
    let from = elsewhere.map(|table| Rule { from: Some(host(pod.address)), ..Rule::new(FROM_POD, table) });
    std::iter::once(to).chain(from).collect()
}

/// Whether a rule is one of a pod's with this address, whoever made it: the incumbent's have the same priorities.
pub(super) fn is_of_pod(rule: &Rule, address: IpAddr) -> bool {
    let to = rule.priority == TO_POD && rule.to == Some(host(address)) && rule.from.is_none();
    // Older incumbents' lead to each CIDR of the VPC.
    (to || leads_from_pod(rule, address)) && rule.mark.is_none() && !rule.more
}

/// Whether a rule leads what a pod with this address sends to a table, whoever made it.
pub(super) fn leads_from_pod(rule: &Rule, address: IpAddr) -> bool {
    rule.priority == FROM_POD && rule.from == Some(host(address))
}

/// Others' rules, of those that stand in this order, that lead a pod's packets elsewhere before ours are asked. Twins of
/// ours, as the incumbent makes them, lead to the same table.
pub(super) fn preceding_rules(pods: &[PodRoute], standing: &[Rule]) -> Vec<Finding> {
    let by_address: HashMap<IpAddr, &PodRoute> = pods.iter().map(|pod| (pod.address, pod)).collect();
    let precedes = |place: usize, rule: &Rule| -> Option<Finding> {
        let end = if rule.priority == TO_POD { rule.to } else { rule.from };
        let pod = by_address.get(&end?.ip())?;
        if rule.protocol == PROTOCOL || !is_of_pod(rule, pod.address) {
            return None;
        }
        let table = if rule.priority == TO_POD { TABLE_MAIN } else { pod.table? };
        let ours = pod_rules(pod).into_iter().find(|ours| ours.priority == rule.priority);
        let ours_first = ours.is_some_and(|ours| standing.iter().take(place).any(|one| *one == ours));
        let preceding = || Finding::PrecedingRule { address: pod.address, rule: rule.clone() };
        (rule.table != table && !ours_first).then(preceding)
    };
    standing.iter().enumerate().filter_map(|(place, rule)| precedes(place, rule)).collect()
}

/// The route to a pod.
pub(super) fn pod_route(pod: &PodRoute) -> Route {
    Route::on_link(host(pod.address), pod.host_ifindex, TABLE_MAIN)
}

/// The neighbour entry of a pod.
pub(super) fn pod_neighbour(pod: &PodRoute) -> Option<Neighbour> {
    let (link, address) = (pod.host_ifindex, pod.address);
    pod.pod_mac.map(|mac| Neighbour { link, address, mac, protocol: PROTOCOL })
}

impl Wanted {
    fn node_rules(&mut self, node: &NodeNet) {
        if snat::is_wanted(node) {
            self.rules.insert(Rule { mark: Some((node.mark, node.mark)), ..Rule::new(BY_MARK, TABLE_MAIN) });
        }
        for service in &node.external_services {
            self.rules.insert(Rule { to: Some(*service), ..Rule::new(TO_EXTERNAL_SERVICE, TABLE_MAIN) });
        }
    }

    fn primary(&mut self, node: &NodeNet, link: &Link) {
        // Strict checking would drop a NodePort connection to a pod on another ENI: seen from the pod, the client
        // is reached by that one.
        let settings = LinkSettings { up: true, loose_sources: true, forwarding: true, mtu: None };
        self.links.insert(link.index, settings);
        let translates = matches!(node.snat, SnatMode::Internal(_));
        if translates && node.vpc_cidrs.is_empty() {
            self.findings.push(Finding::NoVpcCidrs);
        } else if snat::is_wanted(node) {
            self.table = Some(snat::table(node, &link.name));
        }
    }

    fn secondary(&mut self, eni: &EniLink, link: &Link, mtu: u32) {
        self.enis.insert(eni.mac, link.index);
        let settings = LinkSettings { up: true, mtu: Some(mtu), forwarding: true, loose_sources: false };
        self.links.insert(link.index, settings);
        if let Ok(network) = IpNetwork::new(eni.primary_ip, eni.subnet.prefix()) {
            self.addresses.insert(Address { link: link.index, network, no_prefix_route: true });
        }
        if let Ok(subnet) = IpNetwork::new(eni.subnet.network(), eni.subnet.prefix()) {
            self.unrouted.insert((link.index, subnet));
        }
        self.routes.insert(Route::on_link(host(eni.gateway), link.index, eni.table));
        self.routes.insert(Route::default_via(eni.gateway, link.index, eni.table));
        self.rules.insert(Rule { from: Some(host(eni.primary_ip)), ..Rule::new(FROM_ENI, eni.table) });
    }

    pub(super) fn pod(&mut self, pod: &PodRoute) {
        let settings = LinkSettings { up: true, mtu: None, forwarding: true, loose_sources: false };
        self.links.insert(pod.host_ifindex, settings);
        self.routes.insert(pod_route(pod));
        self.neighbours.extend(pod_neighbour(pod));
        self.rules.extend(pod_rules(pod));
        if pod.table.is_none() {
            self.undecided.insert(pod.address);
        }
    }

    /// Whether a rule is left as it stands though it is not wanted.
    pub(super) fn leaves(&self, rule: &Rule) -> bool {
        rule.from.is_some_and(|from| self.undecided.contains(&from.ip()) && leads_from_pod(rule, from.ip()))
    }

    /// Whether what `action` puts was in here, or what it removes was not: it is being put back.
    pub(super) fn had(&self, action: &Action) -> bool {
        match action {
            Action::ChangeLink(change) => self.links.contains_key(&change.index),
            Action::AddAddress(address) => self.addresses.contains(address),
            Action::PutRoute(route) => self.routes.contains(route),
            Action::PutNeighbour(neighbour) => self.neighbours.contains(neighbour),
            Action::AddRule(rule) => self.rules.contains(rule),
            Action::PutTable(table) => self.table.as_ref() == Some(table),
            // The kernel's, that came back.
            Action::RemoveRoute(route) => {
                route.link.is_some_and(|link| self.unrouted.contains(&(link, route.destination)))
            }
            Action::RemoveTable | Action::RemoveRule(_) | Action::RemoveNeighbour(_) => false,
        }
    }

    /// Takes out what was not put in force.
    pub(super) fn forget(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::ChangeLink(change) => drop(self.links.remove(&change.index)),
                Action::AddAddress(address) => drop(self.addresses.remove(address)),
                Action::PutRoute(route) => drop(self.routes.remove(route)),
                Action::PutNeighbour(neighbour) => drop(self.neighbours.remove(neighbour)),
                Action::AddRule(rule) => drop(self.rules.remove(rule)),
                Action::PutTable(_) => self.table = None,
                Action::RemoveTable
                | Action::RemoveRule(_)
                | Action::RemoveRoute(_)
                | Action::RemoveNeighbour(_) => {}
            }
        }
    }
}
