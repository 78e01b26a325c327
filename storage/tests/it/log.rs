//! The embedded log as its users see it.

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Fs, Operation, RealFs};
use tidewire_storage::log::{
    AppendError, AssignError, Config, ContentType, EmbeddedLog, Incarnation, OpenError, Reason,
    Record, Start, StoredRecord,
};

pub(crate) const FOLDER: &str = "/data/log";

/// Long enough for any machine; a test that waits so long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn records_come_back_unchanged_with_dense_offsets_from_zero() {
    let log = open(&FaultFs::new(1), small());
    let sent = vec![record(0, 1, 20), record(1, 2, 0), record(0, 3, 300)];

    append(&log, sent.clone());
    let stored = read_all(&log);

    let offsets: Vec<u64> = stored.iter().map(|stored| stored.offset).collect();
    let records: Vec<Record> = stored.into_iter().map(|stored| stored.record).collect();
    assert_eq!(offsets, [0, 0, 1]);
    assert_eq!(records, sent);
    assert_eq!(log.ends(), [2, 1, 0, 0]);
}

#[test]
fn records_come_back_after_a_restart_over_many_segments() {
    let fs = FaultFs::new(2);
    let log = open(&fs, small());
    for id in 0..200 {
        append(&log, vec![record((id % 3) as u16, id, 150)]);
    }
    log.close();
    let segments = segment_names(&fs);

    let log = open(&fs, small());
    let stored = read_all(&log);

    assert!(segments.len() > 5, "{segments:?}");
    assert_eq!(ids(&stored), (0..200).collect::<Vec<_>>());
    assert_eq!(log.ends(), [67, 67, 66, 0]);
    append(&log, vec![record(3, 200, 10)]);
    assert_eq!(log.ends(), [67, 67, 66, 1]);
}

#[test]
fn a_consumer_begins_at_any_offset_of_its_partitions_only() {
    let fs = FaultFs::new(3);
    let log = open(&fs, small());
    for id in 0..120 {
        append(&log, vec![record((id % 4) as u16, id, 150)]);
    }

    for offset in 0..=30 {
        let mut consumer = log.consumer();
        let starts = vec![start(&log, 1, offset), start(&log, 2, 30)];
        consumer.assign(starts).expect("the offsets exist");
        let stored = poll_all(&mut consumer);
        let expected: Vec<u64> = (offset..30).map(|offset| 4 * offset + 1).collect();
        assert_eq!(ids(&stored), expected);
        assert_eq!(consumer.positions(), [(1, 30), (2, 30)]);
    }
}

#[test]
fn a_poll_gives_at_least_one_record_and_goes_on_where_it_stopped() {
    let log = open(&FaultFs::new(4), small());
    append(&log, (0..10).map(|id| record(0, id, 100)).collect());
    let mut consumer = log.consumer();
    consumer.assign(vec![start(&log, 0, 0)]).expect("in range");

    for id in 0..10 {
        let stored = consumer.poll(1, Duration::ZERO).expect("readable");
        assert_eq!(ids(&stored), [id]);
    }
    assert_eq!(consumer.poll(1, Duration::ZERO).expect("readable"), []);
}

#[test]
fn a_waiting_consumer_and_a_waker_hear_of_new_records() {
    let log = open(&FaultFs::new(5), small());
    let mut consumer = log.consumer();
    consumer.assign(vec![start(&log, 0, 0)]).expect("in range");
    let (woken, wakes) = mpsc::sync_channel(64);
    let woken = Mutex::new(woken);
    let guard = log.on_readable(move || {
        woken
            .lock()
            .expect("unpoisoned")
            .send(())
            .expect("the test listens");
    });
    let reader = std::thread::spawn(move || consumer.poll(1 << 20, DEADLINE));

    append(&log, vec![record(0, 7, 10)]);

    let stored = reader.join().expect("no panic").expect("readable");
    assert_eq!(ids(&stored), [7]);
    wakes.recv_timeout(DEADLINE).expect("the waker is called");
    drop(guard);
    append(&log, vec![record(0, 8, 10)]);
    assert!(wakes.try_recv().is_err());
}

