//! What steers a group beside its machine: who leads it, and who its members are.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;

use cluster_core::{BootMs, Membership, NodeId, RaftId, Unavailable};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use storage::raft::GroupId;

use super::attempt::Attempt;
use super::driver::Driven;
use super::types::{LogId, Types};
use crate::machine::Machine;

/// A future of a group whose machine is not known.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who leads a group, as one replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The replica.
    pub replica: RaftId,
    /// Its node.
    pub node: NodeId,
    /// Its term.
    pub term: u64,
}

/// A group that this node leads, and for which it accepts writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The group.
    pub group: GroupId,
    /// The term in which it leads.
    pub term: u64,
    /// The last applied entry; 0 also before the first.
    pub applied: u64,
    /// [`crate::Machine::reached`].
    pub reached: u64,
}

/// Why a group was not steered as asked. Every command may be given again: what is so already is
/// answered as if it had just been done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// This replica does not lead, or hands the group over: nothing was changed.
    #[error("this replica does not lead the group: {0:?}")]
    Unavailable(Unavailable),
    /// Another change of members is under way, or the leader has committed nothing yet: nothing was
    /// changed.
    #[error("not now: {0}")]
    Busy(String),
    /// It cannot be done to these members: nothing was changed.
    #[error("it cannot be done: {0}")]
    Refused(String),
    /// It is not known what becomes of the change: it may be in the log.
    #[error("it is not known what becomes of it")]
    Lost,
    /// The target of a transfer did not take over in time: this node stands for election, or
    /// another leads.
    #[error("replica {0} did not take over")]
    NotTaken(RaftId),
}

/// Steers a group of some machine. What the getters say is as of the last event of Raft.
pub trait GroupControl: Send + Sync {
    /// The group.
    fn id(&self) -> GroupId;
    /// This node's replica.
    fn replica(&self) -> RaftId;
    /// Who leads, as this replica knows. A replica that was started names who led when it stopped,
    /// unless that was itself.
    fn leader(&self) -> Option<Leader>;
    /// Whether this replica leads and accepts proposals: not while it hands the group over.
    fn is_leading(&self) -> bool;
    /// Until when this replica is not to stand for election, because it has heard a leader or voted for
    /// another; the past where it has done neither since it was started. By the node's clock.
    fn yields_until(&self) -> BootMs;
    /// The last membership in this replica's log.
    fn membership(&self) -> Membership;
    /// The nodes of that membership.
    fn nodes(&self) -> BTreeMap<RaftId, NodeId>;
    /// How many entries each other member is behind this leader's last one; of a member of which
    /// nothing is known, all. Empty unless this replica leads.
    fn lags(&self) -> BTreeMap<RaftId, u64>;
    /// Stands for election: asks who would vote for it, then for the votes. Nothing happens where
    /// this replica leads or is no voter, or while a leader's lease lasts.
    fn elect(&self) -> Boxed<'_, ()>;
    /// Has the leader confirm that it leads; nothing happens elsewhere.
    fn heartbeat(&self) -> Boxed<'_, ()>;
    /// Adds a learner; answers when that is committed, and does not wait until it has caught up.
    fn add_learner(&self, replica: RaftId, node: NodeId) -> Boxed<'_, Result<(), ControlError>>;
    /// Makes these the voters, by one joint change; who was one and is none any more stays as
    /// learner. Every new one has to be a learner. Answers when the change is committed whole; a
    /// leader that is no voter then hands the group over.
    fn change_voters(&self, voters: BTreeSet<RaftId>) -> Boxed<'_, Result<(), ControlError>>;
    /// Takes learners out of the group.
    fn remove_learners(&self, learners: BTreeSet<RaftId>) -> Boxed<'_, Result<(), ControlError>>;
    /// Hands the group over to another voter; answers when that leads. Where it does not within
    /// 2 s, this node takes the group back by an election, also when the future is dropped.
    fn transfer(&self, to: RaftId) -> Boxed<'_, Result<(), ControlError>>;
}

impl<M: Machine> GroupControl for Driven<M> {
    fn id(&self) -> GroupId {
        self.replica.group
    }

    fn replica(&self) -> RaftId {
        RaftId(*self.raft.node_id())
    }

    fn leader(&self) -> Option<Leader> {
        self.known_leader()
    }

    fn is_leading(&self) -> bool {
        self.claim().is_some()
    }

    fn yields_until(&self) -> BootMs {
        self.end_of_yielding()
    }

    fn membership(&self) -> Membership {
        self.with_metrics(|metrics| {
            let config = &metrics.membership_config;
            let committed = metrics.committed_membership_config.log_id();
            let ids = |ids: &BTreeSet<u64>| ids.iter().copied().map(RaftId).collect();
            let mut configs = config.membership().get_joint_config().iter();
            Membership {
                is_committed: config.log_id() == committed,
                voters: configs.next().map(ids).unwrap_or_default(),
                joint: configs.next().map(ids),
                learners: config.membership().learner_ids().map(RaftId).collect(),
            }
        })
    }

    fn nodes(&self) -> BTreeMap<RaftId, NodeId> {
        self.with_metrics(|metrics| {
            let nodes = metrics.membership_config.nodes();
            nodes.map(|(id, node)| (RaftId(*id), *node)).collect()
        })
    }

    fn lags(&self) -> BTreeMap<RaftId, u64> {
        let own = *self.raft.node_id();
        self.with_metrics(|metrics| {
            let next = metrics.last_log_index.map_or(0, |last| last + 1);
            let matched = metrics.replication.iter().flatten();
            let others = matched.filter(|(id, _)| **id != own);
            let lag = |matched: &Option<LogId>| {
                next.saturating_sub(matched.map_or(0, |matched| matched.index + 1))
            };
            others
                .map(|(id, matched)| (RaftId(*id), lag(matched)))
                .collect()
        })
    }

