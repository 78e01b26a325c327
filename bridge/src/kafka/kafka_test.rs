//! The Kafka side against a real Kafka; each test has topics of its own.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use runtime::SystemClock;
use storage::fs::{FaultFs, Fs};
use storage::log::{ContentType, EmbeddedLog, Record};
use xtask::kafka::Tool;

use super::consumer::KafkaConsumer;
use super::contact::{ContactError, check_topic};
use super::delivery::Contact;
use super::open::{KafkaSide, Opening, open};
use super::settings::Settings;
use super::test_kafka::{Turn, or_skip};
use super::watch::{Watch, incarnation_of};
use crate::counters::{Counters, DeadLetterReason};
use crate::dead_letter::{DeadLetters, SharedDeadLetters, read_all};
use crate::log::{Consume as _, Outcome, Port, PortId, Ports, Position, Submission, Ticket};
use crate::stream::{Mode, StreamRule, Streams};

const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(10);

fn rule(name: &str, store: bool, mode: Mode) -> StreamRule {
    StreamRule {
        name: name.to_owned(),
        filter: format!("{name}/+/t"),
        store,
        mode,
        ..StreamRule::default()
    }
}

/// A Kafka side over a disk in memory.
struct Side {
    side: KafkaSide,
    letters: EmbeddedLog,
    port: PortId,
    settled: Receiver<(u64, Outcome)>,
}

struct Numbers(SyncSender<(u64, Outcome)>);

impl Port for Numbers {
    fn settled(&self, outcome: Outcome, tickets: Vec<Ticket>) {
        for ticket in tickets {
            // A test that has ended does not care.
            let _unheard = self.0.send((ticket.words[0], outcome));
        }
    }
}

fn letters_in(fs: &Arc<dyn Fs>) -> (EmbeddedLog, SharedDeadLetters) {
    let config = storage::log::Config {
        partitions: 2,
        ..storage::log::Config::default()
    };
    let log = EmbeddedLog::open(Arc::clone(fs), Path::new("/dlq"), config, |fatal| {
        panic!("{fatal}")
    });
    let log = log.expect("the log opens");
    let letters = DeadLetters::local(&log, Arc::default()).expect("the log is whole");
    (log, Arc::new(Mutex::new(letters)))
}

impl Side {
    fn open(shared: &Turn, fs: &FaultFs, rules: Vec<StreamRule>) -> Self {
        Self::open_with(shared, fs, rules, Ports::default())
    }

    fn open_with(shared: &Turn, fs: &FaultFs, rules: Vec<StreamRule>, ports: Ports) -> Self {
        Self::open_at(shared.settings(), fs, rules, ports)
    }

    fn open_at(settings: Settings, fs: &FaultFs, rules: Vec<StreamRule>, ports: Ports) -> Self {
        let fs: Arc<dyn Fs> = Arc::new(fs.clone());
        // On a disk of its own: a side that is opened again finds its spool, not the lock of letters
        // that an earlier one still holds.
        let (log, letters) = letters_in(&(Arc::new(FaultFs::new(99)) as Arc<dyn Fs>));
        let (told, settled) = sync_channel(10_000);
        let port = ports.add(Arc::new(Numbers(told)));
        let opening = Opening {
            fs,
            settings,
            streams: Streams::new(rules, true).expect("the rules are good"),
            buckets: 2,
            node: 7,
            payload_bytes_max: 1 << 20,
            inflight_bytes_limit: 1 << 20,
            ports,
            clock: Arc::new(SystemClock::default()),
            counters: Arc::new(Counters::default()),
            on_fatal: Arc::new(|fatal| panic!("{fatal}")),
            stop: Arc::new(AtomicBool::new(false)),
            letters,
        };
        Self {
            side: open(opening, Path::new("/spool")).expect("it opens"),
            letters: log,
            port,
            settled,
        }
    }

    fn contact_of(&self, topic: &str) -> Contact {
        let state = self.side.handle.state();
        let found = state.topics.into_iter().find(|(name, _, _)| name == topic);
        found.map_or(Contact::Unknown, |(_, state, _)| state.contact)
    }

    fn wait_for_contact(&self, topic: &str) -> Contact {
        until(|| Some(self.contact_of(topic)).filter(|contact| *contact != Contact::Unknown))
    }

