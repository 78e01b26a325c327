//! The buckets of the source addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::bucket::{BURST_NS, Bucket};

/// Sources of which a bucket is kept, twice: of this second and of the one before. A source beyond
/// them is held to the rate of the node alone. About 5 MiB.
const SOURCES_MAX: usize = 1 << 16;

/// A bucket for each source that came lately. A bucket that was not used for a second is full, so
/// it says nothing and is forgotten.
#[derive(Debug)]
pub(super) struct Sources {
    per_s: NonZeroU32,
    limit: usize,
    /// When `young` began, in nanoseconds.
    since: u64,
    young: HashMap<Source, Bucket>,
    old: HashMap<Source, Bucket>,
}

/// What of an address counts: all of IPv4, the network part (/64) of IPv6, of which one customer
/// has 2^64 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Sources {
    pub(super) fn new(per_s: NonZeroU32) -> Self {
        Self {
            per_s,
            limit: SOURCES_MAX,
            since: 0,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Takes a token of the address; false if it has none.
    pub(super) fn take(&mut self, address: IpAddr, now_ns: u64) -> bool {
        let age = now_ns.saturating_sub(self.since);
        if age >= BURST_NS {
            self.old = std::mem::take(&mut self.young);
            self.since = now_ns;
        }
        if age >= 2 * BURST_NS {
            self.old.clear();
        }
        let source = Source::of(address);
        if self.young.len() >= self.limit && !self.young.contains_key(&source) {
            return true;
        }
        let kept = || self.old.remove(&source).unwrap_or_default();
        let bucket = self.young.entry(source).or_insert_with(kept);
        bucket.take(self.per_s, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(per_s: u32) -> Sources {
        Sources::new(NonZeroU32::new(per_s).expect("a rate"))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_source_has_a_bucket_of_its_own() {
        let mut sources = sources(1);
        for source in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
            assert!(sources.take(address(source), 5), "{source}");
            assert!(!sources.take(address(source), 6), "{source} again");
        }
        // The rest of an IPv6 address is the customer's own choice, and so is the mapped form.
        assert!(!sources.take(address("2001:db8::2"), 7));
        assert!(!sources.take(address("::ffff:192.0.2.1"), 7));
    }

    #[test]
    fn what_a_source_took_is_remembered_until_it_does_not_count() {
        let mut sources = sources(2);
        let one = address("192.0.2.1");
        let start = 100 * BURST_NS;
        assert!(sources.take(one, start) && sources.take(one, start));
        // The second turns in between, twice.
        let takes = [
            (0.4, false),
            (0.6, true),
            (0.7, false),
            (1.1, true),
            (1.1, false),
        ];
        for (after, has_one) in takes {
            let now = start + (after * BURST_NS as f64) as u64;
            assert_eq!(sources.take(one, now), has_one, "after {after} s");
        }
        assert!(sources.take(address("192.0.2.2"), start + 9 * BURST_NS));
        assert_eq!(sources.young.len() + sources.old.len(), 1);
    }

    #[test]
    fn a_full_table_holds_those_that_are_in_it_and_lets_others_pass() {
        let mut sources = Sources {
            limit: 1,
            ..sources(1)
        };
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        assert!(sources.take(one, 0));
        assert!(sources.take(other, 0) && sources.take(other, 0));
        assert!(!sources.take(one, 0));
        assert_eq!(sources.young.len(), 1);
    }
}
