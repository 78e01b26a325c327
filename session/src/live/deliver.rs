//! Messages to the client, and what it acknowledges.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::{PacketId, QoS, ReasonCode, SubscriptionIds};

use super::effect::{Ack, AckKind, Effect, Outgoing};
use super::requests::Request;
use super::{Dropped, Live};
use crate::{Command, Delivery, DeliveryStep, Match, Message, Now, Seq};

/// Packet ids: those of a persistent session follow from the sequence that its shard gave, those
/// of a clean session lie above them.
const PERSISTENT_IDS: (u64, u64) = (1, 32_767);
const LOCAL_IDS: (u64, u64) = (32_768, 32_768);

/// What is on its way to the client.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Sent and not acknowledged, by sequence.
    inflight: VecDeque<(u64, Stage)>,
    /// Of these, the PUBLISH packets sent on this connection.
    window_used: usize,
    /// QoS > 0 that waits for the window or the socket.
    waiting: VecDeque<Waiting>,
    /// QoS 0 that waits for the socket.
    waiting_0: VecDeque<Waiting>,
    /// Waits for retained messages.
    held: VecDeque<Waiting>,
    /// Messages and bytes that count against the queue limits: all but those of a shard.
    counted: usize,
    counted_bytes: usize,
    /// Sequence of a clean session's next message.
    next_local: u64,
    dropped: Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// QoS 1: PUBACK is awaited.
    Sent1,
    /// QoS 2: PUBREC is awaited.
    Sent2,
    /// PUBREC is being recorded.
    Recording,
    /// PUBREL is sent.
    Released,
}

/// A message that is to be sent.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) ids: SubscriptionIds,
    /// Sequence in the shard's queue.
    pub(super) seq: Option<Seq>,
}

#[derive(Clone, Copy)]
enum Place {
    Waiting0,
    Waiting,
    Held,
}

impl Outbound {
    pub(super) fn dropped(&self) -> Dropped {
        self.dropped
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.counted_bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.inflight.is_empty() && self.counted == 0 && self.waiting.is_empty()
    }

    fn queue_of(&mut self, waiting: &Waiting) -> &mut VecDeque<Waiting> {
        if waiting.qos == QoS::AtMostOnce {
            &mut self.waiting_0
        } else {
            &mut self.waiting
        }
    }

    fn count(&mut self, waiting: &Waiting) {
        if waiting.seq.is_none() {
            self.counted += 1;
            self.counted_bytes += waiting.message.bytes();
        }
    }

    fn uncount(&mut self, waiting: &Waiting) {
        if waiting.seq.is_none() {
            self.counted -= 1;
            self.counted_bytes -= waiting.message.bytes();
        }
    }

    /// Drops until the message fits: QoS 0 first, then QoS 1, then QoS 2, oldest first; false
    /// if the new one is to be dropped itself.
    fn make_room(&mut self, waiting: &Waiting, messages: usize, bytes: usize) -> bool {
        let needs = waiting.message.bytes();
        while self.counted + 1 > messages || self.counted_bytes + needs > bytes {
            self.dropped.full += 1;
            if needs > bytes || !self.drop_oldest(waiting.qos) {
                return false;
            }
        }
        true
    }

    fn drop_oldest(&mut self, new: QoS) -> bool {
        let ranks = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        let ranks = if new == QoS::AtMostOnce {
            &ranks[..1]
        } else {
            &ranks[..]
        };
        for &qos in ranks {
            for at in [Place::Waiting0, Place::Waiting, Place::Held] {
                if self.drop_from(at, qos) {
                    return true;
                }
            }
        }
        false
    }

    fn drop_from(&mut self, place: Place, qos: QoS) -> bool {
        let queue = match place {
            Place::Waiting0 => &mut self.waiting_0,
            Place::Waiting => &mut self.waiting,
            Place::Held => &mut self.held,
        };
        let found = queue.iter().position(|w| w.qos == qos && w.seq.is_none());
        let Some(dropped) = found.and_then(|at| queue.remove(at)) else {
            return false;
        };
        self.uncount(&dropped);
        true
    }

