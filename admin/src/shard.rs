//! One shard, who leads it and where it is: `GET /v1/shard/N`, `POST /v1/shard/N/transfer`,
//! `POST /v1/shard/N/move`, `POST /v1/shard/N/unpin`, `POST /v1/shard/N/recover`.

use serde::{Deserialize, Serialize};

use crate::cluster::GroupStatus;

/// Longest time for which a leadership may be kept from its preferred node, in seconds.
pub const HOLD_S_MAX: u64 = 86_400;

/// A shard, as one replica has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardDetails {
    /// Its group: leader, members, move, and how far others are behind.
    pub group: GroupStatus,
    /// Which node has answered.
    pub answered_by: u32,
    /// Whether that node leads the shard: else the answer may be behind.
    pub by_leader: bool,
    /// The last entry that it has applied.
    pub applied: u64,
    /// Sessions.
    pub sessions: u64,
    /// Those of them whose client is connected.
    pub connected: u64,
    /// Messages in queues of sessions and groups.
    pub queue_messages: u64,
    /// Their bytes, as accounted.
    pub queue_bytes: u64,
    /// Bytes of payloads in no durable row yet.
    pub unflushed_bytes: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Their bytes, as accounted.
    pub retained_bytes: u64,
    /// Shared groups whose home it is.
    pub groups: u64,
    /// Their members.
    pub group_members: u64,
    /// Filters of which the routes are to hear.
    pub outbox_routes: u64,
    /// Wills that are to be published.
    pub outbox_wills: u64,
    /// Memberships that home shards are to hear of.
    pub outbox_memberships: u64,
    /// Messages that full queues have dropped since the shard began.
    pub dropped_full: u64,
    /// Messages that have expired in queues.
    pub dropped_expired: u64,
    /// Bytes of commands that wait at this node for the shard's log.
    pub held_bytes: u64,
    /// Whether the log has taken nothing from this node for a while.
    pub is_stuck: bool,
}

/// Who is to lead a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// The node.
    pub to: u32,
    /// How long the leadership is kept from going back to its preferred node, in seconds, up to
    /// [`HOLD_S_MAX`].
    #[serde(default)]
    pub hold_s: u64,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// A leadership that was handed over, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// Of which shard.
    pub shard: u16,
    /// Who led it.
    pub from: u32,
    /// Who leads it.
    pub to: u32,
    /// The node to which the leadership returns by itself.
    pub preferred: Option<u32>,
    /// After how many seconds at the earliest; 0 if nothing holds it.
    pub hold_s: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// Which replica of a shard is to be where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// The node that is to give its replica up.
    pub from: u32,
    /// The node that is to have one.
    pub to: u32,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Whether a shard is to be placed by the ring again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpinRequest {
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where a shard is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The shard.
    pub shard: u16,
    /// The nodes of its replicas: where they are to be, or, if that was released, where they were to be;
    /// none if nothing was.
    pub nodes: Vec<u32>,
    /// Whether it stays there.
    pub is_pinned: bool,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// With which replica a shard is to go on whose majority is lost for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// The node; none for the one whose log goes furthest.
    #[serde(default)]
    pub node: Option<u32>,
    /// Whether somebody has decided that what the lost replicas had is lost.
    #[serde(default)]
    pub accept_loss: bool,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// A shard that goes on with one replica, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovering {
    /// The shard.
    pub shard: u16,
    /// The node with whose replica.
    pub node: u32,
    /// What there is of each replica.
    pub replicas: Vec<Survivor>,
    /// The node whose log goes furthest, of those that answer.
    pub best: u32,
    /// What is lost by it.
    pub loses: Vec<String>,
    /// How often the shard was recovered by now; none if nothing was done.
    pub incarnation: Option<u16>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// What there is of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its node.
    pub node: u32,
    /// Whether it had a vote.
    pub votes: bool,
    /// The term of the last entry of its log.
    pub last_term: Option<u64>,
    /// The index of that entry.
    pub last_index: Option<u64>,
    /// Why it does not say so.
    pub silent: Option<String>,
}
