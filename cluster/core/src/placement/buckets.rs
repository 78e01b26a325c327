//! Which buckets of telemetry go to whom when members have come.

use std::collections::BTreeMap;

use super::{NodeState, Ring};
use crate::{BucketClaim, BucketId, Meta, NodeId};

/// What each member should take of the buckets that hold no row, by
/// [`crate::MetaCommand::TakeBuckets`].
///
/// With `n` members that stay, whoever owns more than ⌈buckets/n⌉ passes on what it can, first to
/// the node that the ring names first for the bucket. Nobody takes beyond that bound, and only who
/// has an epoch. A bucket that holds rows counts where it is. Equal states give equal results, so
/// that members who take at once take different ones.
pub fn deal(meta: &Meta) -> BTreeMap<NodeId, Vec<BucketClaim>> {
    let states = meta.node_states();
    let staying = states.iter().filter(|(_, state)| state.stays());
    let staying: Vec<NodeId> = staying.map(|(node, _)| *node).collect();
    let Some(bound) = usize::from(meta.buckets())
        .checked_add(staying.len().saturating_sub(1))
        .and_then(|sum| sum.checked_div(staying.len()))
    else {
        return BTreeMap::new();
    };
    let mut owned = BTreeMap::<NodeId, usize>::new();
    for (_, row) in meta.bucket_rows() {
        *owned.entry(row.owner).or_default() += 1;
    }
    let ring = Ring::new(staying.iter().copied());
    let mut dealt = BTreeMap::<NodeId, Vec<BucketClaim>>::new();
    let mut moved = std::collections::BTreeSet::<BucketId>::new();
    // First to whom the ring names first, then to anybody with room.
    for is_choosy in [true, false] {
        for (bucket, row) in meta.bucket_rows() {
            let has_too_many = |owner| owned.get(owner).is_some_and(|count| *count > bound);
            let stays = staying.contains(&row.owner);
            if meta.holds_rows(bucket)
                || moved.contains(&bucket)
                || (stays && !has_too_many(&row.owner))
            {
                continue;
            }
            let mut walk = ring.walk_of_bucket(bucket);
            if is_choosy {
                walk.truncate(1);
            }
            let takes = |node: &&NodeId| {
                states.get(node) == Some(&NodeState::Serving)
                    && owned.get(node).is_none_or(|count| *count < bound)
            };
            let Some(&to) = walk.iter().find(takes) else {
                continue;
            };
            *owned.entry(to).or_default() += 1;
            if let Some(count) = owned.get_mut(&row.owner) {
                *count -= 1;
            }
            moved.insert(bucket);
            let epoch = row.epoch;
            dealt
                .entry(to)
                .or_default()
                .push(BucketClaim { bucket, epoch });
        }
    }
    dealt
}
