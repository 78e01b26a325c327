//! What meta's entries change for the node that applies them.

use super::{EndReason, Group};
use crate::{BucketId, FeatureLevel, NodeEpoch, NodeId};

/// A change that the host of meta's replica passes on. A replica that is restored from a snapshot
/// hands out none: its host then reads the whole state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaEffect {
    /// Members came or left.
    Members,
    /// An epoch began: it counts for everything that waits for all nodes.
    Begun {
        /// The member.
        node: NodeId,
        /// The epoch.
        epoch: NodeEpoch,
    },
    /// An epoch ended. Leaders of shards and routes propose the new
    /// [`crate::Meta::epochs`]; the node itself closes all its connections.
    Ended {
        /// The member.
        node: NodeId,
        /// The epoch.
        epoch: NodeEpoch,
        /// Why.
        reason: EndReason,
    },
    /// A placement was written. A node that lost a replica by it finds that in
    /// [`crate::Meta::leftovers`].
    Placed(Group),
    /// A move of the group began, was given up, or ended: see [`crate::Meta::goal`].
    Moving(Group),
    /// A row of the bucket table was written.
    Assigned(BucketId),
    /// The cluster may use more.
    LevelRaised(FeatureLevel),
}
