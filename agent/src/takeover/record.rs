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

use tokio::sync::watch;

use crate::cause::chain;
use crate::endpoint::{Addresses, Endpoints, Enforcement, Wiring};
use crate::ipam::{
    Allocation, BootClock, CHECKPOINT_FILE, Incumbent, Now, PodRef, Pool, SandboxKey, document,
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

/// Writes the file at `path` whenever leases change, while its directory is there and aws-node is not `alive`: from
/// then on the file is that one's.
pub async fn keep_record<A: Addresses, W: Wiring, E: Enforcement>(
    path: PathBuf,
    pool: Pool,
    endpoints: Arc<Endpoints<A, W, E>>,
    alive: watch::Receiver<bool>,
) -> &'static str {
    let mut noted = pool.noted();
    // The first change may have been told before this began.
    noted.mark_changed();
    let mut failed = false;
    loop {
        if failed {
            tokio::time::sleep(PAUSE).await;
        } else if noted.changed().await.is_err() {
            return "aws-node's checkpoint";
        }
        tokio::time::sleep(GATHER).await;
        noted.mark_unchanged();
        if *noted.borrow() == 0 || *alive.borrow() || !path.parent().is_some_and(Path::is_dir) {
            failed = false;
            continue;
        }
        // Pods that were found by their links have their names from elsewhere.
        let named: BTreeMap<SandboxKey, PodRef> = endpoints
            .view()
            .into_iter()
            .filter_map(|view| Some((key_of(view.key), pod_of(view.pod?))))
            .collect();
        let leases = pool.leases().await.into_iter().filter(|lease| lease.host_ifname.is_some());
        let entries: Vec<Entry> = leases
            .map(|lease| Entry {
                pod: lease.pod.or_else(|| named.get(&lease.key).cloned()),
                key: lease.key,
                address: lease.address,
                since: lease.since,
            })
            .collect();
        let place = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&place, &entries)).await;
        failed = match written {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), path = %path.display(), "aws-node's checkpoint is out of date");
                true
            }
            // The runtime is shutting down.
            Err(_) => return "aws-node's checkpoint",
        };
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
    let boot = BootClock::read().map_err(io::Error::other)?.now();
    let now = SystemTime::now();
    let given: Vec<(Allocation, SystemTime)> = entries
        .iter()
        .map(|Entry { key, pod, address, since }| {
            let at = now.checked_sub(boot.since(*since)).unwrap_or(now);
            (Allocation { key: key.clone(), pod: pod.clone(), address: *address }, at)
        })
        .collect();
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Named as its own, so that whoever cleans up after it cleans up after us.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".tmp{}", std::process::id()));
    let mut options = File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    let replaced = (|| {
        let mut file = options.open(&fresh)?;
        file.write_all(document(&given).as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(directory)?.sync_all()
    })();
    if replaced.is_err() {
        drop(fs::remove_file(&fresh));
    }
    replaced
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

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ipam.json");
        let key = SandboxKey { network: "aws-cni".into(), container_id: "c1".into(), ifname: "eth0".into() };
        let entry = Entry { key, pod: None, address: IpAddr::from([10, 0, 0, 7]), since: Now::default() };
        write(&path, std::slice::from_ref(&entry)).expect("written");
        let read = Incumbent::read(&path).expect("readable");
        assert!(matches!(read, Incumbent::Read { allocations, is_ours: true, .. } if allocations.len() == 1));
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "no fresh file is left");
        assert!(write(&dir.path().join("no/ipam.json"), &[]).is_err());
    }
}
