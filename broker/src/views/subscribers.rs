//! Who gets the messages of a topic.

use std::collections::BTreeSet;
use std::sync::Arc;

use admin::sub::{
    Group, LIMIT_DEFAULT, LIMIT_MAX, NodeRoutes, Routes, RoutesQuestion, ShardRoutes, Stream,
    Subscriber,
};
use cluster_core::{NodeEpoch, NodeId};
use mqtt::{Topic, VISITED_NODES_MAX};
use serde::{Deserialize, Serialize};
use session::{ConnectionId, GroupView, Recipient};

use super::sessions::subscriptions;
use super::{Led, ViewError, nodes_of_epochs, unled};
use crate::control::{Question, ask_each};
use crate::http::AdminState;
use crate::routes::Destination;

/// What the leader of shards answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct OfShards {
    routes: Vec<ShardRoutes>,
    /// Shards that it does not lead.
    unled: Vec<u16>,
}

/// What the routes of this node say.
#[derive(Debug, Default)]
struct Destinations {
    shards: BTreeSet<u16>,
    connections: BTreeSet<ConnectionId>,
    nodes: BTreeSet<NodeEpoch>,
}

/// Where a message goes that is published at this node.
pub(crate) async fn routes(
    state: &Arc<AdminState>,
    asked: RoutesQuestion,
) -> Result<Routes, ViewError> {
    let topic = topic_of(&asked.topic).map_err(ViewError::Asked)?;
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let destinations = matching(state, &topic).map_err(ViewError::Conflict)?;
    let epochs = nodes_of_epochs(state);
    let mut missing = Vec::new();

    let mut nodes = Vec::new();
    if !destinations.connections.is_empty() {
        nodes.push(NodeId(state.node.node));
    }
    for epoch in &destinations.nodes {
        match epochs.get(&epoch.0) {
            Some(node) => nodes.push(*node),
            None => missing.push(format!("node epoch {}: it has ended", epoch.0)),
        }
    }
    let questions = nodes.into_iter().map(|node| {
        let topic = asked.topic.clone();
        (node, Question::CleanSubscribers { topic, limit })
    });
    let mut of_nodes = Vec::new();
    for (node, answer) in ask_each::<NodeRoutes>(state, questions.collect()).await {
        match answer {
            Ok(routes) => of_nodes.push(routes),
            Err(why) => missing.push(format!("clean sessions of node {}: {why}", node.0)),
        }
    }

    let led = Led::of(state, destinations.shards);
    let mut not_led = led.unled;
    let questions = led.by_node.into_iter().map(|(node, shards)| {
        let topic = asked.topic.clone();
        let question = Question::Subscribers {
            topic,
            shards,
            limit,
        };
        (node, question)
    });
    let mut of_shards = Vec::new();
    for (node, answer) in ask_each::<OfShards>(state, questions.collect()).await {
        match answer {
            Ok(answer) => {
                not_led.extend(answer.unled);
                of_shards.extend(answer.routes);
            }
            Err(why) => missing.push(format!("shards of node {}: {why}", node.0)),
        }
    }
    missing.extend(unled(&not_led));
    of_shards.sort_by_key(|of| of.shard);
    for subscriber in of_shards.iter_mut().flat_map(|of| &mut of.sessions) {
        // The shard knows epochs; this node knows whose they are.
        let epoch = subscriber.node_epoch;
        subscriber.node = epoch
            .and_then(|epoch| epochs.get(&epoch))
            .map(|node| node.0);
    }
    Ok(Routes {
        topic: asked.topic.clone(),
        node: state.node.node,
        stream: stream(state, &topic),
        nodes: of_nodes,
        shards: of_shards,
        retained_shard: state.shared.homes.retained(&topic),
        missing,
    })
}

