//! Sessions on a faulty disk: what was not synced is lost or torn at each crash, and every message
//! that was acknowledged is still in the queue of every session that had subscribed, in order.

use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{Attempt, Body, EpochView, LogTime, NodeEpoch, WallMs};
use mqtt::{ClientId, QoS, Topic};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use session::{
    Acks, Answer, Command, ConnectionId, Delivery, DeliveryStep, DurableEffect, Enqueue, Identity,
    Message, Open, Replay, Seq, Subs, Subscription,
};
use storage::fs::FaultFs;
use storage::raft::{Defects, GroupId};

use super::Group;
use super::test_node::{Setup, TestNode};
use crate::{
    Outcome, ShardConfig, ShardEntry, ShardItem, ShardMachine, decode_message, message_row_key,
};

const SEEDS: u64 = 40;
const CRASHES: u64 = 6;
const CLIENTS: [&str; 3] = ["a", "b", "c"];

/// What the world was told of one session.
#[derive(Default)]
struct Told {
    is_subscribed: bool,
    /// Acknowledged to their publisher, and not acknowledged by the session.
    owed: Vec<u64>,
}

struct Run {
    random: SmallRng,
    fs: FaultFs,
    defects: Defects,
    told: [Told; 3],
    published: u64,
    acknowledged: u64,
    restored: u64,
}

/// One life of the node.
struct Life<'a> {
    run: &'a mut Run,
    group: Group<ShardMachine>,
    epoch: NodeEpoch,
    n: u64,
    /// What each session was sent in this life and has not acknowledged.
    sent: [Vec<(Seq, u64)>; 3],
}

#[tokio::test]
async fn acknowledged_messages_outlive_crashes_of_a_faulty_disk() {
    let (mut acknowledged, mut restored) = (0, 0);
    for seed in 0..SEEDS {
        let run = Run::new(seed, Defects::default()).go().await;
        let run = run.unwrap_or_else(|lost| panic!("seed {seed}: {lost}"));
        acknowledged += run.acknowledged;
        restored += run.restored;
    }
    println!("{SEEDS} seeds: {acknowledged} acknowledged, {restored} found again");
    assert!(acknowledged > 20 * SEEDS, "{acknowledged}");
    assert!(restored > 20 * SEEDS, "{restored}");
}

#[tokio::test]
async fn sessions_on_a_log_that_acknowledges_before_its_fsync_are_found_to_lose() {
    let defects = Defects {
        acknowledge_before_fsync: true,
        ..Defects::default()
    };
    for seed in 0..SEEDS {
        if Run::new(seed, defects).go().await.is_err() {
            return;
        }
    }
    panic!("no seed finds it");
}

impl Run {
    fn new(seed: u64, defects: Defects) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            fs: FaultFs::new(seed),
            defects,
            told: Default::default(),
            published: 0,
            acknowledged: 0,
            restored: 0,
        }
    }

    async fn go(mut self) -> Result<Self, String> {
        for crash in 0..CRASHES {
            let is_last = crash + 1 == CRASHES;
            if !is_last {
                let operations = self.random.random_range(20..500);
                self.fs.freeze_at(self.fs.operations() + operations);
            }
            let setup = Setup {
                seed: self.random.random(),
                defects: self.defects,
                flush_log_bytes: self.random.random_range(500..8_000),
                ..Setup::default()
            };
            let node = TestNode::open_as(&self.fs, &setup);
            if let Ok(node) = node {
                let lived = self.live(&node, crash).await;
                let next = self.fs.crash();
                let _ = node.node.close().await;
                self.fs = next;
                lived?;
            } else if !self.fs.is_frozen() {
                return Err(format!("crash {crash}: {}", node.err().expect("no node")));
            } else {
                self.fs = self.fs.crash();
            }
        }
        Ok(self)
    }

    async fn live(&mut self, node: &TestNode, crash: u64) -> Result<(), String> {
        // Deliveries have to read what is flushed.
        let limits = session::Limits {
            payload_cache_bytes: 0,
            ..session::Limits::default()
        };
        let config = ShardConfig { limits };
        let starting = node.node.start_group(GroupId(3), "shard", config);
        let group: Group<ShardMachine> = match starting.await {
            Ok(group) => group,
            Err(_) if self.fs.is_frozen() => return Ok(()),
            Err(error) => return Err(format!("crash {crash}: {error}")),
        };
        let mut life = Life {
            run: self,
            group,
            epoch: NodeEpoch(crash + 1),
            n: 0,
            sent: Default::default(),
        };
        life.go().await
    }
}

