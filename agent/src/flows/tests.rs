use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ebpf_common::abi::{Direction, Event, Reason};
use policy_core::model::{
    Backends, Cluster, Direction as Way, LocalNode, Name, Namespace, Node, Pod, PodState, PolicyKey, Service,
};
use policy_core::{LocalPod, PodIdentity, RuleName};
use prometheus_client::registry::Registry;

use super::directory::Directory;
use super::flow::{Moment, tell};
use super::{Flow, Flows, Follower, Hub, InForce, Kind, Known, Ring, Told, TooMany, Verdict, Wish};
use crate::metrics::Metrics;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod(uid: &str, address: &str, state: PodState) -> Arc<Pod> {
    Arc::new(Pod {
        uid: uid.into(),
        labels: Arc::default(),
        addresses: [ip(address)].into(),
        ports: Arc::new([]),
        node: None,
        state,
        host_network: false,
        audit: false,
    })
}

fn cluster() -> Cluster {
    let mut cluster = Cluster {
        node: LocalNode { name: "node-1".into(), addresses: vec![ip("10.0.0.1")] },
        ..Cluster::default()
    };
    let other = Node { labels: Arc::default(), addresses: [ip("10.0.0.2")].into() };
    cluster.nodes.insert("node-2".into(), Arc::new(other));
    let shop = cluster.namespace_mut(&"shop".into());
    *shop = Namespace::with_labels::<Name, Name>("shop", []);
    shop.pods.insert("web".into(), pod("1", "10.0.0.5", PodState::Live));
    shop.pods.insert("done".into(), pod("9", "10.0.0.5", PodState::Completed));
    shop.pods.insert("db".into(), pod("2", "10.0.0.6", PodState::Live));
    let service = Service {
        addresses: vec![ip("172.20.0.7")],
        external: Vec::new(),
        ports: Vec::new(),
        backends: Backends::Listed(Vec::new()),
    };
    shop.services.insert("db".into(), Arc::new(service));
    cluster
}

#[test]
fn an_address_is_its_pods_its_services_its_nodes_or_nobodys() {
    let mut cluster = cluster();
    let mut directory = Directory::default();
    directory.refresh(&cluster);
    let find = |directory: &Directory, address| {
        let (kind, name) = directory.find(ip(address));
        (kind, name.unwrap_or_default())
    };
    assert_eq!(
        find(&directory, "10.0.0.5"),
        (Kind::Pod, "shop/web".into()),
        "a completed pod has no address"
    );
    assert_eq!(find(&directory, "172.20.0.7"), (Kind::Service, "shop/db".into()));
    assert_eq!(find(&directory, "10.0.0.1"), (Kind::Node, "node-1".into()));
    assert_eq!(find(&directory, "10.0.0.2"), (Kind::Node, "node-2".into()));
    assert_eq!(find(&directory, "198.51.100.1"), (Kind::Outside, String::new()));

    // A newer pod claims an address before the older one's end is known; then the older one goes.
    let shop = cluster.namespace_mut(&"shop".into());
    shop.pods.insert("web".into(), pod("1", "10.0.0.5", PodState::Terminating));
    shop.pods.insert("api".into(), pod("0", "10.0.0.5", PodState::Live));
    directory.refresh(&cluster);
    assert_eq!(find(&directory, "10.0.0.5"), (Kind::Pod, "shop/api".into()));
    cluster.namespace_mut(&"shop".into()).pods.remove("api" as &str);
    directory.refresh(&cluster);
    assert_eq!(find(&directory, "10.0.0.5"), (Kind::Pod, "shop/web".into()));
    cluster.namespaces.clear();
    directory.refresh(&cluster);
    assert_eq!(find(&directory, "10.0.0.5").0, Kind::Outside);
    assert_eq!(find(&directory, "172.20.0.7").0, Kind::Outside);
}

fn event(direction: Direction, reason: Reason, peer: [u8; 4]) -> Event {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&peer);
    Event {
        time_ns: 1_000_000_000,
        peer: bytes,
        ifindex: 17,
        rule: 4,
        class: 3,
        pod_port: 5432,
        peer_port: 40_000,
        len: 74,
        proto: 6,
        family: 4,
        direction: direction as u8,
        reason: reason as u8,
        slot: 1,
        pad: 0,
    }
}

fn in_force() -> InForce {
    let policy = PolicyKey { namespace: "shop".into(), name: "db".into() };
    let identity = PodIdentity { namespace: "shop".into(), name: "db".into(), uid: None };
    let local =
        LocalPod { slot: 1, sandbox: "s".into(), identity: Some(identity), addresses: vec![ip("10.0.0.6")] };
    InForce {
        rules: [(4, Arc::new(RuleName::Isolation(policy, Way::Ingress)))].into(),
        pods: [(1, local)].into(),
    }
}

fn told(event: &Event) -> Flow {
    let mut directory = Directory::default();
    directory.refresh(&cluster());
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_002_500);
    tell(event, Moment { monotonic_ns: 2_000_000_000, wall }, &in_force(), &directory)
}

