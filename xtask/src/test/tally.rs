//! Adds up what the test programs say.

use std::collections::BTreeMap;

use anyhow::Result;

/// Counts over all test programs, and the steps around them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    failed_names: Vec<String>,
    /// Reason → how many were ignored for it.
    reasons: BTreeMap<String, u64>,
    failed_steps: Vec<String>,
}

impl Tally {
    /// A step that is not a test counts only when it fails.
    pub(crate) fn step(&mut self, name: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.failed += 1;
            self.failed_steps.push(format!("{name}: {error:#}"));
        }
    }

    /// Reads one line of a test program's output.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, " passed");
            self.failed += count(counts, " failed");
            self.ignored += count(counts, " ignored");
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... "))
        {
            if outcome == "FAILED" {
                self.failed_names.push(name.trim().to_owned());
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.trim_matches([' ', ',', '(', ')']);
                let reason = if reason.is_empty() { "no reason given" } else { reason };
                *self.reasons.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }

    /// Failed tests and steps.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// What failed and why something was ignored, a line each.
    pub(crate) fn details(&self) -> Vec<String> {
        let ignored = self.reasons.iter().map(|(reason, count)| format!("ignored: {count} × {reason}"));
        let failed = self.failed_names.iter().map(|name| format!("failed: {name}"));
        let steps = self.failed_steps.iter().map(|step| format!("failed: {step}"));
        ignored.chain(failed).chain(steps).collect()
    }

    /// The last line.
    pub(crate) fn summary(&self) -> String {
        format!("{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

/// The number before `what`.
fn count(counts: &str, what: &str) -> u64 {
    counts
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(what.trim_start()))
        .filter_map(|number| number.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn results_of_all_programs_add_up() {
        let tally = tally(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.02s\n\
             noise: 5 passed\n\
             test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s\n",
        );
        assert_eq!(tally.summary(), "15 passed, 2 failed, 1 ignored");
    }

    #[test]
    fn names_and_reasons_are_kept() {
        let tally = tally(
            "test pool::grows ... ok\n\
             test needs_go ... ignored (the command go is not in PATH)\n\
             test slow ... ignored, takes an hour\n\
             test pool::shrinks    ... FAILED\n",
        );
        assert_eq!(
            tally.details(),
            [
                "ignored: 1 × takes an hour",
                "ignored: 1 × the command go is not in PATH",
                "failed: pool::shrinks",
            ]
        );
    }

    #[test]
    fn a_failed_step_fails_the_whole() {
        let mut tally = Tally::default();
        tally.step("formats", Err(anyhow::anyhow!("one file")));
        tally.step("clippy", Ok(()));
        assert_eq!(tally.summary(), "0 passed, 1 failed, 0 ignored");
        assert_eq!(tally.details(), ["failed: formats: one file"]);
    }
}
