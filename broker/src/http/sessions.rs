//! `/v1/client`, `/v1/session`: who is connected, what waits for whom.

use std::sync::Arc;

use admin::session::{Kick, SessionQuestion};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{AdminState, answer, body, failed, may_look};
use crate::views::sessions;

/// The routes of clients and sessions. What changes something takes JSON by POST, which no foreign
/// web page can send to a node unasked.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/client", get(clients))
        .route("/v1/client/{client}", get(show))
        .route("/v1/client/{client}/kick", post(kick))
        .route("/v1/session", get(list))
        .route("/v1/session/{client}", get(show))
}

/// Sessions whose client is connected.
async fn clients(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    look(&state, query, Some(true)).await
}

async fn list(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    look(&state, query, None).await
}

async fn look(state: &Arc<AdminState>, query: Option<String>, connected: Option<bool>) -> Response {
    let asked = match SessionQuestion::parse(query.as_deref().unwrap_or("")) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let _permit = match may_look(state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    let connected = connected.or(asked.connected);
    answer(sessions::list(state, SessionQuestion { connected, ..asked }).await)
}

async fn show(State(state): State<Arc<AdminState>>, Path(client): Path<String>) -> Response {
    let _permit = match may_look(&state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    answer(sessions::show(&state, &client).await)
}

async fn kick(
    State(state): State<Arc<AdminState>>,
    Path(client): Path<String>,
    asked: Result<Json<Kick>, JsonRejection>,
) -> Response {
    let asked = match body(asked) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let _permit = match may_look(&state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    answer(sessions::kick(&state, &client, asked).await)
}
