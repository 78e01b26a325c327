use std::sync::Arc;

use bytes::Bytes;
use mqtt::{ClientId, QoS, Topic};
use proptest::collection::vec;
use proptest::prelude::*;
use session::{
    ConnectionId, Counters, Epoch, GroupRow, GroupsRow, HeadRow, Identity, Member, MembershipState,
    Message, MessageId, NodeEpoch, OriginKind, OriginRow, PersistentRow, QueuePlace, QueuedRow,
    RetainedRow, RouteState, Seq, SessionRow, Share, Stamp, WallMs, WillId, WillRow,
};

use super::arbitrary::{self, harmed};
use super::shard_rows::*;

proptest! {
    #[test]
    fn a_row_comes_back_as_it_was(row in arbitrary::session_state_row()) {
        prop_assert_eq!(decode_row(&encoded(&row)), Ok(row));
    }

    #[test]
    fn a_harmed_row_is_refused_or_is_another_row(
        row in arbitrary::session_state_row(),
        of_key in vec(any::<(u16, u8, u8)>(), 0..2),
        of_value in vec(any::<(u16, u8, u8)>(), 0..3),
    ) {
        let mut stored = encoded(&row);
        stored.key = harmed(stored.key.to_vec(), &of_key).into();
        stored.value = harmed(stored.value.to_vec(), &of_value).into();
        if let Ok(row) = decode_row(&stored) {
            prop_assert_eq!(encoded(&row), stored);
        }
    }

    #[test]
    fn rows_lie_in_the_order_of_their_names(
        one in arbitrary::session_state_row(),
        other in arbitrary::session_state_row(),
    ) {
        let by_name = name(&one).cmp(&name(&other));
        let (one, other) = (encoded(&one), encoded(&other));
        let by_bytes = (one.kind, one.key).cmp(&(other.kind, other.key));
        prop_assert_eq!(by_name, by_bytes);
    }

    #[test]
    fn any_value_is_read_without_a_panic(
        kind in 0..17_u8,
        mut value in vec(any::<u8>(), 0..60),
    ) {
        value.insert(0, 1);
        for key in [&b""[..], b"c\0", b"\0\0\0\0\0\0\0\0", b"c\0\x01\0\0\0\0\0\0\0\0", b"c\0\x01"] {
            let key = Bytes::from_static(key);
            let value = Bytes::from(value.clone());
            let _ = decode_row(&storage::state::Row { kind, key, value });
        }
    }
}

fn encoded(row: &session::Row) -> storage::state::Row {
    let (kind, key) = row_key(&name(row));
    storage::state::Row {
        kind,
        key: key.into(),
        value: encode_row(row).into(),
    }
}

fn message() -> Arc<Message> {
    Arc::new(Message {
        topic: Topic::try_from("a").unwrap(),
        payload: Bytes::from_static(b"hi"),
        qos: QoS::ExactlyOnce,
        retain: true,
        properties: None,
        publisher: None,
        received: WallMs(5),
        expiry: Some(WallMs(6)),
    })
}

const MESSAGE: &[u8] = b"\x01\0a\x02\0\0\0hi\x02\x01\0\0\x05\0\0\0\0\0\0\0\x01\x06\0\0\0\0\0\0\0";

fn golden(row: session::Row, kind: u8, key: &[u8], value: &[&[u8]]) {
    let stored = encoded(&row);
    assert_eq!((stored.kind, &stored.key[..]), (kind, key), "{row:?}");
    assert_eq!(
        stored.value,
        [&b"\x01"[..], &value.concat()].concat(),
        "{row:?}"
    );
    assert_eq!(decode_row(&stored), Ok(row));
}

