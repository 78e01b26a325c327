//! What links have done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::lane::Lane;

/// One counter; any thread adds to it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

/// Of one framed lane, over all peers.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Frames written.
    pub frames_sent_total: Counter,
    /// Bytes written.
    pub bytes_sent_total: Counter,
    /// Writes: each holds all frames of its turn.
    pub turns_total: Counter,
    /// Frames read.
    pub frames_received_total: Counter,
    /// Bytes read.
    pub bytes_received_total: Counter,
    /// Requests queued for a peer.
    pub requests_sent_total: Counter,
    /// Requests that were not sent because the grant was taken up.
    pub requests_busy_total: Counter,
    /// Requests whose answer did not come before their deadline.
    pub requests_late_total: Counter,
    /// Requests taken from peers.
    pub requests_received_total: Counter,
}

/// Of all links of a node.
#[derive(Debug, Default)]
pub struct LinkCounters {
    lanes: [LaneCounters; 3],
    /// Connections dialed whose handshake was good.
    pub dialed_total: Counter,
    /// Connections accepted whose handshake was good.
    pub accepted_total: Counter,
    /// Attempts to dial that came to nothing, refusals included.
    pub dial_failures_total: Counter,
    /// Greetings that this node refused.
    pub refused_here_total: Counter,
    /// Greetings that a peer refused.
    pub refused_there_total: Counter,
    /// Connections closed at once because `handshakes_max` were under way.
    pub crowded_total: Counter,
    /// Nodes without a number that asked to join.
    pub wishes_total: Counter,
    /// Connections that ended because nothing was heard.
    pub silent_total: Counter,
    /// Connections that ended because the peer broke format or protocol.
    pub violations_total: Counter,
    /// Lines about refusals that were left out of the log.
    pub lines_suppressed_total: Counter,
}

impl LinkCounters {
    /// Of a lane.
    ///
    /// # Panics
    /// For [`Lane::Stream`], which has no frames.
    pub fn lane(&self, lane: Lane) -> &LaneCounters {
        &self.lanes[lane.index()]
    }
}
