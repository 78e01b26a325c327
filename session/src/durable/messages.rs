//! Messages of persistent sessions: in, out, acknowledged.

use std::sync::Arc;

use mqtt::{ClientId, PacketId, QoS, ReasonCode};

use super::groups::NextShared;
use super::loads::Waiter;
use super::queue::Entry;
use super::{Delivery, DeliveryStep, Durable, DurableEffect};
use crate::{Acks, Answer, Enqueue, Epoch, Message, MessageId, Seq};

/// Messages of one session or group that are read ahead.
pub(super) const LOADS_AHEAD: usize = 32;

/// Messages for which [`Durable::let_go`] keeps room.
const LEFT_ROOM: usize = 1_024;

impl Durable {
    /// Queues a message for every session and group that matches it with QoS > 0 `[MQTT-4.5.0-1]`.
    pub(super) fn enqueue(&mut self, enqueue: &Enqueue) -> Answer {
        let mut answer = (0, 0);
        if let Some(origin) = &enqueue.origin
            && !self.origins.admit(origin, self.time)
        {
            self.counters.repeats += 1;
            return enqueued(answer, true);
        }
        let message = &enqueue.message;
        let matches = self.matches(&message.topic, message.publisher.as_ref());
        // Held once, if anybody takes it.
        let mut held = None;
        let mut left = std::mem::take(&mut self.left);
        for (client, matched) in matches {
            let qos = matched.qos(message.qos);
            if qos == QoS::AtMostOnce {
                continue;
            }
            let session = self.sessions.get_mut(&client);
            let Some(state) = session.and_then(|s| s.state.as_mut()) else {
                continue;
            };
            let id = *held.get_or_insert_with(|| self.payloads.take_id());
            let entry = Entry {
                seq: Seq(0),
                message: id,
                bytes: u32::try_from(message.bytes()).unwrap_or(u32::MAX),
                expiry: message.expiry.into(),
                qos,
                retain: matched.retain(message.retain),
                ids: matched.into_ids().into(),
                released: false,
            };
            let before = (state.queue.len(), state.queue.bytes());
            let hold = state.is_held(&message.topic).then_some(&message.topic);
            let pushed = state.queue.push(entry, hold, &self.limits, &mut left);
            let after = (state.queue.len(), state.queue.bytes());
            answer.0 += u32::from(pushed.taken);
            answer.1 += pushed.dropped;
            self.account(before, after);
            self.touch(&client);
        }
        if !self.groups.is_empty() {
            let (taken, dropped) = self.enqueue_shared(message, &mut held, &mut left);
            answer = (answer.0 + taken, answer.1 + dropped);
        }
        if let Some(id) = held {
            self.payloads.hold(id, message, answer.0);
        }
        self.let_go(left);
        self.counters.queued += u64::from(answer.0);
        self.counters.dropped_full += u64::from(answer.1);
        enqueued(answer, false)
    }

    pub(super) fn q2_in(&mut self, client: &ClientId, epoch: Epoch, packet_id: PacketId) -> Answer {
        let limits = self.limits;
        let answer = match self.owned_state(client, epoch) {
            Ok(state) => match state.q2.begin(packet_id, &limits) {
                Some((n, floor)) => Answer::Q2In { n, floor },
                None => Answer::Refused(ReasonCode::ReceiveMaximumExceeded),
            },
            Err(answer) => return answer,
        };
        self.mark(client);
        answer
    }

    pub(super) fn q2_out(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        packet_id: PacketId,
    ) -> Answer {
        let found = match self.owned_state(client, epoch) {
            Ok(state) => state.q2.end(packet_id),
            Err(answer) => return answer,
        };
        self.mark(client);
        Answer::Q2Out { found }
    }

    pub(super) fn rec(&mut self, client: &ClientId, epoch: Epoch, seq: Seq) -> Answer {
        let found = match self.owned_state(client, epoch) {
            Ok(state) => state.queue.release(seq),
            Err(answer) => return answer,
        };
        self.mark(client);
        Answer::Rec { found }
    }

    pub(super) fn ack(&mut self, batch: &[Acks]) -> Answer {
        for acks in batch {
            let mut left = std::mem::take(&mut self.left);
            let Ok(state) = self.owned_state(&acks.client, acks.epoch) else {
                self.left = left;
                continue;
            };
            let before = (state.queue.len(), state.queue.bytes());
            for seq in &acks.seqs {
                state.queue.ack(*seq, &mut left);
            }
            let after = (state.queue.len(), state.queue.bytes());
            self.account(before, after);
            self.let_go(left);
            self.touch(&acks.client);
        }
        Answer::Done
    }

    pub(super) fn expire_messages(&mut self, client: &ClientId, incarnation: Epoch) -> Answer {
        let time = self.time;
        let session = self.sessions.get_mut(client);
        let session = session.filter(|s| s.incarnation == incarnation);
        let Some(state) = session.and_then(|s| s.state.as_mut()) else {
            return Answer::Done;
        };
        let before = (state.queue.len(), state.queue.bytes());
        let mut left = Vec::new();
        self.counters.dropped_expired += state.queue.expire(time, &mut left) as u64;
        let after = (state.queue.len(), state.queue.bytes());
        self.account(before, after);
        self.let_go(left);
        self.touch(client);
        Answer::Done
    }