#[test]
fn a_caught_up_consumer_never_reads_the_disk() {
    let fs = FaultFs::new(6);
    let log = open(&fs, small());
    let mut consumer = log.consumer();
    consumer.assign(vec![start(&log, 0, 0)]).expect("in range");
    let fault = Fault {
        operation: Some(Operation::Read),
        path: String::new(),
        skip: 0,
        kind: FaultKind::Io,
    };
    fs.inject(fault);

    for id in 0..50 {
        append(&log, vec![record(0, id, 200)]);
        let stored = consumer.poll(1 << 20, DEADLINE).expect("from memory");
        assert_eq!(ids(&stored), [id]);
    }
}

#[test]
fn the_tail_cache_keeps_its_bound_and_older_records_come_from_the_disk() {
    let fs = FaultFs::new(7);
    let config = Config {
        tail_cache_bytes: 1000,
        ..small()
    };
    let log = open(&fs, config);
    for id in 0..60 {
        append(&log, vec![record(0, id, 200)]);
    }

    let stored = read_all(&log);

    assert_eq!(ids(&stored), (0..60).collect::<Vec<_>>());
    assert!(log.metrics().cached_bytes <= 1000);
    assert!(log.metrics().cached_bytes > 0);
}

#[test]
fn appends_of_several_threads_keep_the_order_of_each() {
    let log = open(&FaultFs::new(8), small());
    let producers: Vec<_> = (0..4_u64)
        .map(|producer| {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..100 {
                    append(&log, vec![record(0, producer * 1000 + n, 10)]);
                }
            })
        })
        .collect();
    for producer in producers {
        producer.join().expect("no panic");
    }

    let found = ids(&read_all(&log));

    assert_eq!(found.len(), 400);
    for producer in 0..4 {
        let own: Vec<u64> = found
            .iter()
            .copied()
            .filter(|id| id / 1000 == producer)
            .collect();
        let expected: Vec<u64> = (0..100).map(|n| producer * 1000 + n).collect();
        assert_eq!(own, expected);
    }
}

#[test]
fn what_waits_while_one_group_is_fsynced_shares_the_next_fsync() {
    let log = open(&FaultFs::new(9), small());
    let (entered, inside) = mpsc::sync_channel(64);
    let (open_gate, gate) = mpsc::sync_channel::<()>(1);
    let blocked = move |result: Result<(), AppendError>| {
        result.expect("fsynced");
        entered.send(()).expect("the test listens");
        gate.recv().expect("the test opens the gate");
    };
    log.append(vec![record(0, 0, 10)], blocked)
        .expect("there is room");
    inside.recv_timeout(DEADLINE).expect("the writer runs");
    let fsyncs = log.metrics().fsyncs;

    let (done, completions) = mpsc::sync_channel(64);
    for id in 1..=10 {
        let done = done.clone();
        log.append(vec![record(0, id, 10)], move |result| {
            done.send((id, result)).expect("the test listens");
        })
        .expect("there is room");
    }
    open_gate.send(()).expect("the writer waits");
    let completed: Vec<_> = (0..10)
        .map(|_| completions.recv_timeout(DEADLINE).expect("completed"))
        .collect();

    assert_eq!(log.metrics().fsyncs, fsyncs + 1);
    assert_eq!(log.metrics().group_records_max, 10);
    assert_eq!(
        completed,
        (1..=10).map(|id| (id, Ok(()))).collect::<Vec<_>>()
    );
}

