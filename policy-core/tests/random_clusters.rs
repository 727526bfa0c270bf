//! Random clusters: the tables say what the oracle says, and on the way from one to the
//! next no packet meets anything but the old or the new.

mod world;

use std::net::IpAddr;

use policy_core::model::{Direction, Protocol};
use policy_core::oracle::{self, Party};
use policy_core::{Cluster, Compiler, CompilerOptions, Evaluator, LocalPod, Query, Step, Tables};
use proptest::prelude::*;
use world::{NODE, World, blend, local, worlds};

/// Peers worth asking about: every address that anything in the cluster has, and some outside.
fn peers(clusters: &[&Cluster]) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = [
        IpAddr::from([10, 0, 0, 200]),
        IpAddr::from([10, 0, 1, 77]),
        IpAddr::from([198, 51, 100, 10]),
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x200]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ]
    .into();
    for cluster in clusters {
        list.extend(cluster.pods().flat_map(|(_, _, pod)| pod.addresses.iter().copied()));
        let services = cluster.namespaces.values().flat_map(|content| content.services.values());
        list.extend(services.flat_map(|service| service.addresses.iter().copied()));
    }
    list.sort();
    list.dedup();
    list
}

const PORTS: [u16; 4] = [0, 80, 8080, 65535];
const PROTOCOLS: [u8; 4] = [6, 17, 132, 1];

fn queries(local: &[LocalPod], clusters: &[&Cluster]) -> Vec<Query> {
    let peers = peers(clusters);
    let mut list = Vec::new();
    for one in local {
        for direction in [Direction::Ingress, Direction::Egress] {
            for peer in &peers {
                for protocol in PROTOCOLS {
                    for port in PORTS {
                        list.push(Query { slot: one.slot, direction, peer: *peer, protocol, port });
                    }
                }
            }
        }
    }
    list
}

/// What the oracle says of a query: `subject` from the one cluster, everything else from
/// the other. None: the specification does not say.
fn ruling(subject: &Cluster, cluster: &Cluster, local: &[LocalPod], query: &Query) -> Option<bool> {
    let one = local.iter().find(|one| one.slot == query.slot)?;
    let identity = one.identity.as_ref()?;
    let to_node = query.direction == Direction::Egress && query.peer == NODE;
    let Some(pod) = subject.pod(identity) else { return (!to_node).then_some(false) };
    let address = *pod.addresses.first()?;
    let party = Party::Pod { namespace: &identity.namespace, name: &identity.name, pod, address };
    let judge = |peer: IpAddr, port: u16| {
        // What this node's own pods have is known better here than in the API.
        let mine =
            local.iter().find(|one| one.addresses.contains(&peer)).and_then(|one| one.identity.as_ref());
        let peer = match mine.map(|mine| (mine, cluster.pod(mine))) {
            None => Party::at(cluster, peer),
            Some((_, None)) => Party::Outside(peer),
            Some((mine, Some(pod))) => {
                Party::Pod { namespace: &mine.namespace, name: &mine.name, pod, address: peer }
            }
        };
        oracle::rule(cluster, query.direction, party, peer, query.protocol, port).allows()
    };
    if query.direction == Direction::Egress {
        let backends = Protocol::from_number(query.protocol)
            .and_then(|protocol| oracle::resolve(cluster, query.peer, protocol, query.port));
        match backends {
            Some(list) if list.is_empty() => return None,
            Some(list) => return Some(list.iter().all(|(peer, port)| judge(*peer, *port))),
            None if query.peer == NODE => return Some(true),
            None => {}
        }
    }
    Some(judge(query.peer, query.port))
}

fn check_tables(cluster: &Cluster, local: &[LocalPod], tables: &Tables) -> Result<(), TestCaseError> {
    let evaluator = Evaluator::new(tables);
    for query in queries(local, &[cluster]) {
        let Some(expected) = ruling(cluster, cluster, local, &query) else { continue };
        prop_assert_eq!(evaluator.decide(&query).allowed, expected, "{:?}", query);
    }
    Ok(())
}

