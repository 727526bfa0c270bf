//! What a packet costs, by how many rules are in force, beside three hash look-ups and a clock.
//!
//! Printed, not judged but for gross faults: other load makes any narrow bound a lie.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use ebpf_common::abi::{
    ABI_VERSION, CidrValue, Direction, PeerValue, PortAction, PortKey, PortValue, RowKey, RowValue, map,
    proto,
};
use ebpf_common::frame::Frame;
use kernel_test::bpf_map;
use kernel_test::bpf_run::Classifier;
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Options, TestContext};

use super::world::{MAC, Node, ifindex, sets};
use Direction::{In, Out};

/// One run in a row of so many takes less than a tick of the scheduler.
const REPEAT: u32 = 2_000;
/// The best of so many rows is what nothing else disturbed.
const ROWS: usize = 150;
/// Flows whose first packet is measured by itself.
const FIRST_PACKETS: u16 = 3_000;
/// Profiles of ports are shared: more than fit the map would not be in force.
const PROFILES: u32 = 12_000;

/// Per cent of what a packet costs with few rules; the target is 120.
const GROSS: u64 = 150;

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

pub(crate) fn nanoseconds_by_rules() -> Result<()> {
    let empty = beside(&Classifier::empty()?)?;
    let reference = beside(&Classifier::lookups(3, true)?)?;
    let one = beside(&Classifier::lookups(1, false)?)?;
    let interface = beside(&Classifier::number()?)?.saturating_sub(empty);
    println!("an empty program {empty} ns, one look-up {one}, three and ktime_get_ns {reference}");
    println!(
        "rules    family established: from pod, to pod (of three look-ups)  first packet: allowed, denied  denied again"
    );
    let mut memory = Vec::new();
    let mut few: Option<[[u64; 3]; 2]> = None;
    for rules in [10, 1_000, 100_000] {
        let (costs, kib) = measure(rules)?;
        memory.push(format!("{rules}: {kib}"));
        let few = few.get_or_insert([costs[0].steady(), costs[1].steady()]);
        for (many, few) in costs.iter().zip(few) {
            let grew = many.steady().iter().zip(few.iter()).any(|(many, few)| *many > *few * GROSS / 100);
            ensure!(!grew, "with {rules} rules {:?} ns, with few {few:?}", many.steady());
        }
        for (family, cost) in ["IPv4", "IPv6"].iter().zip(&costs) {
            println!(
                "{rules:>7}  {family}   {:>4} ns {:>4} ns  ({:.2}, {:.2})   {:>5} ns {:>5} ns   {:>4} ns",
                cost.from_pod,
                cost.to_pod,
                ratio(cost.from_pod, reference),
                ratio(cost.to_pod, reference),
                cost.first_allowed,
                cost.first_denied,
                cost.denied,
            );
        }
    }
    println!(
        "as run, with a look-up of the interface that a filter's class id spares: one of u32 is {interface} ns"
    );
    println!("memory of all maps by rules, KiB: {}", memory.join(", "));
    Ok(())
}

fn ratio(cost: u64, reference: u64) -> f64 {
    f64::from(u32::try_from(cost).unwrap_or(u32::MAX)) / f64::from(u32::try_from(reference).unwrap_or(1))
}

fn beside(classifier: &Classifier) -> Result<u64> {
    let frame = Frame::udp((addresses(1).0, 1), (addresses(2).0, 2)).bytes();
    best(|| classifier.run(&frame, REPEAT))
}

fn best(mut run: impl FnMut() -> Result<Duration>) -> Result<u64> {
    let mut best = Duration::MAX;
    for _ in 0..ROWS {
        best = best.min(run()?);
    }
    Ok(u64::try_from(best.as_nanos())?)
}

struct Cost {
    from_pod: u64,
    to_pod: u64,
    first_allowed: u64,
    first_denied: u64,
    denied: u64,
}

impl Cost {
    /// What is the best of many rows, and does not swing.
    fn steady(&self) -> [u64; 3] {
        [self.from_pod, self.to_pod, self.denied]
    }
}

/// A peer's addresses.
fn addresses(number: u32) -> (IpAddr, IpAddr) {
    let [a, b, c, d] = (0x0a20_0000 + number).to_be_bytes();
    let six = Ipv6Addr::new(0xfd00, 0, 0, 0x20, 0, 0, (number >> 16) as u16, number as u16);
    (Ipv4Addr::new(a, b, c, d).into(), six.into())
}