    fn send(&self, outlet: usize, record: Record) {
        let ticket = Ticket {
            kind: 0,
            words: [record.packet_seq, 0],
        };
        let submission = Submission {
            records: vec![record],
            tickets: vec![Some(ticket)],
            port: self.port,
        };
        let outlet = &self.side.outlets[outlet];
        let bytes = crate::log::memory_bytes(&submission.records[0]);
        assert!(outlet.room().reserve(bytes));
        outlet.append(submission).expect("there is room");
    }

    fn next_settled(&self) -> (u64, Outcome) {
        self.settled.recv_timeout(PATIENCE).expect("it is settled")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.side.log.close();
    }
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("waited in vain")
}

fn record(partition: u16, n: u64, payload: &[u8]) -> Record {
    Record {
        partition,
        key: Bytes::from(format!("car{partition}")),
        payload: Bytes::copy_from_slice(payload),
        content_type: ContentType::Json,
        received_ms: 1_700_000_000_000 + n as i64,
        node: 7,
        connection_epoch: 3,
        packet_seq: n,
        retransmit: n.is_multiple_of(2),
        droppable: false,
    }
}

#[test]
fn kafka_conforms_to_what_is_asked_of_a_log() {
    let Some(shared) = or_skip() else { return };
    let fs = FaultFs::new(0);
    crate::log_conformance::check(|ports| {
        let rules = vec![rule("conform", true, Mode::Kafka)];
        let side = Side::open_with(&shared, &fs, rules, ports);
        assert_eq!(side.wait_for_contact("tidewire.conform"), Contact::Good);
        // The ends are known once somebody reads.
        let mut consumer = side.side.log.consume(&[]).expect("reads from the start");
        until(|| {
            let read = consumer.poll(1, Duration::from_millis(100));
            read.expect("the topic is whole");
            (side.side.log.incarnation() != 0).then_some(())
        });
        let log = Arc::clone(&side.side.log);
        // The suite closes the log itself.
        let _leaked = std::mem::ManuallyDrop::new(side);
        log
    });
}

#[test]
fn a_record_lies_in_kafka_with_key_headers_and_partition() {
    let Some(shared) = or_skip() else { return };
    let side = Side::open(
        &shared,
        &FaultFs::new(1),
        vec![rule("shape", true, Mode::Kafka)],
    );
    assert_eq!(side.wait_for_contact("tidewire.shape"), Contact::Good);

    side.send(0, record(1, 42, b"{}"));
    assert_eq!(side.next_settled(), (42, Outcome::Durable));

    let mut reader = shared.settings().client();
    reader
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest");
    let reader: BaseConsumer = reader.create().expect("a client");
    reader.subscribe(&["tidewire.shape"]).expect("a topic");
    let message = until(|| reader.poll(Duration::from_millis(100))).expect("it is there");
    assert_eq!(message.partition(), 1);
    assert_eq!(message.key(), Some(&b"car1"[..]));
    assert_eq!(message.payload(), Some(&b"{}"[..]));
    let headers = message.headers().expect("there are headers").iter();
    let texts: Vec<String> = headers
        .map(|header| {
            let value = header.value.expect("with a value");
            format!("{}={}", header.key, String::from_utf8_lossy(value))
        })
        .collect();
    assert_eq!(
        texts,
        [
            "content-type=application/json",
            "tidewire-received=1700000000042",
            "tidewire-source=7/3/42",
            "tidewire-retransmit=1"
        ]
    );
}

#[test]
fn a_topic_with_another_number_of_partitions_is_named_and_the_other_streams_go_on() {
    let Some(shared) = or_skip() else { return };
    let topic = "tidewire.three";
    check_topic(&shared.settings(), topic, 3, 1 << 20, ANSWER).expect("created");
    let rules = vec![
        rule("three", false, Mode::Log),
        rule("good", false, Mode::Log),
    ];
    let side = Side::open(&shared, &FaultFs::new(2), rules);

    let Contact::Refused(reason) = side.wait_for_contact(topic) else {
        panic!("it has 3 partitions, not 2");
    };
    assert!(
        reason.contains("3 partitions") && reason.contains("2 buckets"),
        "{reason}"
    );
    side.send(0, record(0, 1, b"withheld"));
    side.send(1, record(0, 2, b"goes on"));

    assert_eq!(side.next_settled(), (2, Outcome::Durable));
    assert!(
        side.settled.try_recv().is_err(),
        "withheld, and no negative answer"
    );
}

