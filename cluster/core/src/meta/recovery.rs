//! Shards that go on with what one replica has, after their majority is lost for good.

use std::collections::BTreeMap;

use super::layout::raft_id;
use super::{
    Group, Leftover, Meta, MetaAnswer, MetaEffect, MetaState, Placement, RecoverShard, Refusal,
};
use crate::{Incarnation, NodeId, RaftId, ShardId};

/// How a shard was recovered last. The survivor's node reads here of which replica it is to make the new
/// one, and a repeat of the command what was answered. It stays for good: one a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recovered {
    /// The survivor's node.
    pub node: NodeId,
    /// The version of the row that the recovery replaced.
    pub expected: u64,
    /// The replica that survived.
    pub from: RaftId,
    /// The one that goes on with its state, under a Raft id that no lost voter has ever voted with.
    pub replica: RaftId,
    /// What the shard counts in since.
    pub incarnation: Incarnation,
}

impl Meta {
    /// How each shard was recovered last that ever was.
    pub fn recovered(&self) -> &BTreeMap<ShardId, Recovered> {
        &self.recovered
    }

    /// The recovery that a node's replica of a group comes from, if it comes from one.
    pub fn recovery_of(&self, group: Group, node: NodeId) -> Option<Recovered> {
        let Group::Shard(shard) = group else {
            return None;
        };
        let recovered = self.recovered.get(&shard).copied()?;
        let is_there = self.replica(group, node) == Some(recovered.replica);
        (recovered.node == node && is_there).then_some(recovered)
    }

    pub(super) fn recover_shard(&mut self, asked: &RecoverShard) -> Result<MetaAnswer, Refusal> {
        let RecoverShard {
            shard,
            expected,
            node,
        } = *asked;
        let row = self.shards.get(&shard);
        let row = row.ok_or(Refusal::Invalid("no such shard"))?;
        if let Some(known) = self.recovered.get(&shard)
            && (known.expected, known.node) == (expected, node)
        {
            let incarnation = known.incarnation;
            return Ok(MetaAnswer::Recovered { incarnation });
        }
        if row.version != expected {
            let current = row.version;
            return Err(Refusal::Changed { current });
        }
        let member = self.members.get(&node).ok_or(Refusal::NoMember(node))?;
        let from = self.survivor(shard, node);
        let from = from.ok_or(Refusal::HoldsNone(node))?;
        if member.epoch.is_none() {
            return Err(Refusal::Away(node));
        }
        self.check_lost(shard)?;
        let replica = raft_id(self.incarnation(Group::Meta), self.index, 0);
        self.abandon(shard, (node, from));
        let group = Group::Shard(shard);
        self.layout
            .replicas
            .insert(group, BTreeMap::from([(node, replica)]));
        self.pins.remove(&shard);
        let incarnation = self.incarnations.entry(group).or_default();
        incarnation.0 += 1;
        let incarnation = *incarnation;
        let recovered = Recovered {
            node,
            expected,
            from,
            replica,
            incarnation,
        };
        self.recovered.insert(shard, recovered);
        let placement = Placement {
            voters: vec![node],
            learners: Vec::new(),
        };
        self.write_shard(shard, placement);
        self.effects.push_back(MetaEffect::Moving(group));
        Ok(MetaAnswer::Recovered { incarnation })
    }

    /// The replica of a shard that lies on a node: a member's, or one that a move has brought.
    fn survivor(&self, shard: ShardId, node: NodeId) -> Option<RaftId> {
        let group = Group::Shard(shard);
        let moving = self.layout.moves.get(&group);
        let going = moving.filter(|row| !row.is_aborted);
        let placed = |row: &super::MoveRow| row.replicas.get(&node).copied();
        let known = going.and_then(placed).or_else(|| self.replica(group, node));
        known.or_else(|| moving.and_then(placed))
    }

    /// Refuses while a majority of the voters runs: of those of the row, and where the shard is being
    /// moved of those that it is moved to, for either may be the group's by now.
    fn check_lost(&self, shard: ShardId) -> Result<(), Refusal> {
        let runs = |node: &&NodeId| self.members.get(node).is_some_and(|m| m.epoch.is_some());
        let count = |placement: &Placement| {
            let voters = &placement.voters;
            (voters.iter().filter(runs).count(), voters.len())
        };
        let moving = self.layout.moves.get(&Group::Shard(shard));
        let moving = moving.map(|row| count(&row.to));
        let placed = count(&self.shards[&shard].placement);
        let has_majority = |(alive, voters): (usize, usize)| 2 * alive > voters;
        if has_majority(placed) && moving.is_none_or(has_majority) {
            let (alive, voters) = placed;
            return Err(Refusal::NotLost { alive, voters });
        }
        Ok(())
    }

    /// Ends a move of the shard, and has all its replicas deleted but the one on whose state it goes
    /// on: those of lost nodes when these come back.
    fn abandon(&mut self, shard: ShardId, survivor: (NodeId, RaftId)) {
        let group = Group::Shard(shard);
        let moving = self.layout.moves.remove(&group);
        let moving = moving.map(|row| row.replicas).unwrap_or_default();
        let placed = self.layout.replicas.remove(&group).unwrap_or_default();
        let all = placed.into_iter().chain(moving);
        let lost = all.filter(|replica| *replica != survivor);
        let leftovers = lost.map(|(node, replica)| Leftover {
            node,
            group,
            replica,
        });
        self.layout.leftovers.extend(leftovers);
    }
}

impl MetaState {
    /// What is wrong with recoveries that were stored beside this, if anything.
    pub fn fault_of_recovered(
        &self,
        recovered: &BTreeMap<ShardId, Recovered>,
    ) -> Option<&'static str> {
        let fits = |(shard, row): (&ShardId, &Recovered)| {
            let known = self.incarnations.get(&Group::Shard(*shard));
            self.shards.contains_key(shard) && known >= Some(&row.incarnation)
        };
        (!recovered.iter().all(fits)).then_some("a recovery fits no shard")
    }
}
