//! The plan, on pictures of a kernel.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink::{
    Mac, PROTOCOL, PROTOCOL_KERNEL, TABLE_MAIN,
    address::Address,
    link::{Ipv4Conf, Link, LinkChange},
    neighbour::Neighbour,
    nft,
    route::{Route, Scope},
    rule::Rule,
};
use proptest::prelude::*;

use super::*;

const PRIMARY: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SECONDARY: Mac = Mac([2, 0, 0, 0, 0, 2]);
const POD: Mac = Mac([2, 9, 0, 0, 0, 1]);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

fn eni(mac: Mac, index: u32, primary_ip: &str, subnet: &str, gateway: &str) -> EniLink {
    EniLink {
        mac,
        device_index: index,
        network_card: 0,
        primary_ip: ip(primary_ip),
        subnet: net(subnet),
        gateway: ip(gateway),
        table: table_of(index, 0),
    }
}

fn node() -> NodeNet {
    NodeNet {
        primary: eni(PRIMARY, 0, "10.20.0.10", "10.20.0.0/20", "10.20.0.1"),
        secondary: vec![eni(SECONDARY, 1, "10.20.16.10", "10.20.16.0/20", "10.20.16.1")],
        vpc_cidrs: vec![net("10.20.0.0/16")],
        exclude_snat: vec![],
        external_services: vec![],
        snat: SnatMode::Internal(PortChoice::Random),
        node_port: true,
        mark: 0x80,
        veth_prefix: "eni".into(),
        eni_mtu: 9001,
    }
}

fn pod(number: u8, table: u32) -> PodRoute {
    PodRoute {
        address: Ipv4Addr::new(10, 20, 16, number).into(),
        host_ifname: format!("eni{number}"),
        host_ifindex: 100 + u32::from(number),
        host_mac: Some(Mac([2, 8, 0, 0, 0, number])),
        pod_mac: Some(POD),
        table: Some(table),
    }
}

fn link(index: u32, name: &str, mac: Option<Mac>) -> Link {
    Link {
        index,
        name: name.into(),
        mac,
        mtu: 1500,
        up: true,
        lower_up: true,
        running: true,
        peer_index: None,
        kind: mac.is_none().then(|| "veth".into()),
        rp_filter: Some(1),
        forwarding: Some(0),
    }
}

fn desired(pods: Vec<PodRoute>) -> Desired {
    Desired { node: node(), pods }
}

/// A node as it is before the agent's first start, with links for these pods.
fn fresh(pods: &[PodRoute]) -> Observed {
    let mut links =
        vec![link(1, "lo", None), link(2, "eth0", Some(PRIMARY)), link(3, "eth1", Some(SECONDARY))];
    links.extend(pods.iter().map(|pod| link(pod.host_ifindex, &pod.host_ifname, None)));
    Observed { links, ..Observed::default() }
}

/// What the kernel has after an action.
fn apply(observed: &mut Observed, action: &Action) {
    match action {
        Action::ChangeLink(change) => {
            let link = observed.links.iter_mut().find(|link| link.index == change.index).expect("it exists");
            link.up = change.up.unwrap_or(link.up);
            link.mtu = change.mtu.unwrap_or(link.mtu);
            for (conf, value) in &change.ipv4 {
                match conf {
                    Ipv4Conf::Forwarding => link.forwarding = Some(*value),
                    Ipv4Conf::RpFilter => link.rp_filter = Some(*value),
                }
            }
        }
        Action::AddAddress(address) => observed.addresses.push(address.clone()),
        Action::PutRoute(route) => {
            let place = |one: &Route| (one.table, one.destination, one.metric);
            match observed.routes.iter_mut().find(|one| place(one) == place(route)) {
                Some(first) => *first = route.clone(),
                None => observed.routes.push(route.clone()),
            }
        }
        Action::PutNeighbour(new) => {
            observed.neighbours.retain(|one| (one.link, one.address) != (new.link, new.address));
            observed.neighbours.push(new.clone());
        }
        Action::AddRule(rule) => observed.rules.push(rule.clone()),
        Action::PutTable(table) => observed.nftables = Some(nft::Observed::expected(table)),
        Action::RemoveTable => observed.nftables = None,
        Action::RemoveRule(rule) => observed.rules.retain(|one| one != rule),
        Action::RemoveRoute(route) => observed.routes.retain(|one| one != route),
        Action::RemoveNeighbour(gone) => observed.neighbours.retain(|one| one != gone),
    }
}

