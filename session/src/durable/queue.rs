//! The queue of a persistent session or of a group.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use mqtt::{QoS, SubscriptionIds, Topic};

use super::{Limits, QueuePlace, QueuedRow, RestoreError, RowKey};
use crate::{MessageId, Seq, WallMs};

/// Nothing is handed out this far past the oldest unacknowledged message: packet ids repeat there.
const SEQ_SPAN: u64 = 32_767;

/// Entries for which room is made at least.
const ROOM_MIN: usize = 4;

/// When a message expires, if ever, in the room of one number: a million queued messages have one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(WallMs);

impl Expiry {
    const NEVER: WallMs = WallMs(u64::MAX);

    fn time(self) -> Option<WallMs> {
        (self.0 != Self::NEVER).then_some(self.0)
    }
}

impl From<Option<WallMs>> for Expiry {
    fn from(time: Option<WallMs>) -> Self {
        Self(time.unwrap_or(Self::NEVER))
    }
}

/// Identifiers of the matching subscriptions; most entries have one or none.
#[derive(Clone, Debug)]
pub(super) enum Ids {
    None,
    One(NonZeroU32),
    More(Box<SubscriptionIds>),
}

impl Ids {
    pub(super) fn to_subscription_ids(&self) -> SubscriptionIds {
        match self {
            Self::None => SubscriptionIds::new(),
            Self::One(id) => [*id].into(),
            Self::More(ids) => (**ids).clone(),
        }
    }
}

impl From<SubscriptionIds> for Ids {
    fn from(ids: SubscriptionIds) -> Self {
        match ids.as_slice() {
            [] => Self::None,
            [id] => Self::One(*id),
            _ => Self::More(Box::new(ids)),
        }
    }
}

/// A QoS 1 or 2 message for one session; its payload may be away.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: Seq,
    pub(super) message: MessageId,
    /// What it is accounted with.
    pub(super) bytes: u32,
    pub(super) expiry: Expiry,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) ids: Ids,
    /// PUBREC is recorded: only PUBREL is still to be sent.
    pub(super) released: bool,
}

/// A message that waits for a replay; its sequence is given when it leaves.
#[derive(Clone, Debug)]
struct Held {
    at: u64,
    topic: Topic,
    entry: Entry,
}

/// What the rows do not say yet.
#[derive(Debug, Default)]
struct Unstored {
    /// Entries from this sequence, and held ones from this number on, have no row.
    seq: u64,
    held: u64,
    /// Rows that are to be written again, and rows that are to go.
    changed: Vec<Seq>,
    deleted: Vec<QueuePlace>,
}

