//! A runtime and an agent of a few lines, in namespaces of the test's own.

pub(crate) mod trace;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, ensure};
use kernel_test::NetNs;
use rpc::{Leased, Refusal, Reply, Request, Response, SandboxKey, code, reason};
use serde_json::{Value, json};

/// Where the binary under test is.
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_tidepool-cni");

/// What the agent does with the next request of a verb, instead of serving it.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Serves it: the next one is meant.
    Pass(&'static str),
    /// Closes the connection without an answer, as a restart does.
    Close(&'static str),
    /// Refuses.
    Refuse(&'static str, Refusal),
    /// Says nothing until the other side closes.
    Silence(&'static str),
}

impl Fault {
    fn verb(&self) -> &'static str {
        match self {
            Self::Pass(verb) | Self::Close(verb) | Self::Refuse(verb, _) | Self::Silence(verb) => verb,
        }
    }
}

/// What the agent knows and saw.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Addresses by attachment; true once attached.
    pub(crate) leases: BTreeMap<SandboxKey, (IpAddr, bool)>,
    /// Every request, in order.
    pub(crate) seen: Vec<Request>,
    /// Leases that were undone because their connection closed.
    pub(crate) undone: Vec<SandboxKey>,
    /// What to do with the next requests.
    pub(crate) faults: Vec<Fault>,
    next: u32,
}

/// An agent that listens until it is dropped.
pub(crate) struct Agent {
    pub(crate) state: Arc<Mutex<State>>,
    path: PathBuf,
    accepting: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens at `path` with the state of an earlier one.
    pub(crate) fn start(path: &Path, state: Arc<Mutex<State>>) -> Result<Self> {
        // The file of an agent that died is in the way, as in life.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).context("binding the agent's socket")?;
        let shared = Arc::clone(&state);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut first = [0; rpc::HEADER_LEN];
                let mut stream = stream;
                match stream.read_exact(&mut first) {
                    Ok(()) if first == [0xff; 4] => return,
                    Ok(()) => {
                        let state = Arc::clone(&shared);
                        std::thread::spawn(move || serve(stream, first, &state));
                    }
                    Err(_) => {}
                }
            }
        });
        Ok(Self { state, path: path.to_owned(), accepting: Some(accepting) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A header of all ones tells the listener to end.
        if let Ok(mut stream) = UnixStream::connect(&self.path) {
            let _ = stream.write_all(&[0xff; 4]);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(mut stream: UnixStream, mut header: [u8; rpc::HEADER_LEN], state: &Mutex<State>) {
    let mut provisional = None;
    while let Ok(len) = rpc::frame_len(header) {
        let mut body = vec![0; len];
        if stream.read_exact(&mut body).is_err() {
            break;
        }
        let reply = match rpc::accept(&body) {
            Err(reply) => reply,
            Ok(envelope) => {
                let Some(response) = answer(state, &envelope.request, &mut provisional) else {
                    break;
                };
                match response {
                    Ok(response) => Reply { version: envelope.version, response },
                    Err(Silent) => {
                        let _ = stream.read(&mut [0]);
                        break;
                    }
                }
            }
        };
        let Ok(bytes) = rpc::encode(&reply) else { break };
        if stream.write_all(&bytes).is_err() || stream.read_exact(&mut header).is_err() {
            break;
        }
    }
    if let Some(key) = provisional {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.leases.remove(&key);
        state.undone.push(key);
    }
}

struct Silent;

fn answer(
    state: &Mutex<State>,
    request: &Request,
    provisional: &mut Option<SandboxKey>,
) -> Option<Result<Response, Silent>> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.seen.push(request.clone());
    if state.faults.first().is_some_and(|fault| fault.verb() == request.verb()) {
        match state.faults.remove(0) {
            Fault::Pass(_) => {}
            Fault::Close(_) => return None,
            Fault::Silence(_) => return Some(Err(Silent)),
            Fault::Refuse(_, refusal) => return Some(Ok(Response::Error(refusal))),
        }
    }
    Some(Ok(match request {
        Request::Lease { key, pod, .. } => {
            let fresh = state.leases.get(key).is_none_or(|(_, attached)| !attached);
            if !state.leases.contains_key(key) {
                state.next += 1;
                let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a14_0000 + state.next));
                state.leases.insert(key.clone(), (address, false));
            }
            if fresh {
                *provisional = Some(key.clone());
            }
            let (address, _) = state.leases[key];
            Response::Leased(leased(key, pod.as_ref(), address))
        }
        Request::Attach { key, .. } => match state.leases.get_mut(key) {
            Some((_, attached)) => {
                *attached = true;
                *provisional = None;
                Response::Attached
            }
            None => {
                let text = format!("no lease of {key}");
                Response::Error(Refusal::retryable(code::TRY_AGAIN_LATER, reason::UNKNOWN_LEASE, text))
            }
        },
        Request::Release { key } => {
            state.leases.remove(key);
            Response::Released
        }
        Request::Check { key } if state.leases.contains_key(key) => Response::Checked,
        Request::Check { key } => {
            Response::Error(Refusal::new(code::UNKNOWN_CONTAINER, "not-attached", key.to_string()))
        }
        Request::Status => Response::Ready,
        Request::Gc { valid, .. } => {
            let before = state.leases.len();
            state.leases.retain(|key, _| valid.contains(&(key.container_id.clone(), key.ifname.clone())));
            let released = u32::try_from(before - state.leases.len()).unwrap_or(u32::MAX);
            Response::Collected { released }
        }
    }))
}

