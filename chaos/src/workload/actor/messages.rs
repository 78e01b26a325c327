//! Messages both ways, with their acknowledgements.

use mqtt::{
    Ack, AckKind, Packet, PacketId, Publish, PublishRef, ReasonCode, Version, encode_ack,
    encode_publish,
};
use tokio::time::Instant;

use super::{Actor, Ending, qos_of};
use crate::client::{Incoming, Outgoing, Stage, Wire};
use crate::history::{End, Flags, Payload, Stray, What};
use crate::workload::plan::Lane;
use crate::workload::world::Stats;

impl Actor {
    /// Whether the window takes another message.
    pub(super) fn has_room(&self) -> bool {
        self.session.outgoing().len() < self.world.config.window.max(1)
    }

    /// Whether it publishes now at all.
    pub(super) fn may_publish(&self) -> bool {
        let is_hushed = self.timers.hushed_at.is_some_and(|at| Instant::now() >= at);
        self.publishes().is_some() && self.world.is_flowing() && !is_hushed
    }

    /// Publishes what is due.
    pub(super) fn publish_due(&mut self, wire: &mut Wire) {
        let Some(publishes) = self.publishes() else {
            return;
        };
        let (interval, burst) = (publishes.interval, publishes.burst);
        if !self.may_publish() {
            return;
        }
        let now = Instant::now();
        while self.timers.publish_at <= now && self.has_room() {
            for _ in 0..burst {
                if !self.has_room() {
                    break;
                }
                self.publish_next(wire);
            }
            self.timers.publish_at += interval;
        }
        // What an outage kept from being published is not caught up.
        self.timers.publish_at = self.timers.publish_at.max(now - interval);
    }

    fn publish_next(&mut self, wire: &mut Wire) {
        let Some(lane) = self.lane(self.next) else {
            return;
        };
        let number = self.next;
        self.next += 1;
        let Lane { topic, qos, retain } = lane;
        if qos == 0 {
            return self.write_publish(wire, 0, number, lane, false);
        }
        let outgoing = self.session.publish(number, topic, qos, retain);
        self.timers.waiting_since.get_or_insert_with(Instant::now);
        Stats::add(&self.world.stats.published);
        self.write_publish(wire, outgoing.packet_id, number, lane, false);
    }

    fn lane(&self, number: u32) -> Option<Lane> {
        let lanes = &self.publishes()?.lanes;
        lanes.get(number as usize % lanes.len().max(1)).copied()
    }

    fn write_publish(&self, wire: &mut Wire, id: u16, number: u32, lane: Lane, dup: bool) {
        let Lane { topic, qos, retain } = lane;
        self.log.record(What::Publishing {
            number,
            topic,
            packet_id: id,
            flags: Flags {
                qos,
                dup,
                retain,
                again: false,
            },
        });
        let payload = Payload {
            publisher: self.number,
            number,
            topic,
        };
        let payload = payload.encode(self.world.seed, self.world.config.payload_bytes);
        let publish = PublishRef {
            dup,
            qos: qos_of(qos),
            retain,
            topic: self.world.topics[topic as usize].as_str(),
            packet_id: PacketId::new(id),
            payload: &payload,
            topic_alias: None,
            subscription_ids: &[],
            properties: None,
            message_expiry_s: None,
        };
        encode_publish(&publish, Version::V5, &mut wire.out);
    }

    /// Sends again what was under way when the last connection ended.
    //# [MQTT-4.4.0-1] ... MUST resend any unacknowledged PUBLISH packets (where QoS > 0) and PUBREL packets using their
    //# original Packet Identifiers.
    pub(super) fn resend(&self, wire: &mut Wire) {
        for outgoing in self.session.outgoing() {
            let Outgoing {
                packet_id,
                number,
                topic,
                qos,
                retain,
                stage,
            } = *outgoing;
            match stage {
                Stage::Sent => {
                    let lane = Lane { topic, qos, retain };
                    self.write_publish(wire, packet_id, number, lane, true);
                }
                Stage::Received => write_ack(wire, AckKind::PubRel, packet_id),
            }
        }
    }

    /// Takes a packet from the node.
    pub(super) fn handle_packet(&mut self, wire: &mut Wire, packet: Packet) -> Result<(), Ending> {
        match packet {
            Packet::Publish(publish) => self.handle_publish(wire, &publish),
            Packet::PubAck(ack) => self.handle_puback(&ack),
            Packet::PubRec(ack) => self.handle_pubrec(wire, &ack),
            Packet::PubComp(ack) => self.handle_pubcomp(&ack),
            Packet::PubRel(ack) => self.handle_pubrel(wire, &ack),
            Packet::SubAck(suback) => self.handle_suback(&suback),
            Packet::UnsubAck(unsuback) => self.handle_unsuback(&unsuback),
            Packet::PingResp => self.log.record(What::Ponged),
            Packet::Disconnect(disconnect) => {
                return Err(Ending {
                    why: End::Told,
                    reason: disconnect.reason as u8,
                    is_wanted: false,
                });
            }
            _ => self.stray(Stray::Packet, 0),
        }
        Ok(())
    }

