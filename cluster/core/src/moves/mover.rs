//! Carrying out the move of one group, at its leader.

use std::collections::{BTreeMap, BTreeSet};

use super::{LAG_MAX, MOVE_AWAY_MS, MOVE_RETRY_MS};
use crate::{BootMs, Group, MetaCommand, NodeId, RaftId};

/// What a move is to reach, in the words of the group's members. Made by [`crate::Meta::goal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The group.
    pub group: Group,
    /// Version of the move's row.
    pub version: u64,
    /// Whether the move was given up: the goal is what was before it.
    pub is_aborted: bool,
    /// Who should lead then.
    pub leader: Option<RaftId>,
    /// Voters.
    pub voters: BTreeSet<RaftId>,
    /// Learners.
    pub learners: BTreeSet<RaftId>,
    /// On which nodes all of these are, and those that are to go.
    pub nodes: BTreeMap<RaftId, NodeId>,
}

/// The members of a group, as the last membership in its leader's log has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Whether that is committed; until then nothing follows from it, and nothing else is asked.
    pub is_committed: bool,
    /// Voters; while a joint change is under way, those before it.
    pub voters: BTreeSet<RaftId>,
    /// Voters after the joint change that is under way.
    pub joint: Option<BTreeSet<RaftId>>,
    /// Learners.
    pub learners: BTreeSet<RaftId>,
}

impl Membership {
    /// Whether a replica is a member in any part.
    pub fn contains(&self, id: RaftId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Whether a replica votes, before or after a change that is under way.
    pub fn is_voter(&self, id: RaftId) -> bool {
        let joint = self.joint.as_ref();
        self.voters.contains(&id) || joint.is_some_and(|voters| voters.contains(&id))
    }
}

/// Work for the leader of a group that is being moved. Each comes again after
/// [`MOVE_RETRY_MS`] unless the membership shows it, and harms nothing when it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveEffect {
    /// Have the group's members include a learner.
    AddLearner {
        /// The group.
        group: Group,
        /// Where it is; its node makes an empty replica of this id unless it has it.
        node: NodeId,
        /// The learner.
        replica: RaftId,
    },
    /// Hand the leadership over: this node's replica is about to go. The next leader goes on.
    TransferLeader {
        /// The group.
        group: Group,
        /// To whom.
        to: RaftId,
    },
    /// Change the voters in one joint change; who votes no longer stays as a learner.
    ChangeMembership {
        /// The group.
        group: Group,
        /// The voters.
        voters: BTreeSet<RaftId>,
    },
    /// Take learners out of the group.
    RemoveReplicas {
        /// The group.
        group: Group,
        /// The learners.
        replicas: BTreeSet<RaftId>,
    },
    /// Propose to meta.
    Propose(MetaCommand),
}

/// The move of one group, as long as this node leads the group.
///
/// Holds the members of one group. To be made anew when a leadership begins, from meta's row and
/// the group's committed membership alone.
#[derive(Clone, Debug)]
pub struct Mover {
    goal: Goal,
    /// This node's replica.
    me: RaftId,
    membership: Membership,
    lags: BTreeMap<RaftId, u64>,
    /// Nodes whose epoch has ended, and since when that is known here.
    away: BTreeMap<NodeId, BootMs>,
    /// What was asked for last, and when that may be repeated.
    asked: Option<(MoveEffect, BootMs)>,
}

impl Mover {
    /// A leadership of the group's replica `me` finds a move in meta.
    pub fn new(goal: Goal, me: RaftId, membership: Membership) -> Self {
        Self {
            goal,
            me,
            membership,
            lags: BTreeMap::new(),
            away: BTreeMap::new(),
            asked: None,
        }
    }

    /// Meta's row has changed.
    pub fn handle_goal(&mut self, goal: Goal) {
        if goal.version > self.goal.version {
            self.goal = goal;
            self.asked = None;
        }
    }

    /// What the leader's log has last. To be told before each [`Self::poll_effect`] if it has
    /// changed: a change that is under way unseen would be overtaken by the end of the move.
    pub fn handle_membership(&mut self, membership: Membership) {
        self.lags.retain(|id, _| membership.contains(*id));
        self.membership = membership;
        self.asked = None;
    }

    /// What [`Self::handle_membership`] told last.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// A member is behind the leader's log by so many entries.
    pub fn handle_lag(&mut self, replica: RaftId, lag: u64) {
        if self.membership.contains(replica) {
            self.lags.insert(replica, lag);
        }
    }

    /// A node's epoch has ended. Of the nodes that are away when the leadership begins it is told
    /// at once.
    pub fn handle_away(&mut self, node: NodeId, now: BootMs) {
        if self.goal.nodes.values().any(|known| *known == node) {
            self.away.entry(node).or_insert(now);
        }
    }

