//! Where replicas are and where they go: placements of meta and routes, Raft ids, moves.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Group, Leftover, Meta, MetaAnswer, MetaEffect, MetaState, Placement, Refusal, ShardRow,
    StartMove,
};
use crate::{Goal, Incarnation, NodeId, NodeState, RaftId, Rising, ShardId};

/// Moves that bring a node a replica or take one from it, at a time.
pub const MOVES_PER_NODE_MAX: usize = 2;

/// What Raft ids other than a founder's count from: above every node number.
const RAFT_IDS_FROM: u64 = 1 << 32;
/// Raft ids that one entry can give: more than nodes of a placement.
const RAFT_IDS_PER_ENTRY: u64 = 256;

/// The part of meta's state that a lone node has no use for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Where meta and routes are; shards are in the shard map.
    pub system: BTreeMap<Group, ShardRow>,
    /// The replicas that are members of their group, or are to be once the move's row says so.
    pub replicas: BTreeMap<Group, BTreeMap<NodeId, RaftId>>,
    /// Moves under way, one a group.
    pub moves: BTreeMap<Group, MoveRow>,
    /// Replicas to be deleted.
    pub leftovers: BTreeSet<Leftover>,
    /// Members that are to give up what they hold.
    pub leaving: BTreeSet<NodeId>,
}

/// A move of one group. It says where to; how far it is the group's own members say, so that
/// whoever leads the group goes on from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRow {
    /// Where the group is to be.
    pub to: Placement,
    /// The replicas that it is to have there.
    pub replicas: BTreeMap<NodeId, RaftId>,
    /// Whether it was given up: the group is to be where it was.
    pub is_aborted: bool,
    /// Log index that wrote the row.
    pub version: u64,
}

impl Layout {
    /// The layout of a cluster of one node: all groups where the first shard is, each replica
    /// under the number of its node.
    pub(super) fn alone(shards: &BTreeMap<ShardId, ShardRow>) -> Self {
        let founder = shards
            .values()
            .next()
            .and_then(|row| row.placement.leader());
        let Some(founder) = founder else {
            return Self::default();
        };
        let placement = Placement {
            voters: vec![founder],
            learners: Vec::new(),
        };
        let row = ShardRow {
            placement,
            version: 0,
        };
        let system = [Group::Meta, Group::Routes];
        let groups = shards.keys().map(|shard| Group::Shard(*shard));
        let replica = BTreeMap::from([(founder, RaftId(founder.0.into()))]);
        Self {
            system: system.map(|group| (group, row.clone())).into(),
            replicas: system
                .into_iter()
                .chain(groups)
                .map(|group| (group, replica.clone()))
                .collect(),
            ..Self::default()
        }
    }

    /// What does not fit the rest of a state that was read from a disk.
    pub fn fault(&self, state: &MetaState) -> Option<&'static str> {
        let system = self.system.iter();
        let shards = state.shards.iter();
        let rows = shards.map(|(shard, row)| (Group::Shard(*shard), row));
        let rows: BTreeMap<Group, &ShardRow> =
            system.map(|(g, row)| (*g, row)).chain(rows).collect();
        let is_of = |placement: &Placement, replicas: &BTreeMap<NodeId, RaftId>| {
            let nodes: BTreeSet<NodeId> = placement.nodes().collect();
            !placement.voters.is_empty() && nodes.iter().eq(replicas.keys())
        };
        let has_system = self.system.keys().copied().eq([Group::Meta, Group::Routes]);
        if has_system == state.shards.is_empty() {
            return Some("meta and routes are not placed");
        }
        if !rows.keys().eq(self.replicas.keys()) {
            return Some("groups and their replicas differ");
        }
        let mut placed = rows.values().zip(self.replicas.values());
        if !placed.all(|(row, replicas)| is_of(&row.placement, replicas)) {
            return Some("a placement differs from the replicas of its group");
        }
        let is_sound = |(group, row): (&Group, &MoveRow)| {
            rows.contains_key(group) && is_of(&row.to, &row.replicas)
        };
        let are_sound = self.moves.iter().all(is_sound);
        (!are_sound).then_some("a move does not fit its group")
    }

    /// Whether a group is on the node, or on its way there.
    pub(super) fn needs(&self, node: NodeId) -> bool {
        let mut moves = self.moves.values();
        self.replicas
            .values()
            .any(|nodes| nodes.contains_key(&node))
            || moves.any(|row| row.replicas.contains_key(&node))
    }

    /// Forgets a node that left for good.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.leaving.remove(&node);
        self.leftovers.retain(|leftover| leftover.node != node);
    }

    /// Nodes to which a move brings a replica, or from which it takes one.
    pub(super) fn touched(&self, group: Group, replicas: &BTreeMap<NodeId, RaftId>) -> Vec<NodeId> {
        let today = &self.replicas[&group];
        let nodes: BTreeSet<NodeId> = today.keys().chain(replicas.keys()).copied().collect();
        let is_other = |node: &NodeId| today.get(node) != replicas.get(node);
        nodes.into_iter().filter(is_other).collect()
    }

    /// How many moves touch each node.
    pub(crate) fn busy(&self) -> BTreeMap<NodeId, usize> {
        let mut busy = BTreeMap::new();
        for (group, row) in &self.moves {
            for node in self.touched(*group, &row.replicas) {
                *busy.entry(node).or_default() += 1;
            }
        }
        busy
    }
}

