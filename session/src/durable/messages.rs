//! Messages of persistent sessions: in, out, acknowledged.

use mqtt::{ClientId, PacketId, QoS, ReasonCode};

use super::queue::Entry;
use super::{Delivery, DeliveryStep, Durable};
use crate::{Acks, Answer, Enqueue, Epoch, Seq};

impl Durable {
    /// Queues a message for every session that matches it with QoS > 0 `[MQTT-4.5.0-1]`.
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
        for (client, matched) in matches {
            let qos = matched.qos(message.qos);
            if qos == QoS::AtMostOnce {
                continue;
            }
            let session = self.sessions.get_mut(&client);
            let Some(state) = session.and_then(|s| s.state.as_mut()) else {
                continue;
            };
            let entry = Entry {
                seq: Seq(0),
                message: message.clone(),
                qos,
                retain: matched.retain(message.retain),
                ids: matched.into_ids(),
                released: false,
            };
            let before = (state.queue.len(), state.queue.bytes());
            let hold = state.is_held(&message.topic);
            let pushed = state.queue.push(entry, hold, &self.limits);
            let after = (state.queue.len(), state.queue.bytes());
            answer.0 += u32::from(pushed.taken);
            answer.1 += pushed.dropped;
            self.account(before, after);
            self.touch(&client);
        }
        self.counters.queued += u64::from(answer.0);
        self.counters.dropped_full += u64::from(answer.1);
        enqueued(answer, false)
    }

    pub(super) fn q2_in(&mut self, client: &ClientId, epoch: Epoch, packet_id: PacketId) -> Answer {
        let limits = self.limits;
        match self.owned_state(client, epoch) {
            Ok(state) => match state.q2.begin(packet_id, &limits) {
                Some((n, floor)) => Answer::Q2In { n, floor },
                None => Answer::Refused(ReasonCode::ReceiveMaximumExceeded),
            },
            Err(answer) => answer,
        }
    }

    pub(super) fn q2_out(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        packet_id: PacketId,
    ) -> Answer {
        match self.owned_state(client, epoch) {
            Ok(state) => Answer::Q2Out {
                found: state.q2.end(packet_id),
            },
            Err(answer) => answer,
        }
    }

    pub(super) fn rec(&mut self, client: &ClientId, epoch: Epoch, seq: Seq) -> Answer {
        match self.owned_state(client, epoch) {
            Ok(state) => Answer::Rec {
                found: state.queue.release(seq),
            },
            Err(answer) => answer,
        }
    }

    pub(super) fn ack(&mut self, batch: &[Acks]) -> Answer {
        for acks in batch {
            let Ok(state) = self.owned_state(&acks.client, acks.epoch) else {
                continue;
            };
            let before = (state.queue.len(), state.queue.bytes());
            for seq in &acks.seqs {
                state.queue.ack(*seq);
            }
            let after = (state.queue.len(), state.queue.bytes());
            self.account(before, after);
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
        self.counters.dropped_expired += state.queue.expire(time) as u64;
        let after = (state.queue.len(), state.queue.bytes());
        self.account(before, after);
        self.touch(client);
        Answer::Done
    }

    /// The next delivery of any session, session after session.
    pub(super) fn next_delivery(&mut self) -> Option<Delivery> {
        while let Some(client) = self.ready.front() {
            if let Some(session) = self.sessions.get_mut(client) {
                let (epoch, dup_end) = (session.epoch, session.dup_end);
                let connected = session.is_connected();
                let state = session.state.as_mut().filter(|_| connected);
                if let Some(entry) = state.and_then(|s| s.queue.next_delivery()) {
                    return Some(Delivery {
                        client: client.clone(),
                        epoch,
                        node_epoch: session.node_epoch,
                        connection: session.connection,
                        seq: entry.seq,
                        step: step(entry, dup_end),
                    });
                }
                session.is_ready = false;
            }
            self.ready.pop_front();
        }
        None
    }

    /// Moves the totals of what queues hold by the change of one queue (messages, bytes).
    pub(super) fn account(&mut self, before: (usize, usize), after: (usize, usize)) {
        let counters = &mut self.counters;
        counters.queue_messages = counters.queue_messages + after.0 as u64 - before.0 as u64;
        counters.queue_bytes = counters.queue_bytes + after.1 as u64 - before.1 as u64;
    }
}

fn step(entry: &Entry, dup_end: u64) -> DeliveryStep {
    if entry.released {
        return DeliveryStep::Release;
    }
    DeliveryStep::Publish {
        message: entry.message.clone(),
        qos: entry.qos,
        retain: entry.retain,
        subscription_ids: entry.ids.clone(),
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
