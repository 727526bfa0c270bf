//! The host's network against the kernel, on a node with two ENIs in a VPC of a few commands.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, NetNs, Trial, trial, wait_for};
use netlink::{
    Batch, Mac, Socket,
    link::{self, Veth, VethIndices},
};
use tidepool_agent::hostnet::{
    ActionKind, EniLink, HostNet, NodeNet, PodRoute, PortChoice, SnatMode, keep, table_of,
};
use tokio_util::sync::CancellationToken;

const BOUND: Duration = Duration::from_secs(20);
const PRIMARY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const SECONDARY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
/// The node's primary address; pods' packets out of the VPC carry it.
const NODE: &str = "10.20.0.10";
/// A host of the VPC beyond both subnets.
const VPC_HOST: &str = "10.20.32.5";
/// A host outside the VPC.
const INTERNET: &str = "198.51.100.10";
/// An index that no link has.
const NO_LINK: u32 = 9_999;
/// A pod on the secondary ENI, and one on the primary.
const POD_ON_SECONDARY: &str = "10.20.16.50";
const POD_ON_PRIMARY: &str = "10.20.0.50";

fn main() {
    let on_net = |name: &str, body: fn() -> Result<()>| -> Trial {
        trial(name, &[Need::Root, Need::NetNs, Need::Nft], body)
    };
    kernel_test::run(vec![
        on_net(
            "pods_reach_the_vpc_as_themselves_and_the_internet_as_the_node",
            pods_reach_the_vpc_and_the_internet,
        ),
        on_net("external_snat_sends_pods_out_as_themselves", external_snat_sends_pods_out_as_themselves),
        on_net("node_port_returns_by_the_primary_eni", node_port_returns_by_the_primary_eni),
        on_net(
            "service_translation_comes_before_the_choice_of_eni",
            service_translation_comes_before_the_choice_of_eni,
        ),
        on_net("foreign_deletions_are_repaired_within_a_second_and_counted", foreign_deletions_are_repaired),
        on_net(
            "restart_removes_nothing_before_all_pods_are_known",
            restart_removes_nothing_before_all_pods_are_known,
        ),
        on_net("removed_pod_leaves_nothing", removed_pod_leaves_nothing),
        on_net("rules_of_another_plugin_lead_nobody_astray", rules_of_another_plugin_lead_nobody_astray),
        on_net("what_the_kernel_refuses_stops_nothing_else", what_the_kernel_refuses_stops_nothing_else),
        on_net("pods_are_found_by_their_links", pods_are_found_by_their_links),
    ]);
}

/// A node, the VPC around it, and two pods.
struct World {
    node: NetNs,
    vpc: NetNs,
    hostnet: HostNet,
    pods: BTreeMap<&'static str, (NetNs, PodRoute)>,
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

fn eni(mac: Mac, device_index: u32, third: u8) -> Result<EniLink> {
    Ok(EniLink {
        mac,
        device_index,
        network_card: 0,
        primary_ip: ip(&format!("10.20.{third}.10"))?,
        subnet: format!("10.20.{third}.0/20").parse()?,
        gateway: ip(&format!("10.20.{third}.1"))?,
        table: table_of(device_index, 0),
    })
}

fn node_net() -> Result<NodeNet> {
    Ok(NodeNet {
        primary: eni(PRIMARY_MAC, 0, 0)?,
        secondary: vec![eni(SECONDARY_MAC, 1, 16)?],
        vpc_cidrs: vec!["10.20.0.0/16".parse()?],
        exclude_snat: vec![],
        external_services: vec![],
        snat: SnatMode::Internal(PortChoice::Random),
        node_port: true,
        mark: 0x80,
        veth_prefix: "eni".into(),
        eni_mtu: 1500,
    })
}

impl World {
    fn new() -> Result<Self> {
        Self::with(node_net()?)
    }

