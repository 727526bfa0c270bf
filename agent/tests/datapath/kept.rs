//! What the programs keep of flows, and how they ask the maps: the host model has tables of its own for these.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use ebpf_common::abi::{
    ABI_VERSION, Addr, CidrValue, CtKey, CtState, CtValue, Direction, Origin, Reason, map, proto,
};
use ebpf_common::conntrack::{age, tick};
use ebpf_common::frame::Frame;
use nix::time::{ClockId, clock_gettime};
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Options, TestContext};
use zerocopy::{FromBytes, IntoBytes};

use super::world::{Both, MAC, Node, ifindex, ip, options, row, rules, sets};
use Direction::{In, Out};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = 18;

/// The kernel's tick.
pub(crate) fn now() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(tick(now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()))
}

/// A pinned table of flows.
struct Flows(HashMap<MapData, [u8; size_of::<CtKey>()], [u8; size_of::<CtValue>()]>);

impl Flows {
    fn open(root: &Path, name: &str) -> Result<Self> {
        let pin = root.join(format!("v{ABI_VERSION}")).join(name);
        let data = MapData::from_pin(&pin).with_context(|| pin.display().to_string())?;
        Ok(Self(Map::LruHashMap(data).try_into()?))
    }

    fn put(&mut self, key: &CtKey, value: &CtValue) -> Result<()> {
        let key: [u8; size_of::<CtKey>()] = key.as_bytes().try_into()?;
        let value: [u8; size_of::<CtValue>()] = value.as_bytes().try_into()?;
        Ok(self.0.insert(key, value, 0)?)
    }

    fn get(&self, key: &CtKey) -> Result<CtValue> {
        let bytes = self.0.get(&key.as_bytes().try_into()?, 0).context("no such flow")?;
        Ok(CtValue::read_from_bytes(&bytes).unwrap_or(CtValue::NONE))
    }
}

/// The reason by which a packet is counted.
fn reason(dp: &Datapath, direction: Direction, frame: &Frame, context: &TestContext) -> Result<Reason> {
    let before = dp.counters()?;
    dp.test_run(direction, &frame.bytes(), context)?;
    let after = dp.counters()?;
    let mut counted = after.iter().zip(&before).filter(|(after, before)| after.packets != before.packets);
    Ok(counted.next().context("it is counted")?.0.reason)
}

/// Entries of any age, as the agent of another day would have left them.
pub(crate) fn silent_flows_end() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let a = ifindex("pa")?;
        dp.apply(&rules()?)?;
        let spec = EndpointSpec { ifindex: a, mac: MAC, ..EndpointSpec::default() };
        dp.set_endpoint(1, &spec.with_address(ip("10.0.0.1")?))?;
        dp.apply(&[sets(1, 1, 1, 7)])?;
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.9.1")?);
        let context = TestContext { ifindex: a, ingress_ifindex: a, repeat: 1 };
        let mut port = 5000;
        // Datagrams that run both ways; a connection that has begun, and a datagram without an answer.
        let kinds = [
            (map::CT, proto::UDP, age::DATAGRAM, CtState::SEEN_REPLY),
            (map::CT_NEW, proto::TCP, age::HANDSHAKE, 0),
            (map::CT_NEW, proto::UDP, age::DATAGRAM, 0),
        ];
        for (name, number, age, flags) in kinds {
            let mut table = Flows::open(&node.root, name)?;
            // To a port that policy denies: only an entry lets it pass.
            for (silent, expected) in [(age / 2, Reason::Established), (age + 1, Reason::Policy)] {
                port += 1;
                let key = CtKey::new(a, &Addr::from(peer), port, 81, number);
                let state = CtState::new(key.tag(), 7, Out, Origin::Outside).with(flags);
                let seen = now()?.checked_sub(silent).context("a machine that has run for minutes")?;
                let value = CtValue { state: state.0, last_seen: seen, rule: 42, ..CtValue::NONE };
                table.put(&key, &value)?;
                let frame = match number {
                    proto::UDP => Frame::udp((me, port), (peer, 81)),
                    _ => Frame::tcp((me, port), (peer, 81), ACK),
                };
                let before = now()?;
                let found = reason(dp, Out, &frame, &context)?;
                ensure!(found == expected, "{name} {number}, silent for {silent}: {found:?}");
                let kept = table.get(&key)?;
                if expected == Reason::Established {
                    ensure!((before..=now()?).contains(&kept.last_seen), "seen now: {kept:?}");
                    ensure!((kept.state, kept.rule) == (value.state, 42), "{kept:?}");
                } else {
                    ensure!(kept == value, "it opens nothing: {kept:?}");
                }
            }
        }
        Ok(())
    })
}

