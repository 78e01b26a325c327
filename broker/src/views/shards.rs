//! One shard, and who leads it.

use std::sync::Arc;

use admin::shard::{HOLD_S_MAX, ShardDetails, Transfer, Transferred};
use cluster::member::{GroupRow, group_id};
use cluster_core::{Group, NodeId, ShardId};

use super::{ViewError, replicas};
use crate::control::{Question, ask};
use crate::http::{AdminState, group_status};

/// A shard, by its leader, or else by another replica.
pub(crate) async fn show(state: &Arc<AdminState>, shard: u16) -> Result<ShardDetails, ViewError> {
    row(state, shard)?;
    let mut silent = Vec::new();
    let mut behind = None;
    for node in replicas(state, shard) {
        match ask::<ShardDetails>(state, node, &Question::Shard { shard }).await {
            Ok(details) if details.by_leader => return Ok(details),
            // The leader may have changed since this node heard of it.
            Ok(details) => behind = behind.or(Some(details)),
            Err(why) => silent.push(format!("node {}: {why}", node.0)),
        }
    }
    if let Some(details) = behind {
        return Ok(details);
    }
    Err(ViewError::Away(format!(
        "no replica of shard {shard} answers ({}); see `tidewire ctl cluster status`",
        silent.join(", ")
    )))
}

/// Has another node lead a shard.
pub(crate) async fn transfer(
    state: &Arc<AdminState>,
    shard: u16,
    asked: Transfer,
) -> Result<Transferred, ViewError> {
    let row = row(state, shard)?;
    if asked.hold_s > HOLD_S_MAX {
        return Err(ViewError::Asked(format!(
            "hold_s: {} is not a number from 0 to {HOLD_S_MAX}",
            asked.hold_s
        )));
    }
    let Some(from) = row.leader else {
        return Err(ViewError::Away(format!(
            "nobody leads shard {shard}; wait for its election, or see `tidewire ctl cluster status`"
        )));
    };
    let to = NodeId(asked.to);
    if !row.voters.contains(&to) {
        let voters: Vec<String> = row.voters.iter().map(|node| node.0.to_string()).collect();
        return Err(ViewError::Conflict(format!(
            "node {} has no vote in shard {shard}; its voters are {}",
            to.0,
            voters.join(" ")
        )));
    }
    let transferred = Transferred {
        shard,
        from: from.0,
        to: to.0,
        preferred: row.voters.first().map(|node| node.0),
        hold_s: asked.hold_s,
        dry_run: asked.dry_run,
    };
    if asked.dry_run {
        return Ok(transferred);
    }
    let away = |node: NodeId, why: String| ViewError::Away(format!("node {}: {why}", node.0));
    // First, or the new leader may give it back before it hears that it is not to.
    let hold = Question::Hold {
        shard,
        hold_s: asked.hold_s,
    };
    ask::<()>(state, to, &hold)
        .await
        .map_err(|why| away(to, why))?;
    if from != to {
        let hand_over = Question::HandOver { shard, to: to.0 };
        ask::<()>(state, from, &hand_over)
            .await
            .map_err(|why| away(from, why))?;
    }
    tracing::info!(
        shard,
        from = from.0,
        to = to.0,
        "an operator hands a shard over"
    );
    Ok(transferred)
}

/// What this node knows of a shard's group.
pub(super) fn row(state: &AdminState, shard: u16) -> Result<GroupRow, ViewError> {
    let status = state.member.status();
    let row = status.groups.get(&Group::Shard(ShardId(shard))).cloned();
    row.ok_or_else(|| {
        ViewError::Unknown(format!(
            "there is no shard {shard}; there are {}, from 0",
            state.shards.len()
        ))
    })
}

/// The answer of a node with a replica.
pub(crate) async fn details(state: &AdminState, shard: u16) -> Result<ShardDetails, String> {
    let looked = state.shards.look(shard, |seen| {
        let durable = seen.durable;
        let counters = durable.counters();
        ShardDetails {
            by_leader: seen.leads,
            applied: durable.index(),
            sessions: durable.sessions() as u64,
            connected: counters.connected,
            queue_messages: counters.queue_messages,
            queue_bytes: counters.queue_bytes,
            unflushed_bytes: durable.unflushed_bytes() as u64,
            retained_messages: counters.retained_messages,
            retained_bytes: counters.retained_bytes,
            groups: counters.groups,
            group_members: counters.group_members,
            outbox_routes: counters.outbox_routes,
            outbox_wills: counters.outbox_wills,
            outbox_memberships: counters.outbox_memberships,
            dropped_full: counters.dropped_full,
            dropped_expired: counters.dropped_expired,
            ..ShardDetails::default()
        }
    });
    let details = looked.await;
    let details = details.ok_or_else(|| format!("it has no replica of shard {shard}"))?;
    let status = state.member.status();
    let group = Group::Shard(ShardId(shard));
    let row = status.groups.get(&group);
    let row = row.ok_or_else(|| format!("it knows of no shard {shard}"))?;
    Ok(ShardDetails {
        group: group_status((&group, row)),
        answered_by: state.node.node,
        held_bytes: state.shards.held_bytes_of(shard),
        is_stuck: state.shards.is_stuck(shard),
        ..details
    })
}

/// Hands a shard that is led here over to another voter.
pub(crate) async fn hand_over(state: &AdminState, shard: u16, to: u32) -> Result<(), String> {
    let group = group_id(Group::Shard(ShardId(shard)));
    let control = state.raft.control(group);
    let control = control.ok_or_else(|| format!("it has no replica of shard {shard}"))?;
    let nodes = control.nodes();
    let replica = nodes.iter().find(|(_, node)| node.0 == to);
    let (replica, _) = replica.ok_or_else(|| format!("node {to} has no replica of the shard"))?;
    let replica = *replica;
    let transferred = control.transfer(replica).await;
    transferred.map_err(|error| error.to_string())
}

/// Keeps a shard from going back to its preferred node once it is led here.
pub(crate) fn hold(state: &AdminState, shard: u16, hold_s: u64) {
    let hold_ms = hold_s.min(HOLD_S_MAX) * 1_000;
    let until = state.clock.mono_ms().saturating_add(hold_ms);
    let group = Group::Shard(ShardId(shard));
    state.member.hold(group, cluster_core::BootMs(until));
}