/// The old policies on the new pods: what a moment between two changes may show.
fn between(old: &Cluster, new: &Cluster) -> Cluster {
    let mut cluster = new.clone();
    let names: Vec<_> = old.namespaces.keys().chain(new.namespaces.keys()).cloned().collect();
    for name in names {
        let policies = old.namespaces.get(&name).map(|content| content.policies.clone());
        cluster.namespace_mut(&name).policies = policies.unwrap_or_default();
    }
    cluster
}

/// Every step cut into its entries, as a reader may see them one by one.
fn single(steps: Vec<Step>) -> Vec<Step> {
    fn each<T>(list: Vec<T>, make: fn(Vec<T>) -> Step) -> Vec<Step> {
        list.into_iter().map(|one| make(vec![one])).collect()
    }
    steps
        .into_iter()
        .flat_map(|step| match step {
            Step::AddPorts(list) => each(list, Step::AddPorts),
            Step::AddRows(list) => each(list, Step::AddRows),
            Step::SetCidrs(list) => each(list, Step::SetCidrs),
            Step::RemoveCidrs(list) => each(list, Step::RemoveCidrs),
            Step::SetPeers(list) => each(list, Step::SetPeers),
            Step::RemovePeers(list) => each(list, Step::RemovePeers),
            Step::SetVips(list) => each(list, Step::SetVips),
            Step::RemoveVips(list) => each(list, Step::RemoveVips),
            Step::SetEndpoints(list) => each(list, Step::SetEndpoints),
            Step::Grace => vec![Step::Grace],
            Step::RemoveRows(list) => each(list, Step::RemoveRows),
            Step::RemovePorts(list) => each(list, Step::RemovePorts),
        })
        .collect()
}

fn compiler(split_namespaces: usize) -> Compiler {
    Compiler::new(CompilerOptions { split_namespaces, ..CompilerOptions::default() })
}

/// Endpoints that are gone are cleared by whoever took them away.
fn clear(maps: &mut Tables, local: &[LocalPod]) {
    maps.endpoints.retain(|slot, _| local.iter().any(|one| one.slot == *slot));
}

