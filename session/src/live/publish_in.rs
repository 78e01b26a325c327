//! PUBLISH from the client, and what it is owed.

use std::collections::VecDeque;

use mqtt::{PacketId, Publish, QoS, ReasonCode, Topic, Version};

use super::effect::{Ack, AckKind, Effect, Inbound};
use super::requests::Request;
use super::{Live, position_of};
use crate::{Answer, Command, MonoMs, Now, Origin, OriginKind, Token};

/// QoS 2 messages of one connection that wait for PUBREL; what a shard keeps of a persistent
/// session ([`crate::Limits::q2_open`]).
const UNRELEASED_MAX: usize = 1_024;

/// What the client is owed for its PUBLISH packets with QoS > 0.
#[derive(Debug, Default)]
pub(super) struct PublishIn {
    /// PUBACKs in order of arrival.
    acks: VecDeque<Owed>,
    /// PUBRECs in order of arrival.
    recs: VecDeque<Owed>,
    /// QoS 2 exchanges that this connection knows.
    q2: Vec<(PacketId, Stage)>,
    /// QoS 2 messages that wait for their number.
    unnumbered: VecDeque<(Token, u64, Publish)>,
}

impl PublishIn {
    pub(super) fn is_idle(&self) -> bool {
        self.acks.is_empty()
            && self.recs.is_empty()
            && self.q2.is_empty()
            && self.unnumbered.is_empty()
    }
}

#[derive(Debug)]
struct Owed {
    token: Token,
    packet_id: PacketId,
    since: MonoMs,
    outcome: Option<ReasonCode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// PUBREC is owed.
    Owed,
    /// PUBREC is sent.
    Received,
    /// PUBREL came, PUBCOMP is owed.
    Completing,
}

impl PublishIn {
    fn window(&self) -> usize {
        self.acks.len() + self.q2.len()
    }

    /// What the server owes an answer for: PUBACK, PUBREC, PUBCOMP.
    pub(super) fn owed(&self) -> usize {
        let received = |(_, stage): &&(_, Stage)| *stage == Stage::Received;
        self.window() - self.q2.iter().filter(received).count()
    }

    /// When the longest owed acknowledgement began to be owed.
    pub(super) fn oldest(&self) -> Option<MonoMs> {
        let fronts = [self.acks.front(), self.recs.front()];
        fronts.into_iter().flatten().map(|owed| owed.since).min()
    }

    fn stage(&self, packet_id: PacketId) -> Option<Stage> {
        let found = self.q2.iter().find(|(id, _)| *id == packet_id);
        found.map(|(_, stage)| *stage)
    }

    fn set_stage(&mut self, packet_id: PacketId, stage: Stage) {
        match self.q2.iter_mut().find(|(id, _)| *id == packet_id) {
            Some(entry) => entry.1 = stage,
            None => self.q2.push((packet_id, stage)),
        }
    }

    fn end(&mut self, packet_id: PacketId) -> bool {
        let before = self.q2.len();
        self.q2.retain(|(id, _)| *id != packet_id);
        before != self.q2.len()
    }
}

