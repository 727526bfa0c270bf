//! cni/service_connectivity and cni/snat_kube_proxy: beside kube-proxy, whose rules stand on the first node before the
//! agent comes and are made on the second after it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use system_tests::kube_proxy::{Endpoint, ExternalPolicy, KubeProxy, Mode, Service, Transport};
use system_tests::world::{INTERNET, PORT, World};

use super::cluster::{
    Fabric, NODES, POOL, Placed, Placement, SMALL, netns_of_internet, netns_of_node, populate,
};
use super::talk::{Answer, Flow, HostServer, PATIENCE, Question, all_must_fail, ask_all};

/// How many ask at once.
const PARALLEL: usize = 20;
/// A port that nobody serves anywhere.
const CLOSED: u16 = 2273;
/// The port of every ClusterIP.
pub(crate) const PORT_OF_SERVICE: u16 = 80;
/// The NodePort of the Service with all pods.
const ALL: u16 = 30_443;
/// NodePorts of Services with one pod each, by that pod's place in [`Beside::singles`].
pub(crate) const SINGLE_LOCAL: u16 = 30_500;
pub(crate) const SINGLE_CLUSTER: u16 = 30_600;
/// A NodePort of a Service with no pods.
const EMPTY: u16 = 30_700;
/// The port of the API server on its host.
const API_PORT: u16 = 6443;

pub(crate) fn cluster_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 20, 0, number)
}
const WEB: u8 = 10;
pub(crate) const SINGLES: u8 = 20;
const NONE: u8 = 40;
const API: u8 = 1;
const OUTSIDE: u8 = 50;
/// The NodePort of a Service whose endpoint is outside the VPC.
const OUTSIDE_PORT: u16 = 30_800;

pub(crate) struct Beside {
    mode: Mode,
    pub(crate) world: World,
    proxies: Vec<KubeProxy>,
    /// The pods of each node.
    nodes: [Placement; 2],
    /// Primary addresses of the nodes.
    pub(crate) primary: [Ipv4Addr; 2],
    pub(crate) internet: PathBuf,
    /// Lives as long as the cluster.
    _api: HostServer,
}

/// All of it, beside kube-proxy in one mode or without it.
pub(crate) fn beside(mode: Mode) -> Result<()> {
    let mut cluster = Beside::start(mode)?;
    cluster.check("at first")?;
    if mode != Mode::None {
        cluster.policies().context("with policies")?;
    }
    let mut flows = cluster.flows()?;
    for node in NODES {
        cluster.world.kill_agent(node)?;
    }
    cluster.check("while the agents are away")?;
    for node in NODES {
        cluster.world.start_agent(node)?;
    }
    for node in NODES {
        cluster.world.wait_until_ready(node)?;
    }
    cluster.resync()?;
    cluster.check("after the agents' restart")?;
    flows.iter_mut().try_for_each(Flow::lives).context("a flow of before")?;
    cluster.check_counts()
}

impl Beside {
    fn start(mode: Mode) -> Result<Self> {
        let mut world = World::of(2, SMALL, POOL)?;
        let fabric = Fabric::look(&world)?;
        let primary = [fabric.primary_address(NODES[0])?, fabric.primary_address(NODES[1])?];
        let before = KubeProxy::start(&world, NODES[0], primary[0], mode)?;
        for node in NODES {
            world.start_agent(node)?;
        }
        for node in NODES {
            world.wait_until_ready(node)?;
        }
        let after = KubeProxy::start(&world, NODES[1], primary[1], mode)?;
        let nodes = populate(&world)?;
        let api = HostServer::start(&netns_of_node(&world, NODES[1])?, API_PORT)?;
        let internet = netns_of_internet(&world)?;
        let cluster = Self { mode, proxies: vec![before, after], nodes, primary, internet, _api: api, world };
        cluster.sync(&cluster.services()?)?;
        Ok(cluster)
    }

    fn pods(&self) -> impl Iterator<Item = &Placed> + Clone {
        self.nodes.iter().flat_map(Placement::all)
    }

    /// Pods that are alone behind a Service: two of the first node, on either ENI, and one of the second.
    pub(crate) fn singles(&self) -> [&Placed; 3] {
        let [here, there] = &self.nodes;
        [&here.primary[0], &here.secondary[0], &there.secondary[0]]
    }

