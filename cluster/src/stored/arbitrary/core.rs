//! Any command of meta and of the routes.

use cluster_core::{
    Begin, BucketClaim, BucketId, Deltas, EndReason, FeatureLevel, FolderId, Found, Group,
    Incarnation, Join, Leftover, MetaCommand, NodeId, Offer, Pin, Placement, RaftId, RecoverShard,
    RouteDelta, RouteVersion, RoutesCommand, ShardId, Source, StartCount, StartMove,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::value::{epochs, filter};

/// Any command of meta.
pub(crate) fn meta_command() -> impl Strategy<Value = MetaCommand> {
    let node = || any::<u32>().prop_map(NodeId);
    let folder = || any::<u128>().prop_map(FolderId);
    let level = || any::<u16>().prop_map(FeatureLevel);
    let reason = prop_oneof![
        Just(EndReason::Stopped),
        Just(EndReason::Dead),
        Just(EndReason::Restarted)
    ];
    prop_oneof![
        (
            node(),
            folder(),
            any::<[std::num::NonZeroU16; 2]>(),
            level()
        )
            .prop_map(
                |(node, folder, [shards, buckets], level)| MetaCommand::Found(Found {
                    node,
                    folder,
                    shards,
                    buckets,
                    level
                })
            ),
        (
            node(),
            folder(),
            level(),
            vec("[a-z]{1,3}/\\{client_id\\}/#", 1..4)
        )
            .prop_map(|(node, folder, level, templates)| MetaCommand::FoundWith {
                found: Found {
                    node,
                    folder,
                    shards: std::num::NonZeroU16::MIN,
                    buckets: std::num::NonZeroU16::MAX,
                    level
                },
                templates: mqtt::Templates::parse(templates).expect("each is one"),
            }),
        (option::of(node()), folder(), level()).prop_map(|(node, folder, level)| {
            MetaCommand::Join(Join {
                node,
                folder,
                level,
            })
        }),
        (node(), folder(), any::<u64>(), "[a-z.:0-9é]{0,20}", level()).prop_map(
            |(node, folder, start, address, level)| MetaCommand::Begin(Begin {
                node,
                folder,
                start: StartCount(start),
                address,
                level
            })
        ),
        (any::<u64>(), reason).prop_map(|(epoch, reason)| MetaCommand::End {
            epoch: cluster_core::NodeEpoch(epoch),
            reason
        }),
        node().prop_map(|node| MetaCommand::Leave { node }),
        (any::<(u16, u64)>(), vec(node(), 0..4), vec(node(), 0..3)).prop_map(
            |((shard, expected), voters, learners)| MetaCommand::Place {
                shard: ShardId(shard),
                expected,
                placement: Placement { voters, learners }
            }
        ),
        (any::<(u16, u64)>(), node()).prop_map(|((bucket, expected), owner)| {
            MetaCommand::Assign {
                bucket: BucketId(bucket),
                expected,
                owner,
            }
        }),
        level().prop_map(|level| MetaCommand::RaiseLevel { level }),
        (group(), any::<u16>()).prop_map(|(group, expected)| MetaCommand::Recover {
            group,
            expected: Incarnation(expected)
        }),
        moves(),
        buckets(),
    ]
}

fn buckets() -> impl Strategy<Value = MetaCommand> {
    let claims = vec(any::<(u16, u64)>(), 0..4).prop_map(|claims| {
        let claim = |(bucket, epoch)| BucketClaim {
            bucket: BucketId(bucket),
            epoch,
        };
        claims.into_iter().map(claim).collect()
    });
    let of_many = (any::<(u32, bool)>(), claims).prop_map(|((node, is_taken), claims)| {
        let node = NodeId(node);
        match is_taken {
            true => MetaCommand::TakeBuckets { node, claims },
            false => MetaCommand::HoldRows { node, claims },
        }
    });
    let of_one = any::<(u16, u64, u32, bool)>().prop_map(|(bucket, epoch, to, is_begun)| {
        let bucket = BucketId(bucket);
        let (claim, to) = (BucketClaim { bucket, epoch }, NodeId(to));
        match is_begun {
            true => MetaCommand::MoveBucket { claim, to },
            false => MetaCommand::BucketMoved { claim, to },
        }
    });
    prop_oneof![of_many, of_one, steering()]
}

fn steering() -> impl Strategy<Value = MetaCommand> {
    let pin = any::<(u16, u64, u32, u32)>().prop_map(|(shard, expected, from, to)| {
        let (shard, from, to) = (ShardId(shard), NodeId(from), NodeId(to));
        MetaCommand::Pin(Pin {
            shard,
            expected,
            from,
            to,
        })
    });
    let unpin = any::<u16>().prop_map(|shard| {
        let shard = ShardId(shard);
        MetaCommand::Unpin { shard }
    });
    let offer = (any::<u32>(), any::<bool>(), "[a-z:]{0,8}").prop_map(|(node, stores, server)| {
        let (node, offer) = (NodeId(node), Offer { stores, server });
        MetaCommand::Offer { node, offer }
    });
    let recover = any::<(u16, u64, u32)>().prop_map(|(shard, expected, node)| {
        let (shard, node) = (ShardId(shard), NodeId(node));
        MetaCommand::RecoverShard(RecoverShard {
            shard,
            expected,
            node,
        })
    });
    prop_oneof![pin, unpin, offer, recover]
}

fn group() -> impl Strategy<Value = Group> {
    prop_oneof![
        Just(Group::Meta),
        Just(Group::Routes),
        any::<u16>().prop_map(|shard| Group::Shard(ShardId(shard)))
    ]
}

fn moves() -> impl Strategy<Value = MetaCommand> {
    let node = || any::<u32>().prop_map(NodeId);
    let to = (vec(node(), 0..4), vec(node(), 0..3));
    prop_oneof![
        (group(), any::<u64>(), to, option::of(node())).prop_map(
            |(group, expected, (voters, learners), renewed)| MetaCommand::StartMove(StartMove {
                group,
                expected,
                to: Placement { voters, learners },
                renewed,
            })
        ),
        (group(), any::<u64>())
            .prop_map(|(group, expected)| MetaCommand::AbortMove { group, expected }),
        (group(), any::<u64>())
            .prop_map(|(group, expected)| MetaCommand::EndMove { group, expected }),
        (node(), group(), any::<u64>()).prop_map(|(node, group, replica)| {
            MetaCommand::Removed(Leftover {
                node,
                group,
                replica: RaftId(replica),
            })
        }),
        (node(), any::<bool>())
            .prop_map(|(node, is_leaving)| MetaCommand::Drain { node, is_leaving }),
    ]
}

/// Any command of the routes.
pub(crate) fn routes_command() -> impl Strategy<Value = RoutesCommand> {
    let source = prop_oneof![
        any::<u16>().prop_map(|shard| Source::Shard(ShardId(shard))),
        any::<u64>().prop_map(|epoch| Source::Node(cluster_core::NodeEpoch(epoch))),
    ];
    let row =
        (filter(), any::<bool>(), any::<u64>()).prop_map(|(filter, wanted, version)| RouteDelta {
            filter,
            wanted,
            version: RouteVersion(version),
        });
    prop_oneof![
        (source, vec(row, 0..4))
            .prop_map(|(source, rows)| RoutesCommand::Deltas(Deltas { source, rows })),
        any::<(u16, u64)>().prop_map(|(shard, from)| RoutesCommand::Restated {
            shard: ShardId(shard),
            from: RouteVersion(from)
        }),
        epochs().prop_map(RoutesCommand::Epochs),
    ]
}
