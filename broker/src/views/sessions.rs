//! Sessions of clients, and their connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use admin::session::{
    Connection, Kick, Kicked, LIMIT_DEFAULT, LIMIT_MAX, Session, SessionDetails, SessionQuestion,
    Sessions, Subscription, Will,
};
use cluster_core::NodeId;
use mqtt::{ClientId, Filter, QoS, ReasonCode, Version};
use serde::{Deserialize, Serialize};
use session::{ConnectionId, NodeEpoch, SessionFilter, SessionView, WallMs};

use super::merged::Merged;
use super::{Led, ViewError, nodes_of_epochs, replicas, unled};
use crate::control::{Question, ask, ask_each};
use crate::http::AdminState;
use crate::ids::shard_of;
use crate::io::Report;

/// Sessions of one shard that one question looks at.
const VISITED_MAX: usize = 2_000;

/// What the leader of shards is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    shards: Vec<u16>,
    prefix: String,
    after: Option<String>,
    connected: Option<bool>,
    node_epoch: Option<u64>,
    limit: usize,
}

/// What it answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Page {
    sessions: Vec<Session>,
    next: Option<String>,
    /// Shards that it does not lead.
    unled: Vec<u16>,
}

/// Sessions of the whole cluster, asked of the leaders of their shards.
pub(crate) async fn list(
    state: &Arc<AdminState>,
    asked: SessionQuestion,
) -> Result<Sessions, ViewError> {
    let nodes = nodes_of_epochs(state);
    let of_node = |node: u32| {
        let epoch = nodes.iter().find(|(_, of)| of.0 == node);
        epoch.map(|(epoch, _)| *epoch).ok_or_else(|| {
            ViewError::Unknown(format!(
                "node {node} does not serve; `tidewire ctl cluster status` lists the nodes"
            ))
        })
    };
    let led = Led::of(state, 0..state.shards.len());
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let wanted = Asked {
        shards: Vec::new(),
        prefix: asked.prefix.unwrap_or_default(),
        after: asked.after,
        connected: asked.connected,
        node_epoch: asked.node.map(of_node).transpose()?,
        limit,
    };
    let questions = led.by_node.into_iter().map(|(node, shards)| {
        let wanted = wanted.clone();
        (node, Question::Sessions(Asked { shards, ..wanted }))
    });
    let mut merged = Merged::new(limit, |row: &Session| &row.client, str::cmp);
    let mut missing = Vec::new();
    let mut not_led = led.unled;
    for (node, page) in ask_each::<Page>(state, questions.collect()).await {
        match page {
            Ok(page) => {
                not_led.extend(page.unled);
                merged.add(page.sessions, page.next);
            }
            Err(why) => missing.push(format!("node {}: {why}", node.0)),
        }
    }
    missing.extend(unled(&not_led));
    let (mut sessions, next) = merged.finish();
    for session in &mut sessions {
        session.node = nodes.get(&session.node_epoch).map(|node| node.0);
    }
    missing.extend(add_connections(state, &mut sessions).await);
    Ok(Sessions {
        sessions,
        next,
        missing,
    })
}

/// Adds what the nodes of the connections say; and says which do not.
async fn add_connections(state: &Arc<AdminState>, sessions: &mut [Session]) -> Vec<String> {
    let mut by_node: BTreeMap<NodeId, (u64, Vec<u64>)> = BTreeMap::new();
    for session in sessions.iter().filter(|session| session.connected) {
        if let Some(node) = session.node {
            let (_, ids) = by_node
                .entry(NodeId(node))
                .or_insert_with(|| (session.node_epoch, Vec::new()));
            ids.push(session.connection_id);
        }
    }
    let questions = by_node.into_iter().map(|(node, (epoch, connections))| {
        let question = Question::Connections { epoch, connections };
        (node, question)
    });
    let mut missing = Vec::new();
    let mut known = BTreeMap::new();
    for (node, answer) in ask_each::<Vec<Connection>>(state, questions.collect()).await {
        match answer {
            Ok(all) => known.extend(all.into_iter().map(|one| ((node.0, one.id), one))),
            Err(why) => missing.push(format!("connections of node {}: {why}", node.0)),
        }
    }
    for session in sessions {
        let node = session.node.unwrap_or_default();
        session.connection = known.remove(&(node, session.connection_id));
    }
    missing
}

