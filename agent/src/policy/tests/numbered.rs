//! What stands in maps, whatever numbers it was given: those depend on what stood before, and on whether a change that
//! failed was tried again in between.

use std::collections::BTreeMap;

use ebpf_common::abi::{
    CLASS_NONE, CidrValue, PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PeerValue, PortKey, PortValue, RowKey,
    RowValue,
};
use policy_core::{ClassId, EndpointSets, SetId, Tables, VipTarget};

/// Numbers anew, in the order in which they are met; some mean always the same.
struct Order(BTreeMap<u32, u32>);

impl Order {
    fn from(fixed: &[u32]) -> Self {
        Self(fixed.iter().map(|number| (*number, *number)).collect())
    }

    fn of(&mut self, number: u32) -> u32 {
        let next = u32::try_from(self.0.len()).expect("few numbers");
        *self.0.entry(number).or_insert(next)
    }
}

/// The same tables with numbers anew, and without epochs.
pub(super) fn numbered(tables: &Tables) -> Tables {
    let (mut classes, mut sets, mut rules) =
        (Order::from(&[CLASS_NONE]), Order::from(&[0]), Order::from(&[0]));
    let mut profiles = Order::from(&[PROFILE_DENY_ALL, PROFILE_ALLOW_ALL]);
    let peers = tables.peers.iter().map(|(address, value)| {
        let peer = PeerValue::new(*address, classes.of(value.class()));
        (*address, if value.is_local_node() { peer.local_node() } else { peer })
    });
    let peers = peers.collect();
    let cidrs = tables.cidrs.iter();
    let cidrs =
        cidrs.map(|(key, value)| (*key, CidrValue { class: classes.of(value.class), ..*value })).collect();
    let vips = tables.vips.iter();
    let vips = vips
        .map(|(key, target)| (*key, VipTarget { class: ClassId(classes.of(target.class.0)), ..*target }))
        .collect();
    let endpoints = tables.endpoints.iter().map(|(slot, one)| {
        let (ingress, egress) = (SetId(sets.of(one.ingress.0)), SetId(sets.of(one.egress.0)));
        (*slot, EndpointSets { ingress, egress, epoch: 0, ..one.clone() })
    });
    let endpoints = endpoints.collect();
    let rows = tables.rows.iter();
    let rows: BTreeMap<_, _> = rows
        .map(|(key, row)| (RowKey { set: sets.of(key.set), class: classes.of(key.class) }, *row))
        .collect();
    let rows: BTreeMap<_, _> = rows
        .into_iter()
        .map(|(key, row)| (key, RowValue { profile: profiles.of(row.profile), rule: rules.of(row.rule) }))
        .collect();
    let ports = tables.ports.iter();
    let ports: BTreeMap<_, _> = ports
        .map(|(key, port)| {
            let profile = profiles.of(u32::from_be_bytes(key.profile_be));
            (PortKey { profile_be: profile.to_be_bytes(), ..*key }, *port)
        })
        .collect();
    let ports =
        ports.into_iter().map(|(key, port)| (key, PortValue { rule: rules.of(port.rule), ..port })).collect();
    Tables { ports, rows, cidrs, peers, vips, endpoints }
}
