//! What this node says of itself when somebody asks how the cluster is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use admin::health::{Disk, Health, Led, SafeToStop, Vitals};
use cluster_core::NodeId;

use super::{ViewError, checks, stopping};
use crate::control::{Question, ask_each, report};
use crate::http::{AdminState, group_name};

/// What each member says of itself, or why it says nothing.
pub(crate) type Said = BTreeMap<NodeId, Result<Vitals, String>>;

/// What was found on all nodes.
pub(crate) async fn health(state: &Arc<AdminState>) -> Health {
    let said = ask_all(state).await;
    let status = state.member.status();
    Health {
        node: state.node.node,
        checks: checks::of(&status, &said),
    }
}

/// Whether a node may be stopped; this one unless said.
pub(crate) async fn safe_to_stop(
    state: &Arc<AdminState>,
    node: Option<u32>,
) -> Result<SafeToStop, ViewError> {
    let node = NodeId(node.unwrap_or(state.node.node));
    if !state.member.status().members.contains_key(&node) {
        return Err(ViewError::Unknown(format!(
            "there is no node {}; `tidewire ctl cluster status` lists the nodes",
            node.0
        )));
    }
    let said = ask_all(state).await;
    let status = state.member.status();
    Ok(stopping::safe_to_stop(node, &status, &said))
}

async fn ask_all(state: &Arc<AdminState>) -> Said {
    let status = state.member.status();
    let questions = status.members.keys().map(|node| (*node, Question::Vitals));
    ask_each(state, questions.collect())
        .await
        .into_iter()
        .collect()
}

/// The answer of a node.
pub(crate) fn vitals(state: &AdminState) -> Vitals {
    let status = state.member.status();
    let own = status.members.get(&status.node);
    let led = status.groups.iter();
    let led = led.filter(|(_, row)| row.leader == Some(status.node));
    let shards = 0..state.shards.len();
    let telemetry = state.telemetry.as_ref();
    let bridge = telemetry.map(|line| line.bridge_status());
    let kafka = bridge.as_ref().and_then(|bridge| bridge.kafka.as_ref());
    let topics = kafka.map(|kafka| kafka.topics.iter());
    let log_waits = state.raft.log_counters().journal.waits_for_space;
    let is_held = state.member.lease().is_held(state.clock.mono_ms());
    let unread = telemetry.map(|line| line.owner_lags()).unwrap_or_default();
    let pulls = telemetry.map(|line| line.pulls()).unwrap_or_default();
    let pulls = pulls
        .into_iter()
        .filter_map(|pull| Some((pull.node, pull.trouble?)));
    let space = runtime::disk_space(&state.data);
    Vitals {
        report: report(state),
        has_lease: is_held && state.ready.load(Ordering::Acquire),
        memory_limit_bytes: state.memory.bytes,
        led: led
            .map(|(group, row)| Led {
                group: group_name(*group),
                lags: row.lags.iter().map(|(node, lag)| (node.0, *lag)).collect(),
            })
            .collect(),
        stuck: shards
            .filter(|shard| state.shards.is_stuck(*shard))
            .collect(),
        disk_full: log_waits || state.raft.state_counters().groups_without_space > 0,
        disk: space.map(|space| Disk {
            free_bytes: space.free_bytes,
            total_bytes: space.total_bytes,
        }),
        files_limit: runtime::descriptor_limit().map(|limit| limit.soft),
        spooled: topics.map_or(0, |topics| topics.map(|topic| topic.spool_records).sum()),
        bridge: bridge.map(|bridge| bridge.trouble).unwrap_or_default(),
        unread: unread.iter().map(|lag| (lag.owner, lag.records)).collect(),
        unpulled: pulls.collect(),
        buckets_with_rows: own.map_or(0, |row| row.buckets_with_rows as u32),
    }
}
