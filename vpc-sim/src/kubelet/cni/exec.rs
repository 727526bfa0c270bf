//! One call of one plugin: environment, standard input, deadline, answer.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::CniError;

/// A call, ready to be made.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: &'static str,
    /// The executable's name.
    pub(super) plugin: &'a str,
    /// The directories it is looked for in, in their order.
    pub(super) path: &'a [PathBuf],
    /// CNI_* but for CNI_COMMAND and CNI_PATH.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) stdin: Vec<u8>,
    pub(super) deadline: Duration,
    pub(super) cancel: &'a CancellationToken,
}

/// How long to wait between looks at the clock and at the cancellation.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
struct Reported {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Call<'_> {
    /// Makes the call and returns what the plugin printed. The plugin runs in
    /// the calling thread's namespaces, and dies with that thread.
    pub(super) fn run(self) -> Result<Vec<u8>, CniError> {
        let executable = find(self.plugin, self.path)?;
        let failed = |source| CniError::Exec { plugin: self.plugin.to_owned(), source };
        let mut command = Command::new(executable);
        command
            .env("CNI_COMMAND", self.verb)
            .env("CNI_PATH", std::env::join_paths(self.path).unwrap_or_default())
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts goes with it when it is killed.
            .process_group(0);
        die_with_this_thread(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        let (status, stdout, stderr) = self.attend(&mut child)?;
        if status.success() {
            return Ok(stdout);
        }
        let (code, message) = match serde_json::from_slice::<Reported>(&stdout) {
            Ok(error) if error.details.is_empty() => (error.code, error.msg),
            Ok(error) => (error.code, format!("{}; {}", error.msg, error.details)),
            Err(_) => (
                0,
                format!(
                    "{status}, no error object: stdout {:?}, stderr {:?}",
                    String::from_utf8_lossy(&stdout),
                    String::from_utf8_lossy(&stderr)
                ),
            ),
        };
        Err(CniError::Plugin { plugin: self.plugin.to_owned(), verb: self.verb, code, message })
    }

    /// Feeds the plugin and reads it to its end, or kills it.
    fn attend(&self, child: &mut Child) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), CniError> {
        let failed = |source| CniError::Exec { plugin: self.plugin.to_owned(), source };
        let began = Instant::now();
        let (sender, receiver) = mpsc::channel();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let input = self.stdin.clone();
        // Threads of their own, and not joined: a grandchild can hold a pipe open
        // beyond any deadline.
        std::thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                // A plugin that does not read its input says so by its answer.
                let _ = stdin.write_all(&input);
            }
        });
        let error_sender = sender.clone();
        std::thread::spawn(move || {
            let _ = sender.send((true, read_all(stdout)));
        });
        std::thread::spawn(move || {
            let _ = error_sender.send((false, read_all(stderr)));
        });
        let (mut output, mut errors) = (None, None);
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok((true, bytes)) => output = Some(bytes.map_err(failed)?),
                Ok((false, bytes)) => errors = Some(bytes.map_err(failed)?),
                Err(_) => {}
            }
            if let (Some(output), Some(errors)) = (&mut output, &mut errors) {
                let status = child.wait().map_err(failed)?;
                return Ok((status, std::mem::take(output), std::mem::take(errors)));
            }
            let late = began.elapsed() >= self.deadline;
            if late || self.cancel.is_cancelled() {
                kill_group(child);
                child.wait().map_err(failed)?;
                let plugin = self.plugin.to_owned();
                return Err(if late {
                    CniError::Deadline { plugin, verb: self.verb, deadline: self.deadline }
                } else {
                    CniError::Cancelled { plugin, verb: self.verb }
                });
            }
        }
    }
}

/// The first file of the plugin's name in the directories of `path`.
pub(super) fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CniError> {
    path.iter()
        .map(|dir| dir.join(plugin))
        .find(|file| file.is_file())
        .ok_or_else(|| CniError::NoPlugin { name: plugin.to_owned(), searched: path.to_vec() })
}

fn read_all(pipe: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn kill_group(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()) else {
        return;
    };
    // It is not waited for yet, so the number is still its own.
    if let Err(error) =
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
    {
        tracing::debug!(%error, pid, "kill a plugin");
    }
}

/// Lets the kernel kill the command when the thread that starts it ends, so
/// that none is left when this process is killed. What the command itself has
/// started then ends by itself, as under any runtime that is killed.
#[expect(unsafe_code, reason = "std has no safe way to set the parent death signal of a child")]
fn die_with_this_thread(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call,
    // prctl, which is async-signal-safe; it neither allocates nor locks.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into)
        });
    }
}