    fn position(&self, packet_id: PacketId, ids: (u64, u64)) -> Option<usize> {
        let (first_id, span) = ids;
        let oldest = self.inflight.front()?.0;
        let index = u64::from(packet_id.get()).checked_sub(first_id)?;
        // Ids of the other range would meet those of this one.
        if index >= span {
            return None;
        }
        let seq = oldest + (index + span - oldest % span) % span;
        self.inflight
            .binary_search_by_key(&seq, |(seq, _)| *seq)
            .ok()
    }

    fn insert(&mut self, seq: u64, stage: Stage) {
        // A release may overtake messages that wait for the window.
        let at = self.inflight.partition_point(|(other, _)| *other < seq);
        if self.inflight.get(at).is_none_or(|(other, _)| *other != seq) {
            self.inflight.insert(at, (seq, stage));
        }
    }
}

impl Live {
    pub(super) fn delivery(&mut self, delivery: Delivery, now: Now) {
        let seq = delivery.seq;
        match delivery.step {
            DeliveryStep::Publish {
                message,
                qos,
                retain,
                subscription_ids,
                dup,
            } => {
                let waiting = Waiting {
                    message,
                    qos,
                    retain,
                    dup,
                    ids: subscription_ids,
                    seq: Some(seq),
                };
                let outbound = self.outbound.get_or_insert_default();
                outbound.waiting.push_back(waiting);
                self.send_waiting(now);
            }
            DeliveryStep::Release => {
                let outbound = self.outbound.get_or_insert_default();
                outbound.insert(seq.0, Stage::Released);
                if self.phase == super::Phase::Open {
                    self.send_ack(AckKind::PubRel, packet_id(seq.0, PERSISTENT_IDS));
                }
            }
        }
    }

    /// Sends what came before CONNACK `[MQTT-3.2.0-1]`.
    pub(super) fn begin_delivery(&mut self, now: Now) {
        let Some(outbound) = &self.outbound else {
            return;
        };
        let early: Vec<u64> = outbound.inflight.iter().map(|(seq, _)| *seq).collect();
        for seq in early {
            self.send_ack(AckKind::PubRel, packet_id(seq, PERSISTENT_IDS));
        }
        self.send_waiting(now);
    }

    pub(super) fn message(&mut self, message: Arc<Message>, matched: Match, now: Now) {
        let waiting = Waiting {
            qos: matched.qos(message.qos),
            retain: matched.retain(message.retain),
            dup: false,
            ids: matched.into_ids(),
            seq: None,
            message,
        };
        if self.is_persistent && waiting.qos != QoS::AtMostOnce {
            // It comes from the queue.
            return;
        }
        let is_held = self.is_held(&waiting.message);
        self.offer(waiting, is_held, now);
    }

    /// Sends, holds or queues a message that no shard queues.
    pub(super) fn offer(&mut self, waiting: Waiting, is_held: bool, now: Now) {
        let config = Arc::clone(&self.config);
        let outbound = self.outbound.get_or_insert_default();
        if !outbound.make_room(&waiting, config.queue_messages, config.queue_bytes) {
            return;
        }
        outbound.count(&waiting);
        if is_held {
            return outbound.held.push_back(waiting);
        }
        outbound.queue_of(&waiting).push_back(waiting);
        self.send_waiting(now);
    }

    /// Lets go what no awaited replay holds any longer.
    pub(super) fn release_held(&mut self, now: Now) {
        let Some(outbound) = &mut self.outbound else {
            return;
        };
        let held = std::mem::take(&mut outbound.held);
        for waiting in held {
            let is_held = self.is_held(&waiting.message);
            let Some(outbound) = &mut self.outbound else {
                return;
            };
            if is_held {
                outbound.held.push_back(waiting);
            } else {
                outbound.queue_of(&waiting).push_back(waiting);
            }
        }
        self.send_waiting(now);
    }

