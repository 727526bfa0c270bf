//! How long an update takes in a large cluster, by kind of change, and what the compiler keeps in memory.
//!
//! `cargo run --release -p policy-core --example scale [NAMESPACES PODS POLICIES LOCAL ROUNDS]`; without arguments
//! 1,000 namespaces, 150,000 pods, 10,000 policies, 110 pods of this node, 200 changes of each kind.

#![expect(
    clippy::disallowed_methods,
    reason = "an example that measures: it has a clock and reads its own memory"
)]
#![expect(clippy::print_stdout, reason = "its output is a table")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_core::model::{
    Backends, Cluster, ContainerPort, IpBlock, Labels, LocalNode, Name, Namespace, NamespaceMatch, Peer,
    Peers, Pod, PodState, Policy, PortMatch, PortRange, Ports, Protocol, Rule, Selector, Service,
    ServicePort, TargetPort,
};
use policy_core::{Compiler, CompilerOptions, LocalPod, PodIdentity, Step, Tables};

/// Deployments in each namespace; a policy and a Service for each.
const APPS: usize = 10;
/// Who owns the namespaces.
const TEAMS: usize = 50;

/// One change of the world, by the round that it is in.
type Change = fn(&mut World, usize);

struct World {
    cluster: Cluster,
    local: Vec<LocalPod>,
    labels: Vec<Arc<Labels>>,
    ports: Arc<[ContainerPort]>,
    addresses: u32,
}

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let number = |place: usize, or: usize| given.get(place).copied().unwrap_or(or);
    let (namespaces, pods) = (number(0, 1000), number(1, 150_000));
    let (policies, here, rounds) = (number(2, 10_000), number(3, 110), number(4, 200));

    let empty = resident();
    let mut world = World::new(namespaces, pods / namespaces, policies / namespaces, here);
    let cluster = resident();
    println!("{namespaces} namespaces, {pods} pods, {policies} policies, {here} of the pods on this node");
    println!("the cluster takes {} MiB", cluster.saturating_sub(empty) / 1024);

    let options = CompilerOptions::default();
    let mut compiler = Compiler::new(options, Tables::default());
    let start = Instant::now();
    let steps = compiler.update(&world.cluster, &world.local).steps;
    let took = start.elapsed();
    let written: usize = steps.iter().map(Step::len).sum();
    let start = Instant::now();
    steps.iter().for_each(|step| compiler.record(step));
    println!("first update {took:.1?} for {written} entries, recorded in {:.1?}", start.elapsed());
    drop(steps);
    println!("the compiler takes {} MiB", resident().saturating_sub(cluster) / 1024);
    let tables = compiler.installed();
    println!(
        "{} peers, {} rows, {} ports, {} cidrs, {} vips",
        tables.peers.len(),
        tables.rows.len(),
        tables.ports.len(),
        tables.cidrs.len(),
        tables.vips.len()
    );
    println!("{:28} {:>9} {:>9} {:>9} {:>9} {:>8}", "change", "p50", "p99", "max", "record99", "entries");
    let kinds: [(&str, Change); 7] = [
        ("nothing", |_, _| {}),
        ("a pod's labels", World::relabel),
        ("a new policy", World::add_policy),
        ("that policy deleted", World::remove_policy),
        ("a new pod elsewhere", World::add_pod),
        ("a Service loses a backend", World::remove_pod),
        ("one more pod of this node", World::add_local),
    ];
    let mut all: BTreeMap<usize, Vec<(Duration, Duration, usize)>> = BTreeMap::new();
    for round in 0..rounds {
        for (place, (_, change)) in kinds.iter().enumerate() {
            change(&mut world, round);
            let start = Instant::now();
            let steps = compiler.update(&world.cluster, &world.local).steps;
            let took = start.elapsed();
            let start = Instant::now();
            steps.iter().for_each(|step| compiler.record(step));
            let entries = steps.iter().map(Step::len).sum();
            all.entry(place).or_default().push((took, start.elapsed(), entries));
            if world.local.len() > here + 20 {
                let gone = world.local.pop();
                gone.iter().for_each(|one| compiler.clear_endpoint(one.slot));
            }
        }
    }
    for (place, list) in all {
        let sorted = |of: fn(&(Duration, Duration, usize)) -> Duration| {
            let mut list: Vec<Duration> = list.iter().map(of).collect();
            list.sort();
            list
        };
        let (update, record) = (sorted(|one| one.0), sorted(|one| one.1));
        let at = |list: &[Duration], percent: usize| list[(list.len() * percent / 100).min(list.len() - 1)];
        let entries = list.iter().map(|one| one.2).max().unwrap_or(0);
        println!(
            "{:28} {:>9} {:>9} {:>9} {:>9} {:>8}",
            kinds[place].0,
            format!("{:.2?}", at(&update, 50)),
            format!("{:.2?}", at(&update, 99)),
            format!("{:.2?}", at(&update, 100)),
            format!("{:.2?}", at(&record, 99)),
            entries
        );
    }
    println!("the compiler takes {} MiB in the end", resident().saturating_sub(cluster) / 1024);
}

