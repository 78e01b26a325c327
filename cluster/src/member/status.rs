//! What an operator may want to see of the cluster, as one node knows it.

use std::collections::BTreeMap;

use cluster_core::{BucketId, Group, NodeEpoch, NodeId, Offer, StartCount};

/// The cluster at one moment, at most 500 ms ago.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// This node.
    pub node: NodeId,
    /// Its epoch, if one is begun and has not ended.
    pub epoch: Option<NodeEpoch>,
    /// Whether the epoch has all that it waits for before it serves.
    pub is_entered: bool,
    /// How long the lease lasts yet, in milliseconds; 0 if none is held, the maximum for a lone
    /// node.
    pub lease_ms: u64,
    /// The index of meta that this node has applied.
    pub meta_applied: u64,
    /// The index of the routes that it has applied.
    pub routes_applied: u64,
    /// Members, itself among them.
    pub members: BTreeMap<NodeId, MemberRow>,
    /// Groups.
    pub groups: BTreeMap<Group, GroupRow>,
    /// Buckets with rows that are being moved.
    pub bucket_moves: BTreeMap<BucketId, BucketMove>,
}

/// The move of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketMove {
    /// Its owner until the move ends.
    pub from: NodeId,
    /// Its owner then.
    pub to: NodeId,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRow {
    /// Where it is dialed.
    pub address: String,
    /// Its epoch that has not ended.
    pub epoch: Option<NodeEpoch>,
    /// Its last start that began an epoch.
    pub start: StartCount,
    /// Whether this node hears it; itself it does.
    pub is_heard: bool,
    /// Whether no quorum hears it.
    pub is_suspected: bool,
    /// Whether it is to give up what it holds.
    pub is_leaving: bool,
    /// Replicas that it is yet to delete.
    pub leftovers: usize,
    /// Shards that it leads.
    pub leads: usize,
    /// Buckets of telemetry that it owns.
    pub buckets: usize,
    /// Those of them that hold rows.
    pub buckets_with_rows: usize,
    /// What it offers.
    pub offer: Offer,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRow {
    /// Version of the row in meta's map.
    pub version: u64,
    /// The nodes at which an operator wants its replicas, and keeps them.
    pub pinned: Option<Vec<NodeId>>,
    /// The nodes of its voters as meta has them, the preferred leader first.
    pub voters: Vec<NodeId>,
    /// The nodes of its learners.
    pub learners: Vec<NodeId>,
    /// Who says that it leads.
    pub leader: Option<NodeId>,
    /// The term of its leadership.
    pub term: u64,
    /// Where it is being moved to.
    pub moving: Option<Moving>,
    /// How many entries each other replica is behind, if the group is led here.
    pub lags: BTreeMap<NodeId, u64>,
}

/// A move under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moving {
    /// Voters when it ends.
    pub voters: Vec<NodeId>,
    /// Learners when it ends.
    pub learners: Vec<NodeId>,
    /// Whether it was given up.
    pub is_aborted: bool,
}