#[test]
fn an_unauthorised_producer_is_named_and_the_other_streams_go_on() {
    let Some(shared) = or_skip() else { return };
    let topic = "tidewire.forbidden";
    check_topic(&shared.settings(), topic, 2, 1 << 20, ANSWER).expect("created");
    shared.tool(
        Tool::Acls,
        &[
            "--add",
            "--deny-principal",
            "User:ANONYMOUS",
            "--operation",
            "All",
            "--topic",
            topic,
        ],
    );

    until(
        || match check_topic(&shared.settings(), topic, 2, 1 << 20, ANSWER) {
            Err(error @ ContactError::Unauthorised { .. }) => {
                assert!(error.to_string().contains(topic));
                Some(())
            }
            // The rule has not reached the broker.
            Ok(_) | Err(_) => None,
        },
    );
    let rules = vec![
        rule("forbidden", false, Mode::Log),
        rule("allowed", false, Mode::Log),
    ];
    let side = Side::open(&shared, &FaultFs::new(3), rules);
    assert!(matches!(side.wait_for_contact(topic), Contact::Refused(_)));
    side.send(1, record(0, 2, b"goes on"));
    assert_eq!(side.next_settled(), (2, Outcome::Durable));
}

#[test]
fn a_record_too_large_for_its_topic_becomes_a_dead_letter_with_the_reason() {
    let Some(shared) = or_skip() else { return };
    let topic = "tidewire.small";
    check_topic(&shared.settings(), topic, 2, 1_000, ANSWER).expect("created");
    let side = Side::open(
        &shared,
        &FaultFs::new(4),
        vec![rule("small", false, Mode::Log)],
    );
    assert_eq!(side.wait_for_contact(topic), Contact::Good);
    // lz4 makes nothing of it.
    let large: Vec<u8> = (0..5_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();

    side.send(0, record(0, 1, &large));
    side.send(0, record(0, 2, b"fits"));

    let mut settled = [side.next_settled(), side.next_settled()];
    settled.sort_by_key(|(number, _)| *number);
    assert_eq!(settled, [(1, Outcome::Durable), (2, Outcome::Durable)]);
    let mut letters = Vec::new();
    read_all(&side.letters, |_, letter| letters.push(letter)).expect("the log is whole");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].payload, large, "the original bytes");
    assert!(
        letters[0].text.to_lowercase().contains("too large"),
        "{}",
        letters[0].text
    );
}