/// Resident memory of this process in KiB.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn namespace(number: usize) -> Name {
    format!("ns-{number:04}").into()
}

fn pods_with(app: usize) -> Selector {
    Selector::labels([("app", format!("app-{app}").as_str())])
}

impl World {
    fn new(namespaces: usize, pods: usize, policies: usize, here: usize) -> Self {
        let labels = (0..APPS).map(|app| {
            let (app, tier) = (format!("app-{app}"), format!("tier-{}", app % 3));
            let pairs = [("app", app.as_str()), ("tier", tier.as_str()), ("pod-template-hash", "5d8f6c7b9")];
            Arc::new(pairs.into_iter().collect::<Labels>())
        });
        let port = |name: &str, port| ContainerPort {
            name: Some(name.into()),
            protocol: Protocol::Tcp,
            port,
            host_port: None,
        };
        let mut world = Self {
            cluster: Cluster::default(),
            local: Vec::new(),
            labels: labels.collect(),
            ports: [port("http", 8080), port("metrics", 9090)].into(),
            addresses: 0,
        };
        world.cluster.node = LocalNode { name: "here".into(), addresses: vec![IpAddr::from([10, 0, 0, 1])] };
        world.cluster.service_cidrs = ["172.20.0.0/16".parse()].into_iter().flatten().collect();
        for number in 0..namespaces {
            let name = namespace(number);
            let (team, stage) = (format!("team-{}", number % TEAMS), format!("env-{}", number % 3));
            let mut content =
                Namespace::with_labels(&name, [("team", team.as_str()), ("env", stage.as_str())]);
            for place in 0..pods {
                let (pod, address) = world.pod(place % APPS);
                let local = place == number % APPS
                    && number % (namespaces / here).max(1) == 0
                    && world.local.len() < here;
                let pod = if local { Pod { node: Some("here".into()), ..pod } } else { pod };
                let pod_name: Name = format!("pod-{place:05}").into();
                if local {
                    world.register(&name, &pod_name, address);
                }
                content.pods.insert(pod_name, Arc::new(pod));
            }
            content.policies.insert("scrape".into(), Arc::new(scrape()));
            for place in 0..policies {
                content.policies.insert(format!("policy-{place}").into(), Arc::new(policy(number, place)));
            }
            for app in 0..APPS {
                let service = Service {
                    addresses: vec![IpAddr::from(
                        (0xac14_0000 + u32::try_from(number * APPS + app).unwrap_or(0)).to_be_bytes(),
                    )],
                    external: Vec::new(),
                    ports: vec![ServicePort {
                        name: "".into(),
                        protocol: Protocol::Tcp,
                        port: 80,
                        target: TargetPort::Named("http".into()),
                        node_port: None,
                    }],
                    backends: Backends::Pods(pods_with(app)),
                };
                content.services.insert(format!("app-{app}").into(), Arc::new(service));
            }
            world.cluster.namespaces.insert(name, Arc::new(content));
        }
        world
    }

    fn pod(&mut self, app: usize) -> (Pod, IpAddr) {
        self.addresses += 1;
        let address = IpAddr::from((0x0a01_0000 + self.addresses).to_be_bytes());
        let pod = Pod {
            uid: format!("0e8dd9a2-6e0c-4a6b-9d8e-{:012x}", self.addresses).into(),
            labels: Arc::clone(&self.labels[app % APPS]),
            addresses: [address].into(),
            ports: Arc::clone(&self.ports),
            node: Some("there".into()),
            state: PodState::Live,
            host_network: false,
            audit: false,
        };
        (pod, address)
    }

    fn register(&mut self, namespace: &Name, name: &Name, address: IpAddr) {
        let slot = 1 + self.local.iter().map(|one| one.slot).max().unwrap_or(0);
        self.local.push(LocalPod {
            slot,
            sandbox: format!("sandbox-{}", self.addresses).into(),
            identity: Some(PodIdentity {
                namespace: Name::clone(namespace),
                name: Name::clone(name),
                uid: None,
            }),
            addresses: vec![address],
        });
    }

