//! The same packets through host and kernel.

use anyhow::{Result, ensure};
use ebpf_common::abi::{Direction, Event, Reason};
use ebpf_common::frame::Frame;
use policy_core::Step;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidepool_agent::datapath::{Datapath, Listener};

use super::world::{Both, MAC, Node, ifindex, ip, options, row, rules, sets};
use Direction::{In, Out};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

/// Links that packets come by: pods A and B, and the way out.
struct Links {
    a: u32,
    b: u32,
    eth0: u32,
}

impl Links {
    fn make(node: &Node) -> Result<()> {
        node.ns.ip("link add pa type veth peer name a1\nlink add pb type veth peer name b1\nlink add eth0 type veth peer name eth1")
    }

    fn find() -> Result<Self> {
        Ok(Self { a: ifindex("pa")?, b: ifindex("pb")?, eth0: ifindex("eth0")? })
    }
}

fn compare(work: impl FnOnce(&mut Both<'_>, &Links) -> Result<()> + Send) -> Result<()> {
    let node = Node::new()?;
    Links::make(&node)?;
    node.with(&options(), |dp| {
        let links = Links::find()?;
        let mut both = Both::new(dp)?;
        both.apply(&rules()?)?;
        both.endpoint(1, links.a, 1)?;
        both.endpoint(2, links.b, 2)?;
        both.apply(&[sets(2, 0, 0, 1)])?;
        work(&mut both, &links)?;
        both.agree()
    })
}

fn tcp(from: (&str, u16), to: (&str, u16), flags: u8) -> Result<Vec<u8>> {
    Ok(Frame::tcp((ip(from.0)?, from.1), (ip(to.0)?, to.1), flags).bytes())
}

#[expect(clippy::too_many_lines, reason = "one story after the other, in the order in which they happen")]
pub(crate) fn stories() -> Result<()> {
    compare(|both, links| {
        let (a, eth0) = (links.a, links.eth0);
        let check = |both: &mut Both<'_>, what: &str, dir, frame: Vec<u8>, from, expected: Reason| {
            let decision = both.run(what, dir, &frame, a, from)?;
            ensure!(decision.reason == expected, "{what}: {:?}, not {expected:?}", decision.reason);
            anyhow::Ok(())
        };
        check(both, "before policy", Out, tcp(("10.0.0.1", 1), ("10.0.9.1", 80), SYN)?, a, Reason::NoRow)?;
        both.apply(&[sets(1, 1, 1, 2)])?;
        for (me, peer, node) in
            [("10.0.0.1", "10.0.9.1", "10.0.0.100"), ("fd00::1", "fd00:9::1", "fd00::100")]
        {
            check(both, "allowed", Out, tcp((me, 1), (peer, 80), SYN)?, a, Reason::New)?;
            check(both, "reply", In, tcp((peer, 80), (me, 1), SYN_ACK)?, eth0, Reason::Established)?;
            check(both, "on", Out, tcp((me, 1), (peer, 80), ACK)?, a, Reason::Established)?;
            check(both, "other port", Out, tcp((me, 1), (peer, 81), SYN)?, a, Reason::Policy)?;
            check(both, "range", Out, tcp((me, 1), (peer, 0x2abc), SYN)?, a, Reason::New)?;
            check(both, "behind the range", Out, tcp((me, 1), (peer, 0x3000), SYN)?, a, Reason::Policy)?;
            let udp = Frame::udp((ip(me)?, 1), (ip(peer)?, 53)).bytes();
            check(both, "udp", Out, udp, a, Reason::New)?;
            let sctp = Frame::sctp((ip(me)?, 1), (ip(peer)?, 80), 1).bytes();
            check(both, "sctp is not tcp", Out, sctp, a, Reason::Policy)?;
            check(both, "inbound", In, tcp((peer, 5), (me, 80), SYN)?, eth0, Reason::New)?;
            check(both, "inbound reply", Out, tcp((me, 80), (peer, 5), SYN_ACK)?, a, Reason::Established)?;
            check(both, "reverse syn", Out, tcp((me, 80), (peer, 5), SYN)?, a, Reason::Policy)?;
            check(both, "inbound denied", In, tcp((peer, 5), (me, 81), SYN)?, eth0, Reason::Policy)?;
            check(both, "node", In, tcp((node, 5), (me, 81), SYN)?, 0, Reason::LocalNode)?;
            check(
                both,
                "node's address from elsewhere",
                In,
                tcp((node, 6), (me, 81), SYN)?,
                eth0,
                Reason::Policy,
            )?;
            check(both, "hairpin", In, tcp((node, 7), (me, 81), SYN)?, a, Reason::Hairpin)?;
            check(both, "B by a node port", In, tcp((node, 8), (me, 81), SYN)?, links.b, Reason::New)?;
            check(both, "spoofed", Out, tcp((peer, 1), (me, 80), SYN)?, a, Reason::Spoofed)?;
            check(both, "not ours", In, tcp((peer, 1), (node, 80), SYN)?, eth0, Reason::NotOurs)?;
            let kinds: [u8; 2] = if me.contains(':') { [1, 137] } else { [3, 5] };
            let quoted = Frame::tcp((ip(me)?, 1), (ip(peer)?, 80), ACK).packet();
            let error = Frame::icmp(ip(peer)?, ip(me)?, kinds[0], 0, &quoted).bytes();
            check(both, "related", In, error, eth0, Reason::Related)?;
            let redirect = Frame::icmp(ip(peer)?, ip(me)?, kinds[1], 0, &quoted).bytes();
            let refused = if me.contains(':') { Reason::Neighbor } else { Reason::Policy };
            check(both, "redirect", In, redirect, eth0, refused)?;
        }
        check(both, "service", Out, tcp(("10.0.0.1", 2), ("172.20.0.10", 8000), SYN)?, a, Reason::New)?;
        check(
            both,
            "no service",
            Out,
            tcp(("10.0.0.1", 2), ("172.20.0.10", 80), SYN)?,
            a,
            Reason::NoService,
        )?;
        check(both, "own node", Out, tcp(("10.0.0.1", 2), ("10.0.0.100", 10250), SYN)?, a, Reason::ToNode)?;

        let mut first = Frame::udp((ip("10.0.9.1")?, 9), (ip("10.0.0.1")?, 53));
        first.fragment = (0, true);
        let mut later = Frame::new(ip("10.0.9.1")?, ip("10.0.0.1")?, 17, vec![0; 32]);
        later.fragment = (8, false);
        check(both, "later fragment alone", In, later.bytes(), eth0, Reason::Fragment)?;
        check(both, "first fragment", In, first.bytes(), eth0, Reason::New)?;
        check(both, "later fragment", In, later.bytes(), eth0, Reason::Established)?;
        let mut six = Frame::udp((ip("fd00:8::1")?, 9), (ip("fd00::1")?, 99));
        six.extensions = vec![(0, vec![0; 8]), Frame::fragment_header(0, true, 5)];
        check(both, "IPv6 fragment as local", In, six.bytes(), 0, Reason::Policy)?;
        let mut options = Frame::tcp((ip("10.0.0.1")?, 3), (ip("10.0.9.1")?, 22), SYN);
        options.options = vec![7, 8, 4, 0, 0, 80, 0, 80];
        check(both, "port in an option", Out, options.bytes(), a, Reason::Policy)?;
        let mut hidden = Frame::tcp((ip("fd00::1")?, 3), (ip("fd00:9::1")?, 22), SYN);
        hidden.extensions = vec![(0, vec![0; 8]), (60, vec![0; 16])];
        hidden.extensions[1].1[1] = 1;
        check(both, "port behind extensions", Out, hidden.bytes(), a, Reason::Policy)?;
        let mut tiny = Frame::tcp((ip("10.0.0.1")?, 3), (ip("10.0.9.1")?, 80), SYN);
        tiny.payload.truncate(8);
        tiny.fragment = (0, true);
        check(both, "tiny fragment", Out, tiny.bytes(), a, Reason::Truncated)?;
        let mut tagged = tcp(("10.0.0.1", 1), ("10.0.9.1", 80), ACK)?;
        tagged[12..14].copy_from_slice(&[0x81, 0]);
        check(both, "vlan", Out, tagged, a, Reason::EtherType)?;

        // Revoked, both ways; the other direction being open does not revive it.
        both.apply(&[Step::AddRows(vec![row(3, 0, 0, 50)]), sets(1, 3, 0, 3)])?;
        check(both, "revoked", In, tcp(("10.0.9.1", 5), ("10.0.0.1", 80), ACK)?, eth0, Reason::Revoked)?;
        check(both, "not revived", Out, tcp(("10.0.0.1", 80), ("10.0.9.1", 5), ACK)?, a, Reason::Revoked)?;
        check(both, "still", In, tcp(("10.0.9.1", 5), ("10.0.0.1", 80), ACK)?, eth0, Reason::Revoked)?;
        check(
            both,
            "node's flow lives",
            Out,
            tcp(("10.0.0.1", 81), ("10.0.0.100", 5), ACK)?,
            a,
            Reason::Established,
        )?;
        check(
            both,
            "own flow lives",
            Out,
            tcp(("10.0.0.1", 1), ("10.0.9.1", 80), ACK)?,
            a,
            Reason::Reevaluated,
        )?;
        both.apply(&[sets(1, 1, 1, 4), Step::Grace, Step::RemoveRows(vec![row(3, 0, 0, 0).0])])?;
        check(
            both,
            "allowed again",
            Out,
            tcp(("10.0.0.1", 80), ("10.0.9.1", 5), ACK)?,
            a,
            Reason::Reevaluated,
        )
    })
}

