//! What owners get of a log.

use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, channel, sync_channel};

use bytes::Bytes;
use runtime::ManualClock;
use storage::fs::FaultFs;
use storage::log::{Config, ContentType, Record};

use super::*;
use crate::buckets::TableRow;

/// Longest wait for an answer that must come; a condition ends it, not this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

struct Node {
    log: EmbeddedLog,
    reader: Reader,
    clock: ManualClock,
    table: watch::Sender<Option<Arc<Table>>>,
}

/// A log of three buckets: the first is this node's, 1, the others those of node 2 under epoch 5.
fn node(mut config: Config) -> Node {
    let fs = Arc::new(FaultFs::new(1));
    config.partitions = 3;
    let log = EmbeddedLog::open(fs, Path::new("/log"), config, |fatal| panic!("{fatal}"));
    let log = log.expect("it opens");
    let row = |owner| TableRow {
        owner,
        epoch: 5,
        holds_rows: true,
        moving_to: None,
    };
    let rows = vec![row(1), row(2), row(2)];
    let members = [1, 2].into();
    let table = watch::Sender::new(Some(Arc::new(Table { rows, members })));
    let clock = ManualClock::at(1_000);
    let reader = Reader::start(
        log.clone(),
        table.subscribe(),
        Arc::new(clock.clone()),
        || {},
    );
    Node {
        log,
        reader: reader.expect("a thread"),
        clock,
        table,
    }
}

impl Node {
    fn append(&self, bucket: u16, payload: &str) {
        let record = Record {
            partition: bucket,
            key: Bytes::from_static(b"car"),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            content_type: ContentType::Json,
            received_ms: 1,
            node: 1,
            connection_epoch: 1,
            packet_seq: 1,
            retransmit: false,
            droppable: false,
        };
        let (done, durable) = sync_channel(1);
        let done = move |result| done.send(result).expect("the test waits");
        self.log.append(vec![record], done).expect("there is room");
        durable.recv().expect("it ends").expect("it is durable");
    }

    fn ask(&self, from: u32, buckets: Vec<PullBucket>) -> Receiver<Bytes> {
        let (answer, answered) = channel();
        let pull = Pull {
            buckets,
            bytes_max: 1 << 20,
        };
        let reply = Box::new(move |bytes| drop(answer.send(bytes)));
        self.reader.pull(from, pull, reply);
        answered
    }

    /// Lets time pass until there is an answer.
    fn in_time(&self, answered: &Receiver<Bytes>) -> Pulled {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if let Ok(bytes) = answered.recv_timeout(LOOK) {
                return Pulled::decode(&bytes).expect("an answer's bytes");
            }
            // The thread may have taken the question only now.
            self.clock.advance_ms(WAIT.as_millis() as u64);
        }
        panic!("no answer");
    }

    fn pull(&self, buckets: Vec<PullBucket>) -> Pulled {
        let answered = self.ask(2, buckets).recv_timeout(PATIENCE);
        Pulled::decode(&answered.expect("an answer")).expect("an answer's bytes")
    }

    fn from(&self, bucket: u16, offset: u64) -> PullBucket {
        let position = Position {
            incarnation: self.log.incarnation().get(),
            offset,
        };
        wanted(bucket, Wanted::From(position))
    }
}

fn wanted(bucket: u16, wanted: Wanted) -> PullBucket {
    PullBucket {
        bucket,
        epoch: 5,
        wanted,
        sealed: None,
    }
}

/// Bucket, offset and payload of what came.
fn shown(pulled: &Pulled) -> Vec<(u16, u64, String)> {
    let one = |one: &storage::log::StoredRecord| {
        let payload = String::from_utf8_lossy(&one.record.payload).into_owned();
        (one.record.partition, one.offset, payload)
    };
    pulled.records.iter().map(one).collect()
}

#[test]
fn an_owner_gets_the_records_of_its_buckets_from_where_it_is() {
    let node = node(Config::default());
    for n in 0..3 {
        for bucket in 0..3 {
            node.append(bucket, &format!("{bucket}.{n}"));
        }
    }

    let pulled = node.pull(vec![node.from(1, 1), wanted(2, Wanted::All)]);

    let expected = [
        (2, 0, "2.0"),
        (1, 1, "1.1"),
        (2, 1, "2.1"),
        (1, 2, "1.2"),
        (2, 2, "2.2"),
    ];
    assert_eq!(
        shown(&pulled),
        expected.map(|(b, o, text)| (b, o, text.to_owned()))
    );
    assert_eq!(pulled.ends, [(1, 3), (2, 3)]);
    // It goes on with what it read, and goes back when an answer was lost.
    node.append(1, "1.3");
    let from = |offset| node.pull(vec![node.from(1, offset), node.from(2, 3)]);
    assert_eq!(shown(&from(3)), [(1, 3, "1.3".to_owned())]);
    assert_eq!(shown(&from(2)).len(), 2);
}

