//! Bytes that reach the disk for each message of a session: log, state file, purge. Run by hand:
//! `cargo test -p tidewire-cluster --lib bench_bytes -- --ignored --nocapture`; a folder on
//! the disk in question is named by `TMPDIR`. `docs/bench/sessions-bytes.md` keeps what it says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{Attempt, Body, LogTime, NodeEpoch, NodeId, WallMs};
use mqtt::QoS;
use runtime::SystemClock;
use session::{
    Acks, Answer, Command, ConnectionId, DurableEffect, Enqueue, Epoch, Identity, Limits, Open,
    Subs, Subscription,
};
use storage::fs::CountingFs;
use storage::raft::GroupId;

use super::test_node::eventually;
use super::test_shard::{message, view};
use super::{Group, RaftConfig, RaftNode};
use crate::{Outcome, ShardConfig, ShardEntry, ShardItem, ShardMachine};

/// Of each message.
const PAYLOAD_BYTES: usize = 256;
const EPOCH: NodeEpoch = NodeEpoch(1);

/// What is measured.
struct Case {
    what: &'static str,
    shards: usize,
    /// Entries that each shard brings into a commit, and messages in each entry.
    entries: usize,
    messages: usize,
    commits: usize,
    /// Commits between two flushes of all shards, each with its purge.
    flush_commits: usize,
    /// Each message is acknowledged in the commit after its own; else all of them stay.
    is_acknowledged: bool,
}

/// Bytes so far.
#[derive(Default)]
struct Parts {
    log: u64,
    purge: u64,
    state: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_bytes_of_a_message() {
    println!(
        "| messages a commit | in entries | of shards | what becomes of them | messages between flushes, a shard | log | state | purge | all |"
    );
    println!("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    for is_acknowledged in [true, false] {
        let what = match is_acknowledged {
            true => "acknowledged",
            false => "queued",
        };
        let case = |shards, entries, messages, commits, flush_commits| Case {
            what,
            shards,
            entries,
            messages,
            commits,
            flush_commits,
            is_acknowledged,
        };
        for case in [
            case(1, 1, 1, 1_000, 500),
            case(32, 1, 1, 200, 100),
            case(8, 125, 1, 8, 4),
            case(32, 1, 31, 32, 16),
            case(1, 1, 1_000, 6, 3),
            case(1, 1, 1_000, 64, 32),
        ] {
            case.run().await;
        }
    }
}

impl Case {
    async fn run(&self) {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Bench::open(folder.path(), self.shards).await;
        let mut parts = Parts::default();
        // What an entry of the plug takes by itself.
        bench.plug().await.ends().await;
        let plug = bench.plugged().await;
        for commit in 1..=self.commits {
            parts.log += bench.commit(self).await;
            if commit % self.flush_commits == 0 {
                let (purge, state) = bench.flush().await;
                parts.state += state;
                // The record of a purge goes to the disk with whatever comes next.
                parts.purge += purge + bench.plugged().await.saturating_sub(plug);
            }
        }
        let of_commit = self.shards * self.entries * self.messages;
        let messages = (self.commits * of_commit) as f64;
        let each = |bytes: u64| bytes as f64 / messages;
        println!(
            "| {of_commit} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.0} |",
            self.shards * self.entries,
            self.shards,
            self.what,
            self.flush_commits * self.entries * self.messages,
            each(parts.log),
            each(parts.state),
            each(parts.purge),
            each(parts.log + parts.state + parts.purge),
        );
        bench.node.close().await.unwrap();
    }
}

/// A node on a disk that counts.
struct Bench {
    fs: CountingFs,
    node: RaftNode,
    shards: Vec<Shard>,
    /// What holds the log's writer up while a commit is gathered.
    plug: Group<ShardMachine>,
}

/// An entry whose fsync is held.
struct Plug {
    fs: CountingFs,
    proposed: tokio::task::JoinHandle<()>,
}

impl Plug {
    async fn ends(self) {
        self.fs.release();
        self.proposed.await.unwrap();
    }
}

struct Shard {
    group: Group<ShardMachine>,
    n: u64,
    epoch: Epoch,
    /// Not acknowledged yet.
    held: Vec<session::Seq>,
    expected: u64,
}

impl Bench {
    async fn open(folder: &Path, shards: usize) -> Self {
        let fs = CountingFs::default();
        let config = RaftConfig {
            // Only when it is asked for.
            flush_log_bytes: u64::MAX,
            flush_age: Duration::from_hours(1),
            ..RaftConfig::new(folder.to_owned(), NodeId(1))
        };
        let clock = Arc::new(SystemClock::default());
        let on_fatal = Arc::new(|fatal| panic!("{fatal}"));
        let node = RaftNode::open(Arc::new(fs.clone()), clock, config, on_fatal).unwrap();
        let limits = Limits {
            queue_messages: usize::MAX,
            queue_bytes: usize::MAX,
            ..Limits::default()
        };
        let config = ShardConfig {
            limits,
            ..ShardConfig::default()
        };
        let start = |id: u32, name: String| {
            let (node, config) = (node.clone(), config.clone());
            async move { node.start_group(GroupId(id), &name, config).await.unwrap() }
        };
        let plug = start(1, "plug".to_owned()).await;
        let mut started = Vec::new();
        for shard in 0..shards {
            let group = start(16 + shard as u32, format!("shard-{shard}")).await;
            started.push(Shard::begin(group).await);
        }
        Self {
            fs,
            node,
            shards: started,
            plug,
        }
    }

