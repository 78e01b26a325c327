//! The admin HTTP: health, metrics, queries, status.

mod bridge;
mod bridge_metrics;
mod cluster;
mod cluster_metrics;
mod doors;
mod health;
mod move_metrics;
mod retained;
mod sessions;
mod shards;
mod subscribers;
mod trace;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::bridge::{OwnerLag, PullStatus, QueryError, QueryRequest, Telemetry};
use ::cluster::control::Control;
use ::cluster::link::Links;
use ::cluster::member::Member;
use ::cluster::raft::RaftNode;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use runtime::{Clock, Restarts};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use cluster::{group_name, group_status};
pub(crate) use doors::Doors;

use crate::counters::{Counters, metric, metric_by};
use crate::drain::Draining;
use crate::io::Shared;
use crate::memory::Allowed;
use crate::peers::Peers;
use crate::rebalance::Rebalance;
use crate::routes::Snapshot;
use crate::shard::Shards;
use crate::views::ViewError;

/// Rows that one answer holds at most.
const ROWS_MAX: usize = 10_000;

/// Questions for which this node looks into shards and connections at a time; more are refused.
pub(crate) const LOOKS_MAX: usize = 8;

/// What the handlers read.
pub(crate) struct AdminState {
    pub(crate) ready: AtomicBool,
    /// While it is, clients are to go to other nodes.
    pub(crate) draining: Draining,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) shards: Shards,
    pub(crate) raft: RaftNode,
    pub(crate) member: Member,
    pub(crate) control: Control,
    pub(crate) restarts: Restarts,
    /// When the node began to serve, by its monotonic clock.
    pub(crate) started_ms: u64,
    pub(crate) links: Links,
    pub(crate) peers: Peers,
    pub(crate) snapshot: Snapshot,
    pub(crate) shared: Arc<Shared>,
    /// Questions that are being answered by looking into shards and connections.
    pub(crate) looks: Semaphore,
    /// Sends established clients to the nodes of their shards.
    pub(crate) rebalance: Rebalance,
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    pub(crate) node: admin::node::NodeInfo,
    pub(crate) memory: Allowed,
    /// The data folder.
    pub(crate) data: PathBuf,
}

/// The routes of the admin API.
pub(crate) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/node", get(node))
        .route("/v1/tsdb", get(tsdb))
        .route("/v1/query/{device}", get(query))
        .merge(cluster::routes())
        .merge(bridge::routes())
        .merge(sessions::routes())
        .merge(shards::routes())
        .merge(health::routes())
        .merge(subscribers::routes())
        .merge(retained::routes())
        .merge(trace::routes())
        .with_state(state)
}

async fn ready(State(state): State<Arc<AdminState>>) -> Response {
    let has_lease = state.member.lease().is_held(state.clock.mono_ms());
    if state.draining.is_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n").into_response();
    }
    if !state.ready.load(Ordering::Acquire) || !has_lease {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response();
    }
    let log_waits = state.raft.log_counters().journal.waits_for_space;
    if log_waits || state.raft.state_counters().groups_without_space > 0 {
        // It serves what it has; no other node would take more.
        return (StatusCode::OK, "ready, degraded: the disk is full\n").into_response();
    }
    (StatusCode::OK, "ready\n").into_response()
}

async fn node(State(state): State<Arc<AdminState>>) -> Json<admin::node::NodeInfo> {
    Json(state.node.clone())
}

fn failed(status: StatusCode, error: &dyn std::fmt::Display) -> Response {
    (
        status,
        Json(admin::Failure {
            error: error.to_string(),
        }),
    )
        .into_response()
}

/// Takes the right to look, or says why not. Waiting would only make the queue longer.
fn may_look(state: &AdminState) -> Result<SemaphorePermit<'_>, Box<Response>> {
    state.looks.try_acquire().map_err(|_| {
        let error = format!("the node answers {LOOKS_MAX} such questions already; ask again");
        Box::new(failed(StatusCode::SERVICE_UNAVAILABLE, &error))
    })
}

