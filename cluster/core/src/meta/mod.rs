//! The replicated state of the meta group: members and their epochs, shard map, buckets.

mod bucket_moves;
#[cfg(test)]
mod bucket_moves_test;
mod buckets;
#[cfg(test)]
mod buckets_test;
mod command;
mod effect;
mod hello;
mod layout;
#[cfg(test)]
mod layout_test;
#[cfg(test)]
mod meta_test;
mod recovery;
#[cfg(test)]
mod recovery_test;
mod state;
mod steering;
#[cfg(test)]
mod steering_test;
#[cfg(test)]
mod test_log;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt::Templates;

pub use bucket_moves::BUCKET_MOVES_PER_NODE_MAX;
pub use buckets::{BucketClaim, BucketRow};
pub use command::{
    Begin, EndReason, Found, Group, Join, Leftover, MetaAnswer, MetaCommand, Placement,
    RecoverShard, Refusal, StartMove,
};
pub use effect::MetaEffect;
pub use hello::Hello;
pub use layout::{Layout, MOVES_PER_NODE_MAX, MoveRow};
pub use recovery::Recovered;
pub use state::{Founded, MetaState};
pub use steering::{Offer, Pin};

use crate::{
    BucketId, EpochView, FeatureLevel, FolderId, Incarnation, NodeEpoch, NodeId, Rising, ShardId,
    Standing, StartCount, WallMs,
};

/// Members at one time.
pub const MEMBERS_MAX: usize = 256;
/// Node numbers ever given; they are never given again.
pub const NODES_EVER_MAX: usize = 65_536;
/// Bytes of a member's address.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Session shards.
pub const SHARDS_MAX: u16 = 128;

/// The replicated state of the meta group.
///
/// Equal logs give equal states. What waits in [`Self::poll_effect`] is the only part that is not
/// replicated. These are no stored forms: whoever writes a log or a snapshot has its own.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    index: u64,
    time: WallMs,
    founded: Option<Founded>,
    /// Device-owned templates, fixed with all that is founded.
    templates: Templates,
    level: FeatureLevel,
    members: BTreeMap<NodeId, Member>,
    /// Every number ever given.
    used: BTreeSet<NodeId>,
    begun: NodeEpoch,
    current: BTreeMap<NodeEpoch, NodeId>,
    shards: BTreeMap<ShardId, ShardRow>,
    buckets: BTreeMap<BucketId, BucketRow>,
    /// Buckets whose owner may hold rows.
    holding: BTreeSet<BucketId>,
    /// Those of them that are being moved, and where to.
    moving: BTreeMap<BucketId, NodeId>,
    /// Where operators want shards to be.
    pins: BTreeMap<ShardId, BTreeSet<NodeId>>,
    /// The last recovery of each shard that ever was.
    recovered: BTreeMap<ShardId, Recovered>,
    /// What members offer that have said so.
    offers: BTreeMap<NodeId, Offer>,
    incarnations: BTreeMap<Group, Incarnation>,
    layout: Layout,
    /// Not replicated.
    effects: VecDeque<MetaEffect>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its data folder.
    pub folder: FolderId,
    /// Where peers reach it; empty until its first epoch and for a lone node.
    pub address: String,
    /// What it understands.
    pub level: FeatureLevel,
    /// The epoch that has not ended.
    pub epoch: Option<NodeEpoch>,
    /// When it became a member.
    pub since: WallMs,
    /// Its last start, and the epoch which that was given.
    pub last: Option<(StartCount, NodeEpoch)>,
}

/// A row of the shard map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// Where the shard is.
    pub placement: Placement,
    /// Log index that wrote the row.
    pub version: u64,
}

