//! Whether aws-node is alive on this node.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::conflist;
use crate::config::Config;
use crate::k8s::{ClusterHandle, Incumbents};

/// The name of its agent's socket, beside its checkpoint (since its version 1.23).
const SOCKET: &str = "ipamd.sock";
/// Where older ones listen, in the host's network namespace.
const PORT: u16 = 50_051;
/// A connection within the node is made at once, or not at all.
const PATIENCE: Duration = Duration::from_millis(500);

/// What tells that aws-node is there.
#[derive(Debug, Clone)]
pub struct Presence {
    socket: PathBuf,
    conf_dir: PathBuf,
    pods: watch::Receiver<Option<Incumbents>>,
}

impl Presence {
    /// By its socket beside `config`'s path of its checkpoint, and by the pods that `cluster` knows.
    #[must_use]
    pub fn new(config: &Config, cluster: &ClusterHandle) -> Self {
        Self {
            socket: socket(&config.incumbent_checkpoint),
            conf_dir: config.cni_conf_dir.clone(),
            pods: cluster.incumbents(),
        }
    }

    /// Whether the Kubernetes API has listed the pods of this node.
    #[must_use]
    pub fn knows_pods(&self) -> bool {
        self.pods.borrow().is_some()
    }

    /// By what it is known to be alive, in words; none where it is not.
    pub async fn sign(&self) -> Option<String> {
        if let Some(pods) = self.pods.borrow().as_deref()
            && let Some(pod) = pods.first()
        {
            return Some(format!("pod {pod} of DaemonSet aws-node is on it"));
        }
        let (socket, conf_dir) = (self.socket.clone(), self.conf_dir.clone());
        // The task is lost only with its runtime.
        tokio::task::spawn_blocking(move || answers(&socket, &conf_dir)).await.ok().flatten()
    }

    /// Returns when its pods have changed, or after `period`.
    pub async fn changed(&mut self, period: Duration) {
        // The sender ends only with the whole agent.
        drop(tokio::time::timeout(period, self.pods.changed()).await);
    }
}

/// Its agent's socket, by the path of its checkpoint.
pub(super) fn socket(checkpoint: &Path) -> PathBuf {
    checkpoint.with_file_name(SOCKET)
}

/// By what its agent's process is known to answer, in words.
pub(super) fn answers(socket: &Path, conf_dir: &Path) -> Option<String> {
    if UnixStream::connect(socket).is_ok() {
        return Some(format!("{} answers", socket.display()));
    }
    // Others may listen there: it counts only with a conflist that sends pods to it.
    let conflist = conflist::of_incumbent(conf_dir).into_iter().next()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    Some(format!("{address} answers, and {} names its plugin", conflist.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_is_no_sign() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = socket(&dir.path().join("ipam.json"));
        assert_eq!(answers(&path, dir.path()), None, "no file");
        let listener = UnixListener::bind(&path).expect("bound");
        assert!(answers(&path, dir.path()).is_some_and(|sign| sign.contains("ipamd.sock answers")));
        drop(listener);
        assert!(path.exists());
        assert_eq!(answers(&path, dir.path()), None, "as after a SIGKILL");
    }
}
