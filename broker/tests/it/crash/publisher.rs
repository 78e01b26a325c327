//! Clients that publish, and send again what was not acknowledged when their node ended.

use std::collections::VecDeque;

use mqtt::{Packet, PacketId, QoS};

use super::ledger::Id;
use super::world::{Stage, World};
use crate::harness::{Client, Dial, ack, publish};

/// Messages that a publisher has under way.
const WINDOW: usize = 6;

/// What a publisher is.
#[derive(Clone, Copy)]
pub(super) struct Publisher {
    pub(super) name: &'static str,
    pub(super) qos: QoS,
    /// Its topics, in turns.
    pub(super) topics: &'static [&'static str],
    pub(super) retain: bool,
    pub(super) is_v5: bool,
}

struct UnderWay {
    number: u64,
    packet_id: PacketId,
    /// PUBREC came.
    is_released: bool,
}

struct Publishing {
    publisher: Publisher,
    world: World,
    under_way: VecDeque<UnderWay>,
    published: u64,
    next_id: u16,
    has_sentinel: bool,
}

impl Publisher {
    /// Publishes over all nodes of the run.
    pub(super) async fn run(self, world: World) {
        let mut publishing = Publishing {
            publisher: self,
            world,
            under_way: VecDeque::new(),
            published: 0,
            next_id: 0,
            has_sentinel: false,
        };
        let mut is_known = false;
        loop {
            let dial = || self.dial();
            let (client, present) = publishing.world.connect(dial).await;
            if is_known && !present {
                let ledger = &publishing.world.ledger;
                ledger.broken(format!("the session of {} is gone", self.name));
            }
            is_known = true;
            publishing.go_on(client).await;
        }
    }

    fn dial(&self) -> Dial {
        let dial = match self.is_v5 {
            true => Dial::v5(self.name),
            false => Dial::v311(self.name),
        };
        dial.persistent()
    }

    fn topic(&self, number: u64) -> &'static str {
        self.topics[(number % self.topics.len() as u64) as usize]
    }
}

impl Publishing {
    /// Publishes until the connection ends.
    async fn go_on(&mut self, mut client: Client) {
        let again: Vec<Packet> = self.under_way.iter().map(|one| self.again(one)).collect();
        let repeated = again.len() as u64;
        self.world.ledger.with(|kept| kept.repeated += repeated);
        for packet in &again {
            if !client.try_send(packet).await {
                return;
            }
        }
        loop {
            if !self.fill(&mut client).await {
                return;
            }
            self.tell_rest();
            let mut stage = self.world.stage.clone();
            let packet = tokio::select! {
                packet = client.try_next() => packet,
                _ = stage.changed() => {
                    self.world.stage = stage;
                    continue;
                }
            };
            let Some(packet) = packet else { return };
            if !self.handle(&mut client, packet).await {
                return;
            }
        }
    }

    fn again(&self, one: &UnderWay) -> Packet {
        match one.is_released {
            true => Packet::PubRel(ack(one.packet_id)),
            false => self.packet(one, true),
        }
    }

    fn packet(&self, one: &UnderWay, dup: bool) -> Packet {
        let Publisher {
            name, qos, retain, ..
        } = self.publisher;
        let topic = self.publisher.topic(one.number);
        let mut publish = publish(topic, qos, &format!("{name} {}", one.number));
        publish.packet_id = Some(one.packet_id);
        publish.dup = dup;
        publish.retain = retain;
        Packet::Publish(publish)
    }

    /// Sends what the window has room for; false once the connection is gone.
    async fn fill(&mut self, client: &mut Client) -> bool {
        loop {
            let may_begin = match self.world.stage() {
                Stage::Crashes => self.under_way.len() < WINDOW,
                Stage::Rest => false,
                Stage::Sentinels => !std::mem::replace(&mut self.has_sentinel, true),
            };
            if !may_begin {
                return true;
            }
            self.next_id = self.next_id % (u16::MAX - 1) + 1;
            self.published += 1;
            self.under_way.push_back(UnderWay {
                number: self.published,
                packet_id: PacketId::new(self.next_id).expect("not 0"),
                is_released: false,
            });
            let packet = self.packet(self.under_way.back().expect("just pushed"), false);
            if !client.try_send(&packet).await {
                return false;
            }
        }
    }

    /// Takes what the node says; false once the connection is gone.
    async fn handle(&mut self, client: &mut Client, packet: Packet) -> bool {
        match packet {
            Packet::PubAck(ack) => {
                self.acknowledged(ack.packet_id);
                self.end(ack.packet_id);
                true
            }
            Packet::PubRec(rec) => {
                self.acknowledged(rec.packet_id);
                client.try_send(&Packet::PubRel(ack(rec.packet_id))).await
            }
            Packet::PubComp(comp) => {
                self.end(comp.packet_id);
                true
            }
            // What it says next is the end.
            Packet::Disconnect(_) => true,
            other => panic!("a publisher is sent {other:?}"),
        }
    }

    fn acknowledged(&mut self, packet_id: PacketId) {
        let mut all = self.under_way.iter_mut();
        let Some(one) = all.find(|one| one.packet_id == packet_id) else {
            return;
        };
        one.is_released = true;
        let id: Id = (self.publisher.name, one.number);
        self.world.ledger.with(|kept| {
            kept.acknowledged.entry(id.0).or_default().insert(id.1);
        });
    }

    fn end(&mut self, packet_id: PacketId) {
        self.under_way.retain(|one| one.packet_id != packet_id);
    }

    fn tell_rest(&self) {
        if self.under_way.is_empty() {
            let (name, stage) = (self.publisher.name, self.world.stage());
            self.world
                .ledger
                .with(|kept| kept.rested.insert(name, stage));
        }
    }
}