/// Unacknowledged messages in order of their sequences, and those held behind a replay.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    held: VecDeque<Held>,
    next_held: u64,
    next: u64,
    /// Exclusive end of what a client may have seen: one above `sent_upto`.
    sent_end: u64,
    /// Exclusive end of what was handed to the present owner. Not replicated.
    delivered_end: u64,
    bytes: usize,
    /// No entry that may expire does so before this.
    expiry_min: Option<WallMs>,
    unstored: Unstored,
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

    /// Messages that may have been sent and are not acknowledged.
    pub(super) fn sent_len(&self) -> usize {
        self.entries
            .partition_point(|entry| entry.seq.0 < self.sent_end)
    }

    pub(super) fn expiry_min(&self) -> Option<WallMs> {
        self.expiry_min
    }

    /// Appends a message, or holds it with its topic, after making room by the full-queue policy.
    /// As in the other functions, `left` gets the messages of entries that leave the queue.
    pub(super) fn push(
        &mut self,
        mut entry: Entry,
        hold: Option<&Topic>,
        limits: &Limits,
        left: &mut Vec<MessageId>,
    ) -> Pushed {
        let bytes = entry.bytes as usize;
        let mut pushed = Pushed::default();
        if bytes > limits.queue_bytes {
            pushed.dropped = 1;
            return pushed;
        }
        while self.len() + 1 > limits.queue_messages || self.bytes + bytes > limits.queue_bytes {
            pushed.dropped += 1;
            if !self.drop_oldest_unsent(left) {
                return pushed;
            }
        }
        self.bytes += bytes;
        if let Some(at) = entry.expiry.time() {
            self.expiry_min = Some(self.expiry_min.map_or(at, |min| min.min(at)));
        }
        pushed.taken = true;
        if let Some(topic) = hold {
            let topic = topic.clone();
            let at = self.next_held;
            self.next_held += 1;
            self.held.push_back(Held { at, topic, entry });
        } else {
            entry.seq = self.take_seq();
            self.append(entry);
        }
        pushed
    }

    /// Gives sequences to the held messages that nothing holds any longer.
    pub(super) fn unhold(&mut self, still_held: impl Fn(&Topic) -> bool) {
        for mut held in std::mem::take(&mut self.held) {
            if still_held(&held.topic) {
                self.held.push_back(held);
            } else {
                self.forget_row(QueuePlace::Held(held.at));
                held.entry.seq = self.take_seq();
                self.append(held.entry);
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

    /// The messages that may go to the owner next, in order.
    pub(super) fn deliverable(&self) -> impl Iterator<Item = &Entry> {
        let at = self
            .entries
            .partition_point(|entry| entry.seq.0 < self.delivered_end);
        let next = self.entries.range(at..);
        next.take_while(|entry| entry.seq.0 < self.sent_end)
    }

    /// Everything up to this one was handed to the owner.
    pub(super) fn handle_delivered(&mut self, seq: Seq) {
        self.delivered_end = seq.0 + 1;
    }

    /// The message with this sequence.
    pub(super) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.position(seq).map(|at| &self.entries[at])
    }

    /// Removes an acknowledged message; says whether it was there.
    pub(super) fn ack(&mut self, seq: Seq, left: &mut Vec<MessageId>) -> bool {
        let Some(at) = self.position(seq) else {
            return false;
        };
        self.remove(at, left);
        true
    }

    /// Records PUBREC; says whether the message was there with QoS 2.
    pub(super) fn release(&mut self, seq: Seq) -> bool {
        let Some(at) = self.position(seq) else {
            return false;
        };
        let entry = &mut self.entries[at];
        if entry.qos != QoS::ExactlyOnce {
            return false;
        }
        let was_released = std::mem::replace(&mut entry.released, true);
        if !was_released && seq.0 < self.unstored.seq {
            self.unstored.changed.push(seq);
        }
        true
    }

    /// Removes what expired and was never sent `[MQTT-3.3.2-5]`, `[MQTT-4.3.3-7]`; returns how
    /// many.
    pub(super) fn expire(&mut self, now: WallMs, left: &mut Vec<MessageId>) -> usize {
        let before = self.len();
        let is_over = |entry: &Entry| entry.expiry.time().is_some_and(|at| at <= now);
        let first_unsent = self
            .entries
            .partition_point(|entry| entry.seq.0 < self.sent_end);
        let unsent = self.entries.split_off(first_unsent);
        for entry in unsent {
            if is_over(&entry) {
                self.leave(QueuePlace::Sequenced(entry.seq), &entry, left);
            } else {
                self.entries.push_back(entry);
            }
        }
        for held in std::mem::take(&mut self.held) {
            if is_over(&held.entry) {
                self.leave(QueuePlace::Held(held.at), &held.entry, left);
            } else {
                self.held.push_back(held);
            }
        }
        let unsent = self.entries.range(first_unsent..);
        let all = unsent.chain(self.held.iter().map(|held| &held.entry));
        self.expiry_min = all.filter_map(|e| e.expiry.time()).min();
        before - self.len()
    }

    /// All messages that entries name.
    pub(super) fn messages(&self) -> impl Iterator<Item = MessageId> {
        let held = self.held.iter().map(|held| &held.entry);
        self.entries.iter().chain(held).map(|entry| entry.message)
    }

    /// The next sequence, the end of what may have been sent, the next number of a held message.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.next, self.sent_end, self.next_held)
    }

    /// Goes on from [`Queue::counts`], in a state that is restored.
    pub(super) fn count_from(&mut self, (next, sent_end, next_held): (u64, u64, u64)) {
        self.next = next;
        self.sent_end = sent_end;
        self.next_held = next_held;
        self.unstored.seq = next;
        self.unstored.held = next_held;
    }

    /// Takes a stored message back, in any order.
    pub(super) fn restore(&mut self, place: QueuePlace, row: QueuedRow) {
        let mut entry = Entry {
            seq: Seq(0),
            message: row.message,
            bytes: row.bytes,
            expiry: row.expiry.into(),
            qos: row.qos,
            retain: row.retain,
            ids: row.ids.into(),
            released: row.released,
        };
        self.bytes += entry.bytes as usize;
        match (place, row.held_topic) {
            (QueuePlace::Held(at), topic) => {
                let topic = topic.expect("the caller has checked it");
                self.held.push_back(Held { at, topic, entry });
            }
            (QueuePlace::Sequenced(seq), _) => {
                entry.seq = seq;
                self.entries.push_back(entry);
            }
        }
    }

    /// Every message is restored: checks their numbers and derives what no row says.
    pub(super) fn restored(
        &mut self,
        key: impl Fn(QueuePlace) -> RowKey,
    ) -> Result<(), RestoreError> {
        self.entries
            .make_contiguous()
            .sort_by_key(|entry| entry.seq);
        self.held.make_contiguous().sort_by_key(|held| held.at);
        self.entries.shrink_to_fit();
        let sequenced = self.entries.iter().map(|entry| entry.seq);
        let held = self.held.iter().map(|held| held.at);
        check(
            &key,
            sequenced.map(|seq| (seq.0, QueuePlace::Sequenced(seq))),
            self.next,
        )?;
        check(
            &key,
            held.map(|at| (at, QueuePlace::Held(at))),
            self.next_held,
        )?;
        let unsent = self.entries.iter().filter(|e| e.seq.0 >= self.sent_end);
        let all = unsent.chain(self.held.iter().map(|held| &held.entry));
        self.expiry_min = all.filter_map(|e| e.expiry.time()).min();
        Ok(())
    }

    /// Takes what changed since the last call: rows to write, rows to delete.
    pub(super) fn take_changes(&mut self) -> (Vec<(QueuePlace, QueuedRow)>, Vec<QueuePlace>) {
        let since = std::mem::take(&mut self.unstored);
        self.unstored.seq = self.next;
        self.unstored.held = self.next_held;
        let mut put = Vec::new();
        for seq in since.changed {
            if let Some(at) = self.position(seq) {
                let row = row_of(&self.entries[at], None);
                put.push((QueuePlace::Sequenced(seq), row));
            }
        }
        let first = self
            .entries
            .partition_point(|entry| entry.seq.0 < since.seq);
        for entry in self.entries.range(first..) {
            put.push((QueuePlace::Sequenced(entry.seq), row_of(entry, None)));
        }
        for held in self.held.iter().filter(|held| held.at >= since.held) {
            let row = row_of(&held.entry, Some(held.topic.clone()));
            put.push((QueuePlace::Held(held.at), row));
        }
        (put, since.deleted)
    }

    /// The rows that it has, when the queue ends.
    pub(super) fn stored_places(&self) -> Vec<QueuePlace> {
        let entries = self.entries.iter().map(|entry| entry.seq);
        let entries = entries.filter(|seq| seq.0 < self.unstored.seq);
        let held = self.held.iter().map(|held| held.at);
        let held = held.filter(|at| *at < self.unstored.held);
        let mut places = self.unstored.deleted.clone();
        places.extend(entries.map(QueuePlace::Sequenced));
        places.extend(held.map(QueuePlace::Held));
        places
    }

    /// Appends, with room for half as many more, not for as many again: there are many queues.
    fn append(&mut self, entry: Entry) {
        if self.entries.len() == self.entries.capacity() {
            let more = (self.entries.len() / 2).max(ROOM_MIN);
            self.entries.reserve_exact(more);
        }
        self.entries.push_back(entry);
    }

    fn take_seq(&mut self) -> Seq {
        let seq = self.next;
        self.next += 1;
        Seq(seq)
    }

    fn position(&self, seq: Seq) -> Option<usize> {
        self.entries.binary_search_by_key(&seq, |e| e.seq).ok()
    }

    fn remove(&mut self, at: usize, left: &mut Vec<MessageId>) {
        let entry = self.entries.remove(at).expect("the caller found it");
        if self.entries.len() + ROOM_MIN < self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * self.entries.len() + ROOM_MIN);
        }
        self.leave(QueuePlace::Sequenced(entry.seq), &entry, left);
    }

    /// An entry was taken out.
    fn leave(&mut self, place: QueuePlace, entry: &Entry, left: &mut Vec<MessageId>) {
        self.bytes -= entry.bytes as usize;
        left.push(entry.message);
        self.forget_row(place);
    }

    fn forget_row(&mut self, place: QueuePlace) {
        let is_stored = match place {
            QueuePlace::Sequenced(seq) => seq.0 < self.unstored.seq,
            QueuePlace::Held(at) => at < self.unstored.held,
        };
        if is_stored {
            self.unstored.deleted.push(place);
        }
    }

    /// The oldest beyond `sent_upto`, QoS 1 before QoS 2; false if there is none.
    fn drop_oldest_unsent(&mut self, left: &mut Vec<MessageId>) -> bool {
        let unsent = self
            .entries
            .partition_point(|entry| entry.seq.0 < self.sent_end);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let queued = self.entries.range(unsent..).position(|e| e.qos == qos);
            if let Some(at) = queued {
                self.remove(unsent + at, left);
                return true;
            }
            if let Some(at) = self.held.iter().position(|held| held.entry.qos == qos) {
                let held = self.held.remove(at).expect("found just before");
                self.leave(QueuePlace::Held(held.at), &held.entry, left);
                return true;
            }
        }
        false
    }
}

/// Whether sorted numbers are each there once, and below the next one.
fn check(
    key: &impl Fn(QueuePlace) -> RowKey,
    places: impl Iterator<Item = (u64, QueuePlace)>,
    next: u64,
) -> Result<(), RestoreError> {
    let mut last = None;
    for (number, place) in places {
        if last.replace(number) == Some(number) {
            return Err(RestoreError::Twice(key(place)));
        }
        if number >= next {
            let key = key(place);
            return Err(RestoreError::NotGiven { key, number, next });
        }
    }
    Ok(())
}

fn row_of(entry: &Entry, held_topic: Option<Topic>) -> QueuedRow {
    QueuedRow {
        message: entry.message,
        bytes: entry.bytes,
        expiry: entry.expiry.time(),
        qos: entry.qos,
        retain: entry.retain,
        ids: entry.ids.to_subscription_ids(),
        released: entry.released,
        held_topic,
    }
}
