//! Check words.
//!
//! A product over all words, each added by exclusive or before the next
//! multiplication: one changed word always changes the product. This detects
//! values torn by concurrent writes; it is no defence against forgery, for which
//! a writer would need the map anyway.

/// Odd, so that a multiplication loses nothing: 2^64 by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// What it begins with, so that an entry of zeros does not verify.
const BEGIN: u64 = 0x6a09_e667_f3bc_c909;

/// The check word over a key and words of value.
#[inline(always)]
#[must_use]
pub fn mix64<const N: usize>(key: u64, words: &[u64; N]) -> u64 {
    let mut product = (key ^ BEGIN).wrapping_mul(FACTOR);
    let mut i = 0;
    while i < N {
        product = (product ^ words[i]).wrapping_mul(FACTOR);
        i += 1;
    }
    product
}

/// The upper half of [`mix64`]. A multiplication carries upwards only, so that all
/// bits of the words reach the highest bit, and some no other.
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
