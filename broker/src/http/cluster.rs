//! The cluster as this node knows it, and what an operator may do about its members.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::cluster::member::{self, GroupRow, MemberRow};
use admin::cluster::{
    BucketMove, ClusterStatus, DrainRequest, GroupStatus, Holdings, MemberStatus, Members,
    RebalanceRequest, ReplaceRequest,
};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cluster_core::{BucketId, Group, MetaAnswer, MetaCommand, NodeId};

use super::{AdminState, answer, body, failed};
use crate::control;
use crate::views::holdings::holdings as holdings_of;
use crate::views::{rebalancing, steering};

pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/cluster", get(status))
        .route("/v1/cluster/members", get(members))
        .route("/v1/cluster/drain", post(drain))
        .route("/v1/cluster/drain/{node}", get(holdings))
        .route("/v1/cluster/forget", post(forget))
        .route("/v1/cluster/replace", post(replace))
        .route(
            "/v1/cluster/rebalance",
            get(rebalance_progress).post(rebalance),
        )
}

async fn status(State(state): State<Arc<AdminState>>) -> Json<ClusterStatus> {
    Json(status_of(&state.member.status()))
}

async fn members(State(state): State<Arc<AdminState>>) -> Json<Members> {
    Json(control::members(&state).await)
}

async fn drain(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<DrainRequest>, JsonRejection>,
) -> Response {
    let asked = match body(asked) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let told = leaving(&state, NodeId(asked.node), !asked.undo, asked.dry_run).await;
    told.map_or_else(|refusal| *refusal, |told| Json(told).into_response())
}

/// Tells meta whether a member is to leave; what it holds then.
async fn leaving(
    state: &Arc<AdminState>,
    node: NodeId,
    is_leaving: bool,
    dry_run: bool,
) -> Result<Holdings, Box<Response>> {
    let command = MetaCommand::Drain { node, is_leaving };
    propose(state, &command, dry_run).await?;
    let mut holdings = holdings_of(state, node).await.unwrap_or_default();
    if !dry_run {
        // The status may be older than the answer.
        (holdings.node, holdings.is_leaving) = (node.0, is_leaving);
        holdings.is_empty &= is_leaving;
    }
    Ok(holdings)
}

/// The old member is drained: the others are as full as they may be, so what it has goes to the new one.
async fn replace(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<ReplaceRequest>, JsonRejection>,
) -> Response {
    let asked = match body(asked) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    if let Err(why) = may_replace(&state.member.status(), NodeId(asked.old), NodeId(asked.new)) {
        return failed(StatusCode::CONFLICT, &why);
    }
    let told = leaving(&state, NodeId(asked.old), true, asked.dry_run).await;
    told.map_or_else(|refusal| *refusal, |told| Json(told).into_response())
}

/// Why a member cannot take another's place.
fn may_replace(status: &member::MemberStatus, old: NodeId, new: NodeId) -> Result<(), String> {
    if old == new {
        return Err(format!("node {old} cannot take its own place"));
    }
    for node in [old, new] {
        if !status.members.contains_key(&node) {
            return Err(format!(
                "node {node} is no member; a new one joins with `tidewire serve --join`"
            ));
        }
    }
    let row = &status.members[&new];
    if row.is_leaving {
        return Err(format!(
            "node {new} is to leave itself; `tidewire ctl cluster undrain {new}`"
        ));
    }
    if row.epoch.is_none() {
        return Err(format!("node {new} does not run; start it first"));
    }
    Ok(())
}

async fn holdings(State(state): State<Arc<AdminState>>, Path(node): Path<u32>) -> Response {
    match holdings_of(&state, NodeId(node)).await {
        Some(holdings) => Json(holdings).into_response(),
        None => failed(
            StatusCode::NOT_FOUND,
            &format!("node {node} is no member; `ctl cluster status` lists them"),
        ),
    }
}

async fn forget(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<DrainRequest>, JsonRejection>,
) -> Response {
    let asked = match body(asked) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let node = NodeId(asked.node);
    match propose(&state, &MetaCommand::Leave { node }, asked.dry_run).await {
        Ok(()) => Json(status_of(&state.member.status())).into_response(),
        Err(refusal) => *refusal,
    }
}

async fn rebalance(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<RebalanceRequest>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(asked) => answer(rebalancing::of_all(&state, Some(asked)).await),
        Err(refusal) => *refusal,
    }
}

async fn rebalance_progress(State(state): State<Arc<AdminState>>) -> Response {
    answer(rebalancing::of_all(&state, None).await)
}

/// Has meta apply a command, or only says whether it would; else the answer to who asked for it.
async fn propose(
    state: &AdminState,
    command: &MetaCommand,
    dry_run: bool,
) -> Result<(), Box<Response>> {
    match steering::propose(state, command, dry_run).await {
        Ok(MetaAnswer::Refused(refusal)) => Err(Box::new(failed(StatusCode::CONFLICT, &refusal))),
        Ok(_) => Ok(()),
        Err(error) => Err(Box::new(failed(StatusCode::SERVICE_UNAVAILABLE, &error))),
    }
}

fn status_of(status: &member::MemberStatus) -> ClusterStatus {
    ClusterStatus {
        node: status.node.0,
        epoch: status.epoch.map(|epoch| epoch.0),
        has_lease: status.is_entered && status.lease_ms > 0,
        lease_ms: (status.lease_ms != u64::MAX).then_some(status.lease_ms),
        members: rows_of(&status.members),
        groups: status.groups.iter().map(group_status).collect(),
        bucket_moves: status.bucket_moves.iter().map(bucket_move).collect(),
    }
}

fn bucket_move((bucket, row): (&BucketId, &member::BucketMove)) -> BucketMove {
    BucketMove {
        bucket: bucket.0,
        from: row.from.0,
        to: row.to.0,
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

/// The name of a group in answers.
pub(crate) fn group_name(group: Group) -> String {
    match group {
        Group::Meta => "meta".to_owned(),
        Group::Routes => "routes".to_owned(),
        Group::Shard(shard) => shard.0.to_string(),
    }
}

pub(crate) fn group_status((group, row): (&Group, &GroupRow)) -> GroupStatus {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    GroupStatus {
        group: group_name(*group),
        leader: row.leader.map(|node| node.0),
        term: row.term,
        voters: numbers(&row.voters),
        learners: numbers(&row.learners),
        moving_to: row.moving.as_ref().map(|moving| numbers(&moving.voters)),
        pinned_to: row.pinned.as_deref().map(numbers),
        lags: row.lags.iter().map(|(node, lag)| (node.0, *lag)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_member_that_serves_takes_anothers_place() {
        let mut status = member::MemberStatus::default();
        let serving = MemberRow {
            epoch: Some(cluster_core::NodeEpoch(7)),
            ..MemberRow::default()
        };
        let (old, new) = (NodeId(1), NodeId(2));
        status.members.insert(old, MemberRow::default());
        let said = |status: &member::MemberStatus| may_replace(status, old, new);
        assert!(said(&status).unwrap_err().contains("no member"));
        status.members.insert(new, serving.clone());
        assert_eq!(said(&status), Ok(()));
        assert!(may_replace(&status, old, old).is_err());
        assert!(
            may_replace(&status, new, old)
                .unwrap_err()
                .contains("does not run")
        );
        let is_leaving = true;
        status.members.insert(
            new,
            MemberRow {
                is_leaving,
                ..serving
            },
        );
        assert!(said(&status).unwrap_err().contains("undrain 2"));
    }
}
