//! What hosts a shard in a test: brings commands into its log, and asks what is to be done.

use std::sync::Arc;

use cluster_core::{Attempt, Body, EpochView, LogTime, NodeEpoch, WallMs};
use session::{Answer, Command, Delivery, DeliveryStep, DurableEffect, Limits, Message};
use storage::fs::FaultFs;
use storage::raft::GroupId;

use super::Group;
use super::test_node::TestNode;
use crate::{
    Machine, Outcome, ShardConfig, ShardEntry, ShardItem, ShardMachine, decode_message,
    message_row_key,
};

/// Why a life of a node ends before its time.
#[derive(Debug)]
pub(super) enum Stop {
    /// The disk stands still: what was asked for last may have happened or not.
    StoodStill,
    /// Something that was promised does not hold.
    Broken(String),
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

/// A shard whose deliveries have to read what is flushed.
pub(super) fn limits() -> Limits {
    Limits {
        payload_cache_bytes: 0,
        ..Limits::default()
    }
}

/// The view of a lone node in this epoch.
pub(super) fn view(epoch: NodeEpoch) -> EpochView {
    EpochView {
        index: epoch.0,
        begun: epoch,
        current: [epoch].into(),
    }
}

/// Starts a group.
pub(super) async fn start<M: Machine>(
    node: &TestNode,
    id: u32,
    name: &str,
    config: M::Config,
) -> Result<Group<M>, Stop>
where
    M::Config: Send,
{
    match node.node.start_group(GroupId(id), name, config).await {
        Ok(group) => Ok(group),
        Err(_) if node.fs.is_frozen() => Err(Stop::StoodStill),
        Err(error) => Err(Stop::Broken(error.to_string())),
    }
}

/// A shard that is led in an epoch of its node.
pub(super) struct TestShard {
    group: Group<ShardMachine>,
    fs: FaultFs,
    epoch: NodeEpoch,
    n: u64,
}

impl TestShard {
    /// Starts the group; the sessions of earlier epochs are disconnected.
    pub(super) async fn begin(
        node: &TestNode,
        id: u32,
        name: &str,
        epoch: NodeEpoch,
    ) -> Result<Self, Stop> {
        let limits = limits();
        let shard = Self {
            group: start(
                node,
                id,
                name,
                ShardConfig {
                    limits,
                    ..ShardConfig::default()
                },
            )
            .await?,
            fs: node.fs.clone(),
            epoch,
            n: 0,
        };
        shard.propose(ShardItem::Epochs(view(epoch))).await?;
        shard.group.with(|machine| {
            machine.durable_mut().handle_lead();
        });
        Ok(shard)
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut ShardMachine) -> R) -> R {
        self.group.with(f)
    }

    async fn propose(&self, item: ShardItem) -> Result<Outcome, Stop> {
        let time = LogTime {
            time: WallMs(1_000 * self.epoch.0),
            wall: None,
        };
        let items = vec![item];
        let entry = ShardEntry { time, items }.encode();
        let outcomes = self.group.propose(entry.into()).await;
        let outcomes = outcomes.map_err(|_| Stop::StoodStill)?;
        let [outcome] = <[Outcome; 1]>::try_from(outcomes).expect("an outcome for each item");
        Ok(outcome)
    }

    /// Brings a command in as the next of the node's stream.
    pub(super) async fn command(&mut self, command: Command) -> Result<Answer, Stop> {
        let item = ShardItem::Item {
            epoch: self.epoch,
            attempt: Attempt(0),
            n: self.n,
            body: Body::Item(command),
        };
        self.n += 1;
        match self.propose(item).await? {
            Outcome::Applied(answer) => Ok(answer),
            other => panic!("the stream is broken: {other:?}"),
        }
    }

    /// Brings a command of the shard's leader in.
    pub(super) async fn duty(&self, command: Command) -> Result<(), Stop> {
        self.propose(ShardItem::Duty(command)).await.map(drop)
    }

    /// The next thing to do, payloads read.
    pub(super) fn effect(&self) -> Result<Option<DurableEffect>, Stop> {
        loop {
            let effect = self.with(|machine| machine.durable_mut().poll_effect());
            let Some(DurableEffect::Load { message: id }) = effect else {
                return Ok(effect);
            };
            let (kind, key) = message_row_key(id);
            let row = match self.group.read_row(kind, &key) {
                Ok(row) => row.expect("a flushed message has its row"),
                Err(_) if self.fs.is_frozen() => return Err(Stop::StoodStill),
                Err(error) => return Err(Stop::Broken(error.to_string())),
            };
            let content = Arc::new(decode_message(id, &row).expect("a whole row"));
            self.with(|machine| machine.durable_mut().handle_loaded(id, content));
        }
    }
}

/// A message of this number, to the topic `t`.
pub(super) fn message(number: u64, qos: mqtt::QoS, bytes: usize) -> Arc<Message> {
    let mut payload = vec![0; bytes.max(8)];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    Arc::new(Message {
        topic: mqtt::Topic::try_from("t").expect("a topic"),
        payload: payload.into(),
        qos,
        retain: false,
        properties: None,
        publisher: None,
        received: session::WallMs(0),
        expiry: None,
    })
}

pub(super) fn number_of(message: &Message) -> u64 {
    let number = message.payload.first_chunk().expect("eight bytes");
    u64::from_le_bytes(*number)
}

pub(super) fn published(delivery: &Delivery) -> &Message {
    match &delivery.step {
        DeliveryStep::Publish { message, .. } => message,
        DeliveryStep::Release => panic!("nothing is released here"),
    }
}
