//! Clients that should be at another node, over the whole cluster.

use std::sync::Arc;

use admin::cluster::{REBALANCE_PER_S_MAX, RebalanceRequest, Rebalances, Rebalancing};
use cluster_core::NodeId;

use super::ViewError;
use crate::control::{Question, ask_each};
use crate::http::AdminState;
use crate::rebalance::Rebalance;

/// Has every node send its clients to the nodes of their shards; or how far that is.
pub(crate) async fn of_all(
    state: &Arc<AdminState>,
    asked: Option<RebalanceRequest>,
) -> Result<Rebalances, ViewError> {
    let status = state.member.status();
    let nodes: Vec<NodeId> = status
        .members
        .iter()
        .filter(|(_, row)| row.epoch.is_some())
        .map(|(node, _)| *node)
        .collect();
    if let Some(asked) = &asked
        && !(1..=REBALANCE_PER_S_MAX).contains(&asked.per_s)
    {
        return Err(ViewError::Asked(format!(
            "per_s: {} is not a number from 1 to {REBALANCE_PER_S_MAX}",
            asked.per_s
        )));
    }
    let offers = nodes
        .iter()
        .filter(|node| !status.members[*node].offer.server.is_empty());
    if asked.is_some() && offers.count() == 0 {
        return Err(ViewError::Conflict(
            "no node says where clients reach it: set mqtt.advertise".to_owned(),
        ));
    }
    let share = |asked: RebalanceRequest| RebalanceRequest {
        per_s: asked
            .per_s
            .div_ceil(u32::try_from(nodes.len().max(1)).unwrap_or(u32::MAX)),
        ..asked
    };
    let questions = nodes.iter().map(|node| {
        let question = match asked {
            Some(asked) => Question::Rebalance(share(asked)),
            None => Question::Rebalancing,
        };
        (*node, question)
    });
    let said = ask_each::<Rebalancing>(state, questions.collect()).await;
    let nodes = said.into_iter().map(|(node, said)| {
        let silent = |why: String| Rebalancing {
            silent: Some(why),
            ..Rebalancing::default()
        };
        Rebalancing {
            node: node.0,
            ..said.unwrap_or_else(silent)
        }
    });
    Ok(Rebalances {
        dry_run: asked.is_some_and(|asked| asked.dry_run),
        nodes: nodes.collect(),
    })
}

/// This node sends its clients to the nodes of their shards, or counts them.
pub(crate) async fn begin(state: &AdminState, asked: RebalanceRequest) -> Rebalancing {
    let threads = &state.shared.threads;
    if asked.dry_run {
        return Rebalance::count(threads, asked.clean).await;
    }
    state.rebalance.begin(threads, asked.per_s, asked.clean);
    state.rebalance.progress()
}

/// How far this node is.
pub(crate) fn progress(state: &AdminState) -> Rebalancing {
    state.rebalance.progress()
}
