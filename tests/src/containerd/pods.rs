//! A world whose nodes have a runtime, and pods of it: objects of the API and sandboxes of the runtime, both.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use serde_json::json;

use super::agent_pod::AgentPod;
use super::image::{self, BUSYBOX};
use super::message::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerResources,
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping,
};
use super::node::Containerd;
use crate::demo::bin_dir;
use crate::house::{items, text};
use crate::world::manifests::pod as manifest_of;
use crate::world::questions::in_netns;
use crate::world::{BOUND, PORT, World};

/// One node with its runtime and its agent.
#[derive(Debug)]
pub struct Node {
    pub agent: AgentPod,
    pub runtime: Containerd,
}

/// All nodes. Dropping it ends everything.
pub struct Cluster {
    // Containers before their nodes.
    pub nodes: Vec<Node>,
    pub world: World,
    dir: tempfile::TempDir,
}

/// A pod's sandbox on a node.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    /// Index in [`Cluster::nodes`].
    pub node: usize,
    pub config: PodSandboxConfig,
    /// The sandbox's id.
    pub sandbox: String,
    /// The container's id.
    pub container: String,
    pub address: String,
}

impl Cluster {
    /// Two nodes of this type, a runtime in each with these plugins of the distribution beside ours, and agents that
    /// are ready.
    pub fn start(instance_type: &str, plugins: &[&str], settings: &[(&str, &str)]) -> Result<Self> {
        let world = World::without_kubelets(2, instance_type)?;
        let dir = tempfile::tempdir()?;
        let images = dir.path().join("images");
        let archives = [image::busybox(&images)?, image::agent(&images, &bin_dir()?, &AgentPod::image()?)?];
        let mut cluster = Self { nodes: Vec::new(), world, dir };
        for name in ["node-1", "node-2"] {
            let runtime = Containerd::start(&cluster.world, name, &cluster.dir.path().join(name), plugins)?;
            archives.iter().try_for_each(|archive| runtime.import(archive))?;
            let agent = AgentPod::start(&cluster.world, &runtime, settings)?;
            cluster.nodes.push(Node { agent, runtime });
        }
        for name in ["node-1", "node-2"] {
            cluster.world.wait_until_ready(name).with_context(|| cluster.complaints())?;
        }
        cluster.wait_for_network()?;
        Ok(cluster)
    }

    /// Waits until the runtimes have read the network list.
    pub fn wait_for_network(&self) -> Result<()> {
        self.world.wait("the runtimes have a network", || {
            let has = |node: &Node| node.runtime.cri.status().is_ok_and(|(_, network)| network);
            self.nodes.iter().all(has).then_some(())
        })
    }

    /// What agents and runtimes said last.
    pub fn complaints(&self) -> String {
        let of = |node: &Node| {
            format!("{}:\n{}{}\n", node.runtime.node, node.agent.log(&node.runtime), node.runtime.log())
        };
        self.nodes.iter().map(of).collect()
    }

    pub fn name_of(&self, node: usize) -> &str {
        &self.nodes[node].runtime.node
    }

    /// Creates the objects of pods in `default`, bound to nodes; their uids by name.
    pub fn create_objects(&self, pods: &[(String, usize)]) -> Result<BTreeMap<String, String>> {
        let manifest: String =
            pods.iter().map(|(name, node)| manifest_of(name, self.name_of(*node), name)).collect();
        self.world.apply(&manifest)?;
        let all = self.world.kubernetes("/api/v1/namespaces/default/pods")?;
        let uid = |pod: &serde_json::Value| {
            (text(&pod["metadata"]["name"]).to_owned(), text(&pod["metadata"]["uid"]).to_owned())
        };
        Ok(items(&all["items"]).map(uid).collect())
    }

    /// Deletes the object of a pod whose sandbox is gone, as the kubelet does in the end.
    pub fn delete_object(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/default/pods/{name}?gracePeriodSeconds=0");
        self.world.delete_now(&path)
    }

    /// What a kubelet would ask the runtime for.
    pub fn sandbox_config(
        &self,
        name: &str,
        uid: &str,
        node: usize,
        ports: &[(u16, u16)],
    ) -> PodSandboxConfig {
        let runtime = &self.nodes[node].runtime;
        let labels = [
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.uid", uid),
        ];
        let mapping = |(container, host): &(u16, u16)| PortMapping {
            protocol: 0,
            container_port: i32::from(*container),
            host_port: i32::from(*host),
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: runtime.dir.join("logs").display().to_string(),
            port_mappings: ports.iter().map(mapping).collect(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            annotations: Default::default(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: runtime.cgroup_parent.clone(),
                security_context: None,
            }),
        }
    }

