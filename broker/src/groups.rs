//! The Raft groups of a node: opened, founded, entered under an epoch of their own, and left.

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::raft::{Fatal, Group, OpenError, RaftNode, Unproposed};
use cluster::{MetaEntry, MetaMachine, RoutesConfig, RoutesMachine, ShardConfig, ShardMachine};
use cluster_core::{
    Begin, EndReason, EpochView, FeatureLevel, Found, MetaAnswer, MetaCommand, NodeEpoch, NodeId,
    WallMs,
};
use runtime::Clock;
use storage::fs::RealFs;
use storage::raft::GroupId;

use crate::Config;
use crate::data_folder::{Birth, DataFolder};
use crate::memory::Plan;

/// What this program reads and writes.
const LEVEL: FeatureLevel = FeatureLevel(1);
/// Folder of the log and the state files below the data folder.
const FOLDER: &str = "raft";
/// Numbers of the groups in the node's log.
const META: GroupId = GroupId(0);
const ROUTES: GroupId = GroupId(1);
const SHARDS_FROM: u32 = 16;
/// Longest wait for the end of the epoch at a stop.
const END_WAIT: Duration = Duration::from_secs(5);

/// Why the groups do not start. The folder is as a crash would have left it.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// The log, or the state of a group, cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The meta group refuses this node.
    #[error("the meta group refuses the start of node {node}: {reason}")]
    Refused {
        /// The node.
        node: u32,
        /// Why.
        reason: String,
    },
}

/// The groups of a node whose epoch has begun.
pub(crate) struct Groups {
    pub(crate) raft: RaftNode,
    pub(crate) meta: Group<MetaMachine>,
    pub(crate) routes: Group<RoutesMachine>,
    pub(crate) shards: Vec<Group<ShardMachine>>,
    /// The epoch of this run.
    pub(crate) epoch: NodeEpoch,
    /// The epochs that are current.
    pub(crate) epochs: EpochView,
    /// What the parts of the node may occupy.
    pub(crate) memory: Plan,
    clock: Arc<dyn Clock>,
}

impl Groups {
    /// Opens the groups of a lone node, makes the cluster if the folder is new, and begins an
    /// epoch: the one that this folder had ends with it.
    ///
    /// # Errors
    /// Nothing runs.
    pub(crate) async fn start(
        config: &Config,
        folder: &DataFolder,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, GroupsError> {
        let raft = open(&config.data.join(FOLDER), folder, config, clock).await?;
        let meta = raft.start_group::<MetaMachine>(META, "meta", ()).await?;
        let (epoch, epochs) = begin(&meta, folder, clock).await?;
        let rows_max = config.cluster.routes_limit;
        let routes = raft
            .start_group::<RoutesMachine>(ROUTES, "routes", RoutesConfig { rows_max })
            .await?;
        let shards = start_shards(&raft, config).await?;
        tracing::info!(%epoch, shards = shards.len(), "the groups of this node are led here");
        Ok(Self {
            raft,
            meta,
            routes,
            shards,
            epoch,
            epochs,
            memory: config.memory(),
            clock: Arc::clone(clock),
        })
    }

    /// Ends the epoch in meta and closes the log: the next start has nothing to end.
    pub(crate) async fn stop(self) {
        let ended = MetaCommand::End {
            epoch: self.epoch,
            reason: EndReason::Stopped,
        };
        match tokio::time::timeout(END_WAIT, propose(&self.meta, &self.clock, ended)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the epoch was not ended in meta"),
            Err(_) => tracing::warn!("the epoch was not ended in meta within {END_WAIT:?}"),
        }
        if let Err(error) = self.raft.close().await {
            tracing::warn!(%error, "the groups were not closed in order");
        }
    }
}

/// Starts the shards beside each other: each waits for the disk most of the time.
async fn start_shards(
    raft: &RaftNode,
    config: &Config,
) -> Result<Vec<Group<ShardMachine>>, OpenError> {
    let limits = config.shard();
    let start = |shard: u16| {
        let raft = raft.clone();
        tokio::spawn(async move {
            let id = GroupId(SHARDS_FROM + u32::from(shard));
            let name = format!("shard-{shard:04}");
            raft.start_group::<ShardMachine>(id, &name, ShardConfig { limits })
                .await
        })
    };
    let starting: Vec<_> = (0..config.cluster.shards).map(start).collect();
    let mut shards = Vec::with_capacity(starting.len());
    for shard in starting {
        shards.push(shard.await.expect("starting a group does not panic")?);
    }
    Ok(shards)
}

async fn open(
    path: &Path,
    folder: &DataFolder,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<RaftNode, GroupsError> {
    let raft = config.raft(path.to_owned(), u64::from(folder.identity.node));
    let on_fatal = Arc::new(|fatal: Fatal| {
        // Nothing may be acknowledged any more (SEMANTICS, Damage): the process ends here and now.
        tracing::error!(%fatal, "the process ends");
        std::process::abort();
    });
    let clock = Arc::clone(clock);
    let opening = tokio::task::spawn_blocking(move || {
        RaftNode::open(Arc::new(RealFs), clock, raft, on_fatal)
    });
    let opened = opening.await.expect("opening the log does not panic");
    Ok(opened?)
}

/// Makes the cluster if there is none, and begins an epoch of this node.
async fn begin(
    meta: &Group<MetaMachine>,
    folder: &DataFolder,
    clock: &Arc<dyn Clock>,
) -> Result<(NodeEpoch, EpochView), GroupsError> {
    let identity = &folder.identity;
    let node = NodeId(identity.node);
    let Birth { folder, start } = folder.birth;
    let positive = |number| NonZeroU16::new(number).expect("validated");
    if meta.with(|machine| machine.meta().shards()) == 0 {
        let found = MetaCommand::Found(Found {
            node,
            folder,
            shards: positive(identity.shards),
            buckets: positive(identity.buckets),
            level: LEVEL,
        });
        answer(meta, clock, node, found).await?;
    }
    let begin = MetaCommand::Begin(Begin {
        node,
        folder,
        start,
        address: String::new(),
        level: LEVEL,
    });
    match answer(meta, clock, node, begin).await? {
        MetaAnswer::Begun { epoch } => {
            let epochs = meta.with(|machine| machine.meta().epochs());
            Ok((epoch, epochs))
        }
        other => unreachable!("a Begin is not answered with {other:?}"),
    }
}

async fn answer(
    meta: &Group<MetaMachine>,
    clock: &Arc<dyn Clock>,
    node: NodeId,
    command: MetaCommand,
) -> Result<MetaAnswer, GroupsError> {
    let refused = |reason: String| GroupsError::Refused {
        node: node.0,
        reason,
    };
    match propose(meta, clock, command).await {
        Ok(MetaAnswer::Refused(refusal)) => Err(refused(refusal.to_string())),
        Ok(answer) => Ok(answer),
        Err(error) => Err(refused(error.to_string())),
    }
}

async fn propose(
    meta: &Group<MetaMachine>,
    clock: &Arc<dyn Clock>,
    command: MetaCommand,
) -> Result<MetaAnswer, Unproposed> {
    let time = WallMs(clock.wall_ms());
    let answer = meta
        .propose(MetaEntry { time, command }.encode().into())
        .await;
    // Whoever holds the epochs reads them; nobody waits for effects of meta on a lone node.
    meta.with(|machine| while machine.meta_mut().poll_effect().is_some() {});
    answer
}