#[test]
fn a_flow_is_told_with_the_names_of_its_ends_and_of_its_rule() {
    let denied = told(&event(Direction::In, Reason::Policy, [10, 0, 0, 5]));
    assert_eq!(denied.time, "2023-11-14T22:13:21.500Z");
    assert_eq!(
        denied.to_string(),
        "22:13:21.500 DENIED  ingress shop/web (10.0.0.5):40000 → shop/db (10.0.0.6):5432 TCP  policy: shop/db \
         isolates ingress"
    );
    let out = Event {
        pod_port: 40_000,
        peer_port: 80,
        rule: 0,
        ..event(Direction::Out, Reason::New, [172, 20, 0, 7])
    };
    assert_eq!(
        told(&out).to_string(),
        "22:13:21.500 allowed egress  shop/db (10.0.0.6):40000 → service shop/db (172.20.0.7):80 TCP  new"
    );
    let audited = told(&event(Direction::In, Reason::Audited, [198, 51, 100, 1]));
    assert_eq!((audited.verdict, audited.from.kind), (Verdict::Audited, Kind::Outside));
    let ping = Event { proto: 1, ..event(Direction::In, Reason::Policy, [10, 0, 0, 1]) };
    assert!(
        told(&ping).to_string().contains("node node-1 (10.0.0.1) → shop/db (10.0.0.6) ICMP"),
        "{}",
        told(&ping)
    );
    // What was not parsed has no more than the pod and the reason.
    let spoofed = Event {
        family: 0,
        proto: 0,
        rule: 0,
        pod_port: 0,
        peer_port: 0,
        ..event(Direction::Out, Reason::Spoofed, [0; 4])
    };
    assert_eq!(told(&spoofed).to_string(), "22:13:21.500 DENIED  egress  shop/db → ?  spoofed");
    let text = serde_json::to_string(&denied).expect("it is JSON");
    assert_eq!(serde_json::from_str::<Flow>(&text).expect("it is read back"), denied);
}

#[test]
fn a_wish_is_read_and_kept() {
    let read = |pairs: &[(&str, &str)]| {
        Wish::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    };
    assert_eq!(read(&[]), Ok(Wish::default()));
    for (name, value) in [("pod", "db"), ("pod", "/db"), ("denied", "maybe"), ("sample", "-1")] {
        let error = read(&[(name, value)]).expect_err("malformed");
        assert!(error.starts_with(&format!("{name}: «{value}»")), "{error}");
    }
    let denied = told(&event(Direction::In, Reason::Policy, [10, 0, 0, 5]));
    let allowed = told(&event(Direction::In, Reason::New, [10, 0, 0, 5]));
    for (pod, wanted) in
        [("shop/db", true), ("shop/web", true), ("shop/", true), ("sho/", false), ("shop/d", false)]
    {
        let wish = read(&[("pod", pod), ("denied", "true")]).expect("sound");
        assert_eq!((wish.wants(&denied), wish.wants(&allowed)), (wanted, false), "{pod}");
    }
}

/// A ring that a test fills.
#[derive(Debug, Clone)]
struct Fake {
    events: Arc<Mutex<VecDeque<Event>>>,
    listening: Arc<Mutex<Vec<Option<u32>>>>,
    lost: Arc<Mutex<u64>>,
    ends: Arc<(UnixStream, UnixStream)>,
}

impl Fake {
    fn new() -> Self {
        let ends = UnixStream::pair().expect("a pair of sockets");
        Self { events: Arc::default(), listening: Arc::default(), lost: Arc::default(), ends: Arc::new(ends) }
    }

    fn push(&self, events: impl IntoIterator<Item = Event>) {
        self.events.lock().unwrap().extend(events);
        (&self.ends.1).write_all(&[1]).expect("the other end is open");
    }

    fn switch(&self) -> Option<u32> {
        self.listening.lock().unwrap().last().copied().flatten()
    }
}

impl AsFd for Fake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.0.as_fd()
    }
}

impl Ring for Fake {
    fn next_event(&mut self) -> Option<Event> {
        self.events.lock().unwrap().pop_front()
    }

    fn listen(&mut self, sample: Option<u32>) -> Result<(), String> {
        self.listening.lock().unwrap().push(sample);
        Ok(())
    }

    fn lost(&self) -> u64 {
        *self.lost.lock().unwrap()
    }
}

#[derive(Debug)]
struct Names(Arc<Cluster>);

impl Known for Names {
    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.0)
    }

    async fn in_force(&self, rules: BTreeSet<u32>) -> InForce {
        let mut known = in_force();
        known.rules.retain(|id, _| rules.contains(id));
        known
    }
}

fn start() -> (Fake, Flows, Metrics) {
    let (fake, metrics) = (Fake::new(), Metrics::new(&mut Registry::default()));
    let names = Names(Arc::new(cluster()));
    let (flows, hub) = Hub::new(fake.clone(), names, metrics.clone()).expect("a socket can be waited for");
    tokio::spawn(hub.run());
    (fake, flows, metrics)
}

