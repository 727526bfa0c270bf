//! `cargo xtask demo` as a child, in a session of its own by which everything
//! that it started can be found again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Generous: it takes a tenth of it on an idle machine.
pub const BOUND: Duration = Duration::from_secs(180);

/// The folder with the binaries, which `cargo xtask test` names.
pub fn bin_dir() -> Result<PathBuf> {
    std::env::var_os("TIDEPOOL_BIN_DIR").map(PathBuf::from).context("TIDEPOOL_BIN_DIR is not set")
}

/// A demo that runs.
#[derive(Debug)]
pub struct Demo {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    /// Lines of standard error so far.
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Demo {
    /// Starts it with binaries that are built already. It is killed when the
    /// calling thread ends, whatever happens to it.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let bin_dir = bin_dir()?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "setsid"])
            .arg(bin_dir.join("xtask"))
            .args(["demo", "--bin-dir"])
            .arg(&bin_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting the demo")?;
        let mut out = child.stdout.take().context("no standard output")?;
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            // An unreadable end shows as a document that does not parse.
            let _ = out.read_to_string(&mut text);
            text
        });
        let lines = Arc::new(Mutex::new(Vec::new()));
        let err = child.stderr.take().context("no standard error")?;
        let seen = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { child, stdout: Some(stdout), stderr: lines })
    }

    /// Its process id, which is that of its session too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on standard error so far.
    pub fn said(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rest of the first line that has `word`, once there is one.
    pub fn wait_for_line(&mut self, word: &str) -> Result<String> {
        let found = wait_for(&format!("the demo says {word:?}"), BOUND, || {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            let line = self.said().into_iter().find(|line| line.contains(word));
            match (line, ended) {
                (Some(line), _) => Some(Ok(line)),
                (None, true) => Some(Err(())),
                (None, false) => None,
            }
        })?;
        let line = found.map_err(|()| anyhow::anyhow!("the demo ended:\n{}", self.said().join("\n")))?;
        Ok(line.split_once(word).map(|(_, rest)| rest.trim().to_owned()).unwrap_or_default())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Waits for its end; returns how it ended and its standard output.
    pub fn end(&mut self) -> Result<(ExitStatus, String)> {
        let status = wait_for("the demo ends", BOUND, || self.child.try_wait().ok().flatten())
            .with_context(|| self.said().join("\n"))?;
        let output = self.stdout.take().map(JoinHandle::join);
        let output = output.and_then(Result::ok).context("its standard output was read already")?;
        Ok((status, output))
    }

    /// Waits until no process of its session is left.
    pub fn wait_until_gone(&self) -> Result<()> {
        let session = self.pid();
        let mut left = Vec::new();
        wait_for("every process of the demo is gone", Duration::from_secs(30), || {
            left = processes_of(session);
            left.is_empty().then_some(())
        })
        .with_context(|| format!("left: {left:?}"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // A test that failed meanwhile must not leave it running.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Processes of a session: id and command line. One that has ended and whose
/// parent has not looked yet holds nothing.
pub fn processes_of(session: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // pid (name, which may hold anything) state ppid pgrp session …
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let (state, its) =
            (fields.first().copied(), fields.get(3).and_then(|field| field.parse::<u32>().ok()));
        if its == Some(session) && state != Some("Z") {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, line.replace('\0', " ")));
        }
    }
    found
}

/// What a demo could leave on the machine beside processes.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    named_namespaces: BTreeSet<PathBuf>,
    pins: BTreeSet<PathBuf>,
}

impl Traces {
    /// Those that are there now, as our own namespaces show them.
    pub fn now() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?
            .lines()
            // The id and the parent's id are numbered anew; the rest stays.
            .map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" "))
            .collect();
        let links =
            names(Path::new("/sys/class/net")).into_iter().map(|path| path.display().to_string()).collect();
        Ok(Self {
            mounts,
            links,
            named_namespaces: names(Path::new("/run/netns")),
            pins: names(Path::new("/sys/fs/bpf")),
        })
    }
}

fn names(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Folders of demos and simulators whose process is gone.
pub fn abandoned_folders(pid: u32) -> Vec<PathBuf> {
    names(&std::env::temp_dir())
        .into_iter()
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()) == Some(format!("tidepool-demo-{pid}").as_str())
        })
        .collect()
}

/// The document, checked for what holds in every demo.
pub fn check_document(text: &str) -> Result<Value> {
    ensure!(text.trim().lines().count() == 1, "not one line of JSON: {text}");
    let document: Value = serde_json::from_str(text.trim())?;
    ensure!(document["ok"] == true, "it says that it is not ok: {document:#}");
    Ok(document)
}
