//! The Container Runtime Interface, one method per call, for threads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use prost::Message;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot::Receiver;

use super::grpc::unary;
use super::message::{
    ContainerConfig, ContainerId, ContainerStatus, ContainerStatusResponse, CreateContainerRequest, Empty,
    ExecSyncRequest, ExecSyncResponse, ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox,
    PodSandboxConfig, PodSandboxId, PodSandboxStatusResponse, RunPodSandboxRequest, StatusOfId,
    StatusRequest, StatusResponse, StopContainerRequest,
};

/// What kubelet allows by default.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client of one runtime.
#[derive(Debug)]
pub struct Cri {
    socket: PathBuf,
    runtime: Runtime,
}

impl Cri {
    pub(super) fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    fn call<A: Message + Default>(
        &self,
        name: &str,
        question: &impl Message,
        patience: Duration,
    ) -> Result<A> {
        let method = format!("/runtime.v1.RuntimeService/{name}");
        self.runtime.block_on(unary(&self.socket, &method, question, patience)).context(name.to_owned())
    }

    /// Whether the runtime answers, and whether it has a network to offer.
    pub fn status(&self) -> Result<(bool, bool)> {
        let answer: StatusResponse =
            self.call("Status", &StatusRequest::default(), Duration::from_secs(5))?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let is_met = |name: &str| conditions.iter().any(|one| one.r#type == name && one.status);
        Ok((is_met("RuntimeReady"), is_met("NetworkReady")))
    }

    /// The network lists that the runtime has read, as it tells them.
    pub fn networks(&self) -> Result<String> {
        let answer: StatusResponse =
            self.call("Status", &StatusRequest { verbose: true }, Duration::from_secs(5))?;
        Ok(answer.info.get("cniconfig").cloned().unwrap_or_default())
    }

    /// Makes a sandbox and its network; the sandbox's id.
    pub fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String> {
        self.run_sandbox_within(config, PATIENCE)
    }

    /// The same with another patience, after which the runtime gives up too.
    pub fn run_sandbox_within(&self, config: &PodSandboxConfig, patience: Duration) -> Result<String> {
        let question = RunPodSandboxRequest { config: Some(config.clone()) };
        let answer: PodSandboxId = self.call("RunPodSandbox", &question, patience)?;
        Ok(answer.pod_sandbox_id)
    }

    /// The same, but when `gone` tells the client goes away, which cancels it in the runtime.
    pub fn run_sandbox_until(&self, config: &PodSandboxConfig, gone: Receiver<()>) -> Result<String> {
        let question = RunPodSandboxRequest { config: Some(config.clone()) };
        self.runtime.block_on(async {
            tokio::select! {
                answer = unary::<PodSandboxId>(&self.socket, "/runtime.v1.RuntimeService/RunPodSandbox", &question, PATIENCE) => {
                    Ok(answer?.pod_sandbox_id)
                }
                Ok(()) = gone => bail!("the client went away"),
            }
        })
    }

    /// Ends a sandbox with its containers and takes its network away. May be called again.
    pub fn stop_sandbox(&self, id: &str) -> Result<()> {
        let question = PodSandboxId { pod_sandbox_id: id.to_owned() };
        self.call::<Empty>("StopPodSandbox", &question, PATIENCE).map(drop)
    }

    /// Removes a sandbox with its containers; stops it first where that was not done.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        let question = PodSandboxId { pod_sandbox_id: id.to_owned() };
        self.call::<Empty>("RemovePodSandbox", &question, PATIENCE).map(drop)
    }

    pub fn sandboxes(&self) -> Result<Vec<PodSandbox>> {
        let answer: ListPodSandboxResponse =
            self.call("ListPodSandbox", &ListPodSandboxRequest {}, PATIENCE)?;
        Ok(answer.items)
    }

    /// A sandbox's state and network, and what the runtime tells for debugging.
    pub fn sandbox(&self, id: &str) -> Result<(PodSandboxStatusResponse, Value)> {
        let question = StatusOfId { id: id.to_owned(), verbose: true };
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", &question, PATIENCE)?;
        let info = serde_json::from_str(answer.info.get("info").map_or("null", String::as_str))?;
        Ok((answer, info))
    }

    /// The address of a sandbox, as the runtime tells the kubelet.
    pub fn address(&self, id: &str) -> Result<String> {
        let (answer, _) = self.sandbox(id)?;
        Ok(answer.status.and_then(|status| status.network).unwrap_or_default().ip)
    }

    /// Creates a container in a sandbox and starts it; its id.
    pub fn start_container(
        &self,
        sandbox: &str,
        sandbox_config: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String> {
        let question = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let created: ContainerId = self.call("CreateContainer", &question, PATIENCE)?;
        self.call::<Empty>("StartContainer", &created, PATIENCE)?;
        Ok(created.container_id)
    }

    /// A container's state, and what the runtime tells for debugging: `pid` in its own name space, `runtimeSpec`.
    pub fn container(&self, id: &str) -> Result<(ContainerStatus, Value)> {
        let question = StatusOfId { id: id.to_owned(), verbose: true };
        let answer: ContainerStatusResponse = self.call("ContainerStatus", &question, PATIENCE)?;
        let info = serde_json::from_str(answer.info.get("info").map_or("null", String::as_str))?;
        Ok((answer.status.context("a container without a status")?, info))
    }

    /// Stops a container: SIGKILL after `patience_s`.
    pub fn stop_container(&self, id: &str, patience_s: i64) -> Result<()> {
        let question = StopContainerRequest { container_id: id.to_owned(), timeout: patience_s };
        self.call::<Empty>("StopContainer", &question, PATIENCE).map(drop)
    }

    /// Removes a container that has ended.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let question = ContainerId { container_id: id.to_owned() };
        self.call::<Empty>("RemoveContainer", &question, PATIENCE).map(drop)
    }

    /// Runs a command in a container: exit code, standard output, standard error.
    pub fn exec(&self, container: &str, words: &[&str]) -> Result<(i32, String, String)> {
        let question = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: words.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 30,
        };
        let answer: ExecSyncResponse = self.call("ExecSync", &question, PATIENCE)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((answer.exit_code, text(answer.stdout), text(answer.stderr)))
    }
}