#[test]
fn a_full_queue_hands_everything_back_and_takes_it_later() {
    let config = Config {
        queue_bytes_limit: 2000,
        ..small()
    };
    let log = open(&FaultFs::new(10), config);
    let (entered, inside) = mpsc::sync_channel(64);
    let (open_gate, gate) = mpsc::sync_channel::<()>(1);
    log.append(vec![record(0, 0, 10)], move |_| {
        entered.send(()).expect("the test listens");
        gate.recv().expect("the test opens the gate");
    })
    .expect("there is room");
    inside.recv_timeout(DEADLINE).expect("the writer runs");
    log.append(vec![record(0, 1, 1000)], |_| {})
        .expect("there is room");

    let refused = log
        .append(vec![record(0, 2, 1000)], |_| {})
        .expect_err("the queue is full");

    assert_eq!(refused.reason, Reason::Full);
    assert_eq!(refused.records, [record(0, 2, 1000)]);
    open_gate.send(()).expect("the writer waits");
    flush(&log);
    append(&log, refused.records);
    assert_eq!(ids(&read_all(&log)), [0, 1, 2]);
}

#[test]
fn a_batch_above_the_queue_limit_is_taken_by_an_empty_queue() {
    let config = Config {
        queue_bytes_limit: 100,
        ..small()
    };
    let log = open(&FaultFs::new(11), config);
    append(&log, vec![record(0, 0, 20_000)]);
    append(&log, vec![record(0, 1, 10)]);
    assert_eq!(ids(&read_all(&log)), [0, 1]);
}

#[test]
fn at_its_limit_the_log_refuses_until_read_records_are_released() {
    let config = Config {
        log_bytes_limit: 12 << 10,
        ..small()
    };
    let log = open(&FaultFs::new(12), config);
    let mut id = 0;
    let refused = loop {
        match try_append(&log, vec![record(0, id, 300)]) {
            Ok(()) => id += 1,
            Err(reason) => break reason,
        }
        assert!(id < 1000, "the limit never comes");
    };
    assert_eq!(refused, Reason::OverLimit);
    assert_eq!(log.end(0), id);

    assert_eq!(log.unreleased(), id);
    log.release(&[(0, 3)], 0);
    assert_eq!(log.unreleased(), id - 3);
    assert_eq!(
        try_append(&log, vec![record(0, id, 300)]),
        Err(Reason::OverLimit),
        "unread records stay"
    );
    log.release(&[(0, id)], 0);
    assert_eq!(log.unreleased(), 0);

    assert_eq!(try_append(&log, vec![record(0, id, 300)]), Ok(()));
    assert!(log.start(0) > 0);
    assert!(log.metrics().disk_bytes < 12 << 10);
}

#[test]
fn read_records_stay_until_their_age_or_size_is_reached_and_unread_ones_stay() {
    let config = Config {
        read_retention: Duration::from_millis(100),
        read_retention_bytes: 9000,
        ..small()
    };
    let fs = FaultFs::new(13);
    let log = open(&fs, config.clone());
    for id in 0..60 {
        append(&log, vec![record((id % 2) as u16, id, 300)]);
    }
    let disk_bytes = log.metrics().disk_bytes;

    // Partition 1 is unread: nothing goes, however old.
    log.release(&[(0, 30)], 1_000_000);
    assert_eq!((log.start(0), log.start(1)), (0, 0));
    // Read and young: only the excess of size goes.
    log.release(&[(1, 30)], 0);
    let kept = log.metrics().disk_bytes;
    assert!(log.start(0) > 0);
    assert!(
        disk_bytes > 15_000 && kept < 14_000 && kept > 4000,
        "{kept}"
    );
    // Read and old: all but the segment being written goes.
    log.release(&[], 1_000_000);
    assert!(log.metrics().disk_bytes <= 4096);

    assert_eq!(log.ends(), [30, 30, 0, 0]);
    let first = log.start(0);
    log.close();
    let log = open(&fs, config);
    assert!(log.start(0) <= first);
    assert_eq!(log.ends(), [30, 30, 0, 0]);
}

#[test]
fn released_segments_leave_the_disk() {
    let fs = FaultFs::new(14);
    let log = open(&fs, small());
    for id in 0..60 {
        append(&log, vec![record(0, id, 300)]);
    }
    assert!(segment_names(&fs).len() > 3);

    log.release(&[(0, 60)], i64::MAX);

    // The remover is a thread of its own: wait for what it does.
    while segment_names(&fs).len() > 1 {
        std::thread::yield_now();
    }
    append(&log, vec![record(0, 60, 300)]);
    log.close();
    assert_eq!(open(&fs, small()).end(0), 61);
}

