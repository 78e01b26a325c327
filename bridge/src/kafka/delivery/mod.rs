//! Which record goes where, and when it is settled: a value, without Kafka, disk or clock.
//!
//! Each partition of each topic is a lane. A lane is *live* (its records go to Kafka's client and
//! are settled by its delivery reports) or *away* (SEMANTICS: what was not confirmed in
//! `away_after` is copied to the spool, new records go only there, behind it, and are settled by
//! its fsync). While a lane is away its spool is drained in order, beginning at the first record
//! without a delivery report; once everything was handed over it is live again. Records that
//! Kafka's client still holds are never taken back from it: their copies are skipped as their
//! reports come.

mod lane;
mod slots;
mod spooling;
mod state;

use std::collections::{BTreeSet, VecDeque};

use storage::log::Record;

use crate::log::{Outcome, PortId, Submission, Ticket};
pub(crate) use lane::Cursor;
use lane::Lane;
use slots::{Fate, Slots};
pub(crate) use slots::{Slot, SlotId};
pub(crate) use spooling::SpoolWork;
pub(crate) use state::{Counts, TopicState};

/// A lane may hold this part of the producer's memory before it is away.
const LANE_SHARE: u64 = 8;

/// Says how long is too long, and how much is too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Age of a lane's oldest unconfirmed record, in milliseconds, at which it is away.
    pub(crate) away_after_ms: u64,
    /// Bytes of records that Kafka's client may hold unconfirmed.
    pub(crate) producer_bytes: u64,
    /// Age in milliseconds from which on a spooled record of QoS 0 is dropped instead of sent.
    pub(crate) spool_age_ms: i64,
}

/// Says what a topic's mode means for its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Away means the spool; else records wait in memory and their PUBACKs with them.
    pub(crate) spools: bool,
    /// Every record goes through the spool, also while Kafka is there.
    pub(crate) spools_always: bool,
    /// Settled when taken.
    pub(crate) settles_at_once: bool,
}

/// Says what is known of a topic at Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Kafka was not asked yet, or not reached.
    Unknown,
    /// It exists and is what we need.
    Good,
    /// It is not what we need, or we may not use it; an operator has to act.
    Refused(String),
}

/// Says why Kafka's client gave a record back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Kafka's client will never take this record.
    Poison(String),
    /// Kafka refused a group of records of which this is one; which of them it meant is found by
    /// sending one at a time.
    Suspect(String),
    /// Kafka does not take records of this topic now; the topic must be looked at.
    Topic,
    /// Anything that may pass.
    Passing,
}

/// Is a record that Kafka will never take.
#[derive(Debug)]
pub(crate) struct Poisoned {
    pub(crate) topic: u16,
    pub(crate) record: Record,
    pub(crate) ticket: Option<(PortId, Ticket)>,
    pub(crate) reason: String,
}

/// Is one topic.
#[derive(Debug)]
struct Topic {
    policy: Policy,
    contact: Contact,
    lanes: Vec<Lane>,
    /// Waits for the append that is under way.
    pending: VecDeque<SlotId>,
    /// Is being appended and fsynced.
    appending: Vec<SlotId>,
    /// Whether an append is under way.
    is_appending: bool,
    /// Whether the spool refused for lack of room, and when it is tried again.
    full_until_ms: Option<u64>,
    /// Bytes of drained records with Kafka's client or waiting for it.
    drain_bytes: u64,
    /// Whether a read was asked for and not answered.
    is_reading: bool,
    /// Since when something is delivered that no mark says.
    unmarked_since_ms: Option<u64>,
    released_bytes: u64,
    counts: Counts,
}