    fn with(net: NodeNet) -> Result<Self> {
        let (node, vpc) = (NetNs::new()?, NetNs::new()?);
        let vpc_pid = vpc.path().to_str().context("UTF-8")?.to_owned();
        // Both pairs by netlink: `ip` cannot name a namespace that has no name.
        for (name, mac) in [("eth0", PRIMARY_MAC), ("eth1", SECONDARY_MAC)] {
            let netns = File::open(&vpc_pid)?;
            let veth = Veth {
                name,
                mac,
                peer_netns: netns.as_fd(),
                peer_name: name,
                peer_mac: Mac([6, 0, 0, 0, 0, mac.0[5]]),
                mtu: 1500,
            };
            link::create_veth(&mut Socket::open_in(File::open(node.path())?.as_fd())?, &veth)?;
        }
        // The hardest image: strict checks of sources, no forwarding.
        sysctl(&node, "net.ipv4.conf.all.rp_filter", "1")?;
        sysctl(&node, "net.ipv4.conf.eth0.rp_filter", "1")?;
        sysctl(&node, "net.ipv4.conf.eth1.rp_filter", "1")?;
        sysctl(&node, "net.ipv4.ip_forward", "0")?;
        node.ip("link set lo up\naddr add 10.20.0.10/20 dev eth0\nroute add default via 10.20.0.1 dev eth0\nlink set eth1 down")?;
        // The VPC drops what comes from the wrong ENI, as EC2 does.
        sysctl(&vpc, "net.ipv4.conf.all.rp_filter", "1")?;
        vpc.ip(
            "link set lo up\nlink set eth0 up\nlink set eth1 up\naddr add 10.20.0.1/20 dev eth0\naddr add 10.20.16.1/20 dev eth1\n\
             addr add 10.20.32.5/32 dev lo\naddr add 198.51.100.10/32 dev lo\n\
             route add 10.20.16.50/32 via 10.20.16.10 dev eth1 onlink\nroute add 10.20.0.50/32 via 10.20.0.10 dev eth0 onlink",
        )?;
        // The VPC's addresses for the secondary ENI are reached by its own MAC only: no ARP answers for pods.
        let hostnet = node.run(HostNet::open)?;
        ensure!(hostnet.set_node(net.clone()) && !hostnet.set_node(net));
        hostnet.reconcile()?;
        let mut world = Self { node, vpc, hostnet, pods: BTreeMap::new() };
        world.add_pod(POD_ON_SECONDARY, 2)?;
        world.add_pod(POD_ON_PRIMARY, netlink::TABLE_MAIN)?;
        world.hostnet.pods_complete();
        Ok(world)
    }

    /// What plugin and agent do.
    fn add_pod(&mut self, address: &'static str, table: u32) -> Result<()> {
        let pod = NetNs::new()?;
        let host_mac = Mac([2, 1, 0, 0, 0, u8::try_from(self.pods.len())?]);
        let pod_mac = Mac([2, 2, 0, 0, 0, u8::try_from(self.pods.len())?]);
        let host_ifname = format!("eni{}", self.pods.len());
        let netns = File::open(pod.path())?;
        let veth = Veth {
            name: &host_ifname,
            mac: host_mac,
            peer_netns: netns.as_fd(),
            peer_name: "eth0",
            peer_mac: pod_mac,
            mtu: 1500,
        };
        let mut socket = Socket::open_in(File::open(self.node.path())?.as_fd())?;
        let VethIndices { near, .. } = link::create_veth(&mut socket, &veth)?;
        let route = PodRoute {
            address: ip(address)?,
            host_ifname,
            host_ifindex: near,
            pod_mac: Some(pod_mac),
            table: Some(table),
        };
        self.hostnet.add_pod(&route)?;
        self.hostnet.add_pod(&route).context("again is the same")?;
        pod.ip(&format!(
            "link set lo up\nlink set eth0 up\naddr add {address}/32 dev eth0\nneigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent\n\
             route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0"
        ))?;
        self.pods.insert(address, (pod, route));
        Ok(())
    }