    /// Sends what the socket and the client's window take `[MQTT-3.3.4-9]`; a full window
    /// stalls QoS > 0 only `[MQTT-4.9.0-2]`, `[MQTT-4.9.0-3]`.
    pub(super) fn send_waiting(&mut self, now: Now) {
        while let Some(waiting) = self.next_sendable() {
            if (waiting.message.is_expired(now.wall) && !waiting.dup)
                || self.is_too_large(&waiting, now)
            {
                self.drop_unsent(&waiting, now);
                continue;
            }
            self.send_message(waiting, now);
        }
    }

    pub(super) fn handle_puback(&mut self, ack: &mqtt::Ack, now: Now) {
        match self.inflight(ack.packet_id) {
            Some((at, seq, Stage::Sent1)) => self.finish(at, seq, now),
            Some(_) => self.close_server(ReasonCode::ProtocolError),
            None => {}
        }
    }

    pub(super) fn handle_pubrec(&mut self, ack: &mqtt::Ack, now: Now) {
        match self.inflight(ack.packet_id) {
            // [MQTT-4.4.0-2]: the message is done with.
            Some((at, seq, Stage::Sent2)) if ack.reason.is_error() => self.finish(at, seq, now),
            Some((at, seq, Stage::Sent2)) => self.received(at, seq, ack.packet_id, now),
            Some((.., Stage::Released)) => self.send_ack(AckKind::PubRel, ack.packet_id),
            Some((.., Stage::Recording)) => {}
            Some((.., Stage::Sent1)) => self.close_server(ReasonCode::ProtocolError),
            None => self.effects.push_back(Effect::Ack(Ack {
                kind: AckKind::PubRel,
                packet_id: ack.packet_id,
                reason: ReasonCode::PacketIdentifierNotFound,
            })),
        }
    }

    pub(super) fn handle_pubcomp(&mut self, ack: &mqtt::Ack, now: Now) {
        match self.inflight(ack.packet_id) {
            Some((at, seq, Stage::Released)) => self.finish(at, seq, now),
            Some(_) => self.close_server(ReasonCode::ProtocolError),
            None => {}
        }
    }

    /// PUBREC is recorded: PUBREL may leave.
    pub(super) fn recorded(&mut self, seq: Seq) {
        let packet_id = packet_id(seq.0, PERSISTENT_IDS);
        let Some((at, ..)) = self.inflight(packet_id) else {
            return;
        };
        if let Some(outbound) = &mut self.outbound {
            outbound.inflight[at].1 = Stage::Released;
        }
        self.send_ack(AckKind::PubRel, packet_id);
    }

    fn received(&mut self, at: usize, seq: u64, packet_id: PacketId, now: Now) {
        let is_persistent = self.is_persistent;
        let Some(outbound) = &mut self.outbound else {
            return;
        };
        if !is_persistent {
            outbound.inflight[at].1 = Stage::Released;
            return self.send_ack(AckKind::PubRel, packet_id);
        }
        outbound.inflight[at].1 = Stage::Recording;
        let command = Command::Rec {
            client: self.own_client(),
            epoch: self.epoch,
            seq: Seq(seq),
        };
        self.propose(Request::Rec(Seq(seq)), command, now);
    }

    fn finish(&mut self, at: usize, seq: u64, now: Now) {
        if let Some(outbound) = &mut self.outbound {
            outbound.inflight.remove(at);
            outbound.window_used = outbound.window_used.saturating_sub(1);
        }
        if self.is_persistent {
            self.effects.push_back(Effect::Acked(Seq(seq)));
        }
        self.send_waiting(now);
    }

    fn inflight(&self, packet_id: PacketId) -> Option<(usize, u64, Stage)> {
        let outbound = self.outbound.as_ref()?;
        let at = outbound.position(packet_id, self.ids())?;
        let (seq, stage) = outbound.inflight[at];
        Some((at, seq, stage))
    }

