//! Numbers that must not be mixed, and the two clocks.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A member of the cluster; never used again once given.
    NodeId(u32)
}
number! {
    /// Identity of a data folder, drawn at random when it is made.
    FolderId(u128)
}
number! {
    /// How often a node was started on its folder: counted there, and synced, before it asks for
    /// an epoch.
    StartCount(u64)
}
number! {
    /// One run of a broker process as the cluster knows it: made by [`Rising::new`] of the log
    /// index in meta that began it, so that it never repeats.
    NodeEpoch(u64)
}
number! {
    /// A session shard.
    ShardId(u16)
}
number! {
    /// A bucket of telemetry, which is also a partition of the log.
    BucketId(u16)
}
number! {
    /// A connection of one node, never repeated within the node's epoch.
    ConnectionId(u64)
}
number! {
    /// A replica of a group, as Raft names it; never given again. The founder's is its node number,
    /// every other one is above all node numbers.
    RaftId(u64)
}
number! {
    /// How often a group was recovered with loss. What its state counts is prefixed with it.
    Incarnation(u16)
}
number! {
    /// What all nodes can read and write.
    FeatureLevel(u16)
}
number! {
    /// Milliseconds of `CLOCK_BOOTTIME`: rises during suspend, is the node's own.
    BootMs(u64)
}
number! {
    /// Wall time in milliseconds since 1970-01-01T00:00:00Z.
    WallMs(u64)
}
number! {
    /// Position of a row among those of one source of routes; made by [`Rising`].
    RouteVersion(u64)
}

impl BootMs {
    /// This time `ms` milliseconds later, saturating.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`, 0 if that is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Bits of a rising number below the incarnation.
const COUNT_BITS: u32 = 48;

/// A number that rises although the group's log begins anew: the group's incarnation in the upper
/// 16 bits, a log index or counter in the lower 48.
///
/// A group that is recovered with loss may count again what it counted before; the raised
/// incarnation keeps the numbers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rising(u64);

impl Rising {
    /// The number of `count` in an incarnation.
    ///
    /// # Panics
    /// If `count` needs more than 48 bits: at a million a second after nine years.
    pub fn new(incarnation: Incarnation, count: u64) -> Self {
        assert!(count >> COUNT_BITS == 0, "count {count} exceeds 48 bits");
        Self(u64::from(incarnation.0) << COUNT_BITS | count)
    }

    /// The number as stored.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The incarnation in a stored number.
    pub fn incarnation_of(stored: u64) -> Incarnation {
        Incarnation((stored >> COUNT_BITS) as u16)
    }

    /// The count in a stored number.
    pub fn count_of(stored: u64) -> u64 {
        stored & ((1 << COUNT_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_a_later_incarnation_is_above_all_of_an_earlier_one() {
        let last = Rising::new(Incarnation(1), (1 << 48) - 1);
        let next = Rising::new(Incarnation(2), 0);

        assert!(last < next);
        assert_eq!(Rising::incarnation_of(last.get()), Incarnation(1));
        assert_eq!(Rising::count_of(next.get()), 0);
    }

    #[test]
    #[should_panic(expected = "exceeds 48 bits")]
    fn a_count_never_spills_into_the_incarnation() {
        let _ = Rising::new(Incarnation(0), 1 << 48);
    }
}