    fn pod(&self, address: &str) -> &NetNs {
        &self.pods[address].0
    }

    /// A server in the VPC that answers with the address it was asked from.
    fn mirror(&self, address: &str) -> Result<()> {
        serve_mirror(&self.vpc, address)
    }
}

fn serve_mirror(ns: &NetNs, address: &str) -> Result<()> {
    let socket = ns.run(|| UdpSocket::bind((address, 9000)))?;
    socket.set_read_timeout(Some(BOUND))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        // Ends with the test: the last read times out.
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.to_string().as_bytes(), peer);
        }
    });
    Ok(())
}

fn sysctl(ns: &NetNs, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    ns.run(|| std::fs::write(&path, value)).with_context(|| path.clone())
}

/// Asks `to` from inside `from`; the address that it was asked from, or why there is no answer.
fn ask(from: &NetNs, to: &str) -> Result<String> {
    Ok(ask_from(from, 0, to)?.ip().to_string())
}

/// The same from a port of one's own.
fn ask_from(from: &NetNs, port: u16, to: &str) -> Result<SocketAddr> {
    let socket = from.run(|| UdpSocket::bind(("0.0.0.0", port)))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect(to)?;
    socket.send(b"who am I?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer from {to}"))?;
    Ok(String::from_utf8(buffer[..length].to_vec())?.parse()?)
}

fn pods_reach_the_vpc_and_the_internet() -> Result<()> {
    let world = World::new()?;
    world.mirror(VPC_HOST)?;
    world.mirror(INTERNET)?;
    for pod in [POD_ON_SECONDARY, POD_ON_PRIMARY] {
        let seen = ask(world.pod(pod), &format!("{VPC_HOST}:9000"))?;
        ensure!(seen == pod, "in the VPC {pod} is seen as {seen}");
        let seen = ask(world.pod(pod), &format!("{INTERNET}:9000"))?;
        ensure!(seen == NODE, "outside the VPC {pod} is seen as {seen}");
        // The node reaches its pods, and they each other, on the node.
        serve_mirror(world.pod(pod), pod)?;
        ask(&world.node, &format!("{pod}:9000")).context("from the node")?;
    }
    for (from, to) in [(POD_ON_PRIMARY, POD_ON_SECONDARY), (POD_ON_SECONDARY, POD_ON_PRIMARY)] {
        let seen = ask(world.pod(from), &format!("{to}:9000"))?;
        ensure!(seen == from, "{from} is seen as {seen}");
    }
    // The node's own packets are left as they are.
    let seen = ask_from(&world.node, 5_555, &format!("{INTERNET}:9000"))?;
    ensure!(seen == SocketAddr::new(ip(NODE)?, 5_555), "the node is seen as {seen}");
    // And the VPC reaches pods.
    let server = world.pod(POD_ON_SECONDARY).run(|| UdpSocket::bind("0.0.0.0:8080"))?;
    let client = world.vpc.run(|| UdpSocket::bind((VPC_HOST, 0)))?;
    server.set_read_timeout(Some(BOUND))?;
    client.send_to(b"hello", (POD_ON_SECONDARY, 8080))?;
    let mut buffer = [0; 8];
    let (_, peer) = server.recv_from(&mut buffer)?;
    ensure!(peer.ip() == ip(VPC_HOST)?, "{peer}");
    let report = world.hostnet.reconcile()?;
    ensure!(report.actions.is_empty() && report.repairs.is_empty(), "not settled: {report:?}");
    ensure!(report.linked.len() == 1, "the secondary ENI is linked: {report:?}");
    Ok(())
}

