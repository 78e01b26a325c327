//! Any command of a shard, and any item of its entries.

use std::sync::Arc;

use cluster_core::Attempt;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use session::{
    Acks, Close, Command, ConnectionId, Enqueue, GroupSeq, Identity, Membership, Open, Replay,
    Retain, Seq, Subs, Unsubs, WillFate, WillId,
};

use super::value::{
    client, epoch, epochs, filter, member, message, origin, stamp, subscription, text, topic, will,
};
use crate::stored::ShardItem;

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

fn acks() -> impl Strategy<Value = Acks> {
    (client(), epoch(), vec(any::<u64>().prop_map(Seq), 0..4)).prop_map(|(client, epoch, seqs)| {
        Acks {
            client,
            epoch,
            seqs,
        }
    })
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