impl Meta {
    /// Applies one log entry. `index` rises with each call; the group's time becomes
    /// max(previous, `time`).
    ///
    /// # Panics
    /// If `index` does not rise.
    pub fn apply(&mut self, index: u64, time: WallMs, command: &MetaCommand) -> MetaAnswer {
        assert!(
            index > self.index,
            "log index {index} of meta does not rise"
        );
        self.index = index;
        self.time = self.time.max(time);
        let result = match command {
            MetaCommand::Found(found) => self.found(found, &Templates::default()),
            MetaCommand::FoundWith { found, templates } => self.found(found, templates),
            MetaCommand::Join(join) => self.join(join),
            MetaCommand::Begin(begin) => self.begin(begin),
            MetaCommand::End { epoch, reason } => {
                self.end(*epoch, *reason);
                Ok(MetaAnswer::Done)
            }
            MetaCommand::Leave { node } => self.leave(*node),
            MetaCommand::Place {
                shard,
                expected,
                placement,
            } => self.place(*shard, *expected, placement),
            MetaCommand::Assign {
                bucket,
                expected,
                owner,
            } => self.assign(*bucket, *expected, *owner),
            MetaCommand::RaiseLevel { level } => self.raise_level(*level),
            MetaCommand::Recover { group, expected } => Ok(self.recover(*group, *expected)),
            MetaCommand::StartMove(start) => self.start_move(start),
            MetaCommand::AbortMove { group, expected } => self.abort_move(*group, *expected),
            MetaCommand::EndMove { group, expected } => self.end_move(*group, *expected),
            MetaCommand::Removed(leftover) => Ok(self.removed(*leftover)),
            MetaCommand::Drain { node, is_leaving } => self.drain(*node, *is_leaving),
            MetaCommand::TakeBuckets { node, claims } => self.take_buckets(*node, claims),
            MetaCommand::HoldRows { node, claims } => Ok(self.hold_rows(*node, claims)),
            MetaCommand::MoveBucket { claim, to } => self.move_bucket(*claim, *to),
            MetaCommand::BucketMoved { claim, to } => self.bucket_moved(*claim, *to),
            MetaCommand::Pin(pin) => self.pin(pin),
            MetaCommand::Unpin { shard } => Ok(self.unpin(*shard)),
            MetaCommand::Offer { node, offer } => self.set_offer(*node, offer),
            MetaCommand::RecoverShard(asked) => self.recover_shard(asked),
        };
        result.unwrap_or_else(MetaAnswer::Refused)
    }

    /// What a command would be answered now. Nothing changes; costs a copy of the state.
    pub fn rehearse(&self, command: &MetaCommand) -> MetaAnswer {
        let mut copy = self.clone();
        copy.effects.clear();
        copy.apply(self.index + 1, self.time, command)
    }

    /// What the entries applied since the last call changed. To be drained after each entry.
    pub fn poll_effect(&mut self) -> Option<MetaEffect> {
        self.effects.pop_front()
    }

    /// The highest index applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// What the cluster may use.
    pub fn level(&self) -> FeatureLevel {
        self.level
    }

