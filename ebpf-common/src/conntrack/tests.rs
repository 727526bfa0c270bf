//! One case a line: state, packet, direction, what it does.

use std::vec;

use proptest::prelude::*;

use super::*;
use crate::abi::Addr;

const EPOCH: u32 = 7;

fn state(dir: Direction, bits: u64) -> CtState {
    CtState::new(1, EPOCH, dir, Origin::Outside).with(bits)
}

#[track_caller]
fn check(state: CtState, number: u8, kind: u16, dir: Direction, expected: Step) {
    assert_eq!(step(state, number, Kind(kind), dir, EPOCH, false), expected);
}

#[test]
fn packets_of_a_decided_flow_pass_and_move_it_on() {
    use Direction::{In, Out};
    let fresh = state(Out, 0);
    check(fresh, proto::TCP, Kind::CONNECT, Out, Step::Pass(fresh));
    check(fresh, proto::TCP, 0, In, Step::Pass(fresh.with(CtState::SEEN_REPLY)));
    let replied = fresh.with(CtState::SEEN_REPLY);
    check(replied, proto::TCP, 0, Out, Step::Pass(replied.with(CtState::ESTABLISHED)));
    check(replied, proto::UDP, 0, Out, Step::Pass(replied));
    let open = replied.with(CtState::ESTABLISHED);
    check(open, proto::TCP, Kind::CLOSE, In, Step::Pass(open.with(CtState::CLOSING)));
}

#[test]
fn a_connection_in_the_reply_direction_is_one_of_its_own() {
    use Direction::{In, Out};
    let open = state(Out, CtState::SEEN_REPLY | CtState::ESTABLISHED);
    check(open, proto::TCP, Kind::CONNECT, In, Step::Open);
    check(open, proto::SCTP, Kind::CONNECT, In, Step::Open);
    check(state(Out, 0), proto::ICMP, Kind::ECHO, In, Step::Open);
    // Ports are used again.
    check(open, proto::TCP, Kind::CONNECT, Out, Step::Open);
    // Every ping is an echo request: none of them is new.
    check(
        state(Out, CtState::SEEN_REPLY),
        proto::ICMP,
        Kind::ECHO,
        Out,
        Step::Pass(state(Out, CtState::SEEN_REPLY)),
    );
}

#[test]
fn a_denied_flow_stays_denied_in_both_directions() {
    use Direction::{In, Out};
    let denied = state(Out, CtState::DENIED | CtState::SEEN_REPLY | CtState::ESTABLISHED);
    for dir in [In, Out] {
        check(denied, proto::TCP, 0, dir, Step::Drop);
        check(denied, proto::TCP, Kind::CLOSE, dir, Step::Drop);
        check(denied, proto::UDP, 0, dir, Step::Drop);
        // A new connection is asked about, in its own direction.
        check(denied, proto::TCP, Kind::CONNECT, dir, Step::Open);
    }
}

#[test]
fn another_epoch_judges_once_in_the_original_direction() {
    let old = CtState::new(1, 6, Direction::Out, Origin::Outside).with(CtState::SEEN_REPLY);
    let next = old.with_epoch(EPOCH);
    check(old, proto::UDP, 0, Direction::In, Step::Again(next));
    check(old.with(CtState::DENIED), proto::UDP, 0, Direction::Out, Step::Again(next));
    for origin in [Origin::LocalNode, Origin::Hairpin] {
        let ours = CtState::new(1, 6, Direction::In, origin);
        check(ours, proto::UDP, 0, Direction::In, Step::Pass(ours.with_epoch(EPOCH)));
    }
}

#[test]
fn audit_that_begins_or_ends_judges_again() {
    use Direction::{In, Out};
    let (denied, audited) = (state(Out, CtState::DENIED), state(Out, CtState::AUDITED));
    let clean = state(Out, CtState::SEEN_REPLY);
    let cases = [
        (denied, true, Step::Again(clean)),
        (denied, false, Step::Drop),
        (audited, true, Step::Pass(audited.with(CtState::SEEN_REPLY))),
        (audited, false, Step::Again(clean)),
        (clean, true, Step::Pass(clean)),
        (clean, false, Step::Pass(clean)),
    ];
    for (state, audit, expected) in cases {
        assert_eq!(step(state, proto::UDP, Kind(0), In, EPOCH, audit), expected, "{state:?} {audit}");
    }
}

#[test]
fn ages_follow_protocol_and_state() {
    let cases = [
        (0, proto::TCP, age::HANDSHAKE),
        (CtState::SEEN_REPLY, proto::TCP, age::HANDSHAKE),
        (CtState::ESTABLISHED, proto::TCP, age::ESTABLISHED),
        (CtState::ESTABLISHED | CtState::CLOSING, proto::TCP, age::HANDSHAKE),
        (0, proto::UDP, age::DATAGRAM),
        (0, proto::SCTP, age::DATAGRAM),
        (0, 47, age::DATAGRAM),
        (0, proto::ICMP, age::ICMP),
        (0, proto::ICMPV6, age::ICMP),
    ];
    for (bits, number, limit) in cases {
        let state = state(Direction::Out, bits);
        assert!(!expired(state, number, 100, 100 + limit), "{bits:#x} {number}");
        assert!(expired(state, number, 100, 101 + limit), "{bits:#x} {number}");
        assert!(!expired(state, number, 100, 99), "another CPU's clock");
    }
}

#[test]
fn ticks_are_a_little_longer_than_seconds() {
    assert_eq!(tick(0), 0);
    assert_eq!(tick(1_073_741_824), 1);
    assert_eq!(ticks(120), 111);
    assert_eq!(ticks(86_400), 80_466);
}

proptest! {
    /// The quick answer is that of the whole rule, and given to what settled flows are made of.
    #[test]
    fn what_runs_on_passes_unchanged(
        bits in any::<u64>(),
        near in any::<bool>(),
        number in prop::sample::select(vec![proto::TCP, proto::UDP, proto::ICMP, proto::SCTP, 47]),
        kind in 0..16_u16,
        epoch in 0..3_u32,
        out in any::<bool>(),
        audit in any::<bool>(),
    ) {
        let key = CtKey::new(4, &Addr::v4([10, 0, 0, 1]), 1, 80, number);
        let dir = if out { Direction::Out } else { Direction::In };
        let marks = if near { bits & (0x3f << 50 | CtState::FROM_POD) } else { bits };
        let state = if near {
            CtState::new(key.tag(), 1, Direction::In, Origin::Outside).with(marks)
        } else {
            CtState(bits)
        };
        let passes = step(state, number, Kind(kind), dir, epoch, audit) == Step::Pass(state);
        if runs_on(state, &key, Kind(kind), epoch) {
            prop_assert!(passes && state.tag() == key.tag());
        }
        let settled = CtState::SEEN_REPLY | if number == proto::TCP { CtState::ESTABLISHED } else { 0 };
        let clean = CtState::new(key.tag(), epoch, dir, Origin::Endpoint).with(settled);
        prop_assert!(runs_on(clean, &key, Kind(0), epoch));
    }
}
