//! A histogram of nanoseconds in fixed memory, cheap to fill and to merge across processes.

use serde::{Deserialize, Serialize};

/// Buckets per power of two: a reported value is at most 1/64 above the true one.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// 64 exact nanoseconds, then 64 buckets for each power of two up to 2^40 ns (18 minutes).
const BUCKETS: usize = (STEPS * 35) as usize;

/// Counts values in buckets that grow with the value: 18 KB, whatever is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts one value in nanoseconds; what is beyond 18 minutes falls into the last bucket.
    pub fn record(&mut self, ns: u64) {
        self.buckets[bucket_of(ns)] += 1;
        self.count += 1;
        self.max = self.max.max(ns);
    }

    /// Returns the number of values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the greatest value counted, exactly; 0 while nothing was counted.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// Returns the smallest bucket end that at least `share` (0 to 1) of all values do not exceed
    /// (nearest rank), and never more than the greatest value; `None` while nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut passed = 0;
        let bucket = self.buckets.iter().position(|count| {
            passed += count;
            passed >= rank
        });
        bucket.map(|bucket| match bucket {
            last if last == BUCKETS - 1 => self.max,
            bucket => bucket_end(bucket).min(self.max),
        })
    }

    /// Takes out everything counted so far.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// What crosses between processes: the buckets that are not empty.
#[derive(Serialize, Deserialize)]
struct Sparse {
    buckets: Vec<(usize, u64)>,
    max: u64,
}

impl Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.buckets.iter().copied().enumerate();
        Sparse {
            buckets: filled.filter(|(_, count)| *count > 0).collect(),
            max: self.max,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sparse = Sparse::deserialize(deserializer)?;
        let mut histogram = Self {
            max: sparse.max,
            ..Self::default()
        };
        for (bucket, count) in sparse.buckets {
            let Some(to) = histogram.buckets.get_mut(bucket) else {
                return Err(serde::de::Error::custom(format!(
                    "bucket {bucket} of a histogram with {BUCKETS}"
                )));
            };
            *to += count;
            histogram.count += count;
        }
        Ok(histogram)
    }
}

fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let exponent = value.ilog2() - STEP_BITS;
    let step = (value >> exponent) - STEPS;
    let bucket = u64::from(exponent + 1) * STEPS + step;
    (bucket as usize).min(BUCKETS - 1)
}

/// Returns the greatest value that falls into the bucket.
fn bucket_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let exponent = bucket / STEPS - 1;
    (((bucket % STEPS) + STEPS + 1) << exponent) - 1
}
