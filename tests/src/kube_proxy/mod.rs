//! Rules shaped as kube-proxy's on a node of a [`World`]: same hooks, priorities, chains and marks, for the Services
//! of a test. Nothing watches an API: [`KubeProxy::sync`] is told what there is, and may be told again.
//!
//! The shapes are those of Kubernetes 1.33 with the defaults of EKS: no cluster CIDR, so that traffic to a ClusterIP
//! is masqueraded for a pod that reaches itself only. IPVS is left out where the kernel lacks it.

mod iptables;
mod nftables;

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::world::World;

/// The bit that marks what is to be masqueraded, as kube-proxy's default has it.
pub const MASQUERADE_MARK: u32 = 0x4000;
/// Where the tests' ClusterIPs come from.
pub const SERVICE_CIDR: &str = "172.20.0.0/16";

/// With what kube-proxy writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Mode iptables, by the tools that write nf_tables.
    IptablesNft,
    /// Mode iptables, by the tools that write the older x_tables.
    IptablesLegacy,
    /// Mode nftables.
    Nftables,
    /// There is no kube-proxy.
    None,
}

/// A transport of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// As rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// `externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalPolicy {
    /// All endpoints serve, and see the node's address.
    Cluster,
    /// Endpoints of the node serve, and see the client's address.
    Local,
}

/// One port of a Service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name, of letters, digits and hyphens.
    pub name: String,
    /// Its transport.
    pub transport: Transport,
    /// Its ClusterIP and port.
    pub cluster: (Ipv4Addr, u16),
    /// Its port on every node, with the policy for it.
    pub node_port: Option<(u16, ExternalPolicy)>,
    /// The pods behind it.
    pub endpoints: Vec<Endpoint>,
}

/// A pod behind a Service.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The pod's address and port.
    pub address: (Ipv4Addr, u16),
    /// The pod's node.
    pub node: String,
}

/// kube-proxy of one node.
#[derive(Debug)]
pub struct KubeProxy {
    mode: Mode,
    node: String,
    /// The node's primary address.
    address: Ipv4Addr,
}

impl KubeProxy {
    /// Starts on a node: base chains and the jumps from the hooks, and no Service.
    pub fn start(world: &World, node: &str, address: Ipv4Addr, mode: Mode) -> Result<Self> {
        let proxy = Self { mode, node: node.to_owned(), address };
        if let Some(tools) = proxy.mode.iptables() {
            // Its localhost NodePorts want this, with the default of --iptables-localhost-nodeports.
            proxy.run(world, "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")?;
            proxy.run(world, &iptables::jumps(tools))?;
        }
        proxy.sync(world, &[])?;
        Ok(proxy)
    }

    /// Makes the node's rules those for `services`, and for no others.
    pub fn sync(&self, world: &World, services: &[Service]) -> Result<()> {
        match (self.mode, self.mode.iptables()) {
            (_, Some(tools)) => {
                let rules = iptables::rules(&self.node, services);
                self.run(world, &format!("{tools}-restore --noflush <<'EOF'\n{rules}EOF"))
            }
            (Mode::Nftables, None) => {
                let rules = nftables::rules(&self.node, self.address, services);
                self.run(world, &format!("nft -f - <<'EOF'\n{rules}EOF"))
            }
            _ => Ok(()),
        }
    }

    /// How many packets were dropped as invalid: none, while conntrack sees both directions of every connection.
    pub fn invalid_packets(&self, world: &World) -> Result<u64> {
        let Some(tools) = self.mode.iptables() else { return Ok(0) };
        let listed = world.inside(&self.node, &[tools, "--list", "KUBE-FORWARD", "-v", "-x", "-n"])?;
        let line = listed.lines().find(|line| line.contains("INVALID"));
        let count = line.and_then(|line| line.split_whitespace().next());
        Ok(count.unwrap_or_default().parse()?)
    }

    fn run(&self, world: &World, script: &str) -> Result<()> {
        world.inside(&self.node, &["sh", "-ec", script]).map(drop)
    }
}

impl Mode {
    /// The command that writes its rules, where that is one of iptables.
    fn iptables(self) -> Option<&'static str> {
        match self {
            Self::IptablesNft => Some("iptables-nft"),
            Self::IptablesLegacy => Some("iptables-legacy"),
            Self::Nftables | Self::None => None,
        }
    }
}

impl Service {
    /// Its endpoints on a node.
    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.iter().filter(move |endpoint| endpoint.node == node)
    }
}
