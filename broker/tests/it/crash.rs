//! A node on a faulty disk, among real clients: it is stopped at any operation of its disk, what was
//! not synced is lost or torn, and the next node starts on what is left. What was acknowledged is
//! there, QoS 2 comes once, order is kept; so are sessions, subscriptions, wills and what is retained.

mod grower;
mod ledger;
mod mourned;
mod publisher;
mod retained;
mod subscriber;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt::QoS;
use runtime::Random;
use storage::fs::FaultFs;
use tidewire_broker::{Config, Defects, Node, StartError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::grower::GROWER;
use self::ledger::{Kept, Ledger};
use self::publisher::Publisher;
use self::subscriber::{Presence, Subscriber};
use self::world::{Stage, World};
use crate::harness::{TestNode, config, soon, start_on};

/// Crashes of a run, unless `TIDEWIRE_TEST_CRASHES` says otherwise.
const CRASHES: u64 = 10;
/// How long the clients may take until nothing is owed to them any more, and more for each crash: who
/// is away until the end has about 250 messages of each to fetch.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_PER_CRASH: Duration = Duration::from_millis(500);
/// Operations of the disk between the start of a node and its end, at most.
const OPERATIONS_MAX: u64 = 1_500;

const PUBLISHERS: [Publisher; 5] = [
    publisher("one", QoS::AtLeastOnce, true),
    publisher("two", QoS::ExactlyOnce, true),
    publisher("old-one", QoS::AtLeastOnce, false),
    publisher("old-two", QoS::ExactlyOnce, false),
    KEEPER,
];
const KEEPER: Publisher = Publisher {
    name: "keeper",
    qos: QoS::AtLeastOnce,
    topics: &["keep/0", "keep/1", "keep/2"],
    retain: true,
    is_v5: true,
};
/// Those whose messages every subscriber of `q/#` gets.
const QUEUED: [&str; 4] = ["one", "two", "old-one", "old-two"];
const QOS_2: [&str; 2] = ["two", "old-two"];

const SUBSCRIBERS: [Subscriber; 6] = [
    subscriber("online", "q/#", Presence::Always),
    subscriber("cutting", "q/#", Presence::Cutting(40)),
    subscriber("offline", "q/#", Presence::AtTheEnd),
    subscriber("member", "$share/g/q/#", Presence::Always),
    Subscriber {
        is_persistent: false,
        ..subscriber("clean-member", "$share/g/q/#", Presence::Cutting(60))
    },
    subscriber("watcher", "will/#", Presence::Always),
];
const EACH: [&str; 3] = ["online", "cutting", "offline"];
const MEMBERS: [&str; 2] = ["member", "clean-member"];

const fn publisher(name: &'static str, qos: QoS, is_v5: bool) -> Publisher {
    Publisher {
        name,
        qos,
        topics: &["q/t"],
        retain: false,
        is_v5,
    }
}

const fn subscriber(name: &'static str, filter: &'static str, presence: Presence) -> Subscriber {
    Subscriber {
        name,
        filter,
        presence,
        is_persistent: true,
        is_v5: true,
    }
}

/// `TIDEWIRE_TEST_SEED=7 TIDEWIRE_TEST_CRASHES=100 cargo test -p tidewire-broker --test it crash::`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_crashes_of_a_faulty_disk() {
    let seed = number_from("TIDEWIRE_TEST_SEED").unwrap_or(1);
    let crashes = number_from("TIDEWIRE_TEST_CRASHES").unwrap_or(CRASHES);
    let mut run = Run::new(seed, crashes, Defects::default());
    let found = run.go().await;
    println!("seed {seed}, {crashes} crashes: {}", run.summary());
    found.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    // Else the run would show nothing.
    run.world.ledger.with(|kept| {
        assert!(kept.acknowledged_total() as u64 > 20 * crashes);
        assert!(kept.repeated > 0 && kept.wills.len() as u64 > crashes / 2);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_acknowledges_before_the_commit_is_found_to_lose() {
    let defects = Defects {
        acknowledge_before_commit: true,
        ..Defects::default()
    };
    for seed in 0..20 {
        let mut run = Run::new(seed, CRASHES, defects.clone());
        run.patience = Duration::from_secs(3);
        if run.go().await.is_err() {
            return;
        }
    }
    panic!("no seed finds it");
}

fn number_from(variable: &str) -> Option<u64> {
    let number = std::env::var(variable).ok()?;
    Some(number.parse().expect("a number"))
}

/// Nodes one after the other on one disk, among clients that outlive them.
struct Run {
    random: Random,
    fs: FaultFs,
    crashes: u64,
    defects: Defects,
    patience: Duration,
    world: World,
    address: watch::Sender<Option<std::net::SocketAddr>>,
    stage: watch::Sender<Stage>,
    /// End with the run.
    clients: JoinSet<()>,
    /// Starts that a crash cut short.
    cut_short: u64,
}

impl Run {
    fn new(seed: u64, crashes: u64, defects: Defects) -> Self {
        let (address, addresses) = watch::channel(None);
        let (stage, stages) = watch::channel(Stage::Crashes);
        let world = World {
            ledger: Arc::new(Ledger::default()),
            address: addresses,
            stage: stages,
        };
        Self {
            random: Random::seeded(seed),
            fs: FaultFs::new(seed),
            crashes,
            defects,
            patience: PATIENCE + PATIENCE_PER_CRASH * u32::try_from(crashes).unwrap_or(u32::MAX),
            world,
            address,
            stage,
            clients: JoinSet::new(),
            cut_short: 0,
        }
    }

    /// Says what does not hold.
    async fn go(&mut self) -> Result<(), String> {
        for crash in 0..self.crashes {
            if crash > 0 && self.random.below(4) == 0 {
                self.fs.freeze_at(self.random.below(300));
            }
            let Some(life) = self.start().await? else {
                self.cut_short += 1;
                self.fs = self.fs.crash();
                continue;
            };
            if crash == 0 {
                self.begin().await?;
            }
            let operations = self.random.below(OPERATIONS_MAX);
            self.fs.freeze_at(self.fs.operations() + operations);
            soon("the end of the node", life.fatal.notified()).await;
            self.fs = self.fs.crash();
            self.address.send_replace(None);
            soon("the end of what runs", life.node.abandon()).await;
        }
        let life = self.start().await?.ok_or("the last disk stands")?;
        let found = self.rest().await;
        self.clients.shutdown().await;
        soon("the stop of the node", life.node.stop()).await;
        found
    }

    /// A node on the disk; none if the disk stops before it serves.
    async fn start(&self) -> Result<Option<Life>, String> {
        match start_on(&self.fs, faulty(), self.defects.clone()).await {
            Ok((TestNode { node, .. }, fatal)) => {
                self.address.send_replace(Some(node.mqtt));
                Ok(Some(Life { node, fatal }))
            }
            Err(StartError::Folder(_) | StartError::Membership(_)) if self.fs.is_frozen() => {
                Ok(None)
            }
            Err(error) => Err(format!("no start: {error}")),
        }
    }

    /// Has everybody subscribe, and then publish.
    async fn begin(&mut self) -> Result<(), String> {
        for subscriber in SUBSCRIBERS {
            self.clients.spawn(subscriber.run(self.world.clone()));
        }
        let all_are_ready = |kept: &Kept| kept.ready.len() == SUBSCRIBERS.len();
        self.wait("all are subscribed", all_are_ready).await?;
        for publisher in PUBLISHERS {
            self.clients.spawn(publisher.run(self.world.clone()));
        }
        self.clients.spawn(grower::run(self.world.clone()));
        self.clients.spawn(mourned::run(self.world.clone()));
        self.clients.spawn(retained::run(self.world.clone()));
        Ok(())
    }

    /// Lets the clients get all that is owed to them, and looks at it.
    async fn rest(&mut self) -> Result<(), String> {
        for stage in [Stage::Rest, Stage::Sentinels] {
            self.stage.send_replace(stage);
            let rests = |kept: &Kept, name: &str| kept.rested.get(name) == Some(&stage);
            let names = || PUBLISHERS.iter().map(|one| one.name).chain([GROWER]);
            self.wait("all is acknowledged", |kept| {
                names().all(|name| rests(kept, name))
            })
            .await?;
        }
        let delivered = self.wait("all is delivered", |kept| owed(kept).is_none());
        delivered.await.or_else(|late| {
            let owed = self.world.ledger.with(|kept| owed(kept));
            owed.map_or(Ok(()), |owed| Err(format!("{owed}: {late}")))
        })?;
        let looked = tokio::time::timeout(self.patience, retained::look(&self.world)).await;
        if !matches!(looked, Ok(Some(()))) {
            return Err("what is retained does not come".to_owned());
        }
        self.world
            .ledger
            .with(|kept| wrong(kept))
            .map_or(Ok(()), Err)
    }

    async fn wait(&mut self, what: &str, fits: impl Fn(&Kept) -> bool) -> Result<(), String> {
        let until = self.world.ledger.until(fits);
        let until = tokio::time::timeout(self.patience, until);
        tokio::pin!(until);
        loop {
            tokio::select! {
                waited = &mut until => {
                    return waited.map_err(|_| format!("it does not come to be that {what}"));
                }
                Some(ended) = self.clients.join_next() => {
                    ended.map_err(|error| format!("a client failed: {error}"))?;
                }
            }
        }
    }

    fn summary(&self) -> String {
        self.world.ledger.with(|kept| {
            format!(
                "{} starts cut short, {} acknowledged, {} sent again, {} got, {} wills",
                self.cut_short,
                kept.acknowledged_total(),
                kept.repeated,
                kept.got.values().map(Vec::len).sum::<usize>(),
                kept.wills.len(),
            )
        })
    }
}

/// A node that runs, and who hears of its end.
struct Life {
    node: Node,
    fatal: Arc<Notify>,
}

/// Few shards, state files that are written often, and payloads that leave memory.
fn faulty() -> Config {
    let mut config = config();
    config.data = PathBuf::from("/data");
    config.cluster.shards = 4;
    config.cluster.state_flush_age = Duration::from_millis(100);
    config.memory_bytes_limit = Some(1 << 20);
    // What a full queue drops would count as lost here.
    config.mqtt.queue_messages_limit = 1_000_000;
    config.mqtt.queue_bytes_limit = 1 << 30;
    config
}

/// What somebody has not got yet.
fn owed(kept: &Kept) -> Option<String> {
    let lost = |publishers: &[&'static str], subscribers: &[&str]| {
        let (publisher, number) = kept.lost(publishers, subscribers)?;
        Some(format!(
            "{number} of {publisher} is lost to {subscribers:?}"
        ))
    };
    let each = EACH.iter().find_map(|one| lost(&QUEUED, &[one]));
    let each = each.or_else(|| lost(&QUEUED, &MEMBERS));
    let each = each.or_else(|| lost(&[GROWER], &[GROWER]));
    each.or_else(|| {
        let mut cut = kept.cut.iter();
        let lost = cut.find(|client| !kept.wills.contains(client))?;
        Some(format!("the will of {lost} is lost"))
    })
}

/// What was promised and does not hold.
fn wrong(kept: &Kept) -> Option<String> {
    let mut subscribers = EACH.iter().chain([&GROWER]);
    let disorder = subscribers.find_map(|one| kept.disorder(one, &QOS_2));
    let broken = disorder.or_else(|| kept.broken.first().cloned());
    broken.or_else(|| {
        let mut wills = kept.wills.clone();
        wills.sort_unstable();
        let twice = wills.windows(2).find(|two| two[0] == two[1])?;
        Some(format!("the will of {} came twice", twice[0]))
    })
}
