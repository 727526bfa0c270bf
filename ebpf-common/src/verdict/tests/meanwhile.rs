//! What other processors do between two looks: elements that are missed once, or have become another key's.

use core::cell::RefCell;
use std::collections::VecDeque;

use super::*;
use crate::abi::{Addr, CidrValue, CtKey, CtValue, FragKey, FragValue, SlotValue, VipKey, VipValue};
use crate::env::{Env, Switches};
use crate::host::{Crossing, Slot};
use crate::packet::{Facts, Packet};
use crate::verdict::{Work, decide};

/// What a look-up finds instead of what is there.
#[derive(Clone, Copy)]
enum Found {
    Nothing,
    /// The entry of another flow.
    Flow(CtKey),
}

/// The maps while another processor is at them: the first look-ups of flows, peers and services are told beforehand.
struct Meanwhile<'a> {
    inner: Crossing<'a>,
    flows: RefCell<VecDeque<Option<Found>>>,
    /// So many look-ups miss.
    peers: RefCell<u32>,
    vips: RefCell<u32>,
    fragment: Option<FragValue>,
}

impl Packet for Meanwhile<'_> {
    fn facts(&self) -> Facts {
        self.inner.facts()
    }
    fn head<const OFF: usize, const N: usize>(&self) -> Option<[u8; N]> {
        self.inner.head::<OFF, N>()
    }
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.inner.load(offset)
    }
}

fn missed(left: &RefCell<u32>) -> bool {
    let mut left = left.borrow_mut();
    let misses = *left > 0;
    *left = left.saturating_sub(1);
    misses
}

impl<'a> Env for Meanwhile<'a> {
    type Entry = Slot<'a>;

    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }
    fn switches(&self) -> Switches {
        self.inner.switches()
    }
    fn endpoint(&self, index: u32, ep: &mut Endpoint) -> Result<(), Reason> {
        self.inner.endpoint(index, ep)
    }
    fn hint(&self, ifindex: u32) -> u32 {
        self.inner.hint(ifindex)
    }
    fn set_hint(&self, ifindex: u32, slot: u32) {
        self.inner.set_hint(ifindex, slot);
    }
    fn slot_of(&self, ifindex: u32) -> Option<SlotValue> {
        self.inner.slot_of(ifindex)
    }
    fn peer(&self, addr: &Addr) -> Option<PeerValue> {
        if missed(&self.peers) { None } else { self.inner.peer(addr) }
    }
    fn cidr(&self, addr: &Addr) -> Option<CidrValue> {
        self.inner.cidr(addr)
    }
    fn vip(&self, key: &VipKey) -> Option<VipValue> {
        if missed(&self.vips) { None } else { self.inner.vip(key) }
    }
    fn row(&self, key: &RowKey) -> Option<RowValue> {
        self.inner.row(key)
    }
    fn port(&self, key: &PortKey) -> Option<PortValue> {
        self.inner.port(key)
    }
    fn flow(&self, table: Table, key: &CtKey) -> Option<Slot<'a>> {
        match self.flows.borrow_mut().pop_front().flatten() {
            Some(Found::Nothing) => None,
            Some(Found::Flow(other)) => self.inner.flow(Table::Settled, &other),
            None => self.inner.flow(table, key),
        }
    }
    fn put_flow(&self, table: Table, key: &CtKey, value: &CtValue) {
        self.inner.put_flow(table, key, value);
    }
    fn drop_flow(&self, table: Table, key: &CtKey) {
        self.inner.drop_flow(table, key);
    }
    fn fragment(&self, key: &FragKey) -> Option<FragValue> {
        self.fragment.or_else(|| self.inner.fragment(key))
    }
    fn put_fragment(&self, key: &FragKey, value: &FragValue) {
        self.inner.put_fragment(key, value);
    }
    fn spend(&self, slot: u32, tick: u32, budget: u32) -> bool {
        self.inner.spend(slot, tick, budget)
    }
}

