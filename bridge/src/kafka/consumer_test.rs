//! A real Kafka's topic is read, from places that are there and from others, through its outages.

use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer as _};
use storage::log::{ContentType, Record};

use runtime::{Clock, SystemClock};

use super::*;
use crate::kafka::brokers::tests::counted;
use crate::kafka::group::Group;
use crate::kafka::test_kafka;
use crate::kafka::test_topic::{Topic, WAIT};
use crate::log_conformance::record;

const POLL: Duration = Duration::from_millis(100);
/// Polls for what must come, in milliseconds: a condition ends them, not the time. A poll that brings an error ends at
/// once, so their number would tell nothing.
const POLLS_MS: u64 = 120_000;
const READ_BYTES: usize = 1 << 20;

impl Topic {
    fn reader(&self, from: &[Option<Position>]) -> (KafkaConsumer, Arc<Watch>) {
        let watch = Arc::new(Watch::new(self.partitions));
        let shared = Arc::clone(&watch);
        let made = KafkaConsumer::new(&self.settings, &self.name, 7, from, shared);
        (made.expect("the settings are good"), watch)
    }

    /// Reads all partitions from their begin.
    fn reader_from_begin(&self) -> (KafkaConsumer, Arc<Watch>) {
        self.reader(&vec![None; usize::from(self.partitions)])
    }
}

/// Turns in which to poll.
fn polls() -> impl Iterator<Item = ()> {
    let clock = SystemClock::default();
    let until = clock.mono_ms() + POLLS_MS;
    std::iter::from_fn(move || (clock.mono_ms() < until).then_some(()))
}

/// Reads until `count` records came.
fn read(consumer: &mut KafkaConsumer, count: usize) -> Vec<StoredRecord> {
    let mut records = Vec::new();
    for () in polls() {
        records.extend(consumer.poll(READ_BYTES, POLL).expect("all is there"));
        if records.len() >= count {
            return records;
        }
    }
    panic!("{} of {count} records came", records.len());
}

/// Reads until the topic says that it is none for this reader.
fn refusal(consumer: &mut KafkaConsumer) -> (Vec<StoredRecord>, String) {
    let mut records = Vec::new();
    for () in polls() {
        match consumer.poll(READ_BYTES, POLL) {
            Ok(more) => records.extend(more),
            Err(error) => return (records, error.0),
        }
    }
    panic!("no refusal, but {} records", records.len());
}

/// Polls until a condition holds; no record may come.
fn idle_until(consumer: &mut KafkaConsumer, what: &str, mut holds: impl FnMut() -> bool) {
    for () in polls() {
        if holds() {
            return;
        }
        let records = consumer.poll(READ_BYTES, POLL).expect("all is there");
        assert_eq!(records, [], "nothing was sent");
    }
    panic!("in vain: {what}");
}

fn numbers(records: &[StoredRecord], partition: u16) -> Vec<u64> {
    let of = records
        .iter()
        .filter(|one| one.record.partition == partition);
    of.map(|one| one.record.packet_seq).collect()
}

#[test]
fn records_come_back_as_they_went_partition_by_partition() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "round-trip", 4);
    let types = [
        ContentType::Unspecified,
        ContentType::Json,
        ContentType::SenmlCbor,
    ];
    let sent: Vec<Record> = (0..200)
        .map(|n| Record {
            content_type: types[n as usize % types.len()],
            connection_epoch: u64::MAX - n,
            ..record((n % 4) as u16, n)
        })
        .collect();
    topic.produce(sent.clone());

    let (mut consumer, watch) = topic.reader_from_begin();
    let read = read(&mut consumer, 200);

    for partition in 0..4 {
        let of = |one: &&Record| one.partition == partition;
        let expected: Vec<&Record> = sent.iter().filter(of).collect();
        let got: Vec<&Record> = read.iter().map(|one| &one.record).filter(of).collect();
        assert_eq!(got, expected, "partition {partition}");
    }
    assert_eq!(watch.ends(), [50; 4]);
    assert_eq!(watch.incarnation(), topic.incarnation());
}

