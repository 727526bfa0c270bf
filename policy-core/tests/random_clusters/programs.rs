//! Programs read one map after the other while changes are written: what one has read leads to what it led to then,
//! until a grace period has passed.

use std::collections::{BTreeMap, BTreeSet};

use ebpf_common::abi::{PROFILE_ALLOW_ALL, PortKey, PortValue, RowValue};
use policy_core::model::{Direction, Protocol};
use policy_core::{ClassId, Evaluator, SetId, Step, Tables, oracle};
use proptest::prelude::*;

use super::ask::{queries, ruling};
use super::steps::{between, clear, compiler, settle, single};
use super::world::{blend, local, worlds};

type Ports = Vec<(PortKey, PortValue)>;

/// What programs that run may have read.
#[derive(Default)]
pub(super) struct Running {
    sets: BTreeSet<SetId>,
    /// The row that a set and class lead to.
    rows: BTreeMap<(SetId, ClassId), Option<RowValue>>,
    /// The ports that a profile has.
    ports: BTreeMap<u32, Ports>,
}

impl Running {
    /// One entry was written.
    pub(super) fn look(&mut self, maps: &Tables) -> Result<(), TestCaseError> {
        for ((set, class), row) in &self.rows {
            prop_assert_eq!(maps.row(*set, *class), *row, "{:?} {:?}", set, class);
        }
        let mut ports: BTreeMap<u32, Ports> = BTreeMap::new();
        for (key, value) in &maps.ports {
            ports.entry(u32::from_be_bytes(key.profile_be)).or_default().push((*key, *value));
        }
        for (profile, known) in &self.ports {
            prop_assert_eq!(ports.get(profile), Some(known), "profile {}", profile);
        }
        self.sets.extend(maps.endpoints.values().flat_map(|one| [one.ingress, one.egress]));
        self.sets.remove(&SetId(0));
        let mut classes: BTreeSet<ClassId> = [ClassId(0)].into();
        classes.extend(maps.peers.values().map(|value| ClassId(value.class())));
        classes.extend(maps.cidrs.values().map(|value| ClassId(value.class)));
        classes.extend(maps.vips.values().map(|target| target.class));
        for set in &self.sets {
            for class in &classes {
                let row = *self.rows.entry((*set, *class)).or_insert_with(|| maps.row(*set, *class));
                let profile = row.map_or(0, |row| row.profile);
                if profile > PROFILE_ALLOW_ALL {
                    let of = || ports.get(&profile).cloned().unwrap_or_default();
                    self.ports.entry(profile).or_insert_with(of);
                }
            }
        }
        Ok(())
    }
}

/// The steps up to the grace, and those after it.
pub(super) fn parts(steps: Vec<Step>) -> [Vec<Step>; 2] {
    let mut before = steps;
    let flip = before.iter().position(|step| *step == Step::Grace).unwrap_or(before.len());
    let after = before.split_off(flip);
    [single(before), single(after)]
}

proptest! {
    // Each case asks thousands of questions. PROPTEST_CASES=10000 makes an evening of it.
    #![proptest_config(super::config(8))]

    #[test]
    fn what_was_read_leads_to_the_same_until_a_grace(
        (first, second) in worlds(),
        turns in prop::collection::vec((any::<u64>(), any::<u8>(), any::<bool>()), 2..10),
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let mut compiler = compiler(split);
        let mut running = Running::default();
        for (picks, stop, waited) in turns {
            let cluster = blend(&first, &second, picks).cluster();
            let local = local(&cluster);
            clear(&mut compiler, &local);
            let [before, after] = parts(compiler.update(&cluster, &local).steps);
            // Now and then a step fails part way.
            let count = if stop < 64 { before.len() * usize::from(stop) / 64 } else { before.len() };
            for step in &before[..count] {
                compiler.record(step);
                running.look(compiler.installed())?;
            }
            // The next change may come before the period is over.
            if count == before.len() && waited {
                running = Running::default();
                running.look(compiler.installed())?;
                for step in &after {
                    compiler.record(step);
                    running.look(compiler.installed())?;
                }
            }
        }
    }

    #[test]
    fn who_read_its_sets_before_a_flip_is_judged_by_them_after_the_next_change(
        (first, second) in worlds(),
        picks: [u64; 2],
        split in prop::sample::select(vec![0_usize, 1024]),
    ) {
        let [one, two, three] =
            [first.clone(), blend(&first, &second, picks[0]), blend(&first, &second, picks[1])].map(|w| w.cluster());
        let local = local(&one);
        let mut compiler = compiler(split);
        let read = settle(&mut compiler, &one, &local).endpoints;
        let mut verdicts: Vec<Vec<bool>> = Vec::new();
        let asked = queries(&local, &[&one, &two, &three]);
        for cluster in [&one, &two, &three] {
            let [before, _] = parts(compiler.update(cluster, &local).steps);
            before.iter().for_each(|step| compiler.record(step));
            let maps = Tables { endpoints: read.clone(), ..compiler.installed().clone() };
            let evaluator = Evaluator::new(&maps);
            verdicts.push(asked.iter().map(|query| evaluator.decide(query).allowed).collect());
        }
        let [subjects, middle] = between(&one, &three);
        for (place, query) in asked.iter().enumerate() {
            let is_vip = Protocol::from_number(query.protocol).is_some_and(|protocol| {
                [&one, &two, &three].iter().any(|c| oracle::resolve(c, query.peer, protocol, query.port).is_some())
            });
            if is_vip && query.direction == Direction::Egress {
                continue;
            }
            let Some(may) = ruling(&subjects, &middle, &local, query) else { continue };
            let shown = verdicts[2][place];
            let fine = shown == may || verdicts[..2].iter().any(|earlier| earlier[place] == shown);
            prop_assert!(fine, "{:?} is {}", query, shown);
        }
    }
}
