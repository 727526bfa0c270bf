//! A running simulation: its parts in the order in which they stand on each other.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use serde::Serialize;
use tokio::task::JoinSet;

use super::UpError;
use super::args::UpArgs;
use super::cluster::KubernetesApi;
use super::control::{self, Parts};
use super::listen::{listen, serve};
use super::node_object;
use super::state_dir::StateDir;
use crate::ec2::{self, Cloud, FabricPump, InstanceFacts, NewInstance, NodeScope, Settings};
use crate::fabric::ns::NodeNs;
use crate::fabric::{Fabric, IMDS_ADDRESS, NodeImage};
use crate::imds::{self, Resolver};
use crate::kube_api;
use crate::kubelet::{KubeletNode, Kubelets};

/// The region that every simulation is in.
const REGION: &str = "us-west-2";

/// The VPC's addresses.
const VPC: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 20, 0, 0), 16);

/// The subnets' addresses and zones. Nodes are spread over them in turn.
const SUBNETS: [((Ipv4Addr, u8), &str); 2] =
    [((Ipv4Addr::new(10, 20, 0, 0), 20), "us-west-2a"), ((Ipv4Addr::new(10, 20, 16, 0), 20), "us-west-2b")];

/// How long a node's primary interface may take to appear. It is told at once.
const PRIMARY_BOUND: Duration = Duration::from_secs(30);

/// Where everything is: the line on standard output.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// The EC2 API, on the host's loopback.
    pub ec2: String,
    /// The control endpoint, on the host's loopback.
    pub control: String,
    /// A kubeconfig for programs of the host.
    pub kubeconfig: PathBuf,
    pub vpc: ReadyVpc,
    pub subnets: Vec<ReadySubnet>,
    /// The group that all interfaces of the nodes are in.
    pub security_group: String,
    pub nodes: Vec<ReadyNode>,
    /// The network namespace of the internet's host, as nsenter takes it.
    pub internet: Option<PathBuf>,
}

/// The VPC.
#[derive(Debug, Clone, Serialize)]
pub struct ReadyVpc {
    pub id: String,
    pub cidr: IpNetwork,
}

/// A subnet.
#[derive(Debug, Clone, Serialize)]
pub struct ReadySubnet {
    pub id: String,
    pub cidr: IpNetwork,
    pub az: String,
}

/// A node. Its URLs answer inside its namespace; without namespaces, on the
/// host's loopback.
#[derive(Debug, Clone, Serialize)]
pub struct ReadyNode {
    pub name: String,
    pub instance_id: String,
    pub instance_type: String,
    pub subnet_id: String,
    pub imds: String,
    pub ec2: String,
    /// A file that is visible in the node.
    pub kubeconfig: PathBuf,
    /// What nsenter takes, while the simulation lives.
    pub netns: Option<PathBuf>,
    /// Likewise.
    pub mntns: Option<PathBuf>,
}

/// A simulation that runs. Dropping it takes everything away but what it made
/// in a Kubernetes API that is not its own: see [`Self::end`].
pub struct Simulation {
    ready: Ready,
    cluster: KubernetesApi,
    /// Name and uid of the Node objects it made.
    registered: Vec<(String, String)>,
    parts: Arc<Parts>,
    _tasks: JoinSet<()>,
    _pump: Option<FabricPump>,
    _files: StateDir,
}

/// A node while it is set up.
struct Node {
    facts: InstanceFacts,
    ns: Option<NodeNs>,
}