proptest! {
    // Each case asks thousands of questions. PROPTEST_CASES=10000 makes an evening of it.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]

    #[test]
    fn tables_say_what_the_oracle_says((world, _) in worlds(), split in prop::sample::select(vec![0_usize, 1024])) {
        let cluster = world.cluster();
        let local = local(&cluster);
        let mut maps = Tables::default();
        let compiled = compiler(split).compile(&cluster, &local, &maps);
        check_tables(&cluster, &local, &compiled.tables)?;
        for step in compiled.plan(&maps) {
            maps.record(&step);
        }
        prop_assert_eq!(&maps, &compiled.tables);
        let used = compiled.tables.rows.values().map(|row| row.rule);
        for rule in used.filter(|rule| *rule != 0) {
            prop_assert!(compiled.rules.contains_key(&policy_core::RuleId(rule)));
        }
    }

    #[test]
    fn no_step_shows_anything_but_old_and_new(
        (old, other) in worlds(),
        picks: u64,
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let new = blend(&old, &other, picks);
        let (old, new) = (old.cluster(), new.cluster());
        // The same pods of this node before and after: who comes or goes is cleared.
        let local = local(&old);
        let middle = between(&old, &new);
        let mut compiler = compiler(split);
        let mut maps = Tables::default();
        for step in compiler.compile(&old, &local, &maps).plan(&maps) {
            maps.record(&step);
        }
        let before = maps.clone();
        let compiled = compiler.compile(&new, &local, &maps);
        let asked: Vec<(Query, bool, bool, Option<bool>)> = queries(&local, &[&old, &new])
            .into_iter()
            .map(|query| {
                let was = Evaluator::new(&before).decide(&query).allowed;
                let will = Evaluator::new(&compiled.tables).decide(&query).allowed;
                let may = ruling(&old, &middle, &local, &query);
                (query, was, will, may)
            })
            .collect();
        for (query, was, will, _) in &asked {
            let epoch = |tables: &Tables| tables.endpoints[&query.slot].epoch;
            let is_vip = Protocol::from_number(query.protocol).is_some_and(|protocol| {
                [&old, &new].iter().any(|c| oracle::resolve(c, query.peer, protocol, query.port).is_some())
            });
            if *was && !*will && !(is_vip && query.direction == Direction::Egress) {
                prop_assert_ne!(epoch(&before), epoch(&compiled.tables), "{:?} lost its verdict", query);
            }
        }
        let mut flipped: Vec<u32> = Vec::new();
        for step in single(compiled.plan(&maps)) {
            maps.record(&step);
            // What cannot be reached changes nothing; all else is looked at entry by entry.
            if matches!(step, Step::AddPorts(_)) {
                continue;
            }
            if let Step::SetEndpoints(list) = &step {
                flipped.extend(list.iter().map(|(slot, _)| *slot));
            }
            let evaluator = Evaluator::new(&maps);
            for (query, was, will, may) in &asked {
                let now = evaluator.decide(query).allowed;
                // An empty Service may be judged by either; None says nothing.
                let fine = now == *was || now == *will || may.is_none_or(|may| !flipped.contains(&query.slot) && now == may);
                prop_assert!(fine, "{:?} shows {} for {:?} (was {}, will be {})", step.name(), now, query, was, will);
            }
        }
        prop_assert_eq!(&maps, &compiled.tables);
        check_tables(&new, &local, &maps)?;
    }

    #[test]
    fn an_agent_that_starts_anew_shows_nothing_but_old_and_new(
        (old, other) in worlds(),
        picks: u64,
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let new = blend(&old, &other, picks);
        let (old, new) = (old.cluster(), new.cluster());
        let local = local(&old);
        let mut maps = Tables::default();
        for step in compiler(split).compile(&old, &local, &maps).plan(&maps) {
            maps.record(&step);
        }
        // The names of sandboxes do not stand in the maps.
        for endpoint in maps.endpoints.values_mut() {
            endpoint.sandbox = "".into();
        }
        let first_epoch = 1 + maps.endpoints.values().map(|e| e.epoch).max().unwrap_or(0);
        let before = maps.clone();
        let middle = between(&old, &new);
        let mut compiler =
            Compiler::new(CompilerOptions { split_namespaces: split, first_epoch });
        let compiled = compiler.compile(&new, &local, &maps);
        // What Services lead to is resolved anew, backend by backend; pods are what matters here.
        let asked: Vec<(Query, bool, bool, Option<bool>)> = queries(&local, &[&old, &new])
            .into_iter()
            .filter(|query| {
                let led = |c: &Cluster| Protocol::from_number(query.protocol).is_some_and(|protocol| {
                    oracle::resolve(c, query.peer, protocol, query.port).is_some()
                });
                query.direction == Direction::Ingress || !(led(&old) || led(&new))
            })
            .map(|query| {
                let was = Evaluator::new(&before).decide(&query).allowed;
                let will = Evaluator::new(&compiled.tables).decide(&query).allowed;
                (query, was, will, ruling(&old, &middle, &local, &query))
            })
            .collect();
        let mut flipped: Vec<u32> = Vec::new();
        for step in single(compiled.plan(&maps)) {
            maps.record(&step);
            if let Step::SetEndpoints(list) = &step {
                flipped.extend(list.iter().map(|(slot, _)| *slot));
            }
            let evaluator = Evaluator::new(&maps);
            for (query, was, will, may) in &asked {
                let now = evaluator.decide(query).allowed;
                let fine = now == *was || now == *will
                    || may.is_none_or(|may| !flipped.contains(&query.slot) && now == may);
                prop_assert!(fine, "{:?} shows {} for {:?} (was {}, will be {})", step.name(), now, query, was, will);
            }
        }
        prop_assert_eq!(&maps, &compiled.tables);
        check_tables(&new, &local, &maps)?;
        prop_assert!(maps.endpoints.values().all(|e| e.epoch >= first_epoch));
        // The next compilation forgets where addresses came from, and then it is quiet.
        for turn in 0..2 {
            let again = compiler.compile(&new, &local, &maps);
            let steps = again.plan(&maps);
            prop_assert!(turn == 0 || steps.is_empty(), "not quiet: {:?}", steps);
            for step in steps {
                maps.record(&step);
            }
            check_tables(&new, &local, &maps)?;
        }
    }

    #[test]
    fn a_plan_that_fails_part_way_is_followed_by_one_that_is_right(
        (first, second) in worlds(),
        turns in prop::collection::vec((any::<u64>(), any::<u16>(), any::<bool>()), 1..6),
    ) {
        let mut compiler = compiler(1024);
        let mut maps = Tables::default();
        for (picks, stop, whole) in turns {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut maps, &local);
            let compiled = compiler.compile(&cluster, &local, &maps);
            let steps = single(compiled.plan(&maps));
            let count = if whole || steps.is_empty() { steps.len() } else { usize::from(stop) % steps.len() };
            for step in &steps[..count] {
                maps.record(step);
            }
            if count == steps.len() {
                prop_assert_eq!(&maps, &compiled.tables);
                check_tables(&cluster, &local, &maps)?;
                // Terms of sets that have left are forgotten one compilation later; then it is quiet.
                for turn in 0..2 {
                    let again = compiler.compile(&cluster, &local, &maps);
                    let steps = again.plan(&maps);
                    prop_assert!(turn == 0 || steps.is_empty(), "not quiet: {:?}", steps);
                    prop_assert!(!steps.iter().any(|step| matches!(step, Step::SetEndpoints(_))));
                    for step in &steps {
                        maps.record(step);
                    }
                }
            }
        }
    }
}