/// As many rules as are said, each with a peer of a class of its own in both families; every other rule of three
/// ranges of ports, shared by few; the last ones are prefixes.
fn rules(count: u32) -> Result<Vec<Step>> {
    let profiles = count.min(PROFILES);
    let (mut ports, mut rows, mut peers, mut cidrs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..profiles {
        let profile = 2 + number;
        let range = PortKey::new(profile, proto::TCP, 0x2000, 4);
        ports.extend([
            (PortKey::any(profile), PortValue::new(PortAction::Deny, 0).with_lengths(&[range])),
            (PortKey::new(profile, proto::TCP, 80, 16), PortValue::new(PortAction::Allow, number)),
            (range, PortValue::new(PortAction::Allow, number)),
            (PortKey::new(profile, proto::UDP, 53, 16), PortValue::new(PortAction::Allow, number)),
        ]);
    }
    rows.push((RowKey { set: 1, class: 0 }, RowValue { profile: 0, rule: 0 }));
    for number in 0..count {
        let class = 1 + number;
        rows.push((RowKey { set: 1, class }, RowValue { profile: 2 + number % profiles, rule: 0 }));
        let (v4, v6) = addresses(class);
        peers.push((v4, PeerValue::new(v4, class)));
        peers.push((v6, PeerValue::new(v6, class)));
    }
    for number in 0..count.min(10_000) {
        let [_, b, c, _] = (number << 8).to_be_bytes();
        cidrs.push((format!("172.{}.{c}.0/24", b & 0xf).parse()?, CidrValue::new(1 + number)));
    }
    peers.sort_by_key(|(address, _)| address.is_ipv6());
    Ok(vec![Step::AddPorts(ports), Step::AddRows(rows), Step::SetCidrs(cidrs), Step::SetPeers(peers)])
}

fn measure(count: u32) -> Result<([Cost; 2], usize)> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&Options::default(), |dp| {
        let pod = ifindex("pa")?;
        dp.apply(&rules(count)?)?;
        let (me4, me6) = addresses(0);
        let spec = EndpointSpec { ifindex: pod, mac: MAC, ..EndpointSpec::default() };
        dp.set_endpoint(1, &spec.with_address(me4).with_address(me6))?;
        dp.apply(&[sets(1, 1, 1, 2)])?;
        let peer = addresses(1 + count / 2);
        Ok(([family(dp, pod, me4, peer.0)?, family(dp, pod, me6, peer.1)?], memory(&node)?))
    })
}

/// KiB that the maps take, as the kernel says it.
fn memory(node: &Node) -> Result<usize> {
    let pins = node.root.join(format!("v{ABI_VERSION}"));
    map::ALL.iter().map(|name| Ok(bpf_map::memory(&pins.join(name))? / 1024)).sum()
}

fn family(dp: &Datapath, pod: u32, me: IpAddr, peer: IpAddr) -> Result<Cost> {
    let go = |dir, frame: &Frame, repeat, passes: bool| -> Result<Duration> {
        let ran = dp.test_run(
            dir,
            &frame.bytes(),
            &TestContext { ifindex: pod, ingress_ifindex: pod + 1, repeat },
        )?;
        ensure!(ran.passed == passes, "{dir:?} {frame:?}");
        Ok(ran.took)
    };
    let tcp = |port, to, flags| Frame::tcp((me, port), (peer, to), flags);
    // The first packets of many flows, one by one: half of them are faster than what is told.
    let first = |to: u16, passes| -> Result<u64> {
        let mut took = Vec::new();
        for port in 0..FIRST_PACKETS {
            took.push(go(Out, &tcp(1024 + port, to, SYN), 1, passes)?);
        }
        took.sort_unstable();
        Ok(u64::try_from(took[took.len() / 2].as_nanos())?)
    };
    let first_allowed = first(80, true)?;
    let first_denied = first(81, false)?;
    go(In, &Frame::tcp((peer, 80), (me, 1024), SYN_ACK), 1, true)?;
    Ok(Cost {
        from_pod: best(|| go(Out, &tcp(1024, 80, ACK), REPEAT, true))?,
        to_pod: best(|| go(In, &Frame::tcp((peer, 80), (me, 1024), ACK), REPEAT, true))?,
        first_allowed,
        first_denied,
        denied: best(|| go(Out, &tcp(1024, 81, SYN), REPEAT, false))?,
    })
}
