//! What is written to the meta group's log, and what applying it answers.

use std::num::NonZeroU16;

use mqtt::Templates;

use super::{BucketClaim, Offer, Pin};
use crate::{
    BucketId, FeatureLevel, FolderId, Incarnation, NodeEpoch, NodeId, RaftId, ShardId, StartCount,
};

/// An entry of meta's log. Applied whole by [`super::Meta::apply`]. A repeat is answered as the
/// first was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// Makes the cluster: its founder holds every shard and every bucket. Answers
    /// [`MetaAnswer::Joined`].
    Found(Found),
    /// The same, with device-owned templates that are as fixed as its numbers. Answers
    /// [`MetaAnswer::Joined`].
    FoundWith {
        /// All else.
        found: Found,
        /// The templates; never none.
        templates: Templates,
    },
    /// Makes a data folder a member. Answers [`MetaAnswer::Joined`].
    Join(Join),
    /// Begins an epoch of a member, and ends the one it had. Answers [`MetaAnswer::Begun`].
    Begin(Begin),
    /// Ends an epoch. Answers [`MetaAnswer::Done`].
    End {
        /// The epoch.
        epoch: NodeEpoch,
        /// Why.
        reason: EndReason,
    },
    /// Removes a member that holds nothing and does not run. Answers [`MetaAnswer::Done`].
    Leave {
        /// The member; its number is never given again.
        node: NodeId,
    },
    /// Puts the voters of a row of the shard map in another order: who should lead. Nodes come and
    /// go by [`MetaCommand::StartMove`] only. Answers [`MetaAnswer::Done`].
    Place {
        /// The shard.
        shard: ShardId,
        /// [`super::ShardRow::version`] of the row it replaces.
        expected: u64,
        /// Where the shard is to be.
        placement: Placement,
    },
    /// Gives a bucket without rows to another owner, under a new epoch. Answers [`MetaAnswer::Done`].
    Assign {
        /// The bucket.
        bucket: BucketId,
        /// [`super::BucketRow::epoch`] of the row it replaces.
        expected: u64,
        /// The new owner.
        owner: NodeId,
    },
    /// Lets the cluster use what all members understand. Answers [`MetaAnswer::Done`].
    RaiseLevel {
        /// The level from now on; lower than the present one changes nothing.
        level: FeatureLevel,
    },
    /// Raises the incarnation of a group, and nothing else. Answers [`MetaAnswer::Recovered`]. Nobody
    /// proposes it: a shard is recovered by [`Self::RecoverShard`], and logs may hold it.
    Recover {
        /// The group.
        group: Group,
        /// The incarnation that was found wanting; a repeat names one that is past.
        expected: Incarnation,
    },
    /// Begins to bring a group to other nodes, or a node's replica of it back under a new Raft id.
    /// The group's leader does the rest. Answers [`MetaAnswer::Done`].
    StartMove(StartMove),
    /// Gives a move up before its joint change: the group is to be where it was. Answers
    /// [`MetaAnswer::Done`].
    AbortMove {
        /// The group.
        group: Group,
        /// [`super::MoveRow::version`] of the row.
        expected: u64,
    },
    /// The group has the members that the move's row asks for, committed: the placement is theirs.
    /// Answers [`MetaAnswer::Done`].
    EndMove {
        /// The group.
        group: Group,
        /// [`super::MoveRow::version`] of the row.
        expected: u64,
    },
    /// A node has deleted a replica that is no member any longer. Answers [`MetaAnswer::Done`].
    Removed(Leftover),
    /// Says whether a member is to give up what it holds. Answers [`MetaAnswer::Done`].
    Drain {
        /// The member.
        node: NodeId,
        /// Whether it is to leave.
        is_leaving: bool,
    },
    /// Gives a member those of these buckets that hold no row and whose rows of the table are as it
    /// has read them. Answers [`MetaAnswer::Done`]; the table says which.
    TakeBuckets {
        /// The member.
        node: NodeId,
        /// What it wants.
        claims: Vec<BucketClaim>,
    },
    /// Says that an owner is about to take rows of buckets: from now on they go by moves alone. A bucket
    /// that it does not own under that epoch is passed over. Answers [`MetaAnswer::Done`]; the table
    /// says which.
    HoldRows {
        /// The owner.
        node: NodeId,
        /// The buckets.
        claims: Vec<BucketClaim>,
    },
    /// Has a bucket with rows moved to another member, whatever move of it is under way; to its owner,
    /// the move is given up. The row's epoch must be the claim's, and is another then. Answers
    /// [`MetaAnswer::Done`].
    MoveBucket {
        /// The bucket.
        claim: BucketClaim,
        /// Its next owner.
        to: NodeId,
    },
    /// The next owner has all rows of a bucket: it is the owner. The row must be that of the move.
    /// Answers [`MetaAnswer::Done`].
    BucketMoved {
        /// The bucket.
        claim: BucketClaim,
        /// Its next owner.
        to: NodeId,
    },
    /// Has a replica of a shard moved, and the shard stay where it is then, until [`Self::Unpin`], or a
    /// drain of one of its nodes. The planner begins the move. Answers [`MetaAnswer::Done`].
    Pin(Pin),
    /// Has a shard placed by the ring again. Answers [`MetaAnswer::Done`].
    Unpin {
        /// The shard.
        shard: ShardId,
    },
    /// Says what a member offers. Answers [`MetaAnswer::Done`].
    Offer {
        /// The member.
        node: NodeId,
        /// What.
        offer: Offer,
    },
    /// Has a shard whose majority is lost go on with what one replica has, under a raised incarnation.
    /// Answers [`MetaAnswer::Recovered`].
    RecoverShard(RecoverShard),
}