#[test]
fn records_of_foreign_producers_are_read_with_what_they_have() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "foreign", 1);
    let producer = topic.producer(&[]);
    let bare: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("foreign").partition(0).timestamp(77);
    producer
        .send(bare)
        .map_err(|(error, _)| error)
        .expect("room");
    let headers = [
        ("content-type", &b"application/json; charset=utf-8"[..]),
        ("tidewire-received", b"yesterday"),
        ("tidewire-source", b"\xff/1/1"),
        ("theirs", b"1"),
    ];
    let headers = headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| {
            crate::kafka::message::insert(all, key, value)
        });
    let other = BaseRecord::to("foreign")
        .partition(0)
        .key("car")
        .payload("{}")
        .timestamp(78)
        .headers(headers);
    producer
        .send(other)
        .map_err(|(error, _)| error)
        .expect("room");
    producer.flush(WAIT).expect("Kafka takes them");

    let (mut consumer, _) = topic.reader_from_begin();
    let read = read(&mut consumer, 2);

    let nothing = Record {
        partition: 0,
        key: Bytes::new(),
        payload: Bytes::new(),
        content_type: ContentType::Unspecified,
        received_ms: 77,
        node: 0,
        connection_epoch: 0,
        packet_seq: 0,
        retransmit: false,
        droppable: false,
    };
    assert_eq!(read[0].record, nothing);
    let other = Record {
        key: Bytes::from_static(b"car"),
        payload: Bytes::from_static(b"{}"),
        content_type: ContentType::Json,
        received_ms: 78,
        ..nothing
    };
    assert_eq!(read[1].record, other);
}

#[test]
fn reading_goes_on_where_the_store_is() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "go-on", 2);
    topic.produce((0..20).map(|n| record((n % 2) as u16, n)));

    let (mut consumer, watch) = topic.reader(&[topic.at(7), topic.at(10)]);
    let read = read(&mut consumer, 3);

    assert_eq!(numbers(&read, 0), [14, 16, 18]);
    assert_eq!(
        read.iter().map(|one| one.offset).collect::<Vec<_>>(),
        [7, 8, 9]
    );
    assert_eq!(watch.ends(), [10, 10]);
}

#[test]
fn a_poll_gives_about_what_was_asked_for() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "bounded", 1);
    topic.produce((0..100).map(|n| record(0, n)));
    let (mut consumer, _) = topic.reader_from_begin();
    let first = read(&mut consumer, 1);
    let bytes = first[0].record.stored_bytes();

    let mut seen = first.len();
    while seen < 100 {
        let records = consumer.poll(3 * bytes, POLL).expect("all is there");
        assert!(records.len() <= 4, "{}", records.len());
        seen += records.len();
    }
    assert_eq!(seen, 100);
}

#[test]
fn records_that_retention_took_are_a_refusal_that_names_both_offsets() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let mut topic = Topic::new(&mut kafka, "retention", 2);
    topic.produce((0..20).map(|n| record(1, n)));
    topic.delete_before(1, 12);

    let (mut consumer, _) = topic.reader(&[None, topic.at(5)]);
    let (records, error) = refusal(&mut consumer);

    assert_eq!(records, []);
    for part in [
        "topic retention partition 1",
        "offset 12",
        "up to 5:",
        "accept_gap",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    topic.settings.accept_gap = true;
    let (mut consumer, _) = topic.reader(&[None, topic.at(5)]);
    let read = read(&mut consumer, 8);
    assert_eq!(numbers(&read, 1), [12, 13, 14, 15, 16, 17, 18, 19]);
    assert_eq!(read[0].offset, 12);
}

