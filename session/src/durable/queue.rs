//! The queue of a persistent session.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::{QoS, SubscriptionIds};

use super::Limits;
use crate::{Message, Seq, WallMs};

/// Nothing is handed out this far past the oldest unacknowledged message: packet ids repeat there.
const SEQ_SPAN: u64 = 32_767;

/// A QoS 1 or 2 message for one session.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: Seq,
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) ids: SubscriptionIds,
    /// PUBREC is recorded: only PUBREL is still to be sent.
    pub(super) released: bool,
}

/// Unacknowledged messages in order of their sequences, and those held behind a replay.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// Wait for a replay; their sequences are given when they leave.
    held: VecDeque<Entry>,
    next: u64,
    /// Exclusive end of what a client may have seen: one above `sent_upto`.
    sent_end: u64,
    /// Exclusive end of what was handed to the present owner. Not replicated.
    delivered_end: u64,
    bytes: usize,
    /// No entry that may expire does so before this.
    expiry_min: Option<WallMs>,
}

/// What became of a message offered to a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) taken: bool,
    /// Messages dropped, the offered one included.
    pub(super) dropped: u32,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn expiry_min(&self) -> Option<WallMs> {
        self.expiry_min
    }

    /// Appends a message, or holds it, after making room by the full-queue policy.
    pub(super) fn push(&mut self, mut entry: Entry, hold: bool, limits: &Limits) -> Pushed {
        let bytes = entry.message.bytes();
        let mut pushed = Pushed::default();
        if bytes > limits.queue_bytes {
            pushed.dropped = 1;
            return pushed;
        }
        while self.len() + 1 > limits.queue_messages || self.bytes + bytes > limits.queue_bytes {
            pushed.dropped += 1;
            if !self.drop_oldest_unsent() {
                return pushed;
            }
        }
        self.bytes += bytes;
        if let Some(at) = entry.message.expiry {
            self.expiry_min = Some(self.expiry_min.map_or(at, |min| min.min(at)));
        }
        pushed.taken = true;
        if hold {
            self.held.push_back(entry);
        } else {
            entry.seq = self.take_seq();
            self.entries.push_back(entry);
        }
        pushed
    }

    /// Gives sequences to the held messages that nothing holds any longer.
    pub(super) fn unhold(&mut self, still_held: impl Fn(&Message) -> bool) {
        let held = std::mem::take(&mut self.held);
        for mut entry in held {
            if still_held(&entry.message) {
                self.held.push_back(entry);
            } else {
                entry.seq = self.take_seq();
                self.entries.push_back(entry);
            }
        }
    }

    /// Extends `sent_upto` over the first `window` unacknowledged messages.
    pub(super) fn advance_sent(&mut self, window: usize) {
        let Some(oldest) = self.entries.front().map(|e| e.seq.0) else {
            return;
        };
        let reach = self.entries.iter().take(window).map(|e| e.seq.0);
        let end = if self.next - oldest <= SEQ_SPAN {
            let last = self.entries.len().min(window).checked_sub(1);
            last.map_or(0, |at| self.entries[at].seq.0 + 1)
        } else {
            let within = reach.take_while(|seq| seq - oldest < SEQ_SPAN);
            within.last().map_or(0, |seq| seq + 1)
        };
        self.sent_end = self.sent_end.max(end);
    }

    /// Begins anew with what is handed out; what was handed out before is a re-delivery now.
    /// Returns the end of what an earlier owner may have sent.
    pub(super) fn restart_delivery(&mut self) -> u64 {
        self.delivered_end = 0;
        self.sent_end
    }

    /// The next message that may go to the owner.
    pub(super) fn next_delivery(&mut self) -> Option<&Entry> {
        let at = self
            .entries
            .partition_point(|entry| entry.seq.0 < self.delivered_end);
        let entry = self.entries.get(at)?;
        if entry.seq.0 >= self.sent_end {
            return None;
        }
        self.delivered_end = entry.seq.0 + 1;
        Some(entry)
    }

    /// Removes an acknowledged message; says whether it was there.
    pub(super) fn ack(&mut self, seq: Seq) -> bool {
        let Some(at) = self.position(seq) else {
            return false;
        };
        self.remove(at);
        true
    }

    /// Records PUBREC; says whether the message was there with QoS 2.
    pub(super) fn release(&mut self, seq: Seq) -> bool {
        let Some(at) = self.position(seq) else {
            return false;
        };
        let entry = &mut self.entries[at];
        entry.released |= entry.qos == QoS::ExactlyOnce;
        entry.released
    }

    /// Removes what expired and was never sent `[MQTT-3.3.2-5]`, `[MQTT-4.3.3-7]`; returns how
    /// many.
    pub(super) fn expire(&mut self, now: WallMs) -> usize {
        let before = self.len();
        let sent_end = self.sent_end;
        let keeps = |e: &Entry| e.seq.0 < sent_end || !e.message.is_expired(now);
        self.entries.retain(keeps);
        self.held.retain(|e| !e.message.is_expired(now));
        let unsent = self.entries.iter().filter(|e| e.seq.0 >= sent_end);
        let all = unsent.chain(&self.held);
        self.expiry_min = all.filter_map(|e| e.message.expiry).min();
        let queued = self.entries.iter().chain(&self.held);
        self.bytes = queued.map(|e| e.message.bytes()).sum();
        before - self.len()
    }

    fn take_seq(&mut self) -> Seq {
        let seq = self.next;
        self.next += 1;
        Seq(seq)
    }

    fn position(&self, seq: Seq) -> Option<usize> {
        self.entries.binary_search_by_key(&seq, |e| e.seq).ok()
    }

    fn remove(&mut self, at: usize) {
        let entry = self.entries.remove(at).expect("the caller found it");
        self.bytes -= entry.message.bytes();
    }

    /// The oldest beyond `sent_upto`, QoS 1 before QoS 2; false if there is none.
    fn drop_oldest_unsent(&mut self) -> bool {
        let unsent = self
            .entries
            .partition_point(|entry| entry.seq.0 < self.sent_end);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let queued = self.entries.range(unsent..).position(|e| e.qos == qos);
            if let Some(at) = queued {
                self.remove(unsent + at);
                return true;
            }
            if let Some(at) = self.held.iter().position(|e| e.qos == qos) {
                let entry = self.held.remove(at).expect("found just before");
                self.bytes -= entry.message.bytes();
                return true;
            }
        }
        false
    }
}
