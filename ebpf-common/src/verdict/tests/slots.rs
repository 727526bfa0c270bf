//! Whose slot it is, and which addresses are its own.

use super::*;
use crate::abi::{capacity, hint_of, shadow_of};

#[test]
fn nobody_speaks_for_somebody_else() {
    let host = world(0);
    assert_eq!(out(&host, &tcp(b4(), 1, remote(), 80, SYN)), Reason::Spoofed);
    assert_eq!(out(&host, &tcp(IpAddr::from([0, 0, 0, 0]), 1, remote(), 80, SYN)), Reason::Spoofed);
    assert_eq!(out(&host, &tcp(remote6(), 1, a6(), 80, SYN)), Reason::Spoofed);
    let mut frame = tcp(a4(), 1, remote(), 80, SYN);
    frame.src_mac = [2, 0, 0, 0, 0, 2];
    assert_eq!(out(&host, &frame), Reason::Spoofed);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 1, b4(), 80, SYN)), Reason::NotOurs);
}

#[test]
fn a_pod_without_an_address_of_a_family_has_none() {
    let mut host = world(0);
    host.put_endpoint(1, Endpoint { addr6: [0; 16], ..endpoint(A, 1, 0, 1) });
    assert_eq!(out(&host, &tcp(a6(), 1, remote6(), 80, SYN)), Reason::Spoofed);
    assert_eq!(out(&host, &tcp(IpAddr::from([0_u16; 8]), 1, remote6(), 80, SYN)), Reason::Spoofed);
    assert_eq!(into(&host, ETH0, &tcp(remote6(), 1, IpAddr::from([0_u16; 8]), 80, SYN)), Reason::NotOurs);
}

#[test]
fn a_slot_of_another_interface_or_none_drops() {
    let host = world(0);
    let bytes = tcp(a4(), 1, remote(), 80, SYN).bytes();
    for (ifindex, slot, expected) in [
        (A, 1, Reason::New),
        (A, 0, Reason::Established),
        (A, 2, Reason::NoEndpoint),
        (A, 3, Reason::NoEndpoint),
        (A, 70_000, Reason::NoEndpoint),
        (99, 0, Reason::NoEndpoint),
    ] {
        let facts = Facts { slot, ..Host::facts(&bytes, ifindex, ifindex) };
        assert_eq!(host.run(Out, &bytes, facts).reason, expected, "ifindex {ifindex} slot {slot}");
    }
}

#[test]
fn a_hint_of_a_slot_decides_nothing() {
    let host = world(ISOLATED);
    let denied = tcp(a4(), 1, remote(), 81, SYN);
    assert_eq!(out(&host, &denied), Reason::Policy);
    assert_eq!(host.hints.borrow().get(&hint_of(A)), Some(&1));
    // Another pod's slot, which may everything; one that is empty; none at all.
    for slot in [2, 3, capacity::ENDPOINTS] {
        host.hints.borrow_mut().insert(hint_of(A), slot);
        assert_eq!(out(&host, &denied), Reason::Policy, "{slot}");
        assert_eq!(host.hints.borrow().get(&hint_of(A)), Some(&1), "the next packet has it right");
    }
    let mut host = host;
    host.ifslot.remove(&A);
    assert_eq!(out(&host, &denied), Reason::Policy, "the hint is enough");
    host.ep.insert(1, Endpoint::EMPTY);
    host.ep.insert(shadow_of(1), Endpoint::EMPTY);
    assert_eq!(out(&host, &denied), Reason::NoEndpoint, "and an endpoint that is gone is gone");
    // A class id of another slot is no hint.
    host.put_endpoint(1, endpoint(A, 1, ISOLATED, 1));
    let bytes = denied.bytes();
    let facts = Facts { slot: 2, ..Host::facts(&bytes, A, A) };
    assert_eq!(host.run(Out, &bytes, facts).reason, Reason::NoEndpoint);
}

#[test]
fn of_a_torn_endpoint_the_shadow_decides() {
    let mut host = world(0);
    let torn = Endpoint { set_in: 9, ..endpoint(A, 1, 0, 1).sealed(1) };
    let isolated = endpoint(A, 1, EndpointFlags::ISOLATED_OUT, 1);
    let ask = |host: &Host| out(host, &tcp(a4(), 1, remote(), 81, SYN));
    host.ep.insert(shadow_of(1), isolated.sealed(1));
    assert_eq!(ask(&host), Reason::New, "while the slot is whole, the shadow is not asked");
    host.forget_flows();
    host.ep.insert(1, torn);
    assert_eq!(ask(&host), Reason::Policy, "the shadow's");
    host.ep.insert(shadow_of(1), isolated.sealed(2));
    assert_eq!(ask(&host), Reason::Torn, "another slot's shadow");
    host.ep.insert(shadow_of(1), torn);
    assert_eq!(ask(&host), Reason::Torn);
    // A slot that is emptied just now.
    host.ep.insert(shadow_of(1), Endpoint::EMPTY);
    assert_eq!(ask(&host), Reason::NoEndpoint);
}
