//! Tables in the hands of the code that the kernel programs are made of.

use std::net::IpAddr;

use ebpf_common::abi::{CidrKey4, CidrKey6, Direction as Way, Endpoint, EndpointFlags, PeerKey4, PeerKey6};
use ebpf_common::frame::Frame;
use ebpf_common::host::Host;
use policy_core::model::{Direction, Protocol};
use policy_core::{LocalPod, Query, Tables};

/// The interface by which the node is reached.
const OUTSIDE: u32 = 9000;
const SYN: u8 = 2;
const INIT: u8 = 1;

/// The maps as the agent would fill them; the interface of a slot has the slot's number.
pub(crate) fn host(tables: &Tables, local: &[LocalPod]) -> Host {
    let mut host = Host::default();
    host.row = tables.rows.clone().into_iter().collect();
    host.port = tables.ports.clone().into_iter().collect();
    for (prefix, value) in &tables.cidrs {
        match prefix.network() {
            IpAddr::V4(a) => drop(host.cidr4.insert(CidrKey4::new(a.octets(), prefix.prefix()), *value)),
            IpAddr::V6(a) => drop(host.cidr6.insert(CidrKey6::new(a.octets(), prefix.prefix()), *value)),
        }
    }
    for (address, value) in &tables.peers {
        match address {
            IpAddr::V4(a) => drop(host.peer4.insert(PeerKey4 { addr: a.octets() }, *value)),
            IpAddr::V6(a) => drop(host.peer6.insert(PeerKey6 { addr: a.octets() }, *value)),
        }
    }
    for (address, target) in &tables.vips {
        let key = address.key();
        host.vip.insert(key, target.value(&key));
    }
    for (slot, sets) in &tables.endpoints {
        let mut flags = EndpointFlags::ACTIVE;
        flags |= if sets.ingress.0 == 0 { 0 } else { EndpointFlags::ISOLATED_IN };
        flags |= if sets.egress.0 == 0 { 0 } else { EndpointFlags::ISOLATED_OUT };
        let mut endpoint = Endpoint {
            ifindex: *slot,
            flags,
            set_in: sets.ingress.0,
            set_out: sets.egress.0,
            epoch: sets.epoch,
            mac: frame(IpAddr::from([0; 4]), IpAddr::from([0; 4]), Protocol::Tcp, 0).src_mac,
            ..Endpoint::EMPTY
        };
        let addresses = local.iter().filter(|one| one.slot == *slot).flat_map(|one| &one.addresses);
        for address in addresses {
            match address {
                IpAddr::V4(a) => endpoint.addr4 = a.octets(),
                IpAddr::V6(a) => endpoint.addr6 = a.octets(),
            }
        }
        host.put_endpoint(*slot, endpoint);
    }
    host
}

fn frame(from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> Frame {
    match protocol {
        Protocol::Tcp => Frame::tcp((from, 40000), (to, port), SYN),
        Protocol::Udp => Frame::udp((from, 40000), (to, port)),
        Protocol::Sctp => Frame::sctp((from, 40000), (to, port), INIT),
    }
}

/// Whether the first packet of a new flow passes an endpoint whose pod has `own`.
pub(crate) fn passes(host: &mut Host, own: IpAddr, query: &Query) -> bool {
    let protocol = Protocol::from_number(query.protocol).expect("a protocol with ports");
    host.forget_flows();
    let (way, from, to, ingress_ifindex) = match query.direction {
        Direction::Ingress => (Way::In, query.peer, own, OUTSIDE),
        Direction::Egress => (Way::Out, own, query.peer, query.slot),
    };
    let bytes = frame(from, to, protocol, query.port).bytes();
    host.run(way, &bytes, Host::facts(&bytes, query.slot, ingress_ifindex)).reason.passes()
}