/// Decides while the maps are changed as `prepare` says.
fn meanwhile(host: &Host, dir: Direction, frame: &Frame, prepare: impl FnOnce(&mut Meanwhile<'_>)) -> Reason {
    let bytes = frame.bytes();
    let from = if matches!(dir, In) { ETH0 } else { A };
    let inner = host.crossing(&bytes, Host::facts(&bytes, A, from));
    let mut env =
        Meanwhile { inner, flows: RefCell::default(), peers: 0.into(), vips: 0.into(), fragment: None };
    prepare(&mut env);
    let mut work = Work::EMPTY;
    decide(&env, dir, &mut work)
}

#[test]
fn a_peer_that_is_missed_is_looked_up_again() {
    let mut host = world(ISOLATED);
    host.cidr4.insert(CidrKey4::new([10, 0, 9, 0], 24), CidrValue::new(6));
    let denied = tcp(a4(), 1, remote(), 81, SYN);
    for (misses, expected) in [(1, Reason::Policy), (2, Reason::Policy), (3, Reason::New)] {
        let reason = meanwhile(&host, Out, &denied, |env| env.peers = misses.into());
        assert_eq!(reason, expected, "{misses}");
    }
}

#[test]
fn a_service_that_is_missed_is_looked_up_again() {
    let mut host = world(ISOLATED);
    let key = VipKey::new(node(), 30080, proto::TCP);
    host.vip.insert(key, VipValue::new(&key, 0, 80));
    let denied = tcp(a4(), 1, node(), 30080, SYN);
    for (misses, expected) in [(1, Reason::Policy), (2, Reason::Policy), (3, Reason::ToNode)] {
        let reason = meanwhile(&host, Out, &denied, |env| env.vips = misses.into());
        assert_eq!(reason, expected, "{misses}");
    }
}

#[test]
fn an_entry_that_has_become_another_flows_decides_nothing() {
    let host = world(ISOLATED);
    open_from_remote(&host);
    let (_, allowed, _) = host.flows()[0];
    let denied = tcp(remote(), 6000, a4(), 81, ACK);
    let other = Some(Found::Flow(allowed));
    let see = |frame: &Frame, list: &[Option<Found>]| {
        meanwhile(&host, In, frame, |env| env.flows.borrow_mut().extend(list.iter().copied()))
    };
    assert_eq!(see(&denied, &[other]), Reason::Policy, "in ct, and gone at the second look");
    assert_eq!(see(&denied, &[other, None, other]), Reason::Torn, "in ct at each look");
    assert_eq!(see(&denied, &[Some(Found::Nothing), other]), Reason::Torn, "in ct_new");
    let sent = tcp(a4(), 81, remote(), 6000, ACK).packet();
    let error = Frame::icmp(remote(), a4(), 3, 0, &sent[..28]);
    assert_eq!(see(&error, &[other]), Reason::Policy, "for an error");
}

#[test]
fn a_flow_that_moves_between_two_looks_is_found() {
    let host = world(EndpointFlags::ISOLATED_IN);
    let eight = IpAddr::from([8, 8, 8, 8]);
    assert_eq!(out(&host, &Frame::udp((a4(), 1000), (eight, 53))), Reason::New);
    let answer = Frame::udp((eight, 53), (a4(), 1000));
    assert_eq!(into(&host, ETH0, &answer), Reason::Established);
    let looks = |env: &mut Meanwhile<'_>| env.flows.borrow_mut().push_back(Some(Found::Nothing));
    assert_eq!(meanwhile(&host, In, &answer, looks), Reason::Established);
}

#[test]
fn ports_of_another_packet_are_not_taken() {
    let host = world(ISOLATED);
    let mut later = Frame::new(remote(), a4(), proto::TCP, vec![0; 64]);
    later.fragment = (24, false);
    let wrong = FragValue { src_port: 1, dst_port: 80, seen: host.now, check: 7 };
    assert_eq!(meanwhile(&host, In, &later, |env| env.fragment = Some(wrong)), Reason::Torn);
}
