//! After any history the tables say what the oracle says of the last cluster.

use policy_core::Step;
use proptest::prelude::*;

use super::ask::check_tables;
use super::steps::{clear, compiler, single};
use super::world::{PLACES, blend, local, worlds};

proptest! {
    // Each case asks thousands of questions. PROPTEST_CASES=10000 makes an evening of it.
    #![proptest_config(super::config(8))]

    #[test]
    fn a_plan_that_fails_part_way_is_followed_by_one_that_is_right(
        (first, second) in worlds(),
        turns in prop::collection::vec((any::<u64>(), any::<u16>(), any::<bool>()), 1..6),
    ) {
        let mut compiler = compiler(1024);
        for (picks, stop, whole) in turns {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut compiler, &local);
            let steps = single(compiler.update(&cluster, &local).steps);
            let count = if whole || steps.is_empty() { steps.len() } else { usize::from(stop) % steps.len() };
            for step in &steps[..count] {
                compiler.record(step);
            }
            if count == steps.len() {
                check_tables(&cluster, &local, compiler.installed())?;
                // Terms of sets that have left are forgotten one compilation later; then it is quiet.
                for turn in 0..2 {
                    let steps = compiler.update(&cluster, &local).steps;
                    prop_assert!(turn == 0 || steps.is_empty(), "not quiet: {:?}", steps);
                    prop_assert!(!steps.iter().any(|step| matches!(step, Step::SetEndpoints(_))));
                    for step in &steps {
                        compiler.record(step);
                    }
                }
            }
        }
    }

    #[test]
    fn one_object_after_the_other_comes_goes_and_changes(
        (first, second) in worlds(),
        start: u64,
        changes in prop::collection::vec((0..PLACES, any::<u8>()), 1..16),
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let mut compiler = compiler(split);
        let mut picks = start;
        for (place, stop) in changes {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut compiler, &local);
            let steps = single(compiler.update(&cluster, &local).steps);
            // Now and then a step fails, and the next change comes before it is repeated.
            let count = if stop < 64 { steps.len() * usize::from(stop) / 64 } else { steps.len() };
            for step in &steps[..count] {
                compiler.record(step);
            }
            if count == steps.len() {
                check_tables(&cluster, &local, compiler.installed())?;
            }
            picks ^= 1 << place;
        }
    }
}
