//! Steps that fail part way.

use policy_core::model::{
    Backends, IpBlock, Labels, NamespaceMatch, Peer, Peers, Pod, PodState, Policy, PortMatch, PortRange,
    Ports, Protocol, Rule, Selector, Service, ServicePort, TargetPort,
};
use policy_core::model::{Name, Namespace};

use super::numbered::numbered;
use super::*;

/// A cluster that changes.
#[derive(Clone, Default)]
struct Changing(Arc<Mutex<Arc<Cluster>>>);

impl ClusterSource for Changing {
    fn snapshot(&self) -> Arc<Cluster> {
        Arc::clone(&self.0.lock().unwrap())
    }

    async fn ensure_pod(&self, _: &PodRef, _: Duration) -> Result<(), Refusal> {
        Ok(())
    }
}

struct Bench {
    memory: Memory,
    cluster: Changing,
    enforcer: Enforcer<Changing>,
}

impl Bench {
    /// `web` and `db` are under policy.
    async fn start(cluster: Cluster) -> Self {
        let (memory, source) = (Memory::default(), Changing::default());
        *source.0.lock().unwrap() = Arc::new(cluster);
        let metrics = Metrics::new(&mut Registry::default());
        let enforcer = Enforcer::start(memory.clone(), Arc::new(source.clone()), metrics).expect("memory");
        enforcer.activate().await.expect("nothing fails");
        enforcer.attach(endpoint(1, "web")).await.expect("nothing fails");
        enforcer.attach(endpoint(2, "db")).await.expect("nothing fails");
        Self { memory, cluster: source, enforcer }.quiet().await
    }

    /// The next cluster; returns the step that was refused, if one was.
    async fn change(&self, cluster: &Cluster) -> Option<&'static str> {
        *self.cluster.0.lock().unwrap() = Arc::new(cluster.clone());
        self.memory.0.lock().unwrap().refused = None;
        self.enforcer.cluster_changed(Instant::now()).await;
        self.compiled().await;
        // Not what the agent reports: it may have tried again already.
        self.memory.0.lock().unwrap().refused
    }

    fn error(&self) -> Option<String> {
        self.enforcer.report().borrow().error.clone()
    }

    /// Answered after the compilation that goes before it.
    async fn compiled(&self) {
        self.enforcer.detach(&endpoint(99, "nobody")).await;
        let maps = self.memory.clone();
        // Compared by the thread that writes.
        let both = self
            .enforcer
            .look(move |all| (all.compiler.installed().clone(), maps.0.lock().unwrap().tables.clone()));
        let (known, standing) = both.await.expect("a thread");
        assert_eq!(known, standing, "the record is not what stands");
    }

    /// Until nothing is left to do: nothing is to leave the maps, and to compile again changes nothing.
    async fn quiet(self) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            settle(&self.enforcer).await;
            self.memory.log();
            self.enforcer.cluster_changed(Instant::now()).await;
            self.compiled().await;
            settle(&self.enforcer).await;
            if self.memory.log().is_empty() {
                return self;
            }
            assert!(Instant::now() < until, "there is no end");
        }
    }

    /// What stands, but for numbers and epochs.
    fn standing(&self) -> Tables {
        numbered(&self.memory.0.lock().unwrap().tables)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn app(name: &str) -> Selector {
    Selector::labels([("app", name)])
}

fn pods(name: &str) -> Peer {
    Peer::Pods { namespaces: NamespaceMatch::Named("shop".into()), pods: app(name) }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let network = |text: &str| text.parse().expect("a network");
    Peer::Block(IpBlock { cidr: network(cidr), except: except.iter().map(|text| network(text)).collect() })
}

/// Every second one, so that none fall into one prefix.
fn ports(first: u16, count: u16) -> Ports {
    let one = |port| PortMatch::Numbers(PortRange { protocol: Protocol::Tcp, first: port, last: port });
    Ports::Only((0..count).map(|place| one(first + 2 * place)).collect())
}

/// Pods with these labels, `db` with this ingress.
fn cluster(labels: &[(&str, &str)], peers: Vec<Peer>, ports: Ports) -> Cluster {
    let mut cluster = Cluster::default();
    let shop = cluster.namespace_mut(&"shop".into());
    *shop = Namespace::with_labels::<Name, Name>("shop", []);
    for (number, (name, label)) in (1..).zip(labels) {
        let own: Labels = [(Name::from("app"), Name::from(*label))].into_iter().collect();
        let pod = Pod {
            uid: (*name).into(),
            labels: Arc::new(own),
            addresses: vec![ip(&format!("10.0.0.{number}")), ip(&format!("fd00::{number}"))].into(),
            ports: Arc::new([]),
            node: Some("node-1".into()),
            state: PodState::Live,
            host_network: false,
            audit: false,
        };
        shop.pods.insert((*name).into(), Arc::new(pod));
    }
    let rule = Rule { peers: Peers::Only(peers), ports };
    let policy = Policy { subject: app("db"), ingress: Some(vec![rule]), egress: None };
    shop.policies.insert("db".into(), Arc::new(policy));
    cluster
}

fn before() -> Cluster {
    let labels = [("web", "web"), ("db", "db"), ("a", "peer"), ("b", "peer"), ("c", "other")];
    cluster(&labels, vec![pods("web"), block("10.9.0.0/24", &[])], ports(5432, 1))
}

/// Something of every kind of step.
fn after() -> Cluster {
    let labels = [("web", "front"), ("db", "db"), ("a", "batch"), ("b", "batch"), ("d", "batch")];
    let peers = vec![
        pods("batch"),
        block("10.9.0.0/24", &["10.9.0.64/26"]),
        block("10.8.0.0/16", &[]),
        block("fd01::/64", &["fd01::8000/113"]),
    ];
    let mut cluster = cluster(&labels, peers, ports(1000, 6));
    let shop = cluster.namespace_mut(&"shop".into());
    let isolated = Policy { subject: app("front"), ingress: None, egress: Some(Vec::new()) };
    shop.policies.insert("web".into(), Arc::new(isolated));
    let port = |number| ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: number,
        target: TargetPort::Number(5432),
        node_port: None,
    };
    let service = Service {
        addresses: vec![ip("172.20.0.7")],
        external: Vec::new(),
        ports: vec![port(80), port(81)],
        backends: Backends::Pods(app("db")),
    };
    shop.services.insert("db".into(), Arc::new(service));
    cluster
}