#[test]
fn a_store_ahead_of_the_topic_is_refused() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let mut topic = Topic::new(&mut kafka, "ahead", 1);
    topic.produce((0..3).map(|n| record(0, n)));
    // Nothing was deleted that it could go on behind.
    topic.settings.accept_gap = true;

    let (mut consumer, _) = topic.reader(&[topic.at(4)]);
    let (records, error) = refusal(&mut consumer);

    assert_eq!(records, []);
    for part in ["topic ahead partition 0", "offset 3", "up to 4:"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn a_position_of_another_log_is_refused() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "other-log", 1);
    topic.produce((0..3).map(|n| record(0, n)));
    let other = Position {
        incarnation: incarnation_of("another cluster", "other-log"),
        offset: 2,
    };

    let (mut consumer, watch) = topic.reader(&[Some(other)]);
    let (_, error) = refusal(&mut consumer);

    assert!(error.contains("another log"), "{error}");
    assert_eq!(watch.incarnation(), 0, "it is not this reader's log");
}

#[test]
fn what_retention_takes_ahead_of_a_reader_is_a_refusal() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let mut topic = Topic::new(&mut kafka, "overtaken", 1);
    let (mut consumer, watch) = topic.reader_from_begin();
    // The first contact finds an empty topic.
    idle_until(&mut consumer, "the first contact", || {
        watch.incarnation() != 0
    });
    assert!(consumer.is_assigned);
    // More than is fetched ahead, which stays in the queue.
    let payload = Bytes::from(vec![b'x'; 900_000]);
    topic.produce((0..40).map(|n| Record {
        payload: payload.clone(),
        ..record(0, n)
    }));
    topic.delete_before(0, 40);

    let (records, error) = refusal(&mut consumer);

    let read = records.len() as u64;
    assert!(read < 40, "retention came too late for this test");
    assert_eq!(numbers(&records, 0), (0..read).collect::<Vec<_>>());
    let parts = ["offset 40".to_owned(), format!("up to {read}:")];
    for part in parts {
        assert!(error.contains(&part), "{part:?} is not in {error:?}");
    }
    // The same with leave to go on.
    topic.settings.accept_gap = true;
    topic.produce([record(0, 40)]);
    let (mut consumer, _) = topic.reader(&[topic.at(read)]);
    assert_eq!(numbers(&self::read(&mut consumer, 1), 0), [40]);
}

#[test]
fn what_retention_takes_before_the_first_record_was_read_is_a_refusal() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "never-read", 1);
    let (mut consumer, watch) = topic.reader_from_begin();
    idle_until(&mut consumer, "the first contact", || {
        watch.incarnation() != 0
    });
    let assignment = consumer.client.assignment().expect("it is assigned");
    consumer.client.pause(&assignment).expect("it pauses");
    topic.produce((0..5).map(|n| record(0, n)));
    topic.delete_before(0, 5);
    consumer.client.resume(&assignment).expect("it resumes");

    let (records, error) = refusal(&mut consumer);

    assert_eq!(records, []);
    for part in ["offset 5", "up to 0:"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn marks_of_transactions_are_no_records_and_nobody_waits_for_them() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "transactions", 1);
    let producer = topic.producer(&[("transactional.id", "somebody")]);
    producer.init_transactions(WAIT).expect("it answers");
    for (n, commits) in [(0, true), (1, false), (2, true), (3, false)] {
        producer.begin_transaction().expect("it may begin");
        topic.send(&producer, &record(0, n));
        producer.flush(WAIT).expect("Kafka takes it");
        if commits {
            producer.commit_transaction(WAIT).expect("it commits");
        } else {
            producer.abort_transaction(WAIT).expect("it aborts");
        }
    }

    let (mut consumer, watch) = topic.reader_from_begin();
    let records = read(&mut consumer, 2);

    assert_eq!(numbers(&records, 0), [0, 2], "what was aborted never was");
    assert_eq!(
        records.iter().map(|one| one.offset).collect::<Vec<_>>(),
        [0, 4]
    );
    idle_until(&mut consumer, "the end without marks", || {
        watch.ends() == [5]
    });
    // A store that is there and starts again waits for nothing either.
    let (mut consumer, watch) = topic.reader(&[topic.at(5)]);
    idle_until(&mut consumer, "the end without marks", || {
        watch.ends() == [5]
    });
    topic.produce([record(0, 9)]);
    let records = read(&mut consumer, 1);
    assert_eq!((records[0].offset, records[0].record.packet_seq), (8, 9));
    assert_eq!(watch.ends(), [9]);
}

