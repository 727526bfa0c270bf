//! What was measured, and what follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::invoke::Verb;

/// Processor time of some calls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cpu {
    pub(super) plugin: Duration,
    pub(super) agent: Duration,
    pub(super) calls: usize,
}

/// What one contender did in one turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Milliseconds of each call that succeeded, sorted.
    millis: BTreeMap<Verb, Vec<f64>>,
    failures: Vec<String>,
    cpu: BTreeMap<Verb, Cpu>,
}

impl Turn {
    pub(super) fn add(&mut self, verb: Verb, outcomes: Vec<Result<Duration, String>>, cpu: Cpu) {
        let millis = self.millis.entry(verb).or_default();
        for outcome in outcomes {
            match outcome {
                Ok(took) => millis.push(took.as_secs_f64() * 1e3),
                Err(failure) => self.failures.push(failure),
            }
        }
        millis.sort_by(f64::total_cmp);
        self.cpu.insert(verb, cpu);
    }

    /// What was said by calls that failed.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Its own summary.
    pub(super) fn summary(&self, verb: Verb) -> Option<Summary> {
        summary(std::iter::once(self), verb)
    }

    /// Milliseconds; not a number where nothing succeeded.
    pub(super) fn median(&self, verb: Verb) -> f64 {
        self.millis.get(&verb).map_or(f64::NAN, |millis| quantile(millis, 0.5))
    }
}

/// A contender at a number of calls at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) at_a_time: usize,
    pub(super) contender: &'static str,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Samples {
    turns: BTreeMap<Case, BTreeMap<usize, Turn>>,
    /// In the order in which they were first measured.
    order: Vec<Case>,
    warming: Vec<String>,
    soaked: Vec<Turn>,
}

/// One verb of one case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    pub(super) calls: usize,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    /// Milliseconds of processor time for each call, where it is known.
    pub(super) plugin_cpu: Option<f64>,
    pub(super) agent_cpu: Option<f64>,
}

impl Samples {
    /// Keeps a turn of a round; one without a round was only for warming, but
    /// what failed in it counts.
    pub(super) fn add(
        &mut self,
        round: Option<usize>,
        contender: &'static str,
        at_a_time: usize,
        turn: Turn,
    ) {
        let Some(round) = round else {
            self.warming.extend(turn.failures);
            return;
        };
        let case = Case { at_a_time, contender };
        if !self.order.contains(&case) {
            self.order.push(case);
        }
        self.turns.entry(case).or_default().insert(round, turn);
    }

    pub(super) fn soak(&mut self, turn: Turn) {
        self.soaked.push(turn);
    }

    pub(super) fn cases(&self) -> &[Case] {
        &self.order
    }

    pub(super) fn summary(&self, case: Case, verb: Verb) -> Option<Summary> {
        summary(self.turns.get(&case)?.values(), verb)
    }

    /// The summary of the long run, where there was one.
    pub(super) fn soaked(&self, verb: Verb) -> Option<Summary> {
        summary(self.soaked.iter(), verb)
    }

    /// The median over rounds of how many times as long a call took as that of
    /// `other` in the same round.
    pub(super) fn ratio(&self, case: Case, other: &'static str, verb: Verb) -> Option<f64> {
        let others = self.turns.get(&Case { contender: other, ..case })?;
        let rounds = self.turns.get(&case)?.iter();
        let mut ratios: Vec<f64> = rounds
            .filter_map(|(round, turn)| Some(turn.median(verb) / others.get(round)?.median(verb)))
            .filter(|ratio| ratio.is_finite())
            .collect();
        ratios.sort_by(f64::total_cmp);
        (!ratios.is_empty()).then(|| quantile(&ratios, 0.5))
    }

    pub(super) fn failures(&self, case: Case) -> usize {
        self.turns.get(&case).map_or(0, |turns| turns.values().map(|turn| turn.failures.len()).sum())
    }

    /// What was said by calls that failed, those of the long run and of the
    /// warming up too.
    pub(super) fn failures_of(&self, contender: &str) -> Vec<String> {
        let turns = self.turns.iter().filter(|(case, _)| case.contender == contender);
        let turns = turns.flat_map(|(_, turns)| turns.values()).chain(&self.soaked);
        let warming = self.warming.iter().filter(|failure| failure.starts_with(contender));
        turns.flat_map(|turn| &turn.failures).chain(warming).cloned().collect()
    }
}

fn summary<'a>(turns: impl Iterator<Item = &'a Turn>, verb: Verb) -> Option<Summary> {
    let (mut millis, mut cpu) = (Vec::new(), Cpu::default());
    for turn in turns {
        millis.extend(turn.millis.get(&verb).into_iter().flatten().copied());
        let of = turn.cpu.get(&verb).copied().unwrap_or_default();
        cpu.plugin += of.plugin;
        cpu.agent += of.agent;
        cpu.calls += of.calls;
    }
    if millis.is_empty() {
        return None;
    }
    millis.sort_by(f64::total_cmp);
    let per_call = |time: Duration| {
        (cpu.calls > 0 && !time.is_zero()).then(|| time.as_secs_f64() * 1e3 / cpu.calls as f64)
    };
    Some(Summary {
        calls: millis.len(),
        p50: quantile(&millis, 0.5),
        p99: quantile(&millis, 0.99),
        max: quantile(&millis, 1.0),
        plugin_cpu: per_call(cpu.plugin),
        agent_cpu: per_call(cpu.agent),
    })
}

/// The value that `part` of all are not above (nearest rank); they are sorted.
pub(super) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(millis: &[u64]) -> Turn {
        let mut turn = Turn::default();
        let outcomes = millis.iter().map(|ms| Ok(Duration::from_millis(*ms))).collect();
        turn.add(Verb::Add, outcomes, Cpu::default());
        turn
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.5), 50.0);
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&hundred, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.01), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut samples = Samples::default();
        // The machine is ten times as slow in the second round: for both.
        for (round, factor) in [(1, 1), (2, 10), (3, 1)] {
            samples.add(Some(round), "ours", 8, turn(&[2 * factor, 3 * factor, 4 * factor]));
            samples.add(Some(round), "theirs", 8, turn(&[30 * factor, 30 * factor, 30 * factor]));
        }
        let case = Case { at_a_time: 8, contender: "ours" };
        assert_eq!(samples.ratio(case, "theirs", Verb::Add), Some(0.1));
        assert_eq!(samples.ratio(case, "nobody", Verb::Add), None);
        assert_eq!(samples.ratio(case, "theirs", Verb::Del), None, "nothing was measured");
    }

    #[test]
    fn failures_count_and_take_no_time() {
        let mut samples = Samples::default();
        let mut failing = turn(&[5]);
        failing.add(Verb::Del, vec![Err("ours DEL: no".to_owned())], Cpu::default());
        samples.add(Some(1), "ours", 1, failing);
        let mut warming = Turn::default();
        warming.add(Verb::Add, vec![Err("ours ADD: not yet".to_owned())], Cpu::default());
        samples.add(None, "ours", 1, warming);
        let case = Case { at_a_time: 1, contender: "ours" };
        assert_eq!(samples.failures(case), 1);
        assert_eq!(samples.failures_of("ours").len(), 2);
        assert_eq!(samples.summary(case, Verb::Add).map(|all| all.calls), Some(1));
        assert!(samples.summary(case, Verb::Del).is_none());
    }
}
