//! The network between nodes, and the nodes' own namespaces.
//!
//! Every node is a network and a mount namespace; the VPC's router, the
//! metadata address and a host of the internet are network namespaces beside
//! them. Interfaces are veth pairs made directly between two of these: the
//! machine's own root namespace is never touched. All of it is held by this
//! process alone and goes when it ends ([`ns`]).
//!
//! The cloud says what is attached where ([`FabricPort`]); the fabric makes
//! links and routes of it. Security groups and NAT are not part of it, and
//! IPv6 is not routed.

mod counters;
pub(crate) mod echo;
mod internet;
pub(crate) mod mounts;
mod node;
pub mod ns;
mod router;
pub(crate) mod rtnl;
pub(crate) mod sysctl;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

pub use self::counters::{EniCounters, FabricCounters};
pub use self::internet::{INTERNET_HOST, INTERNET_PORTS};
pub use self::node::NodeImage;
pub use self::router::IMDS_ADDRESS;

use self::internet::InternetHost;
use self::ns::{NetNs, NodeNs, NsError};
use self::router::Router;
use crate::ec2::{EniId, EniLink, FabricPort};

/// The fabric could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// A namespace.
    #[error(transparent)]
    Ns(#[from] NsError),
    /// A link, address, route or rule.
    #[error(transparent)]
    Rtnl(#[from] rtnl::RtnlError),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// A node's file system.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// A listening socket.
    #[error("listen at {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The internet host's servers.
    #[error("serve on the internet host")]
    Serve(#[source] std::io::Error),
    /// A file of the kernel.
    #[error("read {path}")]
    Read {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// Addresses that make no network.
    #[error("not a network: {0}")]
    Network(String),
    /// A node of this name is there already.
    #[error("there is a node {0} already")]
    NodeExists(String),
    /// A node that nobody added.
    #[error("there is no node {0}")]
    NoSuchNode(String),
    /// The cloud attached no primary interface in time.
    #[error("node {node} has no primary interface after {waited:?}: {problems}")]
    NoPrimary { node: String, waited: Duration, problems: String },
}

/// The fabric. Clones share it; it goes with the last of them.
#[derive(Debug, Clone)]
pub struct Fabric {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// All that changes. Held while the kernel is asked, never across an await.
    state: Mutex<State>,
    /// An interface was attached.
    attached: Condvar,
    internet: InternetHost,
}

#[derive(Debug)]
struct State {
    router: Router,
    nodes: HashMap<String, NodeNs>,
    /// What could not be done for the cloud, which has no way to be told.
    problems: Vec<String>,
}

impl Fabric {
    /// Makes a router for a VPC with these addresses, and the internet. Must be
    /// called in a tokio runtime, which serves the internet host.
    pub fn new(vpc: &[IpNetwork]) -> Result<Self, FabricError> {
        let mut router = Router::new()?;
        for network in vpc {
            router.keep_inside(*network)?;
        }
        let internet = InternetHost::new(&mut router)?;
        Ok(Self {
            inner: Arc::new(Inner {
                state: Mutex::new(State { router, nodes: HashMap::new(), problems: Vec::new() }),
                attached: Condvar::new(),
                internet,
            }),
        })
    }

    /// Adds a node without any interface. What the cloud attaches to an instance
    /// of this name appears in it.
    pub fn add_node(&self, name: &str, image: &NodeImage) -> Result<NodeNs, FabricError> {
        let node = node::make(image)?;
        match self.state().nodes.entry(name.to_owned()) {
            std::collections::hash_map::Entry::Occupied(_) => Err(FabricError::NodeExists(name.to_owned())),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(node.clone());
                Ok(node)
            }
        }
    }

    /// Waits until the node's primary interface is there, with its address and
    /// its default route. Blocks the calling thread.
    pub fn wait_for_primary(&self, node: &str, bound: Duration) -> Result<(), FabricError> {
        let deadline = Instant::now() + bound;
        let mut state = self.state();
        loop {
            let has_primary = |state: &State| {
                state.router.cables().any(|cable| cable.link.node == node && cable.link.device_index == 0)
            };
            if has_primary(&state) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FabricError::NoPrimary {
                    node: node.to_owned(),
                    waited: bound,
                    problems: state.problems.join("; "),
                });
            }
            state = self.inner.attached.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The namespaces of a node.
    pub fn node(&self, name: &str) -> Option<NodeNs> {
        self.state().nodes.get(name).cloned()
    }

    /// The namespace of the host beyond the gateway.
    pub fn internet(&self) -> &NetNs {
        &self.inner.internet.ns
    }

    /// The attached interface that holds `address`.
    pub fn eni_of(&self, address: IpAddr) -> Option<EniId> {
        self.state().router.holder_of(address).map(|link| link.eni_id.clone())
    }

    /// Listens where instances find their metadata, one hop behind their
    /// interfaces. Answers travel that hop and no further (TTL 1), as on EC2:
    /// what a node forwards to a pod is dropped.
    pub fn imds_listener(&self) -> Result<TcpListener, FabricError> {
        let ns = self.state().router.ns().clone();
        let address = SocketAddr::from((IMDS_ADDRESS, 80));
        ns.run(|| {
            let listener = TcpListener::bind(address)?;
            // Connections take it from the listener, and so does the handshake.
            listener.set_ttl(1)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?
        .map_err(|source| FabricError::Listen { address, source })
    }

    /// What was carried and dropped so far.
    pub fn counters(&self) -> Result<FabricCounters, FabricError> {
        let mut state = self.state();
        let problems = state.problems.clone();
        counters::read(&mut state.router, problems)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its invariants hold between any two calls to the kernel.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something for the cloud, which waits for it but takes no error.
    fn for_cloud(&self, what: &str, eni: &EniId, act: impl FnOnce(&mut State) -> Result<(), FabricError>) {
        let mut state = self.state();
        if let Err(error) = act(&mut state) {
            let problem = format!("{what} {eni}: {}", chain(&error));
            tracing::error!("{problem}");
            state.problems.push(problem);
        }
    }
}

impl FabricPort for Fabric {
    fn attached(&self, link: EniLink) {
        let eni = link.eni_id.clone();
        self.for_cloud("attach", &eni, |state| state.attach(link));
        self.inner.attached.notify_all();
    }

    fn detached(&self, eni_id: &EniId) {
        self.for_cloud("detach", eni_id, |state| state.router.detach(eni_id));
    }

    fn addresses_changed(&self, eni_id: &EniId, addresses: Vec<IpNetwork>) {
        self.for_cloud("change the addresses of", eni_id, |state| {
            state.router.set_addresses(eni_id, addresses)
        });
    }

    fn source_dest_check_changed(&self, eni_id: &EniId, enabled: bool) {
        self.for_cloud("switch the source check of", eni_id, |state| {
            state.router.set_source_check(eni_id, enabled)
        });
    }
}

impl State {
    fn attach(&mut self, link: EniLink) -> Result<(), FabricError> {
        let node =
            self.nodes.get(&link.node).cloned().ok_or_else(|| FabricError::NoSuchNode(link.node.clone()))?;
        let ifname = self.free_ifname(&link, &node)?;
        let primary = (link.device_index == 0 && link.network_card == 0).then(|| {
            IpNetwork::new(link.primary_ip, link.subnet_cidr.prefix())
                .map_err(|error| FabricError::Network(error.to_string()))
        });
        let (gateway, eni) = (link.gateway, link.eni_id.clone());
        self.router.attach(link, node.net(), &ifname)?;
        let Some(address) = primary else {
            return Ok(());
        };
        node::boot_primary(&node, &ifname, address?, gateway)?;
        self.router.wait_for_cable(&eni)
    }

    /// ethN by the device's index; the next free name where cards share indices.
    fn free_ifname(&self, link: &EniLink, node: &NodeNs) -> Result<String, FabricError> {
        let mut kernel = rtnl::Rtnl::open_in(node.net())?;
        let mut number = link.device_index;
        loop {
            let name = format!("eth{number}");
            match kernel.link_index(&name) {
                Ok(_) => number += 1,
                Err(error) if error.is_absent() => return Ok(name),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
