//! What nodes say to each other about themselves, over the control plane of `cluster`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use admin::cluster::{MemberReport, Members, NodeReport, RebalanceRequest, RestartReport};
use cluster::control::{ANSWER_BYTES_MAX, Answering, ControlService};
use cluster::member::MemberRow;
use cluster_core::NodeId;
use runtime::Restarted;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::drain;
use crate::http::AdminState;
use crate::memory;
use crate::views::{rebalancing, recovery, retained, sessions, shards, subscribers, vitals};

/// How long another node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take to look into its shards and connections.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to hand a shard over: Raft gives up after 2 s.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// A [`NodeReport`].
    Report,
    /// A [`sessions::Page`], of shards that it leads.
    Sessions(sessions::Asked),
    /// What there is of a client's session, of a replica of its shard.
    Session { client: String },
    /// What connections of this run of it say, those that there are.
    Connections { epoch: u64, connections: Vec<u64> },
    /// The same of one, with the subscriptions of a clean session.
    Connection { epoch: u64, connection: u64 },
    /// Whether there was such a connection: it is ended.
    End {
        epoch: u64,
        connection: u64,
        clean: bool,
    },
    /// Its clean sessions that get the messages of a topic.
    CleanSubscribers { topic: String, limit: usize },
    /// [`subscribers::OfShards`], of shards that it leads.
    Subscribers {
        topic: String,
        shards: Vec<u16>,
        limit: usize,
    },
    /// A [`retained::Page`], of shards that it leads.
    Retained(retained::Asked),
    /// What a replica says of its shard.
    Shard { shard: u16 },
    /// Nothing: it keeps a shard from returning to its preferred node, once it leads it.
    Hold { shard: u16, hold_s: u64 },
    /// Nothing: it hands a shard over that it leads.
    HandOver { shard: u16, to: u32 },
    /// A [`recovery::Reach`] of its replica of a shard.
    Reach { shard: u16 },
    /// [`admin::health::Vitals`].
    Vitals,
    /// An [`admin::cluster::Rebalancing`]: it sends clients to the nodes of their shards.
    Rebalance(RebalanceRequest),
    /// The same of what is under way.
    Rebalancing,
}

/// What one node tells all others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    /// A supervisor of it started an actor again.
    Restarted(RestartReport),
    /// It has sent clients to other nodes: by the hash of their ids.
    SentAway { clients: Vec<u64> },
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
}

impl ControlService for Reporter {
    fn answer(&self, from: NodeId, question: Vec<u8>) -> Answering {
        let state = self.state.get().and_then(Weak::upgrade);
        Box::pin(async move {
            let answer = match state {
                Some(state) => answer(&state, &question).await,
                None => Err("the node is starting or stopping".to_owned()),
            };
            answer.unwrap_or_else(|error| {
                tracing::warn!(%from, error, "a question of another node is not answered");
                failure(error)
            })
        })
    }

    fn handle_news(&self, from: NodeId, news: Vec<u8>) {
        match serde_json::from_slice(&news) {
            Ok(News::Restarted(restarted)) => {
                let RestartReport { child, reason, .. } = restarted;
                tracing::warn!(%from, child, reason, "another node started an actor again");
            }
            Ok(News::SentAway { clients }) => {
                let state = self.state.get().and_then(Weak::upgrade);
                if let Some(state) = state {
                    let now_ms = state.clock.mono_ms();
                    state.shared.references.handle_told(&clients, now_ms);
                }
            }
            Err(error) => tracing::warn!(%from, %error, "news that this node does not understand"),
        }
    }
}

/// Tells all other nodes whom this one has sent away.
pub(crate) fn tell_sent_away(state: &AdminState, clients: Vec<u64>) {
    let news = bytes(&News::SentAway { clients });
    state.control.tell(&news);
}

