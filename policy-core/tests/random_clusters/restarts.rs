//! An agent that starts on the maps of a former one, which nobody remembers.

use policy_core::model::{Direction, Protocol};
use policy_core::{
    Cluster, Compiler, CompilerOptions, Evaluator, LocalPod, Query, Step, Tables, VipAddress, oracle,
};
use proptest::prelude::*;

use super::ask::{check_tables, queries};
use super::programs::{Running, parts};
use super::steps::{clear, compiler, settle, single};
use super::world::{NODE, blend, local, worlds};

/// A compiler that knows no more of these maps than what stands in them.
fn starts_on(maps: &Tables, split_namespaces: usize) -> Compiler {
    let mut maps = maps.clone();
    for endpoint in maps.endpoints.values_mut() {
        endpoint.sandbox = "".into();
    }
    let first_epoch = 1 + maps.endpoints.values().map(|one| one.epoch).max().unwrap_or(0);
    Compiler::new(CompilerOptions { split_namespaces, first_epoch }, maps)
}

/// The addresses, prefixes and Services that these steps write or remove, but for Services that lead to this node
/// itself: no address is of the class that judges what they lead to.
fn addresses(cluster: &Cluster, steps: &[Step]) -> usize {
    let to_node = |key: &&VipAddress| {
        let backends = oracle::resolve(cluster, key.address, key.protocol, key.port);
        backends.unwrap_or_default().iter().any(|(backend, _)| *backend == NODE)
    };
    let counts = steps.iter().map(|step| match step {
        Step::SetPeers(_) | Step::RemovePeers(_) | Step::SetCidrs(_) | Step::RemoveCidrs(_) => step.len(),
        Step::SetVips(list) => list.len() - list.iter().map(|(key, _)| key).filter(to_node).count(),
        Step::RemoveVips(_) => step.len(),
        _ => 0,
    });
    counts.sum()
}

/// What Services lead to is resolved anew, backend by backend.
fn is_led(clusters: &[&Cluster], query: &Query) -> bool {
    query.direction == Direction::Egress
        && Protocol::from_number(query.protocol).is_some_and(|protocol| {
            clusters.iter().any(|one| oracle::resolve(one, query.peer, protocol, query.port).is_some())
        })
}

/// Carries out `count` of these entries. Each endpoint is judged as it was up to its flip, and then as it will be.
fn carry_out(
    compiler: &mut Compiler,
    steps: &[Step],
    count: usize,
    asked: &[Query],
) -> Result<(), TestCaseError> {
    let mut maps = compiler.installed().clone();
    let verdicts = |maps: &Tables| -> Vec<bool> {
        let evaluator = Evaluator::new(maps);
        asked.iter().map(|query| evaluator.decide(query).allowed).collect()
    };
    let was = verdicts(&maps);
    let mut goal = maps.clone();
    steps.iter().for_each(|step| goal.record(step));
    let will = verdicts(&goal);
    let mut flipped: Vec<u32> = Vec::new();
    for step in &steps[..count] {
        maps.record(step);
        compiler.record(step);
        if let Step::SetEndpoints(list) = step {
            flipped.extend(list.iter().map(|(slot, _)| *slot));
        }
        for ((query, now), (was, will)) in asked.iter().zip(verdicts(&maps)).zip(was.iter().zip(&will)) {
            let due = if flipped.contains(&query.slot) { will } else { was };
            prop_assert_eq!(now, *due, "{} {:?} (was {}, will be {})", step.name(), query, was, will);
        }
    }
    Ok(())
}

fn asked(local: &[LocalPod], clusters: &[Cluster]) -> Vec<Query> {
    let clusters: Vec<&Cluster> = clusters.iter().collect();
    let asked = queries(local, &clusters).into_iter();
    // Who is judged by which rules is the question, not which ports they name.
    asked.filter(|query| query.protocol == 6 && !is_led(&clusters, query)).collect()
}

proptest! {
    // Each case asks thousands of questions. PROPTEST_CASES=10000 makes an evening of it.
    #![proptest_config(super::config(32))]

    #[test]
    fn where_nothing_changed_no_address_is_written_and_rows_stand_twice(
        (world, _) in worlds(),
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let cluster = world.cluster();
        let local = local(&cluster);
        let mut former = compiler(split);
        // Numbers wait for a turn before they are forgotten.
        let maps = (0..3).map(|_| settle(&mut former, &cluster, &local)).last().unwrap_or_default();
        let mut compiler = starts_on(&maps, split);
        let steps = compiler.update(&cluster, &local).steps;
        if !compiler.is_taking_over() {
            return Ok(());
        }
        prop_assert_eq!(addresses(&cluster, &steps), 0, "{:?}", steps);
        let mut most = 0;
        for step in single(steps) {
            compiler.record(&step);
            most = most.max(compiler.installed().rows.len());
        }
        // Which backend stands first in a Service's row, and so which rule, is a matter of their numbers.
        prop_assert!(most <= 2 * maps.rows.len() + maps.vips.len(), "{} of {}", most, maps.rows.len());
        prop_assert_eq!(compiler.update(&cluster, &local).steps, []);
        check_tables(&cluster, &local, compiler.installed())?;
    }

    #[test]
    fn take_overs_that_are_cut_off_and_follow_each_other_show_nothing_but_old_and_new(
        (first, second) in worlds(),
        turns in prop::collection::vec((any::<u64>(), any::<u16>(), any::<bool>()), 1..5),
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let mut seen = vec![first.cluster()];
        let local = local(&seen[0]);
        let mut compiler = starts_on(&settle(&mut compiler(split), &seen[0], &local), split);
        for (picks, stop, anew) in turns {
            let cluster = blend(&first, &second, picks).cluster();
            if anew {
                compiler = starts_on(compiler.installed(), split);
            }
            let steps = single(compiler.update(&cluster, &local).steps);
            let flip = steps.iter().position(|step| matches!(step, Step::SetEndpoints(_)));
            // Cut off before the last of the former sets went.
            let count = usize::from(stop) % (1 + flip.unwrap_or(steps.len()));
            seen.push(cluster);
            if compiler.is_taking_over() {
                carry_out(&mut compiler, &steps, count, &asked(&local, &seen))?;
            }
        }
        let cluster = &seen[seen.len() - 1];
        if compiler.is_taking_over() {
            let steps = single(compiler.update(cluster, &local).steps);
            carry_out(&mut compiler, &steps, steps.len(), &asked(&local, &seen))?;
            for turn in 0..2 {
                let steps = compiler.update(cluster, &local).steps;
                prop_assert!(turn == 0 || steps.is_empty(), "not quiet: {:?}", steps);
                steps.iter().for_each(|step| compiler.record(step));
                check_tables(cluster, &local, compiler.installed())?;
            }
        }
    }

    #[test]
    fn what_was_read_leads_to_the_same_through_a_take_over(
        (first, second) in worlds(),
        picks: [u64; 2],
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let old = first.cluster();
        let mut former = compiler(split);
        let mut compiler = starts_on(&settle(&mut former, &old, &local(&old)), split);
        // One that starts while it comes to be, and one that finishes it.
        for picks in [picks[0], picks[1], picks[1], picks[1]] {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut compiler, &local);
            let [before, after] = parts(compiler.update(&cluster, &local).steps);
            let mut running = Running::default();
            running.look(compiler.installed())?;
            for step in &before {
                compiler.record(step);
                running.look(compiler.installed())?;
            }
            compiler.record(&Step::Grace);
            for step in &after {
                compiler.record(step);
            }
        }
    }
}