/// A flow stands in one table at a time, and what is written of it is all of it.
pub(crate) fn flows_move_as_a_whole() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let a = ifindex("pa")?;
        dp.apply(&rules()?)?;
        dp.apply(&[Step::AddRows(vec![row(3, 0, 0, 50)])])?;
        let spec = EndpointSpec { ifindex: a, mac: MAC, ..EndpointSpec::default() };
        dp.set_endpoint(1, &spec.with_address(ip("10.0.0.1")?))?;
        dp.apply(&[sets(1, 1, 1, 7)])?;
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.9.1")?);
        let context = TestContext { ifindex: a, ingress_ifindex: a, repeat: 1 };
        let key = CtKey::new(a, &Addr::from(peer), 1, 80, proto::TCP);
        let mut begun = CtState::new(key.tag(), 7, Out, Origin::Outside);
        let step = |dp: &Datapath, direction, flags, expected: Reason, tables| {
            let (from, to) = match direction {
                Out => ((me, 1), (peer, 80)),
                In => ((peer, 80), (me, 1)),
            };
            let found = reason(dp, direction, &Frame::tcp(from, to, flags), &context)?;
            ensure!(found == expected, "{direction:?} {flags}: {found:?}, not {expected:?}");
            ensure!(dp.flows()? == tables, "{direction:?} {flags}: {:?}, not {tables:?}", dp.flows()?);
            Ok(())
        };
        let (settled, new) = (Flows::open(&node.root, map::CT)?, Flows::open(&node.root, map::CT_NEW)?);
        step(dp, Out, SYN, Reason::New, (0, 1))?;
        let kept = new.get(&key)?;
        ensure!((kept.state, kept.rule, kept.origin_ifindex) == (begun.0, 42, 0), "{kept:?}");
        step(dp, In, SYN_ACK, Reason::Established, (1, 0))?;
        begun = begun.with(CtState::SEEN_REPLY);
        let kept = settled.get(&key)?;
        ensure!((kept.state, kept.rule) == (begun.0, 42), "{kept:?}");
        step(dp, Out, ACK, Reason::Established, (1, 0))?;
        begun = begun.with(CtState::ESTABLISHED);
        ensure!(settled.get(&key)?.state == begun.0, "{:?}", settled.get(&key)?);
        dp.apply(&[sets(1, 1, 3, 8)])?;
        step(dp, Out, ACK, Reason::Revoked, (1, 0))?;
        let kept = settled.get(&key)?;
        let denied = begun.with_epoch(8).with(CtState::DENIED);
        ensure!((kept.state, kept.rule) == (denied.0, 50), "{kept:?}");
        // The ports are used again: the new connection takes the old one's place.
        dp.apply(&[sets(1, 1, 1, 9)])?;
        step(dp, Out, SYN, Reason::New, (1, 0))?;
        let fresh = CtState::new(key.tag(), 9, Out, Origin::Outside);
        let kept = settled.get(&key)?;
        ensure!((kept.state, kept.rule) == (fresh.0, 42), "{kept:?}");
        Ok(())
    })
}

/// Who began a flow is asked again under the next epoch, by the interface that it came by.
pub(crate) fn beginners_are_kept() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1\nlink add pb type veth peer name b1")?;
    node.with(&options(), |dp| {
        let (a, b) = (ifindex("pa")?, ifindex("pb")?);
        let mut both = Both::new(dp)?;
        both.apply(&rules()?)?;
        both.endpoint(1, a, 1)?;
        both.endpoint(2, b, 2)?;
        both.apply(&[sets(1, 1, 1, 2), sets(2, 0, 0, 1)])?;
        // B comes by the node's address; set 1 lets B in and the node's address not.
        let pairs = [("10.0.0.100", "10.0.0.1"), ("fd00::100", "fd00::1")];
        let pass = |both: &mut Both<'_>, flags, expected: Reason| {
            for (node, me) in pairs {
                let frame = Frame::tcp((ip(node)?, 9), (ip(me)?, 81), flags).bytes();
                let found = both.run("B by a node port", In, &frame, a, b)?.reason;
                ensure!(found == expected, "{found:?}, not {expected:?}");
            }
            anyhow::Ok(())
        };
        pass(&mut both, SYN, Reason::New)?;
        both.apply(&[sets(1, 1, 1, 3)])?;
        pass(&mut both, ACK, Reason::Reevaluated)?;
        both.apply(&[sets(1, 2, 1, 4)])?;
        pass(&mut both, ACK, Reason::Revoked)?;
        both.agree()
    })
}