fn external_snat_sends_pods_out_as_themselves() -> Result<()> {
    let world = World::with(NodeNet { snat: SnatMode::External, ..node_net()? })?;
    world.mirror(INTERNET)?;
    let seen = ask(world.pod(POD_ON_SECONDARY), &format!("{INTERNET}:9000"))?;
    ensure!(seen == POD_ON_SECONDARY, "{seen}");
    // Some destinations only.
    let excluded = NodeNet { exclude_snat: vec!["198.51.100.0/24".parse()?], ..node_net()? };
    ensure!(world.hostnet.set_node(excluded));
    world.hostnet.reconcile()?;
    let seen = ask(world.pod(POD_ON_SECONDARY), &format!("{INTERNET}:9000"))?;
    ensure!(seen == POD_ON_SECONDARY, "{seen}");
    ensure!(world.hostnet.set_node(node_net()?));
    world.hostnet.reconcile()?;
    let seen = ask(world.pod(POD_ON_SECONDARY), &format!("{INTERNET}:9000"))?;
    ensure!(seen == NODE, "{seen}");
    Ok(())
}

/// Rules shaped as kube-proxy's for a Service with externalTrafficPolicy Local: no masquerading.
fn kube_proxy(world: &World, rule: &str) -> Result<()> {
    let ruleset = format!(
        "table ip kube-proxy {{ chain pre {{ type nat hook prerouting priority dstnat; policy accept; {rule}; }}; \
         chain post {{ type nat hook postrouting priority srcnat; policy accept; }}; }}"
    );
    world.node.output("nft", &[&ruleset]).map(|_| ())
}

fn node_port_returns_by_the_primary_eni() -> Result<()> {
    let world = World::new()?;
    for (pod, port) in [(POD_ON_SECONDARY, 30_080), (POD_ON_PRIMARY, 30_081)] {
        kube_proxy(&world, &format!("ip daddr {NODE} udp dport {port} dnat to {pod}:8080"))?;
        let server = world.pod(pod).run(|| UdpSocket::bind("0.0.0.0:8080"))?;
        server.set_read_timeout(Some(BOUND))?;
        let client = world.vpc.run(|| UdpSocket::bind((INTERNET, 0)))?;
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        client.connect((NODE, port))?;
        for round in 0..3 {
            client.send(b"request")?;
            let mut buffer = [0; 16];
            let (_, peer) = server.recv_from(&mut buffer).with_context(|| format!("{pod} got nothing"))?;
            ensure!(peer.ip() == ip(INTERNET)?, "{peer}");
            server.send_to(b"reply", peer)?;
            client
                .recv(&mut buffer)
                .with_context(|| format!("round {round}: the reply of {pod} was lost"))?;
        }
        world.node.output("nft", &["delete", "table", "ip", "kube-proxy"])?;
    }
    Ok(())
}

fn service_translation_comes_before_the_choice_of_eni() -> Result<()> {
    let world = World::new()?;
    world.mirror(VPC_HOST)?;
    world.mirror(INTERNET)?;
    // A cluster address is outside the VPC until it is translated: to a backend inside, and to one outside.
    for (backend, seen_as) in [(VPC_HOST, POD_ON_SECONDARY), (INTERNET, NODE)] {
        kube_proxy(&world, &format!("ip daddr 172.20.0.1 udp dport 53 dnat to {backend}:9000"))?;
        let seen = ask(world.pod(POD_ON_SECONDARY), "172.20.0.1:53")?;
        ensure!(seen == seen_as, "by {backend} it is seen as {seen}");
        world.node.output("nft", &["delete", "table", "ip", "kube-proxy"])?;
    }
    Ok(())
}

