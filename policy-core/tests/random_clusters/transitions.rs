//! On the way from one cluster to the next no packet meets anything but the old or the new.

use policy_core::model::{Direction, Protocol};
use policy_core::{Cluster, Compiler, CompilerOptions, Evaluator, Query, Step, Tables, oracle};
use proptest::prelude::*;

use super::ask::{check_tables, queries, ruling};
use super::steps::{after, between, clear, compiler, settle, single};
use super::world::{blend, local, worlds};

proptest! {
    // Each case asks thousands of questions. PROPTEST_CASES=10000 makes an evening of it.
    #![proptest_config(super::config(16))]

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
        let [subjects, middle] = between(&old, &new);
        let mut compiler = compiler(split);
        let before = settle(&mut compiler, &old, &local);
        let mut maps = before.clone();
        let steps = compiler.update(&new, &local).steps;
        let goal = after(&maps, &steps);
        let asked: Vec<(Query, bool, bool, Option<bool>)> = queries(&local, &[&old, &new])
            .into_iter()
            .map(|query| {
                let was = Evaluator::new(&before).decide(&query).allowed;
                let will = Evaluator::new(&goal).decide(&query).allowed;
                let may = ruling(&subjects, &middle, &local, &query);
                (query, was, will, may)
            })
            .collect();
        for (query, was, will, _) in &asked {
            let epoch = |tables: &Tables| tables.endpoints[&query.slot].epoch;
            let is_vip = Protocol::from_number(query.protocol).is_some_and(|protocol| {
                [&old, &new].iter().any(|c| oracle::resolve(c, query.peer, protocol, query.port).is_some())
            });
            if *was && !*will && !(is_vip && query.direction == Direction::Egress) {
                prop_assert_ne!(epoch(&before), epoch(&goal), "{:?} lost its verdict", query);
            }
        }
        let mut flipped: Vec<u32> = Vec::new();
        for step in single(steps) {
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
        prop_assert_eq!(&maps, &goal);
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
        let mut maps = settle(&mut compiler(split), &old, &local);
        // The names of sandboxes do not stand in the maps.
        for endpoint in maps.endpoints.values_mut() {
            endpoint.sandbox = "".into();
        }
        let first_epoch = 1 + maps.endpoints.values().map(|e| e.epoch).max().unwrap_or(0);
        let before = maps.clone();
        let [subjects, middle] = between(&old, &new);
        let mut compiler =
            Compiler::new(CompilerOptions { split_namespaces: split, first_epoch }, maps.clone());
        let steps = compiler.update(&new, &local).steps;
        let goal = after(&maps, &steps);
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
                let will = Evaluator::new(&goal).decide(&query).allowed;
                (query, was, will, ruling(&subjects, &middle, &local, &query))
            })
            .collect();
        let recorded = steps.clone();
        let mut flipped: Vec<u32> = Vec::new();
        for step in single(steps) {
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
        prop_assert_eq!(&maps, &goal);
        check_tables(&new, &local, &maps)?;
        prop_assert!(maps.endpoints.values().all(|e| e.epoch >= first_epoch));
        for step in &recorded {
            compiler.record(step);
        }
        // The next compilation forgets where addresses came from, and then it is quiet.
        for turn in 0..2 {
            let steps = compiler.update(&new, &local).steps;
            prop_assert!(turn == 0 || steps.is_empty(), "not quiet: {:?}", steps);
            for step in steps {
                compiler.record(&step);
            }
            check_tables(&new, &local, compiler.installed())?;
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
        for picks in [0, 0xaaaa_5555_aaaa_5555, u64::MAX, 0x0f0f_f0f0_1234_4321] {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut compiler, &local);
            let maps = compiler.installed().clone();
            let new = settle(&mut compiler, &cluster, &local);
            for (key, row) in &new.rows {
                assert!(maps.rows.get(key).is_none_or(|old| old == row), "{key:?}");
            }
            for (key, port) in &new.ports {
                assert!(maps.ports.get(key).is_none_or(|old| old == port), "{key:?}");
            }
        }
    }
}