    /// One fsync for all the entries of the case; returns the bytes that it wrote.
    async fn commit(&mut self, case: &Case) -> u64 {
        let plug = self.plug().await;
        let (before, fsyncs) = (self.fs.others(), self.node.log_counters().journal.groups);
        let mut proposed = Vec::new();
        for shard in &mut self.shards {
            let entries = shard.entries(case);
            shard.expected += entries.len() as u64;
            let group = shard.group.clone();
            proposed.push(tokio::spawn(async move {
                group.propose_batch(entries).await.unwrap()
            }));
        }
        let gathered = || {
            let mut shards = self.shards.iter();
            shards.all(|shard| shard.group.status().last_log == Some(shard.expected))
        };
        eventually("all entries are handed to the log", gathered).await;
        plug.ends().await;
        for (shard, answers) in self.shards.iter_mut().zip(proposed) {
            let answers = answers.await.unwrap();
            assert!(answers.iter().flatten().all(is_applied));
            shard.deliver();
            let delivered = shard.held.len();
            assert!(!case.is_acknowledged || delivered == case.entries * case.messages);
        }
        // That of the plug, and the one of the commit.
        assert_eq!(self.node.log_counters().journal.groups - fsyncs, 2);
        self.fs.others().bytes - before.bytes
    }

    /// Has the log's writer wait in an fsync of something else.
    async fn plug(&self) -> Plug {
        self.fs.hold();
        let plug = self.plug.clone();
        let proposed = tokio::spawn(async move {
            plug.propose(entry(Vec::new())).await.unwrap();
        });
        let fs = self.fs.clone();
        let held = tokio::task::spawn_blocking(move || fs.until_held());
        held.await.unwrap();
        let fs = self.fs.clone();
        Plug { fs, proposed }
    }

    /// Bytes that the log writes with the next entry of the plug.
    async fn plugged(&self) -> u64 {
        let before = self.fs.others();
        self.plug().await.ends().await;
        self.fs.others().bytes - before.bytes
    }

