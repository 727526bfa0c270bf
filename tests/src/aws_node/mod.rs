//! A node as aws-node sets it up, keeps it and leaves it: ENIs and tags, links, routes, rules, translation, filters and
//! their pins, files and sockets. Recorded from its v1.23.1 on such a node; none of its code is here. Pods are wired by
//! a stand-in for its plugin, which the kubelet calls through its list of networks.

mod cloud;
mod facts;
mod firewall;
mod host;
pub mod node_agent;
mod resume;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use serde::Deserialize;
use serde_json::Value;

use crate::house::{items, text};
use crate::world::World;

pub use facts::Facts;
pub use firewall::Firewall;
pub use host::CONFLIST;

/// Its checkpoint.
pub const CHECKPOINT: &str = "/var/run/aws-node/ipam.json";

/// What kind of node it is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// With what its rules were written.
    pub firewall: Firewall,
    /// `AWS_VPC_K8S_CNI_EXTERNALSNAT`.
    pub external_snat: bool,
    /// Addresses for pods on each interface.
    pub addresses_per_eni: usize,
    /// Interfaces beside the primary one.
    pub secondary_enis: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { firewall: Firewall::Nftables, external_snat: false, addresses_per_eni: 4, secondary_enis: 1 }
    }
}

/// Where its daemon listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Since 1.23: `/var/run/aws-node/ipamd.sock`.
    Unix,
    /// Before: 127.0.0.1:50051.
    Tcp,
}

/// One pod that it has wired, from its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// `namespace/name`.
    pub pod: String,
    pub container: String,
    pub address: Ipv4Addr,
    /// 254 on the primary ENI.
    pub table: u64,
    /// The host's end.
    pub link: String,
}

/// A node of aws-node's.
#[derive(Debug)]
pub struct AwsNode {
    node: String,
    options: Options,
    /// A process in the node, through which its files are reached.
    anchor: Child,
    listener: Option<Listener>,
}

/// What keeps its socket answering.
#[derive(Debug)]
enum Listener {
    Unix { _listener: std::os::unix::net::UnixListener },
    Tcp { _listener: std::net::TcpListener },
}

impl AwsNode {
    /// Makes a node aws-node's, whose daemon lives. No agent of ours may ever have run there.
    pub fn set_up(world: &World, node: &str, options: &Options) -> Result<Self> {
        let mut anchor = world.command(node, "sleep")?.arg("infinity").spawn()?;
        let arrived = wait_for("a process is in the node", Duration::from_secs(10), || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", anchor.id())).ok()?;
            (name.trim() == "sleep").then_some(())
        });
        if let Err(error) = arrived {
            let _ = anchor.kill();
            let _ = anchor.wait();
            return Err(error);
        }
        let mut this = Self { node: node.to_owned(), options: *options, anchor, listener: None };
        cloud::make_enis(world, node, options)?;
        let enis = cloud::enis(world, node)?;
        host::set_up(world, node, options, &enis)?;
        host::install_plugins(world, node, &enis)?;
        host::write(world, node, CHECKPOINT, "{\"version\":\"vpc-cni-ipam/1\",\"allocations\":[]}\n")?;
        this.come_alive(world, Socket::Unix)?;
        host::write_conflist(world, node)?;
        Ok(this)
    }

    /// Its daemon answers from now on.
    pub fn come_alive(&mut self, world: &World, socket: Socket) -> Result<()> {
        self.listener = None;
        self.listener = Some(match socket {
            Socket::Unix => {
                let path = self.root().join("run/aws-node/ipamd.sock");
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
                let listener = std::os::unix::net::UnixListener::bind(&path)
                    .with_context(|| format!("binding {}", path.display()))?;
                Listener::Unix { _listener: listener }
            }
            Socket::Tcp => {
                let netns = PathBuf::from(text(&world.node(&self.node)?["netns"]));
                let bind = || Ok(std::net::TcpListener::bind("127.0.0.1:50051")?);
                Listener::Tcp { _listener: crate::world::questions::in_netns(&netns, bind)? }
            }
        });
        world.inside(&self.node, &["touch", &format!("{}/running", host::STATE)]).map(drop)
    }

    /// Its daemon ends as SIGKILL ends it: nothing on the node changes, a socket's file stays and refuses.
    pub fn stop(&mut self, world: &World) -> Result<()> {
        world.inside(&self.node, &["rm", "-f", &format!("{}/running", host::STATE)])?;
        self.listener = None;
        Ok(())
    }

    /// The manifest of its pod on this node, which its DaemonSet owns. It uses the host's network.
    pub fn pod_manifest(&self) -> String {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata:
  name: aws-node-x7k2p
  namespace: kube-system
  labels: {{k8s-app: aws-node, app.kubernetes.io/name: aws-node, app.kubernetes.io/instance: aws-vpc-cni}}
  ownerReferences:
    - {{apiVersion: apps/v1, kind: DaemonSet, name: aws-node, uid: 5f0b9a3e-1111-4222-8333-444455556666, controller: true}}
spec:
  nodeName: {}
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: aws-node, image: registry.example/amazon-k8s-cni}}
    - {{name: aws-eks-nodeagent, image: registry.example/amazon/aws-network-policy-agent}}
