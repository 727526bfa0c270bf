//! EC2 changes that were begun, so that a crash between two calls leaks
//! nothing.
//!
//! A file of lines: one when a change begins, which is on the disk before the
//! call is made, one when it has ended. What has begun and not ended is what
//! the next process takes up. It outlives a reboot: an ENI does, too. Lines
//! that cannot be read (the tail of a file at a power cut) are skipped; EC2's
//! describe, which finds our ENIs by their tag, makes up for them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ipam_core::Action;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const FILE: &str = "ec2-intents.jsonl";
/// When nothing is open, a file longer than this is begun anew.
const COMPACT_ABOVE_BYTES: u64 = 16 * 1024;

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A newer agent wrote it.
    #[error(
        "{path} has version {found}, this agent reads up to {VERSION}: start the newer agent again, or remove the \
         file once the node's unattached ENIs are gone"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It cannot be read or written.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line {
    Head { version: u32 },
    Begin { id: u64, action: Action },
    End { id: u64 },
}

struct Inner {
    path: PathBuf,
    file: File,
    next: u64,
    open: BTreeMap<u64, Action>,
}

/// The journal; clones write to the same file.
#[derive(Clone)]
pub(super) struct Journal {
    /// Protects the file's end and the set of open intents. Held across a
    /// write and an fsync, so only ever taken on a blocking thread.
    inner: Arc<Mutex<Inner>>,
}

impl Journal {
    /// Opens the journal, and tells what the last process had begun and not
    /// ended.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<(u64, Action)>), JournalError> {
        let path = dir.join(FILE);
        let wrong = |source| JournalError::Io { path: path.clone(), source };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(wrong(source)),
        };
        // Whatever a power cut left in one line, the others stand.
        let text = String::from_utf8_lossy(&bytes);
        let mut open = BTreeMap::new();
        let mut next = 0;
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Line::Head { version }) if version > VERSION => {
                    return Err(JournalError::Newer { path, found: version });
                }
                Ok(Line::Begin { id, action }) => {
                    next = next.max(id + 1);
                    open.insert(id, action);
                }
                Ok(Line::End { id }) => {
                    open.remove(&id);
                }
                Ok(Line::Head { .. }) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a line of the journal cannot be read; EC2 is asked");
                }
            }
        }
        let file = rewrite(&path, &open).map_err(wrong)?;
        let left = open.iter().map(|(id, action)| (*id, action.clone())).collect();
        let inner = Inner { path, file, next, open };
        Ok((Self { inner: Arc::new(Mutex::new(inner)) }, left))
    }

    /// Notes that `action` begins; it is on the disk when this returns.
    pub(super) async fn begin(&self, action: Action) -> Result<u64, JournalError> {
        self.blocking(move |inner| {
            inner.keep_name()?;
            let id = inner.next;
            inner.next += 1;
            inner.append(&Line::Begin { id, action: action.clone() })?;
            inner.file.sync_data()?;
            inner.open.insert(id, action);
            Ok(id)
        })
        .await
    }

    /// Notes that it has ended. Not forced to the disk: an end that is lost
    /// makes the next process look once more, and nothing else.
    pub(super) async fn end(&self, id: u64) -> Result<(), JournalError> {
        self.blocking(move |inner| {
            inner.open.remove(&id);
            inner.append(&Line::End { id })?;
            if inner.open.is_empty() && inner.file.metadata()?.len() > COMPACT_ABOVE_BYTES {
                inner.file = rewrite(&inner.path, &inner.open)?;
            }
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let mut inner = shared.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut inner).map_err(|source| JournalError::Io { path: inner.path.clone(), source })
        })
        .await;
        done.unwrap_or_else(|died| {
            Err(JournalError::Io { path: PathBuf::from(FILE), source: io::Error::other(died) })
        })
    }
}