fn settle(desired: &Desired, observed: &mut Observed) -> Vec<Action> {
    let actions = plan(desired, observed);
    actions.iter().for_each(|action| apply(observed, action));
    actions
}

#[test]
fn a_fresh_node_gets_everything_in_its_order() {
    let pods = vec![pod(7, 2), pod(8, TABLE_MAIN)];
    let mut observed = fresh(&pods);
    let actions = settle(&desired(pods), &mut observed);
    let kinds: Vec<&str> = actions.iter().map(|action| action.kind().as_str()).collect();
    let mut order = kinds.clone();
    order.dedup();
    assert_eq!(order, ["link", "address", "route", "neighbour", "rule", "nftables"]);
    let rules: Vec<(u32, u32)> = observed.rules.iter().map(|rule| (rule.priority, rule.table)).collect();
    assert_eq!(rules, [(512, 254), (512, 254), (1024, 254), (1536, 2), (32_765, 2)]);
    let routes: Vec<String> =
        observed.routes.iter().map(|route| format!("{} table {}", route.destination, route.table)).collect();
    assert_eq!(
        routes,
        ["10.20.16.1/32 table 2", "10.20.16.7/32 table 254", "10.20.16.8/32 table 254", "0.0.0.0/0 table 2"]
    );
    let changes: Vec<&Action> = actions.iter().take(2).collect();
    let primary =
        LinkChange { ipv4: vec![(Ipv4Conf::Forwarding, 1), (Ipv4Conf::RpFilter, 2)], ..LinkChange::of(2) };
    let secondary =
        LinkChange { mtu: Some(9001), ipv4: vec![(Ipv4Conf::Forwarding, 1)], ..LinkChange::of(3) };
    assert_eq!(changes, [&Action::ChangeLink(primary), &Action::ChangeLink(secondary)]);
}

#[test]
fn without_translation_and_node_ports_there_is_no_table_and_no_mark() {
    let mut desired = desired(vec![]);
    desired.node.snat = SnatMode::External;
    desired.node.node_port = false;
    let mut observed = fresh(&[]);
    settle(&desired, &mut observed);
    assert_eq!(observed.nftables, None);
    assert!(observed.rules.iter().all(|rule| rule.mark.is_none()));
    // Turned on and off again.
    desired.node.node_port = true;
    settle(&desired, &mut observed);
    assert!(observed.nftables.is_some() && observed.rules.iter().any(|rule| rule.mark == Some((0x80, 0x80))));
    desired.node.node_port = false;
    settle(&desired, &mut observed);
    assert!(observed.nftables.is_none() && observed.rules.iter().all(|rule| rule.mark.is_none()));
}

#[test]
fn unknown_vpc_cidrs_keep_the_table_as_it_is() {
    let mut desired = desired(vec![]);
    let mut observed = fresh(&[]);
    settle(&desired, &mut observed);
    desired.node.vpc_cidrs.clear();
    assert_eq!(plan(&desired, &observed), []);
    assert_eq!(wanted::wanted(&desired, &observed.links).findings, [Finding::NoVpcCidrs]);
}

#[test]
fn an_eni_without_link_is_awaited_and_a_pod_without_link_said() {
    let mut pods = vec![pod(7, 2)];
    let mut observed = fresh(&pods);
    observed.links.retain(|link| link.mac != Some(SECONDARY));
    // The index lives on, under another name.
    pods[0].host_ifname = "eniother".into();
    let wanted = wanted::wanted(&desired(pods), &observed.links);
    let pod = Finding::PodWithoutLink { address: ip("10.20.16.7"), host_ifname: "eniother".into() };
    assert_eq!(wanted.findings, [Finding::EniWithoutLink { mac: SECONDARY }, pod]);
}

#[test]
fn a_link_that_was_renamed_is_its_pod_s_still() {
    let pods = vec![pod(7, 2)];
    let mut observed = fresh(&pods);
    settle(&desired(pods.clone()), &mut observed);
    let link = observed.links.iter_mut().find(|link| link.index == pods[0].host_ifindex).expect("it exists");
    (link.name, link.mac) = ("renamed0".into(), pods[0].host_mac);
    assert_eq!(plan(&desired(pods), &observed), []);
}

