//! What operators and nodes say beside what the cluster finds by itself: where a shard is to stay, and
//! what a member offers.

use std::collections::{BTreeMap, BTreeSet};

use super::{ADDRESS_BYTES_MAX, Group, Meta, MetaAnswer, MetaState, Refusal, full};
use crate::{NodeId, ShardId, VOTERS};

/// What a member offers, as its configuration has it. One that never said so has the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whether it stores telemetry: only then it gets buckets.
    pub stores: bool,
    /// Where clients reach it, as they are told it: `host` or `host:port`; empty if they are told nothing.
    pub server: String,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            stores: true,
            server: String::new(),
        }
    }
}

/// A move of one replica that an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The shard.
    pub shard: ShardId,
    /// [`super::ShardRow::version`] of the row that was read.
    pub expected: u64,
    /// Who is to give its replica up.
    pub from: NodeId,
    /// Who is to have it.
    pub to: NodeId,
}

impl Meta {
    /// The nodes at which the replicas of shards are to be and to stay, as operators have said.
    pub fn pins(&self) -> &BTreeMap<ShardId, BTreeSet<NodeId>> {
        &self.pins
    }

    /// What a member offers.
    pub fn offer(&self, node: NodeId) -> Offer {
        self.offers.get(&node).cloned().unwrap_or_default()
    }

    /// What members offer that have said so.
    pub fn offers(&self) -> &BTreeMap<NodeId, Offer> {
        &self.offers
    }

    pub(super) fn pin(&mut self, pin: &Pin) -> Result<MetaAnswer, Refusal> {
        let nodes = self.pinned_nodes(pin)?;
        self.pins.insert(pin.shard, nodes);
        Ok(MetaAnswer::Done)
    }

    pub(super) fn unpin(&mut self, shard: ShardId) -> MetaAnswer {
        self.pins.remove(&shard);
        MetaAnswer::Done
    }

    /// The shards whose pins name a node are placed by the ring again: it is to leave.
    pub(super) fn release(&mut self, node: NodeId) {
        self.pins.retain(|_, nodes| !nodes.contains(&node));
    }

    pub(super) fn set_offer(&mut self, node: NodeId, offer: &Offer) -> Result<MetaAnswer, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoMember(node));
        }
        if offer.server.len() > ADDRESS_BYTES_MAX {
            return Err(full("the length of an address", ADDRESS_BYTES_MAX));
        }
        self.offers.insert(node, offer.clone());
        Ok(MetaAnswer::Done)
    }

    /// Where the replicas of a shard would be.
    fn pinned_nodes(&self, pin: &Pin) -> Result<BTreeSet<NodeId>, Refusal> {
        let Pin {
            shard,
            expected,
            from,
            to,
        } = *pin;
        let row = self.shards.get(&shard);
        let row = row.ok_or(Refusal::Invalid("no such shard"))?;
        let known = self.pins.get(&shard);
        // A repeat finds the pin that it wanted.
        if let Some(nodes) = known.filter(|pin| pin.contains(&to) && !pin.contains(&from)) {
            return Ok(nodes.clone());
        }
        if let Some(moving) = self.layout.moves.get(&Group::Shard(shard)) {
            let version = moving.version;
            return Err(Refusal::Moving { version });
        }
        if row.version != expected {
            let current = row.version;
            return Err(Refusal::Changed { current });
        }
        for node in [from, to] {
            if !self.members.contains_key(&node) {
                return Err(Refusal::NoMember(node));
            }
        }
        let mut nodes: BTreeSet<NodeId> = row.placement.nodes().collect();
        if !nodes.remove(&from) {
            return Err(Refusal::HoldsNone(from));
        }
        if !nodes.insert(to) {
            return Err(Refusal::HoldsOne(to));
        }
        if row.placement.voters.len() != VOTERS || !row.placement.learners.is_empty() {
            return Err(Refusal::Invalid(
                "the shard has no three voters: it is still being placed",
            ));
        }
        if let Some(node) = nodes.iter().find(|one| self.layout.leaving.contains(one)) {
            return Err(Refusal::Leaving(*node));
        }
        if self.members[&to].epoch.is_none() {
            return Err(Refusal::Away(to));
        }
        Ok(nodes)
    }
}

impl MetaState {
    /// What is wrong with pins that were stored beside this, if anything.
    pub fn fault_of_pins(
        &self,
        pins: &BTreeMap<ShardId, BTreeSet<NodeId>>,
    ) -> Option<&'static str> {
        let fits = |(shard, nodes): (&ShardId, &BTreeSet<NodeId>)| {
            let known = nodes.iter().all(|node| self.members.contains_key(node));
            known && nodes.len() == VOTERS && self.shards.contains_key(shard)
        };
        (!pins.iter().all(fits)).then_some("a pin fits no shard or names no members")
    }

    /// What is wrong with offers that were stored beside this, if anything.
    pub fn fault_of_offers(&self, offers: &BTreeMap<NodeId, Offer>) -> Option<&'static str> {
        let known = offers.keys().all(|node| self.members.contains_key(node));
        (!known).then_some("an offer is no member's")
    }
}
