//! Frames that no stack would send, one by one through host and kernel: the same reason for each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::{Direction, PeerValue, PortAction, PortKey, PortValue, Reason, proto};
use ebpf_common::frame::Frame;
use policy_core::model::Protocol;
use policy_core::{ClassId, EndpointSets, SetId, Step, VipAddress, VipTarget};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tidepool_agent::datapath::{Datapath, TestContext};

use super::kept::now;
use super::world::{Both, MAC, Node, ifindex, ip, options, row, rules};
use Direction::{In, Out};

const FRAMES: u32 = 8_000;
/// Policy changes after so many.
const CHANGE: u32 = 200;

const V4: [&str; 7] =
    ["10.0.0.1", "10.0.0.2", "10.0.9.1", "10.0.0.100", "172.20.0.10", "8.8.8.8", "255.255.255.255"];
const V6: [&str; 7] = ["fd00::1", "fd00::2", "fd00:9::1", "fd00::100", "fe80::1", "ff02::1:ff00:1", "::"];
const PORTS: [u16; 7] = [1, 53, 80, 81, 8000, 0x2345, 30080];
const ETHER_TYPES: [[u8; 2]; 7] =
    [[0x81, 0], [0x88, 0xa8], [0x88, 0xcc], [0x08, 0x06], [0x86, 0xdd], [0x08, 0], [0, 46]];

pub(crate) fn frames() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1\nlink add pb type veth peer name b1\nlink add eth0 type veth peer name eth1")?;
    node.with(&options(), |dp| {
        let links = [ifindex("pa")?, ifindex("pb")?, ifindex("eth0")?];
        let mut both = Both::new(dp)?;
        both.apply(&rules()?)?;
        both.apply(&more_rules()?)?;
        both.endpoint(1, links[0], 1)?;
        both.endpoint(2, links[1], 2)?;
        let mut rng = StdRng::seed_from_u64(11);
        let mut seen: BTreeMap<Reason, u32> = BTreeMap::new();
        let mut counted = reasons(both.dp)?;
        for round in 0..FRAMES {
            if round % CHANGE == 0 {
                both.apply(&[change(&mut rng, 2 + round)])?;
            }
            let dir = if rng.random() { In } else { Out };
            let pod = rng.random_range(0..2);
            let from = *[0, links[0], links[1], links[2]].choose(&mut rng).context("not empty")?;
            let frame = frame(&mut rng, dir, pod)?;
            let ctx = TestContext { ifindex: links[pod], ingress_ifindex: from, repeat: 1 };
            let ran = both.dp.test_run(dir, &frame, &ctx).with_context(|| format!("{frame:02x?}"))?;
            // Entries of both age by the same clock.
            both.host.now = now()?;
            let facts = ebpf_common::host::Host::facts(&frame, links[pod], from);
            let expected = both.host.run(dir, &frame, facts).reason;
            let counts = reasons(both.dp)?;
            let found: Vec<_> =
                counts.iter().filter(|(key, count)| counted.get(key) != Some(count)).collect();
            ensure!(
                found.len() == 1 && found[0].0 == &(dir as u8, expected) && ran.passed == expected.passes(),
                "frame {round}: host {dir:?} {expected:?}, kernel counted {found:?}, passed {}: {frame:02x?}",
                ran.passed
            );
            *seen.entry(expected).or_default() += 1;
            counted = counts;
        }
        // All that can be come to by single frames was come to.
        let others = [Reason::Torn, Reason::Budget, Reason::Unrecorded, Reason::NoEndpoint, Reason::NoRow];
        let missed: Vec<_> = Reason::ALL
            .iter()
            .filter(|reason| !seen.contains_key(reason) && !others.contains(reason))
            .collect();
        ensure!(missed.is_empty(), "never: {missed:?}; {seen:?}");
        println!("{FRAMES} frames: {seen:?}");
        Ok(())
    })
}

fn reasons(dp: &Datapath) -> Result<BTreeMap<(u8, Reason), u64>> {
    let counts = dp.counters()?.into_iter();
    Ok(counts.map(|count| ((count.direction as u8, count.reason), count.packets)).collect())
}