fn foreign_deletions_are_repaired() -> Result<()> {
    let world = World::new()?;
    world.hostnet.reconcile()?;
    let repairs: Arc<Mutex<BTreeMap<ActionKind, u64>>> = Arc::default();
    let (stop, hostnet, told) = (CancellationToken::new(), world.hostnet.clone(), Arc::clone(&repairs));
    let stopped = stop.clone();
    std::thread::scope(|scope| -> Result<()> {
        let keeping = scope.spawn(|| {
            world.node.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(keep(hostnet, stopped, move |outcome| {
                    let mut repairs = told.lock().unwrap_or_else(PoisonError::into_inner);
                    for (kind, count) in outcome.map(|report| report.repairs).unwrap_or_default() {
                        *repairs.entry(kind).or_default() += count;
                    }
                }));
                std::io::Result::Ok(())
            })
        });
        let deletions: &[(&str, &[&str], ActionKind)] = &[
            ("ip", &["rule", "del", "pref", "512", "to", POD_ON_SECONDARY], ActionKind::Rule),
            ("ip", &["rule", "del", "pref", "1024"], ActionKind::Rule),
            ("ip", &["rule", "del", "pref", "1536"], ActionKind::Rule),
            ("ip", &["rule", "del", "pref", "32765"], ActionKind::Rule),
            ("ip", &["route", "del", POD_ON_SECONDARY], ActionKind::Route),
            ("ip", &["route", "del", "default", "table", "2"], ActionKind::Route),
            ("ip", &["route", "flush", "table", "2"], ActionKind::Route),
            ("ip", &["route", "replace", POD_ON_SECONDARY, "dev", "eth0"], ActionKind::Route),
            ("ip", &["neigh", "del", POD_ON_SECONDARY, "dev", "eni0"], ActionKind::Neighbour),
            ("ip", &["addr", "flush", "dev", "eth1"], ActionKind::Address),
            ("ip", &["link", "set", "eni0", "down"], ActionKind::Link),
            ("ip", &["link", "set", "eth1", "down"], ActionKind::Link),
            ("nft", &["delete", "table", "ip", "tidepool"], ActionKind::Nftables),
            ("nft", &["flush", "chain", "ip", "tidepool", "translate"], ActionKind::Nftables),
            ("nft", &["flush", "ruleset"], ActionKind::Nftables),
        ];
        let outcome = deletions.iter().try_for_each(|(command, arguments, kind)| {
            let count =
                || repairs.lock().unwrap_or_else(PoisonError::into_inner).get(kind).copied().unwrap_or(0);
            let before = count();
            let settled = world.picture()?;
            world.node.output(command, arguments)?;
            let started = Instant::now();
            wait_for(&format!("{arguments:?} to be repaired"), BOUND, || {
                (world.picture().ok()? == settled).then_some(())
            })?;
            let took = started.elapsed();
            ensure!(took < Duration::from_secs(1), "{arguments:?} took {took:?}");
            wait_for("the counter", BOUND, || (count() > before).then_some(()))
        });
        stop.cancel();
        keeping.join().expect("no panic")?;
        outcome
    })
}

impl World {
    /// All that we make on the node, as other tools show it, in order.
    fn picture(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for arguments in [
            &["rule", "show"][..],
            &["route", "show", "table", "all", "proto", "116"],
            &["neigh", "show", "nud", "permanent"],
            &["-4", "-o", "addr", "show", "dev", "eth1"],
            &["-o", "link", "show", "up"],
        ] {
            lines.extend(self.node.output("ip", arguments)?.lines().map(str::to_owned));
        }
        lines.extend(self.node.output("nft", &["-s", "list", "ruleset"])?.lines().map(str::to_owned));
        lines.sort();
        Ok(lines)
    }
}

