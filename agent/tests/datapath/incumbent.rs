//! The node agent's filters, and flows that run through them.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::PeerValue;
use kernel_test::bpf::{pin_classifier, pin_map};
use kernel_test::wait_for;
use netlink::tc::{self, Hook};
use policy_core::Step;
use tidepool_agent::datapath::{Attached, Datapath, EndpointSpec, HANDLE, Via, withdraw};

use super::packets::{LATE, Pods, SOON};
use super::world::{Node, ifindex, ip, object, options, row, rules, sets};

/// Allowed to nobody by set 1.
const DENIED: u16 = 81;
const PODS: [(&str, u32, &str); 2] = [("ha", 1, "web@shop"), ("hb", 2, "db@shop")];

/// Pods behind stand-ins of the node agent's filters, which let everything pass, on a node that tracks connections.
fn incumbent_node() -> Result<Pods> {
    let pods = Pods::new()?;
    pods.node.ns.input(
        "nft",
        &["-f", "-"],
        "table ip tracked {
            chain forward { type filter hook forward priority 0; ct state established counter; }
            chain output { type filter hook output priority 0; ct state established counter; }
        }",
    )?;
    for folder in ["globals/aws/programs", "globals/aws/maps"] {
        pods.node.ns.run(|| std::fs::create_dir_all(on_bpffs(&pods.node, folder)))?;
    }
    for (link, _, identifier) in PODS {
        police(&pods.node, link, identifier)?;
    }
    let maps = ["global_aws_conntrack_map", "global_policy_events", "somebodys"];
    pods.node.ns.run(|| {
        maps.iter()
            .try_for_each(|map| pin_map(&on_bpffs(&pods.node, &format!("globals/aws/maps/{map}")), map))
    })?;
    Ok(pods)
}

fn on_bpffs(node: &Node, path: &str) -> std::path::PathBuf {
    node.root.parent().unwrap_or(&node.root).join(path)
}

/// As the node agent does: programs and maps of an identifier are pinned once, each link has a filter per hook.
fn police(node: &Node, link: &str, identifier: &str) -> Result<()> {
    for (direction, parent) in [("ingress", "egress"), ("egress", "ingress")] {
        let name = format!("handle_{direction}");
        let program = on_bpffs(node, &format!("globals/aws/programs/{identifier}_{name}"));
        let map = on_bpffs(node, &format!("globals/aws/maps/{identifier}_cp_{direction}_map"));
        node.ns.run(|| {
            if program.exists() {
                return Ok(());
            }
            pin_classifier(&program, &name, 0)?;
            pin_map(&map, "map")
        })?;
        // Fails where it stands already.
        let _ = node.ns.output("tc", &["qdisc", "add", "dev", link, "clsact"]);
        let pin = program.to_string_lossy().into_owned();
        let place = ["filter", "add", "dev", link, parent, "prio", "1", "handle", "1"];
        node.ns.output("tc", &[&place[..], &["bpf", "direct-action", "object-pinned", &pin]].concat())?;
    }
    Ok(())
}

/// The policy of both pods: A may send to TCP/80 and UDP/53 of B, B may neither send nor be sent to.
fn judge(dp: &mut Datapath) -> Result<()> {
    dp.apply(&rules()?)?;
    dp.apply(&[
        Step::SetPeers(vec![(ip("10.0.0.2")?, PeerValue::new(ip("10.0.0.2")?, 5))]),
        Step::AddRows(vec![row(3, 0, 0, 50)]),
    ])?;
    for (link, slot, _) in PODS {
        let last = u8::try_from(slot)?;
        let spec =
            EndpointSpec { ifindex: ifindex(link)?, mac: [2, 0, 0, 0, 0, last], ..EndpointSpec::default() };
        dp.set_endpoint(slot, &spec.with_address(ip(&format!("10.0.0.{last}"))?))?;
    }
    dp.apply(&[sets(1, 0, 1, 1), sets(2, 3, 3, 1)])?;
    Ok(())
}

fn attach(dp: &mut Datapath, index: usize) -> Result<Attached> {
    let (link, slot, _) = PODS[index];
    Ok(dp.attach(ifindex(link)?, link, slot, Via::Clsact, true)?)
}

