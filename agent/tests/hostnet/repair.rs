//! What others remove or change comes back within a second, and is counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use kernel_test::{wait_for, within};
use tidepool_agent::hostnet::{ActionKind, Finding, NodeNet, Report, keep};
use tokio_util::sync::CancellationToken;

use crate::world::{BOUND, World, ask, node_net, serve_mirror};

/// What was promised.
const WITHIN: Duration = Duration::from_secs(1);

/// Shell commands, and what is counted as put back.
const DAMAGE: &[(&str, ActionKind)] = &[
    ("ip rule del pref 512 to 10.20.16.50", ActionKind::Rule),
    ("ip rule del pref 1024", ActionKind::Rule),
    ("ip rule del pref 1535", ActionKind::Rule),
    ("ip rule del pref 1536", ActionKind::Rule),
    ("ip rule del pref 32765", ActionKind::Rule),
    ("ip rule flush protocol 116", ActionKind::Rule),
    ("ip route del 10.20.16.50", ActionKind::Route),
    ("ip route replace 10.20.16.50 dev eth0", ActionKind::Route),
    ("ip route replace 10.20.16.50 dev eni1 proto 116 scope link", ActionKind::Route),
    ("ip route replace blackhole 10.20.16.50", ActionKind::Route),
    ("ip route del default table 2", ActionKind::Route),
    ("ip route replace default via 10.20.0.1 dev eth0 table 2", ActionKind::Route),
    ("ip route del default table 2; ip route del 10.20.16.1 table 2", ActionKind::Route),
    ("ip route replace 10.20.16.1 dev eth0 table 2", ActionKind::Route),
    ("ip route flush table 2", ActionKind::Route),
    ("ip route flush table all proto 116", ActionKind::Route),
    // The kernel's own, of whoever gives the address anew.
    ("ip route add 10.20.16.0/20 dev eth1 proto kernel scope link src 10.20.16.10", ActionKind::Route),
    ("ip addr flush dev eth1 && ip addr add 10.20.16.10/20 dev eth1", ActionKind::Route),
    ("ip neigh del 10.20.16.50 dev eni0", ActionKind::Neighbour),
    ("ip neigh replace 10.20.16.50 lladdr 02:00:00:00:00:99 dev eni0 nud permanent", ActionKind::Neighbour),
    ("ip neigh replace 10.20.16.50 lladdr 02:02:00:00:00:00 dev eni0 nud reachable", ActionKind::Neighbour),
    ("ip neigh flush dev eni0 nud all", ActionKind::Neighbour),
    ("ip addr flush dev eth1", ActionKind::Address),
    ("ip addr del 10.20.16.10/20 dev eth1", ActionKind::Address),
    ("ip link set eni0 down", ActionKind::Link),
    ("ip link set eth1 down", ActionKind::Link),
    ("ip link set eth1 mtu 1400", ActionKind::Link),
    ("echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter", ActionKind::Link),
    ("echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding", ActionKind::Link),
    ("echo 0 > /proc/sys/net/ipv4/conf/eth1/forwarding", ActionKind::Link),
    ("echo 0 > /proc/sys/net/ipv4/conf/eni0/forwarding", ActionKind::Link),
    ("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/ip_forward", ActionKind::Link),
    ("nft delete table ip tidepool", ActionKind::Nftables),
    ("nft flush ruleset", ActionKind::Nftables),
    ("nft flush chain ip tidepool translate", ActionKind::Nftables),
    ("nft 'flush chain ip tidepool arrive; delete chain ip tidepool arrive'", ActionKind::Nftables),
    ("nft insert rule ip tidepool translate accept", ActionKind::Nftables),
    ("nft 'add chain ip tidepool leave { policy drop; }'", ActionKind::Nftables),
    ("nft 'add table ip tidepool { flags dormant; }'", ActionKind::Nftables),
    (
        "handle=$(nft -a list chain ip tidepool leave | sed -n 's/.*# handle //p' | tail -n 1) \
         && nft delete rule ip tidepool leave handle $handle",
        ActionKind::Nftables,
    ),
    (
        "rule=$(nft -a list chain ip tidepool translate | grep snat) && handle=${rule##* } && rule=${rule% # *} \
         && nft replace rule ip tidepool translate handle $handle \"$(echo \"$rule\" | sed 's/10.20.0.10/10.20.0.11/g')\"",
        ActionKind::Nftables,
    ),
    (
        "nft 'flush chain ip tidepool leave; flush chain ip tidepool translate; delete set ip tidepool untranslated; \
         add set ip tidepool untranslated { type ipv4_addr; flags interval; elements = { 0.0.0.0/0 }; }'",
        ActionKind::Nftables,
    ),
];

