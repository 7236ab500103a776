//! Random streams. One seed feeds several independent streams, so that one
//! more draw in one place (say the network) does not shift every other choice.

/// What a stream of random numbers is used for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    /// Sizes, fault classes and rates of the run.
    Plan = 1,
    /// Fate of every datagram.
    Network,
    /// What the clients ask for, and when.
    Work,
    /// When which fault strikes whom.
    Chaos,
    /// Clocks, incarnations, nonces and the seeds given to the cores.
    Nodes,
    /// How long disks take, and what a crash leaves of a write.
    Disks,
}

/// A seeded stream with the draws a simulation needs.
#[derive(Clone, Debug)]
pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    /// The stream of `seed` for one purpose.
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        Self(fastrand::Rng::with_seed(mix(
            seed ^ mix(stream as u64 * 0x9e37_79b9)
        )))
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.0.f64() < p
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.u64(low..=high)
    }

    /// An index below `n`, which must not be zero.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.usize(..n)
    }

    /// A real number in `low..high`.
    pub(crate) fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.f64()
    }

    /// Exponentially distributed with the given mean, in the mean's unit.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        // 1 - f64() lies in (0, 1], so that the logarithm is finite.
        (-(1.0 - self.0.f64()).ln() * mean as f64) as u64
    }

    /// Any 64-bit number but zero.
    pub(crate) fn word(&mut self) -> u64 {
        self.0.u64(1..)
    }
}

/// Mixes a 64-bit word so that near seeds give unrelated streams (the
/// finalizer of `SplitMix64`, Steele et al., OOPSLA 2014).
pub(crate) const fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Folds `bytes` into a running hash; only for comparing runs with each other.
pub(crate) fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    // Four at a time, which do not wait for each other.
    let (fours, words) = words.as_chunks::<4>();
    let mut lanes = [hash ^ (bytes.len() as u64), 1, 2, 3];
    for four in fours {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = fold_word(*lane, u64::from_le_bytes(*word));
        }
    }
    let [first, others @ ..] = lanes;
    let mut hash = others.into_iter().fold(first, fold_word);
    for word in words {
        hash = fold_word(hash, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        hash = fold_word(hash, last_word(bytes, rest));
    }
    hash
}

/// The last bytes, `rest`, as a word.
fn last_word(bytes: &[u8], rest: &[u8]) -> u64 {
    if let Some(last) = bytes.last_chunk() {
        // Those before them are shifted out: nothing is copied.
        return u64::from_le_bytes(*last) >> (64 - 8 * rest.len());
    }
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(word)
}

/// Folds one word into a running hash.
pub(crate) const fn fold_word(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            [dice.word(), dice.word(), dice.between(0, 9)]
        };
        assert_eq!(draw(7, Stream::Plan), draw(7, Stream::Plan));
        assert_ne!(draw(7, Stream::Plan), draw(7, Stream::Network));
        assert_ne!(draw(7, Stream::Plan), draw(8, Stream::Plan));
    }

    #[test]
    fn a_fold_takes_in_every_byte_in_its_place() {
        for len in 1..40_u8 {
            let bytes: Vec<u8> = (1..=len).collect();
            let mut padded = bytes.clone();
            padded.resize(bytes.len().next_multiple_of(8), 0);
            let rest = bytes.as_chunks::<8>().1;
            if !rest.is_empty() {
                let last = padded.as_chunks::<8>().0.last();
                let last = last.map(|word| u64::from_le_bytes(*word));
                assert_eq!(Some(last_word(&bytes, rest)), last);
            }
        }
    }

    #[test]
    fn exponential_has_the_mean_it_was_given() {
        let mut dice = Dice::new(1, Stream::Plan);
        let total: u64 = (0..20_000).map(|_| dice.exponential(1_000)).sum();
        assert!((900..1_100).contains(&(total / 20_000)), "{total}");
    }
}
