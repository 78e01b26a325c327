use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{Attempt, Body, EpochView, LogTime, MetaCommand, NodeEpoch, NodeId, WallMs};
use mqtt::{ClientId, QoS, Topic};
use proptest::collection::vec;
use proptest::prelude::*;
use session::{
    Command, ConnectionId, Enqueue, Epoch, GroupSeq, Member, Membership, Message, Owner, Seq,
    Subscription,
};

use super::arbitrary::{self, harmed};
use super::*;

proptest! {
    #[test]
    fn a_shards_entry_comes_back_as_it_was(
        (time, wall) in any::<(u64, u64)>(),
        items in vec(arbitrary::item(), 0..6),
    ) {
        let wall = (wall != 0).then_some(WallMs(wall));
        let time = LogTime { time: WallMs(time), wall };
        let entry = ShardEntry { time, items };
        let bytes = entry.encode();
        let lens: usize = entry.items.iter().map(ShardItem::encoded_len).sum();
        prop_assert_eq!(bytes.len(), 22 + lens);
        prop_assert_eq!(ShardEntry::decode(&bytes), Ok(entry));
    }

    #[test]
    fn an_entry_of_meta_comes_back_as_it_was(
        time in any::<u64>(),
        command in arbitrary::meta_command(),
    ) {
        let entry = MetaEntry { time: WallMs(time), command };
        prop_assert_eq!(MetaEntry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn an_entry_of_the_routes_comes_back_as_it_was(
        time in any::<u64>(),
        command in arbitrary::routes_command(),
    ) {
        let entry = RoutesEntry { time: WallMs(time), command };
        prop_assert_eq!(RoutesEntry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn a_harmed_entry_is_refused_or_is_another_entry(
        items in vec(arbitrary::item(), 0..4),
        meta in arbitrary::meta_command(),
        routes in arbitrary::routes_command(),
        harms in vec(any::<(u16, u8, u8)>(), 1..4),
    ) {
        let time = WallMs(1);
        let log_time = LogTime { time, wall: None };
        let shard = harmed(ShardEntry { time: log_time, items }.encode(), &harms);
        if let Ok(entry) = ShardEntry::decode(&shard) {
            prop_assert_eq!(entry.encode(), shard);
        }
        let meta = harmed(MetaEntry { time, command: meta }.encode(), &harms);
        if let Ok(entry) = MetaEntry::decode(&meta) {
            prop_assert_eq!(entry.encode(), meta);
        }
        let routes = harmed(RoutesEntry { time, command: routes }.encode(), &harms);
        if let Ok(entry) = RoutesEntry::decode(&routes) {
            prop_assert_eq!(entry.encode(), routes);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in vec(any::<u8>(), 0..80), tag in 0..26_u8) {
        // The header of a shard's entry of one duty, then anything.
        let mut entry = b"\x01\x01\0\0\0\0\0\0\0\0\x01\0\0\0\x02".to_vec();
        entry.push(tag);
        entry.append(&mut bytes);
        if let Ok(read) = ShardEntry::decode(&entry) {
            prop_assert_eq!(read.encode(), entry);
        }
    }
}

fn enqueue() -> Command {
    Command::Enqueue(Enqueue {
        message: Arc::new(Message {
            topic: Topic::try_from("a/b").unwrap(),
            payload: Bytes::from_static(b"hi"),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
            publisher: Some(ClientId::try_from("p").unwrap()),
            received: session::WallMs(5),
            expiry: None,
        }),
        origin: None,
    })
}

#[test]
fn a_shards_entry_has_these_bytes() {
    let q2_in = Command::Q2In {
        client: ClientId::try_from("c").unwrap(),
        epoch: Epoch(7),
        packet_id: 9.try_into().unwrap(),
    };
    let item = |n, body| ShardItem::Item {
        epoch: NodeEpoch(3),
        attempt: Attempt(2),
        n,
        body,
    };
    let entry = ShardEntry {
        time: LogTime {
            time: WallMs(0x0102),
            wall: Some(WallMs(0x0304)),
        },
        items: vec![
            item(4, Body::Item(enqueue())),
            item(5, Body::Nop),
            ShardItem::Duty(q2_in),
            ShardItem::Epochs(EpochView {
                index: 6,
                begun: NodeEpoch(3),
                current: [NodeEpoch(3)].into(),
            }),
        ],
    };
    let golden = [
        &b"\x01\x01\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x04\0\0\0"[..],
        b"\x01\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x01",
        b"\x05\x03\0a/b\x02\0\0\0hi\x01\0\0\x01\x01\0p\x05\0\0\0\0\0\0\0\0\0",
        b"\x01\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0",
        b"\x02\x06\x01\0c\x07\0\0\0\0\0\0\0\x09\0",
        b"\x03\x06\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0",
    ]
    .concat();

    assert_eq!(entry.encode(), golden);
    assert_eq!(ShardEntry::decode(&golden), Ok(entry));
}

#[test]
fn commands_of_groups_have_these_bytes() {
    let filter = || mqtt::Filter::try_from("$share/g/a").unwrap();
    let membership = Membership {
        source: 2,
        version: 3,
        filter: filter(),
        client: ClientId::try_from("c").unwrap(),
        member: Some(Member {
            joined: Epoch(4),
            owner: Some(Owner {
                node_epoch: session::NodeEpoch(5),
                connection: ConnectionId(6),
                epoch: Epoch(7),
                receive_maximum: 8,
            }),
            subscription: Subscription::default(),
            persistent: true,
        }),
    };
    let acked = GroupSeq {
        filter: filter(),
        incarnation: Epoch(9),
        seq: Seq(10),
    };
    let entry = ShardEntry {
        time: LogTime::default(),
        items: vec![
            ShardItem::Duty(Command::Membership(Box::new(membership))),
            ShardItem::Duty(Command::MembershipDone { version: 3 }),
            ShardItem::Duty(Command::GroupAck(vec![acked])),
            ShardItem::Duty(Command::ExpireGroup {
                filter: filter(),
                incarnation: Epoch(9),
            }),
        ],
    };
    let golden = [
        &b"\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0"[..],
        b"\x02\x14\x02\0\x03\0\0\0\0\0\0\0\x0a\0$share/g/a\x01\0c",
        b"\x01\x04\0\0\0\0\0\0\0\x01\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0",
        b"\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\x01",
        b"\x02\x15\x03\0\0\0\0\0\0\0",
        b"\x02\x16\x01\0\0\0\x0a\0$share/g/a\x09\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0",
        b"\x02\x17\x0a\0$share/g/a\x09\0\0\0\0\0\0\0",
    ]
    .concat();

    assert_eq!(entry.encode(), golden);
    assert_eq!(ShardEntry::decode(&golden), Ok(entry));
}

#[test]
fn an_entry_of_another_group_or_version_is_told_by_name() {
    let command = MetaCommand::Leave { node: NodeId(2) };
    let time = WallMs(0);
    let mut bytes = MetaEntry { time, command }.encode();

    let error = ShardEntry::decode(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry of a shard: tag 2 is no kind of this log"
    );
    bytes[1] = 2;
    let error = MetaEntry::decode(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry of meta: version 2 is unknown, 1 is the newest known"
    );
}

#[test]
fn an_announced_length_takes_no_memory_that_the_bytes_do_not() {
    // One duty: acks of 2^32 - 1 connections.
    let entry = b"\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x02\x09\xff\xff\xff\xff";

    let error = ShardEntry::decode(entry).unwrap_err();

    assert_eq!(error.why, "ends 2 bytes early");
}

#[test]
fn the_writer_says_when_an_entry_is_full() {
    let mut writer = ShardEntryWriter::new(LogTime::default());
    assert!(writer.is_empty());
    for _ in 0..ENTRY_ITEMS_MAX {
        assert!(!writer.is_full());
        writer.push(&ShardItem::Duty(Command::ExpireRetained));
    }
    assert!(writer.is_full());
    let entry = ShardEntry::decode(&writer.finish()).unwrap();
    assert_eq!(entry.items.len(), ENTRY_ITEMS_MAX);
}

#[test]
fn a_value_that_is_written_another_way_is_refused() {
    // Whether a message follows; and a view whose epochs fall.
    let retain = b"\x02\x0a\x01\0t\x02\x00\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
    let view = [
        &b"\x03\x06\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0"[..],
        b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
    ]
    .concat();
    let why = |item: &[u8]| {
        let entry = [
            &b"\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0"[..],
            item,
        ]
        .concat();
        ShardEntry::decode(&entry).unwrap_err().why
    };

    assert_eq!(why(retain), "tag 2 is no flag");
    assert_eq!(why(&view), "members of a set do not rise");
    let twice = [&view[..view.len() - 8], b"\x02\0\0\0\0\0\0\0"].concat();
    assert_eq!(why(&twice), "members of a set do not rise");
    assert_eq!(why(b"\x02\x0f\0"), "goes on for 1 bytes behind its end");
    let no_packet_id = b"\x02\x06\x01\0c\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(why(no_packet_id), "a number that is never 0 is 0");
    let no_topic = b"\x02\x0a\x01\0#\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(
        why(no_topic),
        "topic name contains a wildcard character [MQTT-3.3.2-2]"
    );
}
