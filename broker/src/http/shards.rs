//! `/v1/shard/N`: one shard, and who leads it.

use std::sync::Arc;

use admin::shard::{MoveRequest, RecoverRequest, Transfer, UnpinRequest};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{AdminState, answer, body, may_look};
use crate::views::{recovery, shards, steering};

/// The routes of shards.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/shard/{shard}", get(show))
        .route("/v1/shard/{shard}/transfer", post(transfer))
        .route("/v1/shard/{shard}/move", post(move_replica))
        .route("/v1/shard/{shard}/unpin", post(unpin))
        .route("/v1/shard/{shard}/recover", post(recover))
}

async fn show(State(state): State<Arc<AdminState>>, Path(shard): Path<u16>) -> Response {
    let _permit = match may_look(&state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    answer(shards::show(&state, shard).await)
}

async fn transfer(
    State(state): State<Arc<AdminState>>,
    Path(shard): Path<u16>,
    asked: Result<Json<Transfer>, JsonRejection>,
) -> Response {
    let asked = match body(asked) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    answer(shards::transfer(&state, shard, asked).await)
}

async fn move_replica(
    State(state): State<Arc<AdminState>>,
    Path(shard): Path<u16>,
    asked: Result<Json<MoveRequest>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(asked) => answer(steering::move_replica(&state, shard, asked).await),
        Err(refusal) => *refusal,
    }
}

async fn unpin(
    State(state): State<Arc<AdminState>>,
    Path(shard): Path<u16>,
    asked: Result<Json<UnpinRequest>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(asked) => answer(steering::unpin(&state, shard, asked).await),
        Err(refusal) => *refusal,
    }
}

async fn recover(
    State(state): State<Arc<AdminState>>,
    Path(shard): Path<u16>,
    asked: Result<Json<RecoverRequest>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(asked) => answer(recovery::recover(&state, shard, asked).await),
        Err(refusal) => *refusal,
    }
}