    fn home(&self, round: usize) -> Name {
        let one = &self.local[round % self.local.len().min(100)];
        one.identity.as_ref().map(|identity| Name::clone(&identity.namespace)).unwrap_or_default()
    }

    fn relabel(&mut self, round: usize) {
        let labels = Arc::clone(&self.labels[round % APPS]);
        let name = self.home(round);
        let content = self.cluster.namespace_mut(&name);
        let place: Name = format!("pod-{:05}", 1 + round % 9).into();
        if let Some(pod) = content.pods.get_mut(&place) {
            Arc::make_mut(pod).labels = labels;
        }
    }

    fn add_policy(&mut self, round: usize) {
        let name = self.home(round);
        let pods = Selector::labels([
            ("tier", format!("tier-{}", round % 3).as_str()),
            ("app", format!("app-{}", round % APPS).as_str()),
        ]);
        // Every other one reaches into the namespaces of a team.
        let namespaces = if round.is_multiple_of(2) {
            NamespaceMatch::Named(Name::clone(&name))
        } else {
            NamespaceMatch::Selected(Selector::labels([("team", format!("team-{}", round % TEAMS).as_str())]))
        };
        let rule = Rule {
            peers: Peers::Only(vec![Peer::Pods { namespaces, pods }]),
            ports: Ports::Only(vec![PortMatch::Numbers(PortRange::single(Protocol::Tcp, 4000))]),
        };
        let policy = Policy { subject: Selector::default(), ingress: Some(vec![rule]), egress: None };
        self.cluster.namespace_mut(&name).policies.insert("new".into(), Arc::new(policy));
    }

    fn remove_policy(&mut self, round: usize) {
        let name = self.home(round);
        self.cluster.namespace_mut(&name).policies.remove("new");
    }

    fn add_pod(&mut self, round: usize) {
        let (pod, _) = self.pod(round);
        let name = self.home(round);
        self.cluster.namespace_mut(&name).pods.insert(format!("new-{round}").into(), Arc::new(pod));
    }

    fn remove_pod(&mut self, round: usize) {
        let name = self.home(round);
        self.cluster.namespace_mut(&name).pods.remove(format!("new-{round}").as_str());
    }

    fn add_local(&mut self, round: usize) {
        let (pod, address) = self.pod(0);
        let (home, name): (Name, Name) = (self.home(round), format!("mine-{round}").into());
        let pod = Pod { node: Some("here".into()), ..pod };
        self.cluster.namespace_mut(&home).pods.insert(Name::clone(&name), Arc::new(pod));
        self.register(&home, &name, address);
    }
}

/// Lets all pods of a third of all namespaces in.
fn scrape() -> Policy {
    let production = NamespaceMatch::Selected(Selector::labels([("env", "env-0")]));
    let rule = Rule {
        peers: Peers::Only(vec![Peer::Pods { namespaces: production, pods: Selector::default() }]),
        ports: Ports::Only(vec![PortMatch::Named { protocol: Protocol::Tcp, name: "metrics".into() }]),
    };
    Policy { subject: Selector::default(), ingress: Some(vec![rule]), egress: None }
}

/// What one app of a namespace lets in, and some of it out.
fn policy(namespace: usize, place: usize) -> Policy {
    let own = NamespaceMatch::Named(self::namespace(namespace));
    let port = |port| Ports::Only(vec![PortMatch::Numbers(PortRange::single(Protocol::Tcp, port))]);
    let near = Peer::Pods { namespaces: own, pods: pods_with(place + 1) };
    let far = Peer::Pods {
        namespaces: NamespaceMatch::Selected(Selector::labels([(
            "team",
            format!("team-{}", (namespace + place) % TEAMS).as_str(),
        )])),
        pods: pods_with((place + 2) % APPS),
    };
    let outside = Peer::Block(IpBlock {
        cidr: ipnetwork::IpNetwork::V4(
            ipnetwork::Ipv4Network::new([100, 64, u8::try_from(place).unwrap_or(0), 0].into(), 24)
                .unwrap_or_else(|_| std::process::abort()),
        ),
        except: Vec::new(),
    });
    let named = Ports::Only(vec![PortMatch::Named { protocol: Protocol::Tcp, name: "http".into() }]);
    let ingress = vec![
        Rule { peers: Peers::Only(vec![near.clone()]), ports: port(8080) },
        Rule {
            peers: Peers::Only(vec![if place.is_multiple_of(3) { far } else { outside }]),
            ports: named.clone(),
        },
    ];
    let egress = place.is_multiple_of(2).then(|| vec![Rule { peers: Peers::Only(vec![near]), ports: named }]);
    Policy { subject: pods_with(place % APPS), ingress: Some(ingress), egress }
}
