//! Messages to the client, and what it acknowledges.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::{Filter, PacketId, QoS, ReasonCode, SubscriptionIds};

use super::effect::{Ack, AckKind, Effect, Outgoing};
use super::requests::Request;
use super::shared_seqs::Had;
use super::{Dropped, Live};
use crate::{Command, Delivery, DeliveryStep, GroupDelivery, GroupSeq, Match, Message, Now, Seq};

/// Packet ids: those of a persistent session follow from the sequence that its shard gave, those
/// of a clean session and of groups lie above them.
const PERSISTENT_IDS: (u64, u64) = (1, 32_767);
const LOCAL_IDS: (u64, u64) = (32_768, 32_768);

/// What is on its way to the client.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Sent and not acknowledged, by sequence.
    inflight: VecDeque<(u64, Stage)>,
    /// Messages of groups that are sent and not acknowledged, by sequences of this connection.
    shared: VecDeque<(u64, Box<GroupSeq>)>,
    /// Of both, the PUBLISH packets sent on this connection.
    window_used: usize,
    /// QoS > 0 that waits for the window or the socket.
    waiting: VecDeque<Waiting>,
    /// QoS 0 that waits for the socket.
    waiting_0: VecDeque<Waiting>,
    /// Waits for retained messages.
    held: VecDeque<Waiting>,
    /// Messages and bytes that count against the queue limits: all but those of shards, which
    /// bound what they hand out.
    counted: usize,
    counted_bytes: usize,
    /// Sequence of the next message that no shard gave one for this session.
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
    pub(super) source: Source,
}

/// Who queues a message, and is told that it is done with.
#[derive(Debug)]
pub(super) enum Source {
    /// This connection.
    Connection,
    /// The session's shard.
    Session(Seq),
    /// The home shard of a group.
    Group(Box<GroupSeq>),
}

impl Waiting {
    /// Whether it counts against the limits of the connection.
    fn is_counted(&self) -> bool {
        matches!(self.source, Source::Connection)
    }
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

    /// Messages that are sent and not acknowledged, and those that wait here.
    pub(super) fn lens(&self) -> (usize, usize) {
        let waiting = self.waiting.len() + self.waiting_0.len() + self.held.len();
        (self.inflight.len() + self.shared.len(), waiting)
    }

    pub(super) fn is_idle(&self) -> bool {
        let waiting = [&self.waiting, &self.waiting_0];
        self.inflight.is_empty()
            && self.shared.is_empty()
            && self.counted == 0
            && waiting.iter().all(|queue| queue.is_empty())
    }

    /// Whether a message of the session waits or is unacknowledged.
    fn is_open(&self, seq: Seq) -> bool {
        let is_it = |waiting: &Waiting| matches!(waiting.source, Source::Session(it) if it == seq);
        let inflight = |(at, _): &(u64, Stage)| at.cmp(&seq.0);
        self.inflight.binary_search_by(inflight).is_ok() || self.waiting.iter().any(is_it)
    }

    fn queue_of(&mut self, waiting: &Waiting) -> &mut VecDeque<Waiting> {
        if waiting.qos == QoS::AtMostOnce {
            &mut self.waiting_0
        } else {
            &mut self.waiting
        }
    }

    fn count(&mut self, waiting: &Waiting) {
        if waiting.is_counted() {
            self.counted += 1;
            self.counted_bytes += waiting.message.bytes();
        }
    }

    fn uncount(&mut self, waiting: &Waiting) {
        if waiting.is_counted() {
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
        let found = queue.iter().position(|w| w.qos == qos && w.is_counted());
        let Some(dropped) = found.and_then(|at| queue.remove(at)) else {
            return false;
        };
        self.uncount(&dropped);
        true
    }

    fn position(&self, packet_id: PacketId, ids: (u64, u64)) -> Option<usize> {
        let seq = seq_of(packet_id, ids, self.inflight.front()?.0)?;
        self.inflight
            .binary_search_by_key(&seq, |(seq, _)| *seq)
            .ok()
    }

    fn shared_position(&self, packet_id: PacketId) -> Option<usize> {
        let seq = seq_of(packet_id, LOCAL_IDS, self.shared.front()?.0)?;
        self.shared.binary_search_by_key(&seq, |(seq, _)| *seq).ok()
    }

    /// Whether another id above those of persistent sessions is free.
    fn has_local_id(&self, is_persistent: bool) -> bool {
        let own = self.inflight.front().filter(|_| !is_persistent);
        let own = own.map(|(seq, _)| *seq);
        let shared = self.shared.front().map(|(seq, _)| *seq);
        let oldest = own.into_iter().chain(shared).min();
        oldest.is_none_or(|seq| self.next_local - seq.min(self.next_local) < LOCAL_IDS.1)
    }

    fn take_local_seq(&mut self) -> u64 {
        let seq = self.next_local;
        self.next_local += 1;
        seq
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
        if seq.0 < self.delivered_end {
            return self.delivered_again(seq);
        }
        self.delivered_end = seq.0.saturating_add(1);
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
                    source: Source::Session(seq),
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

    /// Another leader hands out what this connection has had: that is no reconnect, with which
    /// alone something is sent again `[MQTT-4.4.0-1]`.
    fn delivered_again(&mut self, seq: Seq) {
        let outbound = self.outbound.as_ref();
        if !outbound.is_some_and(|outbound| outbound.is_open(seq)) {
            // The leader does not know that it is acknowledged: it is told again.
            self.effects.push_back(Effect::Acked(seq));
        }
    }

    pub(super) fn shared(&mut self, delivery: GroupDelivery, now: Now) {
        let group_seq = &delivery.group_seq;
        match self.shared_seqs.get_or_insert_default().take(group_seq) {
            Had::Not => {}
            Had::Open => return,
            Had::Done => {
                let acked = Box::new(delivery.group_seq);
                return self.effects.push_back(Effect::SharedAcked(acked));
            }
        }
        let waiting = Waiting {
            message: delivery.message,
            qos: delivery.qos,
            retain: delivery.retain,
            dup: delivery.dup,
            ids: delivery.subscription_ids,
            source: Source::Group(Box::new(delivery.group_seq)),
        };
        let outbound = self.outbound.get_or_insert_default();
        outbound.queue_of(&waiting).push_back(waiting);
        self.send_waiting(now);
    }

    /// Forgets what was not sent of groups that the client leaves: other members get it.
    pub(super) fn leave_groups(&mut self, filters: &[Filter]) {
        let Some(outbound) = &mut self.outbound else {
            return;
        };
        let seqs = self.shared_seqs.get_or_insert_default();
        let mut stays = |waiting: &Waiting| match &waiting.source {
            Source::Group(of) if filters.contains(&of.filter) => {
                seqs.forget(of);
                false
            }
            _ => true,
        };
        outbound.waiting.retain(&mut stays);
        outbound.waiting_0.retain(&mut stays);
        seqs.leave(filters);
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
            source: Source::Connection,
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
                self.drop_unsent(waiting, now);
                continue;
            }
            self.send_message(waiting, now);
        }
    }

