//! Random clusters: the tables say what the oracle says, and on the way from one to the
//! next no packet meets anything but the old or the new.

mod ask;
mod histories;
mod programs;
mod restarts;
mod steps;
mod transitions;
#[path = "../world/mod.rs"]
mod world;

use ask::{check_tables, peers};
use policy_core::oracle::{self, Party, Reason};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use steps::{compiler, settle};
use world::{World, local, worlds};

/// The cases of proptest's default.
const USUAL: u32 = 256;

/// A part of the cases that are asked for. The usual run takes the same clusters each time; PROPTEST_CASES above
/// the default explores new ones.
fn config(part: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    let rng_seed = match usual.rng_seed {
        RngSeed::Random if usual.cases <= USUAL => RngSeed::Fixed(1),
        given => given,
    };
    ProptestConfig { cases: usual.cases / part, rng_seed, ..usual }
}

proptest! {
    // Each case asks thousands of questions. PROPTEST_CASES=10000 makes an evening of it.
    #![proptest_config(config(2))]

    #[test]
    fn tables_say_what_the_oracle_says((world, _) in worlds(), split in prop::sample::select(vec![0_usize, 1024])) {
        let cluster = world.cluster();
        let local = local(&cluster);
        let mut compiler = compiler(split);
        let maps = settle(&mut compiler, &cluster, &local);
        check_tables(&cluster, &local, &maps)?;
        let used = maps.rows.values().map(|row| row.rule);
        for rule in used.filter(|rule| *rule != 0) {
            prop_assert!(compiler.rule(policy_core::RuleId(rule)).is_some());
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
                    let [source, target] = [from, to].map(|address| Party::at(&cluster, *address));
                    let [egress, ingress] = oracle::rulings(&cluster, source, target, 6, 80);
                    let comes_in = ingress.allows() || target.runs_on(&cluster, &source);
                    let expected = source.is_same_pod(&target) || egress.allows() && comes_in;
                    assert_eq!(found.allows(), expected, "{from} to {to}: {found}");
                }
                for ruling in found.judgements.iter().flat_map(|one| [&one.egress, &one.ingress]) {
                    match &ruling.reason {
                        Reason::Accepted(_) | Reason::Denied(_) => assert!(ruling.rule().is_some()),
                        Reason::Isolated => assert!(!ruling.isolated_by.is_empty()),
                        _ => assert!(ruling.rule().is_none()),
                    }
                }
            }
        }
    }
}