/// Answers a question of another node, or of this one.
async fn answer(state: &AdminState, question: &[u8]) -> Result<Vec<u8>, String> {
    let question: Question =
        serde_json::from_slice(question).map_err(|error| format!("not a question: {error}"))?;
    let answer = match question {
        Question::Report => bytes(&report(state)),
        Question::Sessions(asked) => bytes(&sessions::page(state, asked).await?),
        Question::Session { client } => bytes(&sessions::details(state, &client).await?),
        Question::Connections { epoch, connections } => {
            bytes(&sessions::connections(state, epoch, connections).await?)
        }
        Question::Connection { epoch, connection } => {
            bytes(&sessions::named(state, epoch, connection).await?)
        }
        Question::End {
            epoch,
            connection,
            clean,
        } => bytes(&sessions::end(state, epoch, connection, clean).await?),
        Question::CleanSubscribers { topic, limit } => {
            bytes(&subscribers::of_node(state, &topic, limit).await?)
        }
        Question::Subscribers {
            topic,
            shards,
            limit,
        } => bytes(&subscribers::of_shards(state, &topic, shards, limit).await?),
        Question::Retained(asked) => bytes(&retained::page(state, asked).await?),
        Question::Shard { shard } => bytes(&shards::details(state, shard).await?),
        Question::Hold { shard, hold_s } => {
            shards::hold(state, shard, hold_s);
            bytes(&())
        }
        Question::HandOver { shard, to } => bytes(&shards::hand_over(state, shard, to).await?),
        Question::Reach { shard } => bytes(&recovery::reach(state, shard)?),
        Question::Vitals => bytes(&vitals::vitals(state)),
        Question::Rebalance(asked) => bytes(&rebalancing::begin(state, asked).await),
        Question::Rebalancing => bytes(&rebalancing::progress(state)),
    };
    match answer.len() > ANSWER_BYTES_MAX {
        true => Err(format!(
            "the answer has {} bytes, at most {ANSWER_BYTES_MAX} go from node to node: ask for fewer \
             (--limit)",
            answer.len()
        )),
        false => Ok(answer),
    }
}

fn bytes(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("an answer is JSON")
}

fn failure(error: String) -> Vec<u8> {
    bytes(&admin::Failure { error })
}

/// What this node says about itself.
pub(crate) fn report(state: &AdminState) -> NodeReport {
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
    let nodes = status.members.keys();
    let questions = nodes.map(|node| (*node, Question::Report)).collect();
    let mut said: BTreeMap<NodeId, Result<NodeReport, String>> =
        ask_each(state, questions).await.into_iter().collect();
    let one = |(node, row): (&NodeId, &MemberRow)| {
        let (report, silent) = match said.remove(node) {
            Some(Ok(report)) => (Some(report), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, Some("it was not asked".to_owned())),
        };
        MemberReport {
            node: node.0,
            address: row.address.clone(),
            epoch: row.epoch.map(|epoch| epoch.0),
            report,
            silent,
        }
    };
    let members = status.members.iter().map(one).collect();
    Members { members }
}

/// Asks nodes, this one perhaps among them, all at once; their answers in the order of the nodes. A
/// node that is asked twice answers twice.
pub(crate) async fn ask_each<T: DeserializeOwned + Send + 'static>(
    state: &Arc<AdminState>,
    questions: Vec<(NodeId, Question)>,
) -> Vec<(NodeId, Result<T, String>)> {
    let mut asking = JoinSet::new();
    for (node, question) in questions {
        let state = Arc::clone(state);
        asking.spawn(async move { (node, ask(&state, node, &question).await) });
    }
    let mut answers = Vec::new();
    while let Some(asked) = asking.join_next().await {
        match asked {
            Ok(answer) => answers.push(answer),
            Err(_) => tracing::error!("a question to another node panicked"),
        }
    }
    answers.sort_by_key(|(node, _)| *node);
    answers
}

/// Asks a node, or this one.
///
/// # Errors
/// Why there is no answer, in words; whether another node saw the question is not known.
pub(crate) async fn ask<T: DeserializeOwned>(
    state: &AdminState,
    node: NodeId,
    question: &Question,
) -> Result<T, String> {
    let patience = match question {
        Question::HandOver { .. } => HAND_OVER_PATIENCE,
        Question::Report | Question::Vitals => PATIENCE,
        _ => LOOK_PATIENCE,
    };
    let question = bytes(question);
    let answer = match node.0 == state.node.node {
        true => answer(state, &question).await?,
        false => {
            let asked = state.control.ask(node, question, patience).await;
            asked.map_err(|error| error.to_string())?
        }
    };
    serde_json::from_slice(&answer).map_err(|error| match serde_json::from_slice(&answer) {
        Ok(admin::Failure { error }) => error,
        Err(_) => format!("an answer that this node does not understand: {error}"),
    })
}
