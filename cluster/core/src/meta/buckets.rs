//! The bucket table: who stores which device's telemetry.
//!
//! A bucket without rows may go to another member at once; its log records lie on the nodes that took
//! them, so that nothing goes with it. Its owner takes none before an entry says that it holds rows,
//! and that entry names the owner's epoch. So dealing and the first row meet in this log, and the
//! later of the two is refused.

use std::collections::BTreeSet;

use super::{Meta, MetaAnswer, MetaEffect, MetaState, Refusal};
use crate::{BucketId, NodeId};

/// A row of the bucket table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketRow {
    /// The owner.
    pub owner: NodeId,
    /// Fences former owners; never repeats.
    pub epoch: u64,
}

/// A row of the bucket table as somebody has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketClaim {
    /// The bucket.
    pub bucket: BucketId,
    /// [`BucketRow::epoch`] that was read.
    pub epoch: u64,
}

impl Meta {
    /// A row of the bucket table.
    pub fn bucket(&self, bucket: BucketId) -> Option<BucketRow> {
        self.buckets.get(&bucket).copied()
    }

    /// The bucket table, in order of the buckets.
    pub fn bucket_rows(&self) -> impl Iterator<Item = (BucketId, BucketRow)> {
        self.buckets.iter().map(|(bucket, row)| (*bucket, *row))
    }

    /// Whether the bucket's owner may hold rows of it: then it goes to another by a move alone.
    pub fn holds_rows(&self, bucket: BucketId) -> bool {
        self.holding.contains(&bucket)
    }

    /// The buckets that hold rows.
    pub fn holding(&self) -> &BTreeSet<BucketId> {
        &self.holding
    }

    pub(super) fn assign(
        &mut self,
        bucket: BucketId,
        expected: u64,
        owner: NodeId,
    ) -> Result<MetaAnswer, Refusal> {
        let row = self.buckets.get(&bucket);
        let row = row.ok_or(Refusal::Invalid("no such bucket"))?;
        if row.epoch != expected {
            let current = row.epoch;
            return if row.owner == owner {
                Ok(MetaAnswer::Done)
            } else {
                Err(Refusal::Changed { current })
            };
        }
        if !self.members.contains_key(&owner) {
            return Err(Refusal::NoMember(owner));
        }
        if self.holds_rows(bucket) {
            return Err(Refusal::Invalid("the bucket holds rows"));
        }
        self.write_bucket(bucket, owner);
        Ok(MetaAnswer::Done)
    }

    /// Gives the node what nobody else holds rows of.
    pub(super) fn take_buckets(
        &mut self,
        node: NodeId,
        claims: &[BucketClaim],
    ) -> Result<MetaAnswer, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoMember(node));
        }
        if self.layout.leaving.contains(&node) {
            return Err(Refusal::Leaving(node));
        }
        for claim in claims {
            let is_as_read = self
                .bucket(claim.bucket)
                .is_some_and(|row| row.epoch == claim.epoch && row.owner != node);
            if is_as_read && !self.holds_rows(claim.bucket) {
                self.write_bucket(claim.bucket, node);
            }
        }
        Ok(MetaAnswer::Done)
    }

    /// Notes that the node is about to take rows of buckets that are its own.
    pub(super) fn hold_rows(&mut self, node: NodeId, claims: &[BucketClaim]) -> MetaAnswer {
        for BucketClaim { bucket, epoch } in claims.iter().copied() {
            if self.bucket(bucket) == Some(BucketRow { owner: node, epoch })
                && self.holding.insert(bucket)
            {
                self.effects.push_back(MetaEffect::Assigned(bucket));
            }
        }
        MetaAnswer::Done
    }

    pub(super) fn write_bucket(&mut self, bucket: BucketId, owner: NodeId) {
        let epoch = self.rising();
        self.buckets.insert(bucket, BucketRow { owner, epoch });
        self.effects.push_back(MetaEffect::Assigned(bucket));
    }
}

/// Which buckets hold rows after a restart: what the state file says, and all of a state that was
/// written before anybody said so.
pub(super) fn restored(
    state: &MetaState,
    holding: Option<BTreeSet<BucketId>>,
) -> BTreeSet<BucketId> {
    holding.unwrap_or_else(|| state.buckets.keys().copied().collect())
}