/// Handles on a link for both hooks, ingress first, in the order in which they run.
fn handles(link: &str) -> Result<[Vec<u32>; 2]> {
    let mut socket = netlink::Socket::open()?;
    let index = ifindex(link)?;
    let mut of = |hook| -> Result<Vec<u32>> {
        let filters = tc::filters(&mut socket, index, hook)?;
        Ok(filters.into_iter().map(|filter| filter.handle).collect())
    };
    Ok([of(Hook::Ingress)?, of(Hook::Egress)?])
}

/// A connection and an exchange of datagrams that policy would not let begin.
struct Flows {
    client: TcpStream,
    server: TcpStream,
    asking: UdpSocket,
    answering: UdpSocket,
    node: TcpStream,
    of_node: TcpStream,
}

impl Flows {
    fn begin(pods: &Pods) -> Result<Self> {
        let listener = pods.listen(DENIED)?;
        let client = pods.connect(&pods.a, "10.0.0.2", DENIED)?;
        let (server, _) = listener.accept()?;
        let node = pods.connect(&pods.node.ns, "10.0.0.2", DENIED)?;
        let (of_node, _) = listener.accept()?;
        let asking = pods.a.run(|| UdpSocket::bind(("10.0.0.1", 0)))?;
        let answering = pods.b.run(|| UdpSocket::bind(("10.0.0.2", DENIED)))?;
        asking.connect(("10.0.0.2", DENIED))?;
        answering.connect(asking.local_addr()?)?;
        let flows = Self { client, server, asking, answering, node, of_node };
        for stream in [&flows.client, &flows.server, &flows.node, &flows.of_node] {
            stream.set_nodelay(true)?;
        }
        flows.patience(LATE)?;
        flows.exchange(1).context("before anything is filtered by us")?;
        Ok(flows)
    }

    fn patience(&self, patience: Duration) -> Result<()> {
        for stream in [&self.client, &self.server, &self.node, &self.of_node] {
            stream.set_read_timeout(Some(patience))?;
        }
        self.asking.set_read_timeout(Some(patience))?;
        self.answering.set_read_timeout(Some(patience))?;
        Ok(())
    }

    /// A byte each way on everything; what answers begins.
    fn exchange(&self, byte: u8) -> Result<()> {
        let pairs = [(&self.server, &self.client), (&self.of_node, &self.node)];
        for (mut from, mut to) in pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let mut read = [0];
            from.write_all(&[byte])?;
            to.read_exact(&mut read).with_context(|| format!("TCP from {:?}", from.local_addr()))?;
            ensure!(read == [byte]);
        }
        // UDP is not sent again: what is lost is missed.
        self.ask(byte)
    }

    fn ask(&self, byte: u8) -> Result<()> {
        let mut read = [0];
        self.asking.send(&[byte])?;
        self.answering.recv(&mut read).context("UDP there")?;
        self.answering.send(&read)?;
        self.asking.recv(&mut read).context("UDP back")?;
        ensure!(read == [byte]);
        Ok(())
    }
}

pub(crate) fn replaced_with_flows_running() -> Result<()> {
    let pods = incumbent_node()?;
    let flows = Flows::begin(&pods)?;
    let _listener = pods.listen(82)?;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        pods.connect(&pods.a, "10.0.0.2", 82).context("nobody forbids it yet")?;
        let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| -> Result<()> {
            let asker = scope.spawn(|| -> Result<()> {
                while !done.load(Ordering::Relaxed) {
                    flows.ask(7).with_context(|| format!("datagram {asked:?}"))?;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let some_more = || {
                let enough = asked.load(Ordering::Relaxed) + 10;
                let reached =
                    || (asker.is_finished() || asked.load(Ordering::Relaxed) >= enough).then_some(());
                wait_for("ten datagrams more", LATE, reached)
            };
            some_more()?;
            let taken = (|| -> Result<()> {
                ensure!(dp.inherit(&[1, 2].into())? >= 5, "three flows, two of them with both ends here");
                for index in 0..PODS.len() {
                    let attached = attach(dp, index)?;
                    ensure!(attached.replaced && attached.foreign.is_empty(), "{attached:?}");
                }
                dp.inherit(&[1, 2].into())?;
                Ok(())
            })();
            // With ours alone.
            let more = some_more();
            done.store(true, Ordering::Relaxed);
            let asked = asker.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
            taken.and(asked).and(more)
        })?;
        for (link, _, _) in PODS {
            ensure!(handles(link)? == [vec![HANDLE], vec![HANDLE]], "{:?}", handles(link)?);
        }
        flows.exchange(2).context("behind ours")?;
        let denied = pods.connect(&pods.a, "10.0.0.2", 82);
        ensure!(denied.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut), "{denied:?}");
        // The next change of policy judges them as all others; the node's own stay.
        dp.apply(&[sets(1, 0, 1, 2), sets(2, 3, 3, 2)])?;
        flows.patience(SOON)?;
        ensure!(flows.ask(3).is_err(), "UDP is judged again");
        let (mut from, mut to) = (&flows.node, &flows.of_node);
        from.write_all(&[4])?;
        to.read_exact(&mut [0]).context("from the node")?;
        Ok(())
    })
}

