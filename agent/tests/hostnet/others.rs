//! Other programs on the node: who is taken for whom, and who fights us.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use netlink::{
    Batch, TABLE_MAIN,
    link::{self, Ipv4Conf, LinkChange},
    rule::{self, Rule},
};
use tidepool_agent::hostnet::{ActionKind, Finding, NodeNet};

use crate::{
    repair::Keeper,
    world::{BOUND, INTERNET, NODE, POD_ON_PRIMARY, POD_ON_SECONDARY, World, ip, node_net, serve_mirror},
};

/// What was promised.
const WITHIN: Duration = Duration::from_secs(1);

fn by_mark() -> Rule {
    Rule { mark: Some((0x80, 0x80)), ..Rule::new(1024, TABLE_MAIN) }
}

/// Ports are counted protocol by protocol, and every container's process is pid 1.
pub(crate) fn a_port_is_ours_on_its_own_protocol_only() -> Result<()> {
    let world = World::new()?;
    let ours = world.hostnet.ports();
    let stranger = world.stranger.lock().expect("no panic").port();
    ensure!(
        ours.nftables == [stranger] && ours.route != [stranger],
        "{stranger} collides with none of {ours:?}"
    );
    let keeper = Keeper::start(&world)?;
    heard(&world, &keeper, ActionKind::Rule, |batch| rule::delete(batch, &by_mark()))?;
    // Not announced but with the link itself.
    let link = world.pods[POD_ON_SECONDARY].1.host_ifindex;
    let off = LinkChange { ipv4: vec![(Ipv4Conf::Forwarding, 0)], ..LinkChange::of(link) };
    heard(&world, &keeper, ActionKind::Link, |batch| link::change(batch, &off))
}

/// What another program's socket changes is put back in time, and counted.
fn heard(world: &World, keeper: &Keeper, kind: ActionKind, change: impl FnOnce(&mut Batch)) -> Result<()> {
    let (settled, before) = (world.picture()?, keeper.count(kind));
    let started = Instant::now();
    world.strange(change)?;
    wait_for(kind.as_str(), BOUND, || (world.picture().ok()? == settled).then_some(()))?;
    let took = started.elapsed();
    wait_for("the counter", BOUND, || (keeper.count(kind) > before).then_some(()))?;
    ensure!(took < WITHIN, "{}: {took:?}", kind.as_str());
    Ok(())
}

/// Every DEL is announced and calls for no look of its own: that must not put off the look that is due anyway.
pub(crate) fn pods_that_go_do_not_put_off_the_period() -> Result<()> {
    const ADDRESS: &str = "10.20.16.77";
    const DUE: Duration = Duration::from_secs(14);
    let mut world = World::new()?;
    let keeper = Keeper::start(&world)?;
    let (before, started) = (keeper.looks(), Instant::now());
    while keeper.looks() == before {
        ensure!(started.elapsed() < DUE, "no look in {:?}", started.elapsed());
        world.add_pod(ADDRESS, 2)?;
        let (pod, route) = world.pods.remove(ADDRESS).context("it was added")?;
        serve_mirror(&pod, ADDRESS)?;
        pod.ip("link delete eth0")?;
        world.hostnet.remove_pod(&route)?;
    }
    println!("looked after {:?}", started.elapsed());
    Ok(())
}

