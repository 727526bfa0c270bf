//! What the programs tell of packets: counters, and events while somebody listens. The host model has none of it.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, ensure};
use ebpf_common::abi::{Direction, Event, Reason};
use ebpf_common::frame::Frame;
use kernel_test::wait_for;
use nix::time::{ClockId, clock_gettime};
use policy_core::{EndpointSets, SetId, Step};
use tidepool_agent::datapath::{Datapath, EndpointSpec, EventReader, Listener, TestContext};

use super::packets::LATE;
use super::world::{MAC, Node, ifindex, ip, options, row, rules, sets};
use Direction::{In, Out};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = 18;
/// The pod's slot.
const SLOT: u32 = 5;

/// A pod that set 1 isolates both ways; set 3 denies all.
struct Pod<'a> {
    dp: &'a mut Datapath,
    ifindex: u32,
}

fn trial(work: impl FnOnce(&mut Pod<'_>, &mut EventReader) -> Result<()> + Send) -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let ifindex = ifindex("pa")?;
        let spec = EndpointSpec { ifindex, mac: MAC, ..EndpointSpec::default() };
        dp.apply(&rules()?)?;
        dp.apply(&[Step::AddRows(vec![row(3, 0, 0, 50)])])?;
        dp.set_endpoint(SLOT, &spec.with_address(ip("10.0.0.1")?).with_address(ip("fd00::1")?))?;
        dp.apply(&[sets(SLOT, 1, 1, 1)])?;
        let mut reader = dp.take_event_reader().expect("the first one");
        work(&mut Pod { dp, ifindex }, &mut reader)
    })
}

impl Pod<'_> {
    fn cross(&self, direction: Direction, frame: &Frame) -> Result<()> {
        self.repeat(direction, frame, 1)
    }

    /// What comes in came by another interface.
    fn repeat(&self, direction: Direction, frame: &Frame, repeat: u32) -> Result<()> {
        let ingress_ifindex = self.ifindex + if direction == In { 100 } else { 0 };
        let context = TestContext { ifindex: self.ifindex, ingress_ifindex, repeat };
        self.dp.test_run(direction, &frame.bytes(), &context)?;
        Ok(())
    }

    fn of_the_node(&self, frame: &Frame) -> Result<()> {
        let context = TestContext { ifindex: self.ifindex, ingress_ifindex: 0, repeat: 1 };
        self.dp.test_run(In, &frame.bytes(), &context)?;
        Ok(())
    }

    /// Packets and bytes.
    fn count(&self, direction: Direction, reason: Reason) -> Result<(u64, u64)> {
        let counts = self.dp.counters()?.into_iter();
        Ok(counts
            .filter(|count| (count.direction, count.reason) == (direction, reason))
            .fold((0, 0), |sum, count| (sum.0 + count.packets, sum.1 + count.bytes)))
    }

    fn hits(&self, rule: u32) -> Result<(u64, u64)> {
        let hits = self.dp.rule_hits([rule])?;
        Ok(hits.iter().fold((0, 0), |sum, hit| (sum.0 + hit.packets, sum.1 + hit.bytes)))
    }
}

fn all(reader: &mut EventReader) -> Vec<Event> {
    std::iter::from_fn(|| reader.next_event()).collect()
}

/// The kernel's coarse clock in nanoseconds.
fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs())
}

