//! The bounds of a session shard.

/// Bounds of a shard; replicated settings, equal on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions in the shard; an `Open` beyond is refused with 0x97.
    pub sessions: usize,
    /// Queued messages a session or group; full-queue policy beyond.
    pub queue_messages: usize,
    /// Bytes ([`crate::Message::bytes`]) of the queue of a session or group; full-queue policy beyond.
    pub queue_bytes: usize,
    /// Messages handed out beyond the client's Receive Maximum.
    pub sent_ahead: usize,
    /// Subscriptions a session, shared ones among them; a filter beyond is refused with 0x97.
    pub subscriptions: usize,
    /// Open inbound QoS 2 exchanges a session, counted as the span of their numbers; beyond it a
    /// PUBLISH is refused with 0x93.
    pub q2_open: u64,
    /// Retained messages; a new topic beyond is not stored, counted.
    pub retained_messages: usize,
    /// Bytes ([`crate::Message::bytes`]) of retained messages; one that does not fit is not
    /// stored, counted.
    pub retained_bytes: usize,
    /// Deleted topics whose stamp is remembered; the longest deleted goes first.
    pub tombstones: usize,
    /// Seconds a deleted topic's stamp is remembered.
    pub tombstone_s: u64,
    /// Route rows in the outbox; a filter beyond is refused with 0x97.
    pub outbox_routes: usize,
    /// Wills in the outbox; an `Open` with a will beyond is refused with 0x89.
    pub outbox_wills: usize,
    /// Memberships of groups in the outbox; a shared filter beyond is refused with 0x97.
    pub outbox_memberships: usize,
    /// Messages that one member of a group has unacknowledged at most, if its Receive Maximum is
    /// not lower.
    pub group_window: usize,
    /// Seconds a replay of retained messages is waited for.
    pub replay_s: u64,
    /// Rows of QoS 2 sources; the longest unused goes first.
    pub origins: usize,
    /// Seconds after its last message that a QoS 2 source is remembered.
    pub origin_s: u64,
    /// Bytes ([`crate::Message::bytes`]) of queued messages that stay in memory although they are
    /// stored. No replicated setting: nothing that an entry does depends on it.
    pub payload_cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1_000_000,
            queue_messages: 1_000,
            queue_bytes: 1 << 20,
            sent_ahead: 256,
            subscriptions: 256,
            q2_open: 1_024,
            retained_messages: 100_000,
            retained_bytes: 256 << 20,
            tombstones: 100_000,
            tombstone_s: 3_600,
            outbox_routes: 100_000,
            outbox_wills: 100_000,
            outbox_memberships: 100_000,
            group_window: 64,
            replay_s: 5,
            origins: 1_000_000,
            origin_s: 7 * 24 * 3_600,
            payload_cache_bytes: 2 << 20,
        }
    }
}
