//! The moves of the groups that this node leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster_core::{BootMs, Group, Meta, MoveEffect, Mover, NodeId};

use crate::raft::GroupControl;

/// A [`Mover`] for each group that is moved and led here; of each, one step is under way at a
/// time.
#[derive(Debug, Default)]
pub(super) struct Movers {
    all: BTreeMap<Group, Moving>,
    /// Tells steps of one mover from those of another.
    serial: u64,
}

#[derive(Debug)]
struct Moving {
    mover: Mover,
    term: u64,
    serial: u64,
    is_busy: bool,
    /// The members that were without an epoch.
    away: BTreeSet<NodeId>,
}

/// A step to be taken.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) group: Group,
    pub(super) serial: u64,
    pub(super) effect: MoveEffect,
    /// The version of the move's row.
    pub(super) version: u64,
}

impl Movers {
    /// The steps to take now. `control` gives the groups that run here, `applied` how far those are
    /// that are led here.
    pub(super) fn poll_steps(
        &mut self,
        meta: &Meta,
        control: impl Fn(Group) -> Option<Arc<dyn GroupControl>>,
        applied: impl Fn(Group) -> u64,
        now: BootMs,
    ) -> Vec<Step> {
        let away: BTreeSet<NodeId> = meta
            .members()
            .filter(|(_, member)| member.epoch.is_none())
            .map(|(node, _)| node)
            .collect();
        let moves = &meta.layout().moves;
        self.all.retain(|group, _| moves.contains_key(group));
        let mut steps = Vec::new();
        for &group in moves.keys() {
            let leading = control(group).filter(|control| control.is_leading());
            let leader = leading.as_ref().and_then(|control| control.leader());
            let (Some(control), Some(leader)) = (leading, leader) else {
                self.all.remove(&group);
                continue;
            };
            let Some(goal) = meta.goal(group) else {
                continue;
            };
            let version = goal.version;
            if self
                .all
                .get(&group)
                .is_some_and(|moving| moving.term != leader.term)
            {
                self.all.remove(&group);
            }
            let serial = &mut self.serial;
            let moving = self.all.entry(group).or_insert_with(|| {
                *serial += 1;
                let membership = control.membership();
                Moving {
                    mover: Mover::new(goal.clone(), control.replica(), membership),
                    term: leader.term,
                    serial: *serial,
                    is_busy: false,
                    away: BTreeSet::new(),
                }
            });
            if moving.is_busy {
                continue;
            }
            moving.renew(goal, &*control, &away, applied(group), now);
            if let Some(effect) = moving.mover.poll_effect(now) {
                moving.is_busy = true;
                let serial = moving.serial;
                steps.push(Step {
                    group,
                    serial,
                    effect,
                    version,
                });
            }
        }
        steps
    }

    /// A step was taken, or failed.
    pub(super) fn handle_step(&mut self, group: Group, serial: u64, is_done: bool, now: BootMs) {
        let moving = self.all.get_mut(&group);
        if let Some(moving) = moving.filter(|moving| moving.serial == serial) {
            moving.is_busy = false;
            if !is_done {
                moving.mover.handle_failed(now);
            }
        }
    }
}

impl Moving {
    fn renew(
        &mut self,
        goal: cluster_core::Goal,
        control: &dyn GroupControl,
        away: &BTreeSet<NodeId>,
        applied: u64,
        now: BootMs,
    ) {
        self.mover.handle_goal(goal);
        let membership = control.membership();
        if *self.mover.membership() != membership {
            self.mover.handle_membership(membership);
        }
        for node in self.away.difference(away) {
            self.mover.handle_back(*node);
        }
        for node in away.difference(&self.away) {
            self.mover.handle_away(*node, now);
        }
        self.away.clone_from(away);
        // Of a learner that has nothing yet, all of a short log is little: it may not even be reached,
        // and the joint change would wait for it with the whole group.
        for (replica, lag) in control
            .lags()
            .into_iter()
            .filter(|(_, lag)| *lag <= applied)
        {
            self.mover.handle_lag(replica, lag);
        }
    }
}