    /// The next delivery of any session, session after session, then of any group, or what has to be read for it.
    pub(super) fn next_delivery(&mut self) -> Option<DurableEffect> {
        if let Some(message) = self.loads.poll() {
            return Some(DurableEffect::Load { message });
        }
        loop {
            while let Some(client) = self.ready.front().cloned() {
                match self.deliver_next(&client) {
                    Next::Delivery(delivery) => return Some(DurableEffect::Deliver(delivery)),
                    Next::Waits(first) => {
                        self.leave_ready(&client);
                        self.loads.wait(first, Waiter::Session(client));
                        if let Some(message) = self.loads.poll() {
                            return Some(DurableEffect::Load { message });
                        }
                    }
                    Next::Full => {
                        self.leave_ready(&client);
                        self.make_ready(&client);
                    }
                    Next::Nothing => self.leave_ready(&client),
                }
            }
            while let Some(filter) = self.groups.ready.front().cloned() {
                match self.deliver_shared(&filter) {
                    NextShared::Delivery(one) => return Some(DurableEffect::DeliverShared(one)),
                    NextShared::Waits(first) => {
                        self.leave_ready_group(&filter);
                        self.loads.wait(first, Waiter::Group(filter));
                        if let Some(message) = self.loads.poll() {
                            return Some(DurableEffect::Load { message });
                        }
                    }
                    NextShared::Nothing => self.leave_ready_group(&filter),
                }
            }
            // Ends: who finds no room parks again, and then none is unparked.
            let Some(waiter) = self.loads.unpark() else {
                break;
            };
            self.go_on(&waiter);
        }
        self.payloads.evict();
        None
    }

    fn deliver_next(&mut self, client: &ClientId) -> Next {
        let Some(session) = self.sessions.get_mut(client) else {
            return Next::Nothing;
        };
        let connected = session.is_connected();
        let Some(state) = session.state.as_mut().filter(|_| connected) else {
            return Next::Nothing;
        };
        let Some(entry) = state.queue.deliverable().next() else {
            return Next::Nothing;
        };
        if self.full.is_full(session.node_epoch) {
            return Next::Full;
        }
        let message = self.payloads.deliver(entry.message);
        if message.is_none() && !entry.released {
            let first = entry.message;
            for entry in state.queue.deliverable().take(LOADS_AHEAD) {
                let is_away = !entry.released && self.payloads.get(entry.message).is_none();
                let bytes = entry.bytes as usize;
                if is_away && !self.loads.ask(entry.message, bytes) {
                    break;
                }
            }
            return Next::Waits(first);
        }
        let (seq, dup_end) = (entry.seq, session.dup_end);
        let step = step(entry, message, dup_end);
        state.queue.handle_delivered(seq);
        Next::Delivery(Delivery {
            client: client.clone(),
            epoch: session.epoch,
            node_epoch: session.node_epoch,
            connection: session.connection,
            seq,
            step,
        })
    }

    fn leave_ready(&mut self, client: &ClientId) {
        self.ready.pop_front();
        if let Some(session) = self.sessions.get_mut(client) {
            session.is_ready = false;
        }
    }

    /// A message that [`DurableEffect::Load`] asked for: the deliveries that waited go on. The
    /// host answers each `Load` once, by this or by [`Self::handle_not_found`], in any order, also
    /// after the lead is lost: then nobody waits.
    pub fn handle_loaded(&mut self, id: MessageId, message: Arc<Message>) {
        if self.leads {
            self.payloads.loaded(id, message);
        }
        for waiter in self.loads.answered(id).into_iter().flatten() {
            self.go_on(&waiter);
        }
    }

    /// A message that [`DurableEffect::Load`] asked for is in no row: it was acknowledged or
    /// dropped meanwhile, and nobody waits for it any longer.
    ///
    /// # Panics
    /// If it is still queued: then a row was lost.
    pub fn handle_not_found(&mut self, id: MessageId) {
        let waiting = self.loads.answered(id);
        let is_lost = waiting.is_some() && self.payloads.is_away(id);
        assert!(!is_lost, "message {id} is queued and its row is gone");
        for waiter in waiting.into_iter().flatten() {
            self.go_on(&waiter);
        }
    }

    fn go_on(&mut self, waiter: &Waiter) {
        match waiter {
            Waiter::Session(client) => self.make_ready(client),
            Waiter::Group(filter) => self.make_group_ready(filter),
        }
    }

    /// Lets go of messages that queue entries had named; keeps the room of the list.
    pub(super) fn let_go(&mut self, mut left: Vec<MessageId>) {
        for id in left.drain(..) {
            self.payloads.release(id);
        }
        if left.capacity() <= LEFT_ROOM {
            self.left = left;
        }
    }

    /// Moves the totals of what queues hold by the change of one queue (messages, bytes).
    pub(super) fn account(&mut self, before: (usize, usize), after: (usize, usize)) {
        let counters = &mut self.counters;
        counters.queue_messages = counters.queue_messages + after.0 as u64 - before.0 as u64;
        counters.queue_bytes = counters.queue_bytes + after.1 as u64 - before.1 as u64;
    }
}

/// What a session has to deliver.
enum Next {
    Delivery(Delivery),
    /// This message has to be read first.
    Waits(MessageId),
    /// Its node is full since it was put among those with deliveries.
    Full,
    Nothing,
}

fn step(entry: &Entry, message: Option<&Arc<Message>>, dup_end: u64) -> DeliveryStep {
    let Some(message) = message.filter(|_| !entry.released) else {
        return DeliveryStep::Release;
    };
    DeliveryStep::Publish {
        message: Arc::clone(message),
        qos: entry.qos,
        retain: entry.retain,
        subscription_ids: entry.ids.to_subscription_ids(),
        dup: entry.seq.0 < dup_end,
    }
}

fn enqueued((taken, dropped): (u32, u32), repeat: bool) -> Answer {
    Answer::Enqueued {
        taken,
        dropped,
        repeat,
    }
}
