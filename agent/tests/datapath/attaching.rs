//! Filters on links.

use anyhow::{Context, Result, ensure};
use netlink::tc::{self, Changes, Hook, Touched};
use tidepool_agent::datapath::{HANDLE, PRIORITY, Via};

use super::world::{Node, ifindex, options};

pub(crate) fn attached_and_replaced() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    let programs = |dp: &mut tidepool_agent::datapath::Datapath| -> Result<Vec<u32>> {
        let index = ifindex("pa")?;
        let attached = dp.attach(index, "pa", 77, Via::Clsact, false)?;
        ensure!(attached.via == Via::Clsact && attached.foreign.is_empty(), "{attached:?}");
        ensure!(dp.slot_of(index)? == Some(77));
        let mut socket = netlink::Socket::open()?;
        let mut programs = Vec::new();
        for hook in [Hook::Ingress, Hook::Egress] {
            let filters = tc::filters(&mut socket, index, hook)?;
            ensure!(filters.len() == 1, "{filters:?}");
            ensure!(
                filters[0].priority == PRIORITY && filters[0].handle == HANDLE && filters[0].direct_action
            );
            programs.push(filters[0].program.context("it has a program")?);
        }
        Ok(programs)
    };
    let first = node.with(&options(), |dp| {
        let first = programs(dp)?;
        ensure!(programs(dp)? == first, "the same again");
        Ok(first)
    })?;
    // Filters outlive the agent; the next one replaces the programs in place.
    node.with(&options(), |dp| {
        let second = programs(dp)?;
        ensure!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
        let index = ifindex("pa")?;
        dp.detach(index)?;
        dp.detach(index)?;
        ensure!(dp.slot_of(index)?.is_none());
        dp.detach(9999)?;
        ensure!(dp.attach(index, "pa", 0, Via::Clsact, false).is_err(), "slot 0 is none");
        ensure!(dp.attach(9999, "zzz", 1, Via::Clsact, false).is_err());
        Ok(())
    })
}

pub(crate) fn filters_of_others() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.ns.output("tc", &["qdisc", "add", "dev", "pa", "clsact"])?;
    node.with(&options(), |dp| {
        let index = ifindex("pa")?;
        let attached = dp.attach(index, "pa", 3, Via::Clsact, false)?;
        ensure!(attached.foreign.is_empty(), "{attached:?}");
        Ok(())
    })?;
    let add = |priority: &str| {
        let bytecode = ["handle", "5", "bpf", "bytecode", "1,6 0 0 0,"];
        let filter = ["filter", "add", "dev", "pa", "egress", "prio", priority];
        node.ns.output("tc", &[&filter[..], &bytecode[..]].concat())
    };
    add("2")?;
    node.with(&options(), |dp| {
        let attached = dp.attach(ifindex("pa")?, "pa", 3, Via::Clsact, false)?;
        ensure!(attached.foreign.is_empty(), "behind ours: {attached:?}");
        Ok(())
    })?;
    // Of one priority, the newest runs first.
    add("1")?;
    node.with(&options(), |dp| {
        let attached = dp.attach(ifindex("pa")?, "pa", 3, Via::Clsact, false)?;
        ensure!(attached.foreign.len() == 1 && attached.foreign[0].contains("handle 0x5"), "{attached:?}");
        dp.detach(ifindex("pa")?)?;
        Ok(())
    })
}

pub(crate) fn beside_an_ingress_qdisc() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.ns.output("tc", &["qdisc", "add", "dev", "pa", "ingress"])?;
    node.with(&options(), |dp| {
        let index = ifindex("pa")?;
        let attached = dp.attach(index, "pa", 5, Via::Clsact, false)?;
        ensure!(attached.via == Via::Tcx, "{attached:?}");
        // Without a class id the interface leads to the slot.
        dp.set_endpoint(5, &tidepool_agent::datapath::EndpointSpec { ifindex: index, ..Default::default() })?;
        ensure!(dp.slot_of(index)? == Some(5));
        Ok(())
    })?;
    node.with(&options(), |dp| {
        let index = ifindex("pa")?;
        let attached = dp.attach(index, "pa", 5, Via::Clsact, false)?;
        ensure!(attached.via == Via::Tcx && attached.foreign.is_empty(), "replaced in place: {attached:?}");
        dp.detach(index)?;
        let listed =
            std::process::Command::new("tc").args(["filter", "show", "dev", "pa", "ingress"]).output()?;
        ensure!(!String::from_utf8_lossy(&listed.stdout).contains("from_pod"));
        Ok(())
    })
}

pub(crate) fn changes_of_others_are_heard() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let mut changes = Changes::open()?;
        let index = ifindex("pa")?;
        dp.attach(index, "pa", 3, Via::Clsact, false)?;
        ensure!(changes.take(dp.port()) == Touched::Links([].into()), "one's own are not told");
        let foreign = ["filter", "add", "dev", "pa", "egress", "prio", "1", "bpf", "bytecode", "1,6 0 0 0,"];
        let (added, removed) = (foreign, ["filter", "del", "dev", "pa", "ingress"]);
        let gone = ["qdisc", "del", "dev", "pa", "clsact"];
        for command in [&added[..], &removed[..], &gone[..]] {
            node.ns.output("tc", command)?;
            let heard = changes.take(dp.port());
            ensure!(heard == Touched::Links([index].into()), "{command:?}: {heard:?}");
        }
        ensure!(!dp.look(index, 3)?.ours);
        Ok(())
    })
}