    /// Flushes and purges every shard; returns the bytes of the log and of the state files.
    async fn flush(&self) -> (u64, u64) {
        let (log, state) = (self.fs.others(), self.fs.databases());
        for shard in &self.shards {
            shard.group.flush_soon();
            let is_done = || {
                let status = shard.group.status();
                status.flushed == status.applied && status.purged == status.flushed
            };
            eventually("it is flushed and purged", is_done).await;
        }
        let log = self.fs.others().bytes - log.bytes;
        (log, self.fs.databases().bytes - state.bytes)
    }
}

impl Shard {
    /// A shard with a session that subscribes.
    async fn begin(group: Group<ShardMachine>) -> Self {
        let mut shard = Self {
            group,
            n: 0,
            epoch: Epoch(0),
            held: Vec::new(),
            expected: 0,
        };
        shard.propose(ShardItem::Epochs(view(EPOCH))).await;
        // Only of a leader's replica effects are handed out, and with them what is acknowledged.
        shard
            .group
            .with(|machine| machine.durable_mut().handle_lead());
        let open = Open {
            client: "reader".try_into().unwrap(),
            identity: Identity("reader".try_into().unwrap()),
            expected_epoch: None,
            node_epoch: session::NodeEpoch(EPOCH.0),
            connection: ConnectionId(1),
            clean_start: false,
            persistent: true,
            expiry_s: u32::MAX,
            receive_maximum: u16::MAX,
            will: None,
        };
        let open = shard.item(Command::Open(Box::new(open)));
        match shard.propose(open).await {
            Outcome::Applied(Answer::Opened { epoch, .. }) => shard.epoch = epoch,
            other => panic!("{other:?}"),
        }
        let mut subscription = Subscription::default();
        subscription.options.qos = QoS::AtLeastOnce;
        subscription.options.retain_handling = mqtt::RetainHandling::DoNotSend;
        let subs = Subs {
            client: "reader".try_into().unwrap(),
            epoch: shard.epoch,
            filters: vec![("t".try_into().unwrap(), subscription)],
        };
        let subs = shard.item(Command::Subs(Box::new(subs)));
        shard.propose(subs).await;
        shard.expected = shard.group.status().last_log.unwrap();
        shard
    }

    async fn propose(&self, item: ShardItem) -> Outcome {
        let outcomes = self.group.propose(entry(vec![item])).await.unwrap();
        outcomes.into_iter().next().unwrap()
    }

    fn item(&mut self, command: Command) -> ShardItem {
        let n = self.n;
        self.n += 1;
        ShardItem::Item {
            epoch: EPOCH,
            attempt: Attempt(0),
            n,
            body: Body::Item(command),
        }
    }

    /// What the shard brings into a commit. Acknowledgements go with the first entry, as those of
    /// 50 ms do.
    fn entries(&mut self, case: &Case) -> Vec<Bytes> {
        let mut entries = Vec::new();
        for _ in 0..case.entries {
            let mut items = Vec::new();
            if case.is_acknowledged && !self.held.is_empty() {
                let acks = Acks {
                    client: "reader".try_into().unwrap(),
                    epoch: self.epoch,
                    seqs: std::mem::take(&mut self.held),
                };
                items.push(self.item(Command::Ack(vec![acks])));
            }
            for _ in 0..case.messages {
                let enqueue = Enqueue {
                    // Equal ones of two shards would compress.
                    message: unlike(self.n << 8 | u64::from(self.group.id().0)),
                    origin: None,
                };
                items.push(self.item(Command::Enqueue(enqueue)));
            }
            entries.push(entry(items));
        }
        entries
    }

    /// The session takes what is delivered to it.
    fn deliver(&mut self) {
        let held = &mut self.held;
        self.group.with(|machine| {
            while let Some(effect) = machine.durable_mut().poll_effect() {
                if let DurableEffect::Deliver(delivery) = effect {
                    held.push(delivery.seq);
                }
            }
        });
    }
}

fn entry(items: Vec<ShardItem>) -> Bytes {
    let time = LogTime {
        time: WallMs(1),
        wall: None,
    };
    ShardEntry { time, items }.encode().into()
}

/// A message that does not compress.
fn unlike(number: u64) -> Arc<session::Message> {
    let mut message = Arc::unwrap_or_clone(message(number, QoS::AtLeastOnce, PAYLOAD_BYTES));
    let mut state = number;
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    message.payload = bytes.take(PAYLOAD_BYTES).collect::<Vec<_>>().into();
    Arc::new(message)
}

fn is_applied(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Applied(
            Answer::Done
                | Answer::Enqueued {
                    taken: 1,
                    dropped: 0,
                    ..
                }
        )
    )
}
