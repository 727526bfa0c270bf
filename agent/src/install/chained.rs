//! Plugins of others that the conflist chains behind ours.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::Value;

/// What a plugin may take to say which versions it speaks; it answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes; a longer answer is none.
const LONGEST_ANSWER: usize = 64 * 1024;
/// The version of the list.
const USUAL: &str = "1.0.0";
/// The newest version of the specification that we speak.
const NEWEST: &str = "1.1.0";

/// Those that are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chained {
    /// `portmap`: hostPort.
    pub portmap: bool,
    /// `bandwidth`: the annotations `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`. Only where the kernel has
    /// tcx (Linux 6.6): without it our filters leave no room for the qdisc of an egress rate, and every such pod would
    /// be refused.
    pub bandwidth: bool,
    /// One of them does not say that it speaks 1.1.0. Runtimes that do choose one version for every plugin of the
    /// list, and containernetworking/plugins learnt this one in 1.6.
    pub outdated: bool,
}

impl Chained {
    /// Those in `bin_dir`, on a kernel with or without tcx. Blocks for as long as they take to tell their versions,
    /// four seconds at most.
    #[must_use]
    pub fn installed(bin_dir: &Path, has_tcx: bool) -> Self {
        let portmap = spoken(&bin_dir.join("portmap"));
        let bandwidth = if has_tcx { spoken(&bin_dir.join("bandwidth")) } else { Spoken::None };
        let outdated = [portmap, bandwidth].contains(&Spoken::Usual);
        Self { portmap: portmap != Spoken::None, bandwidth: bandwidth != Spoken::None, outdated }
    }
}

/// What can be asked of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// Nothing: it is not there, or too old for the list.
    None,
    /// The list's version.
    Usual,
    /// The newest, too.
    Newest,
}

/// One that cannot be run here (it may be linked against the node's libraries) is taken to speak the list's version.
fn spoken(plugin: &Path) -> Spoken {
    if !plugin.exists() {
        return Spoken::None;
    }
    let said = match supported(plugin) {
        Ok(said) => said,
        Err(error) => {
            tracing::info!(plugin = %plugin.display(), %error, "it does not tell which versions it speaks");
            return Spoken::Usual;
        }
    };
    let speaks = |version| {
        said["supportedVersions"].as_array().is_some_and(|all| all.iter().any(|one| one == version))
    };
    match (speaks(NEWEST), speaks(USUAL)) {
        (true, _) => Spoken::Newest,
        (false, true) => Spoken::Usual,
        (false, false) => {
            tracing::warn!(plugin = %plugin.display(), %said, "it does not speak {USUAL} and is not chained");
            Spoken::None
        }
    }
}

/// CNI's VERSION.
fn supported(plugin: &Path) -> std::io::Result<Value> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read may have answered already.
        let _ = stdin.write_all(br#"{"cniVersion":"1.0.0"}"#);
    }
    let mut stdout = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    let flags = OFlag::from_bits_retain(fcntl(&stdout, FcntlArg::F_GETFL)?);
    fcntl(&stdout, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let deadline = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    loop {
        // What it started may hold the pipe open for ever: its own end is the end of its answer.
        let ended = child.try_wait()?.is_some();
        read_available(&mut stdout, &mut answer)?;
        if ended {
            return Ok(serde_json::from_slice(&answer)?);
        }
        if Instant::now() >= deadline || answer.len() > LONGEST_ANSWER {
            child.kill()?;
            child.wait()?;
            return Err(ErrorKind::TimedOut.into());
        }
        std::thread::sleep(PAUSE);
    }
}

/// What is in the pipe now.
fn read_available(stdout: &mut impl Read, answer: &mut Vec<u8>) -> std::io::Result<()> {
    let mut chunk = [0; 4096];
    while answer.len() <= LONGEST_ANSWER {
        match stdout.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_plugin_says_what_it_speaks() {
        let bin = tempfile::tempdir().expect("a directory");
        assert_eq!(Chained::installed(bin.path(), true), Chained::default());
        let install = |name: &str, script: &str| {
            let path = bin.path().join(name);
            // Renamed into place: what is open for writing cannot be run.
            std::fs::write(path.with_extension("new"), script).expect("writable");
            std::fs::set_permissions(path.with_extension("new"), std::fs::Permissions::from_mode(0o755))
                .expect("ours");
            std::fs::rename(path.with_extension("new"), path).expect("the same directory");
        };
        let says = |versions: &str| {
            format!(
                "#!/bin/sh\n[ $CNI_COMMAND = VERSION ] && echo '{{\"supportedVersions\":[{versions}]}}'\n"
            )
        };
        install("portmap", &says(r#""1.0.0","1.1.0""#));
        let portmap = Chained { portmap: true, ..Chained::default() };
        assert_eq!(Chained::installed(bin.path(), true), portmap);
        let both = Chained { bandwidth: true, outdated: true, ..portmap };
        for script in [&says(r#""1.0.0""#), "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho nonsense\n", "no program"]
        {
            install("bandwidth", script);
            assert_eq!(Chained::installed(bin.path(), true), both, "{script}");
        }
        install("bandwidth", &says(r#""0.3.1""#));
        assert_eq!(Chained::installed(bin.path(), true), portmap, "too old for the list");
        install("bandwidth", &says(r#""1.1.0""#));
        assert_eq!(Chained::installed(bin.path(), true), Chained { outdated: false, ..both });
        assert_eq!(Chained::installed(bin.path(), false), portmap, "a kernel without tcx");
        // It leaves somebody behind who holds its output.
        let holder = bin.path().join("holder");
        let script =
            format!("#!/bin/sh\nsleep 60 &\necho $! > {}\n{}", holder.display(), &says(r#""1.0.0""#)[10..]);
        install("bandwidth", &script);
        let started = Instant::now();
        assert_eq!(Chained::installed(bin.path(), true), both);
        assert!(started.elapsed() < Duration::from_secs(30), "it waited for the one left behind");
        let pid = std::fs::read_to_string(holder).expect("written").trim().parse().expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("it sleeps still");
    }
}
