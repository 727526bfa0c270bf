//! aws-node's checkpoint, kept as aws-node itself would keep it: without it that one takes the node for an empty one,
//! and gives the addresses of running pods away.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cause::chain;
use crate::endpoint::{Addresses, Endpoints, Enforcement, Wiring};
use crate::ipam::{
    Allocation, BootClock, CHECKPOINT_FILE, Incumbent, Lease, Now, PodRef, Pool, SandboxKey, document,
};

/// Changes come in swarms: one writing a little later does for all of them.
const GATHER: Duration = Duration::from_millis(20);
/// Between two attempts to write.
const PAUSE: Duration = Duration::from_secs(5);

/// One lease as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: SandboxKey,
    pub(super) pod: Option<PodRef>,
    pub(super) address: IpAddr,
    pub(super) since: Now,
}

/// Writes the file at `path` whenever leases change, and once more when `ending` is cancelled, while its directory is
/// there. From the moment that aws-node `serves` the file is that one's; until then its pod may be there and read it yet.
pub async fn keep_record<A: Addresses, W: Wiring, E: Enforcement>(
    path: PathBuf,
    pool: Pool,
    endpoints: Arc<Endpoints<A, W, E>>,
    serves: impl Fn() -> bool + Send + Sync + 'static,
    ending: CancellationToken,
) -> &'static str {
    let noted = pool.noted();
    let entries = move || {
        let (pool, endpoints) = (pool.clone(), Arc::clone(&endpoints));
        async move {
            // Pods that were found by their links have their names from elsewhere.
            let named: BTreeMap<SandboxKey, PodRef> = endpoints
                .view()
                .into_iter()
                .filter_map(|view| Some((key_of(view.key), pod_of(view.pod?))))
                .collect();
            let leases = pool.leases().await.into_iter().filter(|lease| lease.host_ifname.is_some());
            let entry = |lease: Lease| Entry {
                pod: lease.pod.or_else(|| named.get(&lease.key).cloned()),
                key: lease.key,
                address: lease.address,
                since: lease.since,
            };
            leases.map(entry).collect()
        }
    };
    keep(Kept { path, serves: Box::new(serves), written: false, lost: false }, noted, entries, ending).await
}

/// The file, and whose it is.
struct Kept {
    path: PathBuf,
    serves: Box<dyn Fn() -> bool + Send + Sync>,
    /// We wrote it since we started.
    written: bool,
    /// It is aws-node's again, until a new start.
    lost: bool,
}

impl Kept {
    /// Writes it where it is ours to write.
    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        if self.lost || !self.path.parent().is_some_and(Path::is_dir) {
            return Ok(());
        }
        // What we wrote is replaced by nobody but aws-node, which may be gone again by now.
        let by_other = || {
            self.written && matches!(Incumbent::read(&self.path), Ok(Incumbent::Read { is_ours: false, .. }))
        };
        if (self.serves)() || by_other() {
            tracing::warn!(path = %self.path.display(), "the checkpoint is aws-node's again");
            self.lost = true;
            return Ok(());
        }
        write(&self.path, entries)?;
        self.written = true;
        Ok(())
    }
}

async fn keep<F: Future<Output = Vec<Entry>> + Send>(
    mut file: Kept,
    mut noted: watch::Receiver<u64>,
    entries: impl Fn() -> F,
    ending: CancellationToken,
) -> &'static str {
    const NAME: &str = "aws-node's checkpoint";
    // The first change may have been told before this began.
    noted.mark_changed();
    let mut failed = false;
    loop {
        let due = async {
            if failed {
                tokio::time::sleep(PAUSE).await;
            } else if noted.changed().await.is_err() {
                return false;
            }
            tokio::time::sleep(GATHER).await;
            true
        };
        let ends = tokio::select! {
            // What is known up to now is written in any case.
            biased;
            () = ending.cancelled() => true,
            due = due => !due,
        };
        noted.mark_unchanged();
        if *noted.borrow() == 0 {
            // Not every pod that runs has its lease yet.
            failed = false;
        } else {
            let entries = entries().await;
            let written = tokio::task::spawn_blocking(move || {
                let outcome = file.write(&entries);
                (file, outcome)
            });
            // The runtime is shutting down.
            let Ok((again, outcome)) = written.await else { return NAME };
            file = again;
            if let Err(error) = &outcome {
                tracing::warn!(error = chain(error), path = %file.path.display(), "aws-node's checkpoint is out of date");
            }
            failed = outcome.is_err();
        }
        if ends {
            return NAME;
        }
    }
}

