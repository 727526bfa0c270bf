//! Flows that run while policy changes ten thousand times: every datagram of an allowed flow arrives, both ways, and
//! none of a denied one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::{Direction, Reason};
use kernel_test::{NetNs, wait_for};
use policy_core::model::{
    Cluster, IpBlock, Labels, LocalNode, Name, Namespace, NamespaceMatch, Peer, Peers, Pod, PodState, Policy,
    PortMatch, PortRange, Ports, Protocol, Requirement, Rule, Selector,
};
use policy_core::{Compiler, CompilerOptions, LocalPod, PodIdentity, Step};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidepool_agent::datapath::Datapath;

use super::packets::{LATE, count};
use super::wire::{Who, Wire, counted};

const CHANGES: u32 = 10_000;
/// Removals wait for a grace period of some milliseconds, so that only every so many changes carry them out: the
/// compiler keeps what is not removed yet.
const SWEEP: u32 = 100;
const OPEN: u16 = 5000;
const CLOSED: u16 = 5002;
const BACK: u16 = 6000;
/// Datagrams of one flow under way: less than a socket holds.
const WINDOW: u64 = 16;
/// Between two bursts of a sender: all of them together leave room in the queue of each processor, which would drop
/// what no policy does.
const PACE: Duration = Duration::from_micros(500);

/// What may be so or otherwise, without any verdict about the flows changing.
#[derive(Clone, Copy, Debug)]
enum Variant {
    /// B is let in by addresses instead of labels.
    ByAddress,
    /// B's open port is one of a range.
    Range,
    /// Another policy isolates B too and lets somebody else in.
    Second,
    /// A policy that lets nobody in.
    Nobody,
    /// A and others have one more label, which a policy looks at.
    Labelled,
    /// There are more pods, some of which may come in.
    Crowd,
    /// C may come in at another port.
    Elsewhere,
    /// The namespace has one more label, which a policy looks at.
    Team,
}

const VARIANTS: [Variant; 8] = [
    Variant::ByAddress,
    Variant::Range,
    Variant::Second,
    Variant::Nobody,
    Variant::Labelled,
    Variant::Crowd,
    Variant::Elsewhere,
    Variant::Team,
];

/// The cluster as it is with some variants; `allowed`: A may come in to B.
fn cluster(mask: u32, allowed: bool) -> Result<Cluster> {
    let has = |variant: Variant| mask & 1 << variant as u32 != 0;
    let mut cluster = Cluster {
        node: LocalNode { name: "node".into(), addresses: vec![IpAddr::from([10, 0, 0, 100])] },
        ..Cluster::default()
    };
    let team = if has(Variant::Team) { "a" } else { "b" };
    let mut shop = Namespace::with_labels("shop", [("team", team)]);
    let mut pod = |name: &str, app: &str, address: [u8; 4]| {
        let mut labels = vec![("app", app)];
        if has(Variant::Labelled) && app != "c" {
            labels.push(("also", "yes"));
        }
        let pod = Pod {
            uid: name.into(),
            labels: Arc::new(labels.into_iter().collect::<Labels>()),
            addresses: Box::new([IpAddr::from(address)]),
            ports: Arc::default(),
            node: Some("node".into()),
            state: PodState::Live,
            host_network: false,
            audit: false,
        };
        shop.pods.insert(name.into(), Arc::new(pod));
    };
    pod("a", "a", [10, 0, 0, 1]);
    pod("b", "b", [10, 0, 0, 2]);
    pod("c", "c", [10, 0, 9, 1]);
    if has(Variant::Crowd) {
        for last in 10..40 {
            pod(&format!("d{last}"), if last % 2 == 0 { "a" } else { "d" }, [10, 0, 3, last]);
        }
    }
    let apps = |apps: &[&str]| {
        let values = apps.iter().map(|app| Name::from(*app)).collect();
        Peer::Pods {
            namespaces: NamespaceMatch::Named("shop".into()),
            pods: Selector::new([Requirement::In("app".into(), values)]),
        }
    };
    let ports = |first, last| {
        let udp = PortRange { protocol: Protocol::Udp, first, last };
        Ports::Only(vec![PortMatch::Numbers(udp)])
    };
    let mut policy = |name: &str, rules: Vec<Rule>| {
        let subject = Selector::labels([("app", "b")]);
        shop.policies.insert(name.into(), Arc::new(Policy { subject, ingress: Some(rules), egress: None }));
    };
    let open = if has(Variant::Range) { ports(OPEN - 10, OPEN + 1) } else { ports(OPEN, OPEN) };
    let by_address = IpBlock { cidr: "10.0.0.0/24".parse()?, except: vec!["10.0.0.2/32".parse()?] };
    let who = if has(Variant::ByAddress) { Peer::Block(by_address) } else { apps(&["a", "z"]) };
    let base = if allowed { vec![Rule { peers: Peers::Only(vec![who]), ports: open }] } else { Vec::new() };
    policy("base", base);
    if has(Variant::Second) {
        policy("second", vec![Rule { peers: Peers::Only(vec![apps(&["d"])]), ports: Ports::All }]);
    }
    if has(Variant::Nobody) {
        policy("nobody", Vec::new());
    }
    if has(Variant::Elsewhere) {
        policy("elsewhere", vec![Rule { peers: Peers::Only(vec![apps(&["c"])]), ports: ports(7000, 7999) }]);
    }
    let of_team = Peer::Pods {
        namespaces: NamespaceMatch::Selected(Selector::labels([("team", "a")])),
        pods: Selector::labels([("also", "yes")]),
    };
    policy("team", vec![Rule { peers: Peers::Only(vec![of_team]), ports: ports(8000, 8000) }]);
    cluster.namespaces = BTreeMap::from([("shop".into(), Arc::new(shop))]);
    Ok(cluster)
}

