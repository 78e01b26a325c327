//! Numbers that must not be mixed, and the two clocks.

use std::fmt;

use mqtt::Text;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Wall time in milliseconds since 1970-01-01T00:00:00Z.
    WallMs
}
number! {
    /// Monotonic time of this process in milliseconds.
    MonoMs
}
number! {
    /// The log index of an `Open`: names an ownership of a session, and, for the `Open` that began
    /// it, the session's incarnation; likewise that of what began a group. Never repeats.
    Epoch
}
number! {
    /// The epoch of a broker process in the cluster.
    NodeEpoch
}
number! {
    /// A connection of one node, never repeated within the node's epoch. The low 32 bits count the
    /// connections that the node accepted, and wrap.
    ConnectionId
}
number! {
    /// The sequence of a queued QoS 1 or 2 message in its session or group, from 0.
    Seq
}
number! {
    /// Ties what `Live` asked for to its answer; unique within the connection.
    Token
}
number! {
    /// A row of the will outbox, unique within the shard.
    WillId
}
number! {
    /// A queued message, held once for all its recipients; unique within the shard.
    MessageId
}

/// How far back a connection is known to be older than another: then their counts may have wrapped.
const OLDER_BY_MAX: u32 = 1 << 20;

impl ConnectionId {
    /// Whether the node accepted this connection before `other`, within the last 2^20 ones.
    pub fn is_older_than(self, other: Self) -> bool {
        let by = (other.0 as u32).wrapping_sub(self.0 as u32);
        (1..=OLDER_BY_MAX).contains(&by)
    }
}

impl WallMs {
    /// This time `s` seconds later, saturating.
    pub fn plus_s(self, s: u64) -> Self {
        Self(self.0.saturating_add(s.saturating_mul(1000)))
    }
}

impl MonoMs {
    /// This time `ms` milliseconds later, saturating.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// Both clocks at one moment: timers compare `mono`, message expiry compares `wall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time.
    pub mono: MonoMs,
    /// Wall time.
    pub wall: WallMs,
}

/// Who the authenticator says the client is; a session belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub Text);
