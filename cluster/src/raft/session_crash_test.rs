//! Sessions on a faulty disk: what was not synced is lost or torn at each crash, and every message
//! that was acknowledged is still in the queue of every session that had subscribed, in order.

use cluster_core::NodeEpoch;
use mqtt::{ClientId, QoS};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use session::{
    Acks, Answer, Command, ConnectionId, DurableEffect, Enqueue, Identity, Open, Replay, Seq, Subs,
    Subscription,
};
use storage::fs::FaultFs;
use storage::raft::Defects;

use super::test_node::{Setup, TestNode};
use super::test_shard::{Stop, TestShard, message, number_of, published};

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
    shard: TestShard,
    epoch: NodeEpoch,
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
        let epoch = NodeEpoch(crash + 1);
        let lived = match TestShard::begin(node, 3, "shard", epoch).await {
            Ok(shard) => {
                let mut life = Life {
                    run: self,
                    shard,
                    epoch,
                    sent: Default::default(),
                };
                life.go().await
            }
            Err(stop) => Err(stop),
        };
        match lived {
            Err(Stop::Broken(what)) => Err(format!("crash {crash}: {what}")),
            Ok(()) | Err(Stop::StoodStill) => Ok(()),
        }
    }
}

impl Life<'_> {
    async fn go(&mut self) -> Result<(), Stop> {
        for client in 0..CLIENTS.len() {
            self.open(client).await?;
        }
        for _ in 0..20 {
            self.publish().await?;
            if self.run.random.random_ratio(1, 3) {
                self.consume().await?;
            }
        }
        Ok(())
    }

    /// Opens a session and compares its queue with what the world was told.
    async fn open(&mut self, at: usize) -> Result<(), Stop> {
        let client = client(at);
        let expected_epoch = self.shard.with(|machine| machine.durable().epoch(&client));
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
        let answer = self.shard.command(open).await?;
        let Answer::Opened {
            epoch,
            session_present,
            ..
        } = answer
        else {
            return Err(format!("{client:?} is answered {answer:?}").into());
        };
        if self.run.told[at].is_subscribed {
            if !session_present {
                return Err(format!("the session of {client:?} is gone").into());
            }
            self.replay(at, epoch).await?;
            return self.compare(at);
        }
        let mut subscription = Subscription::default();
        subscription.options.qos = QoS::AtLeastOnce;
        let filters = vec![("t".try_into().expect("a filter"), subscription)];
        let subs = Command::Subs(Box::new(Subs {
            client,
            epoch,
            filters,
        }));
        self.shard.command(subs).await?;
        self.run.told[at].is_subscribed = true;
        self.replay(at, epoch).await
    }

    /// Ends the wait for retained messages, behind which others are held.
    async fn replay(&mut self, at: usize, epoch: session::Epoch) -> Result<(), Stop> {
        let replay = Command::Replay(Box::new(Replay {
            client: client(at),
            epoch,
            filter: "t".try_into().expect("a filter"),
            rows: Vec::new(),
        }));
        self.shard.command(replay).await.map(drop)
    }

    /// Everything owed to the session is delivered, in order; beside it only what nobody was told
    /// of.
    fn compare(&mut self, at: usize) -> Result<(), Stop> {
        self.deliver()?;
        let found: Vec<u64> = self.sent[at].iter().map(|(_, number)| *number).collect();
        if !found.is_sorted() {
            return Err(format!("out of order: {found:?}").into());
        }
        let told = &mut self.run.told[at];
        let lost = told.owed.iter().find(|number| !found.contains(number));
        if let Some(lost) = lost {
            return Err(format!("message {lost} of {:?} is lost", CLIENTS[at]).into());
        }
        self.run.restored += told.owed.len() as u64;
        // Whatever is there now is owed from now on: it is in the log.
        told.owed = found;
        Ok(())
    }

    /// Takes what the shard hands to the sessions' connections.
    fn deliver(&mut self) -> Result<(), Stop> {
        while let Some(effect) = self.shard.effect()? {
            if let DurableEffect::Deliver(delivery) = effect {
                let at = CLIENTS.iter().position(|name| *name == &*delivery.client);
                let at = at.expect("one of ours");
                self.sent[at].push((delivery.seq, number_of(published(&delivery))));
            }
        }
        Ok(())
    }

    /// Publishes a message.
    async fn publish(&mut self) -> Result<(), Stop> {
        self.run.published += 1;
        let number = self.run.published;
        let bytes = self.run.random.random_range(8..400);
        let enqueue = Command::Enqueue(Enqueue {
            message: message(number, QoS::AtLeastOnce, bytes),
            origin: None,
        });
        self.shard.command(enqueue).await?;
        self.run.acknowledged += 1;
        let told = self.run.told.iter_mut();
        told.for_each(|told| told.owed.push(number));
        Ok(())
    }

    /// A session acknowledges its oldest message.
    async fn consume(&mut self) -> Result<(), Stop> {
        let at = self.run.random.random_range(0..CLIENTS.len());
        self.deliver()?;
        if self.sent[at].is_empty() {
            return Ok(());
        }
        let (seq, number) = self.sent[at].remove(0);
        let client = client(at);
        let epoch = self.shard.with(|machine| machine.durable().epoch(&client));
        let acks = Acks {
            epoch: epoch.expect("it is open"),
            client,
            seqs: vec![seq],
        };
        // From now on nobody may count on it.
        self.run.told[at].owed.retain(|owed| *owed != number);
        self.shard.command(Command::Ack(vec![acks])).await.map(drop)
    }
}

fn client(at: usize) -> ClientId {
    CLIENTS[at].try_into().expect("a client id")
}
