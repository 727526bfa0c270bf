//! What holds over a compiler's life: nothing owed is forgotten, nothing forgotten is kept.

use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{
    Action, Backends, ClusterPolicy, ClusterRule, ContainerPort, Direction, IpBlock, Labels, LocalNode,
    Namespace, NamespaceMatch, Node, Peer, Peers, Pod, PodState, Policy, PortMatch, PortRange, Ports,
    Protocol, Rule, Selector, Service, ServicePort, Subject, TargetPort, Tier,
};
use policy_core::{
    Cluster, Compiler, CompilerOptions, Evaluator, LocalPod, PodIdentity, Query, Step, Tables, explain,
};

fn pod(app: &str, last: u8) -> Arc<Pod> {
    let labels: Labels = [("app", app)].into_iter().collect();
    Arc::new(Pod {
        uid: format!("uid-{last}").into(),
        labels: Arc::new(labels),
        addresses: [IpAddr::from([10, 0, 0, last])].into(),
        ports: [].into(),
        node: Some("here".into()),
        state: PodState::Live,
        host_network: false,
        audit: false,
    })
}

fn lets_in(app: &str, port: u16) -> Arc<Policy> {
    let pods = Selector::labels([("app", app)]);
    let peer = Peer::Pods { namespaces: NamespaceMatch::Named("x".into()), pods };
    let ports = Ports::Only(vec![PortMatch::Numbers(PortRange::single(Protocol::Tcp, port))]);
    let rule = Rule { peers: Peers::Only(vec![peer]), ports };
    Arc::new(Policy {
        subject: Selector::labels([("app", "server")]),
        ingress: Some(vec![rule]),
        egress: None,
    })
}

/// A server that lets in clients, and one client.
fn cluster() -> (Cluster, Vec<LocalPod>) {
    let node = LocalNode { name: "here".into(), addresses: vec![IpAddr::from([10, 0, 0, 254])] };
    let mut cluster = Cluster { node, ..Cluster::default() };
    let mut content = Namespace::with_labels("x", [("team", "one")]);
    content.pods.insert("server".into(), pod("server", 1));
    content.pods.insert("client".into(), pod("client", 2));
    content.policies.insert("in".into(), lets_in("client", 80));
    cluster.namespaces.insert("x".into(), Arc::new(content));
    let local = LocalPod {
        slot: 1,
        sandbox: "sandbox".into(),
        identity: Some(PodIdentity { namespace: "x".into(), name: "server".into(), uid: None }),
        addresses: vec![IpAddr::from([10, 0, 0, 1])],
    };
    (cluster, vec![local])
}

fn settle(compiler: &mut Compiler, cluster: &Cluster, local: &[LocalPod]) -> Vec<Step> {
    let steps = compiler.update(cluster, local).steps;
    steps.iter().for_each(|step| compiler.record(step));
    steps
}

fn epoch(compiler: &Compiler) -> u32 {
    compiler.installed().endpoints[&1].epoch
}

#[test]
fn an_epoch_that_a_failed_flip_owes_comes_with_the_next() {
    let (mut cluster, local) = cluster();
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    settle(&mut compiler, &cluster, &local);
    let before = epoch(&compiler);
    // The client is none any more; its address moves, and then the flip fails.
    cluster.namespace_mut(&"x".into()).pods.insert("client".into(), pod("other", 2));
    let steps = compiler.update(&cluster, &local).steps;
    let flip = |step: &&Step| !matches!(step, Step::SetEndpoints(_));
    assert!(steps.iter().any(|step| matches!(step, Step::SetPeers(_))), "{steps:?}");
    steps.iter().take_while(flip).for_each(|step| compiler.record(step));
    assert_eq!(epoch(&compiler), before);
    let steps = settle(&mut compiler, &cluster, &local);
    assert!(steps.iter().any(|step| matches!(step, Step::SetEndpoints(_))), "{steps:?}");
    assert!(epoch(&compiler) > before);
    assert_eq!(settle(&mut compiler, &cluster, &local), []);
}

