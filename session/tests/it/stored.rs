//! A shard that is stored row by row, crashes and is restored is the one that never crashed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use mqtt::{ClientId, Filter, PacketId, QoS, Topic, Will};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tidewire_session::{
    Acks, Answer, Close, Command, ConnectionId, Delivery, DeliveryStep, Durable, DurableEffect,
    Enqueue, Epoch, Identity, Limits, Message, NodeEpoch, Open, Origin, OriginKind, Replay, Retain,
    Row, RowKey, Seq, Stamp, Subs, Subscription, Unsubs, WallMs, WillFate, WillId,
};

const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const TOPICS: [&str; 4] = ["t/1", "t/2", "u/1", "v"];
const FILTERS: [&str; 5] = ["t/#", "t/1", "+/1", "#", "v"];

fn limits(payload_cache_bytes: usize) -> Limits {
    Limits {
        queue_messages: 6,
        queue_bytes: 4_000,
        sent_ahead: 2,
        subscriptions: 3,
        q2_open: 4,
        retained_messages: 3,
        tombstones: 2,
        origins: 3,
        outbox_wills: 3,
        payload_cache_bytes,
        ..Limits::default()
    }
}

/// A state, and what a disk would hold of it.
struct Stored {
    durable: Durable,
    file: BTreeMap<RowKey, Row>,
    log: Vec<(u64, WallMs, Command)>,
}

impl Stored {
    fn new() -> Self {
        Self {
            durable: Durable::new(limits(0)),
            file: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn write(&mut self) {
        for (key, row) in self.durable.take_rows() {
            match row {
                Some(row) => self.file.insert(key, row),
                None => self.file.remove(&key),
            };
        }
    }

    fn flush(&mut self) {
        self.write();
        self.durable.handle_flushed();
        self.log.clear();
    }

    fn crash(&mut self) {
        let rows = self.file.iter();
        // A start does not read the payloads.
        let rows = rows.filter(|(key, _)| !matches!(key, RowKey::Message(_)));
        let rows = rows.map(|(_, row)| row.clone());
        self.durable = Durable::restore(limits(0), rows).expect("the rows agree");
        for (index, time, command) in &self.log {
            self.durable.apply(*index, *time, command);
        }
        self.effects();
    }

    /// All effects; what they need is read from the file.
    fn effects(&mut self) -> Vec<DurableEffect> {
        let mut effects = Vec::new();
        while let Some(effect) = self.durable.poll_effect() {
            match effect {
                DurableEffect::Load { message } => {
                    let row = self.file.get(&RowKey::Message(message));
                    let Some(Row::Message(_, content)) = row else {
                        panic!("message {message} is neither in memory nor in the file");
                    };
                    self.durable.handle_loaded(message, Arc::clone(content));
                }
                other => effects.push(other),
            }
        }
        effects
    }
}

struct Generator {
    random: SmallRng,
    index: u64,
    time: u64,
    connections: u64,
    node_epoch: u64,
    /// Sequences that were delivered, by client.
    delivered: BTreeMap<ClientId, Vec<Seq>>,
    /// The last route row and will that were to be carried out.
    route: u64,
    will: WillId,
}

impl Generator {
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
    fn command(&mut self, durable: &Durable) -> Command {
        let client = self.client();
        let Some(epoch) = durable.epoch(&client) else {
            return self.open(client, None);
        };
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

    fn some_seq(&mut self, client: &ClientId) -> Seq {
        let seqs = self.delivered.get(client).map_or(&[][..], |all| all);
        let seq = seqs.choose(&mut self.random).copied();
        seq.unwrap_or(Seq(self.random.random_range(0..4)))
    }

    fn note(&mut self, effects: &[DurableEffect]) {
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
                _ => {}
            }
        }
    }
}

/// Effects in an order that does not depend on which session's turn it is.
fn by_session(effects: &[DurableEffect]) -> Vec<String> {
    let mut texts: Vec<(Option<ClientId>, String)> = effects
        .iter()
        .map(|effect| match effect {
            DurableEffect::Deliver(delivery) => (Some(delivery.client.clone()), describe(delivery)),
            other => (None, format!("{other:?}")),
        })
        .collect();
    texts.sort_by(|a, b| a.0.cmp(&b.0));
    texts.into_iter().map(|(_, text)| text).collect()
}

fn describe(delivery: &Delivery) -> String {
    match &delivery.step {
        DeliveryStep::Publish { message, dup, .. } => format!(
            "{:?} {} {:?} dup {dup}",
            delivery.client, delivery.seq, message.payload
        ),
        DeliveryStep::Release => format!("{:?} {} release", delivery.client, delivery.seq),
    }
}

fn run(seed: u64, steps: usize) {
    let mut kept = Durable::new(limits(usize::MAX));
    let mut stored = Stored::new();
    let mut generator = Generator {
        random: SmallRng::seed_from_u64(seed),
        index: 0,
        time: 1_000,
        connections: 0,
        node_epoch: 1,
        delivered: BTreeMap::new(),
        route: 0,
        will: WillId(0),
    };
    for step in 0..steps {
        let mut commands = vec![generator.command(&kept)];
        let what = generator.random.random_range(0..40);
        match what {
            0 | 1 => stored.flush(),
            // Written out, and then the process died before it was known to be durable.
            2 => stored.write(),
            _ => {}
        }
        let crashes = what == 3 || what == 2;
        if what == 2 {
            // As if the write had succeeded: the log before it is gone.
            stored.log.clear();
        }
        if crashes {
            stored.crash();
            // Who leads now hands everything to the connections that are opened under it.
            let node_epoch = NodeEpoch(generator.node_epoch);
            commands.insert(0, Command::NodeGone { node_epoch });
            generator.node_epoch += 1;
            kept.resume_outbox();
            stored.durable.resume_outbox();
        }
        for command in commands {
            generator.index += 1;
            generator.time += generator.random.random_range(0..500);
            let (index, time) = (generator.index, WallMs(generator.time));
            let first: Answer = kept.apply(index, time, &command);
            let second = stored.durable.apply(index, time, &command);
            assert_eq!(first, second, "seed {seed}, step {step}: {command:?}");
            stored.log.push((index, time, command));
        }
        let first: Vec<DurableEffect> = std::iter::from_fn(|| kept.poll_effect()).collect();
        let second = stored.effects();
        assert_eq!(
            by_session(&first),
            by_session(&second),
            "seed {seed}, step {step}"
        );
        generator.note(&first);
        assert_eq!(kept.counters(), stored.durable.counters(), "seed {seed}");
        assert!(kept.node_epochs().eq(stored.durable.node_epochs()));
    }
    stored.flush();
    let whole: BTreeMap<RowKey, Row> = kept
        .take_rows()
        .into_iter()
        .filter_map(|(key, row)| Some((key, row?)))
        .collect();
    assert_eq!(whole, stored.file, "seed {seed}");
}

#[test]
fn a_shard_that_crashed_goes_on_as_if_it_had_not() {
    for seed in 0..200 {
        run(seed, 300);
    }
}