    pub(super) fn stray(&self, stray: Stray, detail: u16) {
        self.log.record(What::Stray { stray, detail });
    }

    fn handle_publish(&mut self, wire: &mut Wire, publish: &Publish) {
        let id = publish.packet_id.map_or(0, PacketId::get);
        let (retain, dup) = (publish.retain, publish.dup);
        let payload = Payload::decode(&publish.payload, self.world.seed).filter(|payload| {
            let topic = self.world.topics.get(payload.topic as usize);
            topic.is_some_and(|topic| *topic == publish.topic)
        });
        let qos = publish.qos as u8;
        let mut flags = Flags {
            qos,
            dup,
            retain,
            again: false,
        };
        if let Some(payload) = payload {
            let Payload {
                publisher,
                number,
                topic,
            } = payload;
            if qos == 2 {
                match self.session.handle_publish(id, (publisher, number)) {
                    Incoming::New => {}
                    Incoming::Again => flags.again = true,
                    Incoming::InUse => self.stray(Stray::PacketIdInUse, id),
                }
            }
            self.log.record(What::Delivered {
                publisher,
                number,
                topic,
                packet_id: id,
                flags,
            });
            Stats::add(&self.world.stats.received);
            self.count_retained(topic, retain);
        } else {
            self.stray(Stray::Payload, id);
        }
        match qos {
            0 => {}
            1 => write_ack(wire, AckKind::PubAck, id),
            _ => write_ack(wire, AckKind::PubRec, id),
        }
    }

    fn handle_pubrel(&mut self, wire: &mut Wire, ack: &Ack) {
        let packet_id = ack.packet_id.get();
        let known = self.session.handle_pubrel(packet_id);
        self.log.record(What::Released { packet_id, known });
        if known {
            return write_ack(wire, AckKind::PubComp, packet_id);
        }
        // PUBCOMP was lost, or the node forgot that it came.
        wire.send(&Packet::PubComp(Ack {
            packet_id: ack.packet_id,
            reason: ReasonCode::PacketIdentifierNotFound,
            properties: None,
        }));
    }

    fn handle_puback(&mut self, ack: &Ack) {
        let (packet_id, reason) = (ack.packet_id.get(), ack.reason as u8);
        let Some(number) = self.session.handle_puback(packet_id) else {
            return self.stray(Stray::Acknowledgement, packet_id);
        };
        self.log.record(What::PubAcked {
            number,
            packet_id,
            reason,
        });
        self.count_acked(ack.reason);
    }

    fn handle_pubrec(&mut self, wire: &mut Wire, ack: &Ack) {
        let (packet_id, reason) = (ack.packet_id.get(), ack.reason as u8);
        let Some(number) = self.session.handle_pubrec(packet_id, ack.reason.is_error()) else {
            // Of a PUBLISH that was sent before and after a reconnect, and is done.
            return self.stray(Stray::Acknowledgement, packet_id);
        };
        self.log.record(What::PubReced {
            number,
            packet_id,
            reason,
        });
        self.count_acked(ack.reason);
        if !ack.reason.is_error() {
            write_ack(wire, AckKind::PubRel, packet_id);
        }
    }

    fn handle_pubcomp(&mut self, ack: &Ack) {
        let (packet_id, reason) = (ack.packet_id.get(), ack.reason as u8);
        let Some(number) = self.session.handle_pubcomp(packet_id) else {
            return self.stray(Stray::Acknowledgement, packet_id);
        };
        self.log.record(What::PubComped {
            number,
            packet_id,
            reason,
        });
        self.note_progress();
    }

    fn count_acked(&mut self, reason: ReasonCode) {
        if !reason.is_error() {
            Stats::add(&self.world.stats.acked);
        }
        self.note_progress();
    }

    fn note_progress(&mut self) {
        let is_waiting = self.session.outgoing().len() > 0;
        self.timers.waiting_since = is_waiting.then(Instant::now);
    }
}

fn write_ack(wire: &mut Wire, kind: AckKind, packet_id: u16) {
    if let Some(packet_id) = PacketId::new(packet_id) {
        encode_ack(kind, packet_id, &mut wire.out);
    }
}
