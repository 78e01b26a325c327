//! What a node does for the groups whose replicas it has: it starts and removes them, moves them,
//! hands leaderships back, and shows how they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::{
    BootMs, Group as GroupName, LAG_MAX, MetaAnswer, MetaCommand, MoveEffect, NodeId, RaftId,
};

use super::driver::{Done, Runtime};
use super::event::MemberEvent;
use super::hosted::Order;
use super::inner::Inner;
use super::message::{Message, PREPARE, Prepare, Prepared};
use super::movers::Step;
use super::returns::STEADY_MS;
use super::status::{BucketMove, GroupRow, MemberRow, MemberStatus, Moving};
use crate::raft::GroupControl;

/// How often the node of a new replica is asked whether it runs, and the pause between.
const PREPARE_TRIES_MAX: u32 = 20;
const PREPARE_PAUSE: Duration = Duration::from_millis(100);
const PREPARE_DEADLINE: Duration = Duration::from_secs(1);
/// The pause before meta is told again of a deleted replica.
const GONE_PAUSE: Duration = Duration::from_millis(200);

impl Runtime {
    pub(super) fn keep_groups(&mut self, now: BootMs) {
        self.host();
        self.move_groups(now);
        self.hand_over(now);
        self.return_leaders(now);
    }

    fn host(&mut self) {
        let running = self.running().into_iter();
        let running: BTreeMap<GroupName, RaftId> = running
            .map(|(group, control)| (group, control.replica()))
            .collect();
        let meta = self.meta.clone();
        let orders = self.hosted.poll_orders(
            self.inner.me,
            meta.as_deref(),
            self.tenure.is_seen(),
            &running,
        );
        for order in orders {
            match order {
                Order::Start {
                    group,
                    replica,
                    is_new,
                } => self.say(MemberEvent::StartReplica {
                    group,
                    replica,
                    is_new,
                }),
                Order::Recover { group, recovered } => self.say(MemberEvent::RecoverReplica {
                    group,
                    from: recovered.from,
                    replica: recovered.replica,
                    incarnation: recovered.incarnation,
                }),
                Order::Remove(leftover) => self.say(MemberEvent::RemoveReplica {
                    group: leftover.group,
                    replica: leftover.replica,
                }),
                Order::Gone(leftover) => {
                    let inner = Arc::clone(&self.inner);
                    self.tasks.spawn(async move {
                        let told = inner.propose(&MetaCommand::Removed(leftover)).await;
                        if let Err(why) = &told {
                            tracing::warn!(?leftover, %why, "a deleted replica stands in meta");
                            tokio::time::sleep(GONE_PAUSE).await;
                        }
                        Done::Gone(leftover, told.is_ok())
                    });
                }
            }
        }
    }

    fn move_groups(&mut self, now: BootMs) {
        let Some(meta) = self.meta.clone() else {
            return;
        };
        let inner = Arc::clone(&self.inner);
        let own = &self.own;
        let applied = |group: GroupName| own.get(&group).map_or(0, |claim| claim.applied);
        let control = |group: GroupName| inner.control(group);
        let steps = self.movers.poll_steps(&meta, control, applied, now);
        for step in steps {
            let Some(control) = self.inner.control(step.group) else {
                self.movers.handle_step(step.group, step.serial, false, now);
                continue;
            };
            let inner = Arc::clone(&self.inner);
            self.tasks.spawn(async move {
                let (group, serial) = (step.group, step.serial);
                let taken = take(&inner, &*control, step).await;
                if let Err(why) = &taken {
                    inner.counters.move_steps_failed_total.add(1);
                    tracing::debug!(?group, why, "a step of a move is to be repeated");
                }
                Done::Step {
                    group,
                    serial,
                    is_done: taken.is_ok(),
                }
            });
        }
    }

    fn return_leaders(&mut self, now: BootMs) {
        if self.suspects_any() || self.handover.is_begun() {
            return;
        }
        let due: Vec<(GroupName, RaftId)> = self.returns_due(now).collect();
        let Some((group, replica)) = self.returns.poll_transfer(due.into_iter(), now) else {
            return;
        };
        let Some(control) = self.inner.control(group) else {
            return;
        };
        let inner = Arc::clone(&self.inner);
        self.tasks.spawn(async move {
            match control.transfer(replica).await {
                Ok(()) => inner.counters.returns_total.add(1),
                Err(error) => tracing::warn!(?group, %error, "a leadership did not return"),
            }
            Done::Nothing
        });
    }

    /// The shards led here that another node should lead, and can.
    fn returns_due(&self, now: BootMs) -> impl Iterator<Item = (GroupName, RaftId)> {
        let meta = self.meta.as_deref();
        let shards = self
            .own
            .keys()
            .filter(|group| matches!(group, GroupName::Shard(_)));
        shards.filter_map(move |&group| {
            let meta = meta?;
            let preferred = meta.placement(group)?.placement.leader()?;
            let is_steady = self
                .up
                .get(&preferred)
                .is_some_and(|since| now.since_ms(*since) >= STEADY_MS);
            let serves =
                meta.member(preferred)?.epoch.is_some() && !self.stopping.contains(&preferred);
            let is_moving = meta.layout().moves.contains_key(&group);
            let is_held = self.inner.holds.is_held(group, now);
            if preferred == self.inner.me || !is_steady || !serves || is_moving || is_held {
                return None;
            }
            let replica = meta.replica(group, preferred)?;
            let control = self.inner.control(group)?;
            let membership = control.membership();
            let is_close = control
                .lags()
                .get(&replica)
                .is_some_and(|lag| *lag < LAG_MAX);
            let is_fit = membership.is_committed
                && membership.joint.is_none()
                && membership.voters.contains(&replica)
                && is_close;
            is_fit.then_some((group, replica))
        })
    }

