//! Random commands for a shard.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use mqtt::{ClientId, Filter, PacketId, QoS, Topic, Will};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tidewire_session::{
    Acks, Close, Command, ConnectionId, Delivery, Durable, DurableEffect, Enqueue, Epoch, GroupSeq,
    Identity, MembershipRow, Message, NodeEpoch, Open, Origin, OriginKind, Replay, Retain, Seq,
    Stamp, Subs, Subscription, Unsubs, WallMs, WillFate, WillId,
};

const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const TOPICS: [&str; 5] = ["t/1", "t/2", "t/a", "u/1", "v"];
/// With a template `t/{client_id}` one is of a client.
const FILTERS: [&str; 8] = [
    "t/#",
    "t/1",
    "t/a",
    "+/1",
    "#",
    "v",
    "$share/g/t/#",
    "$share/h/v",
];

/// Draws what a shard is to do.
pub(crate) struct Generator {
    pub(crate) random: SmallRng,
    pub(crate) index: u64,
    pub(crate) time: u64,
    connections: u64,
    pub(crate) node_epoch: u64,
    /// Sequences that were delivered, by client.
    delivered: BTreeMap<ClientId, Vec<Seq>>,
    /// The last route row and will that were to be carried out.
    route: u64,
    will: WillId,
    /// Memberships that were to be carried out, and messages that members were sent.
    memberships: Vec<MembershipRow>,
    shared: Vec<GroupSeq>,
    /// The last subscription: its replay comes next, often.
    subscribed: Option<(ClientId, Epoch, Filter)>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            index: 0,
            time: 1_000,
            connections: 0,
            node_epoch: 1,
            delivered: BTreeMap::new(),
            route: 0,
            will: WillId(0),
            memberships: Vec::new(),
            shared: Vec::new(),
            subscribed: None,
        }
    }

    fn client(&mut self) -> ClientId {
        let name = CLIENTS.choose(&mut self.random).expect("there are some");
        (*name).try_into().expect("a client id")
    }

    fn filter(&mut self) -> Filter {
        let text = FILTERS.choose(&mut self.random).expect("there are some");
        (*text).try_into().expect("a filter")
    }

    fn topic(&mut self) -> Topic {
        let text = TOPICS.choose(&mut self.random).expect("there are some");
        (*text).try_into().expect("a topic")
    }

    fn message(&mut self) -> Arc<Message> {
        let bytes = self.random.random_range(0..300);
        let expires = self.random.random_bool(0.2);
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce];
        Arc::new(Message {
            topic: self.topic(),
            payload: Bytes::from(vec![self.index as u8; bytes]),
            qos: *qos.choose(&mut self.random).expect("two"),
            retain: self.random.random_bool(0.2),
            properties: None,
            publisher: self.random.random_bool(0.5).then(|| self.client()),
            received: WallMs(self.time),
            expiry: expires.then(|| WallMs(self.time + 3_000)),
        })
    }

    fn open(&mut self, client: ClientId, expected_epoch: Option<Epoch>) -> Command {
        self.connections += 1;
        let will = self.random.random_bool(0.4).then(|| {
            Box::new(Will {
                topic: self.topic(),
                payload: Bytes::from_static(b"will"),
                qos: QoS::AtLeastOnce,
                retain: false,
                delay_s: self.random.random_bool(0.5).then_some(2),
                properties: None,
            })
        });
        Command::Open(Box::new(Open {
            identity: Identity(client.text().clone()),
            client,
            expected_epoch,
            node_epoch: NodeEpoch(self.node_epoch),
            connection: ConnectionId(self.connections),
            clean_start: self.random.random_bool(0.15),
            persistent: self.random.random_bool(0.9),
            expiry_s: *[2, 60].choose(&mut self.random).expect("two"),
            receive_maximum: self.random.random_range(1..4),
            will,
        }))
    }

    /// Something for the shard to do; `durable` says which ownerships there are.
    pub(crate) fn command(&mut self, durable: &Durable) -> Command {
        if self.random.random_bool(0.7)
            && let Some((client, epoch, filter)) = self.subscribed.take()
        {
            let rows = vec![self.message()];
            return Command::Replay(Box::new(Replay {
                client,
                epoch,
                filter,
                rows,
            }));
        }
        let client = self.client();
        let Some(epoch) = durable.epoch(&client) else {
            return self.open(client, None);
        };
        if let Some(command) = self.group_command() {
            return command;
        }
        let packet_id = PacketId::new(self.random.random_range(1..6)).expect("not zero");
        match self.random.random_range(0..20) {
            0 | 1 => self.open(client, Some(epoch)),
            2 => Command::Close(Close {
                client,
                epoch,
                will: if self.random.random_bool(0.5) {
                    WillFate::Keep
                } else {
                    WillFate::Discard
                },
                expiry_s: None,
            }),
            3 | 4 => {
                let subscription = Subscription {
                    id: NonZeroU32::new(self.random.random_range(0..3)),
                    ..Subscription::default()
                };
                let mut subscription = subscription;
                subscription.options.qos = QoS::ExactlyOnce;
                let filters = vec![(self.filter(), subscription)];
                self.subscribed = Some((client.clone(), epoch, filters[0].0.clone()));
                Command::Subs(Box::new(Subs {
                    client,
                    epoch,
                    filters,
                }))
            }
            5 => Command::Unsubs(Box::new(Unsubs {
                client,
                epoch,
                filters: vec![self.filter()],
            })),
            6..=9 => {
                let message = self.message();
                let origin = (message.qos == QoS::ExactlyOnce).then(|| {
                    Box::new(Origin {
                        client: client.clone(),
                        kind: OriginKind::Session,
                        incarnation: Epoch(1 + self.time / 50_000),
                        n: self.random.random_range(0..20),
                        floor: self.random.random_range(0..3),
                    })
                });
                Command::Enqueue(Enqueue { message, origin })
            }
            10 => Command::Q2In {
                client,
                epoch,
                packet_id,
            },
            11 => Command::Q2Out {
                client,
                epoch,
                packet_id,
            },
            12 => Command::Rec {
                seq: self.some_seq(&client),
                client,
                epoch,
            },
            13 | 14 => {
                let seqs = vec![self.some_seq(&client), self.some_seq(&client)];
                Command::Ack(vec![Acks {
                    client,
                    epoch,
                    seqs,
                }])
            }
            15 => {
                let message = self.message();
                let stamp = Stamp {
                    publisher: Some(client),
                    epoch,
                    seq: self.random.random_range(0..50),
                };
                let mut retain = Retain::of(&message, stamp);
                if self.random.random_bool(0.3) {
                    retain.message = None;
                }
                Command::Retain(retain)
            }
            16 => Command::Replay(Box::new(Replay {
                client,
                epoch,
                filter: self.filter(),
                rows: vec![self.message()],
            })),
            17 => Command::RoutesDone {
                version: self.route,
            },
            18 => Command::WillDone { id: self.will },
            _ => {
                self.time += 4_000;
                let due = durable.due(WallMs(self.time), 1);
                due.into_iter().next().unwrap_or(Command::ExpireRetained)
            }
        }
    }

    /// Something that follows from effects of groups: often late, again, or never.
    fn group_command(&mut self) -> Option<Command> {
        let row = self.memberships.choose(&mut self.random).cloned();
        match self.random.random_range(0..12) {
            0 | 1 => {
                let membership = row?.to_command(self.random.random_range(0..2));
                Some(Command::Membership(Box::new(membership)))
            }
            2 => Some(Command::MembershipDone {
                version: row?.version,
            }),
            3 => Some(Command::GroupAck(vec![
                self.shared.choose(&mut self.random)?.clone(),
            ])),
            _ => None,
        }
    }

    fn some_seq(&mut self, client: &ClientId) -> Seq {
        let seqs = self.delivered.get(client).map_or(&[][..], |all| all);
        let seq = seqs.choose(&mut self.random).copied();
        seq.unwrap_or(Seq(self.random.random_range(0..4)))
    }

    pub(crate) fn note(&mut self, effects: &[DurableEffect]) {
        for effect in effects {
            match effect {
                DurableEffect::Deliver(Delivery { client, seq, .. }) => {
                    let seqs = self.delivered.entry(client.clone()).or_default();
                    seqs.push(*seq);
                    if seqs.len() > 8 {
                        seqs.remove(0);
                    }
                }
                DurableEffect::Route(row) => self.route = row.version,
                DurableEffect::WillDue(row) => self.will = row.id,
                DurableEffect::Membership(row) => remember(&mut self.memberships, row),
                DurableEffect::DeliverShared(delivery) => {
                    remember(&mut self.shared, &delivery.group_seq);
                }
                _ => {}
            }
        }
    }
}

/// Keeps the last few.
fn remember<T: Clone>(all: &mut Vec<T>, one: &T) {
    all.push(one.clone());
    if all.len() > 8 {
        all.remove(0);
    }
}
