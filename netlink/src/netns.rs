//! Network namespaces: opening one, and doing something in one.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use nix::sched::{CloneFlags, setns};

use crate::Error;

/// Opens the network namespace at `path` (`/proc/<pid>/ns/net`, or a file that
/// one is mounted on).
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    // Any file can be named by mistake: setns would refuse it much later.
    let kind = nix::sys::statfs::fstatfs(&file).map_err(io::Error::from)?.filesystem_type();
    if kind != nix::sys::statfs::NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace"));
    }
    Ok(file)
}

/// The calling thread's network namespace.
pub fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Moves the calling thread into `netns`, for good: for short-lived programs of
/// one thread only. Others use [`run_in`].
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Runs `work` in `netns`, on a thread of its own that ends with it, so that no
/// other thread ever stands in the wrong namespace.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || enter(netns.as_fd()).map(|()| work()))
            .map_err(Error::Namespace)?
            .join()
            .map_err(|_| Error::Namespace(io::Error::other("its thread panicked")))?
            .map_err(Error::Namespace)
    })
}
