//! What an operator asks any node about clients and topics, answered by the nodes that know: the
//! leaders of shards about sessions, the nodes of connections about those.

pub(crate) mod holdings;
pub(crate) mod memory;
pub(crate) mod rebalancing;
pub(crate) mod recovery;
pub(crate) mod retained;
pub(crate) mod sessions;
pub(crate) mod shards;
pub(crate) mod steering;
pub(crate) mod subscribers;
pub(crate) mod vitals;

mod checks;
mod merged;
pub(crate) mod stopping;
#[cfg(test)]
mod vitals_test;

use std::collections::BTreeMap;

use cluster_core::{Group, NodeEpoch, NodeId, ShardId};

use crate::http::AdminState;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ViewError {
    /// What was asked is no question.
    #[error("{0}")]
    Asked(String),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be done to what there is.
    #[error("{0}")]
    Conflict(String),
    /// Whoever knows does not answer.
    #[error("{0}")]
    Away(String),
}

/// Shards by the node that leads them, as this node knows, and those that nobody leads.
#[derive(Debug, Default)]
pub(crate) struct Led {
    pub(crate) by_node: BTreeMap<NodeId, Vec<u16>>,
    pub(crate) unled: Vec<u16>,
}

impl Led {
    /// Of these shards.
    pub(crate) fn of(state: &AdminState, shards: impl IntoIterator<Item = u16>) -> Self {
        let status = state.member.status();
        let mut led = Self::default();
        for shard in shards {
            let group = status.groups.get(&Group::Shard(ShardId(shard)));
            match group.and_then(|group| group.leader) {
                Some(node) => led.by_node.entry(node).or_default().push(shard),
                None => led.unled.push(shard),
            }
        }
        led
    }
}

/// Words for shards that are not in an answer.
pub(crate) fn unled(shards: &[u16]) -> Option<String> {
    let all: Vec<String> = shards.iter().map(u16::to_string).collect();
    (!shards.is_empty()).then(|| format!("nobody answers for {}", stopping::named(&all)))
}

/// The nodes of epochs that have not ended, as this node knows.
pub(crate) fn nodes_of_epochs(state: &AdminState) -> BTreeMap<u64, NodeId> {
    let status = state.member.status();
    let members = status.members.iter();
    let of = |(node, row): (&NodeId, &cluster::member::MemberRow)| {
        row.epoch.map(|NodeEpoch(epoch)| (epoch, *node))
    };
    members.filter_map(of).collect()
}

/// The leader of a shard, then its other replicas, as this node knows.
pub(crate) fn replicas(state: &AdminState, shard: u16) -> Vec<NodeId> {
    let status = state.member.status();
    let Some(group) = status.groups.get(&Group::Shard(ShardId(shard))) else {
        return Vec::new();
    };
    let mut nodes: Vec<NodeId> = group.leader.into_iter().collect();
    for node in group.voters.iter().chain(&group.learners) {
        if !nodes.contains(node) {
            nodes.push(*node);
        }
    }
    nodes
}
