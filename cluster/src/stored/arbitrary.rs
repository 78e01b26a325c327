//! Any value of each stored kind, and bytes that came to harm, for tests.

use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{
    Attempt, Begin, BucketId, Deltas, EndReason, EpochView, FeatureLevel, FolderId, Found, Group,
    Incarnation, Join, Leftover, MetaCommand, NodeId, Placement, RaftId, RouteDelta, RouteVersion,
    RoutesCommand, ShardId, Source, StartCount, StartMove,
};
use mqtt::{
    ClientId, Filter, PublishProperties, QoS, RetainHandling, SubscribeOptions, Text, Topic, Will,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use session::{
    Acks, Close, Command, ConnectionId, Counters, Enqueue, Epoch, GroupRow, GroupSeq, GroupsRow,
    HeadRow, Identity, Member, Membership, MembershipState, Message, MessageId, Open, Origin,
    OriginKind, OriginRow, Owner, PersistentRow, QueuePlace, QueuedRow, Replay, Retain,
    RetainedRow, RouteState, Row, Seq, SessionRow, Share, Stamp, Subs, Subscription, Unsubs,
    WallMs, WillFate, WillId, WillRow,
};

use super::ShardItem;

pub(crate) fn text() -> impl Strategy<Value = Text> {
    "[a-zé0-9 ]{0,12}".prop_map(|text| Text::try_from(text.as_str()).unwrap())
}

pub(crate) fn client() -> impl Strategy<Value = ClientId> {
    "[a-c]{1,2}".prop_map(|text| ClientId::try_from(text.as_str()).unwrap())
}

pub(crate) fn topic() -> impl Strategy<Value = Topic> {
    "[a-c]/[a-cö]{0,2}".prop_map(|text| Topic::try_from(text.as_str()).unwrap())
}

pub(crate) fn filter() -> impl Strategy<Value = Filter> {
    "([$]share/g/)?[a-c+]/([a-c]|[+]|#)".prop_map(|text| Filter::try_from(text.as_str()).unwrap())
}

pub(crate) fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

pub(crate) fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn wall() -> impl Strategy<Value = WallMs> {
    any::<u64>().prop_map(WallMs)
}

prop_compose! {
    fn properties()(
        payload_is_utf8 in any::<Option<bool>>(),
        message_expiry_s in any::<Option<u32>>(),
        response_topic in option::of(topic()),
        correlation_data in option::of(payload()),
        content_type in option::of(text()),
        user_properties in vec((text(), text()), 0..3),
    ) -> PublishProperties {
        PublishProperties {
            payload_is_utf8,
            message_expiry_s,
            response_topic,
            correlation_data,
            content_type,
            user_properties,
        }
    }
}

prop_compose! {
    pub(crate) fn will()(
        topic in topic(),
        payload in payload(),
        qos in qos(),
        retain in any::<bool>(),
        delay_s in any::<Option<u32>>(),
        properties in option::of(properties().prop_map(Box::new)),
    ) -> Will {
        Will { topic, payload, qos, retain, delay_s, properties }
    }
}

prop_compose! {
    pub(crate) fn message()(
        topic in topic(),
        payload in payload(),
        qos in qos(),
        retain in any::<bool>(),
        properties in option::of(properties().prop_map(Box::new)),
        publisher in option::of(client()),
        received in wall(),
        expiry in option::of(wall()),
    ) -> Message {
        Message { topic, payload, qos, retain, properties, publisher, received, expiry }
    }
}

prop_compose! {
    pub(crate) fn subscription()(
        qos in qos(),
        no_local in any::<bool>(),
        retain_as_published in any::<bool>(),
        retain_handling in prop_oneof![
            Just(RetainHandling::Send),
            Just(RetainHandling::SendIfNew),
            Just(RetainHandling::DoNotSend),
        ],
        id in any::<Option<std::num::NonZeroU32>>(),
    ) -> Subscription {
        let options = SubscribeOptions { qos, no_local, retain_as_published, retain_handling };
        Subscription { options, id }
    }
}

fn open() -> impl Strategy<Value = Open> {
    let of = (client(), text(), option::of(epoch()), any::<(u64, u64)>());
    let how = (any::<(bool, bool, u32, u16)>(), option::of(will()));
    (of, how).prop_map(
        |((client, identity, expected_epoch, node), (how, will))| Open {
            client,
            identity: Identity(identity),
            expected_epoch,
            node_epoch: session::NodeEpoch(node.0),
            connection: ConnectionId(node.1),
            clean_start: how.0,
            persistent: how.1,
            expiry_s: how.2,
            receive_maximum: how.3,
            will: will.map(Box::new),
        },
    )
}

prop_compose! {
    pub(crate) fn origin()(
        client in client(),
        kind in prop_oneof![Just(OriginKind::Session), Just(OriginKind::Will)],
        incarnation in epoch(),
        n in any::<u64>(),
        floor in any::<u64>(),
    ) -> Origin {
        Origin { client, kind, incarnation, n, floor }
    }
}

prop_compose! {
    fn stamp()(
        publisher in option::of(client()),
        epoch in epoch(),
        seq in any::<u64>(),
    ) -> Stamp {
        Stamp { publisher, epoch, seq }
    }
}

fn acks() -> impl Strategy<Value = Acks> {
    (client(), epoch(), vec(any::<u64>().prop_map(Seq), 0..4)).prop_map(|(client, epoch, seqs)| {
        Acks {
            client,
            epoch,
            seqs,
        }
    })
}

fn shared() -> impl Strategy<Value = Filter> {
    "[$]share/g{1,2}/[a-c+]/([a-c]|[+]|#)".prop_map(|text| Filter::try_from(text.as_str()).unwrap())
}

prop_compose! {
    fn owner()(
        numbers in any::<[u64; 3]>(),
        receive_maximum in any::<u16>(),
    ) -> Owner {
        Owner {
            node_epoch: session::NodeEpoch(numbers[0]),
            connection: ConnectionId(numbers[1]),
            epoch: Epoch(numbers[2]),
            receive_maximum,
        }
    }
}

prop_compose! {
    fn member()(
        joined in epoch(),
        owner in option::of(owner()),
        subscription in subscription(),
        persistent in any::<bool>(),
    ) -> Member {
        Member { joined, owner, subscription, persistent }
    }
}

/// Any command about a group.
fn group_command() -> impl Strategy<Value = Command> {
    let membership = (
        any::<(u16, u64)>(),
        filter(),
        client(),
        option::of(member()),
    );
    let group_seq =
        (filter(), epoch(), any::<u64>()).prop_map(|(filter, incarnation, seq)| GroupSeq {
            filter,
            incarnation,
            seq: Seq(seq),
        });
    prop_oneof![
        membership.prop_map(|((source, version), filter, client, member)| {
            Command::Membership(Box::new(Membership {
                source,
                version,
                filter,
                client,
                member,
            }))
        }),
        any::<u64>().prop_map(|version| Command::MembershipDone { version }),
        vec(group_seq, 0..4).prop_map(Command::GroupAck),
        (filter(), epoch()).prop_map(|(filter, incarnation)| Command::ExpireGroup {
            filter,
            incarnation,
        }),
    ]
}

/// Any command.
pub(crate) fn command() -> impl Strategy<Value = Command> {
    let fate = prop_oneof![Just(WillFate::Keep), Just(WillFate::Discard)];
    let named = || (client(), epoch(), any::<std::num::NonZeroU16>());
    let arc = || message().prop_map(Arc::new);
    prop_oneof![
        open().prop_map(|open| Command::Open(Box::new(open))),
        (client(), epoch(), fate, any::<Option<u32>>()).prop_map(|(client, epoch, will, s)| {
            Command::Close(Close {
                client,
                epoch,
                will,
                expiry_s: s,
            })
        }),
        (client(), epoch(), vec((filter(), subscription()), 0..3)).prop_map(
            |(client, epoch, filters)| Command::Subs(Box::new(Subs {
                client,
                epoch,
                filters
            }))
        ),
        (client(), epoch(), vec(filter(), 0..3)).prop_map(|(client, epoch, filters)| {
            Command::Unsubs(Box::new(Unsubs {
                client,
                epoch,
                filters,
            }))
        }),
        (arc(), option::of(origin().prop_map(Box::new)))
            .prop_map(|(message, origin)| Command::Enqueue(Enqueue { message, origin })),
        named().prop_map(|(client, epoch, packet_id)| Command::Q2In {
            client,
            epoch,
            packet_id
        }),
        named().prop_map(|(client, epoch, packet_id)| Command::Q2Out {
            client,
            epoch,
            packet_id
        }),
        (client(), epoch(), any::<u64>()).prop_map(|(client, epoch, seq)| Command::Rec {
            client,
            epoch,
            seq: Seq(seq)
        }),
        vec(acks(), 0..4).prop_map(Command::Ack),
        (topic(), option::of(arc()), stamp()).prop_map(|(topic, message, stamp)| {
            Command::Retain(Retain {
                topic,
                message,
                stamp,
            })
        }),
        (client(), epoch(), filter(), vec(arc(), 0..3)).prop_map(
            |(client, epoch, filter, rows)| Command::Replay(Box::new(Replay {
                client,
                epoch,
                filter,
                rows
            }))
        ),
        (client(), epoch(), filter()).prop_map(|(client, incarnation, filter)| {
            Command::ReplayEnd {
                client,
                incarnation,
                filter,
            }
        }),
        (client(), epoch(), epoch()).prop_map(|(client, incarnation, epoch)| Command::Expire {
            client,
            incarnation,
            epoch
        }),
        (client(), epoch()).prop_map(|(client, incarnation)| Command::ExpireMessages {
            client,
            incarnation
        }),
        Just(Command::ExpireRetained),
        (client(), epoch()).prop_map(|(client, epoch)| Command::WillDelayEnd { client, epoch }),
        any::<u64>().prop_map(|id| Command::WillDone { id: WillId(id) }),
        any::<u64>().prop_map(|version| Command::RoutesDone { version }),
        any::<u64>().prop_map(|node| Command::NodeGone {
            node_epoch: session::NodeEpoch(node)
        }),
        group_command().boxed(),
    ]
}

prop_compose! {
    pub(crate) fn epochs()(
        index in any::<u64>(),
        begun in any::<u64>(),
        current in btree_set(any::<u64>().prop_map(cluster_core::NodeEpoch), 0..4),
    ) -> EpochView {
        EpochView { index, begun: cluster_core::NodeEpoch(begun), current }
    }
}

/// Any item of a shard's entry.
pub(crate) fn item() -> impl Strategy<Value = ShardItem> {
    let body = prop_oneof![
        Just(cluster_core::Body::Nop),
        command().prop_map(cluster_core::Body::Item)
    ];
    prop_oneof![
        4 => (any::<(u64, u64, u64)>(), body).prop_map(|((epoch, attempt, n), body)| {
            ShardItem::Item {
                epoch: cluster_core::NodeEpoch(epoch),
                attempt: Attempt(attempt),
                n,
                body,
            }
        }),
        1 => command().prop_map(ShardItem::Duty),
        1 => epochs().prop_map(ShardItem::Epochs),
    ]
}

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
    ]
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