impl Inner {
    /// A file that somebody removed, with its directory perhaps, is begun anew: lines in a file without a name
    /// would be read by nobody.
    fn keep_name(&mut self) -> io::Result<()> {
        if self.file.metadata()?.nlink() > 0 {
            return Ok(());
        }
        tracing::warn!(path = %self.path.display(), "the journal was removed; it is begun anew");
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        self.file = rewrite(&self.path, &self.open)?;
        Ok(())
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)
    }
}

/// Writes the journal anew with what is open, by rename, the directory
/// included; returns it opened for appending.
fn rewrite(path: &Path, open: &BTreeMap<u64, Action>) -> io::Result<File> {
    let fresh = path.with_extension("jsonl.new");
    let mut text = serde_json::to_vec(&Line::Head { version: VERSION })?;
    text.push(b'\n');
    for (id, action) in open {
        text.extend(serde_json::to_vec(&Line::Begin { id: *id, action: action.clone() })?);
        text.push(b'\n');
    }
    let mut file = File::create(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::{Journal, JournalError};
    use ipam_core::{Action, EniId};

    fn delete(id: &str) -> Action {
        Action::DeleteEni { eni: EniId::new(id) }
    }

    #[tokio::test]
    async fn what_has_not_ended_comes_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (journal, left) = Journal::open(dir.path()).expect("opens");
        assert!(left.is_empty());
        let first = journal.begin(delete("eni-1")).await.expect("written");
        let second = journal.begin(delete("eni-2")).await.expect("written");
        journal.end(first).await.expect("written");
        drop(journal);

        // A torn tail, as a power cut leaves it.
        let path = dir.path().join("ec2-intents.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("readable");
        text.push_str("{\"line\":\"begin\",\"id\":7,\"act");
        std::fs::write(&path, text).expect("writable");

        let (journal, left) = Journal::open(dir.path()).expect("opens");
        assert_eq!(left, [(second, delete("eni-2"))]);
        journal.end(second).await.expect("written");
        let third = journal.begin(delete("eni-3")).await.expect("written");
        assert!(third > second, "ids are not used twice while they are open");
    }

    #[tokio::test]
    async fn what_is_torn_costs_its_own_line_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("ec2-intents.jsonl");
        let begin = |id: u64, eni: &str| {
            format!("{{\"line\":\"begin\",\"id\":{id},\"action\":{}}}\n", serde_json::json!(delete(eni)))
        };
        let mut text = begin(1, "eni-1").into_bytes();
        text.extend([0, 0, 0xff, 0xfe, b'\n']);
        text.extend(begin(2, "eni-2").into_bytes());
        text.extend(b"{\"line\":\"end\",\"id\":1");
        std::fs::write(&path, text).expect("writable");
        let (journal, left) = Journal::open(dir.path()).expect("opens");
        assert_eq!(left, [(1, delete("eni-1")), (2, delete("eni-2"))]);
        for (id, _) in left {
            journal.end(id).await.expect("written");
        }
        drop(journal);
        std::fs::write(&path, "").expect("writable");
        let (_, left) = Journal::open(dir.path()).expect("an empty one opens");
        assert_eq!(left, []);
    }

    #[tokio::test]
    async fn a_journal_that_was_removed_is_begun_anew() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let home = dir.path().join("lib");
        std::fs::create_dir(&home).expect("made");
        let (journal, _) = Journal::open(&home).expect("opens");
        let first = journal.begin(delete("eni-1")).await.expect("written");
        std::fs::remove_dir_all(&home).expect("removable");
        let second = journal.begin(delete("eni-2")).await.expect("written");
        drop(journal);
        let (_, left) = Journal::open(&home).expect("opens");
        assert_eq!(left, [(first, delete("eni-1")), (second, delete("eni-2"))]);
    }

    #[test]
    fn a_newer_one_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("ec2-intents.jsonl"), "{\"line\":\"head\",\"version\":9}\n")
            .expect("writable");
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Newer { found: 9, .. })));
    }
}