    pub(super) fn handle_puback(&mut self, ack: &mqtt::Ack, now: Now) {
        if let Some(at) = self.shared_at(ack.packet_id) {
            // [MQTT-4.8.2-6]: also by a code of refusal it is done with, for all members.
            return self.finish_shared(at, now);
        }
        match self.inflight(ack.packet_id) {
            Some((at, seq, Stage::Sent1)) => self.finish(at, seq, now),
            Some(_) => self.close_server(ReasonCode::ProtocolError),
            None => {}
        }
    }

    pub(super) fn handle_pubrec(&mut self, ack: &mqtt::Ack, now: Now) {
        if self.shared_at(ack.packet_id).is_some() {
            return self.close_server(ReasonCode::ProtocolError);
        }
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
        if self.shared_at(ack.packet_id).is_some() {
            return self.close_server(ReasonCode::ProtocolError);
        }
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

    fn finish_shared(&mut self, at: usize, now: Now) {
        let Some(outbound) = &mut self.outbound else {
            return;
        };
        let acked = outbound.shared.remove(at);
        outbound.window_used = outbound.window_used.saturating_sub(1);
        if let Some((_, group_seq)) = acked {
            self.done_with(Source::Group(group_seq));
        }
        self.send_waiting(now);
    }

    fn shared_at(&self, packet_id: PacketId) -> Option<usize> {
        self.outbound.as_ref()?.shared_position(packet_id)
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
        if outbound.window_used >= window || !outbound.has_local_id(self.is_persistent) {
            return None;
        }
        let waiting = outbound.waiting.pop_front()?;
        outbound.uncount(&waiting);
        Some(waiting)
    }

    fn send_message(&mut self, mut waiting: Waiting, now: Now) {
        let outbound = self.outbound.get_or_insert_default();
        let Waiting { qos, source, .. } = &mut waiting;
        let source = std::mem::replace(source, Source::Connection);
        if *qos == QoS::AtMostOnce {
            let outgoing = outgoing(waiting, None, now);
            self.effects.push_back(Effect::Deliver(outgoing));
            return self.done_with(source);
        }
        let stage = match qos {
            QoS::ExactlyOnce => Stage::Sent2,
            _ => Stage::Sent1,
        };
        outbound.window_used += 1;
        let id = match source {
            Source::Session(Seq(seq)) => {
                outbound.insert(seq, stage);
                packet_id(seq, PERSISTENT_IDS)
            }
            Source::Connection => {
                let seq = outbound.take_local_seq();
                outbound.insert(seq, stage);
                packet_id(seq, LOCAL_IDS)
            }
            Source::Group(group_seq) => {
                let seq = outbound.take_local_seq();
                outbound.shared.push_back((seq, group_seq));
                packet_id(seq, LOCAL_IDS)
            }
        };
        let outgoing = outgoing(waiting, Some(id), now);
        self.effects.push_back(Effect::Deliver(outgoing));
    }

    /// Tells whoever queues a message that it needs no acknowledgement.
    fn done_with(&mut self, source: Source) {
        match source {
            Source::Connection => {}
            Source::Session(seq) => self.effects.push_back(Effect::Acked(seq)),
            Source::Group(group_seq) => {
                if let Some(seqs) = &mut self.shared_seqs {
                    seqs.done(&group_seq);
                }
                self.effects.push_back(Effect::SharedAcked(group_seq));
            }
        }
    }

    /// A message that is never sent counts as completed `[MQTT-3.1.2-25]`.
    fn drop_unsent(&mut self, waiting: Waiting, now: Now) {
        let dropped = &mut self.outbound.get_or_insert_default().dropped;
        if waiting.message.is_expired(now.wall) && !waiting.dup {
            dropped.expired += 1;
        } else {
            dropped.too_large += 1;
        }
        self.done_with(waiting.source);
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

/// The sequence behind a packet id, if the oldest one in flight is this; of ids of the other range
/// none, for they would meet those of this one.
fn seq_of(packet_id: PacketId, (first_id, span): (u64, u64), oldest: u64) -> Option<u64> {
    let index = u64::from(packet_id.get()).checked_sub(first_id)?;
    (index < span).then(|| oldest + (index + span - oldest % span) % span)
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
