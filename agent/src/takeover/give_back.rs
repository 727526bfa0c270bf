//! `tidepool-agent uninstall`: the node goes back to aws-node, or to any other, and its pods run on.
//!
//! In this order, so that each step can be cut off and repeated:
//! 1. aws-node's checkpoint names every pod that runs, or it is told which it does not;
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

use super::conflist;
use super::presence::{self, Sockets};
use super::record::{self, Entry};
use crate::cause::chain;
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
    let standing = conflist::of_incumbent(&config.cni_conf_dir);
    println!("{}", told(if lists.is_empty() { &standing } else { &lists }));
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
        [] => "our conflist is gone; there is none of aws-node's, so that the node has no network until one comes"
            .into(),
        lists => format!(
            "our conflist is gone, {} is in place",
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

/// Writes aws-node's checkpoint from ours, or looks whether its own has everything that ours has.
fn hand_over_leases(config: &Config) -> anyhow::Result<()> {
    let path = &config.incumbent_checkpoint;
    let serves = Sockets::of(path).answer().is_some();
    let leases = match OnFile::read(&config.state_dir)? {
        // Never an agent, or this was done already.
        OnFile::Nothing => return Ok(()),
        OnFile::Incomplete if serves || is_untouched(config) => {
            println!(
                "not every pod was adopted: aws-node's checkpoint and list are its own still, and are left as they are"
            );
            return Ok(());
        }
        OnFile::Incomplete => bail!(
            "not every pod that runs on this node was adopted yet: start the agent, wait until it is ready, and \
             repeat this"
        ),
        OnFile::Leases(leases) => leases,
    };
    let names = names(path);
    let entries = leases.into_iter().filter_map(|lease| {
        let link = lease.host_ifname?;
        let pod = lease.pod.or_else(|| names.get(&lease.address).cloned());
        Some((link, Entry { pod, key: lease.key, address: lease.address, since: lease.since }))
    });
    if serves || record::is_superseded(&config.state_dir, path) {
        println!("aws-node has served this node since our agent did: its checkpoint is its own");
        let runs = |(link, entry): (String, Entry)| is_link(&link).then_some(entry);
        return compare(path, entries.filter_map(runs).collect(), serves);
    }
    let entries: Vec<Entry> = entries.map(|(_, entry)| entry).collect();
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)
        .and_then(|()| record::write(path, &entries))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    println!("{} names {} pods", path.display(), entries.len());
    Ok(())
}

/// Whether the node is aws-node's as before a take-over that never finished: no pod can have come by us.
fn is_untouched(config: &Config) -> bool {
    let file = Incumbent::read(&config.incumbent_checkpoint);
    matches!(file, Ok(Incumbent::Read { is_ours: false, .. }))
        && !conflist::of_incumbent(&config.cni_conf_dir).is_empty()
        && !config.cni_conf_dir.join(install::CONFLIST).exists()
}