/// Valid, slightly broken and wild frames, as they come, while policy changes.
pub(crate) fn random_packets() -> Result<()> {
    compare(|both, links| {
        let mut rng = StdRng::seed_from_u64(7);
        let mut epoch = 2;
        both.apply(&[Step::AddRows(vec![row(4, 0, 1, 60)]), sets(1, 1, 1, epoch)])?;
        for round in 0..20_000_u32 {
            if round % 1000 == 999 {
                epoch += 1;
                let set = |rng: &mut StdRng| [0, 1, 2, 4][rng.random_range(0..4)];
                let (ingress, egress) = (set(&mut rng), set(&mut rng));
                both.apply(&[sets(1, ingress, egress, epoch)])?;
            }
            let dir = if rng.random() { In } else { Out };
            let frame = random_frame(&mut rng, dir)?;
            let from = match dir {
                Out => links.a,
                In => [0, links.a, links.b, links.eth0][rng.random_range(0..4)],
            };
            both.run("random", dir, &frame, links.a, from)?;
        }
        Ok(())
    })
}

fn random_frame(rng: &mut StdRng, dir: Direction) -> Result<Vec<u8>> {
    let six = rng.random_bool(0.4);
    let me = if six { "fd00::1" } else { "10.0.0.1" };
    let others = if six {
        ["fd00:9::1", "fd00::2", "fd00:7::1", "fd00::100", "fe80::1"]
    } else {
        ["10.0.9.1", "10.0.0.2", "8.8.8.8", "10.0.0.100", "172.20.0.10"]
    };
    let peer = others[rng.random_range(0..others.len())];
    let (src, dst) = match dir {
        Out => (ip(me)?, ip(peer)?),
        In => (ip(peer)?, ip(me)?),
    };
    let port = |rng: &mut StdRng| [1, 53, 80, 81, 8000, 0x2345][rng.random_range(0..6)];
    let (sport, dport) = (port(rng), port(rng));
    let mut frame = match rng.random_range(0..10) {
        0..4 => Frame::tcp((src, sport), (dst, dport), [SYN, SYN_ACK, ACK, 17, 4][rng.random_range(0..5)]),
        4 | 5 => Frame::udp((src, sport), (dst, dport)),
        6 => Frame::sctp((src, sport), (dst, dport), rng.random_range(0..3)),
        7 => {
            let quoted = Frame::tcp((dst, dport), (src, sport), ACK).packet();
            let cut = rng.random_range(0..=quoted.len());
            Frame::icmp(src, dst, rng.random_range(0..14), 7, &quoted[..cut])
        }
        8 => Frame::icmp(src, dst, rng.random_range(125..145), 7, &[0; 24]),
        _ => Frame::new(src, dst, rng.random(), vec![0; rng.random_range(0..40)]),
    };
    if rng.random_bool(0.95) || dir == In {
        frame.src_mac = MAC;
    } else {
        frame.src_mac = [2, 0, 0, 0, 0, 9];
    }
    frame.hop_limit = [64, 255, 1][rng.random_range(0..3)];
    frame.id = rng.random_range(0..4);
    if !six && rng.random_bool(0.2) {
        frame.fragment = ([0, 8, 16, 24, 1480][rng.random_range(0..5)], rng.random());
    }
    if !six && rng.random_bool(0.2) {
        frame.options = (0..[4, 8, 40][rng.random_range(0..3)]).map(|_| rng.random_range(0..9)).collect();
    }
    while six && frame.extensions.len() < 8 && rng.random_bool(0.3) {
        let number = [0, 43, 44, 51, 59, 60, 135][rng.random_range(0..7)];
        frame.extensions.push(match number {
            44 => Frame::fragment_header(
                [0, 8, 24][rng.random_range(0..3)],
                rng.random(),
                rng.random_range(0..4),
            ),
            _ => (number, vec![0; 8]),
        });
    }
    let mut bytes = frame.bytes();
    if rng.random_bool(0.2) {
        let at = rng.random_range(0..bytes.len());
        // The EtherType stays: host and kernel take it from different places.
        if !(12..14).contains(&at) {
            bytes[at] = rng.random();
        }
    }
    if rng.random_bool(0.1) {
        // A test run refuses frames whose IP header is cut itself.
        let least = if six { 54 } else { 34 };
        bytes.truncate(rng.random_range(least..=bytes.len()));
    }
    if rng.random_bool(0.1) {
        bytes.resize(bytes.len() + rng.random_range(0..30), 0);
    }
    Ok(bytes)
}

