//! The difference between what is wanted and what is.

use std::collections::{BTreeSet, HashMap, HashSet};

use netlink::{
    PROTOCOL, PROTOCOL_KERNEL, TABLE_MAIN,
    link::{Ipv4Conf, Link, LinkChange},
    route::{Route, Scope},
};

use super::{
    Action, Desired, Observed,
    wanted::{LinkSettings, RP_FILTER_LOOSE, Wanted, wanted},
};

/// The steps that make `observed` what `desired` says, none if it is so. What is new comes before what goes, and
/// each step after those that it stands on: links, addresses, routes, neighbours, rules.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Action> {
    plan_wanted(&wanted(desired, &observed.links), observed)
}

pub(super) fn plan_wanted(wanted: &Wanted, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let links: HashMap<u32, &Link> = observed.links.iter().map(|link| (link.index, link)).collect();
    for (index, settings) in &wanted.links {
        let link = links.get(index);
        actions.extend(link.and_then(|link| change(link, settings)).map(Action::ChangeLink));
    }
    plan_addresses(wanted, observed, &mut actions);
    let stale_routes = plan_routes(wanted, observed, &mut actions);
    let present: HashSet<_> = observed.neighbours.iter().collect();
    let new_neighbours = wanted.neighbours.iter().filter(|neighbour| !present.contains(neighbour));
    actions.extend(new_neighbours.cloned().map(Action::PutNeighbour));
    let present: HashSet<_> = observed.rules.iter().collect();
    let new_rules = wanted.rules.iter().filter(|rule| !present.contains(rule));
    actions.extend(new_rules.cloned().map(Action::AddRule));
    actions.extend(plan_table(wanted, observed));

    let ours = observed.rules.iter().filter(|rule| rule.protocol == PROTOCOL);
    let stale = ours.filter(|rule| !wanted.rules.contains(rule) && !wanted.leaves(rule));
    actions.extend(stale.cloned().map(Action::RemoveRule));
    actions.extend(stale_routes.into_iter().map(Action::RemoveRoute));
    let ours = observed.neighbours.iter().filter(|neighbour| neighbour.protocol == PROTOCOL);
    // One of the same address that is replaced is not removed as well.
    let kept: HashSet<_> = wanted.neighbours.iter().map(|one| (one.link, one.address)).collect();
    let stale = ours.filter(|neighbour| !kept.contains(&(neighbour.link, neighbour.address)));
    actions.extend(stale.cloned().map(Action::RemoveNeighbour));
    actions
}

fn change(link: &Link, settings: &LinkSettings) -> Option<LinkChange> {
    let mut ipv4 = Vec::new();
    if settings.forwarding && link.forwarding == Some(0) {
        ipv4.push((Ipv4Conf::Forwarding, 1));
    }
    // 0 checks nothing at all, which is as good to us.
    if settings.loose_sources && link.rp_filter.is_some_and(|value| value != RP_FILTER_LOOSE) {
        ipv4.push((Ipv4Conf::RpFilter, RP_FILTER_LOOSE));
    }
    let change = LinkChange {
        up: (settings.up && !link.up).then_some(true),
        mtu: settings.mtu.filter(|mtu| *mtu != link.mtu),
        ipv4,
        ..LinkChange::of(link.index)
    };
    (change != LinkChange::of(link.index)).then_some(change)
}

fn plan_addresses(wanted: &Wanted, observed: &Observed, actions: &mut Vec<Action>) {
    for address in &wanted.addresses {
        // The operating system may have given it before us, with a route for the prefix: that goes below.
        let present = observed
            .addresses
            .iter()
            .any(|one| one.link == address.link && one.network.ip() == address.network.ip());
        if !present {
            actions.push(Action::AddAddress(address.clone()));
        }
    }
}

/// Plans what is new; returns what is stale.
fn plan_routes(wanted: &Wanted, observed: &Observed, actions: &mut Vec<Action>) -> Vec<Route> {
    let present: HashSet<_> = observed.routes.iter().collect();
    let mut new: Vec<&Route> = wanted.routes.iter().filter(|route| !present.contains(route)).collect();
    // A gateway has to be reachable before a route leads by it.
    new.sort_by_key(|route| route.gateway.is_some());
    actions.extend(new.into_iter().cloned().map(Action::PutRoute));
    let place = |route: &Route| (route.table, route.destination, route.metric);
    let places: BTreeSet<_> = wanted.routes.iter().map(place).collect();
    let mut stale: Vec<Route> = observed
        .routes
        .iter()
        .filter(|route| {
            let ours = route.protocol == PROTOCOL && !wanted.routes.contains(route);
            // Where another route of ours takes the place, it does so by replacing.
            let replaced = places.contains(&place(route))
                && !observed
                    .routes
                    .iter()
                    .any(|other| wanted.routes.contains(other) && place(other) == place(route));
            (ours && !replaced) || is_unwanted_subnet(wanted, route)
        })
        .cloned()
        .collect();
    stale.sort_by_key(|route| route.gateway.is_none());
    stale
}

/// The route that the kernel made in main for a secondary ENI's subnet.
fn is_unwanted_subnet(wanted: &Wanted, route: &Route) -> bool {
    route.protocol == PROTOCOL_KERNEL
        && route.table == TABLE_MAIN
        && route.scope == Scope::Link
        && route.link.is_some_and(|link| wanted.unrouted.contains(&(link, route.destination)))
}

fn plan_table(wanted: &Wanted, observed: &Observed) -> Option<Action> {
    match (&wanted.table, &observed.nftables) {
        (Some(table), Some(present)) if present.is(table) => None,
        (Some(table), _) => Some(Action::PutTable(table.clone())),
        // Not known what is wanted (no link, no CIDR): what is there goes on.
        (None, Some(_)) if wanted.findings.is_empty() => Some(Action::RemoveTable),
        (None, _) => None,
    }
}