#[test]
fn a_start_below_the_released_or_above_the_end_is_refused() {
    let log = open(&FaultFs::new(15), small());
    for id in 0..60 {
        append(&log, vec![record(0, id, 300)]);
    }
    log.release(&[(0, 60)], i64::MAX);
    let first = log.start(0);
    let mut consumer = log.consumer();

    assert_eq!(
        consumer.assign(vec![start(&log, 0, first - 1)]),
        Err(AssignError::BeforeStart {
            partition: 0,
            start: first - 1,
            first
        })
    );
    assert_eq!(
        consumer.assign(vec![start(&log, 0, 61)]),
        Err(AssignError::AheadOfEnd {
            partition: 0,
            start: 61,
            end: 60
        })
    );
    assert_eq!(
        consumer.assign(vec![start(&log, 4, 0)]),
        Err(AssignError::NoPartition {
            partition: 4,
            partitions: 4
        })
    );
    let other = Incarnation::new(log.incarnation().get() ^ 1 << 40);
    assert_eq!(
        consumer.assign(vec![Start {
            partition: 0,
            offset: first,
            incarnation: Some(other)
        }]),
        Err(AssignError::OtherLog {
            partition: 0,
            known: other,
            log: log.incarnation()
        })
    );
}

#[test]
fn a_consumer_whose_read_segments_are_released_goes_on() {
    let config = Config {
        tail_cache_bytes: 0,
        ..small()
    };
    let log = open(&FaultFs::new(16), config);
    let mut consumer = log.consumer();
    consumer.assign(vec![start(&log, 0, 0)]).expect("in range");
    append(&log, vec![record(0, 0, 300)]);
    assert_eq!(ids(&poll_all(&mut consumer)), [0]);
    // Another partition fills segments that are all released before the consumer looks again.
    for id in 1..60 {
        append(&log, vec![record(1, id, 300)]);
    }
    log.release(&[(0, 1), (1, 59)], i64::MAX);
    append(&log, vec![record(0, 60, 300)]);

    assert_eq!(ids(&poll_all(&mut consumer)), [60]);
}

#[test]
fn a_torn_tail_is_cut_and_begins_a_new_incarnation_that_old_offsets_are_held_against() {
    let fs = FaultFs::new(17);
    let log = open(&fs, small());
    let first = log.incarnation();
    append(&log, vec![record(0, 0, 50), record(0, 1, 50)]);
    let fault = Fault {
        operation: Some(Operation::Write),
        path: ".seg".to_owned(),
        skip: 0,
        kind: FaultKind::TornWrite,
    };
    fs.inject(fault);
    assert_eq!(
        try_done(&log, vec![record(0, 2, 1500)]),
        Err(AppendError::Failed)
    );
    drop(log);

    let log = open(&fs.kill(), small());

    assert_eq!(ids(&read_all(&log)), [0, 1]);
    assert_eq!(log.incarnation().get(), first.get() + 1);
    append(&log, (2..6).map(|id| record(0, id, 10)).collect());
    let mut consumer = log.consumer();
    let known = |offset| {
        vec![Start {
            partition: 0,
            offset,
            incarnation: Some(first),
        }]
    };
    assert_eq!(consumer.assign(known(2)), Ok(()));
    assert_eq!(
        consumer.assign(known(3)),
        Err(AssignError::AheadOfEnd {
            partition: 0,
            start: 3,
            end: 2
        })
    );
}

