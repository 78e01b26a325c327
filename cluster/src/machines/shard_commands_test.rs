//! Entries of a shard as its leader might make them, from a seed.

use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{Attempt, Body, EpochView, LogTime, NodeEpoch, WallMs};
use mqtt::{ClientId, Filter, PacketId, QoS, SubscribeOptions, Topic, Will};
use rand::Rng;
use rand::rngs::StdRng;
use session::{
    Acks, Close, Command, ConnectionId, Durable, Enqueue, Epoch, Identity, Message, Open, Origin,
    OriginKind, Replay, Retain, Seq, Stamp, Subs, Subscription, Unsubs, WillFate, WillId,
};

use crate::{ShardEntry, ShardItem, ShardMachine};

const CLIENTS: [&str; 4] = ["a", "ab", "b", "c"];
const TOPICS: [&str; 5] = ["t/1", "t/2", "t/a", "u", "u/x"];
/// One is of a client by the template.
const FILTERS: [&str; 5] = ["t/+", "t/1", "t/a", "#", "u/#"];

/// Makes entries one after the other.
#[derive(Default)]
pub(super) struct Leader {
    sent: Vec<ShardItem>,
    epochs: EpochView,
    time: u64,
}

impl Leader {
    pub(super) fn entry(&mut self, rng: &mut StdRng, machine: &ShardMachine) -> Vec<u8> {
        self.time += rng.random_range(0..3_000);
        let items = (0..rng.random_range(1..5)).map(|_| self.item(rng, machine));
        let items = items.collect();
        let time = LogTime {
            time: WallMs(self.time),
            wall: None,
        };
        ShardEntry { time, items }.encode()
    }

    fn item(&mut self, rng: &mut StdRng, machine: &ShardMachine) -> ShardItem {
        match rng.random_range(0..20) {
            0 => {
                self.epochs.index += rng.random_range(0..2);
                self.epochs.begun.0 += rng.random_range(0..2);
                let begun = self.epochs.begun;
                self.epochs.current = [NodeEpoch(begun.0.saturating_sub(1)), begun].into();
                ShardItem::Epochs(self.epochs.clone())
            }
            1..4 => {
                let now = session::WallMs(self.time);
                let due = machine.durable().due(now, 4).into_iter().next();
                ShardItem::Duty(due.unwrap_or_else(|| duty(rng)))
            }
            4 if !self.sent.is_empty() => {
                let last = self.sent.len().min(20);
                let at = self.sent.len() - 1 - rng.random_range(0..last);
                self.sent[at].clone()
            }
            _ => {
                let epoch = NodeEpoch(self.epochs.begun.0 + rng.random_range(0..2));
                let stream = machine.receiver().streams().find(|(of, _)| *of == epoch);
                let known = stream.map(|(_, next)| next).unwrap_or_default();
                let body = match rng.random_range(0..12) {
                    0 => Body::Nop,
                    _ => Body::Item(command(rng, machine.durable(), epoch)),
                };
                // Items before it in this entry are not counted: some are repeats by mistake.
                let item = ShardItem::Item {
                    epoch,
                    attempt: Attempt(known.attempt.0 + u64::from(rng.random_ratio(1, 16))),
                    n: known.n + u64::from(rng.random_ratio(1, 16)),
                    body,
                };
                self.sent.push(item.clone());
                item
            }
        }
    }
}

fn pick<'a>(rng: &mut StdRng, of: &[&'a str]) -> &'a str {
    of[rng.random_range(0..of.len())]
}

fn client(rng: &mut StdRng) -> ClientId {
    pick(rng, &CLIENTS).try_into().unwrap()
}

fn topic(rng: &mut StdRng) -> Topic {
    pick(rng, &TOPICS).try_into().unwrap()
}

fn filter(rng: &mut StdRng) -> Filter {
    pick(rng, &FILTERS).try_into().unwrap()
}

fn packet_id(rng: &mut StdRng) -> PacketId {
    rng.random_range(1..4).try_into().unwrap()
}

fn qos(rng: &mut StdRng) -> QoS {
    [QoS::AtLeastOnce, QoS::ExactlyOnce][rng.random_range(0..2)]
}

