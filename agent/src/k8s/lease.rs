//! A Lease: who of many agents does what only one needs to do.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::timeout;

use super::error::Error;
use super::handle::ClusterHandle;

/// A Lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// Who holds it; None when nobody is named.
    pub holder: Option<String>,
    /// How long it lasts without a renewal.
    pub duration: Option<Duration>,
    /// How often it has changed hands.
    pub transitions: u32,
    /// The object's resourceVersion.
    pub version: String,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseWrite {
    /// As wanted; this is the Lease now.
    Done(LeaseState),
    /// Somebody else wrote it first.
    Conflict,
    /// There is no such Lease.
    Absent,
}

/// One Lease of the cluster.
#[derive(Clone)]
pub struct LeaseClient {
    api: Api<Lease>,
    path: String,
    name: String,
}

impl std::fmt::Debug for LeaseClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseClient").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ClusterHandle {
    /// A Lease by its name. Nothing is asked yet.
    pub fn lease(&self, namespace: &str, name: &str) -> LeaseClient {
        LeaseClient {
            api: Api::namespaced(self.client.clone(), namespace),
            path: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"),
            name: name.to_owned(),
        }
    }
}

impl LeaseClient {
    /// The Lease as it is now; None when there is none.
    pub async fn read(&self, patience: Duration) -> Result<Option<LeaseState>, Error> {
        let found = self.within("get", patience, self.api.get_opt(&self.name)).await?;
        found.as_ref().map(|lease| self.state("get", lease)).transpose()
    }

    /// Makes the Lease, held by `holder`.
    pub async fn create(
        &self,
        holder: &str,
        duration: Duration,
        patience: Duration,
    ) -> Result<LeaseWrite, Error> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(whole_seconds(duration)),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        let made = self.within("create", patience, self.api.create(&PostParams::default(), &lease)).await;
        self.written("create", made)
    }

    /// Writes `holder` into the Lease, if it is still as `seen`: the server compares the resourceVersion. What others
    /// keep on the object stays.
    pub async fn write(
        &self,
        seen: &LeaseState,
        holder: &str,
        duration: Duration,
        patience: Duration,
    ) -> Result<LeaseWrite, Error> {
        let now = MicroTime(Timestamp::now());
        let mut spec = json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": whole_seconds(duration),
            "renewTime": now,
        });
        if seen.holder.as_deref() != Some(holder) {
            spec["acquireTime"] = json!(now);
            spec["leaseTransitions"] = json!(seen.transitions.saturating_add(1));
        }
        let patch = json!({"metadata": {"resourceVersion": seen.version}, "spec": spec});
        let (how, patch) = (PatchParams::default(), Patch::Merge(patch));
        let written = self.within("patch", patience, self.api.patch(&self.name, &how, &patch)).await;
        self.written("patch", written)
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        patience: Duration,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(patience, request).await {
            Err(_) => Err(Error::Silent { operation, path: self.path.clone(), after: patience }),
            Ok(Err(fault)) => {
                Err(Error::Request { operation, path: self.path.clone(), source: Box::new(fault) })
            }
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    fn written(&self, operation: &'static str, outcome: Result<Lease, Error>) -> Result<LeaseWrite, Error> {
        match outcome {
            Ok(lease) => self.state(operation, &lease).map(LeaseWrite::Done),
            Err(Error::Request { source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409) => {
                Ok(LeaseWrite::Conflict)
            }
            // To a create it would mean that the namespace is missing.
            Err(Error::Request { source, .. })
                if operation == "patch"
                    && matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404) =>
            {
                Ok(LeaseWrite::Absent)
            }
            Err(error) => Err(error),
        }
    }

    fn state(&self, operation: &'static str, lease: &Lease) -> Result<LeaseState, Error> {
        // Without it a write would be unconditional.
        let version = lease.metadata.resource_version.clone().filter(|version| !version.is_empty());
        let version = version.ok_or_else(|| Error::Answer {
            operation,
            path: self.path.clone(),
            what: "the Lease has no resourceVersion".to_owned(),
        })?;
        let spec = lease.spec.clone().unwrap_or_default();
        Ok(LeaseState {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            transitions: spec.lease_transitions.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            version,
        })
    }
}

/// Rounded up: a holder believes in its Lease for less than it writes.
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX).max(1)
}