    fn services(&self) -> Result<Vec<Service>> {
        let service = |name: &str, number, node_port, endpoints| Service {
            name: name.to_owned(),
            transport: Transport::Tcp,
            cluster: (cluster_ip(number), PORT_OF_SERVICE),
            node_port,
            endpoints,
        };
        let all: Vec<Endpoint> = self.pods().map(Placed::endpoint).collect();
        let web = service("web", WEB, Some((ALL, ExternalPolicy::Cluster)), all);
        let by_udp = Service { name: "web-udp".into(), transport: Transport::Udp, ..web.clone() };
        let mut services = vec![web, by_udp];
        for (pod, number) in self.singles().into_iter().zip(0_u8..) {
            let local = Some((SINGLE_LOCAL + u16::from(number), ExternalPolicy::Local));
            let any = Some((SINGLE_CLUSTER + u16::from(number), ExternalPolicy::Cluster));
            let one = || vec![pod.endpoint()];
            let near = service(&format!("local-{number}"), SINGLES + number, local, one());
            let by_udp = Service { name: format!("udp-{number}"), transport: Transport::Udp, ..near.clone() };
            services.extend([near, by_udp]);
            services.push(service(&format!("any-{number}"), SINGLES + 10 + number, any, one()));
        }
        services.push(service("empty", NONE, Some((EMPTY, ExternalPolicy::Cluster)), Vec::new()));
        let api = Endpoint { address: (self.primary[1], API_PORT), node: NODES[1].into() };
        services.push(service("kubernetes", API, None, vec![api]));
        let host = Endpoint { address: (INTERNET.0.parse()?, INTERNET.1), node: String::new() };
        services.push(service("outside", OUTSIDE, Some((OUTSIDE_PORT, ExternalPolicy::Cluster)), vec![host]));
        Ok(services)
    }

    fn sync(&self, services: &[Service]) -> Result<()> {
        self.proxies.iter().try_for_each(|proxy| proxy.sync(&self.world, services))
    }

    /// Services go, and come back.
    fn resync(&self) -> Result<()> {
        self.sync(&[])?;
        self.sync(&self.services()?)
    }

    fn check(&self, when: &str) -> Result<()> {
        let all = || -> Result<()> {
            self.out_of_the_vpc().context("the internet")?;
            self.within_the_vpc().context("a host of the VPC")?;
            if self.mode != Mode::None {
                self.cluster_ips().context("ClusterIP")?;
                self.node_ports_for_all().context("NodePort, policy Cluster")?;
                self.node_ports_for_one().context("NodePort, policy Local")?;
                self.endpoint_outside().context("an endpoint outside the VPC")?;
                self.closed_ports().context("closed ports")?;
                self.way_back().context("the way back of a NodePort connection")?;
            }
            Fabric::look(&self.world)?.must_be_clean()
        };
        all().with_context(|| format!("{when}\n{}", self.world.complaints()))
    }

    /// What leaves the VPC is seen as the node's primary address, whichever ENI the pod is on.
    fn out_of_the_vpc(&self) -> Result<()> {
        let to = INTERNET.0.parse()?;
        for transport in [Transport::Tcp, Transport::Udp] {
            let asked: Vec<_> = self.pods().map(|pod| (pod, transport, to, INTERNET.1)).collect();
            for ((pod, ..), answer) in asked.iter().zip(ask(&asked)?) {
                let own = self.primary_of(&pod.node);
                ensure!(
                    answer.who == "internet" && answer.seen.ip() == &own,
                    "{} is seen as {answer:?}",
                    pod.name
                );
            }
        }
        Ok(())
    }

    /// What stays in the VPC is seen as the pod.
    fn within_the_vpc(&self) -> Result<()> {
        let (to, port) = match self.mode {
            Mode::None => (self.primary[1], API_PORT),
            _ => (cluster_ip(API), PORT_OF_SERVICE),
        };
        // From its own node a pod is seen as itself, too.
        let asked: Vec<_> = self.pods().map(|pod| (pod, Transport::Tcp, to, port)).collect();
        for ((pod, ..), answer) in asked.iter().zip(ask(&asked)?) {
            ensure!(answer.seen.ip() == &pod.address, "{} is seen as {answer:?}", pod.name);
        }
        Ok(())
    }