fn message(rng: &mut StdRng) -> Arc<Message> {
    let received = session::WallMs(rng.random_range(0..10_000));
    Arc::new(Message {
        topic: topic(rng),
        payload: Bytes::from(vec![rng.random(); rng.random_range(0..4)]),
        qos: qos(rng),
        retain: rng.random(),
        properties: None,
        publisher: rng.random_bool(0.5).then(|| client(rng)),
        received,
        expiry: rng.random_bool(0.3).then(|| received.plus_s(60)),
    })
}

fn subscription(rng: &mut StdRng) -> Subscription {
    Subscription {
        options: SubscribeOptions {
            qos: qos(rng),
            no_local: rng.random_bool(0.2),
            ..SubscribeOptions::default()
        },
        id: rng.random_range(0..3_u32).try_into().ok(),
    }
}

fn open(rng: &mut StdRng, durable: &Durable, node: NodeEpoch) -> Open {
    let client = client(rng);
    let will = Will {
        topic: topic(rng),
        payload: Bytes::from_static(b"gone"),
        qos: qos(rng),
        retain: rng.random(),
        delay_s: rng.random_bool(0.5).then_some(5),
        properties: None,
    };
    Open {
        identity: Identity(client.text().clone()),
        expected_epoch: durable.epoch(&client),
        client,
        node_epoch: session::NodeEpoch(node.0),
        connection: ConnectionId(rng.random_range(0..1_000)),
        clean_start: rng.random_bool(0.2),
        persistent: rng.random_bool(0.8),
        expiry_s: rng.random_range(0..100),
        receive_maximum: rng.random_range(1..4),
        will: rng.random_bool(0.4).then(|| Box::new(will)),
    }
}

fn command(rng: &mut StdRng, durable: &Durable, node: NodeEpoch) -> Command {
    let client = client(rng);
    let epoch = durable.epoch(&client).unwrap_or(Epoch(0));
    let seq = |rng: &mut StdRng| Seq(rng.random_range(0..12));
    match rng.random_range(0..24) {
        0..4 => Command::Open(Box::new(open(rng, durable, node))),
        4 => Command::Close(Close {
            client,
            epoch,
            will: [WillFate::Keep, WillFate::Discard][rng.random_range(0..2)],
            expiry_s: rng.random_bool(0.2).then_some(50),
        }),
        5..8 => Command::Subs(Box::new(Subs {
            client,
            epoch,
            filters: vec![
                (filter(rng), subscription(rng)),
                (filter(rng), subscription(rng)),
            ],
        })),
        8 => Command::Unsubs(Box::new(Unsubs {
            client,
            epoch,
            filters: vec![filter(rng)],
        })),
        9..14 => Command::Enqueue(Enqueue {
            message: message(rng),
            origin: rng.random_bool(0.4).then(|| {
                Box::new(Origin {
                    client,
                    kind: [OriginKind::Session, OriginKind::Will][rng.random_range(0..2)],
                    incarnation: Epoch(rng.random_range(0..3)),
                    n: rng.random_range(0..9),
                    floor: rng.random_range(0..3),
                })
            }),
        }),
        14 => Command::Q2In {
            client,
            epoch,
            packet_id: packet_id(rng),
        },
        15 => Command::Q2Out {
            client,
            epoch,
            packet_id: packet_id(rng),
        },
        16 => Command::Rec {
            client,
            epoch,
            seq: seq(rng),
        },
        17..20 => Command::Ack(vec![Acks {
            client,
            epoch,
            seqs: vec![seq(rng), seq(rng)],
        }]),
        20 | 21 => {
            let message = message(rng);
            let stamp = Stamp {
                publisher: Some(client),
                epoch,
                seq: rng.random_range(0..50),
            };
            Command::Retain(Retain::of(&message, stamp))
        }
        _ => Command::Replay(Box::new(Replay {
            client,
            epoch,
            filter: filter(rng),
            rows: vec![message(rng)],
        })),
    }
}

fn duty(rng: &mut StdRng) -> Command {
    match rng.random_range(0..3) {
        0 => Command::WillDone {
            id: WillId(rng.random_range(0..20)),
        },
        1 => Command::RoutesDone {
            version: rng.random_range(0..60),
        },
        _ => Command::ExpireRetained,
    }
}
