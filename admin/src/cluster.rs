//! The cluster as one node knows it: `GET /v1/cluster`.

use serde::{Deserialize, Serialize};

use crate::node::NodeInfo;

/// Members and groups, at most 500 ms old.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The node that answers.
    pub node: u32,
    /// Its epoch, if one is begun and has not ended.
    pub epoch: Option<u64>,
    /// Whether the node may promise anything: its epoch serves and its lease lasts.
    pub has_lease: bool,
    /// How long the lease lasts yet, in milliseconds; absent for a lone node, whose lease has no
    /// end.
    pub lease_ms: Option<u64>,
    /// Members, by number.
    pub members: Vec<MemberStatus>,
    /// Groups: meta, routes, then the shards by number.
    pub groups: Vec<GroupStatus>,
    /// Buckets of telemetry that are being moved with their rows, by number.
    #[serde(default)]
    pub bucket_moves: Vec<BucketMove>,
}

/// A bucket that is being moved: the next owner copies what the owner has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketMove {
    /// Its number.
    pub bucket: u16,
    /// The owner.
    pub from: u32,
    /// The next owner.
    pub to: u32,
}

/// All members, each with what it says about itself: `GET /v1/cluster/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// By number.
    pub members: Vec<MemberReport>,
}

/// A member, and its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its number.
    pub node: u32,
    /// Where other nodes dial it.
    pub address: String,
    /// Its epoch that has not ended.
    pub epoch: Option<u64>,
    /// What it says about itself.
    pub report: Option<NodeReport>,
    /// Why it says nothing.
    pub silent: Option<String>,
}

/// What a node says about itself to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Number, version, addresses.
    pub node: NodeInfo,
    /// Seconds since it began to serve.
    pub uptime_s: u64,
    /// Its wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// Whether it takes clients.
    pub ready: bool,
    /// Connections of clients.
    pub connections: u64,
    /// Records of telemetry in its log or its spool that no store or Kafka is known to have; absent
    /// without telemetry.
    #[serde(default)]
    pub unstored_records: Option<u64>,
    /// Resident memory of the process, in bytes; absent where the kernel does not say.
    pub resident_bytes: Option<u64>,
    /// Actors that its supervisors had to start again.
    pub restarts: u64,
    /// The latest of them.
    pub last_restart: Option<RestartReport>,
}

/// An actor that was started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartReport {
    /// Who started it again.
    pub supervisor: String,
    /// Which actor.
    pub child: String,
    /// What ended it.
    pub reason: String,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its number.
    pub node: u32,
    /// Where other nodes dial it.
    pub address: String,
    /// Its epoch that has not ended.
    pub epoch: Option<u64>,
    /// Whether the node that answers hears it.
    pub is_heard: bool,
    /// Whether no quorum hears it.
    pub is_suspected: bool,
    /// Whether it is to give up what it holds.
    pub is_leaving: bool,
    /// Shards that it leads.
    pub leads: u32,
    /// Buckets of telemetry that it owns.
    #[serde(default)]
    pub buckets: u32,
    /// Those of them that hold rows: they go to another member by copies alone.
    #[serde(default)]
    pub buckets_with_rows: u32,
    /// Replicas that it is yet to delete.
    pub leftovers: u32,
}

/// What a member is to do: `POST /v1/cluster/drain` and `POST /v1/cluster/forget`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Its number.
    pub node: u32,
    /// Whether it is to keep what it holds after all; of no meaning where it is to be forgotten.
    #[serde(default)]
    pub undo: bool,
    /// Only says what would be answered.
    #[serde(default)]
    pub dry_run: bool,
}

/// A member that takes the place of another: `POST /v1/cluster/replace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// Who is to leave.
    pub old: u32,
    /// Who is to stay in its place.
    pub new: u32,
    /// Only says what would be answered.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a member still holds: `GET /v1/cluster/drain/{node}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// Its number.
    pub node: u32,
    /// Whether it is to give all of it up.
    pub is_leaving: bool,
    /// Whether it runs, as the cluster knows.
    pub is_running: bool,
    /// Shards that it leads.
    pub leads: u32,
    /// Replicas that it has, of shards, or as a voter of meta or the routes; those that it is yet to
    /// delete too. As long as it runs it follows meta and the routes, which is not counted.
    pub replicas: u32,
    /// Buckets of telemetry that it owns.
    pub buckets: u32,
    /// Those of them that hold rows.
    pub buckets_with_rows: u32,
    /// Clients connected to it, if it said so.
    pub clients: Option<u64>,
    /// Records of telemetry that only it is known to have, if it said so.
    pub unstored_records: Option<u64>,
    /// Whether it may be stopped for good, and be forgotten.
    pub is_empty: bool,
    /// Why it does not say what it holds.
    pub silent: Option<String>,
}

/// A Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// `meta`, `routes`, or the number of a shard.
    pub group: String,
    /// Who says that it leads.
    pub leader: Option<u32>,
    /// The term of its leadership.
    pub term: u64,
    /// The nodes that vote, the preferred leader first.
    pub voters: Vec<u32>,
    /// The nodes that only follow.
    pub learners: Vec<u32>,
    /// Where it is being moved to: the voters then.
    pub moving_to: Option<Vec<u32>>,
    /// The nodes at which an operator wants its replicas: the ring does not move them.
    #[serde(default)]
    pub pinned_to: Option<Vec<u32>>,
    /// How many entries other replicas are behind, node and entries, if the answering node leads.
    pub lags: Vec<(u32, u64)>,
}

/// Most clients that are sent to other nodes in a second.
pub const REBALANCE_PER_S_MAX: u32 = 1_000;

/// Which clients are to go to the nodes of their shards: `POST /v1/cluster/rebalance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebalanceRequest {
    /// How many a second, over all nodes, up to [`REBALANCE_PER_S_MAX`].
    pub per_s: u32,
    /// Whether clients go too whose sessions end with their connection.
    #[serde(default)]
    pub clean: bool,
    /// Only counts them.
    #[serde(default)]
    pub dry_run: bool,
}

/// How far that is on each node: the answer, and `GET /v1/cluster/rebalance`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalances {
    /// Whether they were only counted.
    pub dry_run: bool,
    /// By number.
    pub nodes: Vec<Rebalancing>,
}

/// How far it is on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalancing {
    /// Its number.
    pub node: u32,
    /// Whether it goes on.
    pub is_running: bool,
    /// Clients that go in a second at most.
    pub per_s: u32,
    /// Clients that were looked at, in the present pass.
    pub looked_at: u64,
    /// Those of them that should be at another node and are here yet.
    pub left: u64,
    /// Clients that were sent away since it began.
    pub sent: u64,
    /// Why the node says nothing.
    pub silent: Option<String>,
}