/// The same MACs for the same sandbox, as the agent has it.
fn leased(key: &SandboxKey, pod: Option<&rpc::PodRef>, address: IpAddr) -> Leased {
    let digits = rpc::pod_name_hash(&key.container_id, &key.ifname);
    let mut mac = [2, 0, 0, 0, 0, 0];
    for (byte, pair) in mac[2..].iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte =
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    let [a, _, c, d, e, f] = mac;
    Leased {
        addresses: vec![address],
        gateways: vec![Ipv4Addr::new(169, 254, 1, 1).into()],
        mtu: 9001,
        host_ifname: rpc::host_ifname("eni", key, pod),
        host_mac: [a, 1, c, d, e, f],
        pod_mac: [a, 2, c, d, e, f],
    }
}

/// A node: its namespace, a directory, a configuration.
pub(crate) struct Node {
    pub(crate) ns: NetNs,
    dir: tempfile::TempDir,
    pub(crate) conf: Value,
    /// The binary that is run; [`PLUGIN`] unless changed.
    pub(crate) plugin: PathBuf,
}

/// One sandbox as the runtime sees it.
pub(crate) struct Sandbox {
    pub(crate) ns: NetNs,
    pub(crate) id: String,
    pub(crate) pod: Option<&'static str>,
}

/// What a run of the plugin gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) stdout: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:?}"))
    }

    /// The error's code and text; fails on success.
    pub(crate) fn error(&self) -> Result<(u64, String)> {
        ensure!(!self.success, "it succeeded: {self:?}");
        let json = self.json()?;
        let code = json["code"].as_u64().context("an error without code")?;
        Ok((code, json["msg"].as_str().context("an error without msg")?.to_owned()))
    }

    pub(crate) fn ok(self) -> Result<Self> {
        ensure!(self.success, "{self:?}");
        Ok(self)
    }
}

impl Sandbox {
    pub(crate) fn new(pod: Option<&'static str>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = format!("sandbox{:04x}", NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { ns: NetNs::new()?, id, pod })
    }

    pub(crate) fn key(&self) -> SandboxKey {
        SandboxKey { network: "aws-cni".into(), container_id: self.id.clone(), ifname: "eth0".into() }
    }

    /// Name of the host's end.
    pub(crate) fn host_ifname(&self) -> String {
        let pod = self.pod.map(|name| rpc::PodRef { namespace: "shop".into(), name: name.into(), uid: None });
        rpc::host_ifname("eni", &self.key(), pod.as_ref())
    }
}

impl Node {
    pub(crate) fn new() -> Result<Self> {
        let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
        let socket = dir.path().join("agent.sock");
        let conf = json!({
            "cniVersion": "1.0.0", "name": "aws-cni", "type": "tidepool-cni",
            "socket": socket, "timeoutSeconds": 20, "unknown": [1]
        });
        Ok(Self { ns, dir, conf, plugin: PLUGIN.into() })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn agent(&self) -> Result<Agent> {
        Agent::start(&self.socket(), Arc::default())
    }

    /// The configuration with changes.
    pub(crate) fn conf_with(&self, changes: Value) -> Value {
        let mut conf = self.conf.clone();
        for (key, value) in changes.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        conf
    }

    /// Starts the plugin in the node's namespace.
    pub(crate) fn spawn(
        &self,
        verb: &str,
        sandbox: &Sandbox,
        netns: Option<&Path>,
        conf: &Value,
    ) -> Result<Child> {
        self.ns.run(|| start(&mut self.command(verb, sandbox, netns), conf))
    }

    /// The plugin as the runtime starts it; in the namespace of whoever does.
    pub(crate) fn command(&self, verb: &str, sandbox: &Sandbox, netns: Option<&Path>) -> Command {
        let args = sandbox.pod.map_or_else(String::new, |name| {
            format!(
                "K8S_POD_NAME={name};IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_INFRA_CONTAINER_ID={}",
                sandbox.id
            )
        });
        let mut command = Command::new(&self.plugin);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns.unwrap_or(Path::new("")))
            .env("CNI_ARGS", &args)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// Runs the plugin to its end.
    pub(crate) fn run(&self, verb: &str, sandbox: &Sandbox, conf: &Value) -> Result<Outcome> {
        finish(self.spawn(verb, sandbox, Some(sandbox.ns.path()), conf)?)
    }

    pub(crate) fn add(&self, sandbox: &Sandbox) -> Result<Outcome> {
        self.run("ADD", sandbox, &self.conf)
    }

    pub(crate) fn del(&self, sandbox: &Sandbox) -> Result<Outcome> {
        self.run("DEL", sandbox, &self.conf)
    }

    /// Names of the links in the node's namespace, without loopback.
    pub(crate) fn links(&self) -> Result<Vec<String>> {
        links(&self.ns)
    }
}

/// Starts a command and writes its configuration.
pub(crate) fn start(command: &mut Command, conf: &Value) -> Result<Child> {
    let mut child = command.spawn()?;
    let written = child.stdin.take().context("stdin is a pipe")?.write_all(conf.to_string().as_bytes());
    // A plugin that refuses its environment may end before it reads: libcni takes no offence either.
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    Ok(child)
}

/// Waits for a plugin that was started.
pub(crate) fn finish(child: Child) -> Result<Outcome> {
    let output = child.wait_with_output()?;
    Ok(Outcome { success: output.status.success(), stdout: String::from_utf8(output.stdout)? })
}

/// Names of the links in a namespace, without loopback.
pub(crate) fn links(ns: &NetNs) -> Result<Vec<String>> {
    let shown: Value = serde_json::from_str(&ns.output("ip", &["-j", "link", "show"])?)?;
    let names = shown.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| *name != "lo").map(str::to_owned).collect())
}