async fn flow(follower: &mut Follower) -> Arc<Flow> {
    match follower.next().await {
        Some(Told::Flow(flow)) => flow,
        other => panic!("no flow: {other:?}"),
    }
}

fn denied() -> Event {
    event(Direction::In, Reason::Policy, [10, 0, 0, 5])
}

#[tokio::test]
async fn events_are_written_only_while_somebody_follows_and_older_ones_are_not_told() {
    let (fake, flows, metrics) = start();
    fake.push([event(Direction::In, Reason::Spoofed, [9, 9, 9, 9])]);
    let mut follower = flows.follow(Wish::default()).await.expect("nobody else follows");
    assert_eq!(fake.switch(), Some(10));
    assert_eq!(fake.listening.lock().unwrap().first(), Some(&None), "one before us may have died listening");
    fake.push([denied()]);
    let seen = flow(&mut follower).await;
    assert_eq!((seen.reason.as_str(), seen.rule.as_deref()), ("policy", Some("shop/db isolates ingress")));
    assert_eq!(metrics.flow_followers.get(), 1);
    drop(follower);
    let over = async {
        while fake.switch().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), over)
        .await
        .expect("the programs are told that nobody reads");
    assert_eq!(metrics.flow_followers.get(), 0);
}

#[tokio::test]
async fn each_follower_gets_its_own_share() {
    let (fake, flows, _) = start();
    let mut all = flows.follow(Wish { sample: 1, ..Wish::default() }).await.expect("room");
    let mut few = flows.follow(Wish { sample: 4, ..Wish::default() }).await.expect("room");
    let mut denies = flows.follow(Wish { denied: true, ..Wish::default() }).await.expect("room");
    assert_eq!(fake.switch(), Some(1), "the one who wants most decides");
    fake.push((0..8).map(|_| event(Direction::In, Reason::New, [10, 0, 0, 5])).chain([denied()]));
    let mut counts = Vec::new();
    for follower in [&mut all, &mut few, &mut denies] {
        let mut allowed = 0;
        while flow(follower).await.verdict == Verdict::Allowed {
            allowed += 1;
        }
        counts.push(allowed);
    }
    assert_eq!(counts, [8, 2, 0]);
}

#[tokio::test]
async fn what_came_too_fast_is_counted_and_told() {
    let (fake, flows, metrics) = start();
    let mut slow = flows.follow(Wish::default()).await.expect("room");
    let mut quick = flows.follow(Wish::default()).await.expect("room");
    fake.push((0..6000).map(|_| denied()));
    for _ in 0..6000 {
        flow(&mut quick).await;
    }
    // The slow one has as many as fit, then hears how many it missed, then goes on.
    let mut heard = 0;
    let missed = loop {
        match slow.next().await {
            Some(Told::Flow(_)) => heard += 1,
            Some(Told::Lost(missed)) => break missed,
            None => panic!("the hub ended"),
        }
    };
    assert_eq!(heard + missed, 6000);
    fake.push([denied()]);
    flow(&mut slow).await;
    flow(&mut quick).await;

    *fake.lost.lock().unwrap() = 7;
    let Some(Told::Lost(7)) = quick.next().await else { panic!("what the ring had no room for is not told") };
    assert_eq!(metrics.flow_events_lost.get(), 7);
}

#[tokio::test]
async fn not_more_than_some_follow() {
    let (_fake, flows, _) = start();
    let mut followers = Vec::new();
    let refused = loop {
        match flows.follow(Wish::default()).await {
            Ok(follower) => followers.push(follower),
            Err(refused) => break refused,
        }
    };
    assert_eq!((followers.len(), refused), (16, TooMany));
    followers.pop();
    flows.follow(Wish::default()).await.expect("one went");
}

#[tokio::test]
async fn an_agent_that_ends_leaves_nobody_listening() {
    let fake = Fake::new();
    let names = Names(Arc::new(cluster()));
    let (flows, hub) = Hub::new(fake.clone(), names, Metrics::new(&mut Registry::default()))
        .expect("a socket can be waited for");
    let task = tokio::spawn(hub.run());
    let _follower = flows.follow(Wish::default()).await.expect("room");
    assert!(fake.switch().is_some());
    task.abort();
    drop(task.await);
    assert_eq!(fake.switch(), None);
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_for_long_loses_the_place() {
    let (fake, flows, metrics) = start();
    let mut alive = flows.follow(Wish::default()).await.expect("room");
    let mut asleep = flows.follow(Wish::default()).await.expect("room");
    let mut seconds = 0;
    while metrics.flow_followers.get() == 2 {
        assert!(seconds < 120, "it still has its place");
        fake.push((0..4096).map(|_| denied()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Slow, but there.
        alive.next().await.expect("it stays");
        seconds += 1;
    }
    assert!(seconds >= 30, "after {seconds} s");
    // What was queued is still told, then it is over; the other goes on.
    while asleep.next().await.is_some() {}
    assert_eq!(metrics.flow_followers.get(), 1);
    alive.next().await.expect("it stays");
}