/// All about a client's session, by the leader of its shard, or else by another replica.
pub(crate) async fn show(
    state: &Arc<AdminState>,
    client: &str,
) -> Result<SessionDetails, ViewError> {
    let id = ClientId::try_from(client).map_err(|error| ViewError::Asked(error.to_string()))?;
    let shard = shard_of(&id, state.shared.shard_count);
    let mut silent = Vec::new();
    let mut behind = None;
    for node in replicas(state, shard) {
        let question = Question::Session {
            client: client.to_owned(),
        };
        match ask::<Option<SessionDetails>>(state, node, &question).await {
            Ok(Some(details)) if details.by_leader => return Ok(whole(state, details).await),
            // The leader may have changed since this node heard of it.
            Ok(Some(details)) => behind = behind.or(Some(details)),
            Ok(None) => {
                return Err(ViewError::Unknown(format!(
                    "no session of client {client:?}; `tidewire ctl session list --prefix` finds \
                     client ids"
                )));
            }
            Err(why) => silent.push(format!("node {}: {why}", node.0)),
        }
    }
    if let Some(details) = behind {
        return Ok(whole(state, details).await);
    }
    Err(ViewError::Away(format!(
        "no replica of shard {shard}, where client {client:?} belongs, answers ({}); see \
         `tidewire ctl shard list`",
        silent.join(", ")
    )))
}

/// Adds what the node of the connection says.
async fn whole(state: &Arc<AdminState>, mut details: SessionDetails) -> SessionDetails {
    let session = &mut details.session;
    let nodes = nodes_of_epochs(state);
    session.node = nodes.get(&session.node_epoch).map(|node| node.0);
    if !session.connected {
        return details;
    }
    let Some(node) = session.node else {
        details.connection_unknown = Some("that run of its node has ended".to_owned());
        return details;
    };
    let question = Question::Connection {
        epoch: session.node_epoch,
        connection: session.connection_id,
    };
    match ask::<Option<Named>>(state, NodeId(node), &question).await {
        Ok(Some(Named {
            connection,
            subscriptions,
        })) => {
            details.subscriptions_total += connection.subscriptions;
            details.subscriptions.extend(subscriptions);
            session.connection = Some(connection);
        }
        Ok(None) => details.connection_unknown = Some("it has just ended".to_owned()),
        Err(why) => details.connection_unknown = Some(format!("node {node}: {why}")),
    }
    details
}

/// Disconnects a client, wherever it is.
pub(crate) async fn kick(
    state: &Arc<AdminState>,
    client: &str,
    kick: Kick,
) -> Result<Kicked, ViewError> {
    let session = show(state, client).await?.session;
    let node = match (session.connected, session.node) {
        (true, Some(node)) => node,
        (false, _) => {
            return Err(ViewError::Conflict(format!(
                "client {client:?} is not connected: there is nobody to disconnect; its session \
                 ends by itself, or when it connects with Clean Start"
            )));
        }
        (true, None) => {
            return Err(ViewError::Away(format!(
                "the node of client {client:?} does not serve; its shard will soon say that the \
                 client is away"
            )));
        }
    };
    if !kick.dry_run {
        let question = Question::End {
            epoch: session.node_epoch,
            connection: session.connection_id,
            clean: kick.clean,
        };
        let was_there = ask::<bool>(state, NodeId(node), &question).await;
        let was_there =
            was_there.map_err(|why| ViewError::Away(format!("node {node}: {why}; try again")))?;
        if !was_there {
            return Err(ViewError::Conflict(format!(
                "the connection of client {client:?} has just ended; look with `tidewire ctl client \
                 show`"
            )));
        }
        // Who it is, is not for a log at this level.
        tracing::info!(node, clean = kick.clean, "an operator disconnects a client");
    }
    Ok(Kicked {
        client: client.to_owned(),
        node,
        clean: kick.clean,
        dry_run: kick.dry_run,
    })
}

/// The answer of the leader of shards.
pub(crate) async fn page(state: &AdminState, asked: Asked) -> Result<Page, String> {
    let limit = asked.limit.min(LIMIT_MAX);
    let after = asked.after.as_deref().map(ClientId::try_from).transpose();
    let after = after.map_err(|error| error.to_string())?;
    let wanted = SessionFilter {
        prefix: asked.prefix,
        is_connected: asked.connected,
        is_persistent: None,
        node_epoch: asked.node_epoch.map(NodeEpoch),
    };
    let mut merged = Merged::new(limit, |row: &Session| &row.client, str::cmp);
    let mut unled = Vec::new();
    for shard in asked.shards {
        let (wanted, after) = (wanted.clone(), after.clone());
        let looked = state.shards.look(shard, move |seen| {
            let durable = seen.durable;
            let page = durable.session_page(&wanted, after.as_ref(), limit, VISITED_MAX);
            (page, seen.now, seen.leads)
        });
        match looked.await {
            Some((page, now, true)) => {
                let rows = page.rows.iter().map(|view| session(shard, view, now));
                merged.add(rows.collect(), page.next.map(|next| next.to_string()));
            }
            Some((_, _, false)) | None => unled.push(shard),
        }
    }
    let (sessions, next) = merged.finish();
    Ok(Page {
        sessions,
        next,
        unled,
    })
}

