//! What the node has to do because of its membership.

use cluster_core::{Group, Incarnation, NodeEpoch, NodeId, RaftId, Refusal, ShardId};

/// Something that happened, in order. What a late reader finds changed by then is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// This node's epoch is begun; it does not serve yet.
    Begun(NodeEpoch),
    /// From now on this node serves while [`super::LeaseView::is_held`].
    Serving(NodeEpoch),
    /// Meta has ended this node's epoch: it is to close all its connections, count another start in
    /// its folder, and then [`super::Member::begin`].
    Ended(NodeEpoch),
    /// Meta does not let this node begin an epoch: nothing can be done here.
    NotBegun(Refusal),
    /// Members, their addresses, or who is to leave have changed.
    Members,
    /// This node is no member any more.
    Removed,
    /// Start this replica of a group, and hand meta and routes to [`super::Member::set_meta`] and
    /// [`super::Member::set_routes`]. Of one that is new nothing needs to lie on the disk: its
    /// leader fills it. One that is not new and lies on no disk is lost: [`super::Member::renew`].
    StartReplica {
        /// The group.
        group: Group,
        /// The replica.
        replica: RaftId,
        /// Whether a move brings it here.
        is_new: bool,
    },
    /// Have this node's replica `from` of a group, whether it runs or not, go on as `replica`, and alone:
    /// [`crate::raft::RaftNode::recover_replica`]. It may have been done in a run before; then `replica`
    /// is started only.
    RecoverReplica {
        /// The group.
        group: Group,
        /// What lies on the disk, or lay there.
        from: RaftId,
        /// As what it goes on.
        replica: RaftId,
        /// In what the group counts since.
        incarnation: Incarnation,
    },
    /// A shard was recovered with loss: what this node's connections know of it may be lost, and they
    /// are to be closed.
    ShardRecovered(ShardId),
    /// Stop this node's replica of a group, delete what it has on the disk, then
    /// [`super::Member::handle_removed`]. It may not run, or not be there.
    RemoveReplica {
        /// The group.
        group: Group,
        /// The replica.
        replica: RaftId,
    },
    /// A peer is heard again, or for the first time.
    Up(NodeId),
    /// No quorum hears a peer.
    Suspected(NodeId),
    /// Meta has ended the epoch of another node.
    Gone {
        /// The node.
        node: NodeId,
        /// The epoch.
        epoch: NodeEpoch,
    },
}
