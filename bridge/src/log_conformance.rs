//! What every log must do, as a function that is run against each implementation.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use storage::log::{ContentType, Record, StoredRecord};

use crate::log::{
    AppendError, Consume, Log, Outcome, Port, PortId, Ports, Position, Submission, Ticket,
    memory_bytes,
};

/// Longest wait for a record that must come; a condition ends it, not this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks a log of at least two partitions that `open` opens empty at first and gives again, with
/// what it holds, after it was closed.
pub(crate) fn check(open: impl Fn(Ports) -> Arc<dyn Log>) {
    let ports = Ports::default();
    let log = open(ports.clone());
    let appender = Appender::new(&ports);
    gives_back_records_by_partition_in_order(&*log, &appender);
    reads_on_from_a_position(&*log);
    refuses_positions_that_it_never_had(&*log);
    settles_each_record_once_and_in_order(&*log, &appender);
    let (ends, incarnation) = (log.ends(), log.incarnation());
    log.close();
    refuses_after_close_and_gives_back(&*log, &appender);
    drop(log);

    let log = open(ports);
    assert_eq!(
        (log.ends(), log.incarnation()),
        (ends, incarnation),
        "a clean end loses nothing"
    );
    keeps_unread_records_whatever_is_released(&*log);
    log.close();
}

/// The record number `n`, of a partition.
pub(crate) fn record(partition: u16, n: u64) -> Record {
    Record {
        partition,
        key: Bytes::from(format!("device{partition}")),
        payload: Bytes::from(format!("payload {n}")),
        content_type: ContentType::Json,
        received_ms: 1_000 + n as i64,
        node: 3,
        connection_epoch: 4,
        packet_seq: n,
        retransmit: n.is_multiple_of(2),
        // A matter of this node alone: a log elsewhere does not keep it.
        droppable: false,
    }
}

/// Appends and hears of each record by its number.
struct Appender {
    port: PortId,
    settled: Receiver<(u64, Outcome)>,
}

struct Numbers(SyncSender<(u64, Outcome)>);

impl Port for Numbers {
    fn settled(&self, outcome: Outcome, tickets: Vec<Ticket>) {
        for ticket in tickets {
            let told = self.0.send((ticket.words[0], outcome));
            told.expect("the test waits");
        }
    }
}

impl Appender {
    fn new(ports: &Ports) -> Self {
        let (told, settled) = sync_channel(1_000);
        let port = ports.add(Arc::new(Numbers(told)));
        Self { port, settled }
    }

    fn submission(&self, records: Vec<Record>) -> Submission {
        let ticket = |record: &Record| {
            Some(Ticket {
                kind: 0,
                words: [record.packet_seq, 0],
            })
        };
        Submission {
            tickets: records.iter().map(ticket).collect(),
            records,
            port: self.port,
        }
    }

    fn begin(&self, log: &dyn Log, records: Vec<Record>) {
        let bytes = records.iter().map(memory_bytes).sum();
        assert!(log.room().reserve(bytes), "the log has room");
        let taken = log.append(self.submission(records));
        taken.expect("the log has room");
    }

    /// Appends and waits until all is durable.
    fn append(&self, log: &dyn Log, records: Vec<Record>) {
        let count = records.len();
        self.begin(log, records);
        for _ in 0..count {
            let (_, outcome) = self.settled.recv_timeout(PATIENCE).expect("it is settled");
            assert_eq!(outcome, Outcome::Durable);
        }
    }
}

fn read(consumer: &mut dyn Consume, count: usize) -> Vec<StoredRecord> {
    let mut read = Vec::new();
    while read.len() < count {
        let records = consumer.poll(1 << 20, PATIENCE).expect("the log is whole");
        assert!(
            !records.is_empty(),
            "{} of {count} records came",
            read.len()
        );
        read.extend(records);
    }
    assert_eq!(read.len(), count);
    read
}

