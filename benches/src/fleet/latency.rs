//! A histogram of latencies that many tasks fill at once, in fixed memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per power of two; a reported value is at most 1/64 above the true one.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// 64 exact microseconds, then 64 buckets for each power of two up to 2^37 µs (38 hours).
const BUCKETS: usize = (STEPS * 32) as usize;

/// Counts latencies in buckets of microseconds that grow with the value.
#[derive(Debug)]
pub struct Latencies {
    buckets: Box<[AtomicU64]>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Latencies {
    /// Counts one latency; what is beyond 38 hours counts as 38 hours.
    pub fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of latencies counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns the smallest bucket end that at least `share` (0 to 1) of all latencies do not
    /// exceed (nearest rank); `None` while nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
        let mut passed = 0;
        let bucket = counts.iter().position(|count| {
            passed += count;
            passed >= rank
        });
        bucket.map(|bucket| Duration::from_micros(bucket_end(bucket)))
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let exponent = micros.ilog2() - STEP_BITS;
    let step = (micros >> exponent) - STEPS;
    let bucket = u64::from(exponent + 1) * STEPS + step;
    (bucket as usize).min(BUCKETS - 1)
}

/// Returns the greatest number of microseconds that falls into the bucket.
fn bucket_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let exponent = bucket / STEPS - 1;
    (((bucket % STEPS) + STEPS + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(Latencies::default().quantile(0.99), None);
    }

    #[test]
    fn a_quantile_is_the_value_at_its_nearest_rank() {
        let latencies = Latencies::default();
        for micros in 1..=50 {
            latencies.record(Duration::from_micros(micros));
        }
        assert_eq!(latencies.count(), 50);
        assert_eq!(latencies.quantile(0.5), Some(Duration::from_micros(25)));
        assert_eq!(latencies.quantile(0.99), Some(Duration::from_micros(50)));
        assert_eq!(latencies.quantile(0.0), Some(Duration::from_micros(1)));
    }

    #[test]
    fn one_slow_message_in_a_hundred_shows_beyond_p99_only() {
        let latencies = Latencies::default();
        for _ in 0..99 {
            latencies.record(Duration::from_micros(10));
        }
        latencies.record(Duration::from_secs(1));
        assert_eq!(latencies.quantile(0.99), Some(Duration::from_micros(10)));
        assert!(latencies.quantile(0.995).unwrap() >= Duration::from_secs(1));
    }

    #[test]
    fn every_value_lies_in_its_bucket_and_no_bucket_is_wider_than_a_64th() {
        let mut previous = 0;
        for value in (0..40).flat_map(|bits| [1_u64 << bits, (1 << bits) + 1, (3 << bits) / 2]) {
            let end = bucket_end(bucket_of(value));
            if bucket_of(value) == BUCKETS - 1 {
                continue;
            }
            assert!(end >= value, "{value} ends at {end}");
            assert!(end - value <= value / 64, "{value} ends at {end}");
            previous = previous.max(end);
        }
        assert!(previous > 1 << 36);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }
}
