//! A node of the simulated VPC with a real agent, and pods that its API knows.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Programs;
use super::api::Api;
use super::contender::first_plugin;
use crate::demo::agents::{self, Agent};
use crate::demo::interrupt::Interrupt;
use crate::demo::scratch::Scratch;
use crate::demo::simulation::{self, Node, Request};
use crate::process::Service;

/// 8 ENIs of 30 addresses: 234 pods.
const INSTANCE_TYPE: &str = "m5.4xlarge";
const READY_WITHIN: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(20);

/// The node. Fields drop in this order: the agent before its node.
#[derive(Debug)]
pub(super) struct BenchNode {
    agent: Option<Agent>,
    _simulator: Service,
    api: Api,
    pods: Vec<Pod>,
    conf: Value,
    started: Started,
    program: Program,
    scratch: Scratch,
}

/// How an agent is started.
#[derive(Debug)]
struct Program {
    facts: Node,
    bin_dir: PathBuf,
    capabilities: Vec<String>,
    addresses: u32,
}

/// How long the agent took, from its start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Started {
    /// Until everything was listed.
    pub(super) synced: Duration,
    /// Until policy was in force and pods were served.
    pub(super) ready: Duration,
}

/// A pod as a runtime names it.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Pod {
    /// For plugins that do not care.
    pub(super) fn nameless(place: usize) -> Self {
        Self { namespace: "bench".to_owned(), name: format!("pod-{place}"), uid: format!("uid-{place}") }
    }

    /// `CNI_ARGS` as containerd writes it.
    pub(super) fn arguments(&self, id: &str) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={}",
            self.namespace, self.name, self.uid
        )
    }
}

impl BenchNode {
    /// Starts the simulator, from the main thread, and lets `fill` put the cluster in and name the node's pods; then
    /// starts the agent and waits until it has an address for each of these and knows all pods of the cluster.
    pub(super) fn start(
        programs: &Programs,
        capabilities: &[String],
        interrupt: &Interrupt,
        fill: impl FnOnce(&Api, &str) -> Result<Vec<Pod>>,
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let request = Request {
            bin_dir: &programs.bin_dir,
            seed: 1,
            kubeconfig: None,
            nodes: 1,
            instance_type: INSTANCE_TYPE,
            lived_in: false,
        };
        let (simulator, up) = simulation::start(&request, &scratch, interrupt)?;
        let api = Api::of(&up.kubeconfig, &up.control, interrupt)?;
        let facts = up.nodes.first().context("a simulation without nodes")?.clone();
        let pods = fill(&api, &facts.name)?;
        let program = Program {
            facts,
            bin_dir: programs.bin_dir.clone(),
            capabilities: capabilities.to_owned(),
            addresses: u32::try_from(pods.len())?,
        };
        let (conf, started) = (Value::Null, Started::default());
        let mut node =
            Self { agent: None, _simulator: simulator, api, pods, conf, started, program, scratch };
        node.restart(interrupt)?;
        node.conf = first_plugin(&node.conflist()?)?;
        Ok(node)
    }

    /// Starts the agent, or starts it anew, and waits until it serves.
    pub(super) fn restart(&mut self, interrupt: &Interrupt) -> Result<()> {
        let Program { facts, bin_dir, capabilities, addresses } = &self.program;
        let target = addresses.to_string();
        let knobs = [
            ("MINIMUM_IP_TARGET", target.as_str()),
            ("WARM_IP_TARGET", "1"),
            // The next turn begins at once, and has as many free addresses.
            ("IP_COOLDOWN_PERIOD", "0"),
        ];
        self.agent = None;
        let begun = Instant::now();
        self.agent = Some(agents::start(facts, bin_dir, capabilities, &knobs, &self.scratch)?);
        self.started = Started::default();
        while !self.is_ready(u64::from(self.program.addresses), begun) {
            interrupt.check()?;
            if begun.elapsed() > READY_WITHIN {
                bail!(
                    "the agent was not ready within {READY_WITHIN:?}:\n{}",
                    simulation::tail(&self.agent()?.log)
                );
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The agent that runs.
    pub(super) fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent runs")
    }

    /// How long its start took.
    pub(super) fn started(&self) -> Started {
        self.started
    }

    /// The Kubernetes API of its cluster.
    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    fn is_ready(&mut self, addresses: u64, begun: Instant) -> bool {
        let asked = ["/debug/kubernetes", "/debug/pool"].map(str::to_owned);
        let Ok([kubernetes, pool]) = self
            .agent()
            .and_then(|agent| agent.get::<Value, _>(asked))
            .map(<[Value; 2]>::try_from)
            .unwrap_or_else(|_| Err(Vec::new()))
        else {
            return false;
        };
        if kubernetes["synced"] != true {
            return false;
        }
        let elapsed = begun.elapsed();
        if self.started.synced.is_zero() {
            self.started.synced = elapsed;
        }
        // What stands in the maps of a former agent is there before: the first compilation is the first change.
        let changes = self.agent().and_then(|agent| agent.get::<Value, _>(["/debug/changes".to_owned()]));
        let in_force = changes.is_ok_and(|pages| pages[0][0].is_object());
        if !in_force || self.conflist().is_err() {
            return false;
        }
        if self.started.ready.is_zero() {
            self.started.ready = elapsed;
        }
        let count = |name: &str| pool["addresses"][name].as_u64().unwrap_or(0);
        count("free") + count("leased") >= addresses && count("pending") == 0
    }

    /// The conflist that the agent wrote, which it does once it can serve.
    fn conflist(&self) -> Result<Value> {
        let pid = self.agent()?.service.pid();
        let path = format!("/proc/{pid}/root/etc/cni/net.d/05-tidepool.conflist");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("{path} is no JSON"))
    }

    /// What a runtime writes to our plugin's standard input.
    pub(super) fn conf(&self) -> Result<Value> {
        ensure!(!self.conf.is_null(), "the agent wrote no conflist");
        Ok(self.conf.clone())
    }

    pub(super) fn pod(&self, place: usize) -> Result<Pod> {
        self.pods.get(place).cloned().context("more sandboxes than pods")
    }

    /// Paths of the network namespace and the mount namespace.
    pub(super) fn namespaces(&self) -> (&Path, &Path) {
        (&self.program.facts.netns, &self.program.facts.mntns)
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Processor time that the agent has used so far.
    pub(super) fn agent_cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.agent()?.service.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        cpu_of(&text).with_context(|| format!("{path} is not as proc(5) says"))
    }
}

/// Fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms; the second field is a
/// name in parentheses that may hold anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0 5 1000 200";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(420)));
        assert_eq!(cpu_of("7 (a) S 1"), None);
    }
}
