//! When to dial again.

use runtime::Random;

/// Bounds of the pause between two attempts to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// Bound of the first pause, in milliseconds.
    pub first_ms: u64,
    /// Bound of every pause, in milliseconds: also how long a peer that is back may wait.
    pub longest_ms: u64,
}

impl Default for BackoffLimits {
    fn default() -> Self {
        Self {
            first_ms: 50,
            longest_ms: 1_000,
        }
    }
}

/// Pauses with full jitter under a bound that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: BackoffLimits,
    bound_ms: u64,
}

impl Backoff {
    /// The first pause is the shortest.
    pub fn new(limits: BackoffLimits) -> Self {
        Self {
            limits,
            bound_ms: limits.first_ms,
        }
    }

    /// How long to wait now, in milliseconds: at least a tenth of the bound, so that no draw makes
    /// a busy loop.
    pub fn next_ms(&mut self, random: &mut Random) -> u64 {
        let bound = self.bound_ms.min(self.limits.longest_ms).max(1);
        self.bound_ms = bound.saturating_mul(2).min(self.limits.longest_ms);
        let least = bound.div_ceil(10);
        least + random.below(bound - least + 1)
    }

    /// Takes note of a connection that ended: one that lasted begins anew, one that ended at once
    /// counts as a failed attempt.
    pub fn handle_ended(&mut self, lasted_ms: u64) {
        if lasted_ms >= self.limits.longest_ms {
            self.bound_ms = self.limits.first_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BackoffLimits = BackoffLimits {
        first_ms: 50,
        longest_ms: 1_000,
    };

    #[test]
    fn the_bound_doubles_up_to_its_own_and_no_pause_is_beyond_it() {
        let mut random = Random::seeded(1);
        for seed in 0..50 {
            let mut backoff = Backoff::new(LIMITS);
            let mut random_of_peer = Random::seeded(seed);
            for bound in [50, 100, 200, 400, 800, 1_000, 1_000] {
                let pause = backoff.next_ms(&mut random_of_peer);
                assert!(pause >= bound / 10 && pause <= bound, "{pause} of {bound}");
            }
        }
        let mut backoff = Backoff::new(LIMITS);
        let pauses: Vec<_> = (0..20).map(|_| backoff.next_ms(&mut random)).collect();
        assert!(pauses.iter().any(|pause| *pause > 500), "{pauses:?}");
    }

    #[test]
    fn only_a_connection_that_lasted_begins_anew() {
        let mut random = Random::seeded(2);
        let mut backoff = Backoff::new(LIMITS);
        (0..10).for_each(|_| {
            backoff.next_ms(&mut random);
        });

        backoff.handle_ended(999);
        assert!((0..20).any(|_| backoff.next_ms(&mut random) > 50));
        backoff.handle_ended(1_000);
        assert!(backoff.next_ms(&mut random) <= 50);
    }
}
