//! A pod that opens more flows than there is room for: it spoils nothing for the others.

use anyhow::{Result, ensure};
use ebpf_common::abi::{Direction, Reason};
use ebpf_common::frame::Frame;
use kernel_test::wait_for;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Options, Sizes, TestContext};

use super::kept::now;
use super::packets::{LATE, count};
use super::wire::counted;
use super::world::{MAC, Node, ifindex, ip, options, rules, sets};

/// Flows that the tables have room for.
const ROOM: u32 = 4096;
const BUDGET: u32 = 100;

pub(crate) fn evicts_nobodys_flow() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1\nlink add pb type veth peer name b1")?;
    let sizes = Sizes { flows: ROOM, new_flows: ROOM, ..options().sizes };
    node.with(&Options { sizes, ..options() }, |dp| {
        let (a, b) = (ifindex("pa")?, ifindex("pb")?);
        dp.apply(&rules()?)?;
        let pod = |ifindex, budget| EndpointSpec { ifindex, mac: MAC, budget, ..EndpointSpec::default() };
        dp.set_endpoint(1, &pod(a, 0).with_address(ip("10.0.0.1")?))?;
        dp.set_endpoint(2, &pod(b, 0).with_address(ip("10.0.0.2")?))?;
        // A may do everything; B may be called at TCP/80 and call nobody but class 5.
        dp.apply(&[sets(1, 0, 0, 1), sets(2, 1, 1, 1)])?;
        let run = |dp: &Datapath, direction, frame: &Frame, on, from| {
            dp.test_run(
                direction,
                &frame.bytes(),
                &TestContext { ifindex: on, ingress_ifindex: from, repeat: 1 },
            )
        };
        let (client, server) = ((ip("10.0.9.1")?, 5000), (ip("10.0.0.2")?, 80));
        run(dp, Direction::In, &Frame::tcp(client, server, 2), b, b + 100)?;
        run(dp, Direction::Out, &Frame::tcp(server, client, 18), b, b)?;
        run(dp, Direction::In, &Frame::tcp(client, server, 16), b, b + 100)?;
        let flood = |dp: &Datapath, flows: u32, address: &str| {
            for number in 0..flows {
                let to = (ip(address)?, u16::try_from(1 + number % 60_000)?);
                let from = (ip("10.0.0.1")?, u16::try_from(1 + number / 60_000)?);
                run(dp, Direction::Out, &Frame::udp(from, to), a, a)?;
            }
            anyhow::Ok(())
        };
        flood(dp, 4 * ROOM, "8.8.8.8")?;
        ensure!(count(dp, Reason::New)? == 1 + u64::from(4 * ROOM), "{:?}", counted(dp)?);
        let before = count(dp, Reason::Established)?;
        run(dp, Direction::Out, &Frame::tcp(server, client, 16), b, b)?;
        ensure!(count(dp, Reason::Established)? == before + 1, "the idle flow is gone: {:?}", counted(dp)?);

        // With a budget, what is beyond it leaves no entry; nothing isolates A, so it passes all the same.
        dp.set_endpoint(1, &pod(a, BUDGET).with_address(ip("10.0.0.1")?))?;
        let before = count(dp, Reason::New)?;
        flood(dp, 5 * BUDGET, "8.8.4.4")?;
        let counted_as_new = count(dp, Reason::New)? - before;
        let told = counted(dp)?;
        // A tick may end meanwhile, and another.
        let most = u64::from(3 * BUDGET);
        ensure!(counted_as_new >= u64::from(BUDGET) && counted_as_new <= most, "{told:?}");
        ensure!(count(dp, Reason::Unrecorded)? == u64::from(5 * BUDGET) - counted_as_new, "{told:?}");
        // Isolated, it is dropped; and the node's own packets come in.
        dp.apply(&[sets(1, 1, 0, 2)])?;
        flood(dp, 5 * BUDGET, "8.8.4.5")?;
        ensure!(count(dp, Reason::Budget)? >= u64::from(2 * BUDGET), "{:?}", counted(dp)?);
        let probe = Frame::tcp((ip("10.0.0.100")?, 1), (ip("10.0.0.1")?, 9999), 2);
        ensure!(run(dp, Direction::In, &probe, a, 0)?.passed, "{:?}", counted(dp)?);
        Ok(())
    })
}

