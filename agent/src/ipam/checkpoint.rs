//! Leases and cooldowns on file, for the next process of this boot.
//!
//! One JSON document in the run directory (a tmpfs), replaced as a whole by a
//! rename. It carries its version and the boot it belongs to: leases of
//! another boot are void, since no sandbox outlives the kernel.
//!
//! Until every pod that runs was found to have a lease, or was given one, the
//! file says so: a process that dies between two adoptions is followed by one
//! that looks at the node again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ipam_core::{EniId, History, MacAddr, Now, SandboxKey, Saved, SavedCooling, SavedEni};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version of the file that this agent writes. It reads version 1, too,
/// which had fewer fields; an agent of that time refuses what it cannot know.
pub(super) const VERSION: u32 = 2;
/// The file's name in the run directory.
pub const FILE: &str = "pool.json";

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

/// A lease that was made of what stood on the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct AdoptedLease {
    /// Whose it is; made up where nobody knew.
    pub(super) key: SandboxKey,
    /// The host end's MAC address, by which it is known from a successor's.
    pub(super) host_mac: MacAddr,
}

/// All that the file holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Content {
    /// The pool's state.
    pub(super) pool: Saved,
    /// Leases that were made of what stood on the node.
    pub(super) adopted: Vec<AdoptedLease>,
    /// Pods may run without a lease: not all of them were looked for yet.
    pub(super) adopting: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    boot_id: &'a str,
    pool: WrittenPool<'a>,
    adopted: &'a [AdoptedLease],
    adopting: bool,
}

/// [`Saved`], with leases whose text is known.
#[derive(Serialize)]
struct WrittenPool<'a> {
    history: History,
    leases: &'a [&'a RawValue],
    cooling: &'a [SavedCooling],
    gone: &'a [(IpNetwork, Now)],
    buried: &'a [(EniId, Now)],
    enis: &'a [SavedEni],
}

#[derive(Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
}

