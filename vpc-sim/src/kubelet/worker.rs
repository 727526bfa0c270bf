//! One pod on its node, from its binding to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cni::PodIdentity;
use super::sandbox::{Attached, Sandbox, SandboxError, SandboxSpec, serve};
use super::{KubeletNode, Shared, now, spec, status};
use crate::fabric::chain;
use crate::fabric::echo::EchoServers;
use crate::fabric::ns::NetNs;

/// What the API says of a pod.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) pod: Arc<Pod>,
    /// Its object is there no more.
    pub(super) gone: bool,
}

impl Desired {
    /// Whether nothing of it is to run.
    fn must_stop(&self) -> bool {
        self.gone || self.must_go() || spec::is_over(&self.pod)
    }

    /// Whether its object is to be deleted when nothing of it runs.
    fn must_go(&self) -> bool {
        spec::is_terminating(&self.pod)
    }
}

/// The pauses between attempts.
struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        pause
    }
}

/// What runs of a pod.
struct Started {
    /// None where the pod uses its node's network.
    sandbox: Option<Sandbox>,
    netns: NetNs,
    addresses: Vec<IpAddr>,
    _servers: EchoServers,
}

struct Worker {
    shared: Arc<Shared>,
    node: KubeletNode,
    identity: PodIdentity,
    api: Api<Pod>,
    desired: watch::Receiver<Desired>,
}

/// Runs until the pod's object is gone and nothing is left of it on the node.
pub(super) async fn run(
    shared: Arc<Shared>,
    node: KubeletNode,
    identity: PodIdentity,
    desired: watch::Receiver<Desired>,
) {
    let api = Api::namespaced(shared.client.clone(), &identity.namespace);
    let mut worker = Worker { shared, node, identity, api, desired };
    worker.live().await;
    worker.leave().await;
    worker.shared.records.forget(&worker.identity.uid);
}

