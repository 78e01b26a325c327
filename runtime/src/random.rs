//! Randomness.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A source of random numbers; with the same seed it gives the same numbers.
///
/// Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(SmallRng);

impl Random {
    /// Starts from a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Starts from the operating system's entropy.
    pub fn from_os() -> Self {
        Self(SmallRng::from_os_rng())
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.random()
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.0.random_range(0..bound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let (mut a, mut b) = (Random::seeded(7), Random::seeded(7));
        assert!((0..100).all(|_| a.below(1_000) == b.below(1_000)));
        assert_ne!(Random::seeded(8).next_u64(), Random::seeded(7).next_u64());
    }
}
