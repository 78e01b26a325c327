//! `/v1/trace`: packets as they pass, a line of JSON each, until time or number are over.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use admin::trace::{EVENTS_DEFAULT, Line, RATE_DEFAULT, SECONDS_DEFAULT, TraceQuestion};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_core::Stream;
use mqtt::{ClientId, Filter};
use tokio::time::Sleep;

use super::{AdminState, failed};
use crate::trace::{Bounds, TRACES_MAX, Trace, Watched};

/// The routes of traces.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/trace", get(trace))
}

async fn trace(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    let asked = match TraceQuestion::parse(query.as_deref().unwrap_or("")) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let watched = match watched(&asked) {
        Ok(watched) => watched,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let bounds = Bounds {
        rate: asked.rate.unwrap_or(RATE_DEFAULT),
        events: asked.events.unwrap_or(EVENTS_DEFAULT),
    };
    let Some(trace) = state.shared.traces.begin(watched, bounds) else {
        let error = format!("{TRACES_MAX} traces are under way at this node; wait for one to end");
        return failed(StatusCode::SERVICE_UNAVAILABLE, &error);
    };
    let seconds = asked.seconds.unwrap_or(SECONDS_DEFAULT);
    let lines = Lines {
        trace,
        begins: Some(state.node.node),
        left: bounds.events,
        shown: 0,
        over: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
        is_ended: false,
    };
    let content = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (content, Body::from_stream(lines)).into_response()
}

fn watched(asked: &TraceQuestion) -> Result<Watched, String> {
    match (&asked.client, &asked.topic) {
        (Some(client), None) => {
            let client = ClientId::try_from(client.as_str());
            client
                .map(Watched::Client)
                .map_err(|error| error.to_string())
        }
        (None, Some(topic)) => {
            let filter = Filter::try_from(topic.as_str());
            let filter = filter.map_err(|error| format!("topic {topic:?}: {error}"))?;
            match filter.shared() {
                Some(_) => Err(format!(
                    "topic {topic:?}: a shared subscription is no filter of topics"
                )),
                None => Ok(Watched::Topic(filter)),
            }
        }
        _ => Err("either client or topic has to be given".to_owned()),
    }
}

/// The lines of a trace. When its reader goes, it is dropped, and the trace ends.
struct Lines {
    trace: Trace,
    /// The first line is still to be sent: it names this node.
    begins: Option<u32>,
    /// Events until the trace ends.
    left: u64,
    shown: u64,
    over: Pin<Box<Sleep>>,
    is_ended: bool,
}

impl Lines {
    fn end(&mut self, because: &str) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.is_ended = true;
        line(&Line::End {
            because: because.to_owned(),
            shown: self.shown,
            missed: self.trace.missed(),
        })
    }
}

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_ended {
            return Poll::Ready(None);
        }
        if let Some(node) = this.begins.take() {
            return line(&Line::Begin { node });
        }
        if this.left == 0 {
            return this.end("events");
        }
        if this.over.as_mut().poll(context).is_ready() {
            return this.end("time");
        }
        match this.trace.events.poll_recv(context) {
            Poll::Ready(Some(event)) => {
                this.left -= 1;
                this.shown += 1;
                line(&Line::Event(event))
            }
            Poll::Ready(None) => this.end("node"),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn line(line: &Line) -> Poll<Option<Result<Bytes, Infallible>>> {
    let mut text = serde_json::to_vec(line).expect("a line is JSON");
    text.push(b'\n');
    Poll::Ready(Some(Ok(text.into())))
}