impl Simulation {
    /// Starts everything and returns when it is ready. Must be called in a tokio
    /// runtime of several threads.
    pub async fn start(args: UpArgs) -> Result<Self, UpError> {
        if !args.api_only && !nix::unistd::geteuid().is_root() {
            return Err(UpError::NotRoot);
        }
        let files = StateDir::new()?;
        let mut tasks = JoinSet::new();
        let cluster = match &args.kubeconfig {
            Some(path) => KubernetesApi::real(path).await?,
            None => KubernetesApi::simulated(&mut tasks, &files).await?,
        };

        let cloud = Cloud::new(settings(&args));
        let fabric = if args.api_only { None } else { Some(Fabric::new(&[network(VPC)?.into()])?) };
        let pump = fabric
            .clone()
            .map(|fabric| cloud.start_fabric(Arc::new(fabric)).map_err(UpError::Clock))
            .transpose()?;
        let layout = Layout::make(&cloud)?;
        let nodes = make_nodes(&args, &cloud, &layout, fabric.as_ref(), files.path()).await?;

        let (listener, ec2_address) = listen(None).await?;
        serve(&mut tasks, listener, ec2::router(cloud.clone(), NodeScope::top()))?;
        if let Some(fabric) = &fabric {
            serve(&mut tasks, fabric.imds_listener()?, imds::router(cloud.clone(), Resolver::PeerAddress))?;
        }
        let mut ready_nodes = Vec::new();
        let mut registered = Vec::new();
        for node in &nodes {
            ready_nodes.push(serve_node(&mut tasks, &files, &cloud, &cluster, node).await?);
            let uid = node_object::register(&cluster.client, &node.facts, REGION).await?;
            registered.push((node.facts.name.clone(), uid));
        }

        let kubelet_nodes: Vec<KubeletNode> = nodes
            .iter()
            .filter_map(|node| {
                Some(KubeletNode {
                    name: node.facts.name.clone(),
                    ns: node.ns.clone()?,
                    address: IpAddr::V4(node.facts.primary_ip),
                })
            })
            .collect();
        let kubelets = args
            .kubelet
            .then(|| Kubelets::start(cluster.client.clone(), kubelet_nodes.clone(), args.cni_bin.clone()));
        let internet = fabric.as_ref().map(|fabric| fabric.internet().path());
        let parts =
            Arc::new(Parts { client: cluster.client.clone(), fabric, kubelets, nodes: kubelet_nodes });
        let (listener, control_address) = listen(None).await?;
        let router = crate::control::router(cloud.clone()).merge(control::router(parts.clone()));
        let router = match &cluster.store {
            Some(store) => router.merge(kube_api::fault_router(store.clone())),
            None => router,
        };
        serve(&mut tasks, listener, router)?;

        Ok(Self {
            ready: Ready {
                ec2: format!("http://{ec2_address}"),
                control: format!("http://{control_address}"),
                kubeconfig: cluster.kubeconfig.clone(),
                vpc: layout.vpc,
                subnets: layout.subnets,
                security_group: layout.group.to_string(),
                nodes: ready_nodes,
                internet,
            },
            cluster,
            registered,
            parts,
            _tasks: tasks,
            _pump: pump,
            _files: files,
        })
    }

    /// Where everything is.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Ends it. What it made in a Kubernetes API that goes on is deleted there;
    /// that this fails ends it all the same, with the error.
    pub async fn end(self) -> Result<(), UpError> {
        if let Some(kubelets) = &self.parts.kubelets {
            kubelets.stop().await;
        }
        if self.cluster.is_real() {
            for (name, uid) in &self.registered {
                node_object::unregister(&self.cluster.client, name, uid).await?;
            }
        }
        Ok(())
    }
}

/// The VPC as it is laid out before any node is in it.
struct Layout {
    vpc: ReadyVpc,
    subnets: Vec<ReadySubnet>,
    subnet_ids: Vec<ec2::SubnetId>,
    group: ec2::GroupId,
}

impl Layout {
    fn make(cloud: &Cloud) -> Result<Self, UpError> {
        let cidr = network(VPC)?;
        let vpc_id = cloud.add_vpc(cidr)?;
        let mut subnets = Vec::new();
        let mut subnet_ids = Vec::new();
        for (cidr, az) in SUBNETS {
            let cidr = network(cidr)?;
            let id = cloud.add_subnet(&vpc_id, cidr, az)?;
            subnets.push(ReadySubnet { id: id.to_string(), cidr: cidr.into(), az: az.to_owned() });
            subnet_ids.push(id);
        }
        Ok(Self {
            group: cloud.add_security_group(&vpc_id, "nodes")?,
            vpc: ReadyVpc { id: vpc_id.to_string(), cidr: cidr.into() },
            subnets,
            subnet_ids,
        })
    }
}