/// The answer of the leader of shards.
pub(crate) async fn of_shards(
    state: &AdminState,
    topic: &str,
    shards: Vec<u16>,
    limit: usize,
) -> Result<OfShards, String> {
    let topic = topic_of(topic)?;
    let limit = limit.min(LIMIT_MAX);
    let mut answer = OfShards::default();
    for shard in shards {
        let topic = topic.clone();
        let looked = state.shards.look(shard, move |seen| {
            let recipients = seen.durable.recipients(&topic, limit);
            let groups = seen.durable.groups_of(&topic, limit);
            (recipients, groups, seen.leads)
        });
        let Some((recipients, (groups, groups_total), true)) = looked.await else {
            answer.unled.push(shard);
            continue;
        };
        let (sessions, total) = recipients.map_err(|error| error.to_string())?;
        answer.routes.push(ShardRoutes {
            shard,
            leader: state.node.node,
            total: total as u64,
            sessions: sessions.iter().map(subscriber).collect(),
            groups_total: groups_total as u64,
            groups: groups.iter().map(group).collect(),
        });
    }
    Ok(answer)
}

/// The answer of a node with clean sessions.
pub(crate) async fn of_node(
    state: &AdminState,
    topic: &str,
    limit: usize,
) -> Result<NodeRoutes, String> {
    let topic = topic_of(topic)?;
    let connections = matching(state, &topic)?.connections;
    let total = connections.len() as u64;
    let ids = connections.into_iter().take(limit.min(LIMIT_MAX)).collect();
    let reports = state.shared.threads.reports(ids, Some(topic)).await;
    let mut clients: Vec<Subscriber> = reports
        .into_iter()
        .map(|report| Subscriber {
            client: report.client.map(|id| id.to_string()).unwrap_or_default(),
            node: Some(state.node.node),
            node_epoch: Some(state.shared.node_epoch.0),
            because: subscriptions(&report.view.subscriptions),
        })
        .collect();
    clients.sort_by(|a, b| a.client.cmp(&b.client));
    Ok(NodeRoutes {
        node: state.node.node,
        total,
        clients,
    })
}

fn topic_of(text: &str) -> Result<Topic, String> {
    Topic::try_from(text).map_err(|error| format!("topic {text:?}: {error}"))
}

/// What the routes that are in force here match.
fn matching(state: &AdminState, topic: &Topic) -> Result<Destinations, String> {
    let mut found = Destinations::default();
    let routes = state.snapshot.load();
    let matched = routes.matches(
        topic,
        VISITED_NODES_MAX,
        |destination, _| match *destination {
            Destination::Shard(shard) => {
                found.shards.insert(shard);
            }
            Destination::Connection(id) => {
                found.connections.insert(id);
            }
            Destination::Node(epoch) => {
                found.nodes.insert(epoch);
            }
        },
    );
    // What a client subscribes to of its own has no row.
    found.shards.extend(state.shared.homes.owner(topic));
    matched.map_err(|limit| {
        format!("a message of this topic is refused: it matches too much ({limit})")
    })?;
    Ok(found)
}

/// The stream rule that takes the topic, whoever publishes.
fn stream(state: &AdminState, topic: &Topic) -> Option<Stream> {
    let streams = &state.shared.streams;
    let (id, _) = streams.match_topic(topic, "client")?;
    let rule = streams.rule(id)?;
    let filter = streams.rules().find(|(one, _)| one.name == rule.name);
    Some(Stream {
        name: rule.name.clone(),
        filter: filter.map(|(_, filter)| filter.to_string())?,
    })
}

fn subscriber(recipient: &Recipient) -> Subscriber {
    Subscriber {
        client: recipient.client.to_string(),
        node: None,
        node_epoch: recipient.node_epoch.map(|epoch| epoch.0),
        because: subscriptions(&recipient.filters),
    }
}

fn group(view: &GroupView) -> Group {
    Group {
        filter: view.filter.to_string(),
        members: view.members as u64,
        connected: view.connected as u64,
        queue_messages: view.queue_messages as u64,
        queue_bytes: view.queue_bytes as u64,
    }
}