    fn next_sendable(&mut self) -> Option<Waiting> {
        let window = usize::from(self.receive_maximum);
        let is_open = self.phase == super::Phase::Open && !self.is_blocked;
        let outbound = self.outbound.as_mut().filter(|_| is_open)?;
        if let Some(waiting) = outbound.waiting_0.pop_front() {
            outbound.uncount(&waiting);
            return Some(waiting);
        }
        let oldest = outbound.inflight.front().map(|(seq, _)| *seq);
        let ids_left = oldest
            .is_none_or(|seq| outbound.next_local - seq.min(outbound.next_local) < LOCAL_IDS.1);
        if outbound.window_used >= window || !ids_left {
            return None;
        }
        let waiting = outbound.waiting.pop_front()?;
        outbound.uncount(&waiting);
        Some(waiting)
    }

    fn send_message(&mut self, waiting: Waiting, now: Now) {
        let ids = self.ids();
        let outbound = self.outbound.get_or_insert_default();
        let mut id = None;
        if waiting.qos != QoS::AtMostOnce {
            let seq = waiting.seq.map_or(outbound.next_local, |seq| seq.0);
            if waiting.seq.is_none() {
                outbound.next_local += 1;
            }
            let stage = match waiting.qos {
                QoS::ExactlyOnce => Stage::Sent2,
                _ => Stage::Sent1,
            };
            outbound.insert(seq, stage);
            outbound.window_used += 1;
            id = Some(packet_id(seq, ids));
        }
        let outgoing = outgoing(waiting, id, now);
        self.effects.push_back(Effect::Deliver(outgoing));
    }

    /// A message that is never sent counts as completed `[MQTT-3.1.2-25]`.
    fn drop_unsent(&mut self, waiting: &Waiting, now: Now) {
        let dropped = &mut self.outbound.get_or_insert_default().dropped;
        if waiting.message.is_expired(now.wall) && !waiting.dup {
            dropped.expired += 1;
        } else {
            dropped.too_large += 1;
        }
        if let Some(seq) = waiting.seq {
            self.effects.push_back(Effect::Acked(seq));
        }
    }

    fn is_too_large(&self, waiting: &Waiting, now: Now) -> bool {
        if self.packet_bytes_max == u32::MAX {
            return false;
        }
        let publish = mqtt::PublishRef {
            dup: false,
            qos: waiting.qos,
            retain: waiting.retain,
            topic: &waiting.message.topic,
            packet_id: (waiting.qos != QoS::AtMostOnce).then_some(PacketId::MIN),
            payload: &waiting.message.payload,
            topic_alias: None,
            subscription_ids: &waiting.ids,
            properties: waiting.message.properties.as_deref(),
            message_expiry_s: waiting.message.expiry_left_s(now.wall),
        };
        let bytes = mqtt::encoded_publish_len(&publish, self.version);
        bytes > self.packet_bytes_max as usize
    }

    fn is_held(&self, message: &Message) -> bool {
        let replays = self.requests.as_ref().map(|r| &r.replays);
        replays.is_some_and(|replays| replays.iter().any(|f| f.matches(&message.topic)))
    }

    fn ids(&self) -> (u64, u64) {
        if self.is_persistent {
            PERSISTENT_IDS
        } else {
            LOCAL_IDS
        }
    }
}

fn packet_id(seq: u64, (first_id, span): (u64, u64)) -> PacketId {
    let id = u16::try_from(first_id + seq % span).expect("both id ranges end below 65536");
    PacketId::new(id).expect("both id ranges begin above 0")
}

fn outgoing(waiting: Waiting, packet_id: Option<PacketId>, now: Now) -> Outgoing {
    Outgoing {
        expiry_s: waiting.message.expiry_left_s(now.wall),
        message: waiting.message,
        packet_id,
        qos: waiting.qos,
        retain: waiting.retain,
        //# [MQTT-3.3.1-2] The DUP flag MUST be set to 0 for all QoS 0 messages
        dup: waiting.dup && packet_id.is_some(),
        subscription_ids: waiting.ids,
    }
}
