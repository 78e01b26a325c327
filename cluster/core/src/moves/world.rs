//! A cluster for tests of moves: meta, and of each group the members alone.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{
    Begin, BootMs, EndReason, FeatureLevel, FolderId, Found, Group, Join, Leftover, Meta,
    MetaAnswer, MetaCommand, NodeId, RaftId, StartCount, WallMs,
};

const LEVEL: FeatureLevel = FeatureLevel(1);

/// One group: its committed members, and who leads.
#[derive(Clone, Debug)]
pub(super) struct Replicas {
    pub(super) membership: Membership,
    /// A change in the leader's log that is not committed: a crash keeps it or loses it.
    pending: Option<Membership>,
    pub(super) leader: RaftId,
    /// How far each member is behind in truth.
    lags: BTreeMap<RaftId, u64>,
}

pub(super) struct World {
    pub(super) meta: Meta,
    index: u64,
    pub(super) now: BootMs,
    pub(super) rng: StdRng,
    pub(super) groups: BTreeMap<Group, Replicas>,
    movers: BTreeMap<Group, Mover>,
    /// What lies on the nodes' disks, and what was deleted there.
    disks: BTreeSet<Leftover>,
    deleted: BTreeSet<RaftId>,
    starts: u64,
    /// Whether things go wrong.
    pub(super) faults: bool,
    pub(super) started: usize,
    pub(super) effects: Vec<MoveEffect>,
}

impl World {
    pub(super) fn founded(seed: u64, shards: u16) -> Self {
        let mut world = Self {
            meta: Meta::default(),
            index: 0,
            now: BootMs(0),
            rng: StdRng::seed_from_u64(seed),
            groups: BTreeMap::new(),
            movers: BTreeMap::new(),
            disks: BTreeSet::new(),
            deleted: BTreeSet::new(),
            starts: 0,
            faults: false,
            started: 0,
            effects: Vec::new(),
        };
        world.apply(&MetaCommand::Found(Found {
            node: NodeId(1),
            folder: FolderId(1),
            shards: NonZeroU16::new(shards).unwrap(),
            buckets: NonZeroU16::MIN,
            level: LEVEL,
        }));
        world.begin(1);
        let groups: Vec<Group> = world.meta.placements().map(|(group, _)| group).collect();
        for group in groups {
            let leader = world.meta.replica(group, NodeId(1)).unwrap();
            let membership = Membership {
                is_committed: true,
                voters: [leader].into(),
                ..Membership::default()
            };
            let lags = BTreeMap::new();
            world.disks.insert(lies(NodeId(1), group, leader));
            world.groups.insert(
                group,
                Replicas {
                    membership,
                    pending: None,
                    leader,
                    lags,
                },
            );
        }
        world
    }

    pub(super) fn apply(&mut self, command: &MetaCommand) -> MetaAnswer {
        self.index += 1;
        let answer = self.meta.apply(self.index, WallMs(0), command);
        while self.meta.poll_effect().is_some() {}
        let is_move = matches!(command, MetaCommand::StartMove(_));
        self.started += usize::from(is_move && answer == MetaAnswer::Done);
        let mut busy = self.meta.layout().busy().into_values();
        assert!(busy.all(|moves| moves <= MOVES_PER_NODE));
        answer
    }

    pub(super) fn join(&mut self, node: u32) {
        let answer = self.apply(&MetaCommand::Join(Join {
            node: Some(NodeId(node)),
            folder: FolderId(node.into()),
            level: LEVEL,
        }));
        assert_eq!(answer, MetaAnswer::Joined { node: NodeId(node) });
        self.begin(node);
    }

    pub(super) fn begin(&mut self, node: u32) {
        self.starts += 1;
        let start = StartCount(self.starts);
        let answer = self.apply(&MetaCommand::Begin(Begin {
            node: NodeId(node),
            folder: FolderId(node.into()),
            start,
            address: String::new(),
            level: LEVEL,
        }));
        assert!(matches!(answer, MetaAnswer::Begun { .. }), "{answer:?}");
        for mover in self.movers.values_mut() {
            mover.handle_back(NodeId(node));
        }
    }

    pub(super) fn end(&mut self, node: u32) {
        let Some(epoch) = self
            .meta
            .member(NodeId(node))
            .and_then(|member| member.epoch)
        else {
            return;
        };
        let reason = EndReason::Dead;
        self.apply(&MetaCommand::End { epoch, reason });
        for (group, replicas) in &mut self.groups {
            if is_on(&self.disks, NodeId(node), *group, replicas.leader) {
                // Its group finds another leader when one of its voters is there.
                self.movers.remove(group);
            }
        }
        for mover in self.movers.values_mut() {
            mover.handle_away(NodeId(node), self.now);
        }
    }