#[test]
fn the_kernels_route_of_a_secondary_subnet_goes_and_that_of_the_primary_stays() {
    let mut observed = fresh(&[]);
    let kernel = |subnet: &str, link| Route {
        protocol: PROTOCOL_KERNEL,
        ..Route::on_link(net(subnet), link, TABLE_MAIN)
    };
    observed.routes = vec![kernel("10.20.0.0/20", 2), kernel("10.20.16.0/20", 3)];
    let given = |link, text: &str| Address { link, network: net(text), no_prefix_route: false };
    observed.addresses = vec![given(2, "10.20.0.10/20"), given(3, "10.20.16.10/20")];
    let actions = settle(&desired(vec![]), &mut observed);
    assert!(actions.contains(&Action::RemoveRoute(kernel("10.20.16.0/20", 3))));
    assert!(observed.routes.contains(&kernel("10.20.0.0/20", 2)));
    assert!(
        !actions.iter().any(|action| matches!(action, Action::AddAddress(_))),
        "it has the address already"
    );
}

#[test]
fn rules_of_the_incumbent_are_doubled_and_stay() {
    let pods = vec![pod(7, 2)];
    let mut observed = fresh(&pods);
    let theirs = Rule { to: Some(net("10.20.16.7/32")), protocol: 0, ..Rule::new(512, TABLE_MAIN) };
    observed.rules = vec![theirs.clone()];
    let actions = settle(&desired(pods), &mut observed);
    let ours = Rule { protocol: PROTOCOL, ..theirs.clone() };
    assert!(actions.contains(&Action::AddRule(ours)) && observed.rules.contains(&theirs));
}

#[test]
fn a_pod_whose_eni_nobody_knows_keeps_the_rule_that_leads_it() {
    let known = vec![pod(7, 2)];
    let mut observed = fresh(&known);
    settle(&desired(known.clone()), &mut observed);
    let unknown = vec![PodRoute { table: None, ..pod(7, 2) }];
    assert_eq!(plan(&desired(unknown.clone()), &observed), []);
    // Without it there is none to be guessed; what leads to the pod is put back.
    observed.rules.retain(|rule| rule.from != Some(net("10.20.16.7/32")));
    let to = observed.rules.iter().position(|rule| rule.to == Some(net("10.20.16.7/32"))).expect("it stands");
    let to = observed.rules.remove(to);
    assert_eq!(plan(&desired(unknown), &observed), [Action::AddRule(to)]);
    // Its table comes to be known: only then another's goes.
    settle(&desired(known), &mut observed);
    let moved = settle(&desired(vec![pod(7, 3)]), &mut observed);
    assert!(
        matches!(&moved[..], [Action::AddRule(new), Action::RemoveRule(old)] if new.table == 3 && old.table == 2)
    );
}

#[test]
fn rules_of_a_pod_s_are_known_whoever_made_them() {
    let rules = wanted::pod_rules(&pod(7, 2));
    let (address, other) = (ip("10.20.16.7"), ip("10.20.16.8"));
    for protocol in [PROTOCOL, 4, 0] {
        for rule in &rules {
            let rule = Rule { protocol, ..rule.clone() };
            assert!(wanted::is_of_pod(&rule, address) && !wanted::is_of_pod(&rule, other), "{rule:?}");
            assert!(
                !wanted::is_of_pod(&Rule { priority: 700, ..rule.clone() }, address),
                "another's priority"
            );
            assert!(!wanted::is_of_pod(&Rule { more: true, ..rule }, address), "it asks for more");
        }
    }
}

#[test]
fn tables_of_enis() {
    assert_eq!(table_of(0, 0), TABLE_MAIN);
    assert_eq!(table_of(1, 0), 2);
    assert_eq!(table_of(3, 0), 4);
    assert_eq!(table_of(0, 1), 10_100);
    assert_eq!(table_of(2, 3), 10_302);
}