fn gives_back_records_by_partition_in_order(log: &dyn Log, appender: &Appender) {
    let sent: Vec<Record> = (0..10).map(|n| record((n % 2) as u16, n)).collect();
    appender.append(log, sent[..4].to_vec());
    appender.append(log, sent[4..].to_vec());

    let read = read(
        &mut *log.consume(&[]).expect("an empty assignment reads all"),
        10,
    );

    assert_eq!(&log.ends()[..2], [5, 5]);
    for partition in 0..2 {
        let of = |record: &Record| record.partition == partition;
        let got: Vec<_> = read.iter().filter(|stored| of(&stored.record)).collect();
        let expected: Vec<_> = sent.iter().filter(|record| of(record)).collect();
        assert_eq!(
            got.iter().map(|stored| &stored.record).collect::<Vec<_>>(),
            expected
        );
        assert!(got.windows(2).all(|pair| pair[0].offset < pair[1].offset));
    }
}

fn reads_on_from_a_position(log: &dyn Log) {
    let at = |offset| {
        Some(Position {
            incarnation: log.incarnation(),
            offset,
        })
    };

    let read = read(
        &mut *log.consume(&[at(3), at(5)]).expect("both are there"),
        2,
    );

    let offsets: Vec<_> = read
        .iter()
        .map(|r| (r.record.partition, r.offset))
        .collect();
    assert_eq!(offsets, [(0, 3), (0, 4)]);
}

fn refuses_positions_that_it_never_had(log: &dyn Log) {
    let ahead = Position {
        incarnation: log.incarnation(),
        offset: 1_000,
    };
    assert!(is_refused(log, ahead), "an offset ahead of the end");
    let foreign = Position {
        incarnation: !log.incarnation(),
        offset: 0,
    };
    assert!(is_refused(log, foreign), "an offset of another log");
}

/// A log elsewhere refuses at its first contact, within a poll.
fn is_refused(log: &dyn Log, position: Position) -> bool {
    let Ok(mut consumer) = log.consume(&[Some(position)]) else {
        return true;
    };
    for _ in 0..100 {
        match consumer.poll(1, PATIENCE / 100) {
            Err(_) => return true,
            Ok(records) => assert!(records.is_empty(), "it reads from there"),
        }
    }
    false
}

fn settles_each_record_once_and_in_order(log: &dyn Log, appender: &Appender) {
    for n in 0..50 {
        appender.begin(log, vec![record(1, n)]);
    }

    let settled: Vec<_> = (0..50)
        .map(|_| appender.settled.recv_timeout(PATIENCE))
        .collect();

    let expected: Vec<_> = (0..50).map(|n| Ok((n, Outcome::Durable))).collect();
    assert_eq!(settled, expected);
    assert!(appender.settled.try_recv().is_err(), "nothing comes twice");
    // Who settles gives the room back behind it.
    for _ in 0..PATIENCE.as_millis() {
        if log.room().bytes() == 0 {
            return;
        }
        let nothing = appender.settled.recv_timeout(Duration::from_millis(1));
        assert!(nothing.is_err(), "nothing comes twice");
    }
    panic!("what is durable takes {} bytes of room", log.room().bytes());
}

fn refuses_after_close_and_gives_back(log: &dyn Log, appender: &Appender) {
    let sent = vec![record(0, 1)];

    let refused = log.append(appender.submission(sent.clone()));

    let (error, back) = refused.expect_err("a closed log takes nothing");
    assert_eq!((error, back.records), (AppendError::Closed, sent));
    assert!(back.tickets[0].is_some());
}

fn keeps_unread_records_whatever_is_released(log: &dyn Log) {
    log.release(&[(0, 5), (1, 5)], i64::MAX);

    let at = |offset| {
        Some(Position {
            incarnation: log.incarnation(),
            offset,
        })
    };
    let read = read(
        &mut *log
            .consume(&[at(5), at(5)])
            .expect("nothing unread is gone"),
        50,
    );

    assert!(read.iter().all(|stored| stored.record.partition == 1));
}

#[test]
fn the_embedded_log_conforms() {
    let fs = storage::fs::FaultFs::new(0);
    check(|ports| {
        let config = storage::log::Config {
            partitions: 2,
            ..storage::log::Config::default()
        };
        let folder = std::path::Path::new("/log");
        let log = storage::log::EmbeddedLog::open(Arc::new(fs.clone()), folder, config, |fatal| {
            panic!("{fatal}")
        });
        let log = log.expect("the log opens");
        Arc::new(crate::embedded::Embedded::new(log, 3, ports, 1 << 20))
    });
}