    /// Runs a pod whose object is there: a sandbox, and a container that tells the pod's name at [`PORT`].
    pub fn run_pod(&self, name: &str, uid: &str, node: usize, ports: &[(u16, u16)]) -> Result<Pod> {
        self.run_config(name, self.sandbox_config(name, uid, node, ports), node)
    }

    /// The same for a sandbox that is configured already.
    pub fn run_config(&self, name: &str, config: PodSandboxConfig, node: usize) -> Result<Pod> {
        let cri = &self.nodes[node].runtime.cri;
        let sandbox = cri.run_sandbox(&config).with_context(|| format!("the sandbox of {name}"))?;
        let container = cri.start_container(&sandbox, &config, server(name))?;
        let address = cri.address(&sandbox)?;
        self.wait_until_it_serves(node, &sandbox).with_context(|| name.to_owned())?;
        // As kubelet does: agents of other nodes learn addresses by this.
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        self.world.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), &status)?;
        Ok(Pod { name: name.to_owned(), node, config, sandbox, container, address })
    }

    /// The container's process may be there and not listen yet.
    fn wait_until_it_serves(&self, node: usize, sandbox: &str) -> Result<()> {
        let process = self.nodes[node].runtime.process_of(sandbox)?;
        in_netns(&PathBuf::from(format!("/proc/{process}/ns/net")), || {
            let own = SocketAddr::from(([127, 0, 0, 1], PORT));
            wait_for("the server listens", BOUND, || name_at(own).ok().map(drop))
        })
    }

    /// Stops and removes a pod's sandbox.
    pub fn end_sandbox(&self, pod: &Pod) -> Result<()> {
        let cri = &self.nodes[pod.node].runtime.cri;
        cri.stop_sandbox(&pod.sandbox).with_context(|| pod.name.clone())?;
        cri.remove_sandbox(&pod.sandbox).with_context(|| pod.name.clone())
    }

    /// Ends a pod: its sandbox, then its object.
    pub fn end_pod(&self, pod: &Pod) -> Result<()> {
        self.end_sandbox(pod)?;
        self.delete_object(&pod.name)
    }

    /// Where a pod's network namespace can be opened.
    pub fn netns(&self, pod: &Pod) -> Result<PathBuf> {
        let process = self.nodes[pod.node].runtime.process_of(&pod.sandbox)?;
        Ok(PathBuf::from(format!("/proc/{process}/ns/net")))
    }

    /// Every pod asks every other one for its name; what went wrong.
    pub fn ask_all(&self, pods: &[Pod]) -> Result<Vec<String>> {
        let targets: Vec<(String, SocketAddr)> = pods
            .iter()
            .map(|pod| Ok((pod.name.clone(), SocketAddr::new(pod.address.parse()?, PORT))))
            .collect::<Result<_>>()?;
        let wrong = side_by_side(8, pods, |pod| {
            let others: Vec<_> = targets.iter().filter(|(name, _)| *name != pod.name).cloned().collect();
            in_netns(&self.netns(pod)?, move || {
                Ok(others
                    .iter()
                    .filter_map(|(name, address)| match name_at(*address) {
                        Ok(said) if said == *name => None,
                        Ok(said) => Some(format!("{name} at {address} says {said:?}")),
                        Err(error) => Some(format!("{name} at {address}: {error:#}")),
                    })
                    .collect::<Vec<_>>())
            })
            .map(|wrong| wrong.into_iter().map(|one| format!("{} asks {one}", pod.name)).collect::<Vec<_>>())
        })?;
        Ok(wrong.into_iter().flatten().collect())
    }
}

/// Does `work` for each item, so many at a time, and gives the results in their order; the first error ends it.
pub fn side_by_side<I: Sync, T: Send>(
    at_a_time: usize,
    list: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<T>>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = list.get(index) else { return };
                    let result = work(item);
                    let failed = result.is_err();
                    if let Ok(mut done) = done.lock() {
                        done.insert(index, result);
                    }
                    if failed {
                        next.store(list.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let done = done.into_inner().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    let results: Vec<T> = done.into_values().collect::<Result<_>>()?;
    ensure!(results.len() == list.len(), "not all was done");
    Ok(results)
}

/// What the server of a pod says that it is called.
pub fn name_at(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    Ok(body.trim().to_owned())
}

/// The container of a pod: a web server of /etc, where the runtime writes the pod's name.
fn server(name: &str) -> ContainerConfig {
    let port = PORT.to_string();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "server".into(), attempt: 0 }),
        image: Some(ImageSpec { image: BUSYBOX.into() }),
        command: ["/bin/httpd", "-f", "-p", &port, "-h", "/etc"].map(str::to_owned).into(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources { cpu_shares: 2, memory_limit_in_bytes: 0 }),
            security_context: None,
        }),
        envs: Vec::new(),
        mounts: Vec::new(),
    }
}
