//! Groups under random joins, leaves, lost connections and crashes: nothing that is committed and
//! not acknowledged is lost, nothing that is acknowledged comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, SubscribeOptions, Templates};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tidewire_session::{
    Answer, Close, Command, ConnectionId, Durable, DurableEffect, Enqueue, Epoch, GroupDelivery,
    GroupSeq, Identity, Limits, MembershipRow, Message, NodeEpoch, Open, Row, RowKey, Subs,
    Subscription, Unsubs, WallMs, WillFate,
};

const SHARED: &str = "$share/g/t";
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Stays a member all the time, mostly away: so the group never ends.
const ANCHOR: &str = "anchor";

/// The two shards: that of the clients, and the home of the group.
const CLIENTS: usize = 0;
const HOME: usize = 1;

fn client(name: &str) -> ClientId {
    name.try_into().expect("a client id")
}

fn filter() -> Filter {
    SHARED.try_into().expect("a filter")
}

/// A shard with what a disk would hold of it.
struct Shard {
    durable: Durable,
    file: BTreeMap<RowKey, Row>,
    log: Vec<(u64, WallMs, Command)>,
}

impl Shard {
    fn new() -> Self {
        let mut durable = Durable::new(limits());
        durable.handle_lead();
        Self {
            durable,
            file: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn apply(&mut self, command: Command) -> Answer {
        let (index, time) = (self.durable.index() + 1, WallMs(1_000));
        let answer = self.durable.apply(index, time, &command);
        self.log.push((index, time, command));
        answer
    }

    fn flush(&mut self) {
        for (key, row) in self.durable.take_rows() {
            match row {
                Some(row) => self.file.insert(key, row),
                None => self.file.remove(&key),
            };
        }
        self.durable.handle_flushed();
        self.log.clear();
    }

    fn crash(&mut self) {
        let rows = self.file.values().cloned();
        self.durable =
            Durable::restore(limits(), Templates::default(), rows).expect("the rows agree");
        for (index, time, command) in &self.log {
            self.durable.apply(*index, *time, command);
        }
        self.durable.handle_lead();
    }
}

fn limits() -> Limits {
    Limits {
        group_window: 3,
        payload_cache_bytes: 0,
        ..Limits::default()
    }
}

/// A connection of a client, and what it was sent and has not acknowledged.
struct Connection {
    id: ConnectionId,
    epoch: Epoch,
    has: Vec<GroupSeq>,
    /// It left at least once: what it has is then counted anew.
    has_left: bool,
}

struct Run {
    seed: u64,
    random: SmallRng,
    shards: [Shard; 2],
    node_epoch: u64,
    connections: u64,
    present: BTreeMap<&'static str, Connection>,
    /// Rows on their way to the home shard.
    under_way: Vec<MembershipRow>,
    published: u64,
    /// Payloads that somebody was sent, and those whose acknowledgement is committed.
    sent: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    numbers: BTreeMap<u64, u64>,
    dups: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Self {
            seed,
            random: SmallRng::seed_from_u64(seed),
            shards: [Shard::new(), Shard::new()],
            node_epoch: 1,
            connections: 0,
            present: BTreeMap::new(),
            under_way: Vec::new(),
            published: 0,
            sent: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            numbers: BTreeMap::new(),
            dups: 0,
        };
        run.open(ANCHOR, true);
        run.subscribe(ANCHOR);
        run.settle();
        run.close(ANCHOR);
        run.settle();
        run
    }

    fn open(&mut self, name: &'static str, persistent: bool) {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        let shard = &mut self.shards[CLIENTS];
        let open = Open {
            client: client(name),
            identity: Identity(name.try_into().expect("a text")),
            expected_epoch: shard.durable.epoch(&client(name)),
            node_epoch: NodeEpoch(self.node_epoch),
            connection: id,
            clean_start: !persistent,
            persistent,
            expiry_s: if persistent { 1_000 } else { 0 },
            receive_maximum: 2,
            will: None,
        };
        let answer = shard.apply(Command::Open(Box::new(open)));
        let Answer::Opened { epoch, .. } = answer else {
            panic!("seed {}: {answer:?}", self.seed);
        };
        let connection = Connection {
            id,
            epoch,
            has: Vec::new(),
            has_left: false,
        };
        self.present.insert(name, connection);
    }

    fn subscribe(&mut self, name: &'static str) {
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        };
        let subscription = Subscription { options, id: None };
        let subs = Subs {
            client: client(name),
            epoch: self.present[name].epoch,
            filters: vec![(filter(), subscription)],
        };
        self.shards[CLIENTS].apply(Command::Subs(Box::new(subs)));
    }

    fn unsubscribe(&mut self, name: &'static str) {
        if let Some(connection) = self.present.get_mut(name) {
            connection.has_left = true;
        }
        let unsubs = Unsubs {
            client: client(name),
            epoch: self.present[name].epoch,
            filters: vec![filter()],
        };
        self.shards[CLIENTS].apply(Command::Unsubs(Box::new(unsubs)));
    }

    fn close(&mut self, name: &'static str) {
        let Some(connection) = self.present.remove(name) else {
            return;
        };
        self.shards[CLIENTS].apply(Command::Close(Close {
            client: client(name),
            epoch: connection.epoch,
            will: WillFate::Discard,
            expiry_s: None,
        }));
    }