fn local() -> Vec<LocalPod> {
    let pod = |slot, name: &str, address: [u8; 4]| LocalPod {
        slot,
        sandbox: name.into(),
        identity: Some(PodIdentity { namespace: "shop".into(), name: name.into(), uid: None }),
        addresses: vec![IpAddr::from(address)],
    };
    vec![pod(1, "a", [10, 0, 0, 1]), pod(2, "b", [10, 0, 0, 2])]
}

/// The agent's part: one change after the other.
struct Agent<'a> {
    dp: &'a mut Datapath,
    compiler: Compiler,
    local: Vec<LocalPod>,
}

impl Agent<'_> {
    /// Carries out a change up to the flip, or all of it.
    fn change(&mut self, cluster: &Cluster, whole: bool) -> Result<()> {
        let update = self.compiler.update(cluster, &self.local);
        for step in &update.steps {
            if !whole && matches!(step, Step::Grace) {
                break;
            }
            self.dp.apply(std::slice::from_ref(step))?;
            self.compiler.record(step);
        }
        Ok(())
    }
}

/// What the senders and receivers found out.
#[derive(Default)]
struct Tally {
    /// Senders end.
    stop: AtomicBool,
    /// And those who answer, when all senders have.
    silence: AtomicBool,
    /// Datagrams of allowed flows that came back.
    back: AtomicU64,
    lost: AtomicU64,
    /// Datagrams that should have been dropped.
    denied: AtomicU64,
    wrong: AtomicU64,
}

