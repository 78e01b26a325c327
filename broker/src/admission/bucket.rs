//! A token bucket.

use std::num::NonZeroU32;

/// What a full bucket holds is what comes into it in this time, in nanoseconds: bursts of a second.
pub(super) const BURST_NS: u64 = 1_000_000_000;

/// Gives out so many tokens a second, and as many at once as come together in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// When it is full again, in nanoseconds.
    full_at: u64,
}

impl Bucket {
    /// Takes a token; false if there is none.
    pub(super) fn take(&mut self, per_s: NonZeroU32, now_ns: u64) -> bool {
        let interval = BURST_NS / u64::from(per_s.get());
        let full_at = self.full_at.max(now_ns).saturating_add(interval);
        let has_one = full_at <= now_ns.saturating_add(BURST_NS);
        if has_one {
            self.full_at = full_at;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, per_s: u32, now_ns: u64) -> u32 {
        let per_s = NonZeroU32::new(per_s).expect("a rate");
        (0..100_000)
            .take_while(|_| bucket.take(per_s, now_ns))
            .count() as u32
    }

    #[test]
    fn a_bucket_holds_a_second_of_its_rate_and_refills_at_it() {
        for per_s in [1, 50, 20_000] {
            let mut bucket = Bucket::default();
            let start = 77 * BURST_NS;
            assert_eq!(taken(&mut bucket, per_s, start), per_s);
            assert_eq!(taken(&mut bucket, per_s, start + BURST_NS / 2), per_s / 2);
            assert_eq!(taken(&mut bucket, per_s, start + 9 * BURST_NS), per_s);
        }
    }
}