/// What was found, or why nothing was.
fn answer(result: Result<impl Serialize, ViewError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let status = match error {
                ViewError::Asked(_) => StatusCode::BAD_REQUEST,
                ViewError::Unknown(_) => StatusCode::NOT_FOUND,
                ViewError::Conflict(_) => StatusCode::CONFLICT,
                ViewError::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            failed(status, &error)
        }
    }
}

/// What is asked by JSON, or the refusal.
fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Box<Response>> {
    body.map(|Json(asked)| asked).map_err(|rejection| {
        let status = match rejection {
            JsonRejection::JsonDataError(_) => StatusCode::BAD_REQUEST,
            ref other => other.status(),
        };
        Box::new(failed(status, &rejection.body_text()))
    })
}

fn no_telemetry() -> Response {
    failed(
        StatusCode::NOT_FOUND,
        &"this node serves without telemetry (no_telemetry = true)",
    )
}

async fn tsdb(State(state): State<Arc<AdminState>>) -> Response {
    let Some(telemetry) = &state.telemetry else {
        return no_telemetry();
    };
    Json(admin::tsdb::Status {
        store: telemetry.tsdb_status(),
        pipeline: telemetry.status(),
    })
    .into_response()
}

async fn query(
    State(state): State<Arc<AdminState>>,
    Path(device): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(telemetry) = &state.telemetry else {
        return no_telemetry();
    };
    let asked = admin::question::Question::parse(query.as_deref().unwrap_or(""));
    let asked = match asked.and_then(|asked| asked.resolve(state.clock.wall_ms())) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let request = QueryRequest {
        device,
        metrics: asked.metrics.clone(),
        from_ms: asked.from_ms,
        to_ms: asked.to_ms,
        step_ms: asked
            .step_ms
            .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        limit: asked.limit.min(ROWS_MAX),
    };
    match telemetry.query().query(request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failed(status_of(&error), &error),
    }
}