impl Meta {
    /// Where replicas are and where they go.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the layout is the one that [`Meta::restore`] makes up by itself.
    pub fn is_layout_plain(&self) -> bool {
        self.layout == Layout::alone(&self.shards)
    }

    /// A group's row in the map.
    pub fn placement(&self, group: Group) -> Option<&ShardRow> {
        match group {
            Group::Shard(shard) => self.shards.get(&shard),
            Group::Meta | Group::Routes => self.layout.system.get(&group),
        }
    }

    /// Every group with its row.
    pub fn placements(&self) -> impl Iterator<Item = (Group, &ShardRow)> {
        let system = self.layout.system.iter().map(|(group, row)| (*group, row));
        let shards = self.shards.iter();
        system.chain(shards.map(|(shard, row)| (Group::Shard(*shard), row)))
    }

    /// The Raft id of a node's replica of a group. A node that has it on no disk, though no move
    /// is to bring it, has lost it: it asks for a new one by [`StartMove::renewed`].
    pub fn replica(&self, group: Group, node: NodeId) -> Option<RaftId> {
        self.layout.replicas.get(&group)?.get(&node).copied()
    }

    /// Replicas that a node is to delete, and then [`super::MetaCommand::Removed`].
    pub fn leftovers(&self, node: NodeId) -> impl Iterator<Item = Leftover> {
        let all = self.layout.leftovers.iter().copied();
        all.filter(move |leftover| leftover.node == node)
    }

    /// What placement has to know of the members.
    pub fn node_states(&self) -> BTreeMap<NodeId, NodeState> {
        let states = self.members.iter().map(|(node, member)| {
            let is_leaving = self.layout.leaving.contains(node);
            let state = match (is_leaving, member.epoch.is_some()) {
                (false, true) => NodeState::Serving,
                (false, false) => NodeState::Away,
                (true, true) => NodeState::Leaving,
                (true, false) => NodeState::Gone,
            };
            (*node, state)
        });
        states.collect()
    }

