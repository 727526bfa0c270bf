//! The Kubernetes adapter as the source of what policy depends on.

use std::sync::Arc;
use std::time::Duration;

use policy_core::{Cluster, PodIdentity};
use rpc::{PodRef, Refusal, code};
use tokio::time::Instant;

use crate::cause::chain;
use crate::k8s::ClusterHandle;
use crate::policy::ClusterSource;

/// The cluster.
#[derive(Debug, Clone)]
pub struct ClusterPort(ClusterHandle);

impl ClusterPort {
    /// Reads through `handle`.
    #[must_use]
    pub fn new(handle: ClusterHandle) -> Self {
        Self(handle)
    }
}

impl ClusterSource for ClusterPort {
    fn snapshot(&self) -> Arc<Cluster> {
        self.0.snapshot().cluster
    }

    async fn ensure_pod(&self, pod: &PodRef, patience: Duration) -> Result<(), Refusal> {
        let wanted = PodIdentity {
            namespace: pod.namespace.as_str().into(),
            name: pod.name.as_str().into(),
            uid: pod.uid.as_deref().map(Into::into),
        };
        match self.0.local_pod(&wanted, Instant::now() + patience).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("without its labels a pod's policy is not known: {}", chain(&error));
                let mut refusal = Refusal::new(code::TRY_AGAIN_LATER, "pod-unknown", message);
                refusal.retryable = error.is_retryable();
                Err(refusal)
            }
        }
    }
}
