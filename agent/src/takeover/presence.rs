//! Whether aws-node is alive on this node.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::conflist;
use crate::config::Config;
use crate::k8s::{ClusterHandle, Incumbents};

/// Its agent's socket (since its version 1.23), wherever its checkpoint is.
const SOCKET: &str = "/var/run/aws-node/ipamd.sock";
/// Where older ones listen, in the host's network namespace.
const PORT: u16 = 50_051;
/// A connection within the node is made at once, or not at all.
const PATIENCE: Duration = Duration::from_millis(500);

/// What tells that aws-node is there.
#[derive(Debug, Clone)]
pub struct Presence {
    sockets: Sockets,
    conf_dir: PathBuf,
    pods: watch::Receiver<Option<Incumbents>>,
}

impl Presence {
    /// By its sockets, and by the pods that `cluster` knows.
    #[must_use]
    pub fn new(config: &Config, cluster: &ClusterHandle) -> Self {
        Self {
            sockets: Sockets::of(&config.incumbent_checkpoint),
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
        // A process that is no pod of the node's is somebody else's, whatever port it has.
        let with_port = !self.knows_pods();
        let (sockets, conf_dir) = (self.sockets.clone(), self.conf_dir.clone());
        let look = move || sockets.answer().or_else(|| port_answers(&conf_dir).filter(|_| with_port));
        // The task is lost only with its runtime.
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }

    /// Whether its agent serves already, and has read its checkpoint: its pod is there for some time before. Blocks as
    /// long as a connection within the node takes.
    #[must_use]
    pub fn serves(&self) -> bool {
        let has_pod = self.pods.borrow().as_deref().is_some_and(|pods| !pods.is_empty());
        self.sockets.answer().is_some() || (has_pod && port_is_open())
    }

    /// Returns when its pods have changed, or after `period`.
    pub async fn changed(&mut self, period: Duration) {
        // The sender ends only with the whole agent.
        drop(tokio::time::timeout(period, self.pods.changed()).await);
    }
}

/// Where its agent's process may answer.
#[derive(Debug, Clone)]
pub(super) struct Sockets(Vec<PathBuf>);

impl Sockets {
    /// Its own path, and beside its checkpoint, where somebody moved both.
    pub(super) fn of(checkpoint: &Path) -> Self {
        let own = PathBuf::from(SOCKET);
        let beside = own.file_name().map(|name| checkpoint.with_file_name(name));
        Self(beside.into_iter().filter(|path| *path != own).chain([own.clone()]).collect())
    }

    /// Which of them answers, in words.
    pub(super) fn answer(&self) -> Option<String> {
        let path = self.0.iter().find(|path| UnixStream::connect(path).is_ok())?;
        Some(format!("{} answers", path.display()))
    }
}

/// The port of older ones, in words. Others may listen there: it counts only with a list that sends pods to its plugin.
pub(super) fn port_answers(conf_dir: &Path) -> Option<String> {
    let conflist = conflist::of_incumbent(conf_dir).into_iter().next()?;
    port_is_open().then(|| format!("127.0.0.1:{PORT} answers, and {} names its plugin", conflist.display()))
}

fn port_is_open() -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    TcpStream::connect_timeout(&address, PATIENCE).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_is_no_sign() {
        let dir = tempfile::tempdir().expect("a directory");
        let sockets = Sockets::of(&dir.path().join("ipam.json"));
        assert_eq!(sockets.answer(), None, "no file");
        let path = dir.path().join("ipamd.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        assert!(sockets.answer().is_some_and(|sign| sign.contains("ipamd.sock answers")));
        drop(listener);
        assert!(path.exists());
        assert_eq!(sockets.answer(), None, "as after a SIGKILL");
    }

    #[test]
    fn its_socket_is_where_it_always_is_wherever_its_checkpoint_was_moved() {
        let own = PathBuf::from("/var/run/aws-node/ipamd.sock");
        assert_eq!(Sockets::of(Path::new("/var/run/aws-node/ipam.json")).0, std::slice::from_ref(&own));
        assert_eq!(Sockets::of(Path::new("/data/ipam.json")).0, [PathBuf::from("/data/ipamd.sock"), own]);
    }
}