/// A daemon that removes a rule of ours as soon as it is there.
pub(crate) fn whoever_keeps_undoing_us_is_answered_ever_less() -> Result<()> {
    const FIGHT: Duration = Duration::from_secs(8);
    let world = World::new()?;
    let keeper = Keeper::start(&world)?;
    let (settled, before, started) = (world.picture()?, keeper.looks(), Instant::now());
    while started.elapsed() < FIGHT {
        world.strange(|batch| rule::delete(batch, &by_mark()))?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let looks = keeper.looks() - before;
    println!("{looks} looks in {FIGHT:?}");
    // Without a pause some 140.
    ensure!(looks < 50, "{looks} looks in {FIGHT:?}");
    ensure!(keeper.findings().contains(&Finding::Contested(ActionKind::Rule)), "{:?}", keeper.findings());
    wait_for("the last repair", BOUND, || (world.picture().ok()? == settled).then_some(()))?;
    // All else is put back at once.
    let took = keeper.repaired(&world, "ip neigh del 10.20.16.50 dev eni0", ActionKind::Neighbour)?;
    ensure!(took < WITHIN, "{took:?}");
    Ok(())
}

/// At our own priority, before ours: nobody but its owner may take it away.
pub(crate) fn a_rule_before_ours_is_told() -> Result<()> {
    let world = World::new()?;
    let findings = || -> Result<Vec<Finding>> { Ok(world.hostnet.reconcile()?.findings) };
    ensure!(findings()?.is_empty(), "{:?}", findings()?);
    let theirs = |to: &str, table| -> Result<Rule> {
        Ok(Rule { to: Some(ip(to)?.into()), protocol: 3, ..Rule::new(512, table) })
    };
    // After ours it does no harm, and a twin of ours never does.
    world.strange(|batch| rule::add(batch, &theirs(POD_ON_PRIMARY, 100).expect("an address")))?;
    world.strange(|batch| rule::add(batch, &theirs(POD_ON_SECONDARY, TABLE_MAIN).expect("an address")))?;
    ensure!(findings()?.is_empty(), "{:?}", findings()?);
    world.node.ip("rule delete pref 512 to 10.20.0.50 lookup main proto 116")?;
    let (address, rule) = (ip(POD_ON_PRIMARY)?, theirs(POD_ON_PRIMARY, 100)?);
    let told = Finding::PrecedingRule { address, rule };
    ensure!(findings()? == [told.clone()], "{:?}", findings()?);
    ensure!(findings()? == [told], "while it stands");
    world.node.ip("rule delete pref 512 to 10.20.0.50 lookup 100")?;
    ensure!(findings()?.is_empty(), "{:?}", findings()?);
    Ok(())
}

/// The table is replaced under connections that begin: each is translated by the old one or the new one. What left
/// untranslated would stay so: the kernel decides with the first packet.
pub(crate) fn no_connection_slips_through_while_the_table_is_replaced() -> Result<()> {
    const TIME: Duration = Duration::from_secs(2);
    let world = World::new()?;
    let server = world.vpc.run(|| UdpSocket::bind((INTERNET, 9_000)))?;
    server.set_read_timeout(Some(Duration::from_millis(500)))?;
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (seen, others, replaced) = std::thread::scope(|scope| -> Result<_> {
        for address in [POD_ON_SECONDARY, POD_ON_PRIMARY] {
            let (pod, over, sent) = (world.pod(address), &over, &sent);
            scope.spawn(move || {
                pod.run(|| {
                    while !over.load(Ordering::Relaxed) {
                        if let Ok(socket) = UdpSocket::bind("0.0.0.0:0")
                            && socket.send_to(b"first", (INTERNET, 9_000)).is_ok()
                        {
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            });
        }
        let hearing = scope.spawn(|| -> Result<_> {
            let (mut seen, mut others, mut buffer) = (0_u64, 0_u64, [0; 16]);
            let node = ip(NODE)?;
            while let Ok((_, peer)) = server.recv_from(&mut buffer) {
                seen += 1;
                others += u64::from(peer.ip() != node);
            }
            Ok((seen, others))
        });
        let (started, mut replaced) = (Instant::now(), 0);
        let mut outcome = Ok(());
        while started.elapsed() < TIME && outcome.is_ok() {
            let exclude_snat = vec![format!("203.0.113.{}/32", replaced % 200).parse()?];
            outcome = node_net().and_then(|net| {
                world.hostnet.set_node(NodeNet { exclude_snat, ..net });
                ensure!(world.hostnet.reconcile()?.actions.len() == 1, "the table only");
                Ok(())
            });
            replaced += 1;
        }
        over.store(true, Ordering::Relaxed);
        outcome?;
        let (seen, others) = hearing.join().expect("no panic")?;
        Ok((seen, others, replaced))
    })?;
    println!(
        "{replaced} replacements, {} sent, {seen} seen, {others} of them untranslated",
        sent.into_inner()
    );
    ensure!(seen > 1_000 && replaced > 10, "{seen} packets, {replaced} replacements");
    ensure!(others == 0, "{others} of {seen} connections left untranslated");
    Ok(())
}