    fn elect(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            // As with heartbeats: whether Raft has stopped is asked elsewhere.
            let _ = self.raft.trigger().elect(true).await;
        })
    }

    fn heartbeat(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            // Not under a timeout: a Raft that has stopped is joined here, and whoever is cancelled
            // while he joins leaves all others waiting. Whether it stopped is asked elsewhere.
            let _ = self.raft.trigger().heartbeat().await;
        })
    }

    fn add_learner(&self, replica: RaftId, node: NodeId) -> Boxed<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let membership = GroupControl::membership(self);
            if membership.is_committed && membership.contains(replica) {
                return self.settled().await;
            }
            let nodes = BTreeMap::from([(replica.0, node)]);
            self.change(ChangeMembers::AddNodes(nodes)).await
        })
    }

    fn change_voters(&self, voters: BTreeSet<RaftId>) -> Boxed<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let membership = GroupControl::membership(self);
            let is_so = membership.joint.is_none() && membership.voters == voters;
            if membership.is_committed && is_so {
                return self.settled().await;
            }
            let voters = voters.into_iter().map(|id| id.0).collect();
            let changed = self.change(ChangeMembers::ReplaceAllVoters(voters)).await;
            self.step_aside();
            changed
        })
    }

    fn remove_learners(&self, learners: BTreeSet<RaftId>) -> Boxed<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let membership = GroupControl::membership(self);
            let there = learners.into_iter().filter(|id| membership.contains(*id));
            let there: BTreeSet<u64> = there.map(|id| id.0).collect();
            if membership.is_committed && there.is_empty() {
                return self.settled().await;
            }
            self.change(ChangeMembers::RemoveNodes(there)).await
        })
    }

    fn transfer(&self, to: RaftId) -> Boxed<'_, Result<(), ControlError>> {
        Box::pin(self.hand_over(to))
    }
}

impl<M: Machine> Driven<M> {
    pub(super) fn with_metrics<T>(&self, read: impl FnOnce(&RaftMetrics<Types<M>>) -> T) -> T {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        read(&metrics)
    }

    /// Who leads, as far as this replica has on disk.
    pub(super) fn known_leader(&self) -> Option<Leader> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let vote = metrics.vote;
        let id = vote.leader_id.node_id;
        let was_elected = vote.committed && metrics.current_leader == Some(id);
        // A node that led before it was started does not lead.
        let leads = id != metrics.id || metrics.state == ServerState::Leader;
        let node = *metrics.membership_config.membership().get_node(&id)?;
        (was_elected && leads).then_some(Leader {
            replica: RaftId(id),
            node,
            term: vote.leader_id.term,
        })
    }

    /// Tells those who watch who leads, until Raft stops. A task a group: its metrics change with
    /// the vote and the members alone, so it sleeps.
    pub(super) async fn watch_metrics(self: std::sync::Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        let told = self.leader.clone();
        let driven = std::sync::Arc::downgrade(&self);
        drop(self);
        loop {
            metrics.borrow_and_update();
            let Some(leader) = driven.upgrade().map(|driven| driven.known_leader()) else {
                return;
            };
            told.send_if_modified(|before| std::mem::replace(before, leader) != leader);
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// What this node says of the group, if it leads it and accepts proposals.
    pub(super) fn claim(&self) -> Option<Claim> {
        if self.is_handed_over() {
            return None;
        }
        let term = {
            // The metrics by which the watch of leaders is woken: Raft sets the others behind them,
            // and whoever was woken would not find that it leads, and would not be woken again.
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader;
            // A leader that is voter no more hands the group over by itself.
            let mut voters = metrics.membership_config.voter_ids();
            let votes = voters.any(|id| id == metrics.id);
            (leads && votes).then_some(metrics.vote.leader_id.term)
        }?;
        Some(Claim {
            group: self.replica.group,
            term,
            applied: *self.replica.watch_applied().borrow(),
            reached: self.replica.with(|machine| machine.reached()),
        })
    }

    /// What is so already: only a leader knows that it is so.
    async fn settled(&self) -> Result<(), ControlError> {
        match self.claim() {
            Some(_) => Ok(()),
            None => Err(ControlError::Unavailable(self.unavailable())),
        }
    }

    pub(super) fn unavailable(&self) -> Unavailable {
        let led = self.known_leader().map(|leader| leader.node);
        let led = led.filter(|node| *node != self.node());
        led.map_or(Unavailable::NoLeader, Unavailable::Led)
    }

    /// Changes the members; answers when that is committed, both steps of a joint change.
    async fn change(&self, change: ChangeMembers<u64, NodeId>) -> Result<(), ControlError> {
        self.touch();
        let changed = self.awake(|| async {
            match self.raft.change_membership(change.clone(), true).await {
                Ok(_) => Attempt::Done(Ok(())),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    self.elsewhere(&forward)
                }
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                    Attempt::Done(Err(refusal(&error)))
                }
                Err(RaftError::APIError(_) | RaftError::Fatal(_)) => Attempt::Lost,
            }
        });
        match changed.await {
            Ok(done) => done,
            Err(Some(why)) => Err(ControlError::Unavailable(why)),
            Err(None) => Err(ControlError::Lost),
        }
    }
}

fn refusal<L, N>(error: &ChangeMembershipError<L, N>) -> ControlError
where
    L: openraft::vote::RaftCommittedLeaderId,
    N: openraft::NodeId,
{
    let why = error.to_string();
    match error {
        ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
            ControlError::Busy(why)
        }
        _ => ControlError::Refused(why),
    }
}
