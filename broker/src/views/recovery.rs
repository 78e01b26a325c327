//! A shard whose majority is lost for good, and with which replica it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use admin::shard::{RecoverRequest, Recovering, Survivor};
use cluster::member::{GroupRow, group_id};
use cluster_core::{Group, MetaAnswer, MetaCommand, NodeId, RecoverShard, Refusal, ShardId};
use serde::{Deserialize, Serialize};

use super::ViewError;
use super::shards::row;
use super::steering::{TRIES_MAX, propose, said};
use crate::control::{Question, ask_each};
use crate::http::AdminState;

/// How far the log of a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Reach {
    /// Of its last entry. Of two logs the one with the higher term has all that was committed.
    term: u64,
    index: u64,
}

/// Of this node's replica of a shard.
pub(crate) fn reach(state: &AdminState, shard: u16) -> Result<Reach, String> {
    let group = group_id(Group::Shard(ShardId(shard)));
    let last = state.raft.last_entry(group);
    let (term, index) = last.ok_or_else(|| format!("it has no replica of shard {shard}"))?;
    Ok(Reach { term, index })
}

/// Has a shard go on with what one replica has, or says with which it would.
pub(crate) async fn recover(
    state: &Arc<AdminState>,
    shard: u16,
    asked: RecoverRequest,
) -> Result<Recovering, ViewError> {
    let row = row(state, shard)?;
    // One that led when the others died still says so, and commits nothing.
    if let Some(leader) = row.leader.filter(|_| has_majority(state, &row)) {
        return Err(ViewError::Conflict(format!(
            "node {} leads shard {shard}: nothing is lost, and nothing is to be recovered",
            leader.0
        )));
    }
    let holders = holders(&row);
    let questions = holders
        .iter()
        .map(|node| (*node, Question::Reach { shard }));
    let reached: BTreeMap<NodeId, Result<Reach, String>> = ask_each(state, questions.collect())
        .await
        .into_iter()
        .collect();
    let known = |node: &NodeId| reached.get(node).and_then(|reach| reach.as_ref().ok());
    let best = holders
        .iter()
        .filter_map(|node| Some((*known(node)?, *node)))
        .max();
    let (best, node) = chosen(shard, asked.node.map(NodeId), best, known)?;
    let lost = holders.iter().filter(|node| known(node).is_none());
    let mut recovering = Recovering {
        shard,
        node: node.0,
        replicas: survivors(&row, &holders, &reached),
        best: best.0,
        loses: loses(shard, node, &lost.map(|node| node.0).collect::<Vec<_>>()),
        incarnation: None,
        dry_run: asked.dry_run,
    };
    let mut command = RecoverShard {
        shard: ShardId(shard),
        expected: row.version,
        node,
    };
    let rehearsed = ask_meta(state, &mut command, true).await;
    if let MetaAnswer::Refused(refusal) = rehearsed.map_err(ViewError::Away)? {
        return Err(refused(shard, &refusal));
    }
    if asked.dry_run {
        return Ok(recovering);
    }
    if !asked.accept_loss {
        return Err(ViewError::Conflict(format!(
            "recovering shard {shard} loses {}; `--accept-loss` says that you accept it, `--dry-run` what \
             each replica has",
            recovering.loses.join("; ")
        )));
    }
    tracing::warn!(shard, %node, "an operator has a shard go on with what one replica has");
    match ask_meta(state, &mut command, false).await {
        Ok(MetaAnswer::Recovered { incarnation }) => {
            recovering.incarnation = Some(incarnation.0);
            Ok(recovering)
        }
        Ok(MetaAnswer::Refused(refusal)) => Err(refused(shard, &refusal)),
        Ok(other) => Err(ViewError::Away(format!(
            "meta answers a recovery with {other:?}; see whether all nodes run one version"
        ))),
        Err(why) => Err(ViewError::Away(format!(
            "{why}; repeat it, which does no harm. If meta has lost its own majority, no shard can be \
             recovered: start one of its voters again"
        ))),
    }
}

/// Has meta apply the command, or says what it would answer. The row that was read may be an older one: it
/// is asked again of the present one, for what has to hold is looked at by meta itself.
async fn ask_meta(
    state: &AdminState,
    command: &mut RecoverShard,
    dry_run: bool,
) -> Result<MetaAnswer, String> {
    let mut answer = propose(state, &MetaCommand::RecoverShard(*command), dry_run).await?;
    for _ in 1..TRIES_MAX {
        let MetaAnswer::Refused(Refusal::Changed { current }) = answer else {
            break;
        };
        command.expected = current;
        answer = propose(state, &MetaCommand::RecoverShard(*command), dry_run).await?;
    }
    Ok(answer)
}

