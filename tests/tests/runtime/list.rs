//! A network list that leads the plugin's talk with the agent over a proxy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
use system_tests::containerd::pods::Cluster;
use system_tests::containerd::proxy::Proxy;

/// A program that waits until it is killed.
pub(crate) const HOLDER: &str = "cat";

/// A network list of the first node that sorts before the agent's: the same plugin, whose socket is a proxy's.
pub(crate) struct List {
    pub(crate) proxy: Proxy,
    text: Value,
    fifo: PathBuf,
}

/// Where it lies on the node.
const LIST: &str = "/etc/cni/net.d/00-test.conflist";

impl List {
    pub(crate) fn new(cluster: &Cluster) -> Result<Self> {
        let runtime = &cluster.nodes[0].runtime;
        let socket = runtime.dir.join("proxy.sock");
        let proxy = Proxy::start(socket, runtime.path("/run/tidepool/agent.sock")?)?;
        let theirs = cluster.world.inside("node-1", &["cat", "/etc/cni/net.d/05-tidepool.conflist"])?;
        let mut text: Value = serde_json::from_str(&theirs)?;
        text["plugins"][0]["socket"] = proxy.socket.display().to_string().into();

        // A plugin that never ends when it is asked to ADD, and does nothing when it is asked to DEL.
        let fifo = runtime.dir.join("never");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
        let script = format!("#!/bin/sh\n[ \"$CNI_COMMAND\" != ADD ] || exec {HOLDER} {}\n", fifo.display());
        let plugin = runtime.path("/opt/cni/bin/hold")?;
        fs::write(&plugin, script)?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        Ok(Self { proxy, text, fifo })
    }

    /// Puts it there, with the plugin that never ends where it is to be `held`, and waits until the runtime has read it.
    pub(crate) fn put(&self, cluster: &Cluster, held: bool) -> Result<()> {
        let mut text = self.text.clone();
        if let (true, Some(plugins)) = (held, text["plugins"].as_array_mut()) {
            plugins.insert(1, serde_json::json!({"type": "hold"}));
        }
        fs::write(cluster.nodes[0].runtime.path(LIST)?, text.to_string())?;
        self.wait(cluster, true, held)
    }

    pub(crate) fn remove(&self, cluster: &Cluster) -> Result<()> {
        fs::remove_file(cluster.nodes[0].runtime.path(LIST)?)?;
        self.wait(cluster, false, false)
    }

    fn wait(&self, cluster: &Cluster, proxied: bool, held: bool) -> Result<()> {
        let socket = self.proxy.socket.display().to_string();
        cluster.world.wait("the runtime has read the network list", || {
            let read = cluster.nodes[0].runtime.cri.networks().ok()?;
            let ours = read.contains("tidepool-cni") && read.contains(&socket) == proxied;
            (ours && read.contains(r#""hold""#) == held).then_some(())
        })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.fifo);
    }
}