fn is_link(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Sees to it that aws-node's own file at `path` has the pods that run by our leases. While it `serves` it reads its
/// file no more: then an operator has to know which pods it does not know.
fn compare(path: &Path, running: Vec<Entry>, serves: bool) -> anyhow::Result<()> {
    let known = match Incumbent::read(path) {
        Ok(Incumbent::Read { allocations, .. }) => allocations,
        Ok(Incumbent::Missing | Incumbent::Torn(_)) => Vec::new(),
        Err(error) => {
            eprintln!("WARNING: whether aws-node knows all pods that run is not known: {}", chain(&error));
            return Ok(());
        }
    };
    let (lost, twice) = unknown(running, &known);
    if !serves && !lost.is_empty() {
        record::amend(path, &lost).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{} did not have {}: added", path.display(), told_pods(&lost));
    } else if !lost.is_empty() {
        eprintln!(
            "WARNING: aws-node serves and does not know pods that run: {}; it may give their addresses to others: \
             delete these pods",
            told_pods(&lost)
        );
    }
    if !twice.is_empty() {
        eprintln!(
            "WARNING: aws-node has given addresses of pods that run to others: {}; delete these pods",
            told_pods(&twice)
        );
    }
    Ok(())
}

/// Which of those that run are not `known`, and whose address is known as another pod's.
fn unknown(running: Vec<Entry>, known: &[Allocation]) -> (Vec<Entry>, Vec<Entry>) {
    let name = |pod: &Option<PodRef>| pod.as_ref().map(|pod| (pod.namespace.clone(), pod.name.clone()));
    let (mut lost, mut twice) = (Vec::new(), Vec::new());
    for entry in running {
        let named = name(&entry.pod);
        match known.iter().find(|one| one.address == entry.address) {
            Some(one) if one.key == entry.key || (named.is_some() && name(&one.pod) == named) => {}
            // The pod of this name is another by now, with another address, on the link that the first one had.
            _ if named.is_some() && known.iter().any(|one| name(&one.pod) == named) => {}
            Some(_) => twice.push(entry),
            None => lost.push(entry),
        }
    }
    (lost, twice)
}

fn told_pods(entries: &[Entry]) -> String {
    let told = entries.iter().map(|Entry { key, pod, address, .. }| match pod {
        Some(pod) => format!("{}/{} ({address})", pod.namespace, pod.name),
        None => format!("sandbox {} ({address})", key.container_id),
    });
    told.collect::<Vec<_>>().join(", ")
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
    let sockets = Sockets::of(&config.incumbent_checkpoint);
    let deadline = Instant::now() + patience;
    println!("translation and filters stay until aws-node answers");
    // Its agent listens when its rules are in place.
    while sockets.answer().or_else(|| presence::port_answers(&config.cni_conf_dir)).is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::ipam::{Now, SandboxKey};

    /// All paths in one directory.
    struct In<'a>(&'a Path);

    impl Environment for In<'_> {
        fn get(&self, name: &str) -> Option<String> {
            let file = match name {
                "MY_NODE_NAME" => return Some("node-1".into()),
                "TIDEPOOL_STATE_DIR" => "run",
                "TIDEPOOL_CNI_CONF_DIR" => "net.d",
                "AWS_VPC_K8S_CNI_BACKING_STORE" => "ipam.json",
                _ => return None,
            };
            self.0.join(file).to_str().map(str::to_owned)
        }

        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn key(number: u8) -> SandboxKey {
        SandboxKey { network: "aws-cni".into(), container_id: format!("c{number}"), ifname: "eth0".into() }
    }

    fn pod(name: &str) -> Option<PodRef> {
        Some(PodRef { namespace: "shop".into(), name: name.into(), uid: None })
    }

    fn entry(number: u8, name: &str) -> Entry {
        Entry {
            key: key(number),
            pod: pod(name),
            address: IpAddr::from([10, 0, 0, number]),
            since: Now::default(),
        }
    }

    #[test]
    fn pods_that_aws_node_does_not_know_are_found_by_address_and_name() {
        let known = |container, name, address: u8| Allocation {
            key: key(container),
            pod: pod(name),
            address: IpAddr::from([10, 0, 0, address]),
        };
        // The second got its address again as another sandbox, the fourth is somebody else's, the fifth came anew
        // with another address on the same link.
        let theirs = [known(1, "a", 1), known(20, "b", 2), known(40, "new", 4), known(50, "e", 9)];
        let running = vec![entry(1, "a"), entry(2, "b"), entry(3, "c"), entry(4, "d"), entry(5, "e")];
        let (lost, twice) = unknown(running, &theirs);
        assert_eq!(told_pods(&lost), "shop/c (10.0.0.3)");
        assert_eq!(told_pods(&twice), "shop/d (10.0.0.4)");
    }

    #[test]
    fn what_its_file_lacks_is_added_while_it_is_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ipam.json");
        let text = r#"{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"aws-cni","containerID":"c1",
            "ifName":"eth0","ipv4":"10.0.0.1","allocationTimestamp":7,"metadata":{"interfacesCount":1}}]}"#;
        fs::write(&path, text).expect("written");
        compare(&path, vec![entry(1, "a"), entry(2, "b")], true).expect("told");
        assert_eq!(fs::read_to_string(&path).expect("there"), text, "it serves");
        compare(&path, vec![entry(1, "a"), entry(2, "b")], false).expect("done");
        let now: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(now["allocations"].as_array().map(Vec::len), Some(2));
        assert_eq!(now["allocations"][0]["allocationTimestamp"], 7, "as it wrote it");
        assert_eq!(now["allocations"][1]["metadata"]["k8sPodName"], "b");
        assert!(now.get("writer").is_none(), "its own still");
        fs::write(&path, r#"{"version":"vpc-cni-ipam/1","allocations":null}"#).expect("written");
        compare(&path, vec![entry(2, "b")], false).expect("as Go writes an empty list");
        assert!(fs::read_to_string(&path).expect("there").contains("10.0.0.2"));
    }

    #[test]
    fn a_take_over_that_never_finished_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let (config, _) = Config::read(&In(dir.path())).expect("usable");
        fs::create_dir(at("run")).and_then(|()| fs::create_dir(at("net.d"))).expect("fresh");
        fs::write(at("run").join(CHECKPOINT_FILE), "torn").expect("written");
        let own = r#"{"version":"vpc-cni-ipam/1","allocations":[]}"#;
        let refused = |when: &str| assert!(hand_over_leases(&config).is_err(), "{when}");
        refused("no file of its");
        fs::write(at("ipam.json"), own).expect("written");
        refused("no list of its");
        fs::write(at("net.d/10-aws.conflist"), r#"{"plugins":[{"type":"aws-cni"}]}"#).expect("written");
        hand_over_leases(&config).expect("all is its own");
        assert_eq!(fs::read_to_string(at("ipam.json")).expect("there"), own);
        fs::write(at("net.d").join(install::CONFLIST), "{}").expect("written");
        refused("pods came by us");
        fs::remove_file(at("net.d").join(install::CONFLIST)).expect("there");
        record::write(&at("ipam.json"), &[]).expect("written");
        refused("the file is ours");
    }
}
