//! What the fabric delivers and what it drops, as AWS does.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;
use kernel_test::{Need, Trial, trial, wait_for};
use vpc_sim::ec2::{EniId, EniLink, FabricPort, InstanceId, Mac, SubnetId};
use vpc_sim::fabric::ns::{NetNs, NodeNs};
use vpc_sim::fabric::{Fabric, IMDS_ADDRESS, INTERNET_HOST, NodeImage};

const NEEDS: &[Need] = &[Need::Root, Need::NetNs, Need::Mounts];

/// Longer than any delivery here, for what is to be dropped.
const SILENCE: Duration = Duration::from_millis(300);

/// For what is to arrive.
const BOUND: Duration = Duration::from_secs(10);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("packets_are_delivered_by_address_between_subnets", NEEDS, delivery),
        trial("prefixes_are_delivered_and_moved_addresses_follow", NEEDS, moved_addresses),
        trial("a_source_that_is_not_on_the_interface_is_dropped_and_counted", NEEDS, wrong_source),
        trial("the_source_check_can_be_switched_off", NEEDS, no_source_check),
        trial("only_the_primary_address_of_the_primary_interface_leaves_the_vpc", NEEDS, internet),
        trial("metadata_travels_one_hop", NEEDS, metadata_hop),
        trial("interfaces_come_and_go_with_their_mac", NEEDS, attach_and_detach),
        trial("an_address_that_nobody_holds_is_silence", NEEDS, nobody),
    ]
}

/// Two nodes in two subnets, with a runtime that serves the internet host.
struct Vpc {
    fabric: Fabric,
    a: NodeNs,
    b: NodeNs,
    runtime: tokio::runtime::Runtime,
}

impl Vpc {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let fabric = {
            let _inside = runtime.enter();
            Fabric::new(&["10.20.0.0/16".parse()?])?
        };
        let image = NodeImage { ip_forward: true, ..NodeImage::default() };
        let a = fabric.add_node("a", &image)?;
        let b = fabric.add_node("b", &image)?;
        fabric.attached(link("eni-a0", "a", 0, "10.20.0.5")?);
        fabric.attached(link("eni-b0", "b", 0, "10.20.16.5")?);
        for node in ["a", "b"] {
            fabric.wait_for_primary(node, BOUND)?;
        }
        let vpc = Self { fabric, a, b, runtime };
        vpc.give("eni-a0", &["10.20.0.5/32", "10.20.0.6/32"])?;
        vpc.give("eni-b0", &["10.20.16.5/32", "10.20.16.6/32"])?;
        Ok(vpc)
    }

    fn give(&self, eni: &str, addresses: &[&str]) -> Result<()> {
        let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<Vec<IpNetwork>, _>>()?;
        self.fabric.addresses_changed(&EniId::new(eni), addresses);
        let problems = self.fabric.counters()?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    }
}

fn link(eni: &str, node: &str, device_index: u32, primary: &str) -> Result<EniLink> {
    let primary_ip: IpAddr = primary.parse()?;
    let (cidr, gateway) = if primary.starts_with("10.20.0.") {
        ("10.20.0.0/20", "10.20.0.1")
    } else {
        ("10.20.16.0/20", "10.20.16.1")
    };
    let IpAddr::V4(v4) = primary_ip else {
        anyhow::bail!("IPv4 only");
    };
    let [_, _, c, d] = v4.octets();
    Ok(EniLink {
        eni_id: EniId::new(eni),
        instance_id: InstanceId::new(format!("i-{node}")),
        node: node.to_owned(),
        device_index,
        network_card: 0,
        mac: Mac([0x02, 0, 0, 0, c, d]),
        primary_ip,
        subnet_id: SubnetId::new("subnet-1"),
        subnet_cidr: cidr.parse()?,
        gateway: gateway.parse()?,
        source_dest_check: true,
    })
}

