//! What every log must do, as a function that is run against each implementation.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use storage::log::{ContentType, Record, StoredRecord};

use crate::log::{AppendError, Consume, Log, Position};

/// Longest wait for a record that must come; a condition ends it, not this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks a log of at least two partitions that `open` opens empty at first and gives again, with
/// what it holds, after it was closed.
pub(crate) fn check(open: impl Fn() -> Arc<dyn Log>) {
    let log = open();
    gives_back_records_by_partition_in_order(&*log);
    reads_on_from_a_position(&*log);
    refuses_positions_that_it_never_had(&*log);
    completes_each_append_once_and_in_order(&*log);
    let (ends, incarnation) = (log.ends(), log.incarnation());
    log.close();
    refuses_after_close_and_gives_back(&*log);
    drop(log);

    let log = open();
    assert_eq!(
        (log.ends(), log.incarnation()),
        (ends, incarnation),
        "a clean end loses nothing"
    );
    keeps_unread_records_whatever_is_released(&*log);
    log.close();
}

fn record(partition: u16, n: u64) -> Record {
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
    }
}

fn append(log: &dyn Log, records: Vec<Record>) {
    let (told, durable) = sync_channel(1);
    log.append(
        records,
        Box::new(move |ok| told.send(ok).expect("the test waits")),
    )
    .expect("the log has room");
    assert_eq!(durable.recv_timeout(PATIENCE), Ok(true));
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

fn gives_back_records_by_partition_in_order(log: &dyn Log) {
    let sent: Vec<Record> = (0..10).map(|n| record((n % 2) as u16, n)).collect();
    append(log, sent[..4].to_vec());
    append(log, sent[4..].to_vec());

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
    assert!(
        log.consume(&[Some(ahead)]).is_err(),
        "an offset ahead of the end"
    );
    let foreign = Position {
        incarnation: !log.incarnation(),
        offset: 0,
    };
    assert!(
        log.consume(&[Some(foreign)]).is_err(),
        "an offset of another log"
    );
}

fn completes_each_append_once_and_in_order(log: &dyn Log) {
    let (told, order) = sync_channel(100);
    for n in 0..50 {
        let told = told.clone();
        let appended = Box::new(move |ok| told.send((n, ok)).expect("the test waits"));
        log.append(vec![record(1, n)], appended)
            .expect("the log has room");
    }
    drop(told);

    let completed: Vec<_> = order.iter().collect();

    assert_eq!(completed, (0..50).map(|n| (n, true)).collect::<Vec<_>>());
}

fn refuses_after_close_and_gives_back(log: &dyn Log) {
    let sent = vec![record(0, 1)];

    let refused = log.append(sent.clone(), Box::new(|_| panic!("never called")));

    let (error, records) = refused.expect_err("a closed log takes nothing");
    assert_eq!((error, records), (AppendError::Closed, sent));
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
    check(|| {
        let config = storage::log::Config {
            partitions: 2,
            ..storage::log::Config::default()
        };
        let folder = std::path::Path::new("/log");
        let log = storage::log::EmbeddedLog::open(Arc::new(fs.clone()), folder, config, |fatal| {
            panic!("{fatal}")
        });
        Arc::new(crate::embedded::Embedded::new(log.expect("the log opens")))
    });
}
