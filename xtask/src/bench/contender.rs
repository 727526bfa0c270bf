//! Who is measured: a plugin, its configuration, and sandboxes of its own.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kernel_test::NetNs;
use nix::sched::{CloneFlags, setns, unshare};
use serde::Deserialize;
use serde_json::{Value, json};

use super::node::{BenchNode, Pod};
use crate::demo::scratch::Scratch;
use crate::demo::simulation::inside_node;

/// The name of what this project makes.
pub(super) const OURS: &str = "tidepool";

/// The namespaces that calls are made in.
#[derive(Debug)]
pub(super) struct Place {
    net: File,
    mnt: Option<File>,
    /// Where they are made for one contender only.
    _held: Option<NetNs>,
}

/// A sandbox whose namespace was made before anything is measured.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) netns: NetNs,
    /// The pod that it is of.
    pub(super) pod: Pod,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// As seen from there.
    pub(super) program: PathBuf,
    /// `CNI_PATH`, for plugins that call others.
    pub(super) cni_path: PathBuf,
    pub(super) conf: Vec<u8>,
    /// Made before a turn begins and gone with it: for plugins whose DEL leaves
    /// its link to the end of the namespace.
    pub(super) fresh: bool,
    pub(super) sandboxes: Vec<Sandbox>,
}

/// Another plugin on a node that stands already, as `--beside` describes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beside {
    name: String,
    /// Namespaces of its node.
    net: PathBuf,
    mnt: PathBuf,
    /// As seen from there.
    program: PathBuf,
    cni_path: PathBuf,
    conf: Value,
}

impl Contender {
    /// This project's plugin and the agent of `node`.
    pub(super) fn tidepool(node: &BenchNode, plugin: &Path, pods: usize) -> Result<Self> {
        Ok(Self {
            name: OURS,
            place: Place::of_node(node)?,
            program: inside_node(plugin),
            cni_path: "/opt/cni/bin".into(),
            conf: node.conf()?.to_string().into_bytes(),
            fresh: false,
            sandboxes: sandboxes(pods, |place| node.pod(place))?,
        })
    }

    /// A program that does nothing, in the same place: what calling costs.
    pub(super) fn process(node: &BenchNode, pods: usize) -> Result<Self> {
        Ok(Self {
            name: "a process (/bin/true)",
            place: Place::of_node(node)?,
            program: "/bin/true".into(),
            cni_path: PathBuf::new(),
            conf: Vec::new(),
            fresh: false,
            sandboxes: sandboxes(pods, |place| node.pod(place))?,
        })
    }

    /// Debian's bridge and host-local.
    pub(super) fn bridge(plugins: &Path, scratch: &Scratch, pods: usize) -> Result<Self> {
        let program = plugins.join("bridge");
        ensure!(
            program.exists(),
            "{} is missing; install containernetworking-plugins, or leave it out by --only",
            program.display()
        );
        let held = NetNs::new()?;
        let conf = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0", "isGateway": true,
            "ipam": {
                "type": "host-local", "subnet": "10.244.0.0/20", "dataDir": scratch.file("host-local"),
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        Ok(Self {
            name: "bridge + host-local",
            place: Place { net: open(held.path())?, mnt: None, _held: Some(held) },
            program,
            cni_path: plugins.to_owned(),
            conf: conf.to_string().into_bytes(),
            fresh: false,
            sandboxes: sandboxes(pods, |place| Ok(Pod::nameless(place)))?,
        })
    }

    /// The plugin that a file describes.
    pub(super) fn beside(file: &Path, pods: usize) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let given: Beside =
            serde_json::from_str(&text).with_context(|| format!("{} is wrong", file.display()))?;
        Ok(Self {
            name: given.name.leak(),
            place: Place { net: open(&given.net)?, mnt: Some(open(&given.mnt)?), _held: None },
            program: given.program,
            cni_path: given.cni_path,
            conf: given.conf.to_string().into_bytes(),
            fresh: true,
            sandboxes: sandboxes(pods, |place| Ok(Pod::nameless(place)))?,
        })
    }

    /// Its sandboxes anew, where it needs that.
    pub(super) fn refresh(&mut self) -> Result<()> {
        if self.fresh {
            for sandbox in &mut self.sandboxes {
                sandbox.netns = NetNs::new()?;
            }
        }
        Ok(())
    }

    pub(super) fn is_ours(&self) -> bool {
        self.name == OURS
    }
}

impl Place {
    fn of_node(node: &BenchNode) -> Result<Self> {
        let (net, mnt) = node.namespaces();
        Ok(Self { net: open(net)?, mnt: Some(open(mnt)?), _held: None })
    }

    /// Moves the calling thread inside, for good.
    pub(super) fn enter(&self) -> Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
        if let Some(mnt) = &self.mnt {
            // A thread that shares root and working directory with others may
            // not change its mount namespace.
            unshare(CloneFlags::CLONE_FS).context("taking a file system state of its own")?;
            setns(mnt, CloneFlags::CLONE_NEWNS).context("entering a mount namespace")?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn sandboxes(count: usize, pod: impl Fn(usize) -> Result<Pod>) -> Result<Vec<Sandbox>> {
    (0..count).map(|place| Ok(Sandbox { netns: NetNs::new()?, pod: pod(place)? })).collect()
}

/// The plugin's own object of a conflist, as a runtime hands it on.
pub(super) fn first_plugin(conflist: &Value) -> Result<Value> {
    let mut conf = conflist["plugins"].get(0).cloned().context("a conflist without plugins")?;
    conf["name"] = conflist["name"].clone();
    conf["cniVersion"] = conflist["cniVersion"].clone();
    Ok(conf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_told_what_the_list_says() {
        let list =
            json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "a", "x": 1}, {"type": "b"}]});
        let conf = first_plugin(&list).expect("there is one");
        assert_eq!(conf, json!({"type": "a", "x": 1, "name": "n", "cniVersion": "1.0.0"}));
    }
}