impl Life<'_> {
    /// Ends early when the disk stands still.
    async fn go(&mut self) -> Result<(), String> {
        let view = EpochView {
            index: self.epoch.0,
            begun: self.epoch,
            current: [self.epoch].into(),
        };
        if self.propose(vec![ShardItem::Epochs(view)]).await.is_none() {
            return Ok(());
        }
        for client in 0..CLIENTS.len() {
            if !self.open(client).await? {
                return Ok(());
            }
        }
        for _ in 0..20 {
            if !self.publish().await {
                return Ok(());
            }
            if self.run.random.random_ratio(1, 3) && !self.consume().await {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn propose(&self, items: Vec<ShardItem>) -> Option<Vec<Outcome>> {
        let time = LogTime {
            time: WallMs(1_000 * self.epoch.0),
            wall: None,
        };
        let entry = ShardEntry { time, items }.encode();
        self.group.propose(entry.into()).await.ok()
    }

    /// Brings a command in as the next of the node's stream.
    async fn command(&mut self, command: Command) -> Option<Answer> {
        let item = ShardItem::Item {
            epoch: self.epoch,
            attempt: Attempt(0),
            n: self.n,
            body: Body::Item(command),
        };
        self.n += 1;
        match self.propose(vec![item]).await?.pop() {
            Some(Outcome::Applied(answer)) => Some(answer),
            other => panic!("the stream is broken: {other:?}"),
        }
    }

    /// Opens a session and compares its queue with what the world was told; false when the disk
    /// stands still.
    async fn open(&mut self, at: usize) -> Result<bool, String> {
        let client = client(at);
        let expected_epoch = self.group.with(|machine| machine.durable().epoch(&client));
        let open = Command::Open(Box::new(Open {
            identity: Identity(client.text().clone()),
            client: client.clone(),
            expected_epoch,
            node_epoch: session::NodeEpoch(self.epoch.0),
            connection: ConnectionId(self.epoch.0 * 10 + at as u64),
            clean_start: false,
            persistent: true,
            expiry_s: u32::MAX,
            receive_maximum: 1_000,
            will: None,
        }));
        let Some(answer) = self.command(open).await else {
            return Ok(false);
        };
        let Answer::Opened {
            epoch,
            session_present,
            ..
        } = answer
        else {
            return Err(format!("{client:?} is answered {answer:?}"));
        };
        if self.run.told[at].is_subscribed && !session_present {
            return Err(format!("the session of {client:?} is gone"));
        }
        if self.run.told[at].is_subscribed {
            if !self.replay(at, epoch).await {
                return Ok(false);
            }
            self.compare(at)?;
            return Ok(true);
        }
        let mut subscription = Subscription::default();
        subscription.options.qos = QoS::AtLeastOnce;
        let filters = vec![("t".try_into().expect("a filter"), subscription)];
        let subs = Command::Subs(Box::new(Subs {
            client,
            epoch,
            filters,
        }));
        self.run.told[at].is_subscribed = self.command(subs).await.is_some();
        Ok(self.run.told[at].is_subscribed && self.replay(at, epoch).await)
    }

    /// Ends the wait for retained messages, behind which others are held.
    async fn replay(&mut self, at: usize, epoch: session::Epoch) -> bool {
        let replay = Command::Replay(Box::new(Replay {
            client: client(at),
            epoch,
            filter: "t".try_into().expect("a filter"),
            rows: Vec::new(),
        }));
        self.command(replay).await.is_some()
    }

    /// Everything owed to the session is delivered, in order; beside it only what nobody was told
    /// of.
    fn compare(&mut self, at: usize) -> Result<(), String> {
        self.deliver();
        let found: Vec<u64> = self.sent[at].iter().map(|(_, number)| *number).collect();
        if !found.is_sorted() {
            return Err(format!("out of order: {found:?}"));
        }
        let told = &mut self.run.told[at];
        let lost = told.owed.iter().find(|number| !found.contains(number));
        if let Some(lost) = lost {
            return Err(format!("message {lost} of {:?} is lost", CLIENTS[at]));
        }
        self.run.restored += told.owed.len() as u64;
        // Whatever is there now is owed from now on: it is in the log.
        told.owed = found;
        Ok(())
    }

    /// Takes what the shard hands to the sessions' connections.
    fn deliver(&mut self) {
        loop {
            let effect = self
                .group
                .with(|machine| machine.durable_mut().poll_effect());
            match effect {
                None => return,
                Some(DurableEffect::Load { message }) => {
                    let (kind, key) = message_row_key(message);
                    let row = self
                        .group
                        .read_row(kind, &key)
                        .expect("a disk gives what it has");
                    let row = row.expect("a flushed message has its row");
                    let content = decode_message(message, &row).expect("a whole row");
                    self.group.with(|machine| {
                        let durable = machine.durable_mut();
                        durable.handle_loaded(message, Arc::new(content));
                    });
                }
                Some(DurableEffect::Deliver(delivery)) => {
                    let at = CLIENTS.iter().position(|name| *name == &*delivery.client);
                    let at = at.expect("one of ours");
                    self.sent[at].push((delivery.seq, number_of(&delivery)));
                }
                Some(_) => {}
            }
        }
    }

    /// Publishes a message; false when nobody was told that it is there.
    async fn publish(&mut self) -> bool {
        self.run.published += 1;
        let number = self.run.published;
        let mut payload = vec![0; self.run.random.random_range(8..400)];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let message = Arc::new(Message {
            topic: Topic::try_from("t").expect("a topic"),
            payload: Bytes::from(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
            publisher: None,
            received: session::WallMs(0),
            expiry: None,
        });
        let origin = None;
        let enqueue = Command::Enqueue(Enqueue { message, origin });
        let is_answered = self.command(enqueue).await.is_some();
        if is_answered {
            self.run.acknowledged += 1;
            let told = self.run.told.iter_mut();
            told.for_each(|told| told.owed.push(number));
        }
        is_answered
    }

    /// A session acknowledges its oldest message; false when it was not answered.
    async fn consume(&mut self) -> bool {
        let at = self.run.random.random_range(0..CLIENTS.len());
        self.deliver();
        if self.sent[at].is_empty() {
            return true;
        }
        let (seq, number) = self.sent[at].remove(0);
        let client = client(at);
        let epoch = self.group.with(|machine| machine.durable().epoch(&client));
        let acks = Acks {
            epoch: epoch.expect("it is open"),
            client,
            seqs: vec![seq],
        };
        // From now on nobody may count on it.
        self.run.told[at].owed.retain(|owed| *owed != number);
        self.command(Command::Ack(vec![acks])).await.is_some()
    }
}

fn client(at: usize) -> ClientId {
    CLIENTS[at].try_into().expect("a client id")
}

fn number_of(delivery: &Delivery) -> u64 {
    let DeliveryStep::Publish { message, .. } = &delivery.step else {
        panic!("nothing is released here");
    };
    let number = message.payload.first_chunk().expect("eight bytes");
    u64::from_le_bytes(*number)
}
