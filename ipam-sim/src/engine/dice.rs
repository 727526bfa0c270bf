//! Randomness without state.

/// Draws that depend on the seed and on what they are for, never on the order
/// in which they are made. Two agents on one trace so meet the same world.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// Every draw of a world follows from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Uniform in `[0, 1)`, the same for the same names.
    pub fn uniform(&self, names: &[u64]) -> f64 {
        let bits = names.iter().fold(mix(self.seed), |state, name| mix(state ^ mix(*name)));
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal, the same for the same names.
    pub fn normal(&self, names: &[u64]) -> f64 {
        let mut more = names.to_vec();
        more.push(1);
        // Box and Muller; the logarithm's argument is never zero.
        let radius = (-2.0 * (1.0 - self.uniform(names)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(&more)).cos()
    }
}

/// One step of splitmix64.
fn mix(state: u64) -> u64 {
    let mut bits = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn draws_repeat_and_spread() {
        let dice = Dice::new(7);
        assert_eq!(dice.uniform(&[1, 2]), dice.uniform(&[1, 2]));
        assert_ne!(dice.uniform(&[1, 2]), dice.uniform(&[2, 1]));
        assert_ne!(dice.uniform(&[1, 2]), Dice::new(8).uniform(&[1, 2]));
        let mean = (0..10_000).map(|n| dice.uniform(&[n])).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let normal: Vec<f64> = (0..10_000).map(|n| dice.normal(&[n])).collect();
        let mean = normal.iter().sum::<f64>() / 10_000.0;
        let spread = (normal.iter().map(|x| x * x).sum::<f64>() / 10_000.0).sqrt();
        assert!(mean.abs() < 0.03 && (spread - 1.0).abs() < 0.03, "{mean} {spread}");
    }
}
