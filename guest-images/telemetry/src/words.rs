//! Mixing of 64-bit words: cheap enough for every word of every page, and nothing a compressor finds.

/// Step between counter values; odd, so that a counter visits every value (2^64 divided by the golden ratio).
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection of 64-bit words with one multiplication (constant from `rrmxmx`-style mixers by Pelle Evensen).
#[inline(always)]
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

/// Hash of a few words, for seals: two rounds a word, order matters.
pub(crate) const fn seal(words: &[u64]) -> u64 {
    let mut state = STEP;
    let mut i = 0;
    while i < words.len() {
        state = mix(mix(state ^ words[i]).wrapping_add(STEP));
        i += 1;
    }
    state
}
