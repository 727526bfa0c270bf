//! A node with two ENIs, the VPC around it, and two pods.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel_test::{NetNs, wait_for};
use netlink::{
    Batch, Mac, Socket,
    link::{self, Veth, VethIndices},
};
use tidepool_agent::hostnet::{EniLink, HostNet, NodeNet, PodRoute, PortChoice, SnatMode, table_of};

pub(crate) const BOUND: Duration = Duration::from_secs(20);
pub(crate) const PRIMARY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
pub(crate) const SECONDARY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
/// The node's primary address; pods' packets out of the VPC carry it.
pub(crate) const NODE: &str = "10.20.0.10";
/// A host of the VPC beyond both subnets.
pub(crate) const VPC_HOST: &str = "10.20.32.5";
/// A host outside the VPC.
pub(crate) const INTERNET: &str = "198.51.100.10";
/// An index that no link has.
pub(crate) const NO_LINK: u32 = 9_999;
/// A pod on the secondary ENI, and one on the primary.
pub(crate) const POD_ON_SECONDARY: &str = "10.20.16.50";
pub(crate) const POD_ON_PRIMARY: &str = "10.20.0.50";

/// A node, the VPC around it, and two pods.
pub(crate) struct World {
    pub(crate) node: NetNs,
    pub(crate) vpc: NetNs,
    pub(crate) hostnet: HostNet,
    /// Another container's, whose process is pid 1 in its namespace as the agent is in its own: the kernel gave it the
    /// port for routes that the agent has for nftables.
    pub(crate) stranger: Mutex<Socket>,
    pub(crate) pods: BTreeMap<&'static str, (NetNs, PodRoute)>,
}

pub(crate) fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

pub(crate) fn eni(mac: Mac, device_index: u32, third: u8) -> Result<EniLink> {
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

pub(crate) fn node_net() -> Result<NodeNet> {
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
    pub(crate) fn new() -> Result<Self> {
        Self::with(node_net()?)
    }

    pub(crate) fn with(net: NodeNet) -> Result<Self> {
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
        let stranger = Mutex::new(Socket::open_in(File::open(node.path())?.as_fd())?);
        let hostnet = node.run(HostNet::open)?;
        ensure!(hostnet.set_node(net.clone()) && !hostnet.set_node(net));
        let linked = !hostnet.reconcile()?.linked.is_empty();
        for link in ["eth0", "eth1"].into_iter().take(1 + usize::from(linked)) {
            in_service(&node, link)?;
            in_service(&vpc, link)?;
        }
        let mut world = Self { node, vpc, hostnet, stranger, pods: BTreeMap::new() };
        world.add_pod(POD_ON_SECONDARY, 2)?;
        world.add_pod(POD_ON_PRIMARY, netlink::TABLE_MAIN)?;
        world.hostnet.pods_complete();
        Ok(world)
    }

    /// What plugin and agent do.
    pub(crate) fn add_pod(&mut self, address: &'static str, table: u32) -> Result<()> {
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
            host_mac: Some(host_mac),
            pod_mac: Some(pod_mac),
            table: Some(table),
        };
        self.hostnet.add_pod(&route)?;
        self.hostnet.add_pod(&route).context("again is the same")?;
        pod.ip(&format!(
            "link set lo up\nlink set eth0 up\naddr add {address}/32 dev eth0\nneigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent\n\
             route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0"
        ))?;
        // Until the kernel has put both ends into service, it drops what is sent.
        in_service(&self.node, &route.host_ifname)?;
        in_service(&pod, "eth0")?;
        self.pods.insert(address, (pod, route));
        Ok(())
    }

    /// What another program asks of the kernel.
    pub(crate) fn strange(&self, fill: impl FnOnce(&mut Batch)) -> Result<()> {
        let mut batch = Batch::new();
        fill(&mut batch);
        let mut stranger = self.stranger.lock().unwrap_or_else(PoisonError::into_inner);
        stranger.run(batch)?;
        Ok(())
    }

    /// Links of pods on the secondary ENI that nothing runs behind; not yet added.
    pub(crate) fn add_links(&mut self, number: u8) -> Result<Vec<PodRoute>> {
        let netns = File::open(self.vpc.path())?;
        let mut socket = Socket::open_in(File::open(self.node.path())?.as_fd())?;
        let mut pods = Vec::new();
        for number in 0..number {
            let (host_ifname, pod_mac) = (format!("enimany{number}"), Mac([2, 4, 0, 0, 0, number]));
            let veth = Veth {
                name: &host_ifname,
                mac: Mac([2, 3, 0, 0, 0, number]),
                peer_netns: netns.as_fd(),
                peer_name: &format!("many{number}"),
                peer_mac: pod_mac,
                mtu: 1500,
            };
            let VethIndices { near, .. } = link::create_veth(&mut socket, &veth)?;
            let address = IpAddr::from([10, 20, 17, number]);
            let (host_mac, pod_mac) = (Some(veth.mac), Some(pod_mac));
            pods.push(PodRoute {
                address,
                host_ifname,
                host_ifindex: near,
                host_mac,
                pod_mac,
                table: Some(2),
            });
        }
        Ok(pods)
    }

    pub(crate) fn pod(&self, address: &str) -> &NetNs {
        &self.pods[address].0
    }

    /// A server in the VPC that answers with the address it was asked from.
    pub(crate) fn mirror(&self, address: &str) -> Result<()> {
        serve_mirror(&self.vpc, address)
    }
}