    fn is_serving(&self, node: NodeId) -> bool {
        self.meta
            .member(node)
            .is_some_and(|member| member.epoch.is_some())
    }

    fn node_of(&self, group: Group, id: RaftId) -> NodeId {
        let mut found = self
            .disks
            .iter()
            .filter(|l| l.group == group && l.replica == id);
        found.next().expect("a member lies on a disk").node
    }

    /// Who can be elected: a voter whose node serves and that misses nothing.
    fn elect(&mut self, group: Group) {
        if self.rng.random() {
            self.groups.get_mut(&group).unwrap().pending = None;
        }
        self.commit(group);
        let replicas = &self.groups[&group];
        let voters = replicas.membership.voters.iter().copied();
        let able = voters.filter(|id| self.is_serving(self.node_of(group, *id)));
        let able: Vec<RaftId> = able.collect();
        if let Some(leader) = able.into_iter().choose(&mut self.rng) {
            self.movers.remove(&group);
            self.groups.get_mut(&group).unwrap().leader = leader;
        }
    }

    /// One thing for each group and node.
    pub(super) fn step(&mut self) {
        self.now = self.now.plus_ms(if self.faults { 500 } else { 5_000 });
        if !self.faults || self.rng.random_ratio(1, 3) {
            for command in plan(&self.meta) {
                self.propose(&command);
            }
        }
        let groups: Vec<Group> = self.groups.keys().copied().collect();
        for group in groups {
            let leader = self.groups[&group].leader;
            let is_led = self.is_serving(self.node_of(group, leader));
            if !is_led || (self.faults && self.rng.random_ratio(1, 8)) {
                self.elect(group);
            } else {
                self.lead(group);
            }
        }
        let nodes: Vec<NodeId> = self.meta.members().map(|(node, _)| node).collect();
        for node in nodes {
            if self.is_serving(node) && !(self.faults && self.rng.random_ratio(1, 2)) {
                self.delete(node);
            }
        }
    }

    /// The leader of a group goes on with its move.
    fn lead(&mut self, group: Group) {
        let Some(goal) = self.meta.goal(group) else {
            self.movers.remove(&group);
            return;
        };
        let Replicas {
            membership,
            leader,
            lags,
            ..
        } = self.groups.get_mut(&group).unwrap();
        let away = self
            .meta
            .members()
            .filter(|(_, member)| member.epoch.is_none());
        let away: Vec<NodeId> = away.map(|(node, _)| node).collect();
        let mover = self.movers.entry(group).or_insert_with(|| {
            let mut mover = Mover::new(goal.clone(), *leader, membership.clone());
            for node in away {
                mover.handle_away(node, self.now);
            }
            mover
        });
        mover.handle_goal(goal);
        for id in &membership.learners {
            let lag = lags.entry(*id).or_insert(5_000);
            *lag = lag.saturating_sub(self.rng.random_range(0..3_000));
            mover.handle_lag(*id, *lag);
        }
        for _ in 0..10 {
            let replicas = &self.groups[&group];
            let pending = replicas.pending.clone().map(|changed| Membership {
                is_committed: false,
                ..changed
            });
            let seen = pending.unwrap_or_else(|| replicas.membership.clone());
            let (Some(mover), Some(goal)) = (self.movers.get_mut(&group), self.meta.goal(group))
            else {
                return;
            };
            mover.handle_goal(goal);
            if *mover.membership() != seen {
                mover.handle_membership(seen);
            }
            let Some(effect) = mover.poll_effect(self.now) else {
                break;
            };
            self.effects.push(effect.clone());
            let times = match self.rng.random_range(0..6) {
                0 if self.faults => 0,
                1 if self.faults => 2,
                _ => 1,
            };
            for _ in 0..times {
                self.carry_out(group, &effect);
            }
            if self.faults || matches!(effect, MoveEffect::Propose(_)) {
                return;
            }
        }
        // What was appended in an earlier turn.
        self.commit(group);
    }

    fn carry_out(&mut self, group: Group, effect: &MoveEffect) {
        let mut changed = self.groups[&group].membership.clone();
        match effect {
            MoveEffect::AddLearner { node, replica, .. } => {
                assert!(!self.deleted.contains(replica), "{replica} was given again");
                self.disks.insert(lies(*node, group, *replica));
                if !changed.contains(*replica) {
                    changed.learners.insert(*replica);
                    self.append(group, changed);
                }
            }
            MoveEffect::TransferLeader { to, .. } => {
                assert!(changed.is_voter(*to));
                self.groups.get_mut(&group).unwrap().leader = *to;
                self.movers.remove(&group);
            }
            MoveEffect::ChangeMembership { voters, .. } => self.change(group, voters),
            MoveEffect::RemoveReplicas { replicas, .. } => {
                for id in replicas {
                    assert!(!changed.is_voter(*id), "a voter is taken out");
                    changed.learners.remove(id);
                }
                self.append(group, changed);
            }
            MoveEffect::Propose(command) => self.propose(command),
        }
    }

