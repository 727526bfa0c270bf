//! A pod's network namespace, its attachment, and the servers in it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::cni::{Attachment, CONF_DIR, CniError, PodIdentity, first_list};
use crate::fabric::echo::{EchoServers, EchoSockets};
use crate::fabric::mounts::{MountError, create_mount_point, mount_own_netns, unmount_file};
use crate::fabric::ns::{NetNs, NodeNs, NsError};
use crate::fabric::rtnl::{Rtnl, RtnlError};

/// A sandbox could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no network list on the node.
    #[error("cni plugin not initialized: no network list in {CONF_DIR}")]
    NoNetwork,
    /// A call of the network interface.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The namespace.
    #[error(transparent)]
    Ns(#[from] NsError),
    /// The namespace's mount point.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The loopback link.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
    /// The namespace could not be made.
    #[error("unshare a network namespace")]
    Unshare(#[source] nix::Error),
    /// A server's socket.
    #[error("listen at {protocol} {address}")]
    Listen {
        protocol: Protocol,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The servers could not be handed to the runtime.
    #[error("serve in the pod")]
    Serve(#[source] io::Error),
    /// The thread in the node ended without an answer.
    #[error("the thread in the node ended without an answer")]
    Lost,
}

/// A transport that a pod's server can speak. SCTP sockets are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What a sandbox is made from.
#[derive(Debug, Clone)]
pub(super) struct SandboxSpec {
    pub(super) pod: PodIdentity,
    /// Counts the sandboxes of this pod.
    pub(super) attempt: u32,
    pub(super) capability_args: Map<String, Value>,
    pub(super) plugin_path: Vec<PathBuf>,
}

/// A sandbox without a network, or with one.
#[derive(Debug)]
pub(super) struct Sandbox {
    node: NodeNs,
    netns: NetNs,
    /// Where the namespace is mounted in the node.
    mounted_at: PathBuf,
    attachment: Option<Attachment>,
}

/// How an attachment ended.
pub(super) struct Attached {
    pub(super) addresses: Result<Vec<IpAddr>, SandboxError>,
    /// How long the ADD of the whole list took.
    pub(super) took: Duration,
}

impl Sandbox {
    /// Makes the namespace in `node`, loopback up, and mounts it where runtimes do.
    pub(super) async fn new(node: &NodeNs, spec: &SandboxSpec) -> Result<Self, SandboxError> {
        let mounted_at = Path::new("/run/netns").join(format!("cni-{}", &container_id(spec)[..32]));
        let mount_point = mounted_at.clone();
        let netns = in_node(node, move || -> Result<NetNs, SandboxError> {
            create_mount_point(&mount_point)?;
            unshare(CloneFlags::CLONE_NEWNET).map_err(SandboxError::Unshare)?;
            let mut kernel = Rtnl::open()?;
            let lo = kernel.link_index("lo")?;
            kernel.set_up(lo)?;
            mount_own_netns(&mount_point)?;
            Ok(NetNs::of_this_thread()?)
        })
        .await??;
        Ok(Self { node: node.clone(), netns, mounted_at, attachment: None })
    }

    /// The pod's namespace.
    pub(super) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Attaches it to the node's network. Whatever comes of it, [`Self::destroy`]
    /// undoes it.
    pub(super) async fn attach(&mut self, spec: &SandboxSpec, cancel: CancellationToken) -> Attached {
        let began = Instant::now();
        let addresses = self.try_attach(spec, cancel).await;
        Attached { addresses, took: began.elapsed() }
    }

    async fn try_attach(
        &mut self,
        spec: &SandboxSpec,
        cancel: CancellationToken,
    ) -> Result<Vec<IpAddr>, SandboxError> {
        let network =
            in_node(&self.node, || first_list(Path::new(CONF_DIR))).await??.ok_or(SandboxError::NoNetwork)?;
        let attachment = Attachment {
            network,
            container_id: container_id(spec),
            netns: self.mounted_at.clone(),
            pod: spec.pod.clone(),
            capability_args: spec.capability_args.clone(),
            path: spec.plugin_path.clone(),
        };
        let candidate = attachment.clone();
        in_node(&self.node, move || candidate.check_plugins()).await??;
        self.attachment = Some(attachment.clone());
        Ok(in_node(&self.node, move || attachment.add(&cancel)).await??)
    }

    /// Detaches and removes it. May be repeated until it succeeds.
    pub(super) async fn destroy(&mut self) -> Result<(), SandboxError> {
        if let Some(attachment) = self.attachment.clone() {
            in_node(&self.node, move || {
                let now = first_list(Path::new(CONF_DIR)).ok().flatten();
                attachment.del(now)
            })
            .await??;
            self.attachment = None;
        }
        let mounted_at = self.mounted_at.clone();
        Ok(in_node(&self.node, move || unmount_file(&mounted_at)).await??)
    }
}

/// Runs `work` in a node without blocking the caller's thread.
pub(super) async fn in_node<T: Send + 'static>(
    node: &NodeNs,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SandboxError> {
    Ok(node.spawn(work)?.await.map_err(|_| SandboxError::Lost)??)
}

/// Starts servers at `ports` in `netns`, for every family that `addresses` has.
pub(super) async fn serve(
    netns: NetNs,
    addresses: Vec<IpAddr>,
    ports: BTreeSet<(Protocol, u16)>,
    name: &str,
) -> Result<EchoServers, SandboxError> {
    let families: BTreeSet<IpAddr> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        })
        .collect();
    let opened = tokio::task::spawn_blocking(move || netns.run(|| open_sockets(&families, &ports)));
    let sockets = opened.await.map_err(|_| SandboxError::Lost)???;
    sockets.serve(name).map_err(SandboxError::Serve)
}

fn open_sockets(
    families: &BTreeSet<IpAddr>,
    ports: &BTreeSet<(Protocol, u16)>,
) -> Result<EchoSockets, SandboxError> {
    let mut sockets = EchoSockets::default();
    for (protocol, port) in ports {
        for any in families {
            let address = SocketAddr::from((*any, *port));
            match protocol {
                Protocol::Tcp => sockets.add_tcp(address),
                Protocol::Udp => sockets.add_udp(address),
            }
            .map_err(|source| SandboxError::Listen { protocol: *protocol, address, source })?;
        }
    }
    Ok(sockets)
}

/// The id of a pod's nth sandbox: 64 hexadecimal digits, as runtimes make them.
fn container_id(spec: &SandboxSpec) -> String {
    let digest = Sha256::digest(format!("{}/{}", spec.pod.uid, spec.attempt));
    digest.iter().map(|octet| format!("{octet:02x}")).collect()
}