#[test]
fn a_question_that_finds_nothing_waits_for_the_next_record() {
    let node = node(Config::default());
    let answered = node.ask(2, vec![wanted(1, Wanted::All)]);
    node.append(0, "not its own");
    node.append(1, "hello");

    let pulled = answered.recv_timeout(PATIENCE).expect("an answer");

    let pulled = Pulled::decode(&pulled).expect("its bytes");
    assert_eq!(shown(&pulled), [(1, 0, "hello".to_owned())]);
}

#[test]
fn a_question_that_finds_nothing_in_its_time_is_answered_with_the_ends() {
    let node = node(Config::default());
    let answered = node.ask(2, vec![wanted(1, Wanted::All)]);

    let pulled = node.in_time(&answered);

    assert_eq!((pulled.records, pulled.ends), (vec![], vec![(1, 0)]));
}

#[test]
fn a_later_question_of_a_node_takes_the_place_of_one_that_waits() {
    let node = node(Config::default());
    let first = node.ask(2, vec![wanted(1, Wanted::All)]);
    let second = node.ask(2, vec![wanted(2, Wanted::All)]);
    node.append(2, "hello");

    second.recv_timeout(PATIENCE).expect("an answer");

    assert_eq!(first.try_recv(), Err(TryRecvError::Disconnected));
}

#[test]
fn nobody_gets_or_releases_what_the_table_does_not_give_it() {
    let node = node(Config {
        segment_bytes: 4096,
        read_retention_bytes: 0,
        ..Config::default()
    });
    node.append(1, "hello");
    let mut stale = wanted(1, Wanted::All);
    stale.epoch = 4;
    stale.sealed = Some(Position {
        incarnation: node.log.incarnation().get(),
        offset: 1,
    });
    for (from, bucket) in [
        (2, stale),
        (3, wanted(1, Wanted::All)),
        (2, wanted(0, Wanted::All)),
    ] {
        let answered = node.ask(from, vec![bucket]);
        let pulled = node.in_time(&answered);
        assert_eq!((pulled.records, pulled.ends), (vec![], vec![]));
    }
    assert_eq!(node.reader.progress().get(&3).map(BTreeMap::len), Some(0));

    // Once the table gives it the bucket, the same question is answered.
    let row = TableRow {
        owner: 3,
        epoch: 5,
        holds_rows: true,
        moving_to: None,
    };
    let table = Table {
        rows: vec![row; 3],
        members: [1, 2, 3].into(),
    };
    node.table.send_replace(Some(Arc::new(table)));
    let answered = node
        .ask(3, vec![wanted(1, Wanted::All)])
        .recv_timeout(PATIENCE);
    let pulled = Pulled::decode(&answered.expect("an answer")).expect("its bytes");
    assert_eq!(shown(&pulled), [(1, 0, "hello".to_owned())]);
}

#[test]
fn a_bucket_without_rows_gives_a_sign_and_no_record() {
    let node = node(Config::default());
    node.append(1, "hello");

    let pulled = node.pull(vec![wanted(1, Wanted::Sign), wanted(2, Wanted::Sign)]);

    assert_eq!((pulled.signs, pulled.records), (vec![1], vec![]));
}

#[test]
fn a_place_that_the_log_never_had_is_refused_and_the_other_buckets_go_on() {
    let node = node(Config::default());
    node.append(1, "hello");

    let pulled = node.pull(vec![node.from(2, 9), node.from(1, 0)]);

    assert_eq!(shown(&pulled), [(1, 0, "hello".to_owned())]);
    let [(bucket, why)] = &pulled.refused[..] else {
        panic!("one is refused: {pulled:?}");
    };
    assert_eq!(*bucket, 2);
    assert!(why.contains("offset 9 of partition 2"), "{why}");
}

#[test]
fn a_log_goes_only_as_far_as_the_owners_have_sealed_it() {
    let node = node(Config {
        segment_bytes: 4096,
        read_retention_bytes: 0,
        ..Config::default()
    });
    let long = "x".repeat(1_000);
    for _ in 0..40 {
        node.append(0, &long);
        node.append(1, &long);
    }
    let full = node.log.metrics().disk_bytes;
    // This node has sealed its own, the other one nothing.
    node.log.release(&[(0, 40)], 1_000);
    assert_eq!(node.log.start(1), 0);

    let mut bucket = node.from(1, 39);
    bucket.sealed = Some(Position {
        incarnation: node.log.incarnation().get(),
        offset: 20,
    });
    node.pull(vec![bucket]);

    let start = node.log.start(1);
    assert!(start > 0 && start <= 20, "{start}");
    assert!(node.log.metrics().disk_bytes < full);
}