impl Live {
    pub(super) fn handle_publish(&mut self, mut publish: Publish, now: Now) {
        if let Err(reason) = self.resolve_alias(&mut publish) {
            return self.close_server(reason);
        }
        if !publish.subscription_ids.is_empty() {
            // [MQTT-3.3.4-6]
            return self.close_server(ReasonCode::ProtocolError);
        }
        let seq = self.publish_seq;
        self.publish_seq += 1;
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => self.emit_publish(None, publish, seq, None),
            (QoS::AtLeastOnce, Some(packet_id)) => self.publish_1(packet_id, publish, seq, now),
            (QoS::ExactlyOnce, Some(packet_id)) => self.publish_2(packet_id, publish, seq, now),
            // [MQTT-2.2.1-2]: the codec refuses it; a shell that builds packets might not.
            (_, None) => self.close_server(ReasonCode::MalformedPacket),
        }
    }

    pub(super) fn handle_pubrel(&mut self, packet_id: PacketId, now: Now) {
        let inbound = self.inbound.get_or_insert_default();
        match inbound.stage(packet_id) {
            Some(Stage::Completing) => {}
            Some(Stage::Owed) => self.close_server(ReasonCode::ProtocolError),
            _ if self.is_persistent => {
                inbound.set_stage(packet_id, Stage::Completing);
                let client = self.own_client();
                let command = Command::Q2Out {
                    client,
                    epoch: self.epoch,
                    packet_id,
                };
                self.propose(Request::Complete(packet_id), command, now);
            }
            known => {
                inbound.end(packet_id);
                self.send_pubcomp(packet_id, known.is_some());
            }
        }
    }

    /// The end of an inbound exchange is recorded.
    pub(super) fn completed(&mut self, packet_id: PacketId, answer: &Answer) {
        if let Some(inbound) = &mut self.inbound {
            inbound.end(packet_id);
        }
        self.send_pubcomp(packet_id, *answer == Answer::Q2Out { found: true });
    }

    /// A QoS 2 message has its number: it may be fanned out.
    pub(super) fn numbered(&mut self, token: Token, answer: &Answer) {
        let Answer::Q2In { n, floor } = *answer else {
            return self.close_server(ReasonCode::ReceiveMaximumExceeded);
        };
        let Some(inbound) = &mut self.inbound else {
            return;
        };
        let found = inbound.unnumbered.iter().position(|(t, ..)| *t == token);
        let Some((_, seq, publish)) = found.and_then(|at| inbound.unnumbered.remove(at)) else {
            return;
        };
        let origin = Origin {
            client: self.own_client(),
            kind: OriginKind::Session,
            incarnation: self.incarnation,
            n,
            floor,
        };
        self.emit_publish(Some(token), publish, seq, Some(Box::new(origin)));
    }

    /// Every obligation of a PUBLISH is settled; says whether the token was one's.
    pub(super) fn publish_settled(&mut self, token: Token, outcome: ReasonCode, now: Now) -> bool {
        let Some(inbound) = &mut self.inbound else {
            return false;
        };
        if let Some(at) = position_of(&inbound.acks, token, |owed| owed.token) {
            inbound.acks[at].outcome = Some(outcome);
            self.send_owed(AckKind::PubAck);
            return true;
        }
        let Some(at) = position_of(&inbound.recs, token, |owed| owed.token) else {
            return false;
        };
        let packet_id = inbound.recs[at].packet_id;
        if outcome.is_error() && self.is_persistent {
            // The id becomes free with PUBREC [MQTT-4.3.3-9]: the shard has to forget it first,
            // or the next message under it would be taken for a repeat.
            let command = Command::Q2Out {
                client: self.own_client(),
                epoch: self.epoch,
                packet_id,
            };
            let request = Request::RefusePublish(token, outcome);
            self.propose(request, command, now);
        } else {
            inbound.recs[at].outcome = Some(outcome);
            self.send_owed(AckKind::PubRec);
        }
        true
    }

    /// A refused QoS 2 message is forgotten by the shard.
    pub(super) fn publish_refused(&mut self, token: Token, reason: ReasonCode) {
        let Some(inbound) = &mut self.inbound else {
            return;
        };
        if let Some(at) = position_of(&inbound.recs, token, |owed| owed.token) {
            inbound.recs[at].outcome = Some(reason);
        }
        self.send_owed(AckKind::PubRec);
    }

    pub(super) fn is_window_full(&self) -> bool {
        let used = self.inbound.as_ref().map_or(0, |i| i.window());
        used >= usize::from(self.config.receive_maximum)
    }

    /// Whether the server owes as many answers as the window has room for. What waits for a
    /// PUBREL does not count: it may stand behind the very packets that would be held.
    pub(super) fn is_owing_window(&self) -> bool {
        let owed = self.inbound.as_ref().map_or(0, |i| i.owed());
        owed >= usize::from(self.config.receive_maximum)
    }

    fn publish_1(&mut self, packet_id: PacketId, publish: Publish, seq: u64, now: Now) {
        if !self.take_window() {
            return;
        }
        let token = self.take_token();
        let owed = Owed {
            token,
            packet_id,
            since: now.mono,
            outcome: None,
        };
        self.inbound.get_or_insert_default().acks.push_back(owed);
        self.emit_publish(Some(token), publish, seq, None);
    }

    fn publish_2(&mut self, packet_id: PacketId, publish: Publish, seq: u64, now: Now) {
        let inbound = self.inbound.get_or_insert_default();
        match inbound.stage(packet_id) {
            //# [MQTT-4.3.3-10] ... acknowledge any subsequent PUBLISH packet with the same
            //# Packet Identifier by sending a PUBREC
            Some(Stage::Received) => return self.send_ack(AckKind::PubRec, packet_id),
            Some(_) => return,
            None => {}
        }
        if !self.take_window() {
            return;
        }
        let token = self.take_token();
        let inbound = self.inbound.get_or_insert_default();
        inbound.set_stage(packet_id, Stage::Owed);
        inbound.recs.push_back(Owed {
            token,
            packet_id,
            since: now.mono,
            outcome: None,
        });
        if !self.is_persistent {
            return self.emit_publish(Some(token), publish, seq, None);
        }
        inbound.unnumbered.push_back((token, seq, publish));
        let command = Command::Q2In {
            client: self.own_client(),
            epoch: self.epoch,
            packet_id,
        };
        self.propose_as(token, Request::Number, command, now);
    }

    /// False when the client broke the window (MQTT 5), which closes the connection. In 3.1.1
    /// it knows of none: the shell holds its packets back; only QoS 2 messages that it never
    /// releases are bounded by closing.
    fn take_window(&mut self) -> bool {
        let unreleased = self.inbound.as_ref().map_or(0, |i| i.q2.len());
        if unreleased >= UNRELEASED_MAX {
            self.close_server(ReasonCode::ReceiveMaximumExceeded);
            return false;
        }
        //# [MQTT-3.3.4-7] ... MUST NOT send more than Receive Maximum
        if self.version == Version::V5 && self.is_window_full() {
            self.close_server(ReasonCode::ReceiveMaximumExceeded);
            return false;
        }
        true
    }

    /// Sends what is settled, in order of arrival `[MQTT-4.6.0-2]`, `[MQTT-4.6.0-3]`.
    fn send_owed(&mut self, kind: AckKind) {
        loop {
            let Some(inbound) = &mut self.inbound else {
                return;
            };
            let owed = match kind {
                AckKind::PubAck => &mut inbound.acks,
                _ => &mut inbound.recs,
            };
            let Some(outcome) = owed.front().and_then(|first| first.outcome) else {
                return;
            };
            let Some(first) = owed.pop_front() else {
                return;
            };
            if kind == AckKind::PubRec {
                if outcome.is_error() {
                    inbound.end(first.packet_id);
                } else {
                    inbound.set_stage(first.packet_id, Stage::Received);
                }
            }
            self.effects.push_back(Effect::Ack(Ack {
                kind,
                packet_id: first.packet_id,
                reason: outcome,
            }));
        }
    }

    fn send_pubcomp(&mut self, packet_id: PacketId, found: bool) {
        let reason = if found || self.version == Version::V311 {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        self.effects.push_back(Effect::Ack(Ack {
            kind: AckKind::PubComp,
            packet_id,
            reason,
        }));
    }

    fn emit_publish(
        &mut self,
        token: Option<Token>,
        publish: Publish,
        seq: u64,
        origin: Option<Box<Origin>>,
    ) {
        self.effects.push_back(Effect::Publish(Box::new(Inbound {
            token,
            publish,
            seq,
            origin,
        })));
    }

    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), ReasonCode> {
        let Some(alias) = publish.topic_alias.take() else {
            return if publish.topic.is_empty() {
                Err(ReasonCode::ProtocolError)
            } else {
                Ok(())
            };
        };
        //# [MQTT-3.3.2-9] ... MUST NOT send a PUBLISH packet with a Topic Alias greater than
        //# the Topic Alias Maximum
        if alias.get() > self.config.topic_alias_maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let at = usize::from(alias.get()) - 1;
        let aliases = &mut self.aliases;
        if aliases.len() <= at {
            aliases.resize(at + 1, Topic::default());
        }
        if !publish.topic.is_empty() {
            aliases[at] = publish.topic.detach();
        } else if aliases[at].is_empty() {
            return Err(ReasonCode::ProtocolError);
        } else {
            publish.topic = aliases[at].clone();
        }
        Ok(())
    }
}
