//! Moves of buckets that hold rows, from one owner's store to another's.
//!
//! The row names where to, under an epoch of its own: under that the owner freezes what it has, the
//! other copies it, and this log says when the copy is whole. Whatever else is written of the row
//! gives it another epoch, and what was copied before counts for nothing.

use std::collections::BTreeMap;

use super::{BucketClaim, Meta, MetaAnswer, MetaState, Refusal};
use crate::{BucketId, NodeId};

/// Moves of buckets that begin or end at a node at a time, each.
pub const BUCKET_MOVES_PER_NODE_MAX: usize = 1;

impl Meta {
    /// Where a bucket is being moved to.
    pub fn moving_to(&self, bucket: BucketId) -> Option<NodeId> {
        self.moving.get(&bucket).copied()
    }

    /// The buckets that are being moved, and where to.
    pub fn moving(&self) -> &BTreeMap<BucketId, NodeId> {
        &self.moving
    }

    /// Begins a move, turns it elsewhere, or gives it up.
    pub(super) fn move_bucket(
        &mut self,
        claim: BucketClaim,
        to: NodeId,
    ) -> Result<MetaAnswer, Refusal> {
        let BucketClaim { bucket, epoch } = claim;
        let row = self.bucket(bucket);
        let row = row.ok_or(Refusal::Invalid("no such bucket"))?;
        if row.epoch != epoch {
            let current = row.epoch;
            return Err(Refusal::Changed { current });
        }
        if !self.holds_rows(bucket) {
            return Err(Refusal::Invalid("the bucket holds no rows"));
        }
        if to == row.owner {
            if self.moving.remove(&bucket).is_some() {
                self.write_bucket(bucket, row.owner);
            }
            return Ok(MetaAnswer::Done);
        }
        if !self.members.contains_key(&to) {
            return Err(Refusal::NoMember(to));
        }
        if self.layout.leaving.contains(&to) {
            return Err(Refusal::Leaving(to));
        }
        let others = self.moving.iter().filter(|(of, _)| **of != bucket);
        for (of, target) in others {
            let from = self.bucket(*of).map(|row| row.owner);
            let busy = match (from == Some(row.owner), *target == to) {
                (true, _) => row.owner,
                (_, true) => to,
                _ => continue,
            };
            return Err(Refusal::Busy {
                node: busy,
                limit: BUCKET_MOVES_PER_NODE_MAX,
            });
        }
        self.moving.insert(bucket, to);
        self.write_bucket(bucket, row.owner);
        Ok(MetaAnswer::Done)
    }

    /// The copy of a bucket is whole: the other node owns it.
    pub(super) fn bucket_moved(
        &mut self,
        claim: BucketClaim,
        to: NodeId,
    ) -> Result<MetaAnswer, Refusal> {
        let BucketClaim { bucket, epoch } = claim;
        let row = self.bucket(bucket);
        let row = row.ok_or(Refusal::Invalid("no such bucket"))?;
        if row.epoch != epoch || self.moving_to(bucket) != Some(to) {
            let current = row.epoch;
            return Err(Refusal::Changed { current });
        }
        self.moving.remove(&bucket);
        self.write_bucket(bucket, to);
        Ok(MetaAnswer::Done)
    }
}

impl MetaState {
    /// What is wrong with moves of buckets that were stored beside this, if anything.
    pub fn fault_of_moves(&self, moving: &BTreeMap<BucketId, NodeId>) -> Option<&'static str> {
        let fits = |(bucket, to): (&BucketId, &NodeId)| {
            let row = self.buckets.get(bucket);
            row.is_some_and(|row| row.owner != *to) && self.members.contains_key(to)
        };
        (!moving.iter().all(fits)).then_some("a move of a bucket fits no row")
    }
}
