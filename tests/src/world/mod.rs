//! A simulated VPC with real agents in its nodes. Dropping it ends everything.

pub mod cloud;
pub mod manifests;
pub mod questions;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::demo::bin_dir;
use crate::house::{items, text};
use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use questions::client;

/// Only ends a test that has failed already.
pub const BOUND: Duration = Duration::from_secs(60);
/// The internet's one host, and a port that it answers.
pub const INTERNET: (&str, u16) = ("198.51.100.10", 8080);
/// The port of every pod here.
pub const PORT: u16 = 8080;

/// The simulator, its nodes, and the agents that run now.
pub struct World {
    // Agents before their nodes.
    agents: BTreeMap<String, Child>,
    simulator: Child,
    pub up: Value,
    environment: Vec<(String, String)>,
    pub http: ureq::Agent,
    dir: tempfile::TempDir,
}

/// A pool that asks EC2 once, at its start, and is quiet for the rest of a test: one call for a whole ENI.
pub const STILL_POOL: &[(&str, &str)] = &[("MINIMUM_IP_TARGET", "9"), ("WARM_IP_TARGET", "1")];

impl World {
    /// Two nodes, and an agent on each that is ready.
    pub fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let mut world = Self::without_agents(environment)?;
        for node in ["node-1", "node-2"] {
            world.start_agent(node)?;
        }
        for node in ["node-1", "node-2"] {
            world.wait_until_ready(node)?;
        }
        Ok(world)
    }

    /// Two nodes with nothing in them. It lives on the thread that starts it.
    pub fn without_agents(environment: &[(&str, &str)]) -> Result<Self> {
        Self::of(2, "m5.large", environment)
    }

    /// Some nodes of an instance type, with nothing in them. It lives on the thread that starts it.
    pub fn of(nodes: usize, instance_type: &str, environment: &[(&str, &str)]) -> Result<Self> {
        Self::launch(&["--nodes", &nodes.to_string(), "--instance-type", instance_type], environment)
    }

    /// Two nodes with nothing in them, on the Kubernetes API of this kubeconfig.
    pub fn on_api(kubeconfig: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let kubeconfig = kubeconfig.to_str().context("a path that is no text")?;
        Self::launch(&["--kubeconfig", kubeconfig], environment)
    }

    /// Some nodes whose pods the caller runs: nothing acts on objects of the Kubernetes API.
    pub fn without_kubelets(nodes: usize, instance_type: &str) -> Result<Self> {
        Self::launch_with(&["--nodes", &nodes.to_string(), "--instance-type", instance_type], &[])
    }

    fn launch(options: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let plugins = inside_node(&bin_dir()?);
        // Plugins of others are on the node itself.
        let path = format!("{}:/opt/cni/bin", plugins.to_str().context("a path that is no text")?);
        Self::launch_with(&[options, &["--kubelet", "--cni-bin", &path]].concat(), environment)
    }

    fn launch_with(options: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let bin = bin_dir()?;
        let mut simulator = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(bin.join("vpc-sim"))
            .arg("up")
            .args(options)
            .arg("--calm")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("vpc-sim.log"))?)
            .spawn()
            .context("starting vpc-sim")?;
        let mut output = BufReader::new(simulator.stdout.take().context("vpc-sim has no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        // To the end: a full pipe would stop it.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let http = client();
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut world = Self { agents: BTreeMap::new(), simulator, up: Value::Null, environment, http, dir };
        world.up = serde_json::from_str(&line).with_context(|| {
            let log = std::fs::read_to_string(world.dir.path().join("vpc-sim.log")).unwrap_or_default();
            format!("vpc-sim did not start: {line}\n{log}")
        })?;
        Ok(world)
    }

    /// What agents that start from now on are told.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    }

    pub fn node(&self, name: &str) -> Result<&Value> {
        items(&self.up["nodes"]).find(|node| node["name"] == name).with_context(|| format!("no node {name}"))
    }

    /// A command inside a node, with what a DaemonSet would tell an agent.
    pub fn command(&self, node: &str, program: &str) -> Result<Command> {
        let facts = self.node(node)?;
        let program = if program == "tidepool-agent" {
            inside_node(&bin_dir()?.join(program))
        } else {
            PathBuf::from(program)
        };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "nsenter"])
            .arg(format!("--net={}", text(&facts["netns"])))
            .arg(format!("--mount={}", text(&facts["mntns"])))
            .arg("--")
            .arg(program)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("MY_NODE_NAME", node)
            .env("KUBECONFIG", text(&facts["kubeconfig"]))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", text(&facts["imds"]))
            .env("AWS_ENDPOINT_URL_EC2", text(&facts["ec2"]))
            .env("AWS_REGION", "us-west-2")
            .env("CLUSTER_NAME", "system-test")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command inside a node to its end.
    pub fn run(&self, node: &str, words: &[&str]) -> Result<Output> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        Ok(self.command(node, program)?.args(arguments).output()?)
    }

    /// Standard output of a command that must succeed inside a node.
    pub fn inside(&self, node: &str, words: &[&str]) -> Result<String> {
        let output = self.run(node, words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?} on {node}: {}\n{said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a node's agent.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        // One log for all agents of a node, so that a failure shows what came before a restart too.
        let log = File::options().create(true).append(true).open(self.log(node))?;
        let mut command = self.command(node, "tidepool-agent")?;
        let child = command.arg("run").stdout(log.try_clone()?).stderr(log).spawn()?;
        self.agents.insert(node.to_owned(), child);
        Ok(())
    }

    /// Kills a node's agent as a crash would.
    pub fn kill_agent(&mut self, node: &str) -> Result<()> {
        let mut child = self.agents.remove(node).with_context(|| format!("no agent on {node}"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends a node's agent as the kubelet does, and waits until it has.
    pub fn end_agent(&mut self, node: &str) -> Result<()> {
        let mut child = self.agents.remove(node).with_context(|| format!("no agent on {node}"))?;
        kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
        let ended = wait_for("the agent ends", Duration::from_secs(4), || child.try_wait().ok()?);
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let status = ended?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    fn log(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("{node}.log"))
    }

    /// Waits until the agent of a node serves, its pool is at rest, and the runtime sends pods.
    pub fn wait_until_ready(&self, node: &str) -> Result<()> {
        self.wait(&format!("the agent of {node} serves"), || {
            let (status, _) = self.agent_page(node, "/readyz").ok()?;
            let listed = self.inside(node, &["ls", "/etc/cni/net.d"]).ok()?;
            (status == 200 && listed.contains("05-tidepool.conflist")).then_some(())
        })
    }

    /// Waits until the pool of a node plans nothing more, and returns it.
    pub fn settled_pool(&self, node: &str) -> Result<Value> {
        self.wait(&format!("the pool of {node} is at rest"), || {
            let pool = self.debug(node, "pool").ok()?;
            let counts = &pool["addresses"];
            (counts["pending"] == 0 && counts["free"].as_u64() > Some(0)).then_some(pool)
        })
    }

    /// Like [`wait_for`]; a failure shows the agents' last complaints.
    pub fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> Result<T> {
        wait_for(what, BOUND, look).with_context(|| self.complaints())
    }

    /// The last lines of the agents' logs, and what keeps pods from running.
    pub fn complaints(&self) -> String {
        let mut said = String::new();
        for node in ["node-1", "node-2"] {
            let log = std::fs::read_to_string(self.log(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(15)..] {
                said.push_str(&format!("{node}: {line}\n"));
            }
        }
        for pod in self.pods().unwrap_or_default().iter().filter(|pod| pod["ready"] != true) {
            said.push_str(&format!("{pod}\n"));
        }
        said
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for agent in self.agents.values_mut() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if let Ok(pid) = i32::try_from(self.simulator.id()) {
            // It takes its namespaces down itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = wait_for("vpc-sim ends", Duration::from_secs(15), || self.simulator.try_wait().ok()?);
        if ended.is_err() {
            let _ = self.simulator.kill();
            let _ = self.simulator.wait();
        }
    }
}

/// A path as a node sees it, whose /run, /var, /etc, /opt and /sys are its own.
fn inside_node(path: &Path) -> PathBuf {
    if ["/run", "/var", "/opt", "/etc", "/sys"].iter().any(|dir| path.starts_with(dir)) {
        let mut through = std::ffi::OsString::from(format!("/proc/{}/root", std::process::id()));
        through.push(path);
        return PathBuf::from(through);
    }
    path.to_owned()
}