fn status_of(error: &QueryError) -> StatusCode {
    match error {
        QueryError::Device(_) => StatusCode::BAD_REQUEST,
        QueryError::Busy { .. } | QueryError::Stopped | QueryError::Elsewhere { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let mut text = String::new();
    Counters::write_sum(&state.counters, &mut text);
    state.shared.refusals.write(&mut text);
    let routes = state.snapshot.load().len() as u64;
    let help = "Rows of the routes: filters of clean sessions and of shards.";
    metric(&mut text, "tidewire_broker_routes", help, "gauge", routes);
    let (connected, rebalanced) = state.shared.references.sent();
    let sent = [
        ("why=\"connect\"".to_owned(), connected),
        ("why=\"rebalance\"".to_owned(), rebalanced),
    ];
    let help = "MQTT 5 clients that were told the node which leads their shard.";
    let name = "tidewire_broker_clients_sent_home_total";
    metric_by(&mut text, name, help, "counter", &sent);
    control_metrics(&state, &mut text);
    session_metrics(&state.shards, &mut text);
    raft_metrics(&state.raft, &mut text);
    cluster_metrics::write(&state.member, &state.links, &state.peers, &mut text);
    move_metrics::write(&state.member, &state.raft, &mut text);
    if let Some(telemetry) = &state.telemetry {
        telemetry_metrics(telemetry, &mut text);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn control_metrics(state: &AdminState, out: &mut String) {
    let (name, help) = (
        "tidewire_runtime_restarts_total",
        "Actors that supervisors started again.",
    );
    metric(out, name, help, "counter", state.restarts.total());
    let (name, help) = (
        "tidewire_cluster_control_sessions",
        "Nodes that can be asked over the control plane.",
    );
    let sessions = state.control.connected().len() as u64;
    metric(out, name, help, "gauge", sessions);
}

fn session_metrics(shards: &Shards, out: &mut String) {
    let (counters, sessions) = shards.counters();
    let counter = |out: &mut String, name: &str, help: &str, value| {
        metric(
            out,
            &format!("tidewire_session_{name}"),
            help,
            "counter",
            value,
        );
    };
    counter(
        out,
        "queued_total",
        "Messages put into session queues.",
        counters.queued,
    );
    counter(
        out,
        "dropped_full_total",
        "Messages dropped by full queues.",
        counters.dropped_full,
    );
    counter(
        out,
        "dropped_expired_total",
        "Messages that expired in a queue.",
        counters.dropped_expired,
    );
    counter(
        out,
        "repeats_total",
        "Repeats that were refused.",
        counters.repeats,
    );
    counter(
        out,
        "retained_full_total",
        "Retained messages that did not fit.",
        counters.retained_full,
    );
    counter(
        out,
        "withdrawn_total",
        "Unacknowledged requests of ended connections that were not sent to their shard again.",
        shards.withdrawn(),
    );
    let gauge = |out: &mut String, name: &str, help: &str, value| {
        metric(
            out,
            &format!("tidewire_session_{name}"),
            help,
            "gauge",
            value,
        );
    };
    gauge(out, "sessions", "Sessions held.", sessions as u64);
    gauge(
        out,
        "under_way_bytes",
        "Bytes of messages on their way into the shards' logs.",
        shards.under_way().bytes(),
    );
    gauge(
        out,
        "held_bytes",
        "Bytes of commands that wait for the log of their shard.",
        shards.held_bytes(),
    );
    let connected = "Sessions that a connection owns.";
    gauge(out, "sessions_connected", connected, counters.connected);
    gauge(
        out,
        "queue_messages",
        "Messages in queues of sessions and groups.",
        counters.queue_messages,
    );
    gauge(
        out,
        "queue_bytes",
        "Bytes in queues of sessions and groups.",
        counters.queue_bytes,
    );
    gauge(
        out,
        "retained_bytes",
        "Bytes of retained messages.",
        counters.retained_bytes,
    );
    gauge(
        out,
        "groups",
        "Groups of shared subscriptions.",
        counters.groups,
    );
    gauge(
        out,
        "group_members",
        "Members of groups, present or away.",
        counters.group_members,
    );
    gauge(
        out,
        "outbox_routes",
        "Filters of which the routes are to hear.",
        counters.outbox_routes,
    );
    gauge(
        out,
        "outbox_memberships",
        "Memberships that a group's home shard is to hear of.",
        counters.outbox_memberships,
    );
}

fn raft_metrics(raft: &RaftNode, out: &mut String) {
    let (log, states) = (raft.log_counters(), raft.state_counters());
    let counter = |out: &mut String, name: &str, help: &str, value| {
        let name = format!("tidewire_raft_log_{name}");
        metric(out, &name, help, "counter", value);
    };
    let journal = &log.journal;
    let help = "Records made durable in the log of the Raft groups.";
    counter(out, "records_total", help, journal.entries);
    let help = "Writes to the log of the Raft groups, each with one fsync.";
    counter(out, "fsyncs_total", help, journal.groups);
    let help = "Bytes written to the log of the Raft groups, after compression.";
    counter(out, "written_bytes_total", help, journal.written_bytes);
    let help = "Bytes of entries copied forward so that old segments could go.";
    counter(out, "copied_bytes_total", help, log.copied_bytes);
    let help = "Bytes of the log of the Raft groups on disk.";
    let name = "tidewire_raft_log_disk_bytes";
    metric(out, name, help, "gauge", log.disk_bytes);
    let help = "Whether the log of the Raft groups waits for space on its disk.";
    let name = "tidewire_raft_log_without_space";
    metric(out, name, help, "gauge", u64::from(journal.waits_for_space));
    let help = "Raft groups whose state file waits for space on its disk.";
    let name = "tidewire_raft_state_files_without_space";
    metric(out, name, help, "gauge", states.groups_without_space);
    let help = "Flushes of state files that found no space; they are tried again.";
    let name = "tidewire_raft_state_flushes_refused_total";
    metric(out, name, help, "counter", states.flushes_refused);
}

fn telemetry_metrics(telemetry: &Telemetry, out: &mut String) {
    let status = telemetry.status();
    let counter = |out: &mut String, name: &str, help: &str, value| {
        metric(
            out,
            &format!("tidewire_telemetry_{name}"),
            help,
            "counter",
            value,
        );
    };
    counter(
        out,
        "accepted_messages_total",
        "Messages taken into the log.",
        status.accepted_messages,
    );
    counter(
        out,
        "refused_batches_total",
        "Batches that the log had no room for.",
        status.refused_batches,
    );
    counter(
        out,
        "processed_messages_total",
        "Messages processed.",
        status.processed_messages,
    );
    counter(
        out,
        "stored_points_total",
        "Points counted as new.",
        status.stored_points,
    );
    counter(
        out,
        "duplicate_points_total",
        "Points that came again.",
        status.duplicate_points,
    );
    counter(out, "seals_total", "Seals of the head.", status.seals);
    counter(out, "merges_total", "Merges of segments.", status.merges);
    counter(
        out,
        "writer_restarts_total",
        "Restarts of the writer.",
        status.writer_restarts,
    );
    let dead: u64 = status.dead_letters.values().sum();
    counter(
        out,
        "dead_letters_total",
        "Messages in the dead-letter log.",
        dead,
    );
    metric(
        out,
        "tidewire_telemetry_log_bytes",
        "Bytes of the log on disk.",
        "gauge",
        status.log_bytes,
    );
    let lag: u64 = status.lag.values().sum();
    metric(
        out,
        "tidewire_telemetry_lag_messages",
        "Messages not yet processed.",
        "gauge",
        lag,
    );
    pull_metrics(telemetry, out);
    if let Some(kafka) = telemetry.bridge_status().kafka {
        bridge_metrics::write(&kafka, out);
    }
}

/// What owners of buckets have not got of this node's log, and what this one has got of others': a
/// sample for each member.
fn pull_metrics(telemetry: &Telemetry, out: &mut String) {
    let lags = telemetry.owner_lags();
    let by_owner = |of: fn(&OwnerLag) -> u64| -> Vec<(String, u64)> {
        let label = |lag: &OwnerLag| (format!("owner=\"{}\"", lag.owner), of(lag));
        lags.iter().map(label).collect()
    };
    let name = "tidewire_telemetry_owner_lag_records";
    let help = "Records of this node's log that the owner of their bucket has not read.";
    metric_by(out, name, help, "gauge", &by_owner(|lag| lag.records));
    let name = "tidewire_telemetry_owner_lag_bytes";
    let help = "Their bytes, by the mean of the log.";
    metric_by(out, name, help, "gauge", &by_owner(|lag| lag.bytes));
    let pulls = telemetry.pulls();
    let by_node = |of: fn(&PullStatus) -> u64| -> Vec<(String, u64)> {
        let label = |pull: &PullStatus| (format!("node=\"{}\"", pull.node), of(pull));
        pulls.iter().map(label).collect()
    };
    let name = "tidewire_telemetry_pulled_records_total";
    let help = "Records pulled from another node's log.";
    metric_by(out, name, help, "counter", &by_node(|pull| pull.records));
    let name = "tidewire_telemetry_pulled_bytes_total";
    let help = "Bytes of records pulled from another node's log.";
    metric_by(out, name, help, "counter", &by_node(|pull| pull.bytes));
    let name = "tidewire_telemetry_pull_lag_records";
    let help = "Records of another node's log that this node owns and has not pulled.";
    metric_by(out, name, help, "gauge", &by_node(|pull| pull.lag));
    let moved = telemetry.move_counts();
    let name = "tidewire_telemetry_bucket_moves_total";
    let help = "Buckets with rows that this node has copied from another.";
    metric(out, name, help, "counter", moved.buckets);
    let name = "tidewire_telemetry_bucket_copied_bytes_total";
    let help = "Bytes that came for that, also in vain.";
    metric(out, name, help, "counter", moved.bytes);
    let name = "tidewire_telemetry_pull_failing";
    let help = "1 while another node's log cannot be pulled.";
    let failing = |pull: &PullStatus| u64::from(pull.trouble.is_some());
    metric_by(out, name, help, "gauge", &by_node(failing));
}
