//! Clients that subscribe, and whatever the ends of nodes do to what they have.

use std::collections::BTreeSet;

use mqtt::{Packet, PacketId, Publish, QoS};

use super::PUBLISHERS;
use super::grower::GROWER;
use super::ledger::Got;
use super::world::{Stage, World};
use crate::harness::{Client, Dial, ack, options, subscribe};

/// When a subscriber is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    /// It cuts its connection after so many packets, and comes again.
    Cutting(u64),
    /// It subscribes, and comes back for the rest.
    AtTheEnd,
}

/// What a subscriber is.
#[derive(Clone, Copy)]
pub(super) struct Subscriber {
    pub(super) name: &'static str,
    pub(super) filter: &'static str,
    pub(super) presence: Presence,
    pub(super) is_persistent: bool,
    pub(super) is_v5: bool,
}

impl Subscriber {
    /// Takes what comes over all nodes of the run.
    pub(super) async fn run(self, mut world: World) {
        let mut inbox = Inbox::new(self.name);
        let mut is_subscribed = false;
        loop {
            let (mut client, present) = world.connect(|| self.dial()).await;
            if is_subscribed && self.is_persistent && !present {
                let name = self.name;
                world
                    .ledger
                    .broken(format!("the session of {name} is gone"));
            }
            if !present && !self.subscribe(&mut client, &mut inbox, &world).await {
                continue;
            }
            is_subscribed = true;
            world.ledger.with(|kept| kept.ready.insert(self.name));
            if self.presence == Presence::AtTheEnd && world.stage() == Stage::Crashes {
                drop(client);
                if world.stage.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let limit = match self.presence {
                Presence::Cutting(packets) => packets,
                Presence::Always | Presence::AtTheEnd => u64::MAX,
            };
            for _ in 0..limit {
                let Some(packet) = client.try_next().await else {
                    break;
                };
                if !inbox.take(&mut client, packet, &world).await {
                    break;
                }
            }
        }
    }

    fn dial(&self) -> Dial {
        let dial = match self.is_v5 {
            true => Dial::v5(self.name),
            false => Dial::v311(self.name),
        };
        match self.is_persistent {
            true => dial.persistent(),
            false => dial,
        }
    }

    /// Subscribes; false if the connection ended before the SUBACK.
    async fn subscribe(&self, client: &mut Client, inbox: &mut Inbox, world: &World) -> bool {
        let filters = [(self.filter, options(QoS::ExactlyOnce))];
        let packet = subscribe(client.take_id(), &filters);
        if !client.try_send(&packet).await {
            return false;
        }
        loop {
            match client.try_next().await {
                None => return false,
                Some(Packet::SubAck(ack)) => {
                    assert!(!ack.reasons[0].is_error(), "{:?}", ack.reasons);
                    return true;
                }
                Some(packet) => {
                    if !inbox.take(client, packet, world).await {
                        return false;
                    }
                }
            }
        }
    }
}

/// The receiving end of a session.
pub(super) struct Inbox {
    name: &'static str,
    /// Of QoS 2, received and not released.
    open: BTreeSet<PacketId>,
}

impl Inbox {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            open: BTreeSet::new(),
        }
    }

    /// Takes a packet and answers it; false once the connection is gone.
    pub(super) async fn take(
        &mut self,
        client: &mut Client,
        packet: Packet,
        world: &World,
    ) -> bool {
        match packet {
            Packet::Publish(publish) => {
                let answer = match (publish.qos, publish.packet_id) {
                    (QoS::ExactlyOnce, Some(id)) => {
                        if self.open.insert(id) {
                            self.got(&publish, world);
                        }
                        Packet::PubRec(ack(id))
                    }
                    (_, Some(id)) => {
                        self.got(&publish, world);
                        Packet::PubAck(ack(id))
                    }
                    (_, None) => panic!("nobody publishes at QoS 0"),
                };
                client.try_send(&answer).await
            }
            Packet::PubRel(rel) => {
                self.open.remove(&rel.packet_id);
                client.try_send(&Packet::PubComp(ack(rel.packet_id))).await
            }
            Packet::Disconnect(_) => true,
            other => panic!("{} is sent {other:?}", self.name),
        }
    }

    fn got(&self, publish: &Publish, world: &World) {
        let text = String::from_utf8(publish.payload.to_vec()).expect("a text");
        if let Some(client) = publish.topic.as_str().strip_prefix("will/") {
            return world.ledger.with(|kept| kept.wills.push(client.to_owned()));
        }
        let (publisher, number) = text.split_once(' ').expect("a publisher and a number");
        let names = PUBLISHERS.iter().map(|one| one.name);
        let mut names = names.chain([GROWER]);
        let publisher = names.find(|name| *name == publisher).expect("one of ours");
        let number = number.parse().expect("a number");
        world.ledger.with(|kept| {
            let got = kept.got.entry(self.name).or_default();
            got.push(Got {
                id: (publisher, number),
                topic: publish.topic.as_str().to_owned(),
            });
        });
    }
}
