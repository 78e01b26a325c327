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
    /// Messages lost with the end of their session or group.
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
    /// Sessions that a connection owns now.
    pub connected: u64,
    /// Shared groups whose home it is, now.
    pub groups: u64,
    /// Members of these groups now, present or away.
    pub group_members: u64,
    /// Memberships in the outbox now.
    pub outbox_memberships: u64,
}

impl std::ops::Add for Counters {
    type Output = Self;

    /// The counters of two shards together.
    fn add(self, other: Self) -> Self {
        Self {
            queued: self.queued + other.queued,
            dropped_full: self.dropped_full + other.dropped_full,
            dropped_expired: self.dropped_expired + other.dropped_expired,
            dropped_session_end: self.dropped_session_end + other.dropped_session_end,
            repeats: self.repeats + other.repeats,
            retained_full: self.retained_full + other.retained_full,
            replays_missed: self.replays_missed + other.replays_missed,
            queue_bytes: self.queue_bytes + other.queue_bytes,
            queue_messages: self.queue_messages + other.queue_messages,
            retained_bytes: self.retained_bytes + other.retained_bytes,
            retained_messages: self.retained_messages + other.retained_messages,
            outbox_routes: self.outbox_routes + other.outbox_routes,
            outbox_wills: self.outbox_wills + other.outbox_wills,
            connected: self.connected + other.connected,
            groups: self.groups + other.groups,
            group_members: self.group_members + other.group_members,
            outbox_memberships: self.outbox_memberships + other.outbox_memberships,
        }
    }
}
