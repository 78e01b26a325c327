use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use storage::log::{self, ContentType};

use super::*;
use crate::dead_letter::{DeadLetters, open_log};

fn letter(received_ms: i64, partition: u16, offset: u64, reason: &str) -> Letter {
    Letter {
        id: LetterId {
            place: Place::Node,
            partition,
            offset,
        },
        reason: reason.to_owned(),
        text: "why".to_owned(),
        topic: None,
        partition,
        offset: Some(7),
        record: Record {
            partition,
            key: Bytes::from_static(b"car"),
            payload: Bytes::from_static(b"{}"),
            content_type: ContentType::Unspecified,
            received_ms,
            node: 1,
            connection_epoch: 2,
            packet_seq: 3,
            retransmit: false,
            droppable: false,
        },
    }
}

fn times(found: &Found) -> Vec<i64> {
    found
        .letters
        .iter()
        .map(|one| one.record.received_ms)
        .collect()
}

#[test]
fn an_id_is_read_as_it_is_written() {
    for text in ["node:0:0", "kafka:65535:18446744073709551615"] {
        let id: LetterId = text.parse().expect("an id");
        assert_eq!(id.to_string(), text);
    }
    for text in [
        "",
        "node",
        "node:1",
        "node:1:2:3",
        "disk:1:2",
        "node:65536:0",
        "kafka:1:-2",
    ] {
        assert_eq!(text.parse::<LetterId>(), Err(()), "{text}");
    }
}

#[test]
fn pages_hold_each_letter_once_newest_first() {
    let all: Vec<Letter> = [3, 1, 2, 2, 5, 4]
        .into_iter()
        .zip(0..)
        .map(|(at, offset)| letter(at, 0, offset, "time"))
        .collect();
    let mut after = None;
    let mut pages = Vec::new();
    loop {
        let mut newest = Newest::new(2, Some("time".to_owned()), after);
        all.iter().for_each(|one| newest.offer(one));
        newest.offer(&letter(9, 1, 1, "conflict"));
        let found = newest.found(None);
        pages.push((times(&found), found.remaining));
        let Some(next) = found.next else { break };
        let text = next.to_string();
        after = Some(text.parse().expect("its own"));
    }
    assert_eq!(pages, [(vec![5, 4], 4), (vec![3, 2], 2), (vec![2, 1], 0)]);
}

#[test]
fn an_answer_is_bounded_in_bytes_and_never_empty_for_it() {
    let mut newest = Newest::new(10, None, None);
    for at in 1..=3 {
        let mut large = letter(at, 0, at as u64, "time");
        large.record.payload = vec![0; BYTES_MAX / 2 + 1].into();
        newest.offer(&large);
    }
    let found = newest.found(None);
    assert_eq!((times(&found), found.remaining), (vec![3], 2));

    let mut newest = Newest::new(10, None, None);
    let mut huge = letter(1, 0, 0, "time");
    huge.record.payload = vec![0; 2 * BYTES_MAX].into();
    newest.offer(&huge);
    assert_eq!(times(&newest.found(None)), [1]);
}

#[test]
fn a_span_takes_the_newest_of_each_partition() {
    let max = LOOKED_AT_MAX;
    let (all, is_whole) = Span::Newest.of(&[(5, 9), (0, 0), (4, max)]);
    assert_eq!((all, is_whole), (vec![(5, 9), (0, 0), (4, max)], true));

    let (some, is_whole) = Span::Newest.of(&[(0, 2 * max), (7, 17), (0, 2 * max)]);
    let each = (max - 10) / 2;
    let end = 2 * max;
    let expected = [(end - each, end), (7, 17), (end - each, end)];
    assert_eq!((&some[..], is_whole), (&expected[..], false));
}

#[test]
fn a_span_of_one_is_empty_where_the_letter_is_not() {
    let there = [(0, 5), (2, 4)];
    let of = |partition, offset| Span::One { partition, offset }.of(&there).0;
    assert_eq!(of(1, 3), [(0, 0), (3, 4)]);
    for (partition, offset) in [(1, 4), (1, 1), (2, 0)] {
        assert!(
            of(partition, offset)
                .iter()
                .all(|(begin, end)| begin == end)
        );
    }
}

#[test]
fn a_payload_that_is_no_text_is_shown_in_base64() {
    use admin::bridge::Payload;

    let mut one = letter(1, 0, 0, "time");
    assert_eq!(one.shown().payload, Payload::Text("{}".to_owned()));
    one.record.payload = Bytes::from_static(&[0xff, 0xfe, 0]);
    assert_eq!(one.shown().payload, Payload::Base64("//4A".to_owned()));
}

/// This node's log of letters after `put` has put some into it, as they are read.
fn read_after(put: impl FnOnce(&mut DeadLetters)) -> Vec<Letter> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = log::Config {
        partitions: 4,
        ..log::Config::default()
    };
    let fs = Arc::new(storage::fs::RealFs);
    let log = open_log(fs, folder.path(), config, |fatal| panic!("{fatal}")).expect("a new log");
    let stop = Arc::new(AtomicBool::new(false));
    put(&mut DeadLetters::local(&log, stop).expect("an empty log"));
    let mut read = Vec::new();
    let each = |one: &Letter| read.push(one.clone());
    let partial = read_own(&log, Some("t"), Span::Newest, &|| true, each).expect("readable");
    assert_eq!(partial, None);
    log.close();
    read
}

#[test]
fn what_kafka_refused_says_of_which_topic_it_is() {
    let record = letter(5, 2, 0, "").record;

    let read = read_after(|letters| {
        let put = letters.put_refused("other.topic", &record, "too large");
        put.expect("there is room");
    });

    let [one] = &read[..] else {
        panic!("one letter: {read:?}");
    };
    assert_eq!(one.id.to_string(), "node:2:0");
    assert_eq!((&*one.reason, &*one.text), ("refused", "too large"));
    assert_eq!(
        (one.topic.as_deref(), one.offset),
        (Some("other.topic"), None)
    );
    assert_eq!(one.record, record, "the message is as it was");
}

#[test]
fn a_letter_that_kafka_refused_is_shown_as_the_letter_it_was() {
    use crate::counters::DeadLetterReason;

    let record = letter(5, 2, 0, "").record;
    let source = StoredRecord {
        offset: 41,
        record: record.clone(),
    };
    let stored =
        crate::dead_letter::encode(&source, 1 << 32, DeadLetterReason::Time, "no ts", None);

    let read = read_after(|letters| {
        let put = letters.put_refused("t.dlq", &stored, "too large");
        put.expect("there is room");
    });

    let [one] = &read[..] else {
        panic!("one letter: {read:?}");
    };
    assert_eq!((&*one.reason, one.topic.as_deref()), ("time", Some("t")));
    assert_eq!((one.partition, one.offset), (2, Some(41)));
    assert!(
        one.text.starts_with("no ts") && one.text.contains("too large"),
        "{}",
        one.text
    );
    assert_eq!(one.record, record, "the message is as it was");
}
