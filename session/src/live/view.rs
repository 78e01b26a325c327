//! What an operator sees of a connection; reading changes nothing.

use mqtt::{Filter, QoS, Version};

use super::{Dropped, Live};
use crate::Now;

/// A connection at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveView {
    /// Protocol version.
    pub version: Version,
    /// Milliseconds since it was accepted.
    pub connected_ms: u64,
    /// Milliseconds since a packet of the client was handled.
    pub silent_ms: u64,
    /// Keep alive in force, in seconds; 0 for none.
    pub keep_alive_s: u16,
    /// QoS > 0 messages the client takes at once.
    pub receive_maximum: u16,
    /// Largest packet the client takes, in bytes; `u32::MAX` without a limit.
    pub packet_bytes_max: u32,
    /// QoS > 0 messages that are sent and not acknowledged.
    pub inflight: usize,
    /// Messages that wait here for the window, the socket, or retained ones before them.
    pub waiting: usize,
    /// Bytes of those of them that are in no shard.
    pub waiting_bytes: usize,
    /// PUBACK and PUBREC packets that the client is owed.
    pub owed: usize,
    /// Subscriptions of a clean session that were asked for, and their QoS.
    pub subscriptions: Vec<(Filter, QoS)>,
    /// How many there are.
    pub subscriptions_total: usize,
    /// What was dropped.
    pub dropped: Dropped,
}

impl Live {
    /// What the connection is doing, with the subscriptions of a clean session that are `wanted`, at
    /// most so many.
    pub fn view(
        &self,
        wanted: impl Fn(&Filter) -> bool,
        subscriptions_max: usize,
        now: Now,
    ) -> LiveView {
        let outbound = self.outbound.as_ref();
        let (inflight, waiting) = outbound.map_or((0, 0), |outbound| outbound.lens());
        let local = self.local.iter().filter(|(filter, _)| wanted(filter));
        let local = local.take(subscriptions_max);
        LiveView {
            version: self.version,
            connected_ms: now.mono.0.saturating_sub(self.accepted.0),
            silent_ms: now.mono.0.saturating_sub(self.last_heard.0),
            keep_alive_s: self.keep_alive_s,
            receive_maximum: self.receive_maximum,
            packet_bytes_max: self.packet_bytes_max,
            inflight,
            waiting,
            waiting_bytes: self.queue_bytes(),
            owed: self.inbound.as_ref().map_or(0, |inbound| inbound.owed()),
            subscriptions: local.map(|(f, s)| (f.clone(), s.options.qos)).collect(),
            subscriptions_total: self.local.len(),
            dropped: self.dropped(),
        }
    }
}