pub(crate) fn all_of_a_packet() -> Result<()> {
    trial(|pod, reader| {
        pod.dp.listen(Listener::Sampled(1))?;
        let tcp = |from: &str, sport, to: &str, dport, flags| {
            anyhow::Ok(Frame::tcp((ip(from)?, sport), (ip(to)?, dport), flags))
        };
        let nobody = Event {
            time_ns: 0,
            peer: [0; 16],
            ifindex: pod.ifindex,
            rule: 0,
            class: 0,
            pod_port: 0,
            peer_port: 0,
            len: 54,
            proto: 0,
            family: 0,
            direction: Out as u8,
            reason: 0,
            slot: SLOT,
            pad: 0,
        };
        let (mut four, mut six) = ([0; 16], [0; 16]);
        four[..4].copy_from_slice(&[10, 0, 9, 1]);
        six[..4].copy_from_slice(&[0xfd, 0, 0, 9]);
        six[15] = 1;
        let out = Event {
            peer: four,
            rule: 44,
            class: 5,
            pod_port: 1234,
            peer_port: 81,
            proto: 6,
            family: 4,
            reason: Reason::Policy as u8,
            ..nobody
        };
        let told = |pod: &Pod<'_>, reader: &mut EventReader, direction, frame: &Frame, expected: Event| {
            let before = now()?;
            pod.cross(direction, frame)?;
            let (events, after) = (all(reader), now()?);
            ensure!(events.len() == 1, "{events:?}, not {expected:?}");
            ensure!(Event { time_ns: 0, ..events[0] } == expected, "{:?}, not {expected:?}", events[0]);
            ensure!((before..=after).contains(&events[0].time_ns), "{before}, {events:?}, {after}");
            Ok(())
        };
        told(pod, reader, Out, &tcp("10.0.0.1", 1234, "10.0.9.1", 81, SYN)?, out)?;
        let udp = Frame::udp((ip("fd00:9::1")?, 7), (ip("fd00::1")?, 81));
        let into = Event {
            peer: six,
            pod_port: 81,
            peer_port: 7,
            len: 62,
            proto: 17,
            family: 6,
            direction: In as u8,
            ..out
        };
        told(pod, reader, In, &udp, into)?;
        // Of a packet whose flow was not asked for nothing is told of a flow, least of all of the last one's.
        let spoofed = Event { reason: Reason::Spoofed as u8, ..nobody };
        told(pod, reader, Out, &tcp("10.0.0.9", 1, "10.0.9.1", 80, SYN)?, spoofed)?;
        let allowed = Event { peer_port: 80, rule: 42, reason: Reason::New as u8, ..out };
        told(pod, reader, Out, &tcp("10.0.0.1", 1234, "10.0.9.1", 80, SYN)?, allowed)?;
        // Nor is a rule or a class where none was asked for.
        pod.of_the_node(&tcp("10.0.0.100", 7, "10.0.0.1", 81, SYN)?)?;
        let events = all(reader);
        ensure!(events.len() == 1 && (events[0].rule, events[0].class) == (0, 0), "{events:?}");
        ensure!(events[0].reason == Reason::LocalNode as u8, "{events:?}");
        // What runs on is told to nobody.
        pod.cross(In, &tcp("10.0.9.1", 80, "10.0.0.1", 1234, SYN_ACK)?)?;
        let on = tcp("10.0.0.1", 1234, "10.0.9.1", 80, ACK)?;
        pod.repeat(Out, &on, 5)?;
        ensure!(reader.next_event().is_none());
        // A flow that was revoked is told with the rule that did it, by the packets after the first one too.
        pod.dp.apply(&[sets(SLOT, 1, 3, 2)])?;
        let revoked = Event { peer_port: 80, rule: 50, reason: Reason::Revoked as u8, ..out };
        told(pod, reader, Out, &on, revoked)?;
        pod.repeat(Out, &on, 3)?;
        let events = all(reader);
        ensure!(events.len() == 3 && events.iter().all(|event| event.rule == 50), "{events:?}");
        Ok(())
    })
}

pub(crate) fn sampled() -> Result<()> {
    const FLOWS: u16 = 400;
    trial(|pod, reader| {
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.9.1")?);
        let mut port = 1;
        let mut allowed = |pod: &Pod<'_>| {
            for _ in 0..FLOWS {
                port += 1;
                pod.cross(Out, &Frame::tcp((me, port), (peer, 80), SYN))?;
            }
            anyhow::Ok(())
        };
        let denied = Frame::tcp((me, 1), (peer, 81), SYN);
        for (one_in, least, most) in [(0, 0, 0), (1, FLOWS, FLOWS), (4, 30, FLOWS / 2)] {
            pod.dp.listen(Listener::Sampled(one_in))?;
            allowed(pod)?;
            let told = all(reader).len();
            ensure!((usize::from(least)..=usize::from(most)).contains(&told), "one in {one_in}: {told}");
            // Whatever part of them is told, all denies are.
            pod.repeat(Out, &denied, 50)?;
            let told = all(reader).len();
            ensure!(told == 50, "one in {one_in}: of 50 denied, {told}");
        }
        // So is all that audit let pass.
        pod.dp.listen(Listener::Sampled(0))?;
        let (set, sandbox) = (SetId(1), "test".into());
        let audited = EndpointSets { sandbox, ingress: set, egress: set, epoch: 2, audit: true };
        pod.dp.apply(&[Step::SetEndpoints(vec![(SLOT, audited)])])?;
        pod.cross(Out, &denied)?;
        let told = all(reader);
        ensure!(told.len() == 1 && told[0].reason == Reason::Audited as u8, "{told:?}");
        pod.dp.listen(Listener::Nobody)?;
        pod.cross(Out, &Frame::tcp((me, 2), (peer, 81), SYN))?;
        allowed(pod)?;
        ensure!(reader.next_event().is_none());
        Ok(())
    })
}