/// Waits until the kernel sends and receives by a link.
fn in_service(ns: &NetNs, name: &str) -> Result<()> {
    let mut socket = Socket::open_in(File::open(ns.path())?.as_fd())?;
    wait_for(&format!("{name} to be in service"), BOUND, || {
        link::by_name(&mut socket, name).ok()?.filter(|link| link.running && link.lower_up).map(drop)
    })
}

pub(crate) fn serve_mirror(ns: &NetNs, address: &str) -> Result<()> {
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

pub(crate) fn sysctl(ns: &NetNs, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    ns.run(|| std::fs::write(&path, value)).with_context(|| path.clone())
}

/// Asks `to` from inside `from`; the address that it was asked from, or why there is no answer.
pub(crate) fn ask(from: &NetNs, to: &str) -> Result<String> {
    Ok(ask_from(from, 0, to)?.ip().to_string())
}

/// The same from a port of one's own.
pub(crate) fn ask_from(from: &NetNs, port: u16, to: &str) -> Result<SocketAddr> {
    let socket = from.run(|| UdpSocket::bind(("0.0.0.0", port)))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect(to)?;
    socket.send(b"who am I?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer from {to}"))?;
    Ok(String::from_utf8(buffer[..length].to_vec())?.parse()?)
}

impl World {
    /// All that we make on the node, as other tools show it, in order.
    pub(crate) fn picture(&self) -> Result<Vec<String>> {
        let shows = "rule show\nroute show table all proto 116\nroute show table main dev eth1\n\
                     neigh show nud permanent\naddr show dev eth1\nlink show up\n";
        let shown = self.node.input("ip", &["-4", "-o", "-batch", "-"], shows)?;
        // Whose address it is, the operating system's or ours, makes no difference.
        let mut lines: Vec<String> = shown.lines().map(|line| line.replace(" noprefixroute", "")).collect();
        lines.extend(self.node.output("nft", &["-s", "list", "ruleset"])?.lines().map(str::to_owned));
        for link in ["eth0", "eth1", "eni0", "eni1"] {
            for name in ["rp_filter", "forwarding"] {
                let path = format!("/proc/sys/net/ipv4/conf/{link}/{name}");
                let value = self.node.run(|| std::fs::read_to_string(&path)).unwrap_or_default();
                lines.push(format!("{link} {name} {value}"));
            }
        }
        lines.sort();
        Ok(lines)
    }
}