fn restart_removes_nothing_before_all_pods_are_known() -> Result<()> {
    let world = World::new()?;
    // Left by an agent that was killed in the middle, and something of another's.
    world.node.ip("rule add pref 512 to 10.20.16.99 lookup main protocol 116\nroute add 10.20.16.99 dev eni0 proto 116\nrule add pref 77 to 10.9.9.9 lookup main\nroute add 10.9.9.9 dev eni0 proto static")?;
    let before = world.picture()?;
    let restarted = world.node.run(HostNet::open)?;
    restarted.set_node(node_net()?);
    let report = restarted.reconcile()?;
    ensure!(report.actions.is_empty(), "{report:?}");
    ensure!(world.picture()? == before, "a restart changed something");
    for (_, route) in world.pods.values() {
        let found = restarted.find(&route.host_ifname)?.context("the link of a pod that runs")?;
        ensure!(found.ifindex == route.host_ifindex && found.pod_mac == route.pod_mac, "{found:?}");
        restarted.add_pod(route)?;
    }
    restarted.pods_complete();
    let report = restarted.reconcile()?;
    ensure!(report.actions.len() == 2 && report.repairs.is_empty(), "{report:?}");
    let after = world.picture()?.join("\n");
    ensure!(!after.contains("10.20.16.99"), "{after}");
    let foreign = world.node.output("ip", &["route", "show"])? + &after;
    ensure!(foreign.matches("10.9.9.9").count() == 2, "{foreign}");
    ensure!(restarted.find("eninot")?.is_none());
    Ok(())
}

fn removed_pod_leaves_nothing() -> Result<()> {
    let world = World::new()?;
    let (_, route) = &world.pods[POD_ON_SECONDARY];
    // The link first, as the plugin does; a removal that comes late or twice is no error.
    let mut socket = Socket::open_in(File::open(world.node.path())?.as_fd())?;
    let mut batch = Batch::new();
    link::delete(&mut batch, route.host_ifindex);
    socket.run(batch)?;
    for _ in 0..2 {
        world.hostnet.remove_pod(route)?;
    }
    let left = world.picture()?.join("\n");
    ensure!(!left.contains(POD_ON_SECONDARY), "{left}");
    let report = world.hostnet.reconcile()?;
    ensure!(report.actions.is_empty() && report.findings.is_empty(), "not settled: {report:?}");
    // A newer pod with the address is not touched by the late removal for the older link.
    let mut world = world;
    world.add_pod(POD_ON_SECONDARY, 2)?;
    let older = PodRoute { host_ifindex: NO_LINK, ..world.pods[POD_ON_SECONDARY].1.clone() };
    world.hostnet.remove_pod(&older)?;
    ensure!(world.picture()?.join("\n").contains(POD_ON_SECONDARY));
    // A pod whose link does not exist is refused, and nothing of it stays.
    let ghost = PodRoute { address: ip("10.20.16.77")?, host_ifname: "enighost".into(), ..older };
    ensure!(world.hostnet.add_pod(&ghost).is_err());
    ensure!(!world.picture()?.join("\n").contains("10.20.16.77"));
    Ok(())
}