#[test]
fn the_rows_of_sessions_have_these_bytes() {
    let client = || ClientId::try_from("c").unwrap();
    let filter = || "a/+".try_into().unwrap();
    let head = HeadRow {
        index: 1,
        time: WallMs(2),
        next_message: 3,
        route_version: 4,
        will_ids: 5,
        gone: [NodeEpoch(6)].into(),
        counters: Counters {
            queued: 7,
            replays_missed: 8,
            ..Counters::default()
        },
    };
    golden(session::Row::Head(head), 2, b"", &[
        b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x06\0\0\0\0\0\0\0",
        b"\x07\0\0\0\0\0\0\0",
        &[0; 40],
        b"\x08\0\0\0\0\0\0\0",
    ]);
    let session = SessionRow {
        identity: Identity("u".try_into().unwrap()),
        incarnation: Epoch(1),
        epoch: Epoch(2),
        connection: ConnectionId(3),
        node_epoch: NodeEpoch(4),
        disconnected: Some(WallMs(5)),
        session_present: true,
        expiry_s: 6,
        receive_maximum: 7,
        will: None,
        dup_end: 8,
        persistent: Some(PersistentRow {
            subscriptions: vec![(filter(), session::Subscription::default())],
            q2_open: vec![(9.try_into().unwrap(), 10)],
            q2_next: 11,
            replays: vec![(filter(), WallMs(12))],
            next_seq: 13,
            sent_end: 14,
            next_held: 15,
        }),
    };
    golden(
        session::Row::Session(client(), Box::new(session)),
        3,
        b"c\0",
        &[
            b"\x01\0u\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0",
            b"\x01\x05\0\0\0\0\0\0\0\x01\x06\0\0\0\x07\0\0\x08\0\0\0\0\0\0\0",
            b"\x01\x01\0\0\0\x03\0a/+\0\0\0\0\0",
            b"\x01\0\0\0\x09\0\x0a\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0",
            b"\x01\0\0\0\x03\0a/+\x0c\0\0\0\0\0\0\0",
            b"\x0d\0\0\0\0\0\0\0\x0e\0\0\0\0\0\0\0\x0f\0\0\0\0\0\0\0",
        ],
    );
    let queued = QueuedRow {
        message: MessageId(1),
        bytes: 2,
        expiry: None,
        qos: QoS::AtLeastOnce,
        retain: true,
        ids: [3.try_into().unwrap()].into_iter().collect(),
        released: false,
        held_topic: None,
    };
    let place = QueuePlace::Sequenced(Seq(0x0102));
    golden(
        session::Row::Queued(client(), place, queued.clone()),
        4,
        b"c\0\x01\0\0\0\0\0\0\x01\x02",
        &[b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\x01\x01\x01\0\0\0\x03\0\0\0\0\0"],
    );
    let held = QueuedRow {
        held_topic: Some("a".try_into().unwrap()),
        ..queued
    };
    golden(
        session::Row::Queued(client(), QueuePlace::Held(3), held),
        4,
        b"c\0\x02\0\0\0\0\0\0\0\x03",
        &[b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\x01\x01\x01\0\0\0\x03\0\0\0\0\x01\x01\0a"],
    );
    let id = MessageId(0x0304);
    golden(
        session::Row::Message(id, message()),
        5,
        b"\0\0\0\0\0\0\x03\x04",
        &[MESSAGE],
    );
    let origin = OriginRow {
        incarnation: Epoch(1),
        floor: 2,
        seen: [3].into(),
        used: WallMs(4),
    };
    golden(
        session::Row::Origin(client(), OriginKind::Will, origin),
        7,
        b"c\0\x01",
        &[b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0"],
    );
    let route = RouteState {
        version: 1,
        wanted: true,
        pending: false,
    };
    golden(
        session::Row::Route(filter(), route),
        9,
        b"a/+\0",
        &[b"\x01\0\0\0\0\0\0\0\x01\0"],
    );
}

#[test]
fn the_rows_of_messages_beside_queues_have_these_bytes() {
    let topic = || Topic::try_from("a").unwrap();
    let stamp = Stamp {
        publisher: None,
        epoch: Epoch(1),
        seq: 2,
    };
    let stamp_bytes = b"\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
    let retained = |content| {
        let stamp = stamp.clone();
        session::Row::Retained(topic(), RetainedRow { content, stamp })
    };
    golden(
        retained(Ok(message())),
        6,
        b"a\0",
        &[b"\x01", MESSAGE, stamp_bytes],
    );
    golden(
        retained(Err(WallMs(9))),
        6,
        b"a\0",
        &[b"\0\x09\0\0\0\0\0\0\0", stamp_bytes],
    );
    let will = WillRow {
        id: WillId(0x0102),
        client: ClientId::try_from("c").unwrap(),
        epoch: Epoch(3),
        message: message(),
    };
    golden(
        session::Row::Will(will),
        8,
        b"\0\0\0\0\0\0\x01\x02",
        &[b"\x02\x01\0\0\0\0\0\0\x01\0c\x03\0\0\0\0\0\0\0", MESSAGE],
    );
}

#[test]
fn the_rows_of_groups_have_these_bytes() {
    let filter = || mqtt::Filter::try_from("$share/g/a").unwrap();
    let client = || ClientId::try_from("c").unwrap();
    let groups = GroupsRow {
        memberships: 1,
        applied: [(2, 3)].into(),
    };
    golden(
        session::Row::Groups(groups),
        10,
        b"",
        &[b"\x01\0\0\0\0\0\0\0\x01\0\0\0\x02\0\x03\0\0\0\0\0\0\0"],
    );
    let state = MembershipState {
        share: Some(Share {
            subscription: session::Subscription::default(),
            joined: Epoch(1),
        }),
        version: 2,
        pending: true,
    };
    golden(
        session::Row::Membership(client(), filter(), state),
        11,
        b"c\0$share/g/a\0",
        &[b"\x01\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01"],
    );
    golden(
        session::Row::Group(filter(), group_row()),
        12,
        b"$share/g/a\0",
        &[b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"],
    );
    let member = Member {
        joined: Epoch(1),
        owner: None,
        subscription: session::Subscription::default(),
        persistent: true,
    };
    golden(
        session::Row::Member(filter(), client(), member),
        13,
        b"$share/g/a\0c\0",
        &[b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"],
    );
    let queued = QueuedRow {
        message: MessageId(1),
        bytes: 2,
        expiry: None,
        qos: QoS::AtLeastOnce,
        retain: false,
        ids: Default::default(),
        released: false,
        held_topic: None,
    };
    let place = QueuePlace::Sequenced(Seq(4));
    golden(
        session::Row::GroupQueued(filter(), place, queued),
        14,
        b"$share/g/a\0\x01\0\0\0\0\0\0\0\x04",
        &[b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\x01\0\0\0\0\0\0\0"],
    );
    let mut stored = encoded(&session::Row::Group(filter(), group_row()));
    stored.key = b"a\0"[..].into();
    let why = decode_row(&stored).unwrap_err();
    assert_eq!(why.to_string(), "filter a is not shared");
}

fn group_row() -> GroupRow {
    GroupRow {
        incarnation: Epoch(1),
        next_seq: 2,
        sent_end: 3,
    }
}

#[test]
fn a_message_is_loaded_without_a_copy_of_its_payload() {
    let (kind, key) = message_row_key(MessageId(7));
    assert_eq!((kind, &key[..]), (5, &b"\0\0\0\0\0\0\0\x07"[..]));
    let value = Bytes::from([b"\x01", MESSAGE].concat());

    let loaded = decode_message(MessageId(7), &value).unwrap();

    assert_eq!(loaded, *message());
    assert!(value.as_ptr_range().contains(&loaded.payload.as_ptr()));
    let error = decode_message(MessageId(7), &value.slice(..9)).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"row 5 "\x00\x00\x00\x00\x00\x00\x00\x07" of a shard: ends 1 bytes early"#
    );
}
