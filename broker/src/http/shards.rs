//! `/v1/shard/N`: one shard, and who leads it.

use std::sync::Arc;

use admin::shard::Transfer;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{AdminState, answer, body, may_look};
use crate::views::shards;

/// The routes of shards.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/shard/{shard}", get(show))
        .route("/v1/shard/{shard}/transfer", post(transfer))
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