    fn cluster_ips(&self) -> Result<()> {
        for transport in [Transport::Tcp, Transport::Udp] {
            let asked: Vec<_> = self
                .pods()
                .cycle()
                .take(PARALLEL)
                .map(|pod| (pod, transport, cluster_ip(WEB), PORT_OF_SERVICE))
                .collect();
            for ((pod, ..), answer) in asked.iter().zip(ask(&asked)?) {
                let server = self.pods().find(|pod| pod.full_name() == answer.who);
                let server = server.with_context(|| format!("{answer:?}"))?;
                // A pod that reaches itself is masqueraded, or it would answer itself without a word to anybody.
                let right = (answer.seen.ip() == &pod.address) != (server.name == pod.name);
                ensure!(right, "{} is seen as {answer:?}", pod.name);
            }
        }
        // A pod that is alone behind a Service reaches itself by it; and hosts are clients like others.
        for (pod, number) in self.singles().into_iter().zip(SINGLES..) {
            let mut clients = vec![pod.netns.clone()];
            for node in NODES {
                clients.push(netns_of_node(&self.world, node)?);
            }
            for client in clients {
                let question = Question::new(&client, Transport::Tcp, cluster_ip(number), PORT_OF_SERVICE);
                let answer = question.ask(PATIENCE)?;
                ensure!(answer.who == pod.full_name(), "{answer:?}");
            }
        }
        Ok(())
    }