#[test]
fn records_that_kafka_deleted_before_the_store_read_them_are_named() {
    let Some(shared) = or_skip() else { return };
    let topic = "tidewire.deleted";
    let side = Side::open(
        &shared,
        &FaultFs::new(5),
        vec![rule("deleted", true, Mode::Kafka)],
    );
    assert_eq!(side.wait_for_contact(topic), Contact::Good);
    for n in 0..10 {
        side.send(0, record(0, n, b"{}"));
        side.next_settled();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("delete.json");
    let text =
        format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":7}}],"version":1}}"#);
    std::fs::write(&file, text).expect("the file can be written");
    let file = file.to_string_lossy().into_owned();
    shared.tool(Tool::DeleteRecords, &["--offset-json-file", &file]);
    let contacted =
        check_topic(&shared.settings(), topic, 2, 1 << 20, ANSWER).expect("it is there");
    let at = |offset| {
        let position = Position {
            incarnation: incarnation_of(&contacted.cluster_id, topic),
            offset,
        };
        vec![Some(position), None]
    };
    let read = |settings: &Settings| {
        let watch = Arc::new(Watch::new(2));
        let mut consumer = KafkaConsumer::new(settings, topic, 7, &at(4), watch).expect("a client");
        until(
            || match consumer.poll(1 << 20, Duration::from_millis(100)) {
                Ok(records) if records.is_empty() => None,
                ended => Some(ended),
            },
        )
    };

    let error = read(&shared.settings())
        .expect_err("4 to 6 are gone")
        .to_string();
    assert!(
        error.contains("offset 7") && error.contains("up to 4"),
        "{error}"
    );
    let accepting = Settings {
        accept_gap: true,
        ..shared.settings()
    };
    let records = read(&accepting).expect("the gap is accepted");
    assert_eq!(records[0].offset, 7);
}

#[test]
fn a_producer_that_failed_for_good_is_replaced_and_nothing_is_lost() {
    let kafka = MockCluster::new(1).expect("a mock");
    let topic = "tidewire.fatal";
    kafka.create_topic(topic, 2, 1).expect("a topic");
    let settings = Settings {
        bootstrap: Some(kafka.bootstrap_servers()),
        ..Settings::default()
    };
    let rules = vec![rule("fatal", false, Mode::Kafka)];
    let side = Side::open_at(settings, &FaultFs::new(6), rules, Ports::default());
    assert_eq!(side.wait_for_contact(topic), Contact::Good);

    // For the first record of a partition there is no way on from this: the client is fatal.
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    kafka.request_errors(RDKafkaApiKey::Produce, &[error]);
    for n in 0..10 {
        side.send(0, record(0, n, b"{}"));
    }

    let settled: Vec<_> = (0..10).map(|_| side.next_settled()).collect();
    let expected: Vec<_> = (0..10).map(|n| (n, Outcome::Durable)).collect();
    assert_eq!(settled, expected);
    until(|| (side.side.handle.state().rebuilt == 1).then_some(()));
}

#[test]
fn the_first_records_of_a_partition_are_in_kafka_and_in_order_when_a_request_fails() {
    let kafka = MockCluster::new(1).expect("a mock");
    let topic = "tidewire.believed";
    kafka.create_topic(topic, 2, 1).expect("a topic");
    let mut settings = Settings {
        bootstrap: Some(kafka.bootstrap_servers()),
        ..Settings::default()
    };
    // Each record is a request of its own, and two are under way together.
    let alone = ("batch.num.messages".to_owned(), "1".to_owned());
    settings.properties.extend([alone]);
    let rules = vec![rule("believed", false, Mode::Kafka)];
    let side = Side::open_at(settings.clone(), &FaultFs::new(9), rules, Ports::default());
    assert_eq!(side.wait_for_contact(topic), Contact::Good);
    kafka
        .broker_round_trip_time(1, Duration::from_millis(300))
        .expect("the mock has a broker");

    // Were the second request under way as well, it would be taken when the first fails in passing,
    // and the client would report both as delivered, although the first is in no log.
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    kafka.request_errors(RDKafkaApiKey::Produce, &[error]);
    side.send(0, record(0, 0, b"first"));
    side.send(0, record(0, 1, b"second"));

    let mut settled = [side.next_settled(), side.next_settled()];
    settled.sort_by_key(|(n, _)| *n);
    assert_eq!(settled, [(0, Outcome::Durable), (1, Outcome::Durable)]);
    assert_eq!(payloads_in(&settings, topic), [&b"first"[..], b"second"]);
}

/// What the first partition of a topic holds now.
fn payloads_in(settings: &Settings, topic: &str) -> Vec<Vec<u8>> {
    let mut config = settings.client();
    config
        .set("group.id", "payloads")
        .remove("batch.num.messages");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let (low, high) = consumer
        .fetch_watermarks(topic, 0, ANSWER)
        .expect("an answer");
    let mut assignment = rdkafka::TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, rdkafka::Offset::Beginning)
        .expect("it is a partition");
    consumer.assign(&assignment).expect("it is assigned");
    let next = || until(|| consumer.poll(Duration::from_millis(100)));
    (low..high)
        .map(|_| {
            let message = next().expect("a record");
            message.payload().unwrap_or_default().to_vec()
        })
        .collect()
}

#[test]
fn dead_letters_whose_topic_is_refused_are_kept_on_the_node() {
    let Some(shared) = or_skip() else { return };
    let dlq = "tidewire.lettered.dlq";
    check_topic(&shared.settings(), dlq, 3, 1 << 20, ANSWER).expect("created");
    let rules = vec![rule("lettered", true, Mode::Log)];
    let mut side = Side::open(&shared, &FaultFs::new(8), rules);
    let mut letters = side.side.dead_letters.take().expect("the store has some");
    let source = storage::log::StoredRecord {
        offset: 5,
        record: record(0, 1, b"no telemetry"),
    };

    // Before the first contact the spool takes them; from the refusal on this node's log does.
    assert!(matches!(side.wait_for_contact(dlq), Contact::Refused(_)));
    let (reason, incarnation) = (DeadLetterReason::Unparsable, 1 << 32);
    let is_new = letters.put(&source, incarnation, reason, "not JSON");
    assert!(is_new.expect("it is taken"));
    letters.flush().expect("it is kept");

    let mut kept = Vec::new();
    read_all(&side.letters, |_, letter| kept.push(letter)).expect("the log is whole");
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].offset, &kept[0].payload[..]),
        (5, &b"no telemetry"[..])
    );
}