#[derive(Deserialize)]
struct Body {
    pool: Saved,
    #[serde(default)]
    adopted: Vec<AdoptedLease>,
    #[serde(default)]
    adopting: bool,
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
    Content(Content),
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
        if head.boot_id != self.boot_id {
            return Ok(Found::Nothing);
        }
        if head.version > VERSION {
            return Err(CheckpointError::Newer { path: self.path.clone(), found: head.version });
        }
        Ok(match serde_json::from_slice::<Body>(&text) {
            Ok(Body { pool, adopted, adopting }) => Found::Content(Content { pool, adopted, adopting }),
            Err(error) => Found::Torn(error.to_string()),
        })
    }

    /// The file's text: `content`, whose leases are those of `leases`.
    pub(super) fn text(&self, content: &Content, leases: &[&RawValue]) -> Result<Vec<u8>, CheckpointError> {
        let Content { pool, adopted, adopting } = content;
        let Saved { history, leases: _, cooling, gone, buried, enis } = pool;
        let pool = WrittenPool { history: *history, leases, cooling, gone, buried, enis };
        let document =
            Written { version: VERSION, boot_id: &self.boot_id, pool, adopted, adopting: *adopting };
        serde_json::to_vec(&document).map_err(|error| self.unwritten(error.into()))
    }

    pub(super) fn unwritten(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Write { path: self.path.clone(), source }
    }

    /// Replaces the file. Blocking, and meant to be: on a tmpfs it takes some
    /// fifty microseconds, and nothing may be told to anyone before it is done.
    pub(super) fn write(&self, text: &[u8]) -> Result<(), CheckpointError> {
        let wrong = |source| self.unwritten(source);
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh).map_err(wrong)?;
        file.write_all(text).map_err(wrong)?;
        // Free on a tmpfs; right where an operator put the directory on disk.
        file.sync_all().map_err(wrong)?;
        fs::rename(&fresh, &self.path).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::{AdoptedLease, Checkpoint, CheckpointError, Content, Found};
    use ipam_core::{MacAddr, SandboxKey};
    use serde_json::value::to_raw_value;

    fn write(checkpoint: &Checkpoint, content: &Content) {
        let leases: Vec<_> =
            content.pool.leases.iter().map(|lease| to_raw_value(lease).expect("serialisable")).collect();
        let leases: Vec<_> = leases.iter().map(|text| &**text).collect();
        checkpoint.write(&checkpoint.text(content, &leases).expect("serialisable")).expect("writable");
    }

    #[test]
    fn comes_back_in_the_same_boot_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let checkpoint = Checkpoint::new(dir.path(), "boot-1");
        assert_eq!(checkpoint.read().expect("readable"), Found::Nothing);
        let key = SandboxKey { network: "aws-cni".into(), container_id: "c1".into(), ifname: "eth0".into() };
        let adopted = vec![AdoptedLease { key, host_mac: MacAddr([2; 6]) }];
        let content = Content { adopted, adopting: true, ..Content::default() };
        write(&checkpoint, &content);
        assert_eq!(checkpoint.read().expect("readable"), Found::Content(content));
        let next_boot = Checkpoint::new(dir.path(), "boot-2");
        assert_eq!(next_boot.read().expect("readable"), Found::Nothing);
    }

    #[test]
    fn torn_empty_and_newer_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let checkpoint = Checkpoint::new(dir.path(), "boot-1");
        let file = dir.path().join("pool.json");
        for torn in ["", "{", "{\"version\":1,\"boot_id\":\"boot-1\"}", "[]", "\0\0\0"] {
            std::fs::write(&file, torn).expect("writable");
            assert!(matches!(checkpoint.read(), Ok(Found::Torn(_))), "{torn:?}");
        }
        let newer = "{\"version\":3,\"boot_id\":\"boot-1\",\"surprise\":true}";
        std::fs::write(&file, newer).expect("writable");
        let error = checkpoint.read().expect_err("newer");
        assert!(matches!(error, CheckpointError::Newer { found: 3, .. }));
        assert!(error.to_string().contains("start the newer agent"), "{error}");
        // Whatever it means, it is void with its boot.
        assert_eq!(Checkpoint::new(dir.path(), "boot-2").read().expect("void"), Found::Nothing);
    }

    /// As version 1 wrote it, before it had any of the later fields.
    const VERSION_1: &str = r#"{"version": 1, "boot_id": "boot-1", "pool": {
        "leases": [{
            "key": {"network": "aws-cni", "container_id": "c1", "ifname": "eth0"},
            "pod": {"namespace": "default", "name": "web", "uid": "u1"},
            "address": "10.0.0.7", "eni": "eni-1", "since": 5000, "host_ifname": "eni0"
        }],
        "cooling": [{"address": "10.0.0.8", "until": 35000}],
        "enis": [{
            "id": "eni-1", "mac": "02:00:00:00:00:01", "primary": true,
            "subnet": "subnet-1", "subnet_cidr": "10.0.0.0/24", "primary_ip": "10.0.0.5", "groups": ["sg-1"],
            "phase": {"attached": {"since": 1000}},
            "attachment": {
                "id": "eni-attach-1", "device_index": 0, "network_card": 0, "delete_on_termination": true
            },
            "first_seen": 1000, "singles": [["10.0.0.7", 4000], ["10.0.0.8", 4000]], "prefixes": []
        }]
    }}"#;

    #[test]
    fn a_file_of_version_1_is_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let checkpoint = Checkpoint::new(dir.path(), "boot-1");
        std::fs::write(dir.path().join("pool.json"), VERSION_1).expect("writable");
        let content = match checkpoint.read().expect("readable") {
            Found::Content(content) => content,
            other => panic!("{other:?}"),
        };
        let Content { pool, adopted, adopting } = &content;
        assert_eq!((pool.history, adopted.len(), *adopting), (ipam_core::History::Known, 0, false));
        assert_eq!((pool.leases.len(), pool.cooling.len(), pool.enis.len()), (1, 1, 1));
        assert!(pool.enis[0].suspect.is_empty() && pool.gone.is_empty() && pool.buried.is_empty());
        assert_eq!((pool.enis[0].foreign, pool.enis[0].missing_since), (None, None));

        // It is written back as this version, which holds the same.
        write(&checkpoint, &content);
        let text = std::fs::read_to_string(dir.path().join("pool.json")).expect("readable");
        assert!(text.starts_with("{\"version\":2,"), "{text}");
        assert_eq!(checkpoint.read().expect("readable"), Found::Content(content));
    }
}
