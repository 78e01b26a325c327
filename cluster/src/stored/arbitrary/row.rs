//! Any row of a shard's state file.

use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use session::{
    ConnectionId, Counters, Epoch, GroupRow, GroupsRow, HeadRow, Identity, MembershipState,
    MessageId, OriginKind, OriginRow, PersistentRow, QueuePlace, QueuedRow, RetainedRow,
    RouteState, Row, Seq, SessionRow, Share, WallMs, WillId, WillRow,
};

use super::value::{
    client, epoch, filter, member, message, qos, shared, stamp, subscription, text, topic, wall,
    will,
};

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
