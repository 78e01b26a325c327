//! The bounds of all links of a node.

use super::backoff::BackoffLimits;
use super::lane::{Lane, LaneLimits};

/// Bounds of all links of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Of the control lane.
    pub control: LaneLimits,
    /// Of the lane of requests.
    pub requests: LaneLimits,
    /// Of the bulk lane.
    pub bulk: LaneLimits,
    /// How long connecting and greeting may take together, in milliseconds.
    pub handshake_deadline_ms: u64,
    /// Pauses between two attempts to dial.
    pub backoff: BackoffLimits,
    /// Accepted connections that have not greeted yet; one more is closed at once.
    pub handshakes_max: usize,
    /// Streams without frames that one peer may have open here; one more is refused.
    pub streams_max: u32,
    /// Bytes of one write, beyond which no further frame is added to it.
    pub turn_bytes: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            control: LaneLimits::CONTROL,
            requests: LaneLimits::REQUESTS,
            bulk: LaneLimits::BULK,
            handshake_deadline_ms: 2_000,
            backoff: BackoffLimits::default(),
            handshakes_max: 64,
            streams_max: 4,
            turn_bytes: 64 << 10,
        }
    }
}

impl LinkConfig {
    /// Of a framed lane.
    ///
    /// # Panics
    /// For [`Lane::Stream`], which has no frames.
    pub fn lane(&self, lane: Lane) -> &LaneLimits {
        match lane {
            Lane::Control => &self.control,
            Lane::Requests => &self.requests,
            Lane::Bulk => &self.bulk,
            Lane::Stream => panic!("the stream lane has no frames"),
        }
    }
}