/// This node has a class of its own, which set 1 lets nowhere but to TCP/80, and Services at its ports.
fn more_rules() -> Result<Vec<Step>> {
    let mut peers = Vec::new();
    for text in ["10.0.0.100", "fd00::100"] {
        peers.push((ip(text)?, PeerValue::new(ip(text)?, 8).local_node()));
    }
    let vip = |address: &str, port, protocol| -> Result<(VipAddress, VipTarget)> {
        let address = VipAddress { address: ip(address)?, port, protocol };
        Ok((address, VipTarget { class: ClassId(5), port: 53 }))
    };
    Ok(vec![
        Step::AddPorts(vec![
            (PortKey::any(10), PortValue::new(PortAction::Deny, 48)),
            (PortKey::new(10, proto::TCP, 80, 16), PortValue::new(PortAction::Allow, 49)),
        ]),
        Step::AddRows(vec![row(1, 8, 10, 50), row(4, 0, 1, 60)]),
        Step::SetPeers(peers),
        Step::SetVips(vec![
            vip("172.20.0.10", 53, Protocol::Udp)?,
            vip("10.0.0.100", 30080, Protocol::Tcp)?,
            vip("fd00::100", 30080, Protocol::Tcp)?,
        ]),
    ])
}

fn change(rng: &mut StdRng, epoch: u32) -> Step {
    let mut set = || SetId([0, 1, 1, 2, 4][rng.random_range(0..5)]);
    let (ingress, egress) = (set(), set());
    let audit = rng.random_bool(0.2);
    let slot = if rng.random_bool(0.7) { 1 } else { 2 };
    Step::SetEndpoints(vec![(slot, EndpointSets { sandbox: "test".into(), ingress, egress, epoch, audit })])
}