#[test]
fn a_failed_fsync_refuses_everything_after_it_and_says_so_once() {
    let fs = FaultFs::new(18);
    let (fatal, fatals) = mpsc::sync_channel(64);
    let log = EmbeddedLog::open(
        Arc::new(fs.clone()),
        Path::new(FOLDER),
        small(),
        move |why| {
            fatal.send(why.cause).expect("the test listens");
        },
    )
    .expect("an empty disk");
    append(&log, vec![record(0, 0, 10)]);
    let fault = Fault {
        operation: Some(Operation::SyncData),
        path: ".seg".to_owned(),
        skip: 0,
        kind: FaultKind::Io,
    };
    fs.inject(fault);

    assert_eq!(
        try_done(&log, vec![record(0, 1, 10)]),
        Err(AppendError::Failed)
    );

    assert_eq!(
        try_append(&log, vec![record(0, 2, 10)]),
        Err(Reason::Closed)
    );
    let cause = fatals.recv_timeout(DEADLINE).expect("told");
    assert!(
        cause.contains("cannot sync /data/log/0000000000000001.seg"),
        "{cause}"
    );
    assert_eq!(
        ids(&read_all(&log)),
        [0],
        "readers never see what was not fsynced"
    );
    drop(log);
    assert!(fatals.recv().is_err(), "told once");
}

#[test]
fn a_full_disk_refuses_without_a_trace_and_takes_the_same_records_later() {
    let fs = FaultFs::new(19);
    let log = open(&fs, small());
    append(&log, vec![record(0, 0, 10)]);
    fs.limit_bytes(Some(6000));
    let mut id = 1;
    let refused = loop {
        match try_done(&log, vec![record(0, id, 300)]) {
            Ok(()) => id += 1,
            Err(error) => break error,
        }
        assert!(id < 1000, "the disk never fills");
    };
    assert_eq!(refused, AppendError::NoSpace);
    assert_eq!(log.end(0), id);

    fs.limit_bytes(None);
    append(&log, vec![record(0, id, 300)]);

    assert_eq!(ids(&read_all(&log)), (0..=id).collect::<Vec<_>>());
    log.close();
    assert_eq!(
        ids(&read_all(&open(&fs, small()))),
        (0..=id).collect::<Vec<_>>()
    );
}

#[test]
fn another_number_of_partitions_is_refused_by_both_numbers() {
    let fs = FaultFs::new(20);
    open(&fs, small()).close();
    let config = Config {
        partitions: 8,
        ..small()
    };
    let refused = try_open(&fs, config).expect_err("the number is fixed");
    assert!(
        refused
            .to_string()
            .contains("the log has 4 partitions, not 8"),
        "{refused}"
    );
}

#[test]
fn a_limit_below_two_segments_is_refused() {
    let config = Config {
        log_bytes_limit: 8191,
        ..small()
    };
    let refused = try_open(&FaultFs::new(21), config).expect_err("it could never be freed");
    assert!(matches!(refused, OpenError::Config(_)), "{refused}");
}

#[test]
fn everything_queued_before_the_close_is_written_and_later_appends_are_refused() {
    let fs = FaultFs::new(22);
    let log = open(&fs, small());
    let (done, completions) = mpsc::sync_channel(64);
    for id in 0..50 {
        let done = done.clone();
        log.append(vec![record(0, id, 10)], move |result| {
            done.send(result).expect("the test listens");
        })
        .expect("there is room");
    }

    log.close();

    assert_eq!(completions.try_iter().collect::<Vec<_>>(), vec![Ok(()); 50]);
    assert_eq!(
        try_done(&log, vec![record(0, 50, 10)]),
        Err(AppendError::Failed)
    );
    assert_eq!(ids(&read_all(&log)), (0..50).collect::<Vec<_>>());
    drop(log);
    assert_eq!(open(&fs, small()).end(0), 50);
}

#[test]
fn the_log_works_on_the_file_system_of_the_machine() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("made/by/the/log");
    let real = || -> Result<EmbeddedLog, OpenError> {
        EmbeddedLog::open(Arc::new(RealFs), &path, small(), |why| panic!("{why}"))
    };
    let log = real().expect("an empty folder");
    for id in 0..100 {
        append(&log, vec![record((id % 4) as u16, id, 200)]);
    }

    let taken = real().expect_err("one owner");
    let named = format!("process {}", std::process::id());
    assert!(taken.to_string().contains(&named), "{taken}");
    assert!(taken.to_string().contains("made/by/the/log"), "{taken}");
    log.release(&[(0, 10), (1, 10), (2, 10), (3, 10)], i64::MAX);
    log.close();

    let log = real().expect("let go by the close");
    let found = ids(&read_all(&log));
    let first = 100 - found.len() as u64;
    assert_eq!(found, (first..100).collect::<Vec<_>>());
}

