//! The state file of meta: one row.

use cluster_core::{BucketRow, Founded, Member, MetaState, ShardRow};

use super::wire::record;

/// The only kind; its key is empty.
pub(crate) const STATE_KIND: u8 = 1;

record!(MetaState {
    index,
    time,
    founded,
    level,
    members,
    used,
    begun,
    shards,
    buckets,
    incarnations,
});
record!(Founded {
    folder,
    shards,
    buckets,
});
record!(Member {
    folder,
    address,
    level,
    epoch,
    since,
    last,
});
record!(ShardRow { placement, version });
record!(BucketRow { owner, epoch });