#[test]
fn whatever_takes_something_away_gives_a_new_epoch() {
    let (mut plain, local) = cluster();
    let shop = plain.namespace_mut(&"x".into());
    shop.policies.clear();
    let http =
        ContainerPort { name: Some("http".into()), protocol: Protocol::Tcp, port: 80, host_port: None };
    shop.pods
        .insert("client".into(), Arc::new(Pod { ports: [http].into(), ..pod("client", 2).as_ref().clone() }));
    let policy = |ingress: bool, peer: Peer, port: PortMatch| {
        let rules = vec![Rule { peers: Peers::Only(vec![peer]), ports: Ports::Only(vec![port]) }];
        let subject = Selector::labels([("app", "server")]);
        let [ingress, egress] = if ingress { [Some(rules), None] } else { [None, Some(rules)] };
        Arc::new(Policy { subject, ingress, egress })
    };
    let eighty = || PortMatch::Numbers(PortRange::single(Protocol::Tcp, 80));
    let clients = || {
        let pods = Selector::labels([("app", "client")]);
        Peer::Pods { namespaces: NamespaceMatch::Named("x".into()), pods }
    };
    let team = Peer::Pods {
        namespaces: NamespaceMatch::Selected(Selector::labels([("team", "one")])),
        pods: Selector::default(),
    };
    let named = PortMatch::Named { protocol: Protocol::Tcp, name: "http".into() };
    // A label of the pod, one of its namespace, the number of a named port.
    type Change = fn(&mut Namespace);
    let cases: [(Arc<Policy>, Change); 3] = [
        (policy(true, clients(), eighty()), |shop| drop(shop.pods.insert("client".into(), pod("other", 2)))),
        (policy(true, team, eighty()), |shop| {
            shop.labels = Namespace::with_labels("x", [("team", "two")]).labels;
        }),
        (policy(false, clients(), named), |shop| {
            let client = shop.pods.get_mut("client").map(Arc::make_mut).expect("it is there");
            client.ports =
                client.ports.iter().map(|port| ContainerPort { port: 81, ..port.clone() }).collect();
        }),
    ];
    for (number, (policy, change)) in cases.into_iter().enumerate() {
        for split_namespaces in [0, 1024] {
            let mut old = plain.clone();
            old.namespace_mut(&"x".into()).policies.insert("p".into(), Arc::clone(&policy));
            let mut new = old.clone();
            change(new.namespace_mut(&"x".into()));
            let options = CompilerOptions { split_namespaces, ..CompilerOptions::default() };
            let mut compiler = Compiler::new(options, Tables::default());
            settle(&mut compiler, &old, &local);
            let before = epoch(&compiler);
            settle(&mut compiler, &new, &local);
            assert!(epoch(&compiler) > before, "case {number}, split {split_namespaces}");
            // Back again: only an addition.
            let before = epoch(&compiler);
            if number < 2 {
                settle(&mut compiler, &old, &local);
                assert_eq!(epoch(&compiler), before, "case {number}, split {split_namespaces}");
            }
        }
    }
}

#[test]
fn what_only_adds_gives_no_new_epoch() {
    let (mut cluster, local) = cluster();
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    settle(&mut compiler, &cluster, &local);
    let (before, findings) = (epoch(&compiler), compiler.findings());
    for (name, app, last) in [("second", "client", 3), ("stranger", "other", 4)] {
        cluster.namespace_mut(&"x".into()).pods.insert(name.into(), pod(app, last));
        assert_ne!(settle(&mut compiler, &cluster, &local), []);
    }
    assert_eq!(epoch(&compiler), before);
    assert_eq!(settle(&mut compiler, &cluster, &local), []);
    assert!(Arc::ptr_eq(&findings, &compiler.findings()));
}

#[test]
fn a_long_life_keeps_no_more_than_a_short_one() {
    let (mut cluster, local) = cluster();
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    let mut sizes = Vec::new();
    for round in 0..200_u16 {
        let content = cluster.namespace_mut(&"x".into());
        content.policies.insert("new".into(), lets_in(&format!("app-{}", round % 7), 100 + round));
        content.pods.insert("guest".into(), pod(&format!("app-{}", round % 5), 9));
        settle(&mut compiler, &cluster, &local);
        if round % 3 == 0 {
            let content = cluster.namespace_mut(&"x".into());
            content.policies.remove("new");
            content.pods.remove("guest");
            settle(&mut compiler, &cluster, &local);
        }
        let tables = compiler.installed();
        let highest = tables.rows.keys().map(|key| key.set.max(key.class)).max().unwrap_or(0);
        let profiles = tables.rows.values().map(|row| row.profile).max().unwrap_or(0);
        sizes.push([compiler.rules().count(), tables.ports.len(), highest as usize, profiles as usize]);
    }
    let most = |part: &[[usize; 4]]| {
        part.iter().fold([0; 4], |most, one| std::array::from_fn(|i| most[i].max(one[i])))
    };
    assert_eq!(most(&sizes[..100]), most(&sizes[100..]));
}

#[test]
fn of_several_that_claim_an_address_all_readings_name_the_same() {
    let shared = IpAddr::from([10, 0, 0, 9]);
    // The first claim and the second, by name, and whether the first has the address.
    for (first, second, has) in [
        (PodState::Live, PodState::Live, true),
        (PodState::Terminating, PodState::Live, false),
        (PodState::Announced, PodState::Live, false),
        (PodState::Announced, PodState::Terminating, false),
        (PodState::Live, PodState::Announced, true),
        (PodState::Announced, PodState::Announced, true),
    ] {
        for allowed_is_first in [true, false] {
            let (mut cluster, local) = cluster();
            let labels = if allowed_is_first { ["client", "other"] } else { ["other", "client"] };
            for ((name, state), label) in [("a", first), ("b", second)].into_iter().zip(labels) {
                // Of pods of other nodes no UID is known.
                let claims = Pod { uid: "".into(), state, node: None, ..pod(label, 9).as_ref().clone() };
                cluster.namespace_mut(&"x".into()).pods.insert(name.into(), Arc::new(claims));
            }
            let owner = cluster.owner(shared).map(|(_, name, _)| name.as_ref());
            assert_eq!(owner, Some(if has { "a" } else { "b" }), "{first:?} {second:?}");
            let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
            settle(&mut compiler, &cluster, &local);
            let query = Query { slot: 1, direction: Direction::Ingress, peer: shared, protocol: 6, port: 80 };
            let in_maps = Evaluator::new(compiler.installed()).decide(&query).allowed;
            let explained = explain(&cluster, shared, IpAddr::from([10, 0, 0, 1]), 6, 80).allows();
            let allowed = has == allowed_is_first;
            assert_eq!((in_maps, explained), (allowed, allowed), "{first:?} {second:?} {labels:?}");
        }
    }
}