fn key_of(key: rpc::SandboxKey) -> SandboxKey {
    SandboxKey { network: key.network, container_id: key.container_id, ifname: key.ifname }
}

fn pod_of(pod: rpc::PodRef) -> PodRef {
    PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }
}

/// Replaces the file at `path`, durably.
pub(super) fn write(path: &Path, entries: &[Entry]) -> io::Result<()> {
    replace(path, text(entries)?.as_bytes())
}

fn text(entries: &[Entry]) -> io::Result<String> {
    let boot = BootClock::read().map_err(io::Error::other)?.now();
    let now = SystemTime::now();
    let given: Vec<(Allocation, SystemTime)> = entries
        .iter()
        .map(|Entry { key, pod, address, since }| {
            let at = now.checked_sub(boot.since(*since)).unwrap_or(now);
            (Allocation { key: key.clone(), pod: pod.clone(), address: *address }, at)
        })
        .collect();
    Ok(document(&given))
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Named as its own, so that whoever cleans up after it cleans up after us.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".tmp{}", std::process::id()));
    let mut options = File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    let replaced = (|| {
        let mut file = options.open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(directory)?.sync_all()
    })();
    if replaced.is_err() {
        drop(fs::remove_file(&fresh));
    }
    replaced
}

/// Adds entries to aws-node's own file at `path`, which stays its own.
pub(super) fn amend(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut file: Value = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(error),
    };
    let mut added: Value = serde_json::from_str(&text(entries)?)?;
    let Some(more) = added["allocations"].as_array().cloned() else { return Ok(()) };
    if let (true, Some(own)) = (file.is_object(), file["allocations"].as_array_mut()) {
        own.extend(more);
    } else if file.is_object() {
        file["allocations"] = more.into();
    } else {
        // Nothing of it can be read: what we know is all there is.
        file = added.take();
    }
    replace(path, format!("{file}\n").as_bytes())
}

/// Whether our checkpoint in `state_dir` tells who has which address: it is there, and aws-node has not served this node
/// since.
#[must_use]
pub fn is_current(state_dir: &Path, incumbent: &Path) -> bool {
    state_dir.join(CHECKPOINT_FILE).exists() && !is_superseded(state_dir, incumbent)
}

/// Whether aws-node served this node since our checkpoint in `state_dir` was written: its own is younger, and not as we
/// wrote it.
pub(super) fn is_superseded(state_dir: &Path, incumbent: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let (Ok(own), Ok(other)) = (changed(&state_dir.join(CHECKPOINT_FILE)), changed(incumbent)) else {
        return false;
    };
    other > own && !matches!(Incumbent::read(incumbent), Ok(Incumbent::Read { is_ours: true, .. }))
}

