//! `/v1/retained`: retained messages.

use std::sync::Arc;

use admin::retained::RetainedQuestion;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::{AdminState, answer, failed, may_look};
use crate::views::retained;

/// The routes of retained messages.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/retained", get(list))
}

async fn list(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    let asked = match RetainedQuestion::parse(query.as_deref().unwrap_or("")) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let _permit = match may_look(&state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    answer(retained::list(&state, asked).await)
}
