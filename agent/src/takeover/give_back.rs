//! `tidepool-agent uninstall`: the node goes back to aws-node, or to any other, and its pods run on.
//!
//! In this order, so that each step can be cut off and repeated:
//! 1. aws-node's checkpoint names every pod that runs;
//! 2. its conflist is back, and ours is gone;
//! 3. our own checkpoint is gone: what it says is no longer true from now on;
//! 4. our nftables table, filters and pinned maps are gone, at once or when aws-node has its own rules in place.
//!
//! Routes, rules and neighbour entries of pods stay: they run by them, and aws-node removes them with the pod.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

use super::record::{self, Entry};
use super::{conflist, presence};
use crate::config::Config;
use crate::ipam::{Allocation, CHECKPOINT_FILE, Incumbent, OnFile, PodRef};
use crate::{app, datapath, hostnet, install};

/// Between two looks for aws-node.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives the node back. Where `wait` is given, translation and filters stay until aws-node answers, for so long at
/// most: what is established through them is not cut off.
///
/// # Errors
///
/// Where an agent runs, where pods run that no agent has adopted yet, where aws-node does not come in time, and where
/// a step fails. All can be repeated.
pub fn give_back(config: &Config, wait: Option<Duration>) -> anyhow::Result<()> {
    let _lock = lock(config)?;
    hand_over_leases(config)?;
    let lists = conflist::restore(&config.cni_conf_dir).context("aws-node's conflist cannot be put back")?;
    install::remove_conflist(&config.cni_conf_dir)?;
    println!("{}", told(&lists));
    remove_file(&config.state_dir.join(CHECKPOINT_FILE))?;
    if let Some(patience) = wait {
        wait_for_incumbent(config, patience)?;
    }
    hostnet::withdraw_translation().context("our nftables table cannot be removed")?;
    let links = datapath::withdraw(&config.bpffs_dir).context("our filters and pins cannot be removed")?;
    remove_file(&config.state_dir.join(app::SOCKET))?;
    println!("our nftables table, filters (of {links} links) and pinned maps are gone; pods run on");
    Ok(())
}

fn told(lists: &[std::path::PathBuf]) -> String {
    match lists {
        [] => "our conflist is gone; no other was set aside, so that the node has no network until one comes"
            .into(),
        lists => format!(
            "our conflist is gone, {} is back",
            lists.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// Held to the end, so that no agent starts meanwhile.
fn lock(config: &Config) -> anyhow::Result<Option<Flock<File>>> {
    let path = config.state_dir.join(app::LOCK);
    let file = match File::options().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("{} cannot be opened", path.display())),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, error)) => bail!(
            "an agent runs on this node (it holds {}: {error}) and would put everything back: first let its \
             DaemonSet leave the node, then repeat this",
            path.display()
        ),
    }
}

/// Writes aws-node's checkpoint from ours.
fn hand_over_leases(config: &Config) -> anyhow::Result<()> {
    let path = &config.incumbent_checkpoint;
    let answers = presence::answers(&presence::socket(path), &config.cni_conf_dir).is_some();
    if answers || record::is_superseded(&config.state_dir, path) {
        println!("aws-node has served this node since our agent did: its checkpoint is left as it is");
        return Ok(());
    }
    let leases = match OnFile::read(&config.state_dir)? {
        // Never an agent, or this was done already.
        OnFile::Nothing => return Ok(()),
        OnFile::Incomplete => bail!(
            "not every pod that runs on this node was adopted yet: start the agent, wait until it is ready, and \
             repeat this"
        ),
        OnFile::Leases(leases) => leases,
    };
    let names = names(path);
    let entries: Vec<Entry> = leases
        .into_iter()
        .filter(|lease| lease.host_ifname.is_some())
        .map(|lease| Entry {
            pod: lease.pod.or_else(|| names.get(&lease.address).cloned()),
            key: lease.key,
            address: lease.address,
            since: lease.since,
        })
        .collect();
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)
        .and_then(|()| record::write(path, &entries))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    println!("{} names {} pods", path.display(), entries.len());
    Ok(())
}

/// Pods that the running agent knew by name only from the Kubernetes API: it wrote them down here.
fn names(path: &Path) -> BTreeMap<IpAddr, PodRef> {
    let Ok(Incumbent::Read { allocations, is_ours: true, .. }) = Incumbent::read(path) else {
        return BTreeMap::new();
    };
    let named = |Allocation { pod, address, .. }: Allocation| Some((address, pod?));
    allocations.into_iter().filter_map(named).collect()
}

fn wait_for_incumbent(config: &Config, patience: Duration) -> anyhow::Result<()> {
    let socket = presence::socket(&config.incumbent_checkpoint);
    let deadline = Instant::now() + patience;
    println!("translation and filters stay until aws-node answers");
    // Its agent listens when its rules are in place.
    while presence::answers(&socket, &config.cni_conf_dir).is_none() {
        if Instant::now() >= deadline {
            bail!(
                "aws-node does not answer on this node after {} s: our translation and filters stay; repeat this \
                 with --wait, or without it to remove them now",
                patience.as_secs()
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
