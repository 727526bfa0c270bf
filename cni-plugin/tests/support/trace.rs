//! The plugin, system call by system call: what it asks the kernel, and an end to it at any of them.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    os::unix::{fs::FileExt, process::CommandExt},
    path::Path,
    process::Child,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    libc,
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::Value;

use super::{Node, Outcome, Sandbox};

/// Calls that change or tell something outside of the process; it cannot matter at which of the others it ends.
const TELLING: [i64; 11] = [
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_setns,
    libc::SYS_openat,
];

/// A netlink request of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// `RTM_…`.
    pub(crate) kind: u16,
    /// It asks for all objects of its kind.
    pub(crate) dump: bool,
}

/// What a run did.
#[derive(Debug)]
pub(crate) struct Traced {
    /// How it ended; none where it was killed.
    pub(crate) outcome: Option<Outcome>,
    /// Calls of [`TELLING`] that it began.
    pub(crate) calls: usize,
    /// Every netlink message that it sent.
    pub(crate) asked: Vec<Asked>,
}

/// Runs a verb and kills it as it begins the call of this number (from 0), or lets it end.
pub(crate) fn run(
    node: &Node,
    verb: &str,
    sandbox: &Sandbox,
    conf: &Value,
    kill_at: Option<usize>,
) -> Result<Traced> {
    // The thread that starts the plugin is the one that may trace it.
    node.ns.run(|| {
        let mut command = node.command(verb, sandbox, Some(sandbox.ns.path()));
        // SAFETY: PTRACE_TRACEME is one system call; nothing is allocated between fork and exec.
        unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
        let child = super::start(&mut command, conf)?;
        let traced = follow(child, kill_at);
        traced.with_context(|| format!("{verb} traced, to be killed at call {kill_at:?}"))
    })
}

fn follow(mut child: Child, kill_at: Option<usize>) -> Result<Traced> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    ensure!(matches!(waitpid(pid, None)?, WaitStatus::Stopped(_, Signal::SIGTRAP)), "no stop at exec");
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL)?;
    let mut memory = File::open(Path::new("/proc").join(pid.to_string()).join("mem"))?;
    let (mut calls, mut asked, mut netlink) = (0, Vec::new(), BTreeSet::new());
    let mut opened = false;
    let mut signal = None;
    let success = loop {
        ptrace::syscall(pid, signal.take())?;
        match waitpid(pid, None)? {
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Stopped(_, other) => {
                signal = Some(other);
                continue;
            }
            WaitStatus::Exited(_, code) => break code == 0,
            other => bail!("{other:?}"),
        }
        match stop(pid)? {
            Stop::Entry(number, arguments) => {
                if TELLING.contains(&number) {
                    if kill_at == Some(calls) {
                        child.kill()?;
                        child.wait()?;
                        return Ok(Traced { outcome: None, calls, asked });
                    }
                    calls += 1;
                }
                opened =
                    number == libc::SYS_socket && arguments[0] == u64::from(libc::AF_NETLINK.cast_unsigned());
                if netlink.contains(&arguments[0]) {
                    asked.extend(messages(&mut memory, number, &arguments)?);
                }
            }
            Stop::Exit(result) => {
                if opened && result >= 0 {
                    netlink.insert(u64::try_from(result)?);
                }
                opened = false;
            }
        }
    };
    // It ended before it was waited for by std, which cannot know: only its output is left.
    let mut stdout = String::new();
    child.stdout.take().context("stdout is a pipe")?.read_to_string(&mut stdout)?;
    Ok(Traced { outcome: Some(Outcome { success, stdout }), calls, asked })
}

enum Stop {
    Entry(i64, [u64; 6]),
    Exit(i64),
}

fn stop(pid: Pid) -> Result<Stop> {
    let info = ptrace::syscall_info(pid)?;
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says which member of the union the kernel wrote.
            let entry = unsafe { info.u.entry };
            Ok(Stop::Entry(i64::try_from(entry.nr)?, entry.args))
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: as above.
            let exit = unsafe { info.u.exit };
            Ok(Stop::Exit(exit.sval))
        }
        other => bail!("a stop of kind {other}"),
    }
}

/// The netlink messages that a call sends: their headers, one after the other in the buffer.
fn messages(memory: &mut File, number: i64, arguments: &[u64; 6]) -> Result<Vec<Asked>> {
    let (address, length) = match number {
        libc::SYS_sendto => (arguments[1], arguments[2]),
        // struct msghdr: name, name length (and padding), vector, count; the vector's first entry.
        libc::SYS_sendmsg => {
            let vector = word(memory, arguments[1] + 16)?;
            (word(memory, vector)?, word(memory, vector + 8)?)
        }
        _ => return Ok(Vec::new()),
    };
    let mut buffer = vec![0; usize::try_from(length)?];
    memory.read_exact_at(&mut buffer, address)?;
    let (mut found, mut rest) = (Vec::new(), &buffer[..]);
    while let [a, b, c, d, e, f, g, h, ..] = *rest {
        let flags = i32::from(u16::from_ne_bytes([g, h]));
        let dump = flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        found.push(Asked { kind: u16::from_ne_bytes([e, f]), dump });
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d]))?.next_multiple_of(4);
        rest = rest.get(length.max(16)..).unwrap_or_default();
    }
    Ok(found)
}

fn word(memory: &mut File, address: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, address)?;
    Ok(u64::from_ne_bytes(bytes))
}
