//! When a node has a bucket with rows moved to itself, and when it gives up that one goes.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::member::Member;
use cluster_core::{BucketClaim, Meta, MetaAnswer, MetaCommand, NodeId, NodeState};

use super::RETRY;

/// How long the next owner of a bucket may be away before the move to it is given up.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(60);

/// Moves of this node's buckets to nodes that are away, and since when.
#[derive(Debug, Default)]
pub(super) struct Away(BTreeMap<BucketClaim, Duration>);

impl Away {
    /// The moves of this node's buckets that are to be given up: those to a node that was away for
    /// [`AWAY_MAX`], by a clock that only rises, or that is to leave itself.
    pub(super) fn given_up(
        &mut self,
        meta: &Meta,
        node: NodeId,
        now: Duration,
    ) -> Vec<BucketClaim> {
        let states = meta.node_states();
        let (mut away, mut given_up) = (BTreeMap::new(), Vec::new());
        for (bucket, to) in meta.moving() {
            let Some(row) = meta.bucket(*bucket).filter(|row| row.owner == node) else {
                continue;
            };
            let claim = BucketClaim {
                bucket: *bucket,
                epoch: row.epoch,
            };
            match states.get(to) {
                Some(NodeState::Serving) => {}
                Some(NodeState::Away) => {
                    let since = self.0.get(&claim).copied().unwrap_or(now);
                    if now.saturating_sub(since) >= AWAY_MAX {
                        given_up.push(claim);
                    }
                    away.insert(claim, since);
                }
                Some(NodeState::Leaving | NodeState::Gone) | None => given_up.push(claim),
            }
        }
        self.0 = away;
        given_up
    }

    /// Whether time alone may bring something.
    pub(super) fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Asks meta to have a bucket moved to a node: to this one, which is to store it, or which stores it
/// and gives the move up.
pub(super) async fn propose(member: Member, claim: BucketClaim, to: NodeId) {
    let bucket = claim.bucket;
    match member.propose(&MetaCommand::MoveBucket { claim, to }).await {
        Ok(MetaAnswer::Refused(refusal)) => {
            tracing::info!(%refusal, %bucket, "a bucket with rows is not moved now");
        }
        Ok(_) => tracing::info!(%bucket, %to, "a bucket with rows is to be at a node"),
        Err(error) => tracing::warn!(%error, %bucket, "a bucket with rows is not moved now"),
    }
    // Until then this node's replica has most likely applied it; else it is asked for again.
    tokio::time::sleep(RETRY).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_core::{
        Begin, BucketId, EndReason, FeatureLevel, FolderId, Found, Join, StartCount, WallMs,
    };

    /// Node 1 with a bucket that is being moved to node 2.
    fn moving() -> (Meta, impl FnMut(&mut Meta, MetaCommand)) {
        let mut index = 0;
        let mut apply = move |meta: &mut Meta, command: MetaCommand| {
            index += 1;
            let answer = meta.apply(index, WallMs(index), &command);
            assert!(!matches!(answer, MetaAnswer::Refused(_)), "{answer:?}");
        };
        let mut meta = Meta::default();
        let (folder, level) = (FolderId(1), FeatureLevel(1));
        apply(
            &mut meta,
            MetaCommand::Found(Found {
                node: NodeId(1),
                folder,
                shards: 1.try_into().unwrap(),
                buckets: 1.try_into().unwrap(),
                level,
            }),
        );
        let folder = FolderId(2);
        apply(
            &mut meta,
            MetaCommand::Join(Join {
                node: Some(NodeId(2)),
                folder,
                level,
            }),
        );
        apply(
            &mut meta,
            MetaCommand::Begin(Begin {
                node: NodeId(2),
                folder,
                start: StartCount(1),
                address: String::new(),
                level,
            }),
        );
        let bucket = BucketId(0);
        let claim = |meta: &Meta| BucketClaim {
            bucket,
            epoch: meta.bucket(bucket).unwrap().epoch,
        };
        let (node, claims) = (NodeId(1), vec![claim(&meta)]);
        apply(&mut meta, MetaCommand::HoldRows { node, claims });
        let (claim, to) = (claim(&meta), NodeId(2));
        apply(&mut meta, MetaCommand::MoveBucket { claim, to });
        (meta, apply)
    }

    #[test]
    fn a_move_to_a_node_that_is_away_long_is_given_up_by_the_owner_alone() {
        let (mut meta, mut apply) = moving();
        let mut away = Away::default();
        let at = |s| Duration::from_secs(s);
        assert!(away.given_up(&meta, NodeId(1), at(0)).is_empty());
        assert!(!away.is_waiting());
        let epoch = meta.member(NodeId(2)).unwrap().epoch.unwrap();
        let reason = EndReason::Dead;
        apply(&mut meta, MetaCommand::End { epoch, reason });

        assert!(away.given_up(&meta, NodeId(1), at(100)).is_empty());
        assert!(away.is_waiting());
        assert!(away.given_up(&meta, NodeId(1), at(159)).is_empty());
        assert_eq!(away.given_up(&meta, NodeId(1), at(160)).len(), 1);
        assert!(away.given_up(&meta, NodeId(2), at(900)).is_empty());
        assert!(!away.is_waiting(), "it is not this node's bucket");
    }

    #[test]
    fn a_move_to_a_node_that_is_to_leave_is_given_up_at_once() {
        let (mut meta, mut apply) = moving();
        let node = NodeId(2);
        let is_leaving = true;
        apply(&mut meta, MetaCommand::Drain { node, is_leaving });

        let given_up = Away::default().given_up(&meta, NodeId(1), Duration::ZERO);

        assert_eq!(given_up.len(), 1);
    }
}
