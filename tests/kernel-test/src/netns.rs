//! Network namespaces that belong to one test and die with it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace without a name, held by a thread of its own: it is gone
/// when the value is dropped and when the process is killed.
#[derive(Debug)]
pub struct NetNs {
    net: PathBuf,
    /// Set for a namespace made by [`NetNs::with_mounts`].
    mnt: Option<PathBuf>,
    /// Dropping it wakes the holding thread, which then ends.
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl NetNs {
    /// A new, empty network namespace; its loopback link is down.
    pub fn new() -> Result<Self> {
        Self::hold(CloneFlags::CLONE_NEWNET)
    }

    /// A new network namespace together with a mount namespace, in which
    /// nothing that is mounted is seen outside.
    pub fn with_mounts() -> Result<Self> {
        Self::hold(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
    }

    fn hold(flags: CloneFlags) -> Result<Self> {
        let (release, held) = mpsc::channel::<()>();
        let (report, ready) = mpsc::channel();
        let holder = std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let made = make_namespaces(flags);
                let go_on = made.is_ok();
                // The receiver waits below for exactly this message.
                let _ = report.send(made.map(|()| nix::unistd::gettid()));
                if go_on {
                    // Ends with an error when the owner drops its sender.
                    let _ = held.recv();
                }
            })
            .context("starting the thread that holds a namespace")?;
        let tid = ready.recv().context("the thread that holds a namespace ended")??;
        // By number and not /proc/self: other processes read these paths too.
        let ns = PathBuf::from(format!("/proc/{}/task/{tid}/ns", std::process::id()));
        Ok(Self {
            net: ns.join("net"),
            mnt: flags.contains(CloneFlags::CLONE_NEWNS).then(|| ns.join("mnt")),
            release: Some(release),
            holder: Some(holder),
        })
    }

    /// The file that stands for the network namespace; good for `setns`,
    /// `nsenter --net=` and CNI_NETNS of any process while this value lives.
    pub fn path(&self) -> &std::path::Path {
        &self.net
    }

    /// The file of the mount namespace, where there is one.
    pub fn mount_path(&self) -> Option<&std::path::Path> {
        self.mnt.as_deref()
    }

    /// Runs `work` on a thread inside the namespaces and returns its value.
    /// Sockets opened and processes started there stay there.
    ///
    /// # Panics
    /// Where `work` panics, and where the namespace can't be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    if let Err(error) = self.enter() {
                        panic!("{error:?}");
                    }
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command inside and returns its standard output; its failure is
    /// an error with its standard error in it.
    pub fn output(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .run(|| Command::new(command).args(arguments).output())
            .with_context(|| format!("running {command}"))?;
        ensure!(
            output.status.success(),
            "{command} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command inside that reads `input`; its failure is an error with its
    /// standard error in it.
    pub fn input(&self, command: &str, arguments: &[&str], input: &str) -> Result<String> {
        let piped = Stdio::piped;
        let mut child = self
            .run(|| {
                Command::new(command).args(arguments).stdin(piped()).stdout(piped()).stderr(piped()).spawn()
            })
            .with_context(|| format!("running {command}"))?;
        let mut pipe = child.stdin.take().context("its input")?;
        let output = std::thread::scope(|scope| {
            // A command that ends early tells why by itself.
            scope.spawn(move || pipe.write_all(input.as_bytes()));
            child.wait_with_output()
        })?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs lines of `ip` commands inside, as `ip -batch` reads them.
    pub fn ip(&self, lines: &str) -> Result<()> {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            self.output("ip", &words)?;
        }
        Ok(())
    }

    /// Moves the calling thread inside, for good.
    fn enter(&self) -> Result<()> {
        let net = File::open(&self.net).with_context(|| format!("opening {:?}", self.net))?;
        setns(net, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
        if let Some(path) = &self.mnt {
            let mnt = File::open(path).with_context(|| format!("opening {path:?}"))?;
            // A thread that shares its root and working directory with others
            // may not change its mount namespace.
            unshare(CloneFlags::CLONE_FS).context("taking a file system state of its own")?;
            setns(mnt, CloneFlags::CLONE_NEWNS).context("entering the mount namespace")?;
        }
        Ok(())
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(holder) = self.holder.take() {
            // It only waits and returns; it cannot have panicked.
            let _ = holder.join();
        }
    }
}

fn make_namespaces(flags: CloneFlags) -> Result<()> {
    match unshare(flags) {
        Ok(()) => {}
        Err(nix::errno::Errno::EPERM) => bail!("a new namespace needs root"),
        Err(errno) => return Err(anyhow!(errno).context("making a namespace")),
    }
    if flags.contains(CloneFlags::CLONE_NEWNS) {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("making all mounts private")?;
    }
    Ok(())
}