/// See [`MetaCommand::StartMove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartMove {
    /// The group.
    pub group: Group,
    /// Version of the group's row in the map.
    pub expected: u64,
    /// Where it is to be.
    pub to: Placement,
    /// A node of both placements whose replica is damaged: it gets a new Raft id.
    pub renewed: Option<NodeId>,
}

/// See [`MetaCommand::RecoverShard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverShard {
    /// The shard.
    pub shard: ShardId,
    /// [`super::ShardRow::version`] of the row that was read.
    pub expected: u64,
    /// Whose replica the shard is to go on with.
    pub node: NodeId,
}

/// A replica that is no member of its group any longer and may still lie on its node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leftover {
    /// The node.
    pub node: NodeId,
    /// The group.
    pub group: Group,
    /// The replica.
    pub replica: RaftId,
}

/// See [`MetaCommand::Found`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The founder.
    pub node: NodeId,
    /// Its data folder.
    pub folder: FolderId,
    /// Session shards, fixed for ever.
    pub shards: NonZeroU16,
    /// Buckets of telemetry, fixed for ever.
    pub buckets: NonZeroU16,
    /// What the founder understands.
    pub level: FeatureLevel,
}

/// See [`MetaCommand::Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The number wanted; `None` for the lowest never used.
    pub node: Option<NodeId>,
    /// The data folder, by which a repeat is known.
    pub folder: FolderId,
    /// What the node understands.
    pub level: FeatureLevel,
}

/// See [`MetaCommand::Begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The member.
    pub node: NodeId,
    /// Its data folder: only there it may end its own epoch.
    pub folder: FolderId,
    /// Counted and synced in the folder before each `Begin`, so that one delayed from an earlier
    /// start cannot end a later start's epoch.
    pub start: StartCount,
    /// Where peers reach it; empty for a lone node.
    pub address: String,
    /// What it understands.
    pub level: FeatureLevel,
}

/// Why an epoch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The node stopped in order.
    Stopped,
    /// Its lease ran out and a quorum did not hear it.
    Dead,
    /// It started again on its own folder.
    Restarted,
}

/// Where a shard is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Voters, the preferred leader first.
    pub voters: Vec<NodeId>,
    /// Learners: the way in of a move, or the second of two nodes.
    pub learners: Vec<NodeId>,
}

impl Placement {
    /// The node that should lead.
    pub fn leader(&self) -> Option<NodeId> {
        self.voters.first().copied()
    }