/// Whether a majority of a shard's voters serves.
fn has_majority(state: &AdminState, row: &GroupRow) -> bool {
    let status = state.member.status();
    let runs = |node: &&NodeId| status.members.get(node).is_some_and(|m| m.epoch.is_some());
    2 * row.voters.iter().filter(runs).count() > row.voters.len()
}

/// The nodes that may have a replica: members, and where a move brings one.
fn holders(row: &GroupRow) -> Vec<NodeId> {
    let moving = row.moving.iter();
    let moving = moving.flat_map(|moving| moving.voters.iter().chain(&moving.learners));
    let mut holders: Vec<NodeId> = row
        .voters
        .iter()
        .chain(&row.learners)
        .chain(moving)
        .copied()
        .collect();
    holders.sort_unstable();
    holders.dedup();
    holders
}

/// The replica that reaches furthest, and the one to take.
fn chosen<'a>(
    shard: u16,
    asked: Option<NodeId>,
    best: Option<(Reach, NodeId)>,
    known: impl Fn(&NodeId) -> Option<&'a Reach>,
) -> Result<(NodeId, NodeId), ViewError> {
    let Some((reach, best)) = best else {
        return Err(ViewError::Away(format!(
            "no node with a replica of shard {shard} answers: start one whose folder is there, then ask \
             again"
        )));
    };
    let Some(node) = asked else {
        return Ok((best, best));
    };
    match known(&node) {
        Some(known) if *known == reach => Ok((best, node)),
        Some(known) => Err(ViewError::Conflict(format!(
            "node {} ends at entry {} of term {}, node {} goes on to entry {} of term {}: take --node {}",
            node.0, known.index, known.term, best.0, reach.index, reach.term, best.0
        ))),
        None => Err(ViewError::Conflict(format!(
            "node {} has no replica of shard {shard} that answers; node {} has: take --node {}",
            node.0, best.0, best.0
        ))),
    }
}

fn survivors(
    row: &GroupRow,
    holders: &[NodeId],
    reached: &BTreeMap<NodeId, Result<Reach, String>>,
) -> Vec<Survivor> {
    let survivor = |node: &NodeId| {
        let (reach, silent) = match reached.get(node) {
            Some(Ok(reach)) => (Some(*reach), None),
            Some(Err(why)) => (None, Some(why.clone())),
            None => (None, Some("it was not asked".to_owned())),
        };
        Survivor {
            node: node.0,
            votes: row.voters.contains(node),
            last_term: reach.map(|reach| reach.term),
            last_index: reach.map(|reach| reach.index),
            silent,
        }
    };
    holders.iter().map(survivor).collect()
}

/// What a recovery costs, in words.
fn loses(shard: u16, node: NodeId, lost: &[u32]) -> Vec<String> {
    let lost: Vec<String> = lost.iter().map(u32::to_string).collect();
    vec![
        format!(
            "what nodes {} have acknowledged for shard {shard} and node {} has not received: sessions, \
             subscriptions, queued and retained messages",
            lost.join(" "),
            node.0
        ),
        format!("every connection of a client of shard {shard}: it has to connect again"),
        format!(
            "the replicas of nodes {}, which are deleted once those are back",
            lost.join(" ")
        ),
    ]
}

fn refused(shard: u16, refusal: &Refusal) -> ViewError {
    ViewError::Conflict(match refusal {
        Refusal::NotLost { alive, voters } => format!(
            "{alive} of {voters} voters of shard {shard} run: it is led without any loss once they reach each \
             other; see `tidewire ctl doctor`. A node that was just lost counts until its epoch has ended"
        ),
        other => said(shard, other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(term: u64, index: u64) -> Reach {
        Reach { term, index }
    }

    #[test]
    fn the_log_with_the_higher_term_is_taken_however_long_the_other_is() {
        let reached = BTreeMap::from([(NodeId(1), reach(3, 90)), (NodeId(2), reach(4, 10))]);
        let known = |node: &NodeId| reached.get(node);
        let best = reached.iter().map(|(node, reach)| (*reach, *node)).max();

        assert_eq!(chosen(7, None, best, known), Ok((NodeId(2), NodeId(2))));
        let worse = chosen(7, Some(NodeId(1)), best, known);
        let why = worse.unwrap_err().to_string();
        assert!(why.ends_with("take --node 2"), "{why}");
        let silent = chosen(7, Some(NodeId(3)), best, known);
        let why = silent.unwrap_err().to_string();
        assert!(why.starts_with("node 3 has no replica of shard 7"), "{why}");
        let nobody = chosen(7, None, None, known);
        assert!(matches!(nobody, Err(ViewError::Away(_))));
    }
}