    pub(super) fn status(&self, now: BootMs) -> MemberStatus {
        let until_ms = self.inner.lease.until_ms();
        let mut status = MemberStatus {
            node: self.inner.me,
            epoch: self.tenure.epoch(),
            is_entered: self.tenure.is_entered(),
            lease_ms: match until_ms {
                u64::MAX => u64::MAX,
                until_ms => until_ms.saturating_sub(now.0),
            },
            meta_applied: self.meta.as_ref().map_or(0, |meta| meta.index()),
            routes_applied: *self.routes_applied.borrow(),
            ..MemberStatus::default()
        };
        let Some(meta) = &self.meta else {
            return status;
        };
        let leaders = self.inner.leaders.load();
        let leads = |node: NodeId| {
            let shards = leaders.iter().filter(|(group, leading)| {
                leading.node == node && matches!(group, GroupName::Shard(_))
            });
            shards.count()
        };
        let mut owned = BTreeMap::<NodeId, (usize, usize)>::new();
        for (bucket, row) in meta.bucket_rows() {
            let (all, with_rows) = owned.entry(row.owner).or_default();
            *all += 1;
            *with_rows += usize::from(meta.holds_rows(bucket));
        }
        for (node, member) in meta.members() {
            let (buckets, buckets_with_rows) = owned.get(&node).copied().unwrap_or_default();
            let row = MemberRow {
                address: member.address.clone(),
                epoch: member.epoch,
                start: member.last.map(|(start, _)| start).unwrap_or_default(),
                is_heard: self.hears(node),
                is_suspected: self.is_suspected(node),
                is_leaving: meta.layout().leaving.contains(&node),
                leftovers: meta.leftovers(node).count(),
                leads: leads(node),
                buckets,
                buckets_with_rows,
                offer: meta.offer(node),
            };
            status.members.insert(node, row);
        }
        let moves = meta.moving().iter().filter_map(|(bucket, to)| {
            let from = meta.bucket(*bucket)?.owner;
            Some((*bucket, BucketMove { from, to: *to }))
        });
        status.bucket_moves = moves.collect();
        for (group, row) in meta.placements() {
            let leading = leaders.get(&group);
            let moving = meta.layout().moves.get(&group).map(|row| Moving {
                voters: row.to.voters.clone(),
                learners: row.to.learners.clone(),
                is_aborted: row.is_aborted,
            });
            let pinned = match group {
                GroupName::Shard(shard) => meta.pins().get(&shard),
                GroupName::Meta | GroupName::Routes => None,
            };
            let row = GroupRow {
                version: row.version,
                pinned: pinned.map(|nodes| nodes.iter().copied().collect()),
                voters: row.placement.voters.clone(),
                learners: row.placement.learners.clone(),
                leader: leading.map(|leading| leading.node),
                term: leading.map_or(0, |leading| leading.term),
                moving,
                lags: self.lags(group),
            };
            status.groups.insert(group, row);
        }
        status
    }

    fn lags(&self, group: GroupName) -> BTreeMap<NodeId, u64> {
        let Some(control) = self.inner.control(group) else {
            return BTreeMap::new();
        };
        let nodes = control.nodes();
        let lags = control.lags().into_iter();
        lags.filter_map(|(replica, lag)| Some((*nodes.get(&replica)?, lag)))
            .collect()
    }
}

/// Takes one step of a move.
async fn take(inner: &Inner, control: &dyn GroupControl, step: Step) -> Result<(), String> {
    let said = |error: crate::raft::ControlError| error.to_string();
    match step.effect {
        MoveEffect::AddLearner {
            group,
            node,
            replica,
        } => {
            let prepare = Prepare {
                group,
                replica,
                version: step.version,
            };
            prepared(inner, node, prepare).await?;
            control.add_learner(replica, node).await.map_err(said)
        }
        MoveEffect::TransferLeader { to, .. } => control.transfer(to).await.map_err(said),
        MoveEffect::ChangeMembership { voters, .. } => {
            control.change_voters(voters).await.map_err(said)
        }
        MoveEffect::RemoveReplicas { replicas, .. } => {
            control.remove_learners(replicas).await.map_err(said)
        }
        MoveEffect::Propose(command) => match inner.propose(&command).await {
            Ok(MetaAnswer::Done) => {
                let counters = &inner.counters;
                match command {
                    MetaCommand::EndMove { .. } => counters.moves_ended_total.add(1),
                    _ => counters.moves_aborted_total.add(1),
                }
                Ok(())
            }
            Ok(other) => Err(format!("meta answers {other:?}")),
            Err(why) => Err(why.to_string()),
        },
    }
}

/// Waits until the node of a new replica runs it. It may have no replica of meta yet, by which it
/// would know that it is to.
async fn prepared(inner: &Inner, node: NodeId, prepare: Prepare) -> Result<(), String> {
    if node == inner.me {
        return Err("a new replica of the leader's own node".to_owned());
    }
    for _ in 0..PREPARE_TRIES_MAX {
        let payload = prepare.encode();
        match inner
            .ask_for(node, PREPARE, payload, PREPARE_DEADLINE)
            .await?
        {
            Prepared::Ready => return Ok(()),
            Prepared::NotYet => tokio::time::sleep(PREPARE_PAUSE).await,
            Prepared::Unwanted => return Err(format!("node {node} knows a later meta")),
        }
    }
    Err(format!("node {node} does not start the replica in time"))
}