fn rules_of_another_plugin_lead_nobody_astray() -> Result<()> {
    let world = World::new()?;
    let (_, route) = &world.pods[POD_ON_SECONDARY];
    let rules = || -> Result<Vec<String>> {
        let shown = world.node.output("ip", &["rule", "show"])?;
        let of_pod = shown.lines().filter(|line| line.contains(POD_ON_SECONDARY));
        Ok(of_pod.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    };
    let led = |table: &str, proto: &str| format!("1536: from {POD_ON_SECONDARY} lookup {table}{proto}");
    let other = format!("700: from {POD_ON_SECONDARY} lookup 77");
    world.node.ip(&format!("rule add pref 700 from {POD_ON_SECONDARY} lookup 77"))?;

    // After a restart, EC2 does not list the pod's ENI yet.
    let restarted = world.node.run(HostNet::open)?;
    restarted.set_node(node_net()?);
    let unknown = PodRoute { table: None, ..route.clone() };
    ensure!(restarted.adopt_pod(&unknown) == Some(2), "the table of the rule that stands");
    restarted.adopt_pod(&world.pods[POD_ON_PRIMARY].1);
    restarted.pods_complete();
    ensure!(restarted.reconcile()?.actions.is_empty());
    // Nor is it cut off where that rule is the incumbent's; then it turns out to be on another ENI.
    let incumbent = ["rule", "add", "pref", "1536", "from", POD_ON_SECONDARY, "lookup", "2"];
    world.node.output("ip", &incumbent)?;
    ensure!(rules()?.contains(&led("2", "")), "{:?}", rules()?);
    restarted.set_table(route.address, 3)?;
    let told = rules()?;
    ensure!(
        told.contains(&led("3", " proto 116")) && !told.iter().any(|rule| rule.contains("lookup 2")),
        "{told:?}"
    );
    ensure!(restarted.reconcile()?.actions.is_empty(), "it is what is wanted");

    // Whatever the incumbent left goes with the pod, and before the next one with the address.
    world.node.output("ip", &incumbent)?;
    restarted.remove_pod(route)?;
    ensure!(rules()? == [other.clone()], "{:?}", rules()?);
    world.node.output("ip", &incumbent)?;
    restarted.add_pod(&PodRoute { table: Some(netlink::TABLE_MAIN), ..route.clone() })?;
    let to = format!("512: from all to {POD_ON_SECONDARY} lookup main proto 116");
    ensure!(rules()? == [to, other], "{:?}", rules()?);
    Ok(())
}

fn what_the_kernel_refuses_stops_nothing_else() -> Result<()> {
    // More than any link carries: the link of the secondary ENI cannot be set up.
    let world = World::with(NodeNet { eni_mtu: 100_000, ..node_net()? })?;
    let report = world.hostnet.reconcile()?;
    let refused = report.refused.context("nothing was refused")?;
    ensure!(refused.of_secondary_only && refused.error.contains("Invalid argument"), "{refused:?}");
    ensure!(
        refused.left.iter().all(|action| [ActionKind::Link, ActionKind::Route].contains(&action.kind())),
        "{refused:?}"
    );
    ensure!(report.linked.is_empty(), "nothing may be leased on it: {:?}", report.linked);
    ensure!(report.actions.is_empty() && report.repairs.is_empty(), "all else was done before");
    let tables = world.node.output("nft", &["list", "tables"])?;
    ensure!(tables.contains("tidepool"), "{tables}");

    // Another's deletion is told from what never was; and with the cause gone all is as it should be.
    world.node.ip(&format!("rule delete pref 512 to {POD_ON_PRIMARY}"))?;
    let report = world.hostnet.reconcile()?;
    ensure!(report.repairs == BTreeMap::from([(ActionKind::Rule, 1)]), "{report:?}");
    world.hostnet.set_node(node_net()?);
    let report = world.hostnet.reconcile()?;
    ensure!(report.refused.is_none() && report.linked.contains(&SECONDARY_MAC), "{report:?}");
    Ok(())
}

fn pods_are_found_by_their_links() -> Result<()> {
    let world = World::new()?;
    // As another plugin leaves it: no neighbour entry, routes of another protocol; and a link that is no pod's.
    let (_, route) = &world.pods[POD_ON_SECONDARY];
    let link = &route.host_ifname;
    world.node.ip(&format!(
        "neigh delete {POD_ON_SECONDARY} dev {link}\nroute replace {POD_ON_SECONDARY} dev {link} proto static\n\
         link add other0 type veth peer name other1\nroute add 10.20.99.0/24 dev {link}"
    ))?;
    let found = world.hostnet.standing("eni")?;
    ensure!(found.len() == 2, "{found:?}");
    for (address, (_, route)) in &world.pods {
        let one = found.iter().find(|one| one.ifname == route.host_ifname).context("no such link")?;
        ensure!(one.ifindex == route.host_ifindex && one.addresses == [ip(address)?], "{one:?}");
        let told = world.hostnet.ask_mac(route.host_ifindex, ip(address)?)?;
        ensure!(told == route.pod_mac, "{address} tells {told:?}");
    }
    Ok(())
}