    /// A member.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The members, in order of their numbers.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(node, member)| (*node, member))
    }

    /// Whether there is one member only: it holds the lease by itself.
    pub fn is_lone(&self) -> bool {
        self.members.len() == 1
    }

    /// The node of an epoch that has not ended.
    pub fn node_of(&self, epoch: NodeEpoch) -> Option<NodeId> {
        self.current.get(&epoch).copied()
    }

    /// Which epochs are current, for the groups that refuse the others.
    pub fn epochs(&self) -> EpochView {
        EpochView {
            index: self.index,
            begun: self.begun,
            current: self.current.keys().copied().collect(),
        }
    }

    /// What is known of an epoch.
    pub fn standing(&self, epoch: NodeEpoch) -> Standing {
        if self.current.contains_key(&epoch) {
            Standing::Current
        } else if epoch <= self.begun {
            Standing::Ended
        } else {
            Standing::Unknown
        }
    }

    /// A row of the shard map.
    pub fn shard(&self, shard: ShardId) -> Option<&ShardRow> {
        self.shards.get(&shard)
    }

    /// Number of shards, 0 before the cluster is founded.
    pub fn shards(&self) -> u16 {
        self.founded.as_ref().map_or(0, |founded| founded.shards)
    }

    /// Number of buckets, 0 before the cluster is founded.
    pub fn buckets(&self) -> u16 {
        self.founded.as_ref().map_or(0, |founded| founded.buckets)
    }

    /// The device-owned templates, none before the cluster is founded.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// How often a group was recovered with loss.
    pub fn incarnation(&self, group: Group) -> Incarnation {
        self.incarnations.get(&group).copied().unwrap_or_default()
    }

    fn found(&mut self, found: &Found, templates: &Templates) -> Result<MetaAnswer, Refusal> {
        let (shards, buckets) = (found.shards.get(), found.buckets.get());
        let as_asked = Founded {
            folder: found.folder,
            shards,
            buckets,
        };
        if let Some(founded) = &self.founded {
            if *founded == as_asked && self.templates == *templates {
                return Ok(MetaAnswer::Joined { node: found.node });
            }
            return Err(Refusal::Founded {
                shards: founded.shards,
                buckets: founded.buckets,
            });
        }
        if shards > SHARDS_MAX {
            return Err(full("the number of shards", SHARDS_MAX.into()));
        }
        self.founded = Some(as_asked);
        self.templates = templates.clone();
        self.level = found.level;
        self.admit(found.node, found.folder, found.level);
        let everything = Placement {
            voters: vec![found.node],
            learners: Vec::new(),
        };
        for shard in (0..shards).map(ShardId) {
            self.write_shard(shard, everything.clone());
        }
        for bucket in (0..buckets).map(BucketId) {
            self.write_bucket(bucket, found.node);
        }
        self.layout = Layout::alone(&self.shards);
        Ok(MetaAnswer::Joined { node: found.node })
    }

    fn join(&mut self, join: &Join) -> Result<MetaAnswer, Refusal> {
        if self.founded.is_none() {
            return Err(Refusal::NotFounded);
        }
        let known = self.members.iter().find(|(_, m)| m.folder == join.folder);
        if let Some((&node, _)) = known {
            return match join.node {
                Some(wanted) if wanted != node => Err(Refusal::FolderTaken(node)),
                _ => Ok(MetaAnswer::Joined { node }),
            };
        }
        self.check_level(join.level)?;
        if self.members.len() >= MEMBERS_MAX {
            return Err(full("the number of members", MEMBERS_MAX));
        }
        if self.used.len() >= NODES_EVER_MAX {
            return Err(full("the number of nodes ever", NODES_EVER_MAX));
        }
        let node = match join.node {
            Some(wanted) if self.used.contains(&wanted) => {
                return Err(Refusal::OtherFolder(wanted));
            }
            Some(wanted) => wanted,
            None => self.lowest_unused(),
        };
        self.admit(node, join.folder, join.level);
        Ok(MetaAnswer::Joined { node })
    }

    fn begin(&mut self, begin: &Begin) -> Result<MetaAnswer, Refusal> {
        let node = begin.node;
        let level = self.check_level(begin.level);
        let member = self.members.get(&node).ok_or(Refusal::NoMember(node))?;
        if member.folder != begin.folder {
            return Err(Refusal::OtherFolder(node));
        }
        if let Some((known, epoch)) = member.last {
            if begin.start == known {
                return Ok(MetaAnswer::Begun { epoch });
            }
            if begin.start < known {
                return Err(Refusal::OldStart {
                    node,
                    asked: begin.start,
                    known,
                });
            }
        }
        level?;
        if begin.address.len() > ADDRESS_BYTES_MAX {
            return Err(full("the length of an address", ADDRESS_BYTES_MAX));
        }
        if let Some(former) = member.epoch {
            self.end(former, EndReason::Restarted);
        }
        let epoch = NodeEpoch(self.rising());
        let member = self.members.get_mut(&node).expect("found above");
        member.address.clone_from(&begin.address);
        member.level = begin.level;
        member.epoch = Some(epoch);
        member.last = Some((begin.start, epoch));
        self.begun = epoch;
        self.current.insert(epoch, node);
        self.effects.push_back(MetaEffect::Begun { node, epoch });
        Ok(MetaAnswer::Begun { epoch })
    }

    fn end(&mut self, epoch: NodeEpoch, reason: EndReason) {
        let Some(node) = self.current.remove(&epoch) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&node) {
            member.epoch = None;
        }
        self.effects.push_back(MetaEffect::Ended {
            node,
            epoch,
            reason,
        });
    }

    fn leave(&mut self, node: NodeId) -> Result<MetaAnswer, Refusal> {
        let Some(member) = self.members.get(&node) else {
            return if self.used.contains(&node) {
                Ok(MetaAnswer::Done)
            } else {
                Err(Refusal::NoMember(node))
            };
        };
        let is_owner = self.buckets.values().any(|row| row.owner == node);
        let is_target = self.moving.values().any(|to| *to == node);
        let holds = self.layout.needs(node) || is_owner || is_target;
        if holds || member.epoch.is_some() {
            return Err(Refusal::StillNeeded(node));
        }
        self.members.remove(&node);
        self.offers.remove(&node);
        self.release(node);
        self.layout.forget(node);
        self.effects.push_back(MetaEffect::Members);
        Ok(MetaAnswer::Done)
    }

    fn place(
        &mut self,
        shard: ShardId,
        expected: u64,
        placement: &Placement,
    ) -> Result<MetaAnswer, Refusal> {
        let row = self.shards.get(&shard);
        let row = row.ok_or(Refusal::Invalid("no such shard"))?;
        if row.version != expected {
            let current = row.version;
            // A repeat finds the row as it wanted it.
            return if row.placement == *placement {
                Ok(MetaAnswer::Done)
            } else {
                Err(Refusal::Changed { current })
            };
        }
        if let Some(moving) = self.layout.moves.get(&Group::Shard(shard)) {
            let version = moving.version;
            return Err(Refusal::Moving { version });
        }
        if !row.placement.has_roles_of(placement) {
            return Err(Refusal::Invalid("nodes come and go by a move"));
        }
        self.check_placement(placement)?;
        self.write_shard(shard, placement.clone());
        Ok(MetaAnswer::Done)
    }

    fn raise_level(&mut self, level: FeatureLevel) -> Result<MetaAnswer, Refusal> {
        let behind = self.members.iter().find(|(_, m)| m.level < level);
        if let Some((&node, member)) = behind {
            return Err(Refusal::MemberBehind {
                node,
                level: member.level,
            });
        }
        if level > self.level {
            self.level = level;
            self.effects.push_back(MetaEffect::LevelRaised(level));
        }
        Ok(MetaAnswer::Done)
    }

    fn recover(&mut self, group: Group, expected: Incarnation) -> MetaAnswer {
        let incarnation = self.incarnations.entry(group).or_default();
        if *incarnation == expected {
            incarnation.0 += 1;
        }
        MetaAnswer::Recovered {
            incarnation: *incarnation,
        }
    }

    fn admit(&mut self, node: NodeId, folder: FolderId, level: FeatureLevel) {
        self.used.insert(node);
        let member = Member {
            folder,
            address: String::new(),
            level,
            epoch: None,
            since: self.time,
            last: None,
        };
        self.members.insert(node, member);
        self.effects.push_back(MetaEffect::Members);
    }

    /// The number that this entry gives to an epoch.
    fn rising(&self) -> u64 {
        Rising::new(self.incarnation(Group::Meta), self.index).get()
    }

    fn write_shard(&mut self, shard: ShardId, placement: Placement) {
        let version = self.index;
        self.shards.insert(shard, ShardRow { placement, version });
        self.effects
            .push_back(MetaEffect::Placed(Group::Shard(shard)));
    }

    fn lowest_unused(&self) -> NodeId {
        let free = (1..).map(NodeId).find(|node| !self.used.contains(node));
        free.expect("fewer numbers were given than there are")
    }

    fn check_level(&self, asked: FeatureLevel) -> Result<(), Refusal> {
        let level = self.level;
        if asked < level {
            return Err(Refusal::LevelTooLow { asked, level });
        }
        Ok(())
    }

    fn check_placement(&self, placement: &Placement) -> Result<(), Refusal> {
        if placement.voters.is_empty() {
            return Err(Refusal::Invalid("a shard needs a voter"));
        }
        let mut seen = BTreeSet::new();
        for node in placement.nodes() {
            if !self.members.contains_key(&node) {
                return Err(Refusal::NoMember(node));
            }
            if !seen.insert(node) {
                return Err(Refusal::Invalid("a node holds one replica of a shard"));
            }
        }
        Ok(())
    }
}

fn full(what: &'static str, limit: usize) -> Refusal {
    Refusal::Full { what, limit }
}