fn ip(ns: &NetNs, arguments: &str) -> Result<String> {
    let output = ns.run(|| std::process::Command::new("ip").args(arguments.split(' ')).output())??;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Puts an address on the node, so that it can be sent from and to.
fn hold(node: &NodeNs, address: &str) -> Result<()> {
    ip(node.net(), &format!("addr add {address}/32 dev lo")).map(drop)
}

/// Whether a datagram from `source` in one namespace arrives at `destination` in
/// another, and from whom.
fn arrives(from: &NetNs, source: &str, to: &NetNs, destination: &str, wait: Duration) -> Result<bool> {
    let receiver =
        to.run(|| UdpSocket::bind((destination, 0)))?.with_context(|| format!("bind {destination}"))?;
    receiver.set_read_timeout(Some(wait))?;
    let target = receiver.local_addr()?;
    let sender = from.run(|| UdpSocket::bind((source, 0)))?.with_context(|| format!("bind {source}"))?;
    sender.send_to(b"x", target)?;
    let mut buffer = [0; 8];
    match receiver.recv_from(&mut buffer) {
        Ok((_, peer)) => {
            ensure!(peer == sender.local_addr()?, "it came from {peer}");
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn delivery() -> Result<()> {
    let vpc = Vpc::new()?;
    let (a, b) = (vpc.a.net(), vpc.b.net());
    hold(&vpc.a, "10.20.0.6")?;
    hold(&vpc.b, "10.20.16.6")?;
    for (source, destination) in [
        ("10.20.0.5", "10.20.16.5"),
        ("10.20.0.5", "10.20.16.6"),
        ("10.20.0.6", "10.20.16.5"),
        ("10.20.0.6", "10.20.16.6"),
    ] {
        ensure!(arrives(a, source, b, destination, BOUND)?, "{source} to {destination}");
        ensure!(arrives(b, destination, a, source, BOUND)?, "{destination} to {source}");
    }
    ensure!(vpc.fabric.counters()?.wrong_source_drops == 0);
    ensure!(vpc.fabric.eni_of("10.20.0.6".parse()?) == Some(EniId::new("eni-a0")));
    Ok(())
}

fn moved_addresses() -> Result<()> {
    let vpc = Vpc::new()?;
    let (a, b) = (vpc.a.net(), vpc.b.net());
    vpc.give("eni-a0", &["10.20.0.5/32", "10.20.0.32/28"])?;
    hold(&vpc.a, "10.20.0.47")?;
    ensure!(arrives(b, "10.20.16.5", a, "10.20.0.47", BOUND)?);
    // Reassigned: the other interface gets it before this one loses it.
    vpc.give("eni-b0", &["10.20.16.5/32", "10.20.0.32/28"])?;
    vpc.give("eni-a0", &["10.20.0.5/32"])?;
    ip(a, "addr del 10.20.0.47/32 dev lo")?;
    hold(&vpc.b, "10.20.0.47")?;
    ensure!(arrives(a, "10.20.0.5", b, "10.20.0.47", BOUND)?);
    Ok(())
}

fn wrong_source() -> Result<()> {
    let vpc = Vpc::new()?;
    let (a, b) = (vpc.a.net(), vpc.b.net());
    // Somebody else's, nobody's, one that was this interface's, and one from outside.
    vpc.give("eni-a0", &["10.20.0.5/32"])?;
    // The router's address is resolved from now on: a request for it with a
    // foreign source would be dropped as well, uncounted.
    ensure!(arrives(a, "10.20.0.5", b, "10.20.16.5", BOUND)?);
    for (count, source) in ["10.20.16.6", "10.20.9.9", "10.20.0.6", "198.51.100.10"].into_iter().enumerate() {
        hold(&vpc.a, source)?;
        ensure!(!arrives(a, source, b, "10.20.16.5", SILENCE)?, "{source} got through");
        let counted = vpc.fabric.counters()?.wrong_source_drops;
        ensure!(counted == count as u64 + 1, "{source}: {counted} counted");
    }
    ensure!(arrives(a, "10.20.0.5", b, "10.20.16.5", BOUND)?);
    Ok(())
}

fn no_source_check() -> Result<()> {
    let vpc = Vpc::new()?;
    let (a, b) = (vpc.a.net(), vpc.b.net());
    let eni = EniId::new("eni-a0");
    hold(&vpc.a, "192.168.7.7")?;
    ensure!(!arrives(a, "192.168.7.7", b, "10.20.16.5", SILENCE)?);
    vpc.fabric.source_dest_check_changed(&eni, false);
    // The receiving node is as strict as its image: its filter is not the VPC's.
    ip(b, "route add 192.168.7.7/32 via 10.20.16.1")?;
    ensure!(arrives(a, "192.168.7.7", b, "10.20.16.5", BOUND)?);
    vpc.fabric.source_dest_check_changed(&eni, true);
    ensure!(!arrives(a, "192.168.7.7", b, "10.20.16.5", SILENCE)?);
    Ok(())
}

/// What the internet host answers to a connection from `source`.
fn ask_internet(from: &NetNs, source: &str, wait: Duration) -> Result<Option<String>> {
    let socket = from.run(|| UdpSocket::bind((source, 0)))??;
    socket.set_read_timeout(Some(wait))?;
    socket.send_to(b"who? me", (INTERNET_HOST, 7))?;
    let mut buffer = [0; 64];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn internet() -> Result<()> {
    let vpc = Vpc::new()?;
    let a = vpc.a.net();
    hold(&vpc.a, "10.20.0.6")?;
    let answer = ask_internet(a, "10.20.0.5", BOUND)?;
    ensure!(answer.as_deref() == Some("internet me"), "{answer:?}");
    let stream = a.run(|| TcpStream::connect_timeout(&SocketAddr::from((INTERNET_HOST, 443)), BOUND))??;
    echo(stream)?;
    ensure!(ask_internet(a, "10.20.0.6", SILENCE)?.is_none(), "a secondary address got out");
    ensure!(vpc.fabric.counters()?.no_way_out_drops == 1, "{:?}", vpc.fabric.counters()?);

    vpc.fabric.attached(link("eni-a1", "a", 1, "10.20.0.9")?);
    ip(a, "addr add 10.20.0.9/32 dev eth1")?;
    ip(a, "link set eth1 up")?;
    ip(a, "rule add from 10.20.0.9 lookup 2")?;
    ip(a, "route add default via 10.20.0.1 dev eth1 onlink table 2")?;
    ensure!(arrives(a, "10.20.0.9", vpc.b.net(), "10.20.16.5", BOUND)?, "it reaches the VPC");
    ensure!(ask_internet(a, "10.20.0.9", SILENCE)?.is_none(), "a secondary interface got out");
    ensure!(vpc.fabric.counters()?.no_way_out_drops == 2, "{:?}", vpc.fabric.counters()?);
    Ok(())
}

fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"hello");
    Ok(())
}

fn metadata_hop() -> Result<()> {
    let vpc = Vpc::new()?;
    let listener = vpc.fabric.imds_listener()?;
    let _served = {
        let _inside = vpc.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        vpc.runtime.spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                let text = peer.ip().to_string();
                // The test sees by its end of the stream whether this worked.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await;
            }
        })
    };
    let imds = SocketAddr::from((IMDS_ADDRESS, 80));
    let mut stream = vpc.a.net().run(|| TcpStream::connect_timeout(&imds, BOUND))??;
    let mut peer = String::new();
    stream.read_to_string(&mut peer)?;
    ensure!(peer == "10.20.0.5", "the node came as {peer}");

    // A pod with an address of the node's interface: its packets are forwarded,
    // so the answer has no hop left for it.
    let pod = NetNs::new()?;
    let path = pod.path();
    ip(vpc.a.net(), &format!("link add pod type veth peer name eth0 netns {}", path.display()))
        .or_else(|_| veth_by_pid(&vpc.a, &pod))?;
    ip(vpc.a.net(), "link set pod up")?;
    ip(vpc.a.net(), "route add 10.20.0.6/32 dev pod")?;
    ip(&pod, "addr add 10.20.0.6/32 dev eth0")?;
    ip(&pod, "link set eth0 up")?;
    ip(&pod, "route add 10.20.0.5/32 dev eth0")?;
    ip(&pod, "route add default via 10.20.0.5 dev eth0")?;
    ensure!(arrives(&pod, "10.20.0.6", vpc.b.net(), "10.20.16.5", BOUND)?, "the pod has a network");
    let refused = pod.run(|| TcpStream::connect_timeout(&imds, SILENCE))?;
    ensure!(refused.is_err(), "a pod reached the metadata");
    Ok(())
}

