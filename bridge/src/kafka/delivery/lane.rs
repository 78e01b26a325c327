//! One partition of one topic: what is with Kafka's client, what waits, where its spool stands.

use std::collections::VecDeque;

use super::slots::SlotId;

/// Says where a lane's part of the spool stands. All are offsets, `delivered` is lowest or equal
/// to `read`; `read <= durable <= end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Kafka has confirmed all below.
    pub(crate) delivered: u64,
    /// All below were given to Kafka's client, or wait in memory for that.
    pub(crate) read: u64,
    /// All below are fsynced.
    pub(crate) durable: u64,
    /// The next record gets this one.
    pub(crate) end: u64,
}

/// Is the way of one partition's records.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// With Kafka's client, in the order in which it took them.
    pub(super) inflight: VecDeque<SlotId>,
    /// For Kafka's client once it has room; behind `inflight`.
    pub(super) waiting: VecDeque<SlotId>,
    /// New records that nothing may be done with yet: their topic is refused, or they must wait
    /// behind what an earlier mode of it left in the spool.
    pub(super) held: VecDeque<SlotId>,
    /// Bytes of `inflight`.
    pub(super) inflight_bytes: u64,
    /// Records to be sent one at a time, because Kafka refused one of them and did not say which.
    pub(super) probing: usize,
    /// Whether this producer has had a record of the partition confirmed. Before, one record is with
    /// Kafka's client at a time: Kafka takes the first batch of a producer that it does not know
    /// at any sequence, so of two requests on their way the second could be taken alone
    /// (`docs/adr/005`).
    pub(super) is_known: bool,
    /// Whether new records go to the spool, behind what is there.
    pub(super) away: bool,
    pub(super) spool: Cursor,
}

impl Lane {
    /// Whether the next record may join those that are with Kafka's client.
    pub(super) fn may_hand_over(&self) -> bool {
        let is_alone = self.probing > 0 || !self.is_known;
        !is_alone || self.inflight.is_empty()
    }

    /// Whether the spool holds records that Kafka has not confirmed.
    pub(super) fn has_backlog(&self) -> bool {
        self.spool.delivered < self.spool.end
    }
}