// ---

pub(crate) fn small() -> Config {
    Config {
        partitions: 4,
        segment_bytes: 4096,
        queue_bytes_limit: 1 << 20,
        log_bytes_limit: 1 << 30,
        tail_cache_bytes: 64 << 10,
        ..Config::default()
    }
}

fn try_open(fs: &FaultFs, config: Config) -> Result<EmbeddedLog, OpenError> {
    EmbeddedLog::open(Arc::new(fs.clone()), Path::new(FOLDER), config, |_| {})
}

fn open(fs: &FaultFs, config: Config) -> EmbeddedLog {
    try_open(fs, config).expect("the disk is sound")
}

/// A record with its id as packet number, and a payload that lz4 cannot shrink.
pub(crate) fn record(partition: u16, id: u64, payload_bytes: usize) -> Record {
    let mut random = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let payload: Vec<u8> = (0..payload_bytes)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 24) as u8
        })
        .collect();
    Record {
        partition,
        key: Bytes::from(format!("device-{partition}")),
        payload: payload.into(),
        content_type: ContentType::Json,
        received_ms: id.cast_signed(),
        node: 1,
        connection_epoch: 5,
        packet_seq: id,
        retransmit: id.is_multiple_of(7),
        droppable: id.is_multiple_of(5),
    }
}

pub(crate) fn ids(stored: &[StoredRecord]) -> Vec<u64> {
    stored
        .iter()
        .map(|stored| stored.record.packet_seq)
        .collect()
}

fn try_done(log: &EmbeddedLog, records: Vec<Record>) -> Result<(), AppendError> {
    let (done, completion) = mpsc::sync_channel(64);
    log.append(records, move |result| {
        done.send(result).expect("the test listens");
    })
    .map_err(|refused| {
        assert_eq!(refused.reason, Reason::Closed);
        AppendError::Failed
    })?;
    completion.recv_timeout(DEADLINE).expect("completed")
}

fn try_append(log: &EmbeddedLog, records: Vec<Record>) -> Result<(), Reason> {
    let (done, completion) = mpsc::sync_channel(64);
    log.append(records, move |result| {
        done.send(result).expect("the test listens");
    })
    .map_err(|refused| refused.reason)?;
    completion
        .recv_timeout(DEADLINE)
        .expect("completed")
        .expect("fsynced");
    Ok(())
}

fn append(log: &EmbeddedLog, records: Vec<Record>) {
    try_append(log, records).expect("there is room");
}

fn flush(log: &EmbeddedLog) {
    append(log, Vec::new());
}

fn start(log: &EmbeddedLog, partition: u16, offset: u64) -> Start {
    Start {
        partition,
        offset,
        incarnation: Some(log.incarnation()),
    }
}

fn read_all(log: &EmbeddedLog) -> Vec<StoredRecord> {
    let mut consumer = log.consumer();
    let starts = (0..log.partitions())
        .map(|partition| start(log, partition, log.start(partition)))
        .collect();
    consumer.assign(starts).expect("the starts exist");
    poll_all(&mut consumer)
}

fn poll_all(consumer: &mut tidewire_storage::log::Consumer) -> Vec<StoredRecord> {
    let mut stored = Vec::new();
    loop {
        let more = consumer.poll(1000, Duration::ZERO).expect("readable");
        if more.is_empty() {
            return stored;
        }
        stored.extend(more);
    }
}

fn segment_names(fs: &FaultFs) -> Vec<String> {
    let mut names = fs.list(Path::new(FOLDER)).expect("the folder exists");
    names.retain(|name| name.ends_with(".seg"));
    names
}
