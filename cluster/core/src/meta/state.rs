//! All that is replicated of meta, for its host to keep.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::Templates;

use super::{BucketRow, Group, Layout, Member, Meta, Offer, Recovered, ShardRow};
use crate::{BucketId, FeatureLevel, FolderId, Incarnation, NodeEpoch, NodeId, ShardId, WallMs};

/// The replicated state of the meta group as a value, without its [`Layout`] and its templates. Small: bounded by members, shards, buckets
/// and [`super::NODES_EVER_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaState {
    /// The highest index applied.
    pub index: u64,
    /// The group's time.
    pub time: WallMs,
    /// What the cluster was founded with.
    pub founded: Option<Founded>,
    /// What the cluster may use.
    pub level: FeatureLevel,
    /// The members.
    pub members: BTreeMap<NodeId, Member>,
    /// Every number ever given.
    pub used: BTreeSet<NodeId>,
    /// The highest epoch begun.
    pub begun: NodeEpoch,
    /// The shard map.
    pub shards: BTreeMap<ShardId, ShardRow>,
    /// The bucket table.
    pub buckets: BTreeMap<BucketId, BucketRow>,
    /// How often groups were recovered with loss.
    pub incarnations: BTreeMap<Group, Incarnation>,
}

/// What a cluster was founded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Data folder of the founder.
    pub folder: FolderId,
    /// Session shards.
    pub shards: u16,
    /// Buckets of telemetry.
    pub buckets: u16,
}

impl Meta {
    /// All that is replicated beside [`Self::layout`], [`Self::holding`], [`Self::moving`],
    /// [`Self::pins`], [`Self::offers`], [`Self::recovered`] and [`Self::templates`].
    pub fn state(&self) -> MetaState {
        MetaState {
            index: self.index,
            time: self.time,
            founded: self.founded.clone(),
            level: self.level,
            members: self.members.clone(),
            used: self.used.clone(),
            begun: self.begun,
            shards: self.shards.clone(),
            buckets: self.buckets.clone(),
            incarnations: self.incarnations.clone(),
        }
    }

    /// The machine whose [`Self::state`], [`Self::layout`], [`Self::holding`], [`Self::moving`] and
    /// [`Self::templates`] these were; without a layout, that of a lone node; without knowing which
    /// buckets hold rows, all of them may. It hands out no effects of the past.
    pub fn restore(
        state: MetaState,
        layout: Option<Layout>,
        holding: Option<BTreeSet<BucketId>>,
        moving: BTreeMap<BucketId, NodeId>,
        templates: Templates,
    ) -> Self {
        let holding = super::buckets::restored(&state, holding);
        let layout = layout.unwrap_or_else(|| Layout::alone(&state.shards));
        let members = state.members.iter();
        let current = members.filter_map(|(node, member)| Some((member.epoch?, *node)));
        Self {
            current: current.collect(),
            index: state.index,
            time: state.time,
            founded: state.founded,
            templates,
            level: state.level,
            members: state.members,
            used: state.used,
            begun: state.begun,
            shards: state.shards,
            buckets: state.buckets,
            holding,
            moving,
            pins: BTreeMap::new(),
            recovered: BTreeMap::new(),
            offers: BTreeMap::new(),
            incarnations: state.incarnations,
            layout,
            effects: std::collections::VecDeque::new(),
        }
    }

    /// The same with these pins and offers, which a state that was written before there were any has not.
    #[must_use]
    pub fn steered(
        self,
        pins: BTreeMap<ShardId, BTreeSet<NodeId>>,
        offers: BTreeMap<NodeId, Offer>,
    ) -> Self {
        Self {
            pins,
            offers,
            ..self
        }
    }

    /// The same with these recoveries, which a state that was written before there were any has not.
    #[must_use]
    pub fn having_recovered(self, recovered: BTreeMap<ShardId, Recovered>) -> Self {
        Self { recovered, ..self }
    }
}
