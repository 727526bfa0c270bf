//! The agent in its own pod: `install` runs to its end, then `agent` runs until it is killed.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manifest::{AgentManifest, Place};
use super::message::{ContainerState, PodSandboxConfig};
use super::node::Containerd;
use crate::house::text;
use crate::world::World;

/// The agent's pod on one node.
#[derive(Debug)]
pub struct AgentPod {
    manifest: AgentManifest,
    config: PodSandboxConfig,
    sandbox: String,
    running: Mutex<Running>,
    settings: Vec<(String, String)>,
    kubeconfig: String,
}

/// The container that runs the agent now.
#[derive(Debug, Clone, Default)]
struct Running {
    container: String,
    attempt: u32,
}

impl AgentPod {
    /// Makes the pod and starts both containers. `settings` are set over the manifest's.
    pub fn start(world: &World, runtime: &Containerd, settings: &[(&str, &str)]) -> Result<Self> {
        let node = world.node(&runtime.node)?;
        let manifest = AgentManifest::read()?;
        let config = manifest.sandbox(&place(runtime))?;
        let sandbox = runtime.cri.run_sandbox(&config).with_context(|| runtime.log())?;
        let kubeconfig = text(&node["kubeconfig"]).to_owned();
        let mut all = vec![
            ("KUBECONFIG".to_owned(), kubeconfig.clone()),
            ("AWS_ENDPOINT_URL_EC2".to_owned(), text(&node["ec2"]).to_owned()),
            ("CLUSTER_NAME".to_owned(), "system-test".to_owned()),
        ];
        all.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let running = Mutex::default();
        let pod = Self { manifest, config, sandbox, running, settings: all, kubeconfig };
        pod.install(runtime)?;
        pod.run(runtime, 0)?;
        Ok(pod)
    }

    /// The image that the pod runs.
    pub fn image() -> Result<String> {
        Ok(AgentManifest::read()?.image()?.to_owned())
    }

    fn install(&self, runtime: &Containerd) -> Result<()> {
        let container = self.manifest.container("install", 0, &place(runtime), &[], &[])?;
        let id = runtime.cri.start_container(&self.sandbox, &self.config, container)?;
        let exited = i32::from(ContainerState::Exited);
        let status = wait_for("the init container ends", Duration::from_secs(30), || {
            runtime.cri.container(&id).ok().map(|(status, _)| status).filter(|status| status.state == exited)
        })?;
        ensure!(status.exit_code == 0, "install: {}\n{}", status.exit_code, log(runtime, "install-0.log"));
        runtime.cri.remove_container(&id)
    }

    fn run(&self, runtime: &Containerd, attempt: u32) -> Result<()> {
        let files = [self.kubeconfig.as_str()];
        let config = self.manifest.container("agent", attempt, &place(runtime), &self.settings, &files)?;
        let container = runtime
            .cri
            .start_container(&self.sandbox, &self.config, config)
            .with_context(|| runtime.log())?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Running { container, attempt };
        Ok(())
    }

    fn running(&self) -> Running {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The agent's process, as this process sees it.
    pub fn process(&self, runtime: &Containerd) -> Result<Pid> {
        runtime.process_of(&self.running().container)
    }

    /// Kills the agent as a crash would, and starts the container again as kubelet does.
    pub fn crash(&self, runtime: &Containerd) -> Result<()> {
        self.kill(runtime)?;
        self.start_again(runtime)
    }

    /// Kills the agent and waits until the runtime has seen it.
    pub fn kill(&self, runtime: &Containerd) -> Result<()> {
        kill(self.process(runtime)?, Signal::SIGKILL)?;
        let container = self.running().container;
        let exited = i32::from(ContainerState::Exited);
        wait_for("the runtime sees the agent's end", Duration::from_secs(30), || {
            let (status, _) = runtime.cri.container(&container).ok()?;
            (status.state == exited).then_some(())
        })
    }

    /// Starts a container in the place of one that has ended.
    pub fn start_again(&self, runtime: &Containerd) -> Result<()> {
        let ended = self.running();
        self.run(runtime, ended.attempt + 1)?;
        runtime.cri.remove_container(&ended.container)
    }

    /// The ids of its sandbox and its container.
    pub fn ids(&self) -> [String; 2] {
        [self.sandbox.clone(), self.running().container]
    }

    /// The last lines of its last containers' logs.
    pub fn log(&self, runtime: &Containerd) -> String {
        let last = self.running().attempt;
        let first = last.saturating_sub(2);
        (first..=last).map(|attempt| log(runtime, &format!("agent-{attempt}.log"))).collect()
    }
}

fn place(runtime: &Containerd) -> Place<'_> {
    Place {
        node: &runtime.node,
        cgroup_parent: &runtime.cgroup_parent,
        log_directory: runtime.dir.join("logs").display().to_string(),
    }
}

fn log(runtime: &Containerd, name: &str) -> String {
    let file = runtime.dir.join("logs").join(name);
    let log = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    format!("{name}:\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
}