/// No entry shows a verdict that neither the old nor the new cluster has.
fn shows_old_or_new(old: &Cluster, new: &Cluster, local: &[LocalPod], query: &Query) -> [bool; 2] {
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    settle(&mut compiler, old, local);
    let allows = |maps: &Tables| Evaluator::new(maps).decide(query).allowed;
    let mut maps = compiler.installed().clone();
    let (was, steps) = (allows(&maps), compiler.update(new, local).steps);
    let shown: Vec<(&str, bool)> = steps
        .iter()
        .map(|step| {
            maps.record(step);
            (step.name(), allows(&maps))
        })
        .collect();
    let will = allows(&maps);
    assert!(shown.iter().all(|(_, now)| *now == was || *now == will), "{query:?} was {was}: {shown:?}");
    [was, will]
}

#[test]
fn a_host_port_that_comes_while_its_node_changes_opens_nothing() {
    let (mut old, local) = cluster();
    let node = |role: &str| {
        let labels: Labels = [("role", role)].into_iter().collect();
        Arc::new(Node { labels: Arc::new(labels), addresses: [IpAddr::from([10, 0, 0, 254])].into() })
    };
    let peers = Peers::Only(vec![Peer::Nodes(Selector::labels([("role", "closed")]))]);
    let rule = ClusterRule { name: None, action: Action::Deny, peers, ports: Ports::All };
    let everything = Subject { namespaces: Selector::everything(), pods: Selector::everything() };
    let nobody = ClusterPolicy {
        tier: Tier::Admin,
        priority: 1,
        subject: everything,
        ingress: Vec::new(),
        egress: vec![rule],
    };
    old.cluster_policies.insert("nodes".into(), Arc::new(nobody));
    old.nodes.insert("here".into(), node("closed"));
    let isolated =
        Policy { subject: Selector::labels([("app", "server")]), ingress: None, egress: Some(Vec::new()) };
    old.namespace_mut(&"x".into()).policies.insert("out".into(), Arc::new(isolated));
    let mut new = old.clone();
    new.nodes.insert("here".into(), node("open"));
    let port = ContainerPort { name: None, protocol: Protocol::Tcp, port: 80, host_port: Some(8080) };
    let exposed = Pod { ports: [port].into(), ..pod("client", 2).as_ref().clone() };
    new.namespace_mut(&"x".into()).pods.insert("client".into(), Arc::new(exposed));
    let peer = IpAddr::from([10, 0, 0, 254]);
    let query = Query { slot: 1, direction: Direction::Egress, peer, protocol: 6, port: 8080 };
    assert_eq!(shows_old_or_new(&old, &new, &local, &query), [false, false]);
    assert_eq!(shows_old_or_new(&new, &old, &local, &query), [false, false]);
}

#[test]
fn a_service_that_comes_with_its_range_cuts_nobody_off() {
    let (mut old, local) = cluster();
    let everywhere =
        Peer::Block(IpBlock { cidr: "0.0.0.0/0".parse().expect("a network"), except: Vec::new() });
    let rule = Rule { peers: Peers::Only(vec![everywhere]), ports: Ports::All };
    let out =
        Policy { subject: Selector::labels([("app", "server")]), ingress: None, egress: Some(vec![rule]) };
    old.namespace_mut(&"x".into()).policies.insert("out".into(), Arc::new(out));
    let peer = IpAddr::from([10, 100, 0, 7]);
    let mut new = old.clone();
    new.service_cidrs = vec!["10.100.0.0/16".parse().expect("a network")];
    let port = ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: 80,
        target: TargetPort::Number(8080),
        node_port: None,
    };
    let service = Service {
        addresses: vec![peer],
        external: Vec::new(),
        ports: vec![port],
        backends: Backends::Pods(Selector::labels([("app", "client")])),
    };
    new.namespace_mut(&"x".into()).services.insert("s".into(), Arc::new(service));
    let query = Query { slot: 1, direction: Direction::Egress, peer, protocol: 6, port: 80 };
    assert_eq!(shows_old_or_new(&old, &new, &local, &query), [true, true]);
    assert_eq!(shows_old_or_new(&new, &old, &local, &query), [true, true]);
}