    fn publish(&mut self) {
        let message = Message {
            topic: "t".try_into().expect("a topic"),
            payload: self.published.to_string().into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
            publisher: None,
            received: WallMs(0),
            expiry: None,
        };
        let answer = self.shards[HOME].apply(Command::Enqueue(Enqueue {
            message: Arc::new(message),
            origin: None,
        }));
        let Answer::Enqueued { taken, dropped, .. } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((taken, dropped), (1, 0), "seed {}", self.seed);
        self.published += 1;
    }

    /// A member acknowledges something that it has, if it has anything.
    fn ack(&mut self, name: &'static str) {
        let Some(connection) = self.present.get_mut(name) else {
            return;
        };
        let count = connection.has.len();
        if count == 0 {
            return;
        }
        let at = self.random.random_range(0..count);
        let acked = connection.has.swap_remove(at);
        // Who else has it needs not to say so any more.
        for other in self.present.values_mut() {
            other.has.retain(|has| *has != acked);
        }
        self.acknowledged.insert(self.numbers[&acked.seq.0]);
        self.shards[HOME].apply(Command::GroupAck(vec![acked]));
    }

    /// Takes what the shards ask for; rows of memberships stay under way.
    fn effects(&mut self) {
        for at in [CLIENTS, HOME] {
            while let Some(effect) = self.shards[at].durable.poll_effect() {
                match effect {
                    DurableEffect::Membership(row) => self.under_way.push(row),
                    DurableEffect::DeliverShared(delivery) => self.delivered(delivery),
                    DurableEffect::Load { message } => {
                        let shard = &mut self.shards[at];
                        match shard.file.get(&RowKey::Message(message)) {
                            Some(Row::Message(_, content)) => {
                                shard.durable.handle_loaded(message, Arc::clone(content));
                            }
                            _ => shard.durable.handle_not_found(message),
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn delivered(&mut self, delivery: GroupDelivery) {
        let seed = self.seed;
        let payload = std::str::from_utf8(&delivery.message.payload).expect("a number");
        let number: u64 = payload.parse().expect("a number");
        assert!(
            !self.acknowledged.contains(&number),
            "seed {seed}: {number} comes again"
        );
        let is_first = self.sent.insert(number);
        assert!(
            is_first || delivery.dup,
            "seed {seed}: {number} without dup"
        );
        self.dups += usize::from(!is_first);
        self.numbers.insert(delivery.group_seq.seq.0, number);
        let mut present = self.present.values_mut();
        // One whose connection is gone is nobody's.
        if let Some(connection) = present.find(|one| one.id == delivery.connection) {
            let takes_more = connection.has.len() < 2 || connection.has_left;
            assert!(takes_more, "seed {seed}: more than it takes");
            connection.has.push(delivery.group_seq);
        }
    }

    /// Tells the home shard of the next membership; the answer may be lost.
    fn tell(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let row = self.under_way.remove(0);
        let version = row.version;
        let membership = Box::new(row.to_command(CLIENTS as u16));
        let command = Command::Membership(membership);
        self.shards[HOME].apply(command.clone());
        if self.random.random_bool(0.2) {
            self.shards[HOME].apply(command);
        }
        self.shards[CLIENTS].apply(Command::MembershipDone { version });
    }

    fn settle(&mut self) {
        loop {
            self.effects();
            if self.under_way.is_empty() {
                return;
            }
            self.tell();
        }
    }

    /// The node is killed and starts again.
    fn crash(&mut self) {
        self.under_way.clear();
        self.present.clear();
        for shard in &mut self.shards {
            shard.crash();
        }
        let node_epoch = NodeEpoch(self.node_epoch);
        self.node_epoch += 1;
        for shard in &mut self.shards {
            shard.apply(Command::NodeGone { node_epoch });
        }
    }

    fn step(&mut self) {
        let name = *NAMES.choose(&mut self.random).expect("some");
        let is_present = self.present.contains_key(name);
        match self.random.random_range(0..24) {
            0 | 1 if !is_present => {
                let persistent = self.random.random_bool(0.6);
                self.open(name, persistent);
                self.subscribe(name);
            }
            // Taken over.
            1 => self.open(name, true),
            2 if is_present => self.close(name),
            3 if is_present => self.unsubscribe(name),
            4 if is_present => self.subscribe(name),
            5 => self.shards[CLIENTS].flush(),
            6 => self.shards[HOME].flush(),
            7 if self.random.random_bool(0.3) => self.crash(),
            8..=12 => self.publish(),
            13..=17 => self.ack(name),
            18..=20 => self.tell(),
            _ => self.effects(),
        }
    }

    /// The anchor comes back and takes what is left.
    fn end(&mut self) {
        self.settle();
        for name in NAMES {
            self.close(name);
        }
        self.open(ANCHOR, true);
        self.settle();
        while self.acknowledged.len() < self.published as usize {
            let before = self.acknowledged.len();
            self.ack(ANCHOR);
            self.settle();
            assert!(
                self.acknowledged.len() > before,
                "seed {}: lost one of {:?}",
                self.seed,
                (0..self.published)
                    .filter(|number| !self.acknowledged.contains(number))
                    .collect::<Vec<_>>()
            );
        }
        let counters = self.shards[HOME].durable.counters();
        assert_eq!(counters.queue_messages, 0, "seed {}", self.seed);
    }
}

#[test]
fn a_committed_message_reaches_a_member_and_an_acknowledged_one_never_again() {
    let (mut published, mut dups) = (0, 0);
    for seed in 0..300 {
        let mut run = Run::new(seed);
        for _ in 0..50 + seed % 200 {
            run.step();
        }
        run.end();
        published += run.published;
        dups += run.dups;
    }
    assert!(published > 5_000 && dups > 500, "{published}, {dups}");
}
