//! A node's readiness: whether pods on it can get a network.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::cni::{CONF_DIR, NetworkList, first_list};
use super::sandbox::in_node;
use super::{KubeletNode, Shared, now, status};
use crate::fabric::chain;

/// How often the directory of network lists is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How often the plugins of a ready node are asked for their STATUS, as
/// containerd does when a kubelet asks it.
const ASK: Duration = Duration::from_secs(5);

/// Writes the node's Ready condition whenever it changes, until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, node: KubeletNode) {
    let api: Api<Node> = Api::all(shared.client.clone());
    let mut told: Option<Option<String>> = None;
    let mut asked: Option<(NetworkList, Instant)> = None;
    loop {
        let problem = match in_node(&node.ns, || first_list(Path::new(CONF_DIR))).await {
            Ok(Ok(Some(list))) => {
                let recently = asked.as_ref().is_some_and(|(known, at)| *known == list && at.elapsed() < ASK);
                if recently {
                    None
                } else {
                    let problem = ask(&shared, &node, list.clone()).await;
                    asked = problem.is_none().then(|| (list, Instant::now()));
                    problem
                }
            }
            Ok(Ok(None)) => Some("cni plugin not initialized".to_owned()),
            Ok(Err(error)) => Some(chain(&error)),
            Err(error) => Some(chain(&error)),
        };
        if told.as_ref() != Some(&problem) {
            let patch = Patch::Merge(status::node_ready(&now(), problem.as_deref()));
            match api.patch_status(&node.name, &PatchParams::default(), &patch).await {
                Ok(_) => told = Some(problem),
                Err(error) => tracing::warn!(%error, node = node.name, "write the status of a node"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The problem that the list's plugins report, where they speak of STATUS.
async fn ask(shared: &Shared, node: &KubeletNode, list: NetworkList) -> Option<String> {
    if !list.has_status() {
        return None;
    }
    let path = shared.plugin_path.clone();
    match in_node(&node.ns, move || list.status(&path)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(chain(&error)),
        Err(error) => Some(chain(&error)),
    }
}
