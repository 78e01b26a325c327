//! Who leads which shard, for the shards' hosts.

use std::time::Duration;

use cluster::ShardMachine;
use cluster::member::Leaders;
use cluster::raft::Group;
use cluster_core::{Group as GroupName, NodeId, ShardId};
use ractor::ActorRef;
use runtime::ractor;

use super::events::MembershipMessage;
use crate::shard::{Leading, has_applied};

/// How long until a leadership is asked again whose quorum was not there.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Tells when this node begins to lead a shard, once everything committed before is applied here,
/// and when it ends.
pub(super) async fn follow(
    shard: u16,
    group: Group<ShardMachine>,
    tell: ActorRef<MembershipMessage>,
) {
    let mut leader = group.watch_leader();
    loop {
        leader.mark_unchanged();
        let leads = group.is_leading() && has_applied(&group).await;
        if tell.cast(MembershipMessage::Leads(shard, leads)).is_err() {
            return;
        }
        // A leadership whose quorum was not there in time is asked again.
        if group.is_leading() && !leads {
            tokio::time::sleep(ASK_AGAIN).await;
            continue;
        }
        if leader.changed().await.is_err() {
            return;
        }
    }
}

/// Who leads a shard that is not led here: who says so of itself, else whom the replica here
/// follows.
pub(super) fn elsewhere(
    me: NodeId,
    shard: u16,
    leaders: &Leaders,
    replica: Option<&Group<ShardMachine>>,
) -> Leading {
    let claims = leaders.get(&GroupName::Shard(ShardId(shard)));
    let claims = claims.map(|leading| leading.node);
    let follows = || replica.and_then(|group| *group.watch_leader().borrow());
    let leader = claims.or_else(|| follows().map(|leader| leader.node));
    match leader {
        Some(node) if node != me => Leading::At(node),
        _ => Leading::Nobody,
    }
}