/// Host networking that is kept, as the agent keeps it.
pub(crate) struct Keeper {
    /// Reconciliations so far.
    looks: Arc<AtomicU64>,
    repairs: Arc<Mutex<BTreeMap<ActionKind, u64>>>,
    findings: Arc<Mutex<Vec<Finding>>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Keeper {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let repairs: Arc<Mutex<BTreeMap<ActionKind, u64>>> = Arc::default();
        let (stop, looks) = (CancellationToken::new(), Arc::<AtomicU64>::default());
        let (hostnet, stopped, told) = (world.hostnet.clone(), stop.clone(), Arc::clone(&repairs));
        let (looked, findings) = (Arc::clone(&looks), Arc::<Mutex<Vec<Finding>>>::default());
        let found = Arc::clone(&findings);
        // The runtime's threads are those of the thread that makes it: in the node's namespace.
        let thread = world.node.run(|| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(keep(hostnet, stopped, move |outcome| {
                    looked.fetch_add(1, Ordering::Relaxed);
                    let report = outcome.unwrap_or_default();
                    *found.lock().unwrap_or_else(PoisonError::into_inner) = report.findings;
                    let mut repairs = told.lock().unwrap_or_else(PoisonError::into_inner);
                    for (kind, count) in report.repairs {
                        *repairs.entry(kind).or_default() += count;
                    }
                }));
                Ok(())
            })
        });
        let keeper = Self { looks, repairs, findings, stop, thread: Some(thread) };
        // It listens: what is taken away now is put back.
        keeper.repaired(world, "ip rule del pref 1024", ActionKind::Rule).context("the first repair")?;
        Ok(keeper)
    }

    /// Reconciliations so far.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Of the last one.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, kind: ActionKind) -> u64 {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner).get(&kind).copied().unwrap_or(0)
    }

    /// Does damage; how long until all is as before. It has to be counted too.
    pub(crate) fn repaired(&self, world: &World, command: &str, kind: ActionKind) -> Result<Duration> {
        let (before, settled) = (self.count(kind), world.picture()?);
        world.node.output("sh", &["-c", command])?;
        let started = Instant::now();
        let mut last = Vec::new();
        wait_for(&format!("{command:?} to be repaired"), BOUND, || {
            last = world.picture().ok()?;
            (last == settled).then_some(())
        })
        .map_err(|error| {
            let missing: Vec<_> = settled.iter().filter(|line| !last.contains(line)).collect();
            let added: Vec<_> = last.iter().filter(|line| !settled.contains(line)).collect();
            anyhow!("{error}: missing {missing:?}, added {added:?}")
        })?;
        let took = started.elapsed();
        wait_for("the counter", BOUND, || (self.count(kind) > before).then_some(()))
            .with_context(|| format!("{command:?} was not counted"))?;
        Ok(took)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn foreign_damage_is_repaired() -> Result<()> {
    let net = NodeNet { external_services: vec!["203.0.113.0/24".parse()?], ..node_net()? };
    let world = World::with(net)?;
    world.hostnet.reconcile()?;
    let keeper = Keeper::start(&world)?;
    let mut slow = Vec::new();
    for (command, kind) in DAMAGE {
        match within(command, WITHIN, || keeper.repaired(&world, command, *kind)) {
            Ok(took) => println!("{took:>10.1?} {:<10} {command}", kind.as_str()),
            Err(error) => slow.push(format!("{error:#}")),
        }
    }
    ensure!(slow.is_empty(), "{slow:#?}");
    Ok(())
}

/// As many as an m5.4xlarge takes.
const MANY: u8 = 234;

/// What systemd-networkd does to the routes and rules of others when it starts, and more, on a full node.
pub(crate) fn a_flush_of_all_is_repaired_on_a_full_node() -> Result<()> {
    let mut world = World::new()?;
    let added = Instant::now();
    let pods = world.add_links(MANY)?;
    println!("{MANY} links: {:?}", added.elapsed());
    let mut took = Vec::new();
    for pod in &pods {
        let started = Instant::now();
        world.hostnet.add_pod(pod)?;
        took.push(started.elapsed());
    }
    println!("add_pod: {}", quantiles(&mut took));
    let mut took = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        ensure!(world.hostnet.reconcile()?.actions.is_empty());
        took.push(started.elapsed());
    }
    println!("reconcile without anything to do: {}", quantiles(&mut took));

    let keeper = Keeper::start(&world)?;
    world.node.ip("rule add pref 10101 from 10.20.16.10 lookup 10101\nroute add default via 10.20.16.1 dev eth1 onlink table 10101 metric 101")?;
    let flush = "ip rule flush protocol 116; ip route flush table all proto 116; ip neigh flush nud all; \
                 nft flush ruleset";
    let took = within("a flush of all", WITHIN, || keeper.repaired(&world, flush, ActionKind::Rule))?;
    println!("all that is ours flushed, put back after {took:?}");
    for kind in [ActionKind::Route, ActionKind::Neighbour, ActionKind::Nftables] {
        ensure!(keeper.count(kind) > 0, "{} was not counted", kind.as_str());
    }
    // Their own, at other priorities and in other tables, are none of our business.
    let theirs = world.node.output("ip", &["rule", "show", "pref", "10101"])?
        + &world.node.output("ip", &["route", "show", "table", "10101"])?;
    ensure!(theirs.contains("lookup 10101") && theirs.contains("metric 101"), "{theirs}");

    let mut took = Vec::new();
    for pod in &pods {
        let started = Instant::now();
        world.hostnet.remove_pod(pod)?;
        took.push(started.elapsed());
    }
    println!("remove_pod: {}", quantiles(&mut took));
    let left = world.node.output("ip", &["rule", "show"])?;
    ensure!(left.matches("10.20.17.").count() == 0, "{left}");
    Ok(())
}

