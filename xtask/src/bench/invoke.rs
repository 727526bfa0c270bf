//! One call of one plugin, as a runtime makes it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::contender::{Contender, Sandbox};

/// A verb of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Add,
    Del,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// A container id that was never used: 64 hexadecimal digits, as containerd
/// makes them.
pub(super) fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:032x}{:032x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Calls from the calling thread's namespaces, from before the process is made
/// until it has ended and all that it printed is read. An error is what the
/// plugin said.
pub(super) fn call(
    contender: &Contender,
    verb: Verb,
    sandbox: &Sandbox,
    id: &str,
) -> Result<Duration, String> {
    let began = Instant::now();
    let failed = |error: std::io::Error| format!("{} {}: {error}", contender.name, verb.as_str());
    let mut child = Command::new(&contender.program)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb.as_str())
        .env("CNI_CONTAINERID", id)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", sandbox.netns.path())
        .env("CNI_ARGS", sandbox.pod.arguments(id))
        .env("CNI_PATH", &contender.cni_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input says so by its answer.
        let _ = stdin.write_all(&contender.conf);
    }
    let output = child.wait_with_output().map_err(failed)?;
    let took = began.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Err(format!("{} {}: {}: {}", contender.name, verb.as_str(), output.status, said.trim()))
}
