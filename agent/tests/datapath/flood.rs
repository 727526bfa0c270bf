//! A pod that opens more flows than there is room for: it spoils nothing for the others.

use anyhow::{Result, ensure};
use ebpf_common::abi::{Direction, Reason};
use ebpf_common::frame::Frame;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Options, Sizes, TestContext};

use super::packets::count;
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
