//! A topic's spool: what goes in and is settled by it, what comes out and when lanes are live again.

use storage::log::Record;

use super::lane::Lane;
use super::slots::{Fate, Slot};
use super::{Delivery, LANE_SHARE, SlotId};
use crate::log::Outcome;

/// Drained records of a topic may hold this part of the producer's memory; the rest is for live
/// records.
const DRAIN_SHARE: u64 = 4;
/// Bytes of one append to the spool.
const APPEND_BYTES: u64 = 4 << 20;
/// Pause before a full spool is tried again.
const SPOOL_RETRY_MS: u64 = 200;
/// Longest time between a delivery and its mark in the spool.
pub(super) const MARK_INTERVAL_MS: u64 = 1_000;

/// Is what the shell is to do for a topic's spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpoolWork {
    /// Append these, and the mark if there is one, with one fsync; then
    /// [`Delivery::handle_spooled`].
    Append {
        /// In order.
        slots: Vec<SlotId>,
        /// What is delivered, by partition.
        mark: Option<Vec<u64>>,
    },
    /// Read records of these partitions from these offsets on; then [`Delivery::handle_read`].
    Read {
        /// Partitions with the offset wanted next and the end of what is fsynced.
        from: Vec<(u16, u64, u64)>,
    },
}

impl Delivery {
    /// The append of a topic has ended: all is fsynced, or nothing was written for lack of room.
    pub(crate) fn handle_spooled(&mut self, topic: u16, is_durable: bool, now_ms: u64) {
        let of = &mut self.topics[usize::from(topic)];
        of.is_appending = false;
        let appended = std::mem::take(&mut of.appending);
        if !is_durable {
            of.full_until_ms = Some(now_ms + SPOOL_RETRY_MS);
            of.unmarked_since_ms.get_or_insert(now_ms);
            for id in appended.into_iter().rev() {
                of.pending.push_front(id);
            }
            return;
        }
        of.full_until_ms = None;
        for id in appended {
            let slot = self.slots.get(id);
            let lane = usize::from(slot.record.partition);
            let offset = slot.spool_offset.expect("assigned as it was queued");
            self.topics[usize::from(topic)].lanes[lane].spool.durable = offset + 1;
            self.settle(id, Outcome::Durable);
            self.free_room(id);
            self.slots.unpin(id);
        }
    }

    /// The spool gave records, each with its offset, in order within a partition.
    pub(crate) fn handle_read(
        &mut self,
        topic: u16,
        records: Vec<(u64, Record)>,
        (now_ms, wall_ms): (u64, i64),
    ) {
        self.topics[usize::from(topic)].is_reading = false;
        for (offset, record) in records {
            let lane = record.partition;
            let of = &mut self.topics[usize::from(topic)];
            let at = &mut of.lanes[usize::from(lane)];
            // The lane may have moved on since the read was asked for.
            if !at.away || offset != at.spool.read || offset >= at.spool.end {
                continue;
            }
            at.spool.read = offset + 1;
            let is_old = wall_ms.saturating_sub(record.received_ms) > self.limits.spool_age_ms;
            let is_shed = record.droppable && is_old;
            let id = self.slots.insert(Slot {
                record,
                ticket: None,
                topic,
                since_ms: now_ms,
                spool_offset: Some(offset),
                fate: Fate::Open,
                is_drained: true,
                holds_room: false,
                pins: 1,
            });
            let bytes = self.slots.bytes(id);
            let of = &mut self.topics[usize::from(topic)];
            of.drain_bytes += bytes;
            if is_shed {
                of.counts.shed_age += 1;
                self.skip(topic, lane, id, now_ms);
            } else if self.can_produce(topic) && self.fits(topic, lane, bytes) {
                self.hand_over(topic, lane, id);
            } else {
                self.wait(topic, lane, id);
            }
            self.slots.unpin(id);
        }
    }

    fn fits(&self, topic: u16, lane: u16, bytes: u64) -> bool {
        let at = &self.topics[usize::from(topic)].lanes[usize::from(lane)];
        let is_full = self.producer_bytes + bytes > self.limits.producer_bytes;
        let is_free = at.waiting.is_empty() && at.probing == 0 && at.may_hand_over();
        is_free && (!is_full || self.producer_bytes == 0)
    }

    /// Takes a spooled record as delivered, in its turn, without Kafka.
    fn skip(&mut self, topic: u16, lane: u16, id: SlotId, now_ms: u64) {
        let bytes = self.slots.bytes(id);
        self.slots.pin(id);
        self.slots.get_mut(id).fate = Fate::Confirmed;
        self.producer_bytes += bytes;
        let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
        at.inflight.push_back(id);
        at.inflight_bytes += bytes;
        self.pop_confirmed(topic, lane, now_ms);
    }