/// Budgets are one pod's own, and fresh in each tick.
pub(crate) fn budgets_are_for_a_tick() -> Result<()> {
    const SMALL: u32 = 20;
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1\nlink add pb type veth peer name b1")?;
    node.with(&options(), |dp| {
        let links = [(1, ifindex("pa")?), (2, ifindex("pb")?)];
        for (slot, ifindex) in links {
            let spec = EndpointSpec { ifindex, mac: MAC, budget: SMALL, ..EndpointSpec::default() };
            dp.set_endpoint(slot, &spec.with_address(ip(&format!("10.0.0.{slot}"))?))?;
        }
        dp.apply(&[sets(1, 0, 0, 1), sets(2, 0, 0, 1)])?;
        let mut port = 0;
        // How many of so many flows were recorded.
        let mut open = |dp: &Datapath, (slot, on): (u32, u32), flows: u32| {
            let before = count(dp, Reason::New)?;
            let from = ip(&format!("10.0.0.{slot}"))?;
            for _ in 0..flows {
                port += 1;
                let frame = Frame::udp((from, port), (ip("8.8.8.8")?, 1)).bytes();
                let context = TestContext { ifindex: on, ingress_ifindex: on, repeat: 1 };
                dp.test_run(Direction::Out, &frame, &context)?;
            }
            anyhow::Ok(count(dp, Reason::New)? - before)
        };
        // Twice, so that no first tick is meant.
        for _ in 0..2 {
            let mut in_one_tick = || {
                let tick = now()?;
                let recorded = [
                    open(dp, links[0], 2 * SMALL)?,
                    open(dp, links[1], SMALL / 2)?,
                    open(dp, links[1], SMALL)?,
                ];
                anyhow::Ok((now()? == tick).then_some((tick, recorded)))
            };
            let found = wait_for("a tick for all of it", LATE, || in_one_tick().transpose())?;
            let (tick, recorded) = found?;
            let expected = [SMALL, SMALL / 2, SMALL - SMALL / 2].map(u64::from);
            ensure!(recorded == expected, "{recorded:?}, not {expected:?}");
            wait_for("the next tick", LATE, || now().is_ok_and(|now| now != tick).then_some(()))?;
        }
        Ok(())
    })
}

/// Where a table is full, somebody's oldest entry goes and the newest comes in.
pub(crate) fn full_tables_take_the_newest() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    let sizes = Sizes { flows: ROOM, new_flows: ROOM, fragments: ROOM, ..options().sizes };
    node.with(&Options { sizes, ..options() }, |dp| {
        let a = ifindex("pa")?;
        let spec = EndpointSpec { ifindex: a, mac: MAC, ..EndpointSpec::default() };
        dp.set_endpoint(1, &spec.with_address(ip("10.0.0.1")?))?;
        dp.apply(&[sets(1, 0, 0, 1)])?;
        let (me, peer) = (ip("10.0.0.1")?, ip("8.8.8.8")?);
        let run = |direction, frame: &Frame| {
            let from = if direction == Direction::In { a + 100 } else { a };
            let context = TestContext { ifindex: a, ingress_ifindex: from, repeat: 1 };
            dp.test_run(direction, &frame.bytes(), &context)
        };
        let established = |what: &str, frames: &[(Direction, Frame)]| {
            let before = count(dp, Reason::Established)?;
            for (direction, frame) in frames {
                run(*direction, frame)?;
            }
            let more = count(dp, Reason::Established)? - before;
            ensure!(more == frames.len() as u64, "{what}: {more}; {:?}", counted(dp)?);
            anyhow::Ok(())
        };
        let number = |flow: u32| u16::try_from(1 + flow);
        let out = |flow| anyhow::Ok(Frame::udp((me, number(flow)?), (peer, 1)));
        let into = |flow| anyhow::Ok(Frame::udp((peer, 1), (me, number(flow)?)));
        for flow in 0..2 * ROOM {
            run(Direction::Out, &out(flow)?)?;
        }
        let newest = 2 * ROOM - 1;
        established("flows seen one way", &[(Direction::In, into(newest)?)])?;
        let newest = 4 * ROOM - 1;
        for flow in 2 * ROOM..=newest {
            run(Direction::Out, &out(flow)?)?;
            run(Direction::In, &into(flow)?)?;
        }
        let both = [(Direction::Out, out(newest)?), (Direction::In, into(newest)?)];
        established("flows seen both ways", &both)?;
        let fragment = |id, offset| {
            let mut frame = Frame::udp((me, 1), (peer, 2));
            frame.payload.resize(16, 0);
            (frame.id, frame.fragment) = (id, (offset, offset == 0));
            frame
        };
        for id in 0..=newest {
            run(Direction::Out, &fragment(number(id)?, 0))?;
        }
        established("fragments", &[(Direction::Out, fragment(number(newest)?, 16))])
    })
}
