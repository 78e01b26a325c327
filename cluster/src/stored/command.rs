//! Stored forms of a shard's commands.

use session::{
    Acks, Close, Command, ConnectionId, Enqueue, Epoch, GroupSeq, Identity, Member, Membership,
    Message, NodeEpoch, Open, Origin, OriginKind, Owner, Replay, Retain, Seq, Stamp, Subs,
    Subscription, Unsubs, WallMs, WillFate, WillId,
};

use super::wire::{choice, record, wrapped};

wrapped!(WallMs Epoch NodeEpoch ConnectionId Seq WillId Identity);

choice!(Command, "command" {
    1 => Open(open),
    2 => Close(close),
    3 => Subs(subs),
    4 => Unsubs(unsubs),
    5 => Enqueue(enqueue),
    6 => Q2In { client, epoch, packet_id },
    7 => Q2Out { client, epoch, packet_id },
    8 => Rec { client, epoch, seq },
    9 => Ack(acks),
    10 => Retain(retain),
    11 => Replay(replay),
    12 => ReplayEnd { client, incarnation, filter },
    13 => Expire { client, incarnation, epoch },
    14 => ExpireMessages { client, incarnation },
    15 => ExpireRetained,
    16 => WillDelayEnd { client, epoch },
    17 => WillDone { id },
    18 => RoutesDone { version },
    19 => NodeGone { node_epoch },
    20 => Membership(membership),
    21 => MembershipDone { version },
    22 => GroupAck(acks),
    23 => ExpireGroup { filter, incarnation },
});

record!(Open {
    client,
    identity,
    expected_epoch,
    node_epoch,
    connection,
    clean_start,
    persistent,
    expiry_s,
    receive_maximum,
    will,
});
record!(Close {
    client,
    epoch,
    will,
    expiry_s,
});
choice!(WillFate, "fate of a will" { 0 => Keep, 1 => Discard });
record!(Subs {
    client,
    epoch,
    filters,
});
record!(Subscription { options, id });
record!(Unsubs {
    client,
    epoch,
    filters,
});
record!(Membership {
    source,
    version,
    filter,
    client,
    member,
});
record!(Member {
    joined,
    owner,
    subscription,
    persistent,
});
record!(Owner {
    node_epoch,
    connection,
    epoch,
    receive_maximum,
});
record!(GroupSeq {
    filter,
    incarnation,
    seq,
});
record!(Enqueue { message, origin });
record!(Message {
    topic,
    payload,
    qos,
    retain,
    properties,
    publisher,
    received,
    expiry,
});
record!(Origin {
    client,
    kind,
    incarnation,
    n,
    floor,
});
choice!(OriginKind, "kind of origin" { 0 => Session, 1 => Will });
record!(Acks {
    client,
    epoch,
    seqs,
});
record!(Retain {
    topic,
    message,
    stamp,
});
record!(Stamp {
    publisher,
    epoch,
    seq,
});
record!(Replay {
    client,
    epoch,
    filter,
    rows,
});