/// `ip` before 6.2 takes namespaces by name or process only: makes the pair
/// with a short-lived process in the pod's namespace.
fn veth_by_pid(node: &NodeNs, pod: &NetNs) -> Result<String> {
    let mut holder = pod.run(|| std::process::Command::new("sleep").arg("60").spawn())??;
    let made = ip(node.net(), &format!("link add pod type veth peer name eth0 netns {}", holder.id()));
    holder.kill()?;
    holder.wait()?;
    made
}

fn attach_and_detach() -> Result<()> {
    let vpc = Vpc::new()?;
    let a = vpc.a.net();
    let links = || ip(a, "-o link show");
    let eth0 = links()?;
    ensure!(eth0.contains("eth0@") && eth0.contains("02:00:00:00:00:05"), "{eth0}");
    ensure!(!eth0.contains("eth1@"), "{eth0}");

    vpc.fabric.attached(link("eni-a1", "a", 1, "10.20.0.9")?);
    vpc.fabric.attached(link("eni-a2", "a", 2, "10.20.0.10")?);
    let three = links()?;
    let eth1 = three.lines().find(|line| line.contains("eth1@")).context("eth1 is there")?;
    ensure!(eth1.contains("02:00:00:00:00:09") && eth1.contains("mtu 9001"), "{eth1}");
    ensure!(eth1.contains("state DOWN"), "an image leaves it down: {eth1}");
    ensure!(three.contains("eth2@"), "{three}");

    vpc.fabric.detached(&EniId::new("eni-a1"));
    wait_for("eth1 vanishes", BOUND, || links().ok().filter(|links| !links.contains("eth1@")))?;
    ensure!(links()?.contains("eth2@"));
    ensure!(vpc.fabric.eni_of("10.20.0.9".parse()?).is_none());
    // A primary interface goes as well, and its way out with it.
    vpc.fabric.detached(&EniId::new("eni-b0"));
    vpc.fabric.attached(link("eni-a3", "a", 3, "10.20.16.5")?);
    ip(a, "addr add 10.20.16.5/32 dev eth3")?;
    ip(a, "link set eth3 up")?;
    ip(a, "rule add from 10.20.16.5 lookup 2")?;
    ip(a, "route add default via 10.20.16.1 dev eth3 onlink table 2")?;
    ensure!(ask_internet(a, "10.20.16.5", SILENCE)?.is_none());
    // Again, and twice: the second is the same as the first.
    vpc.fabric.attached(link("eni-a1", "a", 1, "10.20.0.9")?);
    vpc.fabric.attached(link("eni-a1", "a", 1, "10.20.0.9")?);
    vpc.fabric.detached(&EniId::new("eni-none"));
    ensure!(links()?.matches("eth1@").count() == 1);
    let problems = vpc.fabric.counters()?.problems;
    ensure!(problems.is_empty(), "{problems:?}");
    Ok(())
}

fn nobody() -> Result<()> {
    let vpc = Vpc::new()?;
    let a = vpc.a.net();
    // In the other subnet, so that the node has to ask the router.
    let closed = SocketAddr::from(([10, 20, 16, 200], 80));
    let error = a.run(|| TcpStream::connect_timeout(&closed, SILENCE))?.err().context("nobody answers")?;
    ensure!(error.kind() == std::io::ErrorKind::TimedOut, "{error}");
    // A listener on an address that the VPC has not given away is not reached.
    hold(&vpc.b, "10.20.16.201")?;
    let listener = vpc.b.net().run(|| TcpListener::bind("10.20.16.201:0"))??;
    let address = listener.local_addr()?;
    ensure!(a.run(|| TcpStream::connect_timeout(&address, SILENCE))?.is_err());
    Ok(())
}
