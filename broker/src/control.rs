//! What nodes say to each other about themselves, over the control plane of `cluster`.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use admin::cluster::{Holdings, MemberReport, Members, NodeReport, RestartReport};
use cluster::control::{Answering, AskError, ControlService};
use cluster::member::{GroupRow, MemberStatus};
use cluster_core::{Group, NodeId};
use runtime::Restarted;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::drain;
use crate::http::AdminState;
use crate::memory;

/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// A [`NodeReport`].
    Report,
}

/// What one node tells all others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    /// A supervisor of it started an actor again.
    Restarted(RestartReport),
}

/// Answers other nodes.
pub(crate) struct Reporter {
    /// There once the node runs.
    state: OnceLock<Weak<AdminState>>,
}

impl Reporter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: OnceLock::new(),
        })
    }

    /// The node runs: it can say how, and tells of actors that are started again.
    pub(crate) fn begin(&self, state: &Arc<AdminState>) {
        let weak = Arc::downgrade(state);
        assert!(self.state.set(weak.clone()).is_ok(), "a node begins once");
        state.restarts.listen(move |restarted| {
            let Some(state) = weak.upgrade() else { return };
            let news = News::Restarted(report_of(restarted));
            let news = serde_json::to_vec(&news).expect("news is JSON");
            state.control.tell(&news);
        });
    }

    fn answer_to(&self, question: &[u8]) -> Result<Vec<u8>, String> {
        let question: Question =
            serde_json::from_slice(question).map_err(|error| format!("not a question: {error}"))?;
        let state = self.state.get().and_then(Weak::upgrade);
        let state = state.ok_or("the node is starting or stopping")?;
        let answer = match question {
            Question::Report => serde_json::to_vec(&report(&state)),
        };
        Ok(answer.expect("an answer is JSON"))
    }
}

impl ControlService for Reporter {
    fn answer(&self, from: NodeId, question: Vec<u8>) -> Answering {
        let answer = self.answer_to(&question).unwrap_or_else(|error| {
            tracing::warn!(%from, error, "a question of another node is not answered");
            serde_json::to_vec(&admin::Failure { error }).expect("a failure is JSON")
        });
        Box::pin(std::future::ready(answer))
    }

    fn handle_news(&self, from: NodeId, news: Vec<u8>) {
        match serde_json::from_slice(&news) {
            Ok(News::Restarted(restarted)) => {
                let RestartReport { child, reason, .. } = restarted;
                tracing::warn!(%from, child, reason, "another node started an actor again");
            }
            Err(error) => tracing::warn!(%from, %error, "news that this node does not understand"),
        }
    }
}

/// What this node says about itself.
fn report(state: &AdminState) -> NodeReport {
    let now_ms = state.clock.wall_ms();
    NodeReport {
        node: state.node.clone(),
        uptime_s: state.clock.mono_ms().saturating_sub(state.started_ms) / 1_000,
        wall_ms: now_ms,
        ready: state.ready.load(std::sync::atomic::Ordering::Acquire) && !state.draining.is_begun(),
        connections: drain::open(&state.counters),
        unstored_records: state.telemetry.as_ref().map(|line| line.unstored_records()),
        resident_bytes: memory::resident(),
        restarts: state.restarts.total(),
        last_restart: state.restarts.last().as_ref().map(report_of),
    }
}

fn report_of(restarted: &Restarted) -> RestartReport {
    RestartReport {
        supervisor: restarted.supervisor.to_owned(),
        child: restarted.child.clone(),
        reason: restarted.reason.clone(),
    }
}

/// All members, each with what it says about itself now: all are asked at once.
pub(crate) async fn members(state: &Arc<AdminState>) -> Members {
    let status = state.member.status();
    let question = serde_json::to_vec(&Question::Report).expect("a question is JSON");
    let mut asking = JoinSet::new();
    let mut members = Vec::new();
    for (node, row) in &status.members {
        let member = MemberReport {
            node: node.0,
            address: row.address.clone(),
            epoch: row.epoch.map(|epoch| epoch.0),
            report: (*node == status.node).then(|| report(state)),
            silent: None,
        };
        if member.report.is_none() {
            let (control, node, question) = (state.control.clone(), *node, question.clone());
            let at = members.len();
            asking.spawn(async move { (at, control.ask(node, question, PATIENCE).await) });
        }
        members.push(member);
    }
    while let Some(asked) = asking.join_next().await {
        let Ok((at, answer)) = asked else {
            tracing::error!("a question to another node panicked");
            continue;
        };
        match read(answer) {
            Ok(report) => members[at].report = Some(report),
            Err(why) => members[at].silent = Some(why),
        }
    }
    Members { members }
}

/// What a member holds, as this node knows and as it says itself; nothing if it is no member.
pub(crate) async fn holdings(state: &Arc<AdminState>, node: NodeId) -> Option<Holdings> {
    let status = state.member.status();
    let row = status.members.get(&node)?;
    let said = match node == status.node {
        true => Ok(report(state)),
        false => {
            let question = serde_json::to_vec(&Question::Report).expect("a question is JSON");
            read(state.control.ask(node, question, PATIENCE).await)
        }
    };
    let replicas = replicas(&status, node) + row.leftovers;
    let mut holdings = Holdings {
        node: node.0,
        is_leaving: row.is_leaving,
        is_running: row.epoch.is_some(),
        leads: count(row.leads),
        replicas: count(replicas),
        buckets: count(row.buckets),
        buckets_with_rows: count(row.buckets_with_rows),
        ..Holdings::default()
    };
    match said {
        Ok(report) => {
            holdings.clients = Some(report.connections);
            holdings.unstored_records = report.unstored_records;
        }
        // Of one that is stopped nothing is to be waited for.
        Err(why) => holdings.silent = holdings.is_running.then_some(why),
    }
    let says_it_has_nothing = match holdings.is_running {
        true => holdings.clients == Some(0) && holdings.unstored_records.unwrap_or(0) == 0,
        false => true,
    };
    let holds_nothing = row.leads == 0 && replicas == 0 && row.buckets == 0;
    holdings.is_empty = row.is_leaving && holds_nothing && says_it_has_nothing;
    Some(holdings)
}

/// Replicas of shards, and places as a voter of meta or the routes, that a node has or is to get.
fn replicas(status: &MemberStatus, node: NodeId) -> usize {
    let is_held = |(group, row): &(&Group, &GroupRow)| {
        let (voters, learners) = match &row.moving {
            Some(moving) => (&moving.voters, &moving.learners),
            None => (&row.voters, &row.learners),
        };
        let follows_only = !matches!(group, Group::Shard(_));
        [voters, &row.voters].iter().any(|all| all.contains(&node))
            || (!follows_only
                && [learners, &row.learners]
                    .iter()
                    .any(|all| all.contains(&node)))
    };
    status.groups.iter().filter(is_held).count()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn read(answer: Result<Vec<u8>, AskError>) -> Result<NodeReport, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let report = serde_json::from_slice(&answer);
    report.map_err(|error| match serde_json::from_slice(&answer) {
        Ok(admin::Failure { error }) => error,
        Err(_) => format!("an answer that this node does not understand: {error}"),
    })
}
