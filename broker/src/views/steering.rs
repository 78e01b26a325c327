//! Where an operator wants a shard to be.

use admin::shard::{MoveRequest, Pinned, UnpinRequest};
use cluster_core::{MetaAnswer, MetaCommand, NodeId, Pin, Refusal, ShardId};

use super::ViewError;
use super::shards::row;
use crate::http::AdminState;

/// How often a move is proposed again whose row has changed under it: it says itself who has a replica.
pub(super) const TRIES_MAX: u32 = 3;

/// Has a replica of a shard moved, and the shard stay there.
pub(crate) async fn move_replica(
    state: &AdminState,
    shard: u16,
    asked: MoveRequest,
) -> Result<Pinned, ViewError> {
    let row = row(state, shard)?;
    let (from, to) = (NodeId(asked.from), NodeId(asked.to));
    let mut pin = Pin {
        shard: ShardId(shard),
        expected: row.version,
        from,
        to,
    };
    for _ in 0..TRIES_MAX {
        let answer = propose(state, &MetaCommand::Pin(pin), asked.dry_run).await;
        match answer.map_err(ViewError::Away)? {
            MetaAnswer::Refused(Refusal::Changed { current }) => pin.expected = current,
            MetaAnswer::Refused(refusal) => {
                return Err(ViewError::Conflict(said(shard, &refusal)));
            }
            _ => {
                let holders = row.voters.iter().chain(&row.learners);
                let others = holders.filter(|node| **node != from && **node != to);
                let mut nodes: Vec<u32> = others.map(|node| node.0).collect();
                nodes.push(to.0);
                nodes.sort_unstable();
                tracing::info!(
                    shard,
                    %from,
                    %to,
                    dry_run = asked.dry_run,
                    "an operator moves a replica"
                );
                return Ok(Pinned {
                    shard,
                    nodes,
                    is_pinned: true,
                    dry_run: asked.dry_run,
                });
            }
        }
    }
    Err(ViewError::Away(format!(
        "shard {shard} changes again and again; see `tidewire ctl shard show {shard}`"
    )))
}

/// Has a shard placed by the ring again.
pub(crate) async fn unpin(
    state: &AdminState,
    shard: u16,
    asked: UnpinRequest,
) -> Result<Pinned, ViewError> {
    let row = row(state, shard)?;
    let command = MetaCommand::Unpin {
        shard: ShardId(shard),
    };
    let answer = propose(state, &command, asked.dry_run).await;
    if let MetaAnswer::Refused(refusal) = answer.map_err(ViewError::Away)? {
        return Err(ViewError::Conflict(refusal.to_string()));
    }
    let nodes = row.pinned.unwrap_or_default();
    Ok(Pinned {
        shard,
        nodes: nodes.iter().map(|node| node.0).collect(),
        is_pinned: false,
        dry_run: asked.dry_run,
    })
}

/// Has meta apply a command, or says what it would answer.
pub(crate) async fn propose(
    state: &AdminState,
    command: &MetaCommand,
    dry_run: bool,
) -> Result<MetaAnswer, String> {
    if dry_run {
        let rehearsed = state.member.rehearse(command);
        return rehearsed.ok_or_else(|| "no replica of meta runs here; ask again".to_owned());
    }
    let proposed = state.member.propose(command).await;
    proposed.map_err(|error| error.to_string())
}

/// A refusal, and what to do about it.
pub(super) fn said(shard: u16, refusal: &Refusal) -> String {
    match refusal {
        Refusal::Moving { .. } => format!(
            "shard {shard} is being moved already; `tidewire ctl shard show {shard}` says where to"
        ),
        Refusal::Leaving(node) => format!(
            "node {node} is to give up what it holds; `tidewire ctl cluster undrain {node}` first"
        ),
        other => format!("shard {shard}: {other}"),
    }
}