fn settings(args: &UpArgs) -> Settings {
    let settings = if args.calm { Settings::calm() } else { Settings::default() };
    Settings { seed: args.seed, ..settings }
}

fn network((address, prefix): (Ipv4Addr, u8)) -> Result<Ipv4Network, UpError> {
    Ipv4Network::new(address, prefix)
        .map_err(|error| crate::fabric::FabricError::Network(error.to_string()).into())
}

/// Makes the nodes' namespaces and instances, and waits for their primary
/// interfaces.
async fn make_nodes(
    args: &UpArgs,
    cloud: &Arc<Cloud>,
    layout: &Layout,
    fabric: Option<&Fabric>,
    files: &Path,
) -> Result<Vec<Node>, UpError> {
    let image = NodeImage { ip_forward: true, visible: visible_directories(files) };
    let names = (1..=args.nodes).map(|number| format!("{}{number}", args.node_prefix));
    let subnets = layout.subnet_ids.iter().cycle();
    let wanted: Vec<NewInstance> = names
        .zip(subnets)
        .map(|(name, subnet)| NewInstance {
            name,
            instance_type: args.instance_type.clone(),
            subnet: subnet.clone(),
            groups: vec![layout.group.clone()],
            tags: Vec::new(),
        })
        .collect();
    let (cloud, fabric) = (cloud.clone(), fabric.cloned());
    // Namespaces, netlink and waiting for the cloud's thread all block.
    let made = tokio::task::spawn_blocking(move || -> Result<Vec<Node>, UpError> {
        wanted
            .into_iter()
            .map(|instance| {
                let name = instance.name.clone();
                let ns = fabric.as_ref().map(|fabric| fabric.add_node(&name, &image)).transpose()?;
                let facts = cloud.add_instance(instance)?;
                if let Some(fabric) = &fabric {
                    fabric.wait_for_primary(&name, PRIMARY_BOUND)?;
                }
                Ok(Node { facts, ns })
            })
            .collect()
    });
    made.await.map_err(|_| UpError::Lost)?
}

/// What must be visible in nodes wherever it lies: the simulation's files, this
/// program's directory, beside which others lie, and where it was started.
fn visible_directories(files: &Path) -> Vec<PathBuf> {
    let program = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let started_in = std::env::current_dir().ok();
    [Some(files.to_path_buf()), program, started_in].into_iter().flatten().collect()
}

/// Serves a node's EC2 and Kubernetes APIs on its loopback, and its metadata
/// where the fabric does not.
async fn serve_node(
    tasks: &mut JoinSet<()>,
    files: &StateDir,
    cloud: &Arc<Cloud>,
    cluster: &KubernetesApi,
    node: &Node,
) -> Result<ReadyNode, UpError> {
    let Node { facts, ns } = node;
    let (listener, ec2_address) = listen(ns.as_ref()).await?;
    serve(tasks, listener, ec2::router(cloud.clone(), NodeScope::node(&facts.name)))?;
    let imds = match ns {
        Some(_) => format!("http://{IMDS_ADDRESS}"),
        None => {
            let (listener, address) = listen(None).await?;
            let resolver = Resolver::Fixed(facts.instance_id.clone());
            serve(tasks, listener, imds::router(cloud.clone(), resolver))?;
            format!("http://{address}")
        }
    };
    Ok(ReadyNode {
        name: facts.name.clone(),
        instance_id: facts.instance_id.to_string(),
        instance_type: facts.instance_type.clone(),
        subnet_id: facts.subnet_id.to_string(),
        imds,
        ec2: format!("http://{ec2_address}"),
        kubeconfig: cluster.serve_node(tasks, files, &facts.name, ns.as_ref()).await?,
        netns: ns.as_ref().map(|ns| ns.net().path()),
        mntns: ns.as_ref().map(NodeNs::mnt_path),
    })
}