pub(crate) fn lost_ones_are_counted() -> Result<()> {
    const PACKETS: u32 = 20_000;
    trial(|pod, reader| {
        let denied = Frame::tcp((ip("10.0.0.1")?, 1), (ip("10.0.9.1")?, 81), SYN);
        pod.dp.listen(Listener::Sampled(0))?;
        pod.repeat(Out, &denied, 100)?;
        ensure!(all(reader).len() == 100 && reader.lost()? == 0);
        pod.repeat(Out, &denied, PACKETS)?;
        let (told, lost) = (all(reader).len() as u64, reader.lost()?);
        ensure!(lost > 0 && told + lost == u64::from(PACKETS), "{told} told, {lost} lost");
        ensure!(pod.dp.lost_events()? == lost);
        // Read, the ring has room again.
        pod.cross(Out, &denied)?;
        ensure!(all(reader).len() == 1 && reader.lost()? == lost);
        Ok(())
    })
}

/// A reader that waits as the agent's does, for edges: the program itself has to wake it.
pub(crate) fn readers_are_woken() -> Result<()> {
    trial(|pod, reader| {
        // SAFETY: the call takes an integer only.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        ensure!(fd >= 0, "epoll: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET).cast_unsigned(), u64: 1 };
        let ring = reader.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and the event is valid.
        let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, ring, &raw mut event) };
        ensure!(added == 0, "adding: {}", std::io::Error::last_os_error());
        let mut woken = || {
            // SAFETY: there is room for one event.
            unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, 0) == 1 }
        };
        ensure!(!woken(), "there is nothing yet");
        pod.dp.listen(Listener::Sampled(0))?;
        for port in [81, 82] {
            pod.cross(Out, &Frame::tcp((ip("10.0.0.1")?, 1), (ip("10.0.9.1")?, port), SYN))?;
            wait_for("the reader to be woken", LATE, || woken().then_some(()))?;
            ensure!(all(reader).len() == 1);
        }
        Ok(())
    })
}

pub(crate) fn packets_and_bytes() -> Result<()> {
    trial(|pod, _| {
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.9.1")?);
        let tcp = |port, flags| Frame::tcp((me, 1), (peer, port), flags);
        let reply = Frame::tcp((peer, 80), (me, 1), SYN_ACK);
        let mut long = tcp(80, ACK);
        long.payload.resize(120, 0);
        pod.cross(Out, &tcp(80, SYN))?;
        pod.repeat(In, &reply, 2)?;
        pod.repeat(Out, &long, 3)?;
        pod.repeat(Out, &tcp(81, SYN), 4)?;
        let counted = [
            (Out, Reason::New, (1, 54)),
            (In, Reason::Established, (2, 2 * 54)),
            (Out, Reason::Established, (3, 3 * 154)),
            (Out, Reason::Policy, (4, 4 * 54)),
            (In, Reason::New, (0, 0)),
            (In, Reason::Policy, (0, 0)),
        ];
        for (direction, reason, expected) in counted {
            let found = pod.count(direction, reason)?;
            ensure!(found == expected, "{direction:?} {reason:?}: {found:?}, not {expected:?}");
        }
        // A rule counts what it decided, and nothing of flows that run on.
        for (rule, expected) in [(42, (1, 54)), (44, (4, 4 * 54)), (40, (0, 0)), (0, (0, 0))] {
            let found = pod.hits(rule)?;
            ensure!(found == expected, "rule {rule}: {found:?}, not {expected:?}");
        }
        Ok(())
    })
}
