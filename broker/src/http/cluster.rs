//! The cluster as this node knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::cluster::member::{self, GroupRow, MemberRow};
use admin::cluster::{ClusterStatus, GroupStatus, MemberStatus, Members};
use axum::Json;
use axum::extract::State;
use cluster_core::{Group, NodeId};

use super::AdminState;
use crate::control;

pub(super) async fn status(State(state): State<Arc<AdminState>>) -> Json<ClusterStatus> {
    Json(status_of(&state.member.status()))
}

pub(super) async fn members(State(state): State<Arc<AdminState>>) -> Json<Members> {
    Json(control::members(&state).await)
}

fn status_of(status: &member::MemberStatus) -> ClusterStatus {
    ClusterStatus {
        node: status.node.0,
        epoch: status.epoch.map(|epoch| epoch.0),
        has_lease: status.is_entered && status.lease_ms > 0,
        lease_ms: (status.lease_ms != u64::MAX).then_some(status.lease_ms),
        members: rows_of(&status.members),
        groups: status.groups.iter().map(group).collect(),
    }
}

fn rows_of(members: &BTreeMap<NodeId, MemberRow>) -> Vec<MemberStatus> {
    let one = |(node, row): (&NodeId, &MemberRow)| MemberStatus {
        node: node.0,
        address: row.address.clone(),
        epoch: row.epoch.map(|epoch| epoch.0),
        is_heard: row.is_heard,
        is_suspected: row.is_suspected,
        is_leaving: row.is_leaving,
        leads: u32::try_from(row.leads).unwrap_or(u32::MAX),
        buckets: u32::try_from(row.buckets).unwrap_or(u32::MAX),
        buckets_with_rows: u32::try_from(row.buckets_with_rows).unwrap_or(u32::MAX),
        leftovers: u32::try_from(row.leftovers).unwrap_or(u32::MAX),
    };
    members.iter().map(one).collect()
}

fn group((group, row): (&Group, &GroupRow)) -> GroupStatus {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    GroupStatus {
        group: match group {
            Group::Meta => "meta".to_owned(),
            Group::Routes => "routes".to_owned(),
            Group::Shard(shard) => shard.0.to_string(),
        },
        leader: row.leader.map(|node| node.0),
        term: row.term,
        voters: numbers(&row.voters),
        learners: numbers(&row.learners),
        moving_to: row.moving.as_ref().map(|moving| numbers(&moving.voters)),
        lags: row.lags.iter().map(|(node, lag)| (node.0, *lag)).collect(),
    }
}
