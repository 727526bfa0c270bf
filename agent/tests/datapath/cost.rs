//! What packets and links cost. Printed, not judged: other load makes any bound a lie.

use std::time::Instant;

use anyhow::Result;
use ebpf_common::abi::Direction;
use ebpf_common::frame::Frame;
use tidepool_agent::datapath::{Datapath, EndpointSpec, TestContext, Via};

use super::world::{MAC, Node, ifindex, ip, options, rules, sets};

/// What is done to the link of a number.
type Work = Box<dyn FnMut(&mut Datapath, u32) -> Result<()>>;

const RUNS: usize = 15;
const REPEAT: u32 = 100_000;

pub(crate) fn nanoseconds_per_packet() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let a = ifindex("pa")?;
        dp.apply(&rules()?)?;
        let spec = EndpointSpec { ifindex: a, mac: MAC, ..EndpointSpec::default() }
            .with_address(ip("10.0.0.1")?)
            .with_address(ip("fd00::1")?);
        dp.set_endpoint(1, &spec)?;
        dp.apply(&[sets(1, 1, 1, 2)])?;
        let frame = |me: &str, peer: &str, port| -> Result<(Frame, Frame)> {
            let (me, peer) = (ip(me)?, ip(peer)?);
            Ok((Frame::tcp((me, 1), (peer, port), 2), Frame::tcp((peer, port), (me, 1), 18)))
        };
        let best = |frame: &Frame, dir| -> Result<u128> {
            let ctx = TestContext { ifindex: a, ingress_ifindex: a + 1, repeat: REPEAT };
            let bytes = frame.bytes();
            let mut best = u128::MAX;
            for _ in 0..RUNS {
                best = best.min(dp.test_run(dir, &bytes, &ctx)?.took.as_nanos());
            }
            Ok(best)
        };
        for (family, me, peer) in [("IPv4", "10.0.0.1", "10.0.9.1"), ("IPv6", "fd00::1", "fd00:9::1")] {
            let (mut syn, answer) = frame(me, peer, 80)?;
            let one_way = best(&syn, Direction::Out)?;
            let to_pod = best(&answer, Direction::In)?;
            syn.payload[13] = 16;
            let from_pod = best(&syn, Direction::Out)?;
            let (denied, _) = frame(me, peer, 81)?;
            let denied = best(&denied, Direction::Out)?;
            println!("{family}: established from-pod {from_pod} to-pod {to_pod}, one way {one_way}, denied {denied} ns");
        }
        let mut tagged = frame("10.0.0.1", "10.0.9.1", 80)?.0.bytes();
        tagged[12..14].copy_from_slice(&[0x81, 0]);
        let ctx = TestContext { ifindex: a, ingress_ifindex: a, repeat: REPEAT };
        let mut floor = u128::MAX;
        for _ in 0..RUNS {
            floor = floor.min(dp.test_run(Direction::Out, &tagged, &ctx)?.took.as_nanos());
        }
        println!("dropped by its EtherType {floor} ns: the floor, with one counter");
        Ok(())
    })
}

/// Half of all measurements are below what is printed.
pub(crate) fn microseconds_per_link() -> Result<()> {
    const LINKS: u32 = 100;
    let node = Node::new()?;
    let links: Vec<String> =
        (1..=LINKS).map(|number| format!("link add h{number} type veth peer name p{number}")).collect();
    node.ns.ip(&links.join("\n"))?;
    node.with(&options(), |dp| {
        let mut median = |what: &str, mut work: Work, links: u32| {
            let mut took = Vec::new();
            for number in 1..=links {
                let begin = Instant::now();
                work(dp, number)?;
                took.push(begin.elapsed());
            }
            took.sort_unstable();
            let [half, most] = [took.len() / 2, took.len() - 1].map(|place| took[place].as_micros());
            println!("{what}: {half} µs, at most {most}");
            Ok::<_, anyhow::Error>(())
        };
        let index = |number: u32| ifindex(&format!("h{number}"));
        let attach = move |via| -> Work {
            Box::new(move |dp, number| {
                Ok(dp.attach(index(number)?, &format!("h{number}"), number, via, false).map(drop)?)
            })
        };
        median("both filters on a new link", attach(Via::Clsact), LINKS)?;
        median("their programs replaced", attach(Via::Clsact), LINKS)?;
        let look = move |dp: &mut Datapath, number| Ok(dp.look(index(number)?, number).map(drop)?);
        median("a look at a link", Box::new(look), LINKS)?;
        let bind = move |dp: &mut Datapath, number| {
            dp.set_endpoint(number, &EndpointSpec { ifindex: index(number)?, ..EndpointSpec::default() })?;
            dp.clear_endpoint(number)?;
            Ok(dp.forget(index(number)?).map(drop)?)
        };
        median("an endpoint that comes and goes", Box::new(bind), LINKS)?;
        median("filters taken off", Box::new(move |dp, number| Ok(dp.detach(index(number)?)?)), LINKS)?;
        median("both filters by tcx", attach(Via::Tcx), 8)
    })
}