/// What the kernel still tracks, but nobody used for longer than the filters keep a flow, is not begun anew: the
/// address may have been another pod's.
pub(crate) fn silent_flows_are_not_brought_back() -> Result<()> {
    let pods = incumbent_node()?;
    let flows = Flows::begin(&pods)?;
    // As if their last datagram were as long ago as this is longer than it was.
    pods.node.ns.run(|| {
        ["udp_timeout", "udp_timeout_stream"].iter().try_for_each(|name| {
            std::fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"), "100000")
        })
    })?;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        ensure!(dp.inherit(&[1, 2].into())? >= 5, "they are told");
        (0..PODS.len()).try_for_each(|index| attach(dp, index).map(drop))?;
        flows.patience(SOON)?;
        ensure!(flows.ask(2).is_err(), "UDP");
        let (mut from, mut to) = (&flows.server, &flows.client);
        from.write_all(&[3])?;
        to.read_exact(&mut [0]).context("TCP is kept for days")?;
        Ok(())
    })
}

/// The kernel's table may be long: what a reading costs decides how many links are taken over between two.
pub(crate) fn milliseconds_per_reading() -> Result<()> {
    const SOCKETS: usize = 4;
    const PORTS: u16 = 16_000;
    let pods = incumbent_node()?;
    pods.node.ns.run(|| -> Result<()> {
        for _ in 0..SOCKETS {
            let socket = UdpSocket::bind(("127.0.0.1", 0))?;
            for port in 1..=PORTS {
                // Closed ports answer by ICMP, which the socket is told.
                let _ = socket.send_to(&[], ("127.0.0.1", port));
            }
        }
        Ok(())
    })?;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        let mut table = netlink::conntrack::open()?;
        let mut tracked = 0;
        netlink::conntrack::each_flow(&mut table, |_| tracked += 1)?;
        let began = Instant::now();
        dp.inherit(&[1, 2].into())?;
        println!("flows of a pod among {tracked}: read in {:?}", began.elapsed());
        ensure!(tracked > usize::from(PORTS), "{tracked}");
        Ok(())
    })
}

/// What makes these trials worth something: without flows brought over they are cut.
pub(crate) fn flows_that_nobody_knows_are_cut() -> Result<()> {
    let pods = incumbent_node()?;
    let flows = Flows::begin(&pods)?;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        for index in 0..PODS.len() {
            attach(dp, index)?;
        }
        flows.patience(SOON)?;
        ensure!(flows.exchange(2).is_err(), "TCP");
        ensure!(flows.ask(2).is_err(), "UDP");
        Ok(())
    })
}