impl Tally {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn socket(ns: &NetNs, address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = ns.run(|| UdpSocket::bind((address, port)))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Sends back what comes; what comes from `stranger` should not have.
fn answer(socket: &UdpSocket, stranger: IpAddr, tally: &Tally) -> Result<()> {
    let mut buffer = [0; 64];
    while !tally.silence.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        if from.ip() == stranger {
            tally.wrong.fetch_add(1, Ordering::Relaxed);
        } else {
            socket.send_to(&buffer[..len], from)?;
        }
    }
    Ok(())
}

/// One flow for all the time, with some datagrams under way.
fn long(socket: &UdpSocket, to: SocketAddr, tally: &Tally) -> Result<()> {
    let mut buffer = [0; 64];
    let (mut sent, mut back) = (0_u64, 0_u64);
    let mut heard = Instant::now();
    while tally.runs() || back < sent {
        for _ in 0..if tally.runs() && back == sent { WINDOW } else { 0 } {
            socket.send_to(&sent.to_be_bytes(), to)?;
            sent += 1;
        }
        if socket.recv_from(&mut buffer).is_ok() {
            heard = Instant::now();
            back += 1;
            tally.back.fetch_add(1, Ordering::Relaxed);
            if back == sent {
                std::thread::sleep(PACE);
            }
        } else if heard.elapsed() > LATE {
            tally.lost.fetch_add(sent - back, Ordering::Relaxed);
            return Ok(());
        }
    }
    Ok(())
}

/// One flow after the other, each of one datagram.
fn short(ns: &NetNs, me: IpAddr, to: SocketAddr, tally: &Tally) -> Result<()> {
    let mut buffer = [0; 64];
    while tally.runs() {
        let socket = socket(ns, me, 0)?;
        socket.set_read_timeout(Some(LATE))?;
        socket.send_to(b"new", to)?;
        let answered = socket.recv_from(&mut buffer).is_ok();
        (if answered { &tally.back } else { &tally.lost }).fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// What must not arrive: one long flow and many short ones.
fn denied(ns: &NetNs, me: IpAddr, to: SocketAddr, tally: &Tally) -> Result<()> {
    let long = socket(ns, me, 0)?;
    while tally.runs() {
        let short = socket(ns, me, 0)?;
        for socket in [&long, &short] {
            socket.send_to(b"bad", to)?;
            tally.denied.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}

pub(crate) fn not_one_wrong_verdict() -> Result<()> {
    let wire = Wire::new()?;
    let (a, b, c) = (&wire.pods.a, &wire.pods.b, &wire.outside);
    let (at_a, at_b, at_c) = (Who::A.v4(), Who::B.v4(), Who::Outside.v4());
    let open = socket(b, at_b, OPEN)?;
    let closed = socket(b, at_b, CLOSED)?;
    let back = socket(a, at_a, BACK)?;
    let from_a = socket(a, at_a, 4000)?;
    let from_b = socket(b, at_b, 4001)?;
    let tally = Tally::default();
    wire.with(|dp| {
        let options = CompilerOptions { first_epoch: dp.last_epoch()? + 1, ..CompilerOptions::default() };
        let compiler = Compiler::new(options, dp.installed()?);
        let mut agent = Agent { dp, compiler, local: local() };
        agent.change(&cluster(0, true)?, true)?;
        let before = (count(agent.dp, Reason::Policy)?, counted(agent.dp)?);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let tally = &tally;
            let answering = [
                scope.spawn(|| answer(&open, at_c, tally)),
                // Nobody may come here.
                scope.spawn(|| answer(&closed, at_a, tally)),
                scope.spawn(|| answer(&back, at_c, tally)),
            ];
            let sending = [
                scope.spawn(|| long(&from_a, (at_b, OPEN).into(), tally)),
                scope.spawn(|| long(&from_b, (at_a, BACK).into(), tally)),
                scope.spawn(|| short(a, at_a, (at_b, OPEN).into(), tally)),
                scope.spawn(|| short(b, at_b, (at_a, BACK).into(), tally)),
                scope.spawn(|| denied(c, at_c, (at_b, OPEN).into(), tally)),
                scope.spawn(|| denied(a, at_a, (at_b, CLOSED).into(), tally)),
            ];
            let changed = change(&mut agent, tally);
            tally.stop.store(true, Ordering::Relaxed);
            let sent: Vec<_> = sending.into_iter().map(ScopedJoinHandle::join).collect();
            tally.silence.store(true, Ordering::Relaxed);
            for ended in sent.into_iter().chain(answering.into_iter().map(ScopedJoinHandle::join)) {
                ended.map_err(|_| anyhow::anyhow!("it panicked"))??;
            }
            changed
        })?;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (came, bad) = (read(&tally.back), read(&tally.denied));
        let took = begin.elapsed();
        println!(
            "{CHANGES} changes in {took:.1?} with {} packets of allowed flows and {bad} of denied ones",
            2 * came
        );
        ensure!(read(&tally.lost) == 0, "{} lost: {:?}", read(&tally.lost), counted(agent.dp)?);
        ensure!(read(&tally.wrong) == 0, "{} came that should not", read(&tally.wrong));
        ensure!(came > u64::from(CHANGES) && bad > u64::from(CHANGES) / 10, "{came} and {bad} are no load");
        // Each packet of theirs was dropped, each for what policy says, and nothing else was.
        let dropped = count(agent.dp, Reason::Policy)? - before.0;
        ensure!(dropped == bad, "{dropped} dropped, not {bad}: {:?}", counted(agent.dp)?);
        for (direction, reason, packets) in counted(agent.dp)? {
            let known = before.1.contains(&(direction, reason, packets));
            ensure!(
                reason.passes() || reason == Reason::Policy || known,
                "{direction:?} {reason:?}: {packets}"
            );
        }
        revoke(&mut agent, &from_a, &open)
    })
}

/// Changes policy, as fast as it goes.
fn change(agent: &mut Agent<'_>, tally: &Tally) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(11);
    let mut mask = 0_u32;
    for number in 0..CHANGES {
        mask ^= 1 << (VARIANTS[rng.random_range(0..VARIANTS.len())] as u32);
        agent
            .change(&cluster(mask, true)?, number % SWEEP == 0)
            .with_context(|| format!("change {number}"))?;
        ensure!(tally.wrong.load(Ordering::Relaxed) == 0, "after change {number}, variants {mask:#b}");
        ensure!(tally.lost.load(Ordering::Relaxed) == 0, "after change {number}, variants {mask:#b}");
    }
    Ok(())
}

/// After the flip, not one byte of a revoked flow comes through either way.
fn revoke(agent: &mut Agent<'_>, client: &UdpSocket, server: &UdpSocket) -> Result<()> {
    const MANY: u64 = 1000;
    agent.change(&cluster(0, false)?, true)?;
    for _ in 0..MANY {
        client.send_to(b"late", (Who::B.v4(), OPEN))?;
        server.send_to(b"late", (Who::A.v4(), 4000))?;
    }
    wait_for("that all are dropped", LATE, || {
        (count(agent.dp, Reason::Revoked).ok()? >= 2 * MANY).then_some(())
    })?;
    let revoked = |direction| {
        let counters = counted(agent.dp)?;
        let found = counters.iter().find(|one| (one.0, one.1) == (direction, Reason::Revoked));
        anyhow::Ok(found.map_or(0, |one| one.2))
    };
    // A's packets are dropped on their way to B, and B's where they leave it.
    ensure!(revoked(Direction::In)? == MANY && revoked(Direction::Out)? == MANY, "{:?}", counted(agent.dp)?);
    for socket in [client, server] {
        socket.set_nonblocking(true)?;
        let mut buffer = [0; 64];
        while let Ok(len) = socket.recv(&mut buffer) {
            ensure!(&buffer[..len] != b"late", "a byte of a revoked flow");
        }
    }
    Ok(())
}
