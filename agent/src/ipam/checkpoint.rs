//! Leases and cooldowns on file, for the next process of this boot.
//!
//! One JSON document in the run directory (a tmpfs), replaced as a whole by a
//! rename. It carries its version and the boot it belongs to: leases of
//! another boot are void, since no sandbox outlives the kernel.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ipam_core::Saved;
use serde::{Deserialize, Serialize};

/// The version of the file that this agent writes.
pub(super) const VERSION: u32 = 1;
const FILE: &str = "pool.json";

/// The checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A newer agent wrote it.
    #[error(
        "{path} has version {found}, this agent reads up to {VERSION}: start the newer agent again, or drain the \
         node and remove the file"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    boot_id: &'a str,
    pool: &'a Saved,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
}

#[derive(Deserialize)]
struct Body {
    pool: Saved,
}

/// What was on file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or nothing of this boot.
    Nothing,
    /// A file that cannot be understood: torn, empty, or not ours. Kernel and
    /// EC2 are asked instead.
    Torn(String),
    /// The state that the last process left.
    Pool(Saved),
}

/// The checkpoint file of one boot.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    boot_id: String,
}

impl Checkpoint {
    pub(super) fn new(dir: &Path, boot_id: &str) -> Self {
        Self { path: dir.join(FILE), boot_id: boot_id.to_owned() }
    }

    pub(super) fn read(&self) -> Result<Found, CheckpointError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(source) => return Err(CheckpointError::Read { path: self.path.clone(), source }),
        };
        let head: Head = match serde_json::from_slice(&text) {
            Ok(head) => head,
            Err(error) => return Ok(Found::Torn(error.to_string())),
        };
        if head.version > VERSION {
            return Err(CheckpointError::Newer { path: self.path.clone(), found: head.version });
        }
        if head.boot_id != self.boot_id {
            return Ok(Found::Nothing);
        }
        Ok(match serde_json::from_slice::<Body>(&text) {
            Ok(body) => Found::Pool(body.pool),
            Err(error) => Found::Torn(error.to_string()),
        })
    }

    /// Replaces the file. Blocking, and meant to be: on a tmpfs it takes some
    /// fifty microseconds, and nothing may be told to anyone before it is done.
    pub(super) fn write(&self, pool: &Saved) -> Result<(), CheckpointError> {
        let wrong = |source| CheckpointError::Write { path: self.path.clone(), source };
        let document = Written { version: VERSION, boot_id: &self.boot_id, pool };
        let text = serde_json::to_vec(&document).map_err(|error| wrong(error.into()))?;
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh).map_err(wrong)?;
        file.write_all(&text).map_err(wrong)?;
        // Free on a tmpfs; right where an operator put the directory on disk.
        file.sync_all().map_err(wrong)?;
        fs::rename(&fresh, &self.path).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, CheckpointError, Found};
    use ipam_core::Saved;

    #[test]
    fn comes_back_in_the_same_boot_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let checkpoint = Checkpoint::new(dir.path(), "boot-1");
        assert_eq!(checkpoint.read().expect("readable"), Found::Nothing);
        let saved = Saved::default();
        checkpoint.write(&saved).expect("writable");
        assert_eq!(checkpoint.read().expect("readable"), Found::Pool(saved));
        let next_boot = Checkpoint::new(dir.path(), "boot-2");
        assert_eq!(next_boot.read().expect("readable"), Found::Nothing);
    }

    #[test]
    fn torn_empty_and_newer_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let checkpoint = Checkpoint::new(dir.path(), "boot-1");
        let file = dir.path().join("pool.json");
        for torn in ["", "{", "{\"version\":1,\"boot_id\":\"boot-1\"}", "[]"] {
            std::fs::write(&file, torn).expect("writable");
            assert!(matches!(checkpoint.read(), Ok(Found::Torn(_))), "{torn:?}");
        }
        std::fs::write(&file, "{\"version\":2,\"boot_id\":\"boot-1\",\"surprise\":true}").expect("writable");
        let error = checkpoint.read().expect_err("newer");
        assert!(matches!(error, CheckpointError::Newer { found: 2, .. }));
        assert!(error.to_string().contains("start the newer agent"), "{error}");
    }
}