    /// Whether the same nodes have the same parts, whoever should lead.
    pub fn has_roles_of(&self, other: &Self) -> bool {
        let same = |a: &[NodeId], b: &[NodeId]| {
            a.len() == b.len() && a.iter().all(|node| b.contains(node))
        };
        same(&self.voters, &other.voters) && same(&self.learners, &other.learners)
    }

    /// Voters and learners.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().chain(&self.learners).copied()
    }
}

/// A Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Members, epochs, maps.
    Meta,
    /// Who wants which topics.
    Routes,
    /// Sessions.
    Shard(ShardId),
}

/// What applying a [`MetaCommand`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaAnswer {
    /// It is so now.
    Done,
    /// The folder is this member's.
    Joined {
        /// The member.
        node: NodeId,
    },
    /// The epoch is begun.
    Begun {
        /// The epoch.
        epoch: NodeEpoch,
    },
    /// The group counts under this incarnation.
    Recovered {
        /// The incarnation.
        incarnation: Incarnation,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// Why a [`MetaCommand`] changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no cluster yet.
    #[error("the cluster is not founded")]
    NotFounded,
    /// Another founder, or other fixed numbers.
    #[error("the cluster is founded with {shards} shards and {buckets} buckets")]
    Founded {
        /// Its shards.
        shards: u16,
        /// Its buckets.
        buckets: u16,
    },
    /// The node number was given to another folder.
    #[error("node {0} belongs to another data folder")]
    OtherFolder(NodeId),
    /// The folder is another member's.
    #[error("the data folder belongs to node {0}")]
    FolderTaken(NodeId),
    /// No such member.
    #[error("node {0} is no member")]
    NoMember(NodeId),
    /// A later start of the node has asked already.
    #[error("start {asked} of node {node} is older than start {known}")]
    OldStart {
        /// The member.
        node: NodeId,
        /// The refused start.
        asked: StartCount,
        /// The last start.
        known: StartCount,
    },
    /// The node understands less than the cluster uses.
    #[error("feature level {asked} is below the cluster's {level}")]
    LevelTooLow {
        /// The node's.
        asked: FeatureLevel,
        /// The cluster's.
        level: FeatureLevel,
    },
    /// Not all members understand the level.
    #[error("node {node} understands feature level {level} only")]
    MemberBehind {
        /// The member.
        node: NodeId,
        /// Its level.
        level: FeatureLevel,
    },
    /// The row was replaced since the proposer read it.
    #[error("the row is at {current}")]
    Changed {
        /// Version or epoch of the row.
        current: u64,
    },
    /// The group is being moved by a row of this version.
    #[error("the group is being moved, by the row of version {version}")]
    Moving {
        /// Version of the row.
        version: u64,
    },
    /// As many moves as may be touch the node.
    #[error("{limit} moves touch node {node} already")]
    Busy {
        /// The node.
        node: NodeId,
        /// The bound.
        limit: usize,
    },
    /// The node is to give up what it holds.
    #[error("node {0} is leaving")]
    Leaving(NodeId),
    /// The peer belongs to another cluster.
    #[error("the node belongs to cluster {asked:032x}, this is cluster {known:032x}")]
    OtherCluster {
        /// The peer's, which is its founder's data folder.
        asked: u128,
        /// This one.
        known: u128,
    },
    /// No such shard or bucket, or a placement that is none.
    #[error("{0}")]
    Invalid(&'static str),
    /// The member runs, or holds replicas or buckets.
    #[error("node {0} still runs or holds replicas or buckets")]
    StillNeeded(NodeId),
    /// A bound of the state is reached.
    #[error("{what} is limited to {limit}")]
    Full {
        /// What there would be too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The node has no replica of the shard.
    #[error("node {0} has no replica of the shard")]
    HoldsNone(NodeId),
    /// The node has a replica of the shard already.
    #[error("node {0} has a replica of the shard already")]
    HoldsOne(NodeId),
    /// The node does not run.
    #[error("node {0} does not run")]
    Away(NodeId),
    /// The shard has its majority: it needs no recovery.
    #[error("{alive} of the shard's {voters} voters run: nothing is lost")]
    NotLost {
        /// Voters on nodes with an epoch.
        alive: usize,
        /// All of them.
        voters: usize,
    },
}