/// Is the state of all lanes.
#[derive(Debug)]
pub(crate) struct Delivery {
    limits: Limits,
    topics: Vec<Topic>,
    slots: Slots,
    /// Bytes of records that Kafka's client holds unconfirmed.
    producer_bytes: u64,
    has_producer: bool,
    paused: bool,
    /// Handed over in this order by the shell.
    produce: VecDeque<SlotId>,
    /// Lanes whose `waiting` is not empty.
    blocked: BTreeSet<(u16, u16)>,
    /// The lane among them that had the last turn.
    last_turn: (u16, u16),
    settled: Vec<(PortId, Outcome, Ticket)>,
    poisoned: Vec<Poisoned>,
    /// Poisoned records that are not known to be kept elsewhere. A spooled one was acknowledged, so
    /// until then no mark may pass it and no segment may go.
    unkept: u64,
    checked_ms: u64,
}

/// How often the ages of lanes are looked at, in milliseconds.
const CHECK_INTERVAL_MS: u64 = 50;

impl Delivery {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            topics: Vec::new(),
            slots: Slots::default(),
            producer_bytes: 0,
            has_producer: false,
            paused: false,
            produce: VecDeque::new(),
            blocked: BTreeSet::new(),
            last_turn: (0, 0),
            settled: Vec::new(),
            poisoned: Vec::new(),
            unkept: 0,
            checked_ms: 0,
        }
    }

    /// Adds a topic whose spool, if it has one, stands as given by partition. Its number is its
    /// place.
    pub(crate) fn topic(&mut self, policy: Policy, spool: &[(u64, u64)]) {
        let lane = |&(delivered, end): &(u64, u64)| Lane {
            away: policy.spools_always || delivered < end,
            spool: Cursor {
                delivered,
                read: delivered,
                durable: end,
                end,
            },
            ..Lane::default()
        };
        self.topics.push(Topic {
            policy,
            contact: Contact::Unknown,
            lanes: spool.iter().map(lane).collect(),
            pending: VecDeque::new(),
            appending: Vec::new(),
            is_appending: false,
            full_until_ms: None,
            drain_bytes: 0,
            is_reading: false,
            unmarked_since_ms: None,
            released_bytes: 0,
            counts: Counts::default(),
        });
    }

    /// Takes records in order.
    pub(crate) fn handle_records(&mut self, topic: u16, submission: Submission, now_ms: u64) {
        let Submission {
            records,
            tickets,
            port,
        } = submission;
        for (record, ticket) in records.into_iter().zip(tickets) {
            let lane = record.partition;
            let id = self.slots.insert(Slot {
                record,
                ticket: ticket.map(|ticket| (port, ticket)),
                topic,
                since_ms: now_ms,
                spool_offset: None,
                fate: Fate::Open,
                is_drained: false,
                holds_room: true,
                pins: 1,
            });
            let of = &mut self.topics[usize::from(topic)];
            of.counts.accepted += 1;
            if of.policy.settles_at_once {
                self.settle(id, Outcome::Durable);
            }
            self.route(topic, lane, id);
            // The pin of this function.
            self.slots.unpin(id);
        }
    }

    /// Puts a new record on the way its lane goes.
    fn route(&mut self, topic: u16, lane: u16, id: SlotId) {
        let can_produce = self.can_produce(topic);
        let of = &mut self.topics[usize::from(topic)];
        // A topic that is refused is not away: what comes is withheld until somebody acts.
        if matches!(of.contact, Contact::Refused(_)) {
            of.lanes[usize::from(lane)].held.push_back(id);
            self.slots.pin(id);
            return;
        }
        if of.policy.spools && !can_produce && !of.lanes[usize::from(lane)].away {
            self.go_away(topic, lane);
        }
        let of = &mut self.topics[usize::from(topic)];
        let at = &mut of.lanes[usize::from(lane)];
        if at.away && !of.policy.spools {
            at.held.push_back(id);
            self.slots.pin(id);
            return;
        }
        if at.away {
            if of.full_until_ms.is_some() && self.slots.get(id).record.droppable {
                of.counts.shed_quota += 1;
                self.free_room(id);
                return;
            }
            self.queue_for_spool(id);
            return;
        }
        let is_full = self.producer_bytes + self.slots.bytes(id) > self.limits.producer_bytes;
        let is_free = at.waiting.is_empty() && at.probing == 0 && at.may_hand_over();
        if can_produce && is_free && (!is_full || self.producer_bytes == 0) {
            self.hand_over(topic, lane, id);
            return;
        }
        self.wait(topic, lane, id);
        if can_produce && is_full {
            self.send_fullest_away();
        }
    }

    fn can_produce(&self, topic: u16) -> bool {
        let is_good = self.topics[usize::from(topic)].contact == Contact::Good;
        self.has_producer && !self.paused && is_good
    }

    fn wait(&mut self, topic: u16, lane: u16, id: SlotId) {
        self.slots.pin(id);
        let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
        at.waiting.push_back(id);
        self.blocked.insert((topic, lane));
    }

    /// Gives a record to Kafka's client, by way of the shell.
    fn hand_over(&mut self, topic: u16, lane: u16, id: SlotId) {
        let bytes = self.slots.bytes(id);
        self.slots.pin(id);
        self.slots.get_mut(id).fate = Fate::Open;
        self.producer_bytes += bytes;
        self.produce.push_back(id);
        let of = &mut self.topics[usize::from(topic)];
        let at = &mut of.lanes[usize::from(lane)];
        at.inflight.push_back(id);
        at.inflight_bytes += bytes;
        let is_much = at.inflight_bytes > self.limits.producer_bytes / LANE_SHARE;
        if is_much && of.policy.spools && !at.away {
            self.go_away(topic, lane);
        }
    }

    /// Copies what is not confirmed to the spool; what comes goes behind it.
    fn go_away(&mut self, topic: u16, lane: u16) {
        let of = &mut self.topics[usize::from(topic)];
        debug_assert!(of.policy.spools);
        of.counts.went_away += 1;
        let at = &mut of.lanes[usize::from(lane)];
        at.away = true;
        let inflight: Vec<SlotId> = at.inflight.iter().copied().collect();
        let waiting: Vec<SlotId> = at.waiting.drain(..).collect();
        self.blocked.remove(&(topic, lane));
        for &id in inflight.iter().chain(&waiting) {
            if self.slots.get(id).spool_offset.is_none() {
                self.queue_for_spool(id);
            }
        }
        // What waited is read again from the spool, behind what Kafka's client holds.
        let behind = inflight
            .last()
            .and_then(|&id| self.slots.get(id).spool_offset);
        let first = waiting
            .first()
            .and_then(|&id| self.slots.get(id).spool_offset);
        let of = &mut self.topics[usize::from(topic)];
        for &id in &waiting {
            if self.slots.get(id).is_drained {
                of.drain_bytes -= self.slots.bytes(id);
            }
            self.slots.unpin(id);
        }
        let at = &mut of.lanes[usize::from(lane)];
        at.spool.read = match (behind, first) {
            (Some(offset), _) => offset + 1,
            (None, Some(offset)) => offset,
            (None, None) => at.spool.end,
        };
    }

    fn queue_for_spool(&mut self, id: SlotId) {
        self.slots.pin(id);
        let slot = self.slots.get_mut(id);
        let of = &mut self.topics[usize::from(slot.topic)];
        let at = &mut of.lanes[usize::from(slot.record.partition)];
        slot.spool_offset = Some(at.spool.end);
        at.spool.end += 1;
        of.pending.push_back(id);
        of.counts.spooled += 1;
    }

    /// The lane that holds most of the producer's memory goes to its spool.
    fn send_fullest_away(&mut self) {
        let mut fullest: Option<(u64, u16, u16)> = None;
        for (topic, of) in (0..).zip(&self.topics) {
            for (lane, at) in (0..).zip(&of.lanes) {
                let is_candidate = of.policy.spools && !at.away && at.inflight_bytes > 0;
                if is_candidate && fullest.is_none_or(|(bytes, _, _)| at.inflight_bytes > bytes) {
                    fullest = Some((at.inflight_bytes, topic, lane));
                }
            }
        }
        if let Some((_, topic, lane)) = fullest {
            self.go_away(topic, lane);
        }
    }

    /// Hands the next record to the shell, which gives it to Kafka's client at once.
    pub(crate) fn poll_produce(&mut self) -> Option<SlotId> {
        self.produce.pop_front()
    }

    /// Is a record on its way and the number of its topic.
    pub(crate) fn slot(&self, id: SlotId) -> (&Slot, u16) {
        let slot = self.slots.get(id);
        (slot, slot.topic)
    }

    /// Kafka's client had no memory for the record that was polled last: it and all behind it
    /// wait.
    pub(crate) fn handle_queue_full(&mut self, id: SlotId) {
        self.produce.push_front(id);
        while let Some(id) = self.produce.pop_back() {
            let bytes = self.slots.bytes(id);
            let slot = self.slots.get(id);
            let (topic, lane) = (slot.topic, slot.record.partition);
            let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
            let last = at.inflight.pop_back();
            debug_assert_eq!(last, Some(id), "handed over in order");
            at.inflight_bytes -= bytes;
            self.producer_bytes -= bytes;
            at.waiting.push_front(id);
            self.blocked.insert((topic, lane));
        }
        self.send_fullest_away();
    }

    /// Kafka confirmed a record.
    pub(crate) fn handle_confirmed(&mut self, id: SlotId, now_ms: u64) {
        let slot = self.slots.get_mut(id);
        slot.fate = Fate::Confirmed;
        let (topic, lane) = (slot.topic, usize::from(slot.record.partition));
        let of = &mut self.topics[usize::from(topic)];
        of.counts.delivered += 1;
        of.lanes[lane].is_known = true;
        self.settle(id, Outcome::Durable);
        self.free_room(id);
        self.advance(id, now_ms);
    }

    /// Kafka's client gave a record back.
    pub(crate) fn handle_failed(&mut self, id: SlotId, failure: Failure, now_ms: u64) {
        let slot = self.slots.get_mut(id);
        let of = &mut self.topics[usize::from(slot.topic)];
        let at = &mut of.lanes[usize::from(slot.record.partition)];
        let failure = match failure {
            Failure::Suspect(reason) if at.inflight.len() == 1 => Failure::Poison(reason),
            other => other,
        };
        match failure {
            Failure::Suspect(_) => {
                slot.fate = Fate::Failed;
                of.counts.failed += 1;
                at.probing = at.inflight.len();
            }
            Failure::Poison(reason) => {
                slot.fate = Fate::Confirmed;
                of.counts.poisoned += 1;
                let poisoned = Poisoned {
                    topic: slot.topic,
                    record: slot.record.clone(),
                    ticket: slot.ticket.take(),
                    reason,
                };
                self.poisoned.push(poisoned);
                self.unkept += 1;
                self.free_room(id);
            }
            Failure::Topic => {
                slot.fate = Fate::Failed;
                of.counts.failed += 1;
                if of.contact == Contact::Good {
                    of.contact = Contact::Unknown;
                }
            }
            Failure::Passing => {
                slot.fate = Fate::Failed;
                of.counts.failed += 1;
            }
        }
        self.advance(id, now_ms);
    }

    /// Takes from the front of a lane what is confirmed; what failed waits again, in order, once
    /// nothing of the lane is open any more.
    fn advance(&mut self, id: SlotId, now_ms: u64) {
        let slot = self.slots.get(id);
        let (topic, lane) = (slot.topic, slot.record.partition);
        let is_open = |slots: &Slots, id: &SlotId| slots.get(*id).fate == Fate::Open;
        let at = &self.topics[usize::from(topic)].lanes[usize::from(lane)];
        let front = at.inflight.front().map(|&front| self.slots.get(front).fate);
        let gives_back =
            front == Some(Fate::Failed) && !at.inflight.iter().any(|id| is_open(&self.slots, id));
        if gives_back {
            self.give_back(topic, lane);
        } else {
            self.pop_confirmed(topic, lane, now_ms);
        }
    }

    fn pop_confirmed(&mut self, topic: u16, lane: u16, now_ms: u64) {
        loop {
            let of = &mut self.topics[usize::from(topic)];
            let at = &mut of.lanes[usize::from(lane)];
            let Some(&id) = at.inflight.front() else {
                return;
            };
            if self.slots.get(id).fate != Fate::Confirmed {
                return;
            }
            at.inflight.pop_front();
            self.leave_producer(topic, lane, id, now_ms);
        }
    }

    /// A confirmed record is no more with Kafka's client.
    fn leave_producer(&mut self, topic: u16, lane: u16, id: SlotId, now_ms: u64) {
        let bytes = self.slots.bytes(id);
        self.producer_bytes -= bytes;
        let of = &mut self.topics[usize::from(topic)];
        let at = &mut of.lanes[usize::from(lane)];
        at.inflight_bytes -= bytes;
        at.probing = at.probing.saturating_sub(1);
        let slot = self.slots.get(id);
        if let Some(offset) = slot.spool_offset {
            debug_assert_eq!(at.spool.delivered, offset, "confirmed in order");
            at.spool.delivered = offset + 1;
            of.unmarked_since_ms.get_or_insert(now_ms);
        }
        if slot.is_drained {
            of.drain_bytes -= bytes;
            of.counts.drained += 1;
        }
        self.slots.unpin(id);
    }

    /// Everything of a lane that is not confirmed waits again, in its order.
    fn give_back(&mut self, topic: u16, lane: u16) {
        let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
        let mut inflight = std::mem::take(&mut at.inflight);
        while let Some(id) = inflight.pop_back() {
            let bytes = self.slots.bytes(id);
            self.producer_bytes -= bytes;
            let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
            at.inflight_bytes -= bytes;
            // A confirmed one behind a failed one is sent twice: order comes before that.
            at.waiting.push_front(id);
            self.blocked.insert((topic, lane));
        }
    }

    /// The producer is gone, and with it all it had not confirmed. Reports of the old one must not
    /// come any more.
    pub(crate) fn handle_producer_lost(&mut self, now_ms: u64) {
        self.has_producer = false;
        self.produce.clear();
        for topic in 0..self.topics.len() as u16 {
            for lane in 0..self.topics[usize::from(topic)].lanes.len() as u16 {
                self.pop_confirmed(topic, lane, now_ms);
                self.give_back(topic, lane);
                self.topics[usize::from(topic)].lanes[usize::from(lane)].is_known = false;
            }
        }
    }

    /// There is a producer.
    pub(crate) fn handle_producer(&mut self) {
        self.has_producer = true;
    }

    /// Kafka was asked about a topic.
    pub(crate) fn handle_contact(&mut self, topic: u16, contact: Contact) {
        let of = &mut self.topics[usize::from(topic)];
        let was_refused = matches!(of.contact, Contact::Refused(_));
        of.contact = contact;
        if !was_refused {
            return;
        }
        // What was withheld goes its way, or is withheld again.
        for lane in 0..of.lanes.len() as u16 {
            let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
            for id in std::mem::take(&mut at.held) {
                self.route(topic, lane, id);
                self.slots.unpin(id);
            }
        }
    }

    /// An operator holds Kafka's side, or lets it go on.
    pub(crate) fn handle_pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Looks at ages, hands over what waits, lets lanes come back. To be called after each group
    /// of events and at least every [`CHECK_INTERVAL_MS`].
    pub(crate) fn handle_timeout(&mut self, now_ms: u64) {
        if now_ms >= self.checked_ms + CHECK_INTERVAL_MS {
            self.checked_ms = now_ms;
            self.send_old_away(now_ms);
        }
        self.hand_over_waiting();
    }

    fn send_old_away(&mut self, now_ms: u64) {
        for topic in 0..self.topics.len() as u16 {
            let can_produce = self.can_produce(topic);
            for lane in 0..self.topics[usize::from(topic)].lanes.len() as u16 {
                let of = &self.topics[usize::from(topic)];
                let at = &of.lanes[usize::from(lane)];
                let is_refused = matches!(of.contact, Contact::Refused(_));
                if at.away || !of.policy.spools || is_refused {
                    continue;
                }
                let oldest = at.inflight.front().or(at.waiting.front());
                let is_old = oldest.is_some_and(|&id| self.is_old(id, now_ms));
                if is_old || (!can_produce && oldest.is_some()) {
                    self.go_away(topic, lane);
                }
            }
        }
    }

    fn is_old(&self, id: SlotId, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.slots.get(id).since_ms) >= self.limits.away_after_ms
    }

    /// Begins behind the lane that had the last turn, so that a full producer starves nobody.
    fn hand_over_waiting(&mut self) {
        let mut blocked: Vec<(u16, u16)> = self.blocked.iter().copied().collect();
        let first = blocked.partition_point(|lane| *lane <= self.last_turn);
        blocked.rotate_left(first);
        for (topic, lane) in blocked {
            if self.can_produce(topic) && !self.hand_over_lane(topic, lane) {
                return;
            }
        }
    }

    /// False when the producer is full.
    fn hand_over_lane(&mut self, topic: u16, lane: u16) -> bool {
        self.last_turn = (topic, lane);
        loop {
            let at = &mut self.topics[usize::from(topic)].lanes[usize::from(lane)];
            let Some(&id) = at.waiting.front() else {
                self.blocked.remove(&(topic, lane));
                return true;
            };
            if !at.may_hand_over() {
                return true;
            }
            let bytes = self.slots.bytes(id);
            if self.producer_bytes > 0 && self.producer_bytes + bytes > self.limits.producer_bytes {
                return false;
            }
            at.waiting.pop_front();
            self.hand_over(topic, lane, id);
            self.slots.unpin(id);
        }
    }

    fn settle(&mut self, id: SlotId, outcome: Outcome) {
        let slot = self.slots.get_mut(id);
        if let Some((port, ticket)) = slot.ticket.take() {
            self.settled.push((port, outcome, ticket));
        }
    }

    fn free_room(&mut self, id: SlotId) {
        let bytes = self.slots.bytes(id);
        let slot = self.slots.get_mut(id);
        if std::mem::take(&mut slot.holds_room) {
            self.topics[usize::from(slot.topic)].released_bytes += bytes;
        }
    }

    /// Takes what was settled, in order.
    pub(crate) fn take_settled(&mut self) -> Vec<(PortId, Outcome, Ticket)> {
        std::mem::take(&mut self.settled)
    }

    /// So many poisoned records are durable as dead letters.
    pub(crate) fn handle_kept(&mut self, count: u64) {
        self.unkept -= count;
    }

    /// Whether everything that left the spool's lanes is somewhere else.
    pub(crate) fn may_mark(&self) -> bool {
        self.unkept == 0
    }

    /// Takes the records that Kafka will never take; [`Delivery::handle_kept`] follows.
    pub(crate) fn take_poisoned(&mut self) -> Vec<Poisoned> {
        std::mem::take(&mut self.poisoned)
    }

    /// Takes the bytes of room that a topic's records gave back.
    pub(crate) fn take_released(&mut self, topic: u16) -> u64 {
        std::mem::take(&mut self.topics[usize::from(topic)].released_bytes)
    }

    /// Whether Kafka is held by an operator.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }
}

#[cfg(test)]
#[path = "delivery_test.rs"]
mod tests;