    /// A change of membership is appended; one at a time.
    fn append(&mut self, group: Group, changed: Membership) {
        let replicas = self.groups.get_mut(&group).unwrap();
        if replicas.pending.is_none() {
            replicas.pending = Some(changed);
            if !(self.faults && self.rng.random_ratio(1, 3)) {
                self.commit(group);
            }
        }
    }

    fn commit(&mut self, group: Group) {
        let replicas = self.groups.get_mut(&group).unwrap();
        if let Some(changed) = replicas.pending.take() {
            replicas.membership = changed;
            if !replicas.membership.voters.contains(&replicas.leader)
                && replicas.membership.joint.is_none()
            {
                self.elect(group);
            }
        }
    }

    /// Two entries, between which a leader may die; whoever votes no longer learns.
    fn change(&mut self, group: Group, voters: &BTreeSet<RaftId>) {
        let replicas = &self.groups[&group];
        let mut changed = replicas.membership.clone();
        for id in voters {
            let is_voter = changed.is_voter(*id);
            let lag = replicas.lags.get(id).copied();
            assert!(
                is_voter || lag.is_some_and(|lag| lag < LAG_MAX),
                "{id} is far behind"
            );
        }
        if changed.joint.is_none() && changed.voters != *voters {
            changed.learners.retain(|id| !voters.contains(id));
            changed.joint = Some(voters.clone());
            return self.append(group, changed);
        }
        if changed.joint.as_ref() == Some(voters) {
            changed.joint = None;
            let former = std::mem::replace(&mut changed.voters, voters.clone());
            changed.learners.extend(former.difference(voters));
            self.append(group, changed);
        }
    }

    fn propose(&mut self, command: &MetaCommand) {
        if let MetaCommand::EndMove { group, expected } = command {
            let goal = self.meta.goal(*group);
            if let Some(goal) = goal.filter(|goal| goal.version == *expected) {
                let Membership {
                    voters,
                    joint,
                    learners,
                    ..
                } = &self.groups[group].membership;
                assert_eq!((voters, joint), (&goal.voters, &None));
                assert_eq!(learners, &goal.learners);
            }
        }
        let times = if self.faults {
            self.rng.random_range(0..3)
        } else {
            1
        };
        for _ in 0..times {
            self.apply(command);
        }
    }

    fn delete(&mut self, node: NodeId) {
        let leftovers: Vec<Leftover> = self.meta.leftovers(node).collect();
        for leftover in leftovers {
            let Leftover { group, replica, .. } = leftover;
            let membership = &self.groups[&group].membership;
            assert!(!membership.contains(replica), "a member is deleted");
            self.disks.remove(&leftover);
            self.deleted.insert(replica);
            self.propose(&MetaCommand::Removed(leftover));
        }
    }

    /// Nothing goes wrong any longer: until nothing is left to do.
    pub(super) fn settle(&mut self) {
        self.faults = false;
        for _ in 0..1_500 {
            self.step();
            let layout = self.meta.layout();
            let is_done = layout.moves.is_empty() && layout.leftovers.is_empty();
            if is_done && plan(&self.meta).is_empty() {
                return self.check();
            }
        }
        panic!(
            "not at rest: {:?} {:?}",
            self.meta.layout().moves,
            plan(&self.meta)
        );
    }

    /// The groups are what meta says, where placement wants them, and disks hold nothing else.
    fn check(&self) {
        let today = self.meta.placements();
        let today = today
            .map(|(group, row)| (group, row.placement.clone()))
            .collect();
        let wanted = crate::wanted(&self.meta.node_states(), &today);
        let mut disks = BTreeSet::new();
        for (group, placement) in &today {
            assert!(placement.has_roles_of(&wanted[group]), "{group:?}");
            let id = |node: &NodeId| self.meta.replica(*group, *node).unwrap();
            let expected = Membership {
                is_committed: true,
                voters: placement.voters.iter().map(id).collect(),
                joint: None,
                learners: placement.learners.iter().map(id).collect(),
            };
            assert_eq!(self.groups[group].membership, expected, "{group:?}");
            disks.extend(placement.nodes().map(|node| lies(node, *group, id(&node))));
        }
        assert_eq!(self.disks, disks);
    }
}

/// As [`crate::MOVES_PER_NODE_MAX`], said again: the tests check the bound itself.
const MOVES_PER_NODE: usize = 2;

fn lies(node: NodeId, group: Group, replica: RaftId) -> Leftover {
    Leftover {
        node,
        group,
        replica,
    }
}

fn is_on(disks: &BTreeSet<Leftover>, node: NodeId, group: Group, replica: RaftId) -> bool {
    disks.contains(&lies(node, group, replica))
}
