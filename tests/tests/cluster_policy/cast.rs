//! Four houses with two pods each, one on every node, and what of their packets arrives.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::cluster_policy::{definition, together};
use system_tests::house::{items, text};
use system_tests::probe::{Patience, Probe, Prober, Protocol, Site};
use system_tests::world::{STILL_POOL, World};

/// A protocol and a port; of ICMP the port is nothing.
pub(crate) type Port = (Protocol, u16);

pub(crate) const TCP_80: Port = (Protocol::Tcp, 80);
pub(crate) const TCP_8080: Port = (Protocol::Tcp, 8080);
pub(crate) const UDP_53: Port = (Protocol::Udp, 53);
pub(crate) const UDP_5353: Port = (Protocol::Udp, 5353);
pub(crate) const SCTP_9003: Port = (Protocol::Sctp, 9003);
/// What is tried between all pods.
const PORTS: [Port; 7] =
    [TCP_80, TCP_8080, UDP_53, UDP_5353, SCTP_9003, (Protocol::Sctp, 9005), (Protocol::Icmp, 0)];

/// Houses, and the names of their pods but for the number.
pub(crate) const HOUSES: [(&str, &str); 4] = [
    ("gryffindor", "harry-potter"),
    ("slytherin", "draco-malfoy"),
    ("hufflepuff", "cedric-diggory"),
    ("ravenclaw", "luna-lovegood"),
];

/// Long enough for a machine at work; what is lost is asked again anyway.
const QUIET: Patience = Patience { quiet: Duration::from_millis(60), tries: 1 };

/// One of the eight pods.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) house: &'static str,
    /// 0 on the first node, 1 on the second.
    pub(crate) number: usize,
    pub(crate) address: IpAddr,
}

impl Actor {
    pub(crate) fn is(&self, house: &str, number: usize) -> bool {
        self.house == house && self.number == number
    }
}

/// The pods on their nodes; the sites of the prober are the pods, then the nodes.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) actors: Vec<Actor>,
    pub(crate) nodes: Vec<IpAddr>,
    prober: Prober,
}

/// A namespace of a house.
pub(crate) fn house(name: &str, label: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"conformance-house": label}},
    })
    .to_string()
}

fn actor(house: &str, name: &str, number: usize) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": house, "name": format!("{name}-{number}"), "labels": {"conformance-house": house},
        },
        "spec": {
            "nodeName": format!("node-{}", number + 1),
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "registry.example/echo", "ports": [
                {"name": "web", "containerPort": 80},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}],
        },
    })
    .to_string()
}

impl Stage {
    pub(crate) fn set() -> Result<Self> {
        let world = World::start(STILL_POOL)?;
        let mut manifests = vec![definition()];
        manifests.extend(HOUSES.iter().map(|(name, _)| house(name, name)));
        let all = HOUSES.iter().flat_map(|(house, name)| [0, 1].map(|number| actor(house, name, number)));
        manifests.extend(all);
        world.apply(&together(&manifests))?;
        let names: Vec<String> =
            HOUSES.iter().flat_map(|(_, name)| [0, 1].map(|number| format!("{name}-{number}"))).collect();
        world.wait_for_pods(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        let pods = world.pods()?;
        let (mut sites, mut actors) = (Vec::new(), Vec::new());
        for (house, name) in HOUSES {
            for number in 0..2 {
                let name = format!("{name}-{number}");
                let pod = pods.iter().find(|pod| pod["name"] == *name).context("a pod that runs is told")?;
                let address = text(&pod["ip"]).parse()?;
                sites.push(Site::new(&name, text(&pod["netns"]), &[address]));
                actors.push(Actor { house, number, address });
            }
        }
        let mut nodes = Vec::new();
        for name in ["node-1", "node-2"] {
            let object = world.kubernetes(&format!("/api/v1/nodes/{name}"))?;
            let address = items(&object["status"]["addresses"]).find(|one| one["type"] == "InternalIP");
            let address = text(&address.context("a node without an address")?["address"]).parse()?;
            sites.push(Site::new(name, text(&world.node(name)?["netns"]), &[address]));
            nodes.push(address);
        }
        let prober = Prober::new(&sites)?;
        Ok(Self { world, actors, nodes, prober })
    }

    /// Changes something, and waits until exactly what `denied` says does not arrive between the pods, twice in
    /// a row, and what is denied is met by silence.
    pub(crate) fn expect(&mut self, denied: impl Fn(&Actor, &Actor, Port) -> bool) -> Result<()> {
        let (mut probes, mut expected) = (Vec::new(), Vec::new());
        for (from, source) in self.actors.iter().enumerate() {
            for (to, target) in self.actors.iter().enumerate().filter(|(to, _)| *to != from) {
                let _ = to;
                for (protocol, port) in PORTS {
                    probes.push(Probe::new(from, target.address, protocol, port));
                    expected.push(!denied(source, target, (protocol, port)));
                }
            }
        }
        self.until(&probes, &expected)
    }

    /// The same of single probes from one pod to the nodes. The pod's own node is judged by its answer: a packet
    /// socket there sees what the filter drops after it.
    pub(crate) fn expect_nodes(&mut self, from: usize, ports: &[(Port, bool)]) -> Result<()> {
        let other = 1 - self.actors[from].number;
        let remote: Vec<Probe> = ports
            .iter()
            .map(|((protocol, port), _)| Probe::new(from, self.nodes[other], *protocol, *port))
            .collect();
        let expected: Vec<bool> = ports.iter().map(|(_, arrives)| *arrives).collect();
        self.until(&remote, &expected)?;
        let own = self.nodes[self.actors[from].number];
        // Nobody listens: the node refuses by a reset, which it does as often as it is asked.
        for ((protocol, port), answered) in
            ports.iter().filter(|((protocol, _), _)| *protocol == Protocol::Tcp)
        {
            let probe = [Probe::new(from, own, *protocol, *port)];
            let answers = self.answers(&probe)?;
            ensure!(answers == *answered, "the own node at {protocol}/{port}: answered: {answers}");
        }
        Ok(())
    }

    fn answers(&mut self, probe: &[Probe]) -> Result<bool> {
        // The arrival is seen before the answer.
        for _ in 0..20 {
            if self.prober.probe(probe, QUIET)?.iter().any(|outcome| outcome.answered) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn until(&mut self, probes: &[Probe], expected: &[bool]) -> Result<()> {
        let (world, prober) = (&self.world, &mut self.prober);
        let mut last = None;
        let mut in_a_row = 0;
        let met = world.wait("probes are as expected", || {
            let outcomes = prober.probe(probes, QUIET);
            let said = outcomes.and_then(|outcomes| {
                system_tests::probe::expect(prober.sites(), probes, &outcomes, expected)
            });
            in_a_row = if said.is_ok() { in_a_row + 1 } else { 0 };
            last = said.err();
            (in_a_row == 2).then_some(())
        });
        match (met, last) {
            (Ok(()), _) => Ok(()),
            (Err(error), Some(last)) => Err(last.context(error)),
            (Err(error), None) => Err(error),
        }
    }
}

/// The selector of a house by the label of its namespace.
pub(crate) fn of(house: &str) -> Value {
    json!({"namespaces": {"matchLabels": {"conformance-house": house}}})
}

/// The selector of a house's pods by both labels.
pub(crate) fn pods_of(house: &str) -> Value {
    let labels = json!({"matchLabels": {"conformance-house": house}});
    json!({"pods": {"namespaceSelector": labels, "podSelector": labels}})
}