    /// Policy Cluster: whoever asks is seen as the node that was asked. From the internet, as behind a network load
    /// balancer, and from a host of the VPC, as behind a classic one.
    fn node_ports_for_all(&self) -> Result<()> {
        for (node, own) in NODES.into_iter().zip(self.primary) {
            let other = NODES.into_iter().find(|other| *other != node).context("one node")?;
            for client in [self.internet.clone(), netns_of_node(&self.world, other)?] {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let questions = vec![Question::new(&client, transport, own, ALL); PARALLEL];
                    for answer in ask_all(&questions)? {
                        ensure!(answer.seen.ip() == &own, "{node} shows {answer:?}");
                    }
                }
                for (pod, port) in self.singles().into_iter().zip(SINGLE_CLUSTER..) {
                    let answer = Question::new(&client, Transport::Tcp, own, port).ask(PATIENCE)?;
                    let right = answer.who == pod.full_name() && answer.seen.ip() == &own;
                    ensure!(right, "{node} shows {answer:?} to {}", pod.name);
                }
            }
        }
        Ok(())
    }

    /// Policy Local: the pod sees the client itself, and a node without such a pod does not answer.
    fn node_ports_for_one(&self) -> Result<()> {
        let [here, there] = &self.nodes;
        let (internet, host) = (&self.internet, netns_of_node(&self.world, NODES[1])?);
        let far = &there.secondary[1];
        let mut refused = Vec::new();
        for (pod, port) in self.singles().into_iter().zip(SINGLE_LOCAL..) {
            let own = self.primary_of(&pod.node);
            let mut clients = vec![(internet.clone(), INTERNET.0.parse()?)];
            if pod.node == NODES[0] {
                clients.push((host.clone(), self.primary[1]));
                clients.push((far.netns.clone(), far.address));
                let near = &here.secondary[1];
                clients.push((near.netns.clone(), near.address));
            }
            for (client, address) in clients {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let answer = Question::new(&client, transport, own, port).ask(PATIENCE)?;
                    let expected = SocketAddrV4::new(address, answer.sent_from.port());
                    let right = answer.who == pod.full_name() && answer.seen == expected;
                    ensure!(right, "{} sees {address} as {answer:?}", pod.name);
                }
            }
            let other = if pod.node == NODES[0] { self.primary[1] } else { self.primary[0] };
            refused.push(Question::new(internet, Transport::Tcp, other, port));
        }
        all_must_fail(&refused)
    }

    /// Both marks on one packet: a pod's connection is to be masqueraded by kube-proxy and to leave by the primary ENI.
    fn endpoint_outside(&self) -> Result<()> {
        let see = |client: &Path, to, port, as_whom: Ipv4Addr| -> Result<()> {
            let answer = Question::new(client, Transport::Tcp, to, port).ask(PATIENCE)?;
            let right = answer.who == "internet" && answer.seen.ip() == &as_whom;
            ensure!(right, "{} to {to}:{port} is seen as {answer:?}", client.display());
            Ok(())
        };
        for pod in self.singles() {
            see(&pod.netns, cluster_ip(OUTSIDE), PORT_OF_SERVICE, self.primary_of(&pod.node))?;
            for own in self.primary {
                see(&pod.netns, own, OUTSIDE_PORT, own)?;
            }
        }
        for (node, other) in NODES.into_iter().zip(self.primary.into_iter().rev()) {
            see(&netns_of_node(&self.world, node)?, other, OUTSIDE_PORT, other)?;
            see(&self.internet, other, OUTSIDE_PORT, other)?;
        }
        Ok(())
    }

    fn closed_ports(&self) -> Result<()> {
        let mut closed = Vec::new();
        for pod in self.singles() {
            closed.push(Question::new(&pod.netns, Transport::Tcp, cluster_ip(WEB), CLOSED));
            closed.push(Question::new(&pod.netns, Transport::Tcp, cluster_ip(NONE), PORT_OF_SERVICE));
            closed.push(Question::new(&pod.netns, Transport::Udp, cluster_ip(WEB), CLOSED));
        }
        for own in self.primary {
            closed.push(Question::new(&self.internet, Transport::Tcp, own, CLOSED));
            closed.push(Question::new(&self.internet, Transport::Tcp, own, EMPTY));
        }
        all_must_fail(&closed)
    }

    /// Connections from the internet to a pod on a secondary ENI come by the primary ENI and are answered by it.
    fn way_back(&self) -> Result<()> {
        let pod = self.singles()[1];
        ensure!(!pod.is_on_primary(), "{} is on the primary ENI", pod.name);
        let (node, own) = (&pod.node, self.primary_of(&pod.node));
        let device = pod.table - 1;
        let before = Fabric::look(&self.world)?;
        ask_all(&vec![Question::new(&self.internet, Transport::Tcp, own, SINGLE_LOCAL + 1); PARALLEL])?;
        let after = Fabric::look(&self.world)?;
        let sent = |device| Ok::<u64, anyhow::Error>(after.sent(node, device)? - before.sent(node, device)?);
        let (by_primary, by_own) = (sent(0)?, sent(device)?);
        // Handshake, two answers, and the end of each; a stray ARP request at most by the other.
        ensure!(
            by_primary >= 4 * PARALLEL as u64 && by_own < PARALLEL as u64,
            "{by_primary} packets by the primary ENI, {by_own} by the pod's"
        );
        Ok(())
    }

    /// Connections that are to outlive a restart.
    fn flows(&self) -> Result<Vec<Flow>> {
        let pod = self.singles()[1];
        let mut flows = vec![Flow::open(&pod.netns, INTERNET.0.parse()?, INTERNET.1)?];
        if self.mode != Mode::None {
            let own = self.primary_of(&pod.node);
            flows.push(Flow::open(&self.internet, own, SINGLE_LOCAL + 1)?);
            flows.push(Flow::open(&self.internet, own, SINGLE_CLUSTER + 1)?);
            flows.push(Flow::open(&pod.netns, cluster_ip(SINGLES + 2), PORT_OF_SERVICE)?);
        } else {
            flows.push(Flow::open(&pod.netns, self.singles()[2].address, PORT)?);
        }
        Ok(flows)
    }

    /// No more ENIs than an instance may have, no packet that conntrack could not place, and no detour out of the VPC.
    fn check_counts(&self) -> Result<()> {
        let enis = self.world.enis()?.len();
        ensure!(enis <= 3, "{enis} ENIs");
        for proxy in &self.proxies {
            let invalid = proxy.invalid_packets(&self.world)?;
            ensure!(invalid == 0, "{invalid} packets were dropped as invalid: {proxy:?}");
        }
        let lost = Fabric::look(&self.world)?.no_way_out()?;
        ensure!(lost == 0, "{lost} packets had no way out");
        Ok(())
    }

    fn primary_of(&self, node: &str) -> Ipv4Addr {
        self.primary[usize::from(node != NODES[0])]
    }
}

/// Pods ask all at once.
fn ask(asked: &[(&Placed, Transport, Ipv4Addr, u16)]) -> Result<Vec<Answer>> {
    let questions =
        asked.iter().map(|(pod, transport, to, port)| Question::new(&pod.netns, *transport, *to, *port));
    ask_all(&questions.collect::<Vec<_>>())
}