/// Sets our checkpoint aside where aws-node served since: the node is then looked at as at the first time. Returns
/// whether it was.
///
/// # Errors
///
/// Where it cannot be renamed.
pub fn set_superseded_aside(state_dir: &Path, incumbent: &Path) -> io::Result<bool> {
    let ours = state_dir.join(CHECKPOINT_FILE);
    if !is_superseded(state_dir, incumbent) {
        return Ok(false);
    }
    fs::rename(&ours, ours.with_extension("json.superseded"))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_superseded_by_a_younger_file_of_aws_nodes_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let (ours, theirs) = (dir.path().join(CHECKPOINT_FILE), dir.path().join("ipam.json"));
        let superseded = || set_superseded_aside(dir.path(), &theirs).expect("readable");
        let by_aws_node = r#"{"version":"vpc-cni-ipam/1","allocations":[]}"#;
        let age = |path: &Path, seconds| {
            let at = SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(path).and_then(|file| file.set_modified(at)).expect("its time");
        };
        fs::write(&theirs, by_aws_node).expect("written");
        assert!(!superseded(), "none of ours");
        fs::write(&ours, "{}").expect("written");
        age(&theirs, 60);
        assert!(!superseded(), "what it wrote before we took over");
        age(&ours, 120);
        write(&theirs, &[]).expect("written");
        assert!(!superseded(), "what we wrote for it");
        fs::write(&theirs, by_aws_node).expect("written");
        assert!(superseded() && !ours.exists(), "it served since");
    }

    fn entry(number: u8) -> Entry {
        let key = SandboxKey {
            network: "aws-cni".into(),
            container_id: format!("c{number}"),
            ifname: "eth0".into(),
        };
        Entry { key, pod: None, address: IpAddr::from([10, 0, 0, number]), since: Now::default() }
    }

    fn count(path: &Path) -> usize {
        match Incumbent::read(path) {
            Ok(Incumbent::Read { allocations, .. }) => allocations.len(),
            _ => 0,
        }
    }

    #[tokio::test]
    async fn what_changes_as_we_end_is_written_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ipam.json");
        let (changes, noted) = watch::channel(1);
        let ending = CancellationToken::new();
        let file = Kept { path: path.clone(), serves: Box::new(|| false), written: false, lost: false };
        let leases = Arc::new(std::sync::Mutex::new(vec![entry(1)]));
        let shown = Arc::clone(&leases);
        let entries = move || std::future::ready(shown.lock().expect("no panic").clone());
        let kept = tokio::spawn(keep(file, noted, entries, ending.clone()));
        tokio::time::timeout(Duration::from_secs(10), async {
            while count(&path) != 1 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("written");
        leases.lock().expect("no panic").push(entry(2));
        changes.send_replace(2);
        ending.cancel();
        kept.await.expect("no panic");
        assert_eq!(count(&path), 2);
    }

    #[test]
    fn the_file_is_ours_until_aws_node_serves_or_has_written_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ipam.json");
        let by_aws_node = r#"{"version":"vpc-cni-ipam/1","allocations":[]}"#;
        let serving = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let kept = || {
            let serving = Arc::clone(&serving);
            let serves = Box::new(move || serving.load(std::sync::atomic::Ordering::SeqCst));
            Kept { path: path.clone(), serves, written: false, lost: false }
        };
        fs::write(&path, by_aws_node).expect("written");
        let mut file = kept();
        file.write(&[entry(1)]).expect("written");
        assert_eq!(count(&path), 1, "we took over");
        fs::write(&path, by_aws_node).expect("written");
        file.write(&[entry(1)]).expect("left alone");
        assert_eq!(count(&path), 0, "it came and went unseen");
        let mut file = kept();
        serving.store(true, std::sync::atomic::Ordering::SeqCst);
        file.write(&[entry(1)]).expect("left alone");
        serving.store(false, std::sync::atomic::Ordering::SeqCst);
        file.write(&[entry(1)]).expect("left alone");
        assert_eq!(count(&path), 0, "what it knows now is not known to us");
        assert!(kept().write(&[entry(1)]).is_ok() && count(&path) == 1, "the next start knows");
    }

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ipam.json");
        write(&path, &[entry(7)]).expect("written");
        let read = Incumbent::read(&path).expect("readable");
        assert!(matches!(read, Incumbent::Read { allocations, is_ours: true, .. } if allocations.len() == 1));
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "no fresh file is left");
        assert!(write(&dir.path().join("no/ipam.json"), &[]).is_err());
    }
}
