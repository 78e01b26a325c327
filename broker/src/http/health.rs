//! `/v1/cluster/health`, `/v1/cluster/safe-to-stop`, `/v1/node/memory`.

use std::sync::Arc;

use admin::health::{Health, SafeToStopQuestion};
use admin::memory::Memory;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};

use super::{AdminState, answer, failed, may_look};
use crate::views::{ViewError, memory, vitals};

/// The routes of how things are.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/cluster/health", get(health))
        .route("/v1/cluster/safe-to-stop", get(safe_to_stop))
        .route("/v1/node/memory", get(of_memory))
}

async fn health(State(state): State<Arc<AdminState>>) -> Json<Health> {
    Json(vitals::health(&state).await)
}

async fn safe_to_stop(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    match SafeToStopQuestion::parse(query.as_deref().unwrap_or("")) {
        Ok(asked) => answer(vitals::safe_to_stop(&state, asked.node).await),
        Err(error) => failed(StatusCode::BAD_REQUEST, &error),
    }
}

async fn of_memory(State(state): State<Arc<AdminState>>) -> Response {
    let _permit = match may_look(&state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    answer(Ok::<Memory, ViewError>(memory::memory(&state).await))
}