/// One address within a prefix may be of another class than the prefix.
pub(crate) fn longest_prefixes() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let a = ifindex("pa")?;
        let mut both = Both::new(dp)?;
        both.apply(&rules()?)?;
        // `rules` has class 5, which may be called, for 10.0.9.0/24 and fd00:9::/32.
        let prefixes = [
            ("10.0.9.7/32", 0),
            ("10.0.9.8/31", 0),
            ("10.0.7.7/32", 5),
            ("fd00:9::7/128", 0),
            ("fd00:9::8/127", 0),
            ("fd00:9:0:1::/64", 0),
            ("fd00:7::7/128", 5),
        ];
        let prefixes = prefixes.map(|(prefix, class)| Ok((prefix.parse()?, CidrValue::new(class))));
        both.apply(&[Step::SetCidrs(prefixes.into_iter().collect::<Result<_>>()?)])?;
        both.endpoint(1, a, 1)?;
        both.apply(&[sets(1, 0, 1, 1)])?;
        for (peer, expected) in [
            ("10.0.9.6", Reason::New),
            ("10.0.9.7", Reason::Policy),
            ("10.0.9.8", Reason::Policy),
            ("10.0.9.9", Reason::Policy),
            ("10.0.9.10", Reason::New),
            ("10.0.7.6", Reason::Policy),
            ("10.0.7.7", Reason::New),
            ("fd00:9::6", Reason::New),
            ("fd00:9::7", Reason::Policy),
            ("fd00:9::9", Reason::Policy),
            ("fd00:9::a", Reason::New),
            ("fd00:9:0:1::7", Reason::Policy),
            ("fd00:7::6", Reason::Policy),
            ("fd00:7::7", Reason::New),
        ] {
            let me = if peer.contains(':') { "fd00::1" } else { "10.0.0.1" };
            let frame = Frame::tcp((ip(me)?, 1), (ip(peer)?, 80), SYN).bytes();
            let found = both.run(peer, Out, &frame, a, a)?.reason;
            ensure!(found == expected, "{peer}: {found:?}, not {expected:?}");
        }
        both.agree()
    })
}

/// Both switches are constants of the loaded program: each alone does what it says, and ends with the program.
pub(crate) fn switches() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    let steps = [
        (false, false, [Reason::Policy, Reason::Policy, Reason::Policy]),
        (true, false, [Reason::LocalNode, Reason::Policy, Reason::Policy]),
        // What only the switch let in ends with it.
        (false, false, [Reason::Revoked, Reason::Policy, Reason::Policy]),
        (false, true, [Reason::Audited, Reason::Audited, Reason::Audited]),
        (false, false, [Reason::Revoked, Reason::Revoked, Reason::Revoked]),
    ];
    for (number, (trust_node_addresses, audit_all, expected)) in steps.into_iter().enumerate() {
        let options = Options { trust_node_addresses, audit_all, ..options() };
        node.with(&options, |dp| {
            let a = ifindex("pa")?;
            if number == 0 {
                dp.apply(&rules()?)?;
                let spec = EndpointSpec { ifindex: a, mac: MAC, ..EndpointSpec::default() };
                dp.set_endpoint(1, &spec.with_address(ip("10.0.0.1")?))?;
                dp.apply(&[sets(1, 1, 1, 1)])?;
            }
            let me = ip("10.0.0.1")?;
            let context = TestContext { ifindex: a, ingress_ifindex: a + 100, repeat: 1 };
            let asked = [
                (In, Frame::tcp((ip("10.0.0.100")?, 9), (me, 81), ACK)),
                (In, Frame::tcp((ip("10.0.7.7")?, 9), (me, 81), ACK)),
                (Out, Frame::tcp((me, 9), (ip("10.0.7.7")?, 81), ACK)),
            ];
            for ((direction, frame), expected) in asked.iter().zip(expected) {
                let found = reason(dp, *direction, frame, &context)?;
                ensure!(found == expected, "step {number}, {direction:?}: {found:?}, not {expected:?}");
            }
            Ok(())
        })?;
    }
    // What the switch let in and policy allows by now is a flow as any other.
    let let_in = |trust_node_addresses, expected: &[Reason]| {
        node.with(&Options { trust_node_addresses, ..options() }, |dp| {
            let a = ifindex("pa")?;
            if !trust_node_addresses {
                dp.apply(&[sets(1, 0, 0, 2)])?;
            }
            let context = TestContext { ifindex: a, ingress_ifindex: a + 100, repeat: 1 };
            let frame = Frame::tcp((ip("10.0.0.100")?, 10), (ip("10.0.0.1")?, 81), ACK);
            for expected in expected {
                let found = reason(dp, In, &frame, &context)?;
                ensure!(found == *expected, "let in: {found:?}, not {expected:?}");
            }
            Ok(())
        })
    };
    let_in(true, &[Reason::LocalNode, Reason::Established])?;
    let_in(false, &[Reason::Reevaluated, Reason::Established])
}
