//! The state file of meta: two rows, another once there was more than a lone node, and one more each once a
//! bucket with rows was moved, an operator moved a shard, a member said what it offers, and a shard was recovered.

use cluster_core::{BucketRow, Founded, Layout, Member, MetaState, MoveRow, Recovered, ShardRow};

use super::wire::record;

/// All but the layout; its key is empty.
pub(crate) const STATE_KIND: u8 = 1;
/// The layout, if it is not that of a lone node; its key is empty.
pub(crate) const LAYOUT_KIND: u8 = 2;
/// The buckets that hold rows; its key is empty. A state without this row was written before anybody
/// said which do: all of them may.
pub(crate) const HOLDING_KIND: u8 = 3;
/// The device-owned templates; its key is empty. There is none of a cluster without templates.
pub(crate) const TEMPLATES_KIND: u8 = 4;
/// Where buckets with rows are being moved to, once one ever was; its key is empty.
pub(crate) const MOVING_KIND: u8 = 5;
/// Where operators want shards to be, once one ever was; its key is empty.
pub(crate) const PINS_KIND: u8 = 6;
/// What members offer, once one ever said so; its key is empty.
pub(crate) const OFFERS_KIND: u8 = 7;
/// How shards were recovered last, once one ever was; its key is empty.
pub(crate) const RECOVERED_KIND: u8 = 8;

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
record!(Recovered {
    node,
    expected,
    from,
    replica,
    incarnation,
});
record!(BucketRow { owner, epoch });
record!(Layout {
    system,
    replicas,
    moves,
    leftovers,
    leaving,
});
record!(MoveRow {
    to,
    replicas,
    is_aborted,
    version,
});
