//! What must be known before anything can start. Each is asked until it answers; meanwhile `/readyz` says what
//! is missing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipam_core::{InstanceLimits, InstanceTable};

use crate::cause::chain;
use crate::ec2::{Ec2, ImdsClient, ImdsFacts, limits_of};
use crate::k8s::{ClusterHandle, NodeFacts};
use crate::readiness::{Part, Readiness};

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// The instance, from the metadata service.
pub(super) async fn read(readiness: &Readiness) -> (Arc<ImdsClient>, ImdsFacts) {
    let imds = Arc::new(ImdsClient::new());
    loop {
        match imds.facts().await {
            Ok(facts) => {
                tracing::info!(instance = %facts.instance, kind = facts.instance_type, address = %facts.local_ipv4, "this node");
                return (imds, facts);
            }
            Err(error) => {
                readiness.lost(Part::Pool, chain(&error));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The limits of the instance's type. `dir` keeps what EC2 says of a type that the table lacks.
pub(super) async fn limits(
    ec2: &dyn Ec2,
    instance_type: &str,
    dir: &Path,
    readiness: &Readiness,
) -> InstanceLimits {
    let mut attempts = 0;
    loop {
        match limits_of(ec2, instance_type, InstanceTable::default(), dir).await {
            Ok(limits) => return limits,
            Err(error) => {
                readiness.lost(Part::Pool, chain(&error));
                attempts += 1;
                tokio::time::sleep(error.pause(attempts, rand::random())).await;
            }
        }
    }
}

/// The Node object, and with it the whole of the cluster that policy needs.
pub(super) async fn node(cluster: &ClusterHandle, readiness: &Readiness, name: &str) -> Arc<NodeFacts> {
    loop {
        let deadline = tokio::time::Instant::now() + PAUSE;
        if !cluster.wait_synced(deadline).await {
            let missing: Vec<String> = cluster
                .watches()
                .into_iter()
                .filter(|watch| !watch.synced)
                .map(|watch| match watch.failing {
                    Some(cause) => format!("{} ({cause})", watch.kind),
                    None => watch.kind.to_owned(),
                })
                .collect();
            readiness.lost(Part::Kubernetes, format!("not listed yet: {}", missing.join(", ")));
            continue;
        }
        match cluster.node() {
            Some(node) => {
                readiness.reached(Part::Kubernetes);
                return node;
            }
            None => {
                readiness.lost(Part::Kubernetes, format!("there is no Node {name}; is MY_NODE_NAME right?"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