impl Worker {
    /// Starts the pod, as often as it takes, and stops it when it must.
    async fn live(&mut self) {
        let mut backoff = Backoff(Backoff::FIRST);
        let mut attempt = 0;
        loop {
            let pod = {
                let desired = self.desired.borrow_and_update();
                if desired.must_stop() {
                    return;
                }
                desired.pod.clone()
            };
            match self.start(&pod, attempt).await {
                Ok(started) => {
                    self.announce(&pod, &started).await;
                    self.wait_until_stopped().await;
                    self.stop(started).await;
                    return;
                }
                Err(error) => {
                    self.report(&pod, &error).await;
                    // That is no failure of the pod's: it only waits.
                    if matches!(error, SandboxError::NoNetwork) {
                        backoff = Backoff(Backoff::FIRST);
                    }
                }
            }
            attempt += 1;
            let pause = backoff.next();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wait_until_stopped() => {}
            }
        }
    }

    /// Deletes the object once nothing runs any more, if that is wanted.
    async fn leave(&mut self) {
        // A closed channel means that nobody will tell anything: the end.
        let told = self.desired.wait_for(|desired| desired.gone || desired.must_go()).await;
        if told.map_or(true, |desired| desired.gone) {
            return;
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(self.identity.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default().grace_period(0)
        };
        let mut backoff = Backoff(Backoff::FIRST);
        loop {
            match self.api.delete(&self.identity.name, &parameters).await {
                Ok(_) => return,
                // Gone already, or another pod of the same name has come.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(%error, pod = self.identity.name, "delete a pod that has ended");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn wait_until_stopped(&mut self) {
        // An error is a closed channel: nobody wants the pod any more.
        let _ = self.desired.wait_for(Desired::must_stop).await;
    }

    /// One attempt. What it made before it failed is taken away again.
    async fn start(&mut self, pod: &Pod, attempt: u32) -> Result<Started, SandboxError> {
        let name = format!("{}/{}", self.identity.namespace, self.identity.name);
        let ports = spec::declared_ports(pod);
        if spec::is_host_network(pod) {
            let netns = self.node.ns.net().clone();
            let addresses = vec![self.node.address];
            let servers = serve(netns.clone(), addresses.clone(), ports, &name).await?;
            return Ok(Started { sandbox: None, netns, addresses, _servers: servers });
        }
        let sandbox_spec = SandboxSpec {
            pod: self.identity.clone(),
            attempt,
            capability_args: spec::capability_args(pod),
            plugin_path: self.shared.plugin_path.clone(),
        };
        let mut sandbox = Sandbox::new(&self.node.ns, &sandbox_spec).await?;
        let attached = self.attach(&mut sandbox, &sandbox_spec).await;
        if !matches!(attached.addresses, Err(SandboxError::NoNetwork)) {
            self.shared.records.added(attached.took, attached.addresses.is_ok());
        }
        let started = match attached.addresses {
            Ok(addresses) => {
                let netns = sandbox.netns().clone();
                serve(netns.clone(), addresses.clone(), ports, &name)
                    .await
                    .map(|servers| (addresses, netns, servers))
            }
            Err(error) => Err(error),
        };
        match started {
            Ok((addresses, netns, servers)) => {
                Ok(Started { sandbox: Some(sandbox), netns, addresses, _servers: servers })
            }
            Err(error) => {
                self.destroy(sandbox).await;
                Err(error)
            }
        }
    }

    /// Attaches the sandbox; kills the ADD when the pod must stop meanwhile.
    async fn attach(&mut self, sandbox: &mut Sandbox, spec: &SandboxSpec) -> Attached {
        let cancel = CancellationToken::new();
        let mut attaching = std::pin::pin!(sandbox.attach(spec, cancel.clone()));
        tokio::select! {
            attached = &mut attaching => attached,
            () = self.wait_until_stopped() => {
                cancel.cancel();
                attaching.await
            }
        }
    }

    async fn stop(&mut self, started: Started) {
        self.shared.records.update(&self.identity.uid, |record| record.ready = false);
        let Started { sandbox, _servers: servers, netns, .. } = started;
        // The containers first, as a kubelet does.
        drop(servers);
        drop(netns);
        if let Some(sandbox) = sandbox {
            self.destroy(sandbox).await;
        }
        self.shared.records.update(&self.identity.uid, |record| record.netns = None);
    }

    /// Takes a sandbox away, as often as it takes.
    async fn destroy(&self, mut sandbox: Sandbox) {
        let mut backoff = Backoff(Backoff::FIRST);
        while let Err(error) = sandbox.destroy().await {
            let message = chain(&error);
            tracing::warn!(pod = self.identity.name, message, "take a sandbox away");
            self.shared.records.update(&self.identity.uid, |record| record.message = Some(message.clone()));
            self.event("FailedKillPod", &message).await;
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Says that the pod runs, to whoever asks us and to the API.
    async fn announce(&mut self, pod: &Pod, started: &Started) {
        // Its sandbox is there and talks before any status says so.
        self.shared.records.update(&self.identity.uid, |record| {
            record.addresses = started.addresses.clone();
            record.netns = Some(started.netns.clone());
        });
        if let Some(delay) = spec::status_delay(pod) {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.wait_until_stopped() => return,
            }
        }
        let running = status::Running {
            host_ip: self.node.address,
            addresses: started.addresses.clone(),
            since: now(),
        };
        let patch = status::running(pod, &running);
        let mut backoff = Backoff(Backoff::FIRST);
        while let Err(error) = self.patch_status(&patch).await {
            tracing::warn!(%error, pod = self.identity.name, "write the status of a pod");
            let pause = backoff.next();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wait_until_stopped() => return,
            }
        }
        self.shared.records.update(&self.identity.uid, |record| {
            record.phase = "Running";
            record.ready = true;
            record.message = None;
        });
    }

    /// Says why the pod does not run yet.
    async fn report(&mut self, pod: &Pod, error: &SandboxError) {
        let message = chain(error);
        let mut known = false;
        self.shared.records.update(&self.identity.uid, |record| {
            known = record.message.as_ref() == Some(&message);
            record.message = Some(message.clone());
        });
        if known || self.desired.borrow().must_stop() {
            return;
        }
        tracing::info!(pod = self.identity.name, message, "no sandbox");
        let patch = status::waiting(pod, self.node.address, &now(), Some(&message));
        if let Err(error) = self.patch_status(&patch).await {
            tracing::warn!(%error, pod = self.identity.name, "write the status of a pod");
        }
        self.event("FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {message}")).await;
    }

    /// Patches this very pod's status; conditions of others stay. That it is gone is no error.
    async fn patch_status(&self, patch: &Value) -> Result<(), kube::Error> {
        let mut patch = patch.clone();
        patch["metadata"] = json!({"uid": self.identity.uid});
        let patched = self
            .api
            .patch_status(&self.identity.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        match patched {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Writes an Event about the pod. A lost one is logged only.
    async fn event(&self, reason: &str, message: &str) {
        let PodIdentity { namespace, name, uid } = &self.identity;
        let at = now();
        let event: Result<Event, _> = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{name}."), "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self.node.name},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }));
        let events: Api<Event> = Api::namespaced(self.shared.client.clone(), namespace);
        let written = match event {
            Ok(event) => events.create(&PostParams::default(), &event).await.map(drop),
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        if let Err(error) = written {
            tracing::debug!(%error, pod = name, reason, "write an event");
        }
    }
}
