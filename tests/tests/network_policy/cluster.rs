//! The cluster of the scenarios, and what of its packets arrives.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use kernel_test::wait_for;
use serde_json::{Value, json};
use system_tests::house::{items, text};
use system_tests::kube_proxy::{KubeProxy, Mode};
use system_tests::probe::{self, Patience, Probe, Prober, Protocol, Site};
use system_tests::world::{STILL_POOL, World};

use super::cast::{NAMESPACES, PODS, PORTS, Pod, Port, manifests, policy};

const NODES: [&str; 2] = ["node-1", "node-2"];
/// What is lost is asked again once, and then for as long as there is time.
const QUIET: Patience = Patience { quiet: Duration::from_millis(50), tries: 2 };
/// Only ends a scenario that has failed already.
const BOUND: Duration = Duration::from_secs(20);
/// For an answer that must come.
const ANSWER: Duration = Duration::from_secs(10);

/// Nine pods on two nodes, with their Services.
pub(crate) struct Cluster {
    world: World,
    /// Its sites are the pods in their order.
    prober: Prober,
    addresses: Vec<Ipv4Addr>,
    /// The policies that select somebody.
    policies: BTreeSet<String>,
    /// Objects with labels that they did not have at first, and the patches that take those away.
    labelled: Vec<(String, Value)>,
    /// What policies say instead of something.
    broken: Option<(&'static str, &'static str)>,
    bound: Duration,
    /// The longest that any policy as it should be took until what arrived was as expected.
    slowest: Duration,
}

impl Cluster {
    pub(crate) fn start() -> Result<Self> {
        let world = World::start(STILL_POOL)?;
        world.apply(&manifests())?;
        let pods = world.wait("nine pods run", || {
            let pods = world.pods().ok()?;
            let ready = pods.iter().filter(|pod| pod["ready"] == true).count();
            (ready == PODS.len()).then_some(pods)
        })?;
        let (mut sites, mut addresses, mut services) = (Vec::new(), Vec::new(), Vec::new());
        for one in PODS {
            let (namespace, name) = (one.namespace.to_string(), one.name.to_string());
            let is = |pod: &&Value| pod["namespace"] == namespace && pod["name"] == name;
            let pod = pods.iter().find(is).context("a pod that runs is told")?;
            let address: Ipv4Addr = text(&pod["ip"]).parse()?;
            sites.push(Site::new(&one.to_string(), text(&pod["netns"]), &[address.into()]));
            addresses.push(address);
            services.extend(one.services(address));
        }
        for node in NODES {
            let object = world.kubernetes(&format!("/api/v1/nodes/{node}"))?;
            let own = items(&object["status"]["addresses"]).find(|one| one["type"] == "InternalIP");
            let own = text(&own.context("a node without an address")?["address"]).parse()?;
            KubeProxy::start(&world, node, own, Mode::Nftables)?.sync(&world, &services)?;
        }
        let mut cluster = Self {
            prober: Prober::new(&sites)?,
            world,
            addresses,
            policies: BTreeSet::new(),
            labelled: Vec::new(),
            broken: None,
            bound: BOUND,
            slowest: Duration::from_millis(300),
        };
        cluster.expect(super::cast::TCP_80, |_, _, _| false).context("before any policy")?;
        Ok(cluster)
    }

    pub(crate) fn address(&self, pod: Pod) -> Ipv4Addr {
        self.addresses[pod.place()]
    }

    /// Creates or replaces a policy that selects somebody.
    pub(crate) fn policy(&mut self, namespace: char, name: &str, spec: &str) -> Result<()> {
        self.policies.insert(format!("{namespace}/{name}"));
        self.policy_of_nobody(namespace, name, spec)
    }

    /// Creates or replaces a policy that selects nobody yet.
    pub(crate) fn policy_of_nobody(&mut self, namespace: char, name: &str, spec: &str) -> Result<()> {
        let spec = match self.broken {
            Some((right, wrong)) => spec.replace(right, wrong),
            None => spec.to_owned(),
        };
        self.world.apply(&policy(namespace, name, &spec))
    }

    /// From now on a policy that was created as one of nobody selects somebody.
    pub(crate) fn selects(&mut self, namespace: char, name: &str) {
        self.policies.insert(format!("{namespace}/{name}"));
    }

    /// Deletes all policies.
    pub(crate) fn delete_policies(&mut self) -> Result<()> {
        for namespace in NAMESPACES {
            let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
            self.world.delete_now(&path)?;
        }
        self.policies.clear();
        Ok(())
    }