fn frame(rng: &mut StdRng, dir: Direction, pod: usize) -> Result<Vec<u8>> {
    let six = rng.random_bool(0.5);
    let all = if six { V6 } else { V4 };
    let me = ip(if rng.random_bool(0.95) { all[pod] } else { all[1 - pod] })?;
    let peer = ip(all[rng.random_range(0..all.len())])?;
    let (src, dst) = if dir == Out { (me, peer) } else { (peer, me) };
    let mut frame =
        if six && rng.random_bool(0.3) { discovery(rng, src, dst) } else { ordinary(rng, src, dst) };
    frame.src_mac = if rng.random_bool(0.95) { MAC } else { [2, 0, 0, 0, 0, 9] };
    if rng.random_bool(0.3) {
        frame.hop_limit = [0, 1, 64, 255][rng.random_range(0..4)];
    }
    odd_headers(rng, &mut frame, six);
    let mut bytes = if !six && rng.random_bool(0.1) { arp(rng, pod) } else { frame.bytes() };
    // A test run refuses frames whose own header is cut.
    let least = if six { 54 } else { 42 }.min(bytes.len());
    if rng.random_bool(0.3) {
        for _ in 0..rng.random_range(1..6) {
            let bit = rng.random_range(0..bytes.len() * 8);
            // The EtherType comes below, as a whole.
            if !(96..112).contains(&bit) {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
    if rng.random_bool(0.1) {
        bytes.truncate(rng.random_range(least..=bytes.len()));
    }
    if rng.random_bool(0.1) {
        bytes.resize(bytes.len() + rng.random_range(0..64), 0);
    }
    if rng.random_bool(0.05) {
        let kind = ETHER_TYPES[rng.random_range(0..ETHER_TYPES.len())];
        if rng.random() && bytes.len() > 18 {
            // Pushed in front, as a tag is.
            let tag = [kind[0], kind[1], 0, rng.random_range(0..3)];
            bytes.splice(12..12, tag);
        } else {
            bytes[12..14].copy_from_slice(&kind);
        }
        bytes.resize(bytes.len().max(54), 0);
    }
    Ok(bytes)
}

fn ordinary(rng: &mut StdRng, src: std::net::IpAddr, dst: std::net::IpAddr) -> Frame {
    let [sport, dport] = [0; 2].map(|_| PORTS[rng.random_range(0..PORTS.len())]);
    match rng.random_range(0..12) {
        0..5 => Frame::tcp((src, sport), (dst, dport), [2, 2, 18, 16, 17, 4, 6, 0][rng.random_range(0..8)]),
        5 | 6 => Frame::udp((src, sport), (dst, dport)),
        7 => Frame::sctp((src, sport), (dst, dport), rng.random_range(0..15)),
        8 | 9 => {
            // An error about what the receiver sent, or about nothing that it did.
            let mut quoted = match rng.random_range(0..4) {
                0 => Frame::udp((dst, dport), (src, sport)),
                1 => Frame::icmp(dst, src, if src.is_ipv4() { 8 } else { 128 }, 7, &[]),
                2 => Frame::tcp((src, sport), (dst, dport), 16),
                _ => Frame::tcp((dst, dport), (src, sport), 16),
            };
            odd_headers(rng, &mut quoted, src.is_ipv6());
            let quoted = quoted.packet();
            let cut = if rng.random() { quoted.len() } else { rng.random_range(0..=quoted.len()) };
            Frame::icmp(src, dst, rng.random_range(0..14), 0, &quoted[..cut])
        }
        10 => Frame::icmp(src, dst, [0, 5, 8, 13, 128, 129][rng.random_range(0..6)], 7, &[0; 24]),
        _ => Frame::new(src, dst, rng.random(), vec![0; rng.random_range(0..60)]),
    }
}

/// Neighbour, router and listener discovery, right or nearly so.
fn discovery(rng: &mut StdRng, src: std::net::IpAddr, dst: std::net::IpAddr) -> Frame {
    let kind = [130, 131, 133, 134, 135, 135, 136, 136, 137, 143][rng.random_range(0..10)];
    let target = V6[rng.random_range(0..V6.len())].parse().unwrap_or(std::net::Ipv6Addr::LOCALHOST);
    let mut quoted = target.octets().to_vec();
    for _ in 0..rng.random_range(0..3) {
        let mac = if rng.random_bool(0.8) { MAC } else { [2, 0, 0, 0, 0, 7] };
        quoted.extend([rng.random_range(0..6), [1, 1, 1, 0, 2][rng.random_range(0..5)]]);
        quoted.extend(mac);
    }
    let mut frame = Frame::icmp(src, dst, kind, 0, &quoted);
    frame.hop_limit = if matches!(kind, 130 | 131 | 143) { 1 } else { 255 };
    if rng.random_bool(0.2) {
        frame.dst = "ff02::16".parse().unwrap_or(dst);
    }
    frame
}

fn arp(rng: &mut StdRng, pod: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(if rng.random_bool(0.9) { MAC } else { [2, 0, 0, 0, 0, 9] });
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, rng.random_range(0..4)]);
    bytes.extend(if rng.random_bool(0.9) { MAC } else { [2, 0, 0, 0, 0, 9] });
    bytes.extend([10, 0, 0, [1 + pod as u8, 1 + pod as u8, 9][rng.random_range(0..3)]]);
    bytes.extend([0; 6]);
    bytes.extend([10, 0, 0, 100]);
    bytes
}

/// Fragments, options and extension headers.
fn odd_headers(rng: &mut StdRng, frame: &mut Frame, six: bool) {
    frame.id = rng.random_range(0..6);
    if !six && rng.random_bool(0.2) {
        frame.fragment = ([0, 0, 8, 16, 24, 1480][rng.random_range(0..6)], rng.random());
    }
    if !six && rng.random_bool(0.15) {
        let kinds = [0, 1, 1, 7, 68, 131, 137, 148, 3, 4];
        let len = [4, 8, 24, 40][rng.random_range(0..4)];
        frame.options = (0..len).map(|_| kinds[rng.random_range(0..kinds.len())]).collect();
    }
    while six && frame.extensions.len() < 8 && rng.random_bool(0.25) {
        let number = [0, 43, 44, 44, 50, 51, 59, 60, 135, 139, 140][rng.random_range(0..11)];
        let extension = match number {
            44 => Frame::fragment_header(
                [0, 0, 8, 24][rng.random_range(0..4)],
                rng.random(),
                rng.random_range(0..6),
            ),
            _ => {
                let units = rng.random_range(0..3_u8);
                let mut body = vec![0; 8 + 8 * usize::from(units)];
                body[1] = if rng.random_bool(0.9) { units } else { rng.random() };
                body[3] = u8::from(rng.random_bool(0.2));
                (number, body)
            }
        };
        frame.extensions.push(extension);
    }
}