#[test]
fn a_topic_whose_records_are_all_deleted_has_nothing_to_wait_for() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "emptied", 1);
    topic.produce((0..5).map(|n| record(0, n)));
    topic.delete_before(0, 5);

    let (mut consumer, watch) = topic.reader_from_begin();

    idle_until(&mut consumer, "an end where the reader is", || {
        watch.incarnation() != 0 && watch.ends() == [0]
    });
}

#[test]
fn a_kafka_killed_and_started_again_loses_and_doubles_nothing() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "killed", 3);
    topic.produce((0..3_000).map(|n| record((n % 3) as u16, n)));
    let (mut consumer, watch) = topic.reader_from_begin();
    // A part only: the next ones are in the client's queue, or not yet fetched.
    let mut records = Vec::new();
    while records.is_empty() {
        records = consumer.poll(1_000, POLL).expect("all is there");
    }

    kafka.kill();
    for () in polls() {
        let more = consumer.poll(READ_BYTES, POLL);
        records.extend(more.expect("an outage is no error"));
        if watch.error().is_some() {
            break;
        }
    }
    assert!(watch.error().is_some(), "the outage is told");
    // The producer waits for Kafka as the reader does.
    let (ask, asked) = sync_channel(1);
    let producing = std::thread::scope(|scope| {
        let producing = scope.spawn(|| {
            ask.send(()).expect("the test waits");
            topic.produce((3_000..6_000).map(|n| record((n % 3) as u16, n)));
        });
        asked.recv().expect("it begins");
        kafka.start();
        records.extend(read(&mut consumer, 6_000 - records.len()));
        producing.join()
    });
    producing.expect("Kafka took them");

    for partition in 0..3 {
        let expected: Vec<u64> = (0..6_000)
            .filter(|n| n % 3 == u64::from(partition))
            .collect();
        assert_eq!(numbers(&records, partition), expected);
    }
    idle_until(&mut consumer, "the error goes", || watch.error().is_none());
    assert_eq!(watch.ends(), [2_000; 3]);
}

#[test]
fn an_outage_that_passes_is_told_no_longer_though_no_record_comes() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "quiet", 1);
    topic.produce([record(0, 0)]);
    let (mut consumer, watch) = topic.reader_from_begin();
    read(&mut consumer, 1);

    kafka.kill();
    idle_until(&mut consumer, "the outage is told", || {
        watch.error().is_some()
    });
    kafka.start();

    idle_until(&mut consumer, "its end is told", || watch.error().is_none());
}

#[test]
fn a_client_that_has_forgotten_all_brokers_is_given_up_and_nothing_read_twice() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "forgotten", 2);
    topic.produce((0..2_000).map(|n| record((n % 2) as u16, n)));
    let (mut consumer, _watch) = topic.reader_from_begin();
    // A part only: the next ones are in the client's queue, and lost with it.
    let mut records = Vec::new();
    for () in polls() {
        records.extend(consumer.poll(1_000, POLL).expect("all is there"));
        if !records.is_empty() {
            break;
        }
    }
    assert!(records.len() < 2_000);
    let since = consumer.since_ms;

    for _ in 0..2 {
        consumer
            .client
            .context()
            .brokers
            .note(&counted(&["logical"]));
    }
    records.extend(read(&mut consumer, 2_000 - records.len()));

    assert_ne!(consumer.since_ms, since, "another client");
    for partition in 0..2 {
        let of = (0..2_000).filter(|n| n % 2 == u64::from(partition));
        assert_eq!(numbers(&records, partition), of.collect::<Vec<_>>());
    }
}