    /// A node has begun an epoch.
    pub fn handle_back(&mut self, node: NodeId) {
        self.away.remove(&node);
        // How far its replica is must be said anew.
        let nodes = &self.goal.nodes;
        self.lags.retain(|id, _| nodes.get(id) != Some(&node));
    }

    /// What was asked for did not succeed: it may be repeated after [`MOVE_RETRY_MS`].
    pub fn handle_failed(&mut self, now: BootMs) {
        if let Some((_, again)) = &mut self.asked {
            *again = now.plus_ms(MOVE_RETRY_MS);
        }
    }

    /// The next thing to do; one at a time.
    pub fn poll_effect(&mut self, now: BootMs) -> Option<MoveEffect> {
        let effect = self.next(now)?;
        let repeat = self.asked.as_ref().filter(|(asked, _)| *asked == effect);
        if repeat.is_some_and(|(_, again)| now < *again) {
            return None;
        }
        self.asked = Some((effect.clone(), now.plus_ms(MOVE_RETRY_MS)));
        Some(effect)
    }

    /// What is still to be done, read off the members.
    fn next(&self, now: BootMs) -> Option<MoveEffect> {
        let Goal {
            group,
            version: expected,
            ..
        } = self.goal;
        if !self.membership.is_committed {
            return None;
        }
        if let Some(effect) = self.add_learner() {
            return Some(effect);
        }
        if self.membership.joint.is_some() || self.membership.voters != self.goal.voters {
            return self.change_voters(now);
        }
        let learners = &self.membership.learners;
        let replicas: BTreeSet<RaftId> = learners - &self.goal.learners;
        if !replicas.is_empty() {
            return Some(MoveEffect::RemoveReplicas { group, replicas });
        }
        if !self.goal.learners.is_subset(learners) {
            // It waits for a node that is away.
            return self.abort(now);
        }
        Some(MoveEffect::Propose(MetaCommand::EndMove {
            group,
            expected,
        }))
    }

    /// The first member of the goal that is none yet, unless its node is away.
    fn add_learner(&self) -> Option<MoveEffect> {
        let group = self.goal.group;
        let wanted = self.goal.voters.iter().chain(&self.goal.learners).copied();
        let mut missing = wanted.filter(|id| !self.membership.contains(*id));
        let replica = missing.find(|id| !self.away.contains_key(&self.goal.nodes[id]))?;
        let node = self.goal.nodes[&replica];
        Some(MoveEffect::AddLearner {
            group,
            node,
            replica,
        })
    }

    fn change_voters(&self, now: BootMs) -> Option<MoveEffect> {
        let group = self.goal.group;
        let voters = &self.goal.voters;
        let mut new = voters.iter().filter(|id| !self.membership.is_voter(**id));
        if !new.all(|id| self.is_close(*id)) {
            return self.abort(now);
        }
        if !voters.contains(&self.me)
            && let Some(to) = self.successor()
        {
            return Some(MoveEffect::TransferLeader { group, to });
        }
        let voters = voters.clone();
        Some(MoveEffect::ChangeMembership { group, voters })
    }

    /// Who can lead now and will be able to after the change.
    fn successor(&self) -> Option<RaftId> {
        let is_fit = |id: &RaftId| {
            self.goal.voters.contains(id)
                && self.membership.voters.contains(id)
                && !self.away.contains_key(&self.goal.nodes[id])
        };
        let mut others = self.goal.voters.iter().copied();
        let preferred = self.goal.leader.filter(is_fit);
        preferred.or_else(|| others.find(is_fit))
    }

    fn is_close(&self, replica: RaftId) -> bool {
        !self.away.contains_key(&self.goal.nodes[&replica])
            && self.lags.get(&replica).is_some_and(|lag| *lag < LAG_MAX)
    }

    /// Gives the move up if it waits for a node that is away for long. Once the joint change is
    /// committed all voters of the goal vote, and nobody is waited for: it is brought to its end.
    fn abort(&self, now: BootMs) -> Option<MoveEffect> {
        let Goal {
            group,
            version: expected,
            is_aborted,
            ..
        } = self.goal;
        if is_aborted {
            return None;
        }
        let wanted = self.goal.voters.iter().chain(&self.goal.learners);
        let waited_for = wanted.filter(|id| !self.membership.is_voter(**id));
        let is_long = |id: &RaftId| {
            let since = self.away.get(&self.goal.nodes[id]);
            since.is_some_and(|since| now.since_ms(*since) >= MOVE_AWAY_MS)
        };
        waited_for
            .copied()
            .any(|id| is_long(&id))
            .then_some(MoveEffect::Propose(MetaCommand::AbortMove {
                group,
                expected,
            }))
    }
}