#[test]
fn keys_of_rows_and_ports_never_change_their_value_in_place() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    for _ in 0..64 {
        let (first, second) = worlds().new_tree(&mut runner).expect("a world").current();
        let mut compiler = compiler(1024);
        let mut maps = Tables::default();
        for picks in [0, 0xaaaa_5555_aaaa_5555, u64::MAX, 0x0f0f_f0f0_1234_4321] {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut maps, &local);
            let compiled = compiler.compile(&cluster, &local, &maps);
            for (key, row) in &compiled.tables.rows {
                assert!(maps.rows.get(key).is_none_or(|old| old == row), "{key:?}");
            }
            for (key, port) in &compiled.tables.ports {
                assert!(maps.ports.get(key).is_none_or(|old| old == port), "{key:?}");
            }
            for step in compiled.plan(&maps) {
                maps.record(&step);
            }
        }
    }
}

#[test]
fn explain_agrees_with_the_oracle_and_names_who_decided() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    for _ in 0..32 {
        let (world, _): (World, _) = worlds().new_tree(&mut runner).expect("a world").current();
        let cluster = world.cluster();
        let addresses = peers(&[&cluster]);
        for from in &addresses {
            for to in &addresses {
                let found = policy_core::explain(&cluster, *from, *to, 6, 80);
                if !found.service {
                    assert_eq!(found.allows(), oracle::allowed(&cluster, *from, *to, 6, 80));
                }
                for one in &found.judgements {
                    for ruling in [&one.egress, &one.ingress] {
                        assert_eq!(
                            ruling.allows(),
                            ruling.isolated_by.is_empty() || ruling.allowed_by.is_some()
                        );
                    }
                }
            }
        }
    }
}