#[test]
fn a_client_that_reaches_nobody_for_long_is_followed_by_another() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "long", 1);
    topic.produce((0..10).map(|n| record(0, n)));
    kafka.kill();
    let (mut consumer, _watch) = topic.reader_from_begin();
    let since = consumer.since_ms;

    let mut now = since;
    for () in polls() {
        consumer
            .poll(READ_BYTES, POLL)
            .expect("an outage is no error");
        now = consumer.since_ms;
        if now != since {
            break;
        }
    }
    assert_ne!(now, since, "another client tries");
    kafka.start();

    assert_eq!(numbers(&read(&mut consumer, 10), 0), Vec::from_iter(0..10));
}

#[test]
fn a_kafka_that_comes_later_is_read_then() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "later", 2);
    topic.produce((0..10).map(|n| record((n % 2) as u16, n)));
    kafka.kill();

    let (mut consumer, watch) = topic.reader(&[topic.at(2), None]);
    idle_until(&mut consumer, "the outage is told", || {
        watch.error().is_some()
    });
    assert_eq!(watch.incarnation(), 0, "nobody was reached");
    // Nobody polls meanwhile; what the client has to tell of the outage is not to be waited for.
    kafka.start();
    let mut polls = 0;
    let mut read = Vec::new();
    while read.len() < 8 {
        polls += 1;
        assert!(polls < 100, "{} of 8 records came", read.len());
        read.extend(consumer.poll(READ_BYTES, WAIT).expect("all is there"));
    }

    assert_eq!(numbers(&read, 0), [4, 6, 8]);
    assert_eq!(numbers(&read, 1), [1, 3, 5, 7, 9]);
    assert_eq!(watch.incarnation(), topic.incarnation());
}

#[test]
fn a_group_without_a_coordinator_keeps_nobody_from_reading() {
    let Some(kafka) = test_kafka::without_coordinators_or_skip() else {
        return;
    };
    let topic = Topic::at_kafka(kafka.settings, "alone", 2);
    topic.produce((0..10).map(|n| record((n % 2) as u16, n)));
    let (mut consumer, watch) = topic.reader_from_begin();
    let shared = Arc::clone(&watch);
    let _group = Group::start(&topic.settings, &topic.name, 7, shared).expect("a thread");
    let nothing = BTreeSet::new();
    let (one, both) = (BTreeSet::from([0]), BTreeSet::from([0, 1]));
    Consume::assign(&mut consumer, &one, &nothing).expect("all is there");
    read(&mut consumer, 5);

    // What is told of the store waits for a coordinator that never comes.
    watch.note_release(&[(0, 1)]);
    consumer.poll(READ_BYTES, POLL).expect("all is there");
    Consume::assign(&mut consumer, &both, &nothing).expect("all is there");

    let mut records = Vec::new();
    for () in polls() {
        watch.note_release(&[(0, 2)]);
        records.extend(consumer.poll(READ_BYTES, POLL).expect("all is there"));
        if records.len() >= 5 {
            break;
        }
    }
    assert_eq!(numbers(&records, 1), [1, 3, 5, 7, 9]);
}

#[test]
fn what_a_producer_may_send_is_nothing_to_a_reader() {
    let mut settings = Settings {
        bootstrap: Some("127.0.0.1:9".to_owned()),
        ..Settings::default()
    };
    let (name, bytes) = ("message.max.bytes", "90000000");
    settings
        .properties
        .insert(name.to_owned(), bytes.to_owned());

    let made = KafkaConsumer::new(&settings, "any", 1, &[None], Arc::new(Watch::new(1)));

    made.map(drop).expect("a reader is made");
}