    /// Gives a pod a label, until the end of the scenario.
    pub(crate) fn label_pod(&mut self, pod: Pod, key: &str, value: &str) -> Result<()> {
        self.label(format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name), key, value)
    }

    /// The same of a namespace.
    pub(crate) fn label_namespace(&mut self, namespace: char, key: &str, value: &str) -> Result<()> {
        self.label(format!("/api/v1/namespaces/{namespace}"), key, value)
    }

    fn label(&mut self, path: String, key: &str, value: &str) -> Result<()> {
        let patch = |value: Value| json!({"metadata": {"labels": {key: value}}});
        self.world.patch(&path, &patch(json!(value)))?;
        self.labelled.push((path, patch(Value::Null)));
        Ok(())
    }

    /// Takes back what scenarios did.
    pub(crate) fn clean(&mut self) -> Result<()> {
        self.broken = None;
        self.bound = BOUND;
        self.delete_policies()?;
        for (path, patch) in std::mem::take(&mut self.labelled) {
            self.world.patch(&path, &patch)?;
        }
        self.until_in_force()
    }

    /// Runs a scenario whose policies say `wrong` instead of `right`: it must see it.
    pub(crate) fn must_fail(
        &mut self,
        scenario: super::shared::Scenario,
        (right, wrong): (&'static str, &'static str),
    ) -> Result<()> {
        self.clean()?;
        self.broken = Some((right, wrong));
        // As long as the right ones were given, the wrong ones are.
        self.bound = self.slowest;
        let Err(error) = scenario(self) else {
            return Err(anyhow!("nobody saw {wrong} instead of {right}"));
        };
        let said = format!("{error:?}");
        ensure!(said.contains(" differ:"), "it failed, but not of packets: {said}");
        Ok(())
    }

    /// Waits until the agents have the policies that there are in force, and no others.
    fn until_in_force(&self) -> Result<()> {
        let mut last = BTreeSet::new();
        let met = wait_for("the agents have exactly the policies that there are in force", BOUND, || {
            last.clear();
            for node in NODES {
                let report = self.world.debug(node, "policy").ok()?;
                for pod in items(&report["pods"]) {
                    for direction in ["ingress", "egress"] {
                        last.extend(
                            items(&pod[direction]["isolated_by"]).map(|policy| text(policy).to_owned()),
                        );
                    }
                }
            }
            (last == self.policies).then_some(())
        });
        met.with_context(|| {
            format!("{:?} in force, not {:?}\n{}", last, self.policies, self.world.complaints())
        })
    }

    /// Waits until of all pods' packets to all others on all ports, by Services and by addresses, exactly what
    /// `denied` says does not arrive and is met by silence; then every client that may use the port `own` is answered
    /// by the right server through its Service.
    pub(crate) fn expect(&mut self, own: Port, denied: impl Fn(Pod, Pod, Port) -> bool) -> Result<()> {
        self.until_in_force()?;
        let (mut probes, mut expected, mut allowed) = (Vec::new(), Vec::new(), Vec::new());
        for (from, client) in PODS.into_iter().enumerate() {
            // What a pod says to itself is nobody's to judge.
            for server in PODS.into_iter().filter(|server| *server != client) {
                for (protocol, port) in PORTS {
                    let arrives = !denied(client, server, (protocol, port));
                    let to: [(IpAddr, u16); 2] = [
                        (self.address(server).into(), port),
                        (server.cluster_ip().into(), server.service_port(port)),
                    ];
                    probes.extend(to.map(|(to, port)| Probe::new(from, to, protocol, port)));
                    expected.extend([arrives; 2]);
                    if arrives && (protocol, port) == own {
                        allowed.push((client, server));
                    }
                }
            }
        }
        let prober = &mut self.prober;
        let mut last = None;
        let begun = Instant::now();
        let met = wait_for("what arrives is as expected", self.bound, || {
            let outcomes = prober.probe(&probes, QUIET);
            let said =
                outcomes.and_then(|outcomes| probe::expect(prober.sites(), &probes, &outcomes, &expected));
            last = said.err();
            last.is_none().then_some(())
        });
        if let Err(error) = met {
            let last = last.unwrap_or_else(|| anyhow!("nothing was asked"));
            return Err(last.context(error).context(self.world.complaints()));
        }
        if self.broken.is_none() {
            self.slowest = self.slowest.max(begun.elapsed());
        }
        self.ask(own, &allowed)
    }

    /// Clients ask servers through their Services, all at once.
    fn ask(&self, (protocol, port): Port, pairs: &[(Pod, Pod)]) -> Result<()> {
        if protocol == Protocol::Sctp {
            // There are no such sockets here.
            return Ok(());
        }
        let questions: Vec<Value> = pairs
            .iter()
            .map(|(client, server)| {
                json!({
                    "from": client.to_string(), "to": server.cluster_ip(), "port": server.service_port(port),
                    "protocol": protocol.to_string(),
                })
            })
            .collect();
        let body = json!({"timeout_ms": ANSWER.as_millis() as u64, "probes": questions}).to_string();
        let answers = self.world.control("/probe", Some(&body))?;
        ensure!(items(&answers).count() == pairs.len(), "not one answer each: {answers}");
        for ((client, server), answer) in pairs.iter().zip(items(&answers)) {
            let right = format!("answered by {server}");
            ensure!(answer["detail"] == right, "{client} to {server} by its Service: {}", answer["detail"]);
        }
        Ok(())
    }
}
