//! `/v1/sub/routes`: who gets the messages of a topic.

use std::sync::Arc;

use admin::sub::RoutesQuestion;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::{AdminState, answer, failed, may_look};
use crate::views::subscribers;

/// The routes of subscribers.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/sub/routes", get(of_topic))
}

async fn of_topic(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    let asked = match RoutesQuestion::parse(query.as_deref().unwrap_or("")) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let _permit = match may_look(&state) {
        Ok(permit) => permit,
        Err(refusal) => return *refusal,
    };
    answer(subscribers::routes(&state, asked).await)
}