pub(crate) fn events() -> Result<()> {
    let node = Node::new()?;
    Links::make(&node)?;
    node.with(&options(), |dp| {
        let links = Links::find()?;
        let mut reader = dp.take_event_reader().expect("the first one");
        ensure!(dp.take_event_reader().is_none());
        let mut both = Both::new(dp)?;
        both.apply(&rules()?)?;
        both.endpoint(1, links.a, 1)?;
        both.apply(&[sets(1, 1, 1, 2)])?;
        let denied = tcp(("10.0.0.1", 1234), ("10.0.9.1", 81), SYN)?;
        let run = |dp: &Datapath| {
            let ctx = tidepool_agent::datapath::TestContext {
                ifindex: links.a,
                ingress_ifindex: links.a,
                repeat: 1,
            };
            dp.test_run(Out, &denied, &ctx)
        };
        run(both.dp)?;
        ensure!(reader.next_event().is_none(), "nobody listens");
        both.dp.listen(Listener::Sampled(0))?;
        run(both.dp)?;
        let event: Event = reader.next_event().expect("a deny");
        ensure!(Reason::try_from(event.reason) == Ok(Reason::Policy), "{event:?}");
        ensure!((event.rule, event.class, event.pod_port, event.peer_port) == (44, 5, 1234, 81), "{event:?}");
        ensure!(event.peer[..4] == [10, 0, 9, 1] && event.ifindex == links.a && event.slot == 1, "{event:?}");
        let hits = both.dp.rule_hits([44])?;
        ensure!(hits[0].packets == 2, "{hits:?}");
        both.dp.listen(Listener::Nobody)?;
        run(both.dp)?;
        ensure!(reader.next_event().is_none());
        Ok(())
    })
}
