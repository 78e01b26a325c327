//! `/v1/bridge/…`: how telemetry leaves the node, and what an operator may do about it.

use std::sync::Arc;

use admin::bridge::{LetterQuestion, Pause, Replay};
use axum::extract::rejection::JsonRejection;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bridge::{OperationError, Telemetry};
use serde::Serialize;

use super::{AdminState, failed, no_telemetry};

/// The routes of the bridge. What changes something takes JSON by POST, which no foreign web page
/// can send to a node unasked.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/bridge", get(status))
        .route("/v1/bridge/pause", post(pause))
        .route("/v1/bridge/lag", get(lag))
        .route("/v1/bridge/dlq", get(dead_letters))
        .route("/v1/bridge/dlq/replay", post(replay))
}

async fn status(State(state): State<Arc<AdminState>>) -> Response {
    let Some(telemetry) = &state.telemetry else {
        return no_telemetry();
    };
    Json(telemetry.bridge_status()).into_response()
}

async fn lag(State(state): State<Arc<AdminState>>) -> Response {
    let Some(telemetry) = &state.telemetry else {
        return no_telemetry();
    };
    Json(telemetry.lag()).into_response()
}

async fn pause(
    State(state): State<Arc<AdminState>>,
    body: Result<Json<Pause>, JsonRejection>,
) -> Response {
    let (telemetry, asked) = match parts(&state, body) {
        Ok(parts) => parts,
        Err(refusal) => return *refusal,
    };
    answer(telemetry.pause(asked.paused).await.map(|()| asked))
}

async fn dead_letters(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    let Some(telemetry) = &state.telemetry else {
        return no_telemetry();
    };
    match LetterQuestion::parse(query.as_deref().unwrap_or("")) {
        Ok(asked) => answer(telemetry.dead_letters(&asked).await),
        Err(error) => failed(StatusCode::BAD_REQUEST, &error),
    }
}

async fn replay(
    State(state): State<Arc<AdminState>>,
    body: Result<Json<Replay>, JsonRejection>,
) -> Response {
    let (telemetry, asked) = match parts(&state, body) {
        Ok(parts) => parts,
        Err(refusal) => return *refusal,
    };
    answer(telemetry.replay(&asked).await)
}

/// Is the line and what is asked of it, or the refusal.
fn parts<T>(
    state: &AdminState,
    body: Result<Json<T>, JsonRejection>,
) -> Result<(&Telemetry, T), Box<Response>> {
    let telemetry = state.telemetry.as_deref();
    let telemetry = telemetry.ok_or_else(|| Box::new(no_telemetry()))?;
    Ok((telemetry, super::body(body)?))
}

fn answer(result: Result<impl Serialize, OperationError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failed(status_of(&error), &error),
    }
}

fn status_of(error: &OperationError) -> StatusCode {
    use OperationError as Error;
    match error {
        Error::Id(_) | Error::Reason(_) | Error::After(_) | Error::Limit { .. } => {
            StatusCode::BAD_REQUEST
        }
        Error::NoSuchLetter(_) => StatusCode::NOT_FOUND,
        Error::NoKafka | Error::Unsendable(_) | Error::Busy => StatusCode::CONFLICT,
        Error::Away(_) | Error::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        Error::Letters(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