#[tokio::test]
async fn what_failed_part_way_and_is_not_wanted_any_more_leaves_nothing() {
    let bench = Bench::start(before()).await;
    let first = bench.standing();
    let mut bench = bench;
    let mut failures = 0;
    for written in 0.. {
        bench.memory.0.lock().unwrap().written_until = Some(written);
        let failed = bench.change(&after()).await;
        bench.memory.0.lock().unwrap().written_until = None;
        bench.change(&before()).await;
        bench = bench.quiet().await;
        assert_eq!(bench.standing(), first, "after {written} entries");
        if failed.is_none() {
            break;
        }
        failures += 1;
    }
    assert!(failures > 30, "{failures} entries are too few to say anything");
}

#[tokio::test]
async fn what_failed_part_way_is_finished_by_the_next_try() {
    let whole = Bench::start(after()).await.standing();
    for written in [1, 7, 20, 31] {
        let bench = Bench::start(before()).await;
        bench.memory.0.lock().unwrap().written_until = Some(written);
        bench.change(&after()).await.expect("it fails");
        let bench = bench.quiet().await;
        let standing = bench.standing();
        assert_eq!(bench.error(), None);
        assert_eq!(
            (standing.peers.keys().collect::<Vec<_>>(), standing.ports.len(), standing.rows.len()),
            (whole.peers.keys().collect::<Vec<_>>(), whole.ports.len(), whole.rows.len())
        );
    }
}

