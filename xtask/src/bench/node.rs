//! A node of the simulated VPC with a real agent, and pods that its API knows.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::contender::first_plugin;
use super::{Options, Programs};
use crate::demo::agents::{self, Agent};
use crate::demo::interrupt::Interrupt;
use crate::demo::scratch::Scratch;
use crate::demo::simulation::{self, Request};
use crate::process::Service;

/// 8 ENIs of 30 addresses: 234 pods.
const INSTANCE_TYPE: &str = "m5.4xlarge";
const NAMESPACE: &str = "bench";
/// A node that is not simulated.
const ELSEWHERE: &str = "node-elsewhere";
/// Pods elsewhere: how many share a namespace.
const NEIGHBOURS: u32 = 20;
const READY_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// The node. Fields drop in this order: the agent before its node.
#[derive(Debug)]
pub(super) struct BenchNode {
    agent: Agent,
    _simulator: Service,
    pods: Vec<Pod>,
    conf: Value,
    scratch: Scratch,
}

/// A pod as a runtime names it.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    name: String,
    uid: String,
}

impl Pod {
    /// For plugins that do not care.
    pub(super) fn nameless(place: usize) -> Self {
        Self { name: format!("pod-{place}"), uid: format!("uid-{place}") }
    }

    /// `CNI_ARGS` as containerd writes it.
    pub(super) fn arguments(&self, id: &str) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={}",
            self.name, self.uid
        )
    }
}

impl BenchNode {
    /// Starts simulator and agent, from the main thread, and waits until every
    /// pod is known and has an address waiting for it.
    pub(super) fn start(
        programs: &Programs,
        options: &Options,
        capabilities: &[String],
        interrupt: &Interrupt,
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
        let api = Api::of(&up.kubeconfig)?;
        let facts = up.nodes.first().context("a simulation without nodes")?;
        let pods = api.fill(&facts.name, options)?;
        let target = options.pods.to_string();
        let knobs = [
            ("MINIMUM_IP_TARGET", target.as_str()),
            ("WARM_IP_TARGET", "1"),
            // The next turn begins at once, and has as many free addresses.
            ("IP_COOLDOWN_PERIOD", "0"),
        ];
        let agent = agents::start(facts, &programs.bin_dir, capabilities, &knobs, &scratch)?;
        let mut node = Self { agent, _simulator: simulator, pods, conf: Value::Null, scratch };
        let known = options.pods + options.cluster_pods;
        let start = Instant::now();
        while !node.is_ready(options.pods.into(), known.into()) {
            interrupt.check()?;
            if start.elapsed() > READY_WITHIN {
                bail!(
                    "the agent was not ready within {READY_WITHIN:?}:\n{}",
                    simulation::tail(&node.agent.log)
                );
            }
            std::thread::sleep(PAUSE);
        }
        node.conf = first_plugin(&node.conflist()?)?;
        Ok(node)
    }

    fn is_ready(&self, addresses: u64, pods: u64) -> bool {
        let asked = self.agent.get::<Value, _>(["/debug/pool", "/debug/kubernetes"].map(str::to_owned));
        let Ok([pool, kubernetes]) = asked.map(<[Value; 2]>::try_from).unwrap_or_else(|_| Err(Vec::new()))
        else {
            return false;
        };
        pool["addresses"]["free"].as_u64() >= Some(addresses)
            && pool["addresses"]["pending"] == 0
            && kubernetes["pods"].as_u64() >= Some(pods)
            && self.conflist().is_ok()
    }

    /// The conflist that the agent wrote, which it does once it can serve.
    fn conflist(&self) -> Result<Value> {
        let pid = self.agent.service.pid();
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
        (&self.agent.node.netns, &self.agent.node.mntns)
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Processor time that the agent has used so far.
    pub(super) fn agent_cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.agent.service.pid());
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

/// The simulated Kubernetes API, which asks nobody who he is.
struct Api {
    url: String,
    http: ureq::Agent,
}

impl Api {
    fn of(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig).context("reading the simulator's kubeconfig")?;
        let config: Value = serde_json::from_str(&text).context("the simulator's kubeconfig is no JSON")?;
        let url = config["clusters"][0]["cluster"]["server"].as_str().context("no server")?.to_owned();
        let settings = ureq::Agent::config_builder().http_status_as_error(false).build();
        Ok(Self { url, http: settings.into() })
    }

    /// Makes the pods of the node, a policy that isolates them, and what else
    /// the cluster has; returns the node's pods.
    fn fill(&self, node: &str, options: &Options) -> Result<Vec<Pod>> {
        self.namespace(NAMESPACE)?;
        let mut pods = Vec::new();
        for place in 0..options.pods {
            let made = self.pod(NAMESPACE, &format!("pod-{place}"), Some(node))?;
            let uid = made["metadata"]["uid"].as_str().context("a pod without uid")?.to_owned();
            pods.push(Pod { name: format!("pod-{place}"), uid });
        }
        let others = options.cluster_pods.div_ceil(NEIGHBOURS);
        for number in 0..others {
            let namespace = format!("{NAMESPACE}-{number}");
            self.namespace(&namespace)?;
            for place in 0..NEIGHBOURS.min(options.cluster_pods - number * NEIGHBOURS) {
                let name = format!("pod-{place}");
                self.pod(&namespace, &name, Some(ELSEWHERE))?;
                // What has no address concerns no policy.
                let [_, high, middle, low] = (number * NEIGHBOURS + place).to_be_bytes();
                let ip = format!("10.{}.{middle}.{low}", 64 + high);
                self.address(&namespace, &name, &ip)?;
            }
        }
        Ok(pods)
    }

    fn namespace(&self, name: &str) -> Result<()> {
        self.post(
            "/api/v1/namespaces",
            &json!({ "metadata": { "name": name, "labels": { "team": name } } }),
        )?;
        let policy = json!({
            "metadata": { "name": "callers" },
            "spec": {
                "podSelector": { "matchLabels": { "app": "web" } },
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{
                    "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
                    "ports": [{ "protocol": "TCP", "port": 8080 }],
                }],
                "egress": [{ "to": [{ "namespaceSelector": { "matchLabels": { "team": name } } }] }],
            },
        });
        self.post(&format!("/apis/networking.k8s.io/v1/namespaces/{name}/networkpolicies"), &policy).map(drop)
    }

    fn pod(&self, namespace: &str, name: &str, node: Option<&str>) -> Result<Value> {
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": "web", "pod": name } },
            "spec": {
                "nodeName": node,
                "containers": [{ "name": "web", "image": "web", "ports": [{ "containerPort": 8080 }] }],
            },
        });
        self.post(&format!("/api/v1/namespaces/{namespace}/pods"), &pod)
    }

    /// What the kubelet of a pod would report.
    fn address(&self, namespace: &str, name: &str, ip: &str) -> Result<()> {
        let url = format!("{}/api/v1/namespaces/{namespace}/pods/{name}/status", self.url);
        let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
        let response = self
            .http
            .patch(&url)
            .content_type("application/merge-patch+json")
            .send(status.to_string())
            .with_context(|| url.clone())?;
        crate::demo::control::parse::<Value>(&url, response).map(drop)
    }

    fn post(&self, path: &str, object: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let response = self
            .http
            .post(&url)
            .content_type("application/json")
            .send(object.to_string())
            .with_context(|| url.clone())?;
        crate::demo::control::parse(&url, response)
    }
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