pub(crate) fn hidden_by_one_that_came_later() -> Result<()> {
    let pods = Pods::new()?;
    pods.node.ns.run(|| std::fs::create_dir_all(on_bpffs(&pods.node, "globals/aws/programs")))?;
    pods.node.ns.run(|| std::fs::create_dir_all(on_bpffs(&pods.node, "globals/aws/maps")))?;
    let _listener = pods.listen(DENIED)?;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        for index in 0..PODS.len() {
            attach(dp, index)?;
        }
        ensure!(pods.connect(&pods.a, "10.0.0.2", DENIED).is_err(), "policy forbids it");
        PODS.into_iter().try_for_each(|(link, _, identifier)| police(&pods.node, link, identifier))?;
        pods.connect(&pods.a, "10.0.0.2", DENIED).context("ours are hidden")?;
        for (index, (link, slot, _)) in PODS.into_iter().enumerate() {
            let survey = dp.look(ifindex(link)?, slot)?;
            ensure!(survey.ours && survey.incumbent.len() == 2 && survey.foreign.is_empty(), "{survey:?}");
            ensure!(survey.ahead.len() == 2, "{survey:?}");
            // Unless it is taken over, it stays and is told.
            let attached = dp.attach(ifindex(link)?, link, slot, Via::Clsact, false)?;
            ensure!(!attached.replaced && attached.foreign.len() == 2, "{attached:?}");
            ensure!(handles(link)? == [vec![1, HANDLE], vec![1, HANDLE]], "{:?}", handles(link)?);
            ensure!(attach(dp, index)?.replaced);
        }
        ensure!(pods.connect(&pods.a, "10.0.0.2", DENIED).is_err(), "policy forbids it again");
        Ok(())
    })
}

/// Their cleaner deletes handle 1; ours what it knows as theirs. Neither meets the other's, or anybody else's.
pub(crate) fn cleaners_do_not_meet() -> Result<()> {
    let pods = incumbent_node()?;
    let delete = ["filter", "del", "dev", "ha", "ingress", "prio", "1", "handle", "1", "bpf"];
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        attach(dp, 0)?;
        police(&pods.node, "ha", "web@shop")?;
        pods.node.ns.output("tc", &delete)?;
        ensure!(handles("ha")? == [vec![HANDLE], vec![1, HANDLE]], "{:?}", handles("ha")?);
        attach(dp, 0)?;
        // One that is not pinned where theirs are is nobody's that we know.
        let bytecode = ["bpf", "bytecode", "1,6 0 0 0,"];
        let place = ["filter", "add", "dev", "ha", "ingress", "prio", "1", "handle", "1"];
        pods.node.ns.output("tc", &[&place[..], &bytecode[..]].concat())?;
        let attached = attach(dp, 0)?;
        ensure!(!attached.replaced && attached.foreign.len() == 1, "{attached:?}");
        ensure!(handles("ha")?[0] == [1, HANDLE], "it stays");
        Ok(())
    })
}

pub(crate) fn pins_go_with_the_last_link() -> Result<()> {
    let pods = incumbent_node()?;
    // A third link with the programs of the first pod's workload.
    pods.node.ns.ip("link add hc type veth peer name c0")?;
    police(&pods.node, "hc", "web@shop")?;
    let programs = || pods.node.pinned("globals/aws/programs");
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        ensure!(dp.unpin_incumbent()? == 0 && programs()?.len() == 4, "all are in use");
        attach(dp, 0)?;
        attach(dp, 1)?;
        ensure!(dp.unpin_incumbent()? == 4, "two programs and two maps");
        ensure!(programs()? == ["web@shop_handle_egress", "web@shop_handle_ingress"], "{:?}", programs()?);
        ensure!(
            pods.node.pinned("globals/aws/maps")?.len() == 5,
            "{:?}",
            pods.node.pinned("globals/aws/maps")?
        );
        dp.attach(ifindex("hc")?, "hc", 3, Via::Clsact, true)?;
        dp.unpin_incumbent()?;
        ensure!(programs()?.is_empty() && pods.node.pinned("globals/aws/maps")? == ["somebodys"]);
        ensure!(dp.unpin_incumbent()? == 0);
        Ok(())
    })
}