    /// What a move of the group is to reach, in the words of its members; `None` if it is not
    /// being moved.
    pub fn goal(&self, group: Group) -> Option<Goal> {
        let row = self.layout.moves.get(&group)?;
        let today = &self.layout.replicas[&group];
        let placement = &self.placement(group)?.placement;
        let (placement, replicas) = if row.is_aborted {
            (placement, today)
        } else {
            (&row.to, &row.replicas)
        };
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| replicas[node]).collect();
        let known = today.iter().chain(&row.replicas);
        Some(Goal {
            group,
            version: row.version,
            is_aborted: row.is_aborted,
            leader: placement.leader().map(|node| replicas[&node]),
            voters: ids(&placement.voters),
            learners: ids(&placement.learners),
            nodes: known.map(|(node, id)| (*id, *node)).collect(),
        })
    }

    pub(super) fn start_move(&mut self, start: &StartMove) -> Result<MetaAnswer, Refusal> {
        let StartMove {
            group,
            expected,
            to,
            renewed,
        } = start;
        let row = self.placement(*group);
        let row = row.ok_or(Refusal::Invalid("no such group"))?;
        if let Some(moving) = self.layout.moves.get(group) {
            // A repeat finds the move that it wanted.
            return if moving.to == *to && !moving.is_aborted && row.version == *expected {
                Ok(MetaAnswer::Done)
            } else {
                let version = moving.version;
                Err(Refusal::Moving { version })
            };
        }
        if row.version != *expected {
            let current = row.version;
            return Err(Refusal::Changed { current });
        }
        let roles_stay = row.placement.has_roles_of(to);
        self.check_placement(to)?;
        let replicas = self.replicas_of_move(*group, to, *renewed)?;
        let touched = self.layout.touched(*group, &replicas);
        if roles_stay && touched.is_empty() {
            return Err(Refusal::Invalid("the move changes nothing"));
        }
        let busy = self.layout.busy();
        for node in touched {
            if self.layout.leaving.contains(&node) && replicas.contains_key(&node) {
                return Err(Refusal::Leaving(node));
            }
            if busy
                .get(&node)
                .is_some_and(|moves| *moves >= MOVES_PER_NODE_MAX)
            {
                let limit = MOVES_PER_NODE_MAX;
                return Err(Refusal::Busy { node, limit });
            }
        }
        let row = MoveRow {
            to: to.clone(),
            replicas,
            is_aborted: false,
            version: self.index,
        };
        self.layout.moves.insert(*group, row);
        self.effects.push_back(MetaEffect::Moving(*group));
        Ok(MetaAnswer::Done)
    }

    pub(super) fn abort_move(
        &mut self,
        group: Group,
        expected: u64,
    ) -> Result<MetaAnswer, Refusal> {
        let version = self.index;
        let Some(row) = self.layout.moves.get_mut(&group) else {
            return Ok(MetaAnswer::Done);
        };
        if row.is_aborted {
            return Ok(MetaAnswer::Done);
        }
        if row.version != expected {
            let current = row.version;
            return Err(Refusal::Changed { current });
        }
        row.is_aborted = true;
        row.version = version;
        self.effects.push_back(MetaEffect::Moving(group));
        Ok(MetaAnswer::Done)
    }

    pub(super) fn end_move(&mut self, group: Group, expected: u64) -> Result<MetaAnswer, Refusal> {
        let Some(row) = self.layout.moves.get(&group) else {
            return Ok(MetaAnswer::Done);
        };
        if row.version != expected {
            let current = row.version;
            return Err(Refusal::Changed { current });
        }
        let row = self.layout.moves.remove(&group).expect("looked at before");
        let gone = if row.is_aborted {
            row.replicas
        } else {
            let replicas = self.layout.replicas.get_mut(&group);
            let replicas = replicas.expect("each group has replicas");
            let former = std::mem::replace(replicas, row.replicas);
            self.write_placement(group, row.to);
            former
        };
        let replicas = &self.layout.replicas[&group];
        let gone = gone.into_iter();
        let gone = gone.filter(|(node, id)| replicas.get(node) != Some(id));
        let leftovers = gone.map(|(node, replica)| Leftover {
            node,
            group,
            replica,
        });
        self.layout.leftovers.extend(leftovers);
        self.effects.push_back(MetaEffect::Moving(group));
        Ok(MetaAnswer::Done)
    }

    pub(super) fn removed(&mut self, leftover: Leftover) -> MetaAnswer {
        self.layout.leftovers.remove(&leftover);
        MetaAnswer::Done
    }

    pub(super) fn drain(&mut self, node: NodeId, is_leaving: bool) -> Result<MetaAnswer, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoMember(node));
        }
        let stays = |other: &NodeId| *other != node && !self.layout.leaving.contains(other);
        if is_leaving && !self.members.keys().any(stays) {
            return Err(Refusal::Invalid("nobody else would stay"));
        }
        let changed = if is_leaving {
            self.release(node);
            self.layout.leaving.insert(node)
        } else {
            self.layout.leaving.remove(&node)
        };
        if changed {
            self.effects.push_back(MetaEffect::Members);
        }
        Ok(MetaAnswer::Done)
    }

    /// The replicas that a placement has: those of today, and new ones.
    fn replicas_of_move(
        &self,
        group: Group,
        to: &Placement,
        renewed: Option<NodeId>,
    ) -> Result<BTreeMap<NodeId, RaftId>, Refusal> {
        let today = &self.layout.replicas[&group];
        if let Some(node) = renewed
            && !(today.contains_key(&node) && to.nodes().any(|n| n == node))
        {
            return Err(Refusal::Invalid("only a replica that stays can be renewed"));
        }
        let incarnation = self.incarnation(Group::Meta);
        let mut new = (0..RAFT_IDS_PER_ENTRY).map(|n| raft_id(incarnation, self.index, n));
        let mut replicas = BTreeMap::new();
        for node in to.nodes() {
            let kept = today.get(&node).filter(|_| renewed != Some(node)).copied();
            let Some(id) = kept.or_else(|| new.next()) else {
                let limit = RAFT_IDS_PER_ENTRY as usize;
                return Err(super::full("the number of new replicas", limit));
            };
            replicas.insert(node, id);
        }
        Ok(replicas)
    }

    fn write_placement(&mut self, group: Group, placement: Placement) {
        match group {
            Group::Shard(shard) => self.write_shard(shard, placement),
            Group::Meta | Group::Routes => {
                let version = self.index;
                let row = ShardRow { placement, version };
                self.layout.system.insert(group, row);
                self.effects.push_back(MetaEffect::Placed(group));
            }
        }
    }
}

/// A Raft id that nothing had before: by the entry that gives it.
pub(super) fn raft_id(incarnation: Incarnation, index: u64, n: u64) -> RaftId {
    let count = RAFT_IDS_FROM + index * RAFT_IDS_PER_ENTRY + n;
    RaftId(Rising::new(incarnation, count).get())
}