/// Objects of others and leftovers of our own, where they may collide with ours.
fn noise() -> impl Strategy<Value = Observed> {
    let protocol = || prop_oneof![Just(PROTOCOL), Just(PROTOCOL_KERNEL), Just(4_u8), Just(0)];
    let destination = || {
        prop_oneof![
            (0_u8..12).prop_map(|last| IpNetwork::from(IpAddr::from(Ipv4Addr::new(10, 20, 16, last)))),
            Just(net("0.0.0.0/0")),
            Just(net("10.20.16.0/20")),
        ]
    };
    let table = || prop_oneof![Just(TABLE_MAIN), Just(2_u32), Just(3)];
    let route = (destination(), table(), protocol(), 100_u32..112, any::<bool>()).prop_map(
        |(destination, table, protocol, link, linked)| Route {
            protocol,
            scope: if linked { Scope::Link } else { Scope::Universe },
            ..Route::on_link(destination, link, table)
        },
    );
    let rule = (destination(), table(), protocol(), any::<bool>(), any::<bool>()).prop_map(
        |(network, table, protocol, from, more)| Rule {
            from: from.then_some(network),
            to: (!from).then_some(network),
            protocol,
            more,
            ..Rule::new(if from { 1536 } else { 512 }, table)
        },
    );
    let neighbour = (0_u8..12, 100_u32..112, protocol()).prop_map(|(last, link, protocol)| Neighbour {
        link,
        address: Ipv4Addr::new(10, 20, 16, last).into(),
        mac: Mac([2, 7, 7, 7, 7, 7]),
        protocol,
    });
    let several = 0..10_usize;
    (
        prop::collection::vec(route, several.clone()),
        prop::collection::vec(rule, several.clone()),
        prop::collection::vec(neighbour, several),
    )
        .prop_map(|(mut routes, rules, mut neighbours)| {
            // The kernel has one of each place here: nobody appends.
            let mut places = std::collections::BTreeSet::new();
            routes.retain(|route| places.insert((route.table, route.destination, route.metric)));
            let mut places = std::collections::BTreeSet::new();
            neighbours.retain(|one| places.insert((one.link, one.address)));
            Observed { routes, rules, neighbours, ..Observed::default() }
        })
}

proptest! {
    /// One pass makes everything so, and then nothing is left to do.
    #[test]
    fn plans_converge_and_leave_others_alone(noise in noise(), numbers in prop::collection::btree_set(1_u8..12, 0..6), main: bool) {
        let pods: Vec<_> = numbers.iter().map(|number| pod(*number, if main { TABLE_MAIN } else { 2 })).collect();
        let mut observed = Observed { links: fresh(&pods).links, ..noise };
        let before = observed.clone();
        let desired = desired(pods);
        settle(&desired, &mut observed);
        prop_assert_eq!(plan(&desired, &observed), vec![]);

        let wanted = wanted::wanted(&desired, &observed.links);
        for rule in before.rules.iter().filter(|rule| rule.protocol != PROTOCOL) {
            prop_assert!(observed.rules.contains(rule), "a rule of another's is gone: {:?}", rule);
        }
        for route in before.routes.iter().filter(|route| route.protocol != PROTOCOL) {
            let replaced = wanted.routes.iter().any(|one| (one.table, one.destination) == (route.table, route.destination));
            prop_assert!(replaced || observed.routes.contains(route), "a route of another's is gone: {:?}", route);
        }
        prop_assert!(wanted.routes.iter().all(|route| observed.routes.contains(route)));
        prop_assert!(wanted.rules.iter().all(|rule| observed.rules.contains(rule)));
        prop_assert!(wanted.neighbours.iter().all(|one| observed.neighbours.contains(one)));
        let ours = |protocol: u8| protocol == PROTOCOL;
        prop_assert!(observed.routes.iter().filter(|one| ours(one.protocol)).all(|one| wanted.routes.contains(one)));
        prop_assert!(observed.rules.iter().filter(|one| ours(one.protocol)).all(|one| wanted.rules.contains(one)));
    }

    /// Whatever is taken away is all that is put back.
    #[test]
    fn what_is_taken_away_is_put_back(numbers in prop::collection::btree_set(1_u8..12, 1..6), taken: prop::sample::Index, kind in 0..4) {
        let pods: Vec<_> = numbers.iter().map(|number| pod(*number, 2)).collect();
        let mut observed = fresh(&pods);
        let desired = desired(pods);
        settle(&desired, &mut observed);
        let settled = observed.clone();
        let expected = match kind {
            0 => Action::AddRule(observed.rules.remove(taken.index(settled.rules.len()))),
            1 => Action::PutRoute(observed.routes.remove(taken.index(settled.routes.len()))),
            2 => Action::PutNeighbour(observed.neighbours.remove(taken.index(settled.neighbours.len()))),
            _ => Action::AddAddress(observed.addresses.remove(taken.index(settled.addresses.len()))),
        };
        prop_assert_eq!(plan(&desired, &observed), vec![expected]);
    }
}
