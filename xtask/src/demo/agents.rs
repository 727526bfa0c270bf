//! The agents, one in each node's namespaces, as its kubelet would start them.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use super::control;
use super::matrix::Cell;
use super::scratch::Scratch;
use super::simulation::{self, Node};
use crate::process::{self, Service};
use crate::progress;

/// Where an agent answers, inside its node.
const HTTP: &str = "http://127.0.0.1:61680";
/// The plugin's folder on every node.
pub(crate) const PLUGIN_DIR: &str = "/opt/cni/bin";
/// The example's Services have addresses of this block.
const SERVICE_CIDRS: &str = "10.100.0.0/16";
const TIMEOUT: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(5);

/// An agent that runs.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) service: Service,
    pub(crate) node: Node,
    pub(crate) log: PathBuf,
}

/// What an agent says about a connection. It judges only its own pods' side.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) allowed: bool,
    /// `namespace/name`, or none where isolation alone denies.
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<serde_json::Value>,
    /// `ingress` or `egress`.
    pub(crate) direction: Option<String>,
}

/// Installs the plugin on a node and starts its agent, from the main thread,
/// with the capabilities that daemonset.yaml gives it and no others. `knobs` are
/// added to its environment.
pub(crate) fn start(
    node: &Node,
    bin_dir: &Path,
    capabilities: &[String],
    knobs: &[(&str, &str)],
    scratch: &Scratch,
) -> Result<Agent> {
    let program = simulation::inside_node(&bin_dir.join("tidepool-agent"));
    let mut install = enter(node, Command::new("nsenter"));
    environment(&mut install, node).arg(&program).arg("install");
    let installed = process::output(&mut install);
    if let Err(error) = installed {
        // The simulator's kubelet finds it in the build directory too.
        progress::warning(&format!("{}: the plugin is not installed: {error:#}", node.name));
    }

    let log = scratch.file(&format!("{}.log", node.name));
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = enter(node, process::tied("nsenter"));
    environment(&mut command, node)
        .envs(knobs.iter().copied())
        .args(["setpriv", "--bounding-set", &only(capabilities), "--"])
        .arg(program)
        .arg("run")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let service = Service::start(&format!("the agent of {}", node.name), &mut command, GRACE)?;
    Ok(Agent { service, node: node.clone(), log })
}

/// `NET_ADMIN` and `BPF` → `-all,+net_admin,+bpf`, as setpriv takes it.
fn only(capabilities: &[String]) -> String {
    let added = capabilities.iter().map(|name| format!(",+{}", name.to_lowercase()));
    std::iter::once("-all".to_owned()).chain(added).collect()
}

/// Arguments by which nsenter enters a node.
fn enter(node: &Node, mut command: Command) -> Command {
    let option = |name: &str, path: &Path| {
        let mut option = std::ffi::OsString::from(name);
        option.push(path);
        option
    };
    command.arg(option("--net=", &node.netns)).arg(option("--mount=", &node.mntns)).arg("--");
    command
}

/// What a DaemonSet and the machine would tell the agent; nothing of the
/// user's own AWS or Kubernetes settings may reach it.
fn environment<'a>(command: &'a mut Command, node: &Node) -> &'a mut Command {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()))
        .env("MY_NODE_NAME", &node.name)
        .env("KUBECONFIG", &node.kubeconfig)
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &node.imds)
        .env("AWS_ENDPOINT_URL_EC2", &node.ec2)
        .env("AWS_REGION", "us-west-2")
        .env("CLUSTER_NAME", "tidepool-demo")
        .env("TIDEPOOL_SERVICE_CIDRS", SERVICE_CIDRS)
        .env("TIDEPOOL_CNI_BIN_DIR", PLUGIN_DIR)
}

impl Agent {
    /// Asks `GET path` of the agent from inside its node, one after the other.
    pub(crate) fn get<T, I>(&self, paths: I) -> Result<Vec<T>>
    where
        T: serde::de::DeserializeOwned + Send,
        I: IntoIterator<Item = String> + Send,
    {
        let netns = &self.node.netns;
        std::thread::scope(|scope| {
            let asking = scope.spawn(move || {
                // This thread ends inside; no other one is moved.
                let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
                setns(file, CloneFlags::CLONE_NEWNET).context("entering a node")?;
                let config = ureq::Agent::config_builder()
                    .timeout_global(Some(TIMEOUT))
                    .http_status_as_error(false)
                    .build();
                let http: ureq::Agent = config.into();
                paths
                    .into_iter()
                    .map(|path| {
                        let url = format!("{HTTP}{path}");
                        let response = http.get(&url).call().with_context(|| url.clone())?;
                        control::parse(&url, response)
                    })
                    .collect()
            });
            asking.join().unwrap_or_else(|_| Err(anyhow!("the thread inside {} panicked", self.node.name)))
        })
    }

    /// What decides about each of these cells, as far as this node's pods are
    /// concerned.
    pub(crate) fn explain(&self, cells: &[&Cell]) -> Result<Vec<Explanation>> {
        let paths: Vec<String> = cells
            .iter()
            .map(|cell| {
                format!(
                    "/debug/explain?from={}&to={}&port={}&protocol={}",
                    cell.from, cell.target.to, cell.target.port, cell.target.protocol
                )
            })
            .collect();
        self.get(paths)
    }

    /// The last warnings and errors of its log.
    pub(crate) fn complaints(&self) -> Vec<String> {
        const LINES: usize = 5;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")).collect();
        lines[lines.len().saturating_sub(LINES)..]
            .iter()
            .map(|line| format!("{}: {line}", self.node.name))
            .collect()
    }

    /// Whether this agent is the one of the node with this name.
    pub(crate) fn is_on(&self, node: Option<&str>) -> bool {
        node == Some(self.node.name.as_str())
    }
}

/// A shell in a pod, as one would type it.
pub(crate) fn shell(netns: &str, ip: Option<IpAddr>) -> String {
    let comment = ip.map(|ip| format!("   # {ip}")).unwrap_or_default();
    format!("nsenter --net={netns} bash{comment}")
}
