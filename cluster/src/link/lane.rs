//! The streams of a link, and what bounds each.

use std::fmt;

/// A stream to a peer. Each has a connection of its own, so that none waits in another's socket.
///
/// Replies are the fifth: they come back on the connection that their requests went out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Pings, lease, votes, heartbeats: small and urgent.
    Control,
    /// What is asked in the course of work: log entries, items of numbered streams, queries.
    Requests,
    /// Snapshots, copies, records of telemetry for the owners of their buckets.
    Bulk,
    /// Bytes without frames, for `ractor_cluster`.
    Stream,
}

impl Lane {
    /// The lanes that carry frames, most urgent first.
    pub const FRAMED: [Self; 3] = [Self::Control, Self::Requests, Self::Bulk];

    /// The number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Requests => 2,
            Self::Bulk => 3,
            Self::Stream => 4,
        }
    }

    /// The lane of a number on the wire.
    pub fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Control,
            2 => Self::Requests,
            3 => Self::Bulk,
            4 => Self::Stream,
            _ => return None,
        })
    }

    /// Its place among [`Lane::FRAMED`]; the stream comes behind them.
    pub(super) fn index(self) -> usize {
        usize::from(self.code()) - 1
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Requests => "requests",
            Self::Bulk => "bulk",
            Self::Stream => "stream",
        })
    }
}

/// What a request is about. The link carries it and looks at neither number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel {
    /// What the payload is; its users share out the numbers.
    pub kind: u16,
    /// The group that it is for; 0 where there is none.
    pub group: u32,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.group)
    }
}

/// What one side of a framed lane may have open at the other.
///
/// A request holds its share from when it is queued until its answer is here, so both sides'
/// memory is bounded by it: the asked one's by requests and their bytes, and by the room that
/// each request reserves for its reply. Who asks beyond it is told `Busy` and has sent nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Requests that are not answered yet.
    pub requests: u32,
    /// Bytes of the largest payload, of a request or of a reply.
    pub payload_bytes: u32,
    /// Bytes of the payloads of unanswered requests.
    pub request_bytes: u64,
    /// Bytes that unanswered requests reserved for their replies.
    pub reply_bytes: u64,
}

impl Grant {
    /// Of a lane that has no requests.
    pub(super) const NONE: Self = Self {
        requests: 0,
        payload_bytes: 0,
        request_bytes: 0,
        reply_bytes: 0,
    };

    /// What both sides can bear.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self {
            requests: self.requests.min(other.requests),
            payload_bytes: self.payload_bytes.min(other.payload_bytes),
            request_bytes: self.request_bytes.min(other.request_bytes),
            reply_bytes: self.reply_bytes.min(other.reply_bytes),
        }
    }
}

/// Bounds of a framed lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// What a peer may have open here, and this node at a peer.
    pub grant: Grant,
    /// How often the side that dialed pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long a connection may be silent before it is closed, in milliseconds; several times the
    /// peers' interval of pings.
    pub silence_limit_ms: u64,
}

impl LaneLimits {
    /// Of the control lane.
    pub const CONTROL: Self = Self {
        grant: Grant {
            requests: 256,
            payload_bytes: 256 << 10,
            request_bytes: 1 << 20,
            reply_bytes: 1 << 20,
        },
        ping_interval_ms: 300,
        silence_limit_ms: 3_000,
    };
    /// Of the lane of requests.
    pub const REQUESTS: Self = Self {
        grant: Grant {
            requests: 4_096,
            payload_bytes: 4 << 20,
            request_bytes: 32 << 20,
            reply_bytes: 32 << 20,
        },
        ping_interval_ms: 1_000,
        silence_limit_ms: 5_000,
    };
    /// Of the bulk lane.
    pub const BULK: Self = Self {
        grant: Grant {
            requests: 16,
            payload_bytes: 4 << 20,
            request_bytes: 8 << 20,
            reply_bytes: 8 << 20,
        },
        ping_interval_ms: 1_000,
        silence_limit_ms: 5_000,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_the_same_after_the_wire() {
        for lane in [Lane::Control, Lane::Requests, Lane::Bulk, Lane::Stream] {
            assert_eq!(Lane::of_code(lane.code()), Some(lane));
        }
        assert_eq!(Lane::of_code(0), None);
        assert_eq!(Lane::of_code(5), None);
    }
}
