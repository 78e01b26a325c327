//! What a shard counts.

/// What a shard has counted and holds; totals since it began, except where "now" is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages put into queues.
    pub queued: u64,
    /// Messages that a full queue dropped.
    pub dropped_full: u64,
    /// Messages whose expiry interval passed in a queue.
    pub dropped_expired: u64,
    /// Messages lost with the end of their session.
    pub dropped_session_end: u64,
    /// Repeats of QoS 2 messages and wills that were refused.
    pub repeats: u64,
    /// Retained messages not stored because the store was full.
    pub retained_full: u64,
    /// Replays of retained messages that did not come in time.
    pub replays_missed: u64,
    /// Bytes in queues now.
    pub queue_bytes: u64,
    /// Messages in queues now.
    pub queue_messages: u64,
    /// Bytes of retained messages now.
    pub retained_bytes: u64,
    /// Retained messages now.
    pub retained_messages: u64,
    /// Route rows in the outbox now.
    pub outbox_routes: u64,
    /// Wills in the outbox now.
    pub outbox_wills: u64,
}
