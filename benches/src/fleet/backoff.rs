//! How long a device waits before it connects again: `base × 2^n + random(0, jitter)`.

use std::time::Duration;

/// Is the reconnect rule of the firmware guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure, without jitter.
    pub base: Duration,
    /// Greatest value of `base × 2^n`.
    pub delay_max: Duration,
    /// Upper end, exclusive, of what is added at random, so that a fleet which lost its node at
    /// one moment does not return at one moment.
    pub jitter: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(200),
            delay_max: Duration::from_secs(5),
            jitter: Duration::from_secs(1),
        }
    }
}

impl Backoff {
    /// Returns the wait after `failures` failures in a row were followed by one more (so 0 at the
    /// first), where `random` is in `[0, 1)`.
    #[must_use]
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        debug_assert!((0.0..1.0).contains(&random));
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let steady = self.base.saturating_mul(factor).min(self.delay_max);
        steady + self.jitter.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Backoff = Backoff {
        base: Duration::from_millis(100),
        delay_max: Duration::from_secs(10),
        jitter: Duration::from_millis(500),
    };

    #[test]
    fn each_failure_doubles_the_wait() {
        let waits: Vec<u128> = (0..5).map(|n| RULE.delay(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600]);
    }

    #[test]
    fn jitter_is_added_to_the_wait_and_does_not_double() {
        assert_eq!(RULE.delay(0, 0.5), Duration::from_millis(350));
        assert_eq!(RULE.delay(3, 0.5), Duration::from_millis(1_050));
    }

    #[test]
    fn the_wait_stops_growing_at_its_limit_for_any_number_of_failures() {
        for failures in [7, 31, 32, 33, u32::MAX] {
            assert_eq!(
                RULE.delay(failures, 0.0),
                Duration::from_secs(10),
                "{failures}"
            );
        }
    }
}