    /// Gives the next work for a topic's spool; nothing while both an append and a read are under
    /// way.
    pub(crate) fn poll_spool(&mut self, topic: u16, now_ms: u64) -> Option<SpoolWork> {
        self.poll_append(topic, now_ms)
            .or_else(|| self.poll_read(topic, now_ms))
    }

    fn poll_append(&mut self, topic: u16, now_ms: u64) -> Option<SpoolWork> {
        let may_mark = self.may_mark();
        let of = &mut self.topics[usize::from(topic)];
        if of.is_appending || of.full_until_ms.is_some_and(|until| now_ms < until) {
            return None;
        }
        let is_old = |since| now_ms.saturating_sub(since) >= MARK_INTERVAL_MS;
        let is_due = may_mark && of.unmarked_since_ms.is_some_and(is_old);
        if of.pending.is_empty() && !is_due {
            return None;
        }
        let mut bytes = 0;
        while bytes < APPEND_BYTES
            && let Some(id) = of.pending.pop_front()
        {
            bytes += self.slots.bytes(id);
            of.appending.push(id);
        }
        of.is_appending = true;
        let unmarked = of.unmarked_since_ms.take_if(|_| may_mark);
        let mark = unmarked.map(|_| {
            let delivered = |lane: &Lane| lane.spool.delivered.min(lane.spool.durable);
            of.lanes.iter().map(delivered).collect()
        });
        Some(SpoolWork::Append {
            slots: of.appending.clone(),
            mark,
        })
    }

    fn poll_read(&mut self, topic: u16, now_ms: u64) -> Option<SpoolWork> {
        self.bring_back(topic, now_ms);
        let of = &self.topics[usize::from(topic)];
        let is_busy = of.drain_bytes >= self.limits.producer_bytes / DRAIN_SHARE;
        if of.is_reading || is_busy || !self.can_produce(topic) || self.is_crowded() {
            return None;
        }
        let wanted = (0..).zip(&of.lanes).filter(|(_, at)| {
            let oldest = at.inflight.front();
            at.away
                && at.waiting.is_empty()
                && at.spool.read < at.spool.durable
                && !oldest.is_some_and(|&id| self.is_old(id, now_ms))
        });
        let from: Vec<(u16, u64, u64)> = wanted
            .map(|(lane, at)| (lane, at.spool.read, at.spool.durable))
            .collect();
        if from.is_empty() {
            return None;
        }
        self.topics[usize::from(topic)].is_reading = true;
        Some(SpoolWork::Read { from })
    }

    /// Whether records wait for memory of Kafka's client. What waits for the report of another one
    /// of its lane holds up that lane only.
    fn is_crowded(&self) -> bool {
        let waits_for_memory = |&(topic, lane): &(u16, u16)| {
            let at = &self.topics[usize::from(topic)].lanes[usize::from(lane)];
            self.can_produce(topic) && at.may_hand_over()
        };
        self.blocked.iter().any(waits_for_memory)
    }

    /// Lanes whose spool was handed over to its end are live again, unless Kafka still owes them
    /// an old report.
    fn bring_back(&mut self, topic: u16, now_ms: u64) {
        let of = &self.topics[usize::from(topic)];
        if !self.can_produce(topic) || of.policy.spools_always || self.is_crowded() {
            return;
        }
        let bytes_max = self.limits.producer_bytes / LANE_SHARE / 2;
        let is_back = |at: &Lane| {
            let is_read = at.spool.read == at.spool.end && at.waiting.is_empty();
            let is_owed = at
                .inflight
                .front()
                .is_some_and(|&id| self.is_old(id, now_ms));
            at.away && is_read && !is_owed && at.inflight_bytes <= bytes_max
        };
        let back: Vec<u16> = (0..)
            .zip(&of.lanes)
            .filter(|(_, at)| is_back(at))
            .map(|(lane, _)| lane)
            .collect();
        for lane in back {
            let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
            at.away = false;
            if !at.held.is_empty() {
                at.waiting.append(&mut at.held);
                self.blocked.insert((topic, lane));
            }
        }
    }

    /// Is by partition which offset of the spool comes first that Kafka has not confirmed.
    pub(crate) fn delivered(&self, topic: u16) -> impl Iterator<Item = u64> {
        let lanes = self.topics[usize::from(topic)].lanes.iter();
        lanes.map(|at| at.spool.delivered.min(at.spool.durable))
    }

    /// Says by partition whether something is spooled that Kafka has not confirmed.
    pub(crate) fn backlog(&self, topic: u16) -> impl Iterator<Item = bool> {
        let lanes = self.topics[usize::from(topic)].lanes.iter();
        lanes.map(Lane::has_backlog)
    }
}
