//! A directory for the files that a simulation gives to others.
//!
//! It is locked while the simulation lives and removed at its end. A killed one
//! leaves it behind, unlocked: the next start sweeps those.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::UpError;

const PREFIX: &str = "vpc-sim-";

/// The directory, locked.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Removes what earlier simulations left below the machine's directory for
    /// temporary files, and makes a new directory there.
    pub(super) fn new() -> Result<Self, UpError> {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(parent: &Path) -> Result<Self, UpError> {
        sweep(parent);
        loop {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                // Credentials of a real cluster may lie in it.
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(parent)
                .map_err(|source| file_error("create a directory in", parent, source))?
                .keep();
            // Somebody else's sweep may have come between: then again.
            if let Some(lock) = lock(&path).map_err(|source| file_error("lock", &path, source))? {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, which only this user gets to see, and returns its path.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, UpError> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|source| file_error("write", &path, source))?;
        Ok(path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "remove the directory of the simulation");
        }
    }
}

/// Locks a directory. `None` if it was removed before the lock was had, or
/// somebody else has it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let dir = match File::open(path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let inode = dir.metadata()?.ino();
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            let there = fs::metadata(path).is_ok_and(|now| now.ino() == inode);
            Ok(there.then_some(lock))
        }
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Removes the directories of simulations that live no more.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    let own = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        if !ours {
            continue;
        }
        let path = entry.path();
        if let Ok(Some(_lock)) = lock(&path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(%error, path = %path.display(), "remove what an earlier simulation left");
        }
    }
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> UpError {
    UpError::File { what, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_sweeps_what_is_not_locked() -> anyhow::Result<()> {
        let parent = tempfile::tempdir()?;
        let left = parent.path().join(format!("{PREFIX}left"));
        fs::create_dir(&left)?;
        fs::write(left.join("kubeconfig"), "x")?;
        let foreign = parent.path().join("other");
        fs::create_dir(&foreign)?;
        let first = StateDir::new_in(parent.path())?;
        let second = StateDir::new_in(parent.path())?;
        assert!(!left.exists());
        assert!(foreign.exists());
        assert!(first.path().exists() && second.path().exists());
        let path = second.path().to_path_buf();
        drop(second);
        assert!(!path.exists());
        Ok(())
    }
}
