//! The cluster as this node knows it, and what an operator may do about its members.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::cluster::member::{self, GroupRow, MemberRow};
use admin::cluster::{BucketMove, ClusterStatus, DrainRequest, GroupStatus, MemberStatus, Members};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cluster_core::{BucketId, Group, MetaAnswer, MetaCommand, NodeId};

use super::{AdminState, failed};
use crate::control;
use crate::views::holdings::holdings as holdings_of;

pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/cluster", get(status))
        .route("/v1/cluster/members", get(members))
        .route("/v1/cluster/drain", post(drain))
        .route("/v1/cluster/drain/{node}", get(holdings))
        .route("/v1/cluster/forget", post(forget))
}

async fn status(State(state): State<Arc<AdminState>>) -> Json<ClusterStatus> {
    Json(status_of(&state.member.status()))
}

async fn members(State(state): State<Arc<AdminState>>) -> Json<Members> {
    Json(control::members(&state).await)
}

async fn drain(
    State(state): State<Arc<AdminState>>,
    body: Result<Json<DrainRequest>, JsonRejection>,
) -> Response {
    let asked = match body {
        Ok(Json(asked)) => asked,
        Err(rejection) => return failed(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let node = NodeId(asked.node);
    let is_leaving = !asked.undo;
    let command = MetaCommand::Drain { node, is_leaving };
    if let Err(refusal) = propose(&state, &command).await {
        return *refusal;
    }
    let mut holdings = holdings_of(&state, node).await.unwrap_or_default();
    // The status may be older than the answer.
    (holdings.node, holdings.is_leaving) = (asked.node, is_leaving);
    holdings.is_empty &= is_leaving;
    Json(holdings).into_response()
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
    body: Result<Json<DrainRequest>, JsonRejection>,
) -> Response {
    let asked = match body {
        Ok(Json(asked)) => asked,
        Err(rejection) => return failed(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let node = NodeId(asked.node);
    match propose(&state, &MetaCommand::Leave { node }).await {
        Ok(()) => Json(status_of(&state.member.status())).into_response(),
        Err(refusal) => *refusal,
    }
}

/// Has meta apply a command; else the answer to who asked for it.
async fn propose(state: &AdminState, command: &MetaCommand) -> Result<(), Box<Response>> {
    match state.member.propose(command).await {
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
        lags: row.lags.iter().map(|(node, lag)| (node.0, *lag)).collect(),
    }
}
