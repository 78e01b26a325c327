//! A shard that is stuck, because its state file finds no space, beside one that is not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mqtt::{Packet, PacketId, QoS};
use runtime::ManualClock;
use storage::fs::{Error, FaultFs, File, FolderLock, Fs, LockError, Operation};
use tidewire_broker::{Environment, Node};

use crate::harness::{Dial, TestNode, config, publish};

/// The state file of the shard that gets stuck.
const STUCK_FILE: &str = "shard-0000.redb";
const SHARDS: u16 = 2;
/// What floods the stuck shard, 12 MiB: what its log still takes before it is stuck (a MiB of payloads that
/// wait for the flush and one entry), and then more than may be under way to all shards (4 MiB).
const PUBLISHERS: u16 = 8;
const WINDOW: u16 = 32;
const PAYLOAD_BYTES: usize = 48 << 10;
const UNDER_WAY_BYTES: u64 = 4 << 20;
/// The longest pause before a state file is tried again, twice, in milliseconds of the node's clock.
const HEALING_MS: u64 = 20_000;
const STEP_MS: u64 = 100;
/// How long all acknowledgements are waited for: a condition ends that, not the time.
const PATIENCE: Duration = Duration::from_secs(180);

/// A disk on which one file finds no space at times.
#[derive(Debug, Clone)]
struct Crowded {
    fs: FaultFs,
    is_full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct CrowdedFile {
    file: Arc<dyn File>,
    /// Whether it finds no space; none for other files.
    is_full: Option<Arc<AtomicBool>>,
}

impl Crowded {
    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        let is_it = file.path().ends_with(STUCK_FILE);
        Arc::new(CrowdedFile {
            file,
            is_full: is_it.then(|| Arc::clone(&self.is_full)),
        })
    }
}

impl CrowdedFile {
    fn room(&self, operation: Operation) -> Result<(), Error> {
        let is_full = self.is_full.as_ref();
        if is_full.is_none_or(|is_full| !is_full.load(Ordering::SeqCst)) {
            return Ok(());
        }
        Err(Error {
            operation,
            path: self.path().to_owned(),
            source: io::ErrorKind::StorageFull.into(),
        })
    }
}

impl Fs for Crowded {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        self.fs.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        self.fs.open(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.fs.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        self.fs.unlink(path)
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        self.fs.sync_dir(folder)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        self.fs.list(folder)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        self.fs.exists(path)
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        self.fs.create_dir_all(folder)
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        self.fs.lock(folder)
    }
}

impl File for CrowdedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.room(Operation::Write)?;
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.file.read_at(offset, buffer)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.file.sync_data()
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.room(Operation::Preallocate)?;
        self.file.preallocate(offset, len)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.room(Operation::SetLen)?;
        self.file.set_len(len)
    }

    fn len(&self) -> Result<u64, Error> {
        self.file.len()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

/// A client id whose session is in this shard.
fn client_of(shard: u16, name: &str) -> String {
    let mut ids = (0..).map(|nth| format!("{name}-{nth}"));
    let id = ids.find(|id| telemetry::bucket_of(id.as_bytes(), u32::from(SHARDS)) == shard);
    id.expect("ids without end")
}

/// A session of this shard that is subscribed to a topic, and away.
async fn away(node: &TestNode, id: &str, topic: &str) {
    let (mut client, _) = node.connect(Dial::v5(id).persistent()).await;
    client.subscribe(topic, QoS::AtLeastOnce).await;
    client.leave(mqtt::ReasonCode::Success).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stuck_shard_has_not_answered_stops_no_publisher_of_another() {
    let clock = ManualClock::at(1_800_000_000_000);
    let disk = Crowded {
        fs: FaultFs::new(1),
        is_full: Arc::new(AtomicBool::new(false)),
    };
    let node = start(&disk, &clock).await;
    let (stuck, healthy) = (client_of(0, "stuck"), client_of(1, "healthy"));
    away(&node, &stuck, "stuck").await;
    away(&node, &healthy, "healthy").await;
    let mut publisher = node.clean("publisher").await;
    publisher.publish("healthy", QoS::AtLeastOnce, "0").await;

    let mut clients = Vec::new();
    for nth in 0..PUBLISHERS {
        // A shard that is stuck takes no connection either.
        clients.push(node.clean(&client_of(1, &format!("p{nth}"))).await);
    }
    disk.is_full.store(true, Ordering::SeqCst);
    let mut floods = tokio::task::JoinSet::new();
    for (nth, mut client) in clients.into_iter().enumerate() {
        floods.spawn(async move {
            let payload = "x".repeat(PAYLOAD_BYTES);
            let all = (1..=WINDOW).map(|id| {
                let mut message = publish("stuck", QoS::AtLeastOnce, &format!("{nth} {payload}"));
                message.packet_id = PacketId::new(id);
                Packet::Publish(message)
            });
            let bytes = client.encode(&all.collect::<Vec<_>>());
            client.raw(&bytes).await;
            for id in 1..=WINDOW {
                match client.packet().await {
                    Packet::PubAck(ack) => assert_eq!(ack.packet_id.get(), id),
                    other => panic!("no PUBACK but {other:?}"),
                }
            }
        });
    }
    node.until("tidewire_raft_state_flushes_refused_total", |n| n > 0)
        .await;
    // There is no room for anything more, for whatever shard it is.
    node.until("tidewire_session_under_way_bytes", |bytes| {
        bytes >= UNDER_WAY_BYTES
    })
    .await;

    // The shard counts as stuck now, and nobody waits for it but its own publishers.
    clock.advance_ms(6_000);
    for number in 1..20 {
        let text = number.to_string();
        publisher.publish("healthy", QoS::AtLeastOnce, &text).await;
    }
    assert!(node.metric("tidewire_session_under_way_bytes").await >= UNDER_WAY_BYTES);

    disk.is_full.store(false, Ordering::SeqCst);
    let healing = async {
        // Until the state file is offered again what it refused, and not until publishers are given up
        // (`settle_deadline`), however slow the machine is.
        let mut passed_ms = 0;
        while !floods.is_empty() {
            if passed_ms < HEALING_MS {
                clock.advance_ms(STEP_MS);
                passed_ms += STEP_MS;
            }
            let step = tokio::time::timeout(Duration::from_millis(STEP_MS), floods.join_next());
            if let Ok(Some(flood)) = step.await {
                flood.expect("all is acknowledged");
            }
        }
    };
    let healed = tokio::time::timeout(PATIENCE, healing).await;
    healed.expect("all is acknowledged");
    let (mut reader, _) = node.connect(Dial::v5(&healthy).persistent()).await;
    for number in 0..20 {
        assert_eq!(reader.text().await, number.to_string());
    }
    let (mut reader, _) = node.connect(Dial::v5(&stuck).persistent()).await;
    for _ in 0..PUBLISHERS * WINDOW {
        assert!(reader.text().await.len() > PAYLOAD_BYTES);
    }
    drop((publisher, reader));
    node.stop().await;
}

async fn start(disk: &Crowded, clock: &ManualClock) -> TestNode {
    let mut config = config();
    config.data = "/data".into();
    config.cluster.shards = SHARDS;
    config.memory_bytes_limit = Some(16 << 20);
    config.mqtt.queue_bytes_limit = 64 << 20;
    let environment = Environment {
        fs: Arc::new(disk.clone()),
        clock: Arc::new(clock.clone()),
        ..Environment::default()
    };
    let node = Node::start_in(config, environment)
        .await
        .expect("it starts");
    TestNode::without_folder(node)
}