/// The answer of a node with a replica of the client's shard.
pub(crate) async fn details(
    state: &AdminState,
    client: &str,
) -> Result<Option<SessionDetails>, String> {
    let id = ClientId::try_from(client).map_err(|error| error.to_string())?;
    let shard = shard_of(&id, state.shared.shard_count);
    let looked = state.shards.look(shard, move |seen| {
        let details = seen.durable.session_details(&id);
        (details, seen.now, seen.leads)
    });
    let Some((details, now, by_leader)) = looked.await else {
        return Err(format!("it has no replica of shard {shard}"));
    };
    let Some(details) = details else {
        return match by_leader {
            true => Ok(None),
            // It may only be behind.
            false => Err("its replica has no such session, and does not lead".to_owned()),
        };
    };
    let subscriptions = subscriptions(&details.subscriptions);
    Ok(Some(SessionDetails {
        session: session(shard, &details.view, now),
        answered_by: state.node.node,
        by_leader,
        subscriptions_total: subscriptions.len() as u64,
        subscriptions,
        unacknowledged: details.unacknowledged as u64,
        oldest_ms: details.oldest.map(|at| at.0),
        unreleased: details.unreleased as u64,
        will: details.will.map(|(topic, qos, delay_s)| Will {
            topic: topic.to_string(),
            qos: qos as u8,
            delay_s,
        }),
        connection_unknown: None,
    }))
}

/// A connection with what a clean session subscribed to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    connection: Connection,
    subscriptions: Vec<Subscription>,
}

/// The answer of the node of connections.
pub(crate) async fn connections(
    state: &AdminState,
    epoch: u64,
    connections: Vec<u64>,
) -> Result<Vec<Connection>, String> {
    let reports = reports(state, epoch, connections).await?;
    Ok(reports.iter().map(connection).collect())
}

/// The answer of the node of one connection.
pub(crate) async fn named(
    state: &AdminState,
    epoch: u64,
    id: u64,
) -> Result<Option<Named>, String> {
    let reports = reports(state, epoch, vec![id]).await?;
    Ok(reports.first().map(|report| Named {
        connection: connection(report),
        subscriptions: subscriptions(&report.view.subscriptions),
    }))
}

/// Ends a connection of this node; whether there was one.
pub(crate) async fn end(
    state: &AdminState,
    epoch: u64,
    connection: u64,
    clean: bool,
) -> Result<bool, String> {
    check_epoch(state, epoch)?;
    let reason = ReasonCode::AdministrativeAction;
    let ended = state
        .shared
        .threads
        .end(ConnectionId(connection), reason, clean);
    Ok(ended.await)
}

async fn reports(
    state: &AdminState,
    epoch: u64,
    connections: Vec<u64>,
) -> Result<Vec<Report>, String> {
    check_epoch(state, epoch)?;
    let ids = connections.into_iter().map(ConnectionId).collect();
    Ok(state.shared.threads.reports(ids, None).await)
}

/// Numbers of connections mean something within one run of a node.
fn check_epoch(state: &AdminState, epoch: u64) -> Result<(), String> {
    match state.shared.node_epoch.0 == epoch {
        true => Ok(()),
        false => Err("the node was started anew meanwhile".to_owned()),
    }
}

fn session(shard: u16, view: &SessionView, now: WallMs) -> Session {
    let since_s = |at: WallMs| now.0.saturating_sub(at.0) / 1_000;
    Session {
        client: view.client.to_string(),
        shard,
        connected: view.disconnected.is_none(),
        node: None,
        node_epoch: view.node_epoch.0,
        connection_id: view.connection.0,
        epoch: view.epoch.0,
        incarnation: view.incarnation.0,
        persistent: view.is_persistent,
        away_s: view.disconnected.map(since_s),
        expires_in_s: view.expires.map(|at| at.0.saturating_sub(now.0) / 1_000),
        expiry_s: view.expiry_s,
        receive_maximum: view.receive_maximum,
        subscriptions: view.subscriptions as u64,
        queue_messages: view.queue_messages as u64,
        queue_bytes: view.queue_bytes as u64,
        connection: None,
    }
}

fn connection(report: &Report) -> Connection {
    let view = &report.view;
    let protocol = match view.version {
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    };
    Connection {
        id: report.connection.0,
        peer: report.peer.map(|peer| peer.to_string()),
        protocol: protocol.to_owned(),
        connected_s: view.connected_ms / 1_000,
        silent_ms: view.silent_ms,
        keep_alive_s: view.keep_alive_s,
        packet_bytes_max: (view.packet_bytes_max != u32::MAX).then_some(view.packet_bytes_max),
        inflight: view.inflight as u64,
        waiting: view.waiting as u64,
        waiting_bytes: view.waiting_bytes as u64,
        unsent_bytes: report.unsent_bytes as u64,
        owed: view.owed as u64,
        subscriptions: view.subscriptions_total as u64,
        dropped_full: view.dropped.full,
        dropped_expired: view.dropped.expired,
        dropped_too_large: view.dropped.too_large,
    }
}

pub(super) fn subscriptions(of: &[(Filter, QoS)]) -> Vec<Subscription> {
    let one = |(filter, qos): &(Filter, QoS)| Subscription {
        filter: filter.to_string(),
        qos: *qos as u8,
    };
    of.iter().map(one).collect()
}
