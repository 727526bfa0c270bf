//! containerd and runc inside a node of the simulated VPC.
//!
//! They live in the node's network and in a copy of its mount namespace, with process ids and System V objects of
//! their own, as on a machine of their own: directories are where every node has them. One shell is the first
//! process; it starts containerd again when it ends, as systemd would. Killing that shell ends all of it.
//!
//! What differs from a real node: cgroups are made directly and not by systemd; `restrict_oom_score_adj`, since
//! containers of a machine without CAP_SYS_RESOURCE cannot have less than their creator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cri::Cri;
use super::image::BUSYBOX;
use crate::world::World;

/// Where the plugins of the distribution are.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";
const CGROUPS: &str = "/sys/fs/cgroup";

/// A runtime that runs. Dropping it ends every container of the node.
#[derive(Debug)]
pub struct Containerd {
    pub node: String,
    pub cri: Cri,
    /// The parent of all its containers' cgroups, in every hierarchy.
    pub cgroup_parent: String,
    /// Its log, its configuration, and the logs of containers.
    pub dir: PathBuf,
    shell: Child,
}

impl Containerd {
    /// Starts the runtime of a node, which finds the distribution's `plugins` in /opt/cni/bin. It ends with the thread
    /// that starts it.
    pub fn start(world: &World, node: &str, dir: &Path, plugins: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(dir.join("logs"))?;
        for plugin in plugins {
            // Copies: inside a container a link would lead nowhere.
            world.inside(node, &["cp", &format!("{DEBIAN_PLUGINS}/{plugin}"), "/opt/cni/bin/"])?;
        }
        let socket = dir.join("containerd.sock");
        fs::write(dir.join("config.toml"), configuration(&socket))?;
        fs::write(dir.join("init.sh"), script(dir))?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        sweep();
        let cgroup_parent = format!("/{PREFIX}{}-{number}", std::process::id());
        let shell = world
            .command(node, "unshare")?
            .args(["--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "sh"])
            .arg(dir.join("init.sh"))
            // It complains about the signal that ends its child.
            .stderr(Stdio::null())
            .spawn()
            .context("starting a runtime")?;
        let cri = Cri::new(&socket)?;
        let runtime = Self { node: node.to_owned(), cri, cgroup_parent, dir: dir.to_owned(), shell };
        runtime.wait_until_up()?;
        Ok(runtime)
    }

    /// Waits until it answers.
    pub fn wait_until_up(&self) -> Result<()> {
        wait_for("containerd answers", Duration::from_secs(30), || {
            self.cri.status().ok().filter(|(runtime, _)| *runtime).map(drop)
        })
        .with_context(|| self.log())
    }

    /// Takes an image in.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.dir.join("containerd.sock"))
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .context("starting ctr")?;
        ensure!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
        Ok(())
    }

    /// The first process of the node, as this process sees it.
    pub fn init(&self) -> Result<u32> {
        let parent = self.shell.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        Ok(children.split_whitespace().next().context("the runtime has ended")?.parse()?)
    }

    /// A path of the node as the runtime sees it, with the mounts that it made.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init()?)))
    }

    /// Processes of the node whose program has this name, as this process sees them.
    pub fn processes(&self, program: &str) -> Result<Vec<Pid>> {
        let own = fs::read_link(format!("/proc/{}/ns/pid", self.init()?))?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let is_ours = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|ns| ns == own);
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (true, true, Some(pid)) = (is_ours, name.trim() == program, pid) {
                found.push(Pid::from_raw(pid));
            }
        }
        Ok(found)
    }

    /// Kills containerd, not its containers, and waits until it is back.
    pub fn kill_containerd(&self) -> Result<()> {
        let before = self.processes("containerd")?;
        ensure!(!before.is_empty(), "no containerd runs");
        before.iter().try_for_each(|pid| kill(*pid, Signal::SIGKILL))?;
        wait_for("another containerd runs", Duration::from_secs(30), || {
            let now = self.processes("containerd").ok()?;
            (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
        })?;
        self.wait_until_up()
    }

    /// A process of a container, as this process sees it: the first one of its cgroup.
    pub fn process_of(&self, container: &str) -> Result<Pid> {
        let processes = self.cgroup_file(container, "pids", &["cgroup.procs"])?;
        let first = processes.split_whitespace().next().context("the container has ended")?;
        Ok(Pid::from_raw(first.parse()?))
    }

    /// How much memory the cgroup of a container may have, in bytes.
    pub fn memory_limit_of(&self, container: &str) -> Result<u64> {
        let limit = self.cgroup_file(container, "memory", &["memory.limit_in_bytes", "memory.max"])?;
        Ok(limit.trim().parse()?)
    }

    /// A file of a container's cgroup: in the hierarchy of its controller, or in the only one.
    fn cgroup_file(&self, container: &str, controller: &str, names: &[&str]) -> Result<String> {
        let dirs = [Path::new(CGROUPS).join(controller), CGROUPS.into()]
            .map(|path| path.join(self.cgroup_parent.trim_start_matches('/')).join(container));
        let mut files = dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
        let found = files.find_map(|file| fs::read_to_string(file).ok());
        found.with_context(|| format!("none of {dirs:?} has {names:?}"))
    }

    /// The cgroups of its containers that are there, in all hierarchies.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let dirs = |path: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        };
        let mut found: Vec<PathBuf> = hierarchies()
            .iter()
            .flat_map(|hierarchy| dirs(&hierarchy.join(self.cgroup_parent.trim_start_matches('/'))))
            .collect();
        found.sort();
        found
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The first process of a process id namespace takes all others along, which ends the shell's parent too.
        if let Some(init) = self.init().ok().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(init), Signal::SIGKILL);
        } else {
            let _ = self.shell.kill();
        }
        let _ = self.shell.wait();
        let _ = wait_for("the node's cgroups are gone", Duration::from_secs(15), || {
            // A cgroup can be removed when its last process is reaped.
            self.cgroups().iter().for_each(|path| drop(fs::remove_dir(path)));
            self.cgroups().is_empty().then_some(())
        });
        for hierarchy in hierarchies() {
            let _ = fs::remove_dir(hierarchy.join(self.cgroup_parent.trim_start_matches('/')));
        }
    }
}

/// What the names of our cgroups begin with; the id of the test's process follows.
const PREFIX: &str = "tidepool-test-";

/// Where hierarchies of cgroups are mounted: one for each controller, or one for all.
fn hierarchies() -> Vec<PathBuf> {
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).chain([CGROUPS.into()]).collect()
}

/// Removes the cgroups of tests that were killed: nothing else outlives those.
fn sweep() {
    let dirs = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for parent in hierarchies().into_iter().flat_map(dirs) {
        let name = parent.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let test = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if test.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One with processes refuses, and is somebody's.
            dirs(parent.clone()).filter(|path| path.is_dir()).for_each(|path| drop(fs::remove_dir(path)));
            let _ = fs::remove_dir(parent);
        }
    }
}

fn configuration(socket: &Path) -> String {
    format!(
        r#"version = 2
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{BUSYBOX}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"#,
        socket = socket.display()
    )
}

fn script(dir: &Path) -> String {
    format!(
        "mount --make-rshared /
while :; do
  containerd --config {dir}/config.toml >>{dir}/containerd.log 2>&1 &
  wait $!
  sleep 0.2
done
",
        dir = dir.display()
    )
}