/// Its names at its place, on a node on which it never was.
pub(crate) fn names_alone_are_nobodys() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let index = ifindex("pa")?;
        dp.attach(index, "pa", 3, Via::Clsact, false)?;
        let pin = on_bpffs(&node, "somebodys");
        pin_classifier(&pin, "handle_egress", 0)?;
        let program = aya::programs::SchedClassifier::from_pin(&pin)?;
        let (mut socket, mut batch) = (netlink::Socket::open()?, netlink::Batch::new());
        let hook = Hook::Ingress;
        let name = "handle_egress";
        let filter = tc::BpfFilter { ifindex: index, hook, priority: 1, handle: 1, classid: 0, name };
        tc::add_filter(&mut batch, &filter, program.fd()?.as_fd());
        socket.run(batch)?;
        let survey = dp.look(index, 3)?;
        ensure!(survey.ours && survey.incumbent.is_empty() && survey.foreign.len() == 1, "{survey:?}");
        ensure!(!dp.attach(index, "pa", 3, Via::Clsact, true)?.replaced);
        ensure!(handles("pa")?[0] == [1, HANDLE], "it stays");
        std::fs::create_dir_all(on_bpffs(&node, "globals/aws/programs"))?;
        ensure!(dp.look(index, 3)?.incumbent.len() == 1, "its pin went before it");
        Ok(())
    })
}

/// What is not ours stays when a node is left, wherever our pins were said to be.
pub(crate) fn nothing_of_others_is_withdrawn() -> Result<()> {
    let pods = Pods::new()?;
    let node = &pods.node;
    let bytecode = ["bpf", "bytecode", "1,6 0 0 0,"];
    let place = ["filter", "add", "dev", "hb", "ingress", "prio", "1", "handle", "0x7d"];
    node.ns.output("tc", &["qdisc", "add", "dev", "hb", "clsact"])?;
    node.ns.output("tc", &[&place[..], &bytecode[..]].concat())?;
    let plain = tempfile::tempdir()?;
    std::fs::write(plain.path().join("file"), "somebody's")?;
    node.ns.run(|| -> Result<()> {
        ensure!(withdraw(plain.path()).is_err(), "not a place for pins");
        ensure!(plain.path().join("file").exists());
        ensure!(withdraw(&plain.path().join("none"))? == 0);
        Ok(())
    })?;
    // The file system's root itself may be named.
    let mount = node.root.parent().context("it has a parent")?.to_owned();
    let version = format!("v{}", ebpf_common::abi::ABI_VERSION);
    for root in [mount.clone(), node.root.clone()] {
        node.ns.run(|| -> Result<()> {
            let mut dp = Datapath::open(&object()?, &root, &options())?;
            dp.attach(ifindex("ha")?, "ha", 1, Via::Clsact, false)?;
            std::fs::create_dir_all(on_bpffs(node, "cilium"))?;
            for pin in
                [mount.join("cilium/map"), root.join("somebodys"), root.join(&version).join("somebodys")]
            {
                if !pin.exists() {
                    pin_map(&pin, "map")?;
                }
            }
            drop(dp);
            ensure!(withdraw(&root)? == 1);
            ensure!(handles("ha")? == [Vec::<u32>::new(), Vec::new()]);
            ensure!(handles("hb")?[0] == [HANDLE], "it is not named as ours");
            ensure!(mount.join("cilium/map").exists() && root.join("somebodys").exists());
            let left: Vec<_> = std::fs::read_dir(root.join(&version))?.collect::<Result<_, _>>()?;
            ensure!(left.len() == 1 && left[0].file_name() == "somebodys", "{left:?}");
            Ok(())
        })?;
    }
    Ok(())
}

pub(crate) fn withdrawn() -> Result<()> {
    let pods = Pods::new()?;
    let _listener = pods.listen(DENIED)?;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        attach(dp, 0)?;
        dp.attach(ifindex("hb")?, "hb", 2, Via::Tcx, false)?;
        Ok(())
    })?;
    ensure!(pods.connect(&pods.a, "10.0.0.2", DENIED).is_err(), "filters outlive the agent");
    pods.node.ns.run(|| -> Result<()> {
        ensure!(withdraw(&pods.node.root)? == 2, "one by clsact, one by tcx");
        ensure!(handles("ha")? == [Vec::<u32>::new(), Vec::new()]);
        ensure!(!pods.node.root.exists());
        let listed = Command::new("tc").args(["qdisc", "show", "dev", "hb"]).output()?;
        ensure!(!String::from_utf8_lossy(&listed.stdout).contains("clsact"));
        ensure!(withdraw(&pods.node.root)? == 0, "again");
        Ok(())
    })?;
    // The kernel lets go of a link some time after its pin is gone.
    wait_for("nobody is in the way", LATE, || pods.connect(&pods.a, "10.0.0.2", DENIED).ok()).map(drop)
}
