//! Which buckets of telemetry go to whom when members come or are to leave.

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeState, Ring};
use crate::{BucketClaim, BucketId, BucketRow, Meta, NodeId};

/// What each member should take of the buckets that hold no row, by
/// [`crate::MetaCommand::TakeBuckets`].
///
/// With `n` members that stay, whoever owns more than ⌈buckets/n⌉ passes on what it can, first to
/// the node that the ring names first for the bucket. Nobody takes beyond that bound, and only who
/// has an epoch. Members that say that they store nothing count as if they were to leave, unless no
/// other stays. A bucket that holds rows counts where it is, or where it is being moved to. Equal
/// states give equal results, so that members who take at once take different ones.
pub fn deal(meta: &Meta) -> BTreeMap<NodeId, Vec<BucketClaim>> {
    let Some(mut dealing) = Dealing::new(meta) else {
        return BTreeMap::new();
    };
    dealing.deal_empty()
}

/// The one bucket with rows that each member should have moved to itself now, by
/// [`crate::MetaCommand::MoveBucket`]: at the bounds of [`deal`], once that is done, and only from
/// members that run. None begins where a move begins or ends already.
pub fn deal_moves(meta: &Meta) -> BTreeMap<NodeId, BucketClaim> {
    let Some(mut dealing) = Dealing::new(meta) else {
        return BTreeMap::new();
    };
    dealing.deal_empty();
    dealing.deal_with_rows()
}

struct Dealing<'a> {
    meta: &'a Meta,
    states: BTreeMap<NodeId, NodeState>,
    /// Who is to have buckets.
    takers: BTreeSet<NodeId>,
    ring: Ring,
    /// Buckets that a member that stays has at most.
    bound: usize,
    /// How many each has, or is to have.
    owned: BTreeMap<NodeId, usize>,
}

impl<'a> Dealing<'a> {
    /// None if nobody stays.
    fn new(meta: &'a Meta) -> Option<Self> {
        let states = meta.node_states();
        let staying = states.iter().filter(|(_, state)| state.stays());
        let staying: BTreeSet<NodeId> = staying.map(|(node, _)| *node).collect();
        let stores = staying.iter().filter(|node| meta.offer(**node).stores);
        let mut takers: BTreeSet<NodeId> = stores.copied().collect();
        if takers.is_empty() {
            // Somebody has to have them, or nobody could leave.
            takers = staying;
        }
        let bound = usize::from(meta.buckets())
            .checked_add(takers.len().saturating_sub(1))
            .and_then(|sum| sum.checked_div(takers.len()))?;
        let mut owned = BTreeMap::<NodeId, usize>::new();
        for (bucket, row) in meta.bucket_rows() {
            let node = meta.moving_to(bucket).unwrap_or(row.owner);
            *owned.entry(node).or_default() += 1;
        }
        let ring = Ring::new(takers.iter().copied());
        Some(Self {
            meta,
            states,
            takers,
            ring,
            bound,
            owned,
        })
    }

    fn owned(&self, node: NodeId) -> usize {
        self.owned.get(&node).copied().unwrap_or(0)
    }

    /// Whether a member is to pass on buckets.
    fn gives(&self, node: NodeId) -> bool {
        !self.takers.contains(&node) || self.owned(node) > self.bound
    }

    /// Who takes a bucket; of all, or, if choosy, only whom the ring names first.
    fn taker(&self, bucket: BucketId, is_choosy: bool) -> impl Iterator<Item = NodeId> {
        let mut walk = self.ring.walk_of_bucket(bucket);
        if is_choosy {
            walk.truncate(1);
        }
        walk.into_iter().filter(|node| {
            self.states.get(node) == Some(&NodeState::Serving) && self.owned(*node) < self.bound
        })
    }

    /// Whether a store runs there.
    fn stores(&self, node: NodeId) -> bool {
        self.meta.offer(node).stores
    }

    fn pass(&mut self, from: NodeId, to: NodeId) {
        *self.owned.entry(to).or_default() += 1;
        if let Some(count) = self.owned.get_mut(&from) {
            *count -= 1;
        }
    }

    fn deal_empty(&mut self) -> BTreeMap<NodeId, Vec<BucketClaim>> {
        let mut dealt = BTreeMap::<NodeId, Vec<BucketClaim>>::new();
        let mut moved = BTreeSet::<BucketId>::new();
        // First to whom the ring names first, then to anybody with room.
        for is_choosy in [true, false] {
            for (bucket, BucketRow { owner, epoch }) in self.meta.bucket_rows() {
                if self.meta.holds_rows(bucket) || moved.contains(&bucket) || !self.gives(owner) {
                    continue;
                }
                let Some(to) = self.taker(bucket, is_choosy).next() else {
                    continue;
                };
                self.pass(owner, to);
                moved.insert(bucket);
                let claim = BucketClaim { bucket, epoch };
                dealt.entry(to).or_default().push(claim);
            }
        }
        dealt
    }

    fn deal_with_rows(&mut self) -> BTreeMap<NodeId, BucketClaim> {
        let mut dealt = BTreeMap::<NodeId, BucketClaim>::new();
        let moving = self.meta.moving().iter();
        // Where moves begin and where they end, now or by this.
        let (mut from, mut into): (BTreeSet<NodeId>, BTreeSet<NodeId>) = moving
            .filter_map(|(bucket, to)| Some((self.meta.bucket(*bucket)?.owner, *to)))
            .unzip();
        for is_choosy in [true, false] {
            for (bucket, BucketRow { owner, epoch }) in self.meta.bucket_rows() {
                let runs = matches!(
                    self.states.get(&owner),
                    Some(NodeState::Serving | NodeState::Leaving)
                );
                if !self.meta.holds_rows(bucket)
                    || !runs
                    || !self.stores(owner)
                    || from.contains(&owner)
                    || !self.gives(owner)
                {
                    continue;
                }
                let to = self
                    .taker(bucket, is_choosy)
                    .find(|node| !into.contains(node) && self.stores(*node));
                let Some(to) = to else {
                    continue;
                };
                self.pass(owner, to);
                from.insert(owner);
                into.insert(to);
                dealt.insert(to, BucketClaim { bucket, epoch });
            }
        }
        dealt
    }
}
