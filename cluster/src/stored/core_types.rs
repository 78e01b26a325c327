//! Stored forms of the rules' values: epochs, meta's and the routes' commands.

use cluster_core::{
    Attempt, Begin, BucketClaim, BucketId, Deltas, EndReason, EpochView, FeatureLevel, FolderId,
    Found, Group, Incarnation, Join, Leftover, MetaCommand, NodeEpoch, NodeId, Offer, Pin,
    Placement, RaftId, RecoverShard, RouteDelta, RouteVersion, RoutesCommand, ShardId, Source,
    StartCount, StartMove, WallMs,
};

use super::wire::{choice, record, wrapped};

wrapped!(
    NodeId FolderId StartCount NodeEpoch ShardId BucketId Incarnation FeatureLevel WallMs
    RouteVersion Attempt RaftId
);

record!(EpochView {
    index,
    begun,
    current,
});

choice!(MetaCommand, "command of meta" {
    1 => Found(found),
    2 => Join(join),
    3 => Begin(begin),
    4 => End { epoch, reason },
    5 => Leave { node },
    6 => Place { shard, expected, placement },
    7 => Assign { bucket, expected, owner },
    8 => RaiseLevel { level },
    9 => Recover { group, expected },
    10 => StartMove(start),
    11 => AbortMove { group, expected },
    12 => EndMove { group, expected },
    13 => Removed(leftover),
    14 => Drain { node, is_leaving },
    15 => TakeBuckets { node, claims },
    16 => HoldRows { node, claims },
    17 => FoundWith { found, templates },
    18 => MoveBucket { claim, to },
    19 => BucketMoved { claim, to },
    20 => Pin(pin),
    21 => Unpin { shard },
    22 => Offer { node, offer },
    23 => RecoverShard(asked),
});
record!(Pin {
    shard,
    expected,
    from,
    to,
});
record!(RecoverShard {
    shard,
    expected,
    node,
});
record!(Offer { stores, server });
record!(BucketClaim { bucket, epoch });
record!(StartMove {
    group,
    expected,
    to,
    renewed,
});
record!(Leftover {
    node,
    group,
    replica,
});
record!(Found {
    node,
    folder,
    shards,
    buckets,
    level,
});
record!(Join {
    node,
    folder,
    level,
});
record!(Begin {
    node,
    folder,
    start,
    address,
    level,
});
choice!(EndReason, "reason of an end" { 0 => Stopped, 1 => Dead, 2 => Restarted });
record!(Placement { voters, learners });
choice!(Group, "group" { 1 => Meta, 2 => Routes, 3 => Shard(shard) });

choice!(RoutesCommand, "command of the routes" {
    1 => Deltas(deltas),
    2 => Restated { shard, from },
    3 => Epochs(view),
});
record!(Deltas { source, rows });
record!(RouteDelta {
    filter,
    wanted,
    version,
});
choice!(Source, "source of routes" { 1 => Shard(shard), 2 => Node(epoch) });
