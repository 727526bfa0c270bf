//! Network and mount namespaces that live exactly as long as this process.
//!
//! A namespace has no name and no process of its own: a file descriptor of
//! this process holds it. So the kernel takes it away with everything in it
//! when the process ends, however it ends, and there is nothing to sweep.
//! `setns` happens on threads made for it, never on a worker of the runtime.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

/// A namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NsError {
    /// A system call on the way failed.
    #[error("{call}")]
    Call {
        /// The call, with what it was for.
        call: &'static str,
        #[source]
        source: nix::Error,
    },
    /// The namespace's file in /proc could not be opened.
    #[error("open {path}")]
    Open {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// No thread could be started, or it panicked.
    #[error("a thread for a namespace: {0}")]
    Thread(String),
}

fn call(call: &'static str) -> impl FnOnce(nix::Error) -> NsError {
    move |source| NsError::Call { call, source }
}

const OWN_NET: &str = "/proc/thread-self/ns/net";
const OWN_MNT: &str = "/proc/thread-self/ns/mnt";

fn open(path: &'static str) -> Result<OwnedFd, NsError> {
    match File::open(path) {
        Ok(file) => Ok(file.into()),
        Err(source) => Err(NsError::Open { path, source }),
    }
}

/// Runs `work` on a thread of its own and waits for it.
fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> Result<T, NsError> + Send) -> Result<T, NsError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| NsError::Thread(error.to_string()))?
            .join()
            .map_err(|_| NsError::Thread(format!("{name} panicked")))?
    })
}

/// A network namespace. Clones share it; it goes with the last of them, unless
/// a socket, a mount or a process keeps it.
#[derive(Debug, Clone)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

impl NetNs {
    /// Makes an empty namespace: a loopback link that is down, nothing else.
    pub fn new() -> Result<Self, NsError> {
        on_thread("new-netns", || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(call("unshare a network namespace"))?;
            Self::of_this_thread()
        })
    }

    /// The namespace that the calling thread is in.
    pub(crate) fn of_this_thread() -> Result<Self, NsError> {
        Ok(Self { fd: Arc::new(open(OWN_NET)?) })
    }

    /// A path by which other programs can enter it while this process lives.
    pub fn path(&self) -> PathBuf {
        fd_path(&self.fd)
    }

    /// Runs `work` in the namespace, on a thread of its own, and waits for it.
    /// Sockets that it opens stay in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NsError> {
        on_thread("in-netns", || {
            setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET).map_err(call("enter a network namespace"))?;
            Ok(work())
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a node lives in: a network namespace and a mount namespace.
#[derive(Debug, Clone)]
pub struct NodeNs {
    net: NetNs,
    mnt: Arc<OwnedFd>,
}

impl NodeNs {
    /// Makes both and runs `set_up` in them before anything else can.
    pub(crate) fn new<T: Send>(set_up: impl FnOnce() -> T + Send) -> Result<(Self, T), NsError> {
        on_thread("new-node", || {
            // The network namespace first: a sysfs mounted later shows it.
            unshare(CloneFlags::CLONE_NEWNET).map_err(call("unshare a network namespace"))?;
            unshare(CloneFlags::CLONE_NEWNS).map_err(call("unshare a mount namespace"))?;
            let done = set_up();
            let node = Self { net: NetNs::of_this_thread()?, mnt: Arc::new(open(OWN_MNT)?) };
            Ok((node, done))
        })
    }

    /// The network half.
    pub fn net(&self) -> &NetNs {
        &self.net
    }

    /// A path by which other programs can enter the mount namespace while this
    /// process lives.
    pub fn mnt_path(&self) -> PathBuf {
        fd_path(&self.mnt)
    }

    /// Runs `work` in both namespaces, on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NsError> {
        on_thread("in-node", || {
            self.enter()?;
            Ok(work())
        })
    }

    /// Starts `work` in both namespaces on a thread of its own, without waiting.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<tokio::sync::oneshot::Receiver<Result<T, NsError>>, NsError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let node = self.clone();
        std::thread::Builder::new()
            .name("in-node".to_owned())
            .spawn(move || {
                // Nobody waits any more when the receiver is gone: nothing to tell.
                let _ = sender.send(node.enter().map(|()| work()));
            })
            .map_err(|error| NsError::Thread(error.to_string()))?;
        Ok(receiver)
    }

    fn enter(&self) -> Result<(), NsError> {
        // A mount namespace can be entered only by a thread with a working
        // directory and a root of its own.
        unshare(CloneFlags::CLONE_FS).map_err(call("unshare the working directory"))?;
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET).map_err(call("enter a network namespace"))?;
        setns(self.mnt.as_fd(), CloneFlags::CLONE_NEWNS).map_err(call("enter a mount namespace"))
    }
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}
