//! The Kubernetes API of a simulation: its own, or one that is given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::task::JoinSet;

use super::UpError;
use super::kubeconfig::{RealCluster, for_simulated};
use super::listen::{listen, proxy, serve};
use super::state_dir::StateDir;
use crate::fabric::ns::NodeNs;
use crate::kube_api;

/// The API, and how nodes get to it.
pub(super) struct KubernetesApi {
    /// For the host's programs.
    pub(super) kubeconfig: PathBuf,
    pub(super) client: kube::Client,
    /// The store, where the API is simulated.
    pub(super) store: Option<Arc<kube_api::Store>>,
    source: Source,
}

enum Source {
    Simulated { store: Arc<kube_api::Store> },
    Real(Box<RealCluster>),
}

impl KubernetesApi {
    /// Serves a simulated API on the host's loopback.
    pub(super) async fn simulated(tasks: &mut JoinSet<()>, files: &StateDir) -> Result<Self, UpError> {
        let store = Arc::new(kube_api::Store::new());
        let (listener, address) = listen(None).await?;
        serve(tasks, listener, kube_api::router(store.clone()))?;
        let kubeconfig = files.write("kubeconfig", &for_simulated(&format!("http://{address}")))?;
        let config = Kubeconfig::read_from(&kubeconfig)
            .map_err(|error| UpError::Kubeconfig { path: kubeconfig.clone(), problem: error.to_string() })?;
        Ok(Self {
            client: client(config, &kubeconfig).await?,
            kubeconfig,
            store: Some(store.clone()),
            source: Source::Simulated { store },
        })
    }

    /// Uses the API of a kubeconfig.
    pub(super) async fn real(path: &Path) -> Result<Self, UpError> {
        let path = std::path::absolute(path).map_err(|source| UpError::File {
            what: "find",
            path: path.to_path_buf(),
            source,
        })?;
        let cluster = RealCluster::read(&path)?;
        Ok(Self {
            client: client(cluster.config(), &path).await?,
            kubeconfig: path,
            store: None,
            source: Source::Real(Box::new(cluster)),
        })
    }

    /// Whether it outlives the simulation.
    pub(super) fn is_real(&self) -> bool {
        matches!(self.source, Source::Real(_))
    }

    /// Lets a node, or the host in its place, reach the API on its loopback, and
    /// writes the kubeconfig for that.
    pub(super) async fn serve_node(
        &self,
        tasks: &mut JoinSet<()>,
        files: &StateDir,
        name: &str,
        node: Option<&NodeNs>,
    ) -> Result<PathBuf, UpError> {
        let (listener, address) = listen(node).await?;
        let text = match &self.source {
            Source::Simulated { store } => {
                serve(tasks, listener, kube_api::router(store.clone()))?;
                for_simulated(&format!("http://{address}"))
            }
            Source::Real(cluster) => {
                proxy(tasks, listener, cluster.server.clone())?;
                cluster.for_node(address.port())?
            }
        };
        files.write(&format!("{name}.kubeconfig"), &text)
    }
}

async fn client(config: Kubeconfig, path: &Path) -> Result<kube::Client, UpError> {
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .map_err(|error| UpError::Kubeconfig { path: path.to_path_buf(), problem: error.to_string() })?;
    kube::Client::try_from(config).map_err(|source| UpError::Kubernetes {
        what: format!("make a client of {}", path.display()),
        source,
    })
}