",
            self.node
        )
    }

    /// Puts aws-eks-nodeagent's filters on the links of these pods of `default`, with its pins.
    pub fn police(&self, world: &World, pods: &[&str]) -> Result<()> {
        let wired = self.pods(world)?;
        let mut script = String::new();
        for pod in pods {
            let name = format!("default/{pod}");
            let one = wired.iter().find(|one| one.pod == name).with_context(|| format!("no {name}"))?;
            let identifier = node_agent::identifier("default", pod);
            script.push_str(&node_agent::police(&self.root(), &one.link, &identifier)?);
        }
        world.inside(&self.node, &["sh", "-ec", &script]).map(drop)
    }

    /// The pods of its checkpoint.
    pub fn pods(&self, world: &World) -> Result<Vec<Attachment>> {
        let enis = cloud::enis(world, &self.node)?;
        let mut pods = Vec::new();
        for entry in items(&self.checkpoint(world)?["allocations"]) {
            let entry: Entry = serde_json::from_value(entry.clone())?;
            let eni = enis.iter().find(|eni| eni.secondary.contains(&entry.ipv4));
            let eni = eni.with_context(|| format!("{} is on no interface", entry.ipv4))?;
            let (namespace, name) = (entry.metadata.k8s_pod_namespace, entry.metadata.k8s_pod_name);
            pods.push(Attachment {
                link: self.link_of(world, &namespace, &name)?,
                pod: format!("{namespace}/{name}"),
                container: entry.container_id,
                address: entry.ipv4,
                table: eni.table(),
            });
        }
        pods.sort();
        Ok(pods)
    }

    /// What its checkpoint says.
    pub fn checkpoint(&self, world: &World) -> Result<Value> {
        let read = world.inside(&self.node, &["cat", CHECKPOINT])?;
        let checkpoint: Value = serde_json::from_str(&read)?;
        ensure!(checkpoint["version"] == "vpc-cni-ipam/1", "{checkpoint:#}");
        Ok(checkpoint)
    }

    /// The host's end of a pod, there or not.
    fn link_of(&self, world: &World, namespace: &str, pod: &str) -> Result<String> {
        let script = format!("printf '%s' '{namespace}.{pod}' | sha1sum | cut -c1-11");
        Ok(format!("eni{}", world.inside(&self.node, &["sh", "-ec", &script])?.trim()))
    }

    /// The node's file system.
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.anchor.id()))
    }
}

impl Drop for AwsNode {
    fn drop(&mut self) {
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
    }
}

/// A row of the checkpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    network_name: String,
    #[serde(rename = "containerID")]
    container_id: String,
    if_name: String,
    ipv4: Ipv4Addr,
    allocation_timestamp: i64,
    metadata: Metadata,
}

/// Whose row it is.
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    #[serde(rename = "k8sPodNamespace")]
    k8s_pod_namespace: String,
    #[serde(rename = "k8sPodName")]
    k8s_pod_name: String,
}
