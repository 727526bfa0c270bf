//! The simulator as a child process, and the line it prints when it is ready.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::interrupt::Interrupt;
use super::scratch::Scratch;
use crate::process::{self, Service};

/// The document that `vpc-sim up` prints.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Up {
    /// URL of the EC2 API for anybody on this machine.
    pub(crate) ec2: String,
    /// URL of the control endpoint.
    pub(crate) control: String,
    /// File for kubectl on this machine.
    pub(crate) kubeconfig: PathBuf,
    pub(crate) vpc: Vpc,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Vpc {
    pub(crate) id: String,
    pub(crate) cidr: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Subnet {
    pub(crate) id: String,
    pub(crate) cidr: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) instance_id: String,
    pub(crate) instance_type: String,
    pub(crate) subnet_id: String,
    /// URLs and file as seen from inside the node.
    pub(crate) imds: String,
    pub(crate) ec2: String,
    pub(crate) kubeconfig: PathBuf,
    /// Absolute paths for nsenter.
    pub(crate) netns: PathBuf,
    pub(crate) mntns: PathBuf,
}

impl Up {
    /// The CIDR of a node's subnet.
    pub(crate) fn subnet_of(&self, node: &Node) -> Option<&str> {
        self.subnets.iter().find(|subnet| subnet.id == node.subnet_id).map(|subnet| subnet.cidr.as_str())
    }
}

/// How the simulator is started.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) bin_dir: &'a Path,
    pub(crate) seed: u64,
    pub(crate) kubeconfig: Option<&'a Path>,
    pub(crate) nodes: u32,
    pub(crate) instance_type: &'a str,
    /// Whether pods run there, and the cloud takes its time: a place to live in. Else it answers at once, and nobody
    /// but the caller uses its nodes.
    pub(crate) lived_in: bool,
}

/// Until it is ready it makes namespaces and a handful of certificates.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Long enough to take everything down in order.
const GRACE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Starts it, from the main thread, and waits for its line.
pub(crate) fn start(
    request: &Request<'_>,
    scratch: &Scratch,
    interrupt: &Interrupt,
) -> Result<(Service, Up)> {
    let log = scratch.file("vpc-sim.log");
    let stderr = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = process::tied(request.bin_dir.join("vpc-sim"));
    command
        .args(["up", "--nodes", &request.nodes.to_string(), "--instance-type", request.instance_type])
        .args(["--seed", &request.seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        // Ctrl-C is ours: it must outlive the agents.
        .process_group(0);
    if request.lived_in {
        command.args(["--kubelet", "--cni-bin"]).arg(inside_node(request.bin_dir));
    } else {
        command.arg("--calm");
    }
    if let Some(file) = request.kubeconfig {
        command.arg("--kubeconfig").arg(file);
    }
    let mut service = Service::start("vpc-sim", &mut command, GRACE)?;
    let lines = lines_of(&mut service)?;
    let start = Instant::now();
    loop {
        interrupt.check()?;
        match lines.try_recv() {
            Ok(line) => {
                let up = serde_json::from_str(&line)
                    .with_context(|| format!("vpc-sim printed what is not its document: {line}"))?;
                return Ok((service, up));
            }
            Err(TryRecvError::Disconnected) => {
                bail!("vpc-sim ended before it was ready:\n{}", tail(&log))
            }
            Err(TryRecvError::Empty) if start.elapsed() > READY_WITHIN => {
                bail!("vpc-sim was not ready within {READY_WITHIN:?}:\n{}", tail(&log))
            }
            Err(TryRecvError::Empty) => std::thread::sleep(PAUSE),
        }
    }
}

/// Reads its standard output on a thread, to the end: a full pipe would stop it.
fn lines_of(service: &mut Service) -> Result<Receiver<String>> {
    let pipe = service.take_stdout().context("vpc-sim has no output")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody listens after the first line, and it is read all the same.
            let _ = send.send(line);
        }
    });
    Ok(lines)
}

/// The same file as seen from inside a node, whose /run, /var, /etc and /opt
/// are its own.
pub(crate) fn inside_node(path: &Path) -> PathBuf {
    let hidden = ["/run", "/var", "/opt", "/etc", "/sys"];
    if hidden.iter().any(|dir| path.starts_with(dir)) {
        let mut through = std::ffi::OsString::from(format!("/proc/{}/root", std::process::id()));
        through.push(path);
        PathBuf::from(through)
    } else {
        path.to_owned()
    }
}

/// The end of a log file.
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 20;
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The internet host that the simulator puts beyond the VPC's gateway.
pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
