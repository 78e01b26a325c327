//! What a member still holds, for whoever takes it out.

use std::sync::Arc;

use admin::cluster::{Holdings, NodeReport};
use cluster::member::{GroupRow, MemberStatus};
use cluster_core::{Group, NodeId};

use crate::control::{Question, ask};
use crate::http::AdminState;

/// What a member holds, as this node knows and as it says itself; nothing if it is no member.
pub(crate) async fn holdings(state: &Arc<AdminState>, node: NodeId) -> Option<Holdings> {
    let status = state.member.status();
    let row = status.members.get(&node)?;
    let said: Result<NodeReport, String> = ask(state, node, &Question::Report).await;
    // What lies on the disk of a node that does not run nobody can delete, or is to wait for.
    let leftovers = match row.epoch {
        Some(_) => row.leftovers,
        None => 0,
    };
    let replicas = replicas(&status, node) + leftovers;
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
