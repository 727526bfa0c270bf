//! Child processes: run to the end, or tied to our own life.

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// How often an ending child is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs a command to its end; its standard output goes to our standard error,
/// which is where progress belongs.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if status.success() { Ok(()) } else { bail!("{}: {status}", line(command)) }
}

/// Like [`run`], but a failure of the command is the caller's to judge.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("starting {}", line(command)))
}

/// Runs a command and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", line(command)))?;
    if !output.status.success() {
        bail!("{}: {}\n{}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A child that the kernel kills when the thread that started it ends, however
/// it ends; so it must be started from the main thread.
///
/// `setpriv` sets that flag before it becomes the command, which keeps this
/// crate free of unsafe code.
pub(crate) fn tied(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a child that can be ended by any signal: it would inherit those that
/// this thread holds back.
fn spawn_unmasked(command: &mut Command) -> io::Result<Child> {
    let ours = SigSet::thread_get_mask()?;
    SigSet::empty().thread_set_mask()?;
    let child = command.spawn();
    ours.thread_set_mask()?;
    child
}

/// A child that is ended with its owner.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    child: Child,
    grace: Duration,
}

impl Service {
    /// Starts a command made by [`tied`]; at the end it has `grace` to end by
    /// itself after SIGTERM.
    pub(crate) fn start(name: &str, command: &mut Command, grace: Duration) -> Result<Self> {
        let child = spawn_unmasked(command).with_context(|| format!("starting {}", line(command)))?;
        Ok(Self { name: name.to_owned(), child, grace })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipe from its standard output, once.
    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end and waits; kills it when its grace is over.
    pub(crate) fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended since; then there is nothing to signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let start = Instant::now();
        while self.ended().is_none() {
            if start.elapsed() > self.grace {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}