fn quantiles(took: &mut [Duration]) -> String {
    took.sort();
    format!("p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Pods' links go while they are looked at: that is no fault of the host's.
pub(crate) fn links_that_go_meanwhile_are_no_refusal() -> Result<()> {
    for _ in 0..3 {
        let mut world = World::new()?;
        let pods = world.add_links(40)?;
        for pod in &pods {
            world.node.output("ip", &["link", "set", &pod.host_ifname, "group", "7"])?;
            world.hostnet.add_pod(pod)?;
        }
        let reports = std::thread::scope(|scope| -> Result<Vec<_>> {
            let going = scope.spawn(|| world.node.output("ip", &["link", "delete", "group", "7"]));
            let mut reports = Vec::new();
            while reports.last().is_none_or(|report: &Report| report.findings.len() < pods.len()) {
                reports.push(world.hostnet.reconcile()?);
            }
            going.join().expect("no panic")?;
            Ok(reports)
        })?;
        for report in &reports {
            ensure!(report.refused.is_none(), "{:?}", report.refused);
            ensure!(report.repairs.is_empty(), "nobody did damage: {:?}", report.repairs);
        }
    }
    Ok(())
}

/// Pods that come and go, ARP and other programs' tables are a node's daily life.
pub(crate) fn daily_life_asks_for_no_look() -> Result<()> {
    const ADDRESS: &str = "10.20.16.77";
    let mut world = World::new()?;
    world.hostnet.reconcile()?;
    let keeper = Keeper::start(&world)?;
    let before = keeper.looks.load(Ordering::Relaxed);
    for _ in 0..8 {
        world.add_pod(ADDRESS, 2)?;
        world
            .node
            .ip("route add 10.99.0.0/16 dev lo table local\nroute delete 10.99.0.0/16 dev lo table local")?;
        world.node.output("nft", &["add table ip other; add chain ip other one; delete table ip other"])?;
        let (pod, route) = world.pods.remove(ADDRESS).context("it was added")?;
        serve_mirror(&pod, ADDRESS)?;
        ask(&world.node, &format!("{ADDRESS}:9000"))?;
        // As a DEL does.
        pod.ip("link delete eth0")?;
        world.hostnet.remove_pod(&route)?;
    }
    keeper.repaired(&world, "ip rule del pref 1024", ActionKind::Rule)?;
    let looks = keeper.looks.load(Ordering::Relaxed) - before;
    // One for the repair; a machine that builds beside may stretch a deletion or two.
    ensure!(looks <= 3, "{looks} looks where one repair was to be made");
    Ok(())
}
