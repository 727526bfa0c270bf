//! Check words.
//!
//! A sum of words, each times an odd constant of its own: the products do not
//! wait for one another, and one changed word always changes the sum. This
//! detects values torn by concurrent writes; it is no defence against forgery,
//! for which a writer would need the map anyway.

/// Odd multipliers: the fractional parts of square roots of primes, made odd.
const FACTORS: [u64; 9] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
    0xcbbb_9d5d_c105_9ed9,
];

/// The check word over a key and up to eight words of value.
#[inline(always)]
#[must_use]
pub fn mix64<const N: usize>(key: u64, words: &[u64; N]) -> u64 {
    const { assert!(N < FACTORS.len()) };
    // One is added so that an entry of zeros does not verify.
    let mut sum = key.wrapping_add(1).wrapping_mul(FACTORS[8]);
    let mut i = 0;
    while i < N {
        sum = sum.wrapping_add(words[i].wrapping_mul(FACTORS[i]));
        i += 1;
    }
    sum
}

/// The upper half of [`mix64`]: all bits of the words reach it.
#[inline(always)]
#[must_use]
pub fn mix32<const N: usize>(key: u64, words: &[u64; N]) -> u32 {
    (mix64(key, words) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_and_the_key_matter() {
        let base = mix64(7, &[1, 2, 3]);
        assert_ne!(base, mix64(8, &[1, 2, 3]));
        assert_ne!(base, mix64(7, &[0, 2, 3]));
        assert_ne!(base, mix64(7, &[1, 0, 3]));
        assert_ne!(base, mix64(7, &[1, 2, 0]));
        assert_ne!(base, mix64(7, &[2, 1, 3]), "order");
        assert_ne!(mix64(0, &[0, 0, 0]), 0, "an empty entry does not verify");
    }
}