/// Changes, cuts, doubles or inserts bytes.
pub(crate) fn harmed(mut bytes: Vec<u8>, harms: &[(u16, u8, u8)]) -> Vec<u8> {
    for &(at, how, what) in harms {
        let at = usize::from(at) % (bytes.len() + 1);
        match how % 4 {
            0 if at < bytes.len() => bytes[at] ^= what.max(1),
            0 | 1 => bytes.truncate(at),
            2 => bytes.insert(at, what),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

fn persistent() -> impl Strategy<Value = PersistentRow> {
    let lists = (
        vec((filter(), subscription()), 0..3),
        vec(any::<(std::num::NonZeroU16, u64)>(), 0..3),
        vec((filter(), wall()), 0..2),
    );
    (lists, any::<[u64; 4]>()).prop_map(|((subscriptions, q2_open, replays), numbers)| {
        PersistentRow {
            subscriptions,
            q2_open,
            q2_next: numbers[0],
            replays,
            next_seq: numbers[1],
            sent_end: numbers[2],
            next_held: numbers[3],
        }
    })
}

fn session_row() -> impl Strategy<Value = SessionRow> {
    let parts = (
        text(),
        any::<[u64; 5]>(),
        option::of(wall()),
        any::<(bool, u32, u16)>(),
        option::of(will().prop_map(Box::new)),
        option::of(persistent()),
    );
    parts.prop_map(
        |(identity, numbers, disconnected, (session_present, expiry_s, max), will, persistent)| {
            SessionRow {
                identity: Identity(identity),
                incarnation: Epoch(numbers[0]),
                epoch: Epoch(numbers[1]),
                connection: ConnectionId(numbers[2]),
                node_epoch: session::NodeEpoch(numbers[3]),
                disconnected,
                session_present,
                expiry_s,
                receive_maximum: max,
                will,
                dup_end: numbers[4],
                persistent,
            }
        },
    )
}

prop_compose! {
    fn queued_row()(
        message in any::<u64>().prop_map(MessageId),
        bytes in any::<u32>(),
        expiry in option::of(wall()),
        qos in qos(),
        (retain, released) in any::<(bool, bool)>(),
        ids in vec(any::<std::num::NonZeroU32>(), 0..3),
        held_topic in option::of(topic()),
    ) -> QueuedRow {
        let ids = ids.into_iter().collect();
        QueuedRow { message, bytes, expiry, qos, retain, ids, released, held_topic }
    }
}

prop_compose! {
    fn head_row()(
        numbers in any::<[u64; 5]>(),
        gone in btree_set(any::<u64>().prop_map(session::NodeEpoch), 0..4),
        totals in any::<[u64; 7]>(),
    ) -> HeadRow {
        HeadRow {
            index: numbers[0],
            time: WallMs(numbers[1]),
            next_message: numbers[2],
            route_version: numbers[3],
            will_ids: numbers[4],
            gone,
            counters: Counters {
                queued: totals[0],
                dropped_full: totals[1],
                dropped_expired: totals[2],
                dropped_session_end: totals[3],
                repeats: totals[4],
                retained_full: totals[5],
                replays_missed: totals[6],
                ..Counters::default()
            },
        }
    }
}

/// Any row about groups.
fn group_row() -> impl Strategy<Value = Row> {
    let applied = proptest::collection::btree_map(any::<u16>(), any::<u64>(), 0..3);
    let share = option::of((subscription(), epoch()));
    let place = any::<u64>().prop_map(|seq| QueuePlace::Sequenced(Seq(seq)));
    prop_oneof![
        (any::<u64>(), applied).prop_map(|(memberships, applied)| {
            Row::Groups(GroupsRow {
                memberships,
                applied,
            })
        }),
        (client(), shared(), share, any::<(u64, bool)>()).prop_map(
            |(client, filter, share, (version, pending))| {
                let share = share.map(|(subscription, joined)| Share {
                    subscription,
                    joined,
                });
                let state = MembershipState {
                    share,
                    version,
                    pending,
                };
                Row::Membership(client, filter, state)
            }
        ),
        (shared(), any::<[u64; 3]>()).prop_map(|(filter, [incarnation, next_seq, sent_end])| {
            let row = GroupRow {
                incarnation: Epoch(incarnation),
                next_seq,
                sent_end,
            };
            Row::Group(filter, row)
        }),
        (shared(), client(), member())
            .prop_map(|(filter, client, member)| Row::Member(filter, client, member)),
        (shared(), place, queued_row())
            .prop_map(|(filter, place, row)| Row::GroupQueued(filter, place, row))
            .boxed(),
    ]
}

/// Any row of a shard's sessions.
pub(crate) fn session_state_row() -> impl Strategy<Value = Row> {
    let place = prop_oneof![
        any::<u64>().prop_map(|seq| QueuePlace::Sequenced(Seq(seq))),
        any::<u64>().prop_map(QueuePlace::Held)
    ];
    let content = prop_oneof![
        message().prop_map(|message| Ok(Arc::new(message))),
        wall().prop_map(Err)
    ];
    let origin_row = (epoch(), any::<u64>(), btree_set(any::<u64>(), 0..4), wall()).prop_map(
        |(incarnation, floor, seen, used)| OriginRow {
            incarnation,
            floor,
            seen,
            used,
        },
    );
    let kind = prop_oneof![Just(OriginKind::Session), Just(OriginKind::Will)];
    let arc = || message().prop_map(Arc::new);
    prop_oneof![
        head_row().prop_map(Row::Head),
        (client(), session_row()).prop_map(|(client, row)| Row::Session(client, Box::new(row))),
        (client(), place, queued_row()).prop_map(|(client, at, row)| Row::Queued(client, at, row)),
        (any::<u64>(), arc()).prop_map(|(id, message)| Row::Message(MessageId(id), message)),
        (topic(), content, stamp()).prop_map(|(topic, content, stamp)| Row::Retained(
            topic,
            RetainedRow { content, stamp }
        )),
        (client(), kind, origin_row).prop_map(|(client, kind, row)| Row::Origin(client, kind, row)),
        (any::<u64>(), client(), epoch(), arc()).prop_map(|(id, client, epoch, message)| {
            Row::Will(WillRow {
                id: WillId(id),
                client,
                epoch,
                message,
            })
        }),
        group_row().boxed(),
        (filter(), any::<(u64, bool, bool)>()).prop_map(|(filter, (version, wanted, pending))| {
            Row::Route(
                filter,
                RouteState {
                    version,
                    wanted,
                    pending,
                },
            )
        }),
    ]
}
