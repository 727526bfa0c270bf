//! How long things take: distributions, and samples that a seed repeats.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How often a standard normal variable stays below it: 99 times of 100.
const Z99: f64 = 2.326_347_874;

/// A lognormal distribution, named by two of its quantiles and cut off at a
/// third value. In JSON a plain number of milliseconds means: always so long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "DelayText")]
pub struct Delay {
    /// Half of all samples are shorter.
    pub p50_ms: u64,
    /// All but one in a hundred are shorter.
    pub p99_ms: u64,
    /// No sample is longer.
    pub max_ms: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DelayText {
    Always(u64),
    Spread(Spread),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spread {
    p50_ms: u64,
    p99_ms: Option<u64>,
    max_ms: Option<u64>,
}

impl From<DelayText> for Delay {
    fn from(text: DelayText) -> Self {
        match text {
            DelayText::Always(ms) => Self::always(ms),
            DelayText::Spread(Spread { p50_ms, p99_ms, max_ms }) => {
                let p99_ms = p99_ms.unwrap_or(p50_ms).max(p50_ms);
                Self { p50_ms, p99_ms, max_ms: max_ms.unwrap_or(p99_ms.saturating_mul(4)) }
            }
        }
    }
}

impl Delay {
    /// No delay.
    pub const NONE: Self = Self::always(0);

    /// The same delay each time.
    pub const fn always(ms: u64) -> Self {
        Self { p50_ms: ms, p99_ms: ms, max_ms: ms }
    }

    /// A distribution by its median, its 99th percentile and its longest value.
    pub const fn spread(p50_ms: u64, p99_ms: u64, max_ms: u64) -> Self {
        Self { p50_ms, p99_ms, max_ms }
    }

    /// Whether it is always zero.
    pub fn is_none(&self) -> bool {
        self.max_ms == 0 || (self.p50_ms == 0 && self.p99_ms == 0)
    }

    /// The sample that belongs to `draw`.
    pub fn sample(&self, draw: &Draw<'_>) -> Duration {
        if self.is_none() {
            return Duration::ZERO;
        }
        let max = self.max_ms as f64;
        if self.p99_ms <= self.p50_ms {
            return millis((self.p50_ms as f64).min(max));
        }
        // A median of nothing has no logarithm; half a millisecond stands for it.
        let median = (self.p50_ms as f64).max(0.5);
        let sigma = (self.p99_ms as f64 / median).ln() / Z99;
        millis((median * (sigma * draw.normal()).exp()).min(max))
    }
}

fn millis(ms: f64) -> Duration {
    Duration::from_micros((ms * 1000.0) as u64)
}

/// Which sample is meant. The same draw gives the same sample whatever else
/// happened before, so that one node's calls do not change another's delays.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// The simulation's seed.
    pub seed: u64,
    /// What takes the time.
    pub what: &'a str,
    /// Whom it happens to: a node or an interface.
    pub whom: &'a str,
    /// How many such draws there were before.
    pub number: u64,
}

impl Draw<'_> {
    fn rng(&self) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(self.number.to_le_bytes());
        for text in [self.what, self.whom] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        ChaCha8Rng::from_seed(hash.finalize().into())
    }

    /// A standard normal variable, by Box and Muller.
    fn normal(&self) -> f64 {
        let mut rng = self.rng();
        // 1 - x lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(number: u64) -> Draw<'static> {
        Draw { seed: 7, what: "AttachNetworkInterface", whom: "node-a", number }
    }

    #[test]
    fn quantiles_are_those_asked_for() {
        let delay = Delay::spread(700, 3000, 60_000);
        let mut samples: Vec<_> = (0..4000).map(|n| delay.sample(&draw(n)).as_millis()).collect();
        samples.sort_unstable();
        assert!((630..770).contains(&samples[2000]), "median {}", samples[2000]);
        assert!((2400..3800).contains(&samples[3960]), "p99 {}", samples[3960]);
    }

    #[test]
    fn no_sample_is_longer_than_the_longest() {
        let delay = Delay::spread(2000, 15_000, 5000);
        assert!((0..2000).all(|n| delay.sample(&draw(n)) <= Duration::from_secs(5)));
    }

    #[test]
    fn a_draw_repeats_and_differs_from_others() {
        let delay = Delay::spread(700, 3000, 60_000);
        assert_eq!(delay.sample(&draw(3)), delay.sample(&draw(3)));
        let other_node = Draw { whom: "node-b", ..draw(3) };
        assert_ne!(delay.sample(&draw(3)), delay.sample(&other_node));
        let other_seed = Draw { seed: 8, ..draw(3) };
        assert_ne!(delay.sample(&draw(3)), delay.sample(&other_seed));
    }

    #[test]
    fn json_takes_a_number_or_quantiles() {
        for (text, expected) in [
            ("250", Delay::always(250)),
            ("0", Delay::NONE),
            (r#"{"p50_ms": 10}"#, Delay::spread(10, 10, 40)),
            (r#"{"p50_ms": 10, "p99_ms": 50, "max_ms": 60}"#, Delay::spread(10, 50, 60)),
        ] {
            let delay: Delay = serde_json::from_str(text).expect(text);
            assert_eq!(delay, expected, "{text}");
        }
        assert!(serde_json::from_str::<Delay>(r#"{"p50": 10}"#).is_err());
        assert_eq!(Delay::always(20).sample(&draw(1)), Duration::from_millis(20));
        assert_eq!(Delay::NONE.sample(&draw(1)), Duration::ZERO);
    }
}