#[tokio::test]
async fn a_policy_that_does_not_fit_harms_nobody_once_it_is_gone() {
    let labels = [("web", "web"), ("db", "db")];
    let of_ports = |first, count| cluster(&labels, vec![pods("web")], ports(first, count));
    let bench = Bench::start(of_ports(1000, 10)).await;
    let standing = bench.standing();
    let room = standing.ports.len() + 15;
    bench.memory.0.lock().unwrap().most_ports = room;
    assert_eq!(bench.change(&of_ports(2000, 40)).await, Some("add_ports"), "there is no room");
    assert!(bench.error().is_some_and(|error| error.contains("add_ports")));
    assert_eq!(bench.memory.0.lock().unwrap().tables.ports.len(), room, "it is full");
    assert_eq!(bench.change(&of_ports(1000, 10)).await, None);
    let bench = bench.quiet().await;
    assert_eq!(bench.standing(), standing);
    assert_eq!(bench.change(&of_ports(3000, 12)).await, None, "there is room again");
}

#[tokio::test]
async fn what_nobody_needs_makes_room_for_what_found_none() {
    let labels = [("web", "web"), ("db", "db")];
    let all = |first: u16, subject: &str| {
        let mut cluster = cluster(&labels, vec![pods("web")], ports(first, 10));
        let shop = cluster.namespace_mut(&"shop".into());
        let mut policy = shop.policies.remove("db").expect("a policy");
        Arc::make_mut(&mut policy).subject = app(subject);
        shop.policies.insert("it".into(), policy);
        cluster
    };
    let bench = Bench::start(all(1000, "db")).await;
    let used = bench.standing().ports.len();
    {
        let mut maps = bench.memory.0.lock().unwrap();
        maps.most_ports = used + 3;
        maps.programs_run = true;
    }
    bench.enforcer.detach(&endpoint(2, "db")).await;
    let refused = bench.change(&all(4000, "web")).await;
    assert_eq!(refused, Some("add_ports"), "what the pod left is still there");
    bench.memory.0.lock().unwrap().programs_run = false;
    bench.memory.1.notify_all();
    let in_force = || bench.error().is_none().then_some(());
    kernel_test::wait_for("it is in force", PATIENCE, in_force).expect("nobody changes anything");
    let bench = bench.quiet().await;
    assert_eq!(bench.standing().ports.len(), used);
}

#[tokio::test]
async fn numbers_are_given_again_when_programs_have_ended() {
    let mut bench = Bench::start(before()).await;
    let mut highest = Vec::new();
    for _ in 0..12 {
        for cluster in [after(), before()] {
            assert_eq!(bench.change(&cluster).await, None);
        }
        bench = bench.quiet().await;
        let maps = bench.memory.0.lock().unwrap();
        highest.push(maps.tables.rows.keys().map(|key| key.set.max(key.class)).max());
    }
    assert_eq!(highest[..6].iter().max(), highest[6..].iter().max(), "{highest:?}");
}

#[tokio::test]
async fn the_second_half_of_a_take_over_is_a_change_too() {
    // Unchanged there is none. Else some that had one class are to have two: only one of these keeps the number.
    let labels = [("web", "web"), ("db", "db"), ("a", "peer"), ("b", "peer"), ("c", "other")];
    let changed = cluster(&labels, vec![pods("peer"), block("10.9.0.0/24", &[])], ports(5432, 1));
    for (meanwhile, changes) in [(before(), 1), (changed, 2)] {
        let Bench { memory, cluster, enforcer } = Bench::start(before()).await;
        end(enforcer, &memory);
        *cluster.0.lock().unwrap() = Arc::new(meanwhile);
        let metrics = Metrics::new(&mut Registry::default());
        let enforcer = Enforcer::start(memory.clone(), Arc::new(cluster.clone()), metrics).expect("memory");
        enforcer.attach(endpoint(1, "web")).await.expect("adopted");
        enforcer.attach(endpoint(2, "db")).await.expect("adopted");
        enforcer.activate().await.expect("nothing fails");
        // Answered after the take-over.
        enforcer.count().await;
        assert_eq!(enforcer.changes().after(0).len(), changes);
        let bench = Bench { memory, cluster, enforcer }.quiet().await;
        assert_eq!(bench.enforcer.changes().after(0).len(), changes);
    }
}
