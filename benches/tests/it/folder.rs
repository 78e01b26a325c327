//! The check of a whole folder: a real store and a real log, as a node leaves them.

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, atomic::AtomicBool};

use storage::fs::RealFs;
use storage::log::{self, ContentType, EmbeddedLog, Record as LogRecord};
use storage::tsdb::{self, Defects, ReplayOffset, Tsdb};
use telemetry::{DeviceId, Stamp, bucket_of};
use tempfile::TempDir;
use tidewire_benches::demo::{self, Folder, Kafka, Record, Report, ViolationKind};
use tidewire_benches::ledger::{Entry, Header};
use tidewire_benches::profile::{self, METRIC_NAMES, METRICS};

use crate::ledger::write;

const SEED: u64 = 23;
const DEVICES: u32 = 3;
const BUCKETS: u16 = 4;
/// 2026-01-02T03:04:05.000Z
const START_MS: i64 = 1_767_323_045_000;
/// Messages a device: the first of them sealed and merged, then sealed, the last in the log only.
const SEALED: u64 = 6;
const MESSAGES: u64 = 8;

type Key = (u32, u64);

/// Makes the folder of a demo whose node stored everything but `missing`, and `doubled` twice.
fn folder(missing: Option<Key>, doubled: Option<Key>) -> TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::create(temporary.path()).unwrap();
    let mut record = Record::new(1, DEVICES, SEED);
    record.complete = true;
    record.points_counted_as_new = vec![u64::from(DEVICES) * MESSAGES * METRICS as u64];
    folder.write_record(&record).unwrap();
    write_ledger(&folder.ledger());
    let node = folder.node_data(1);
    std::fs::create_dir(&node).unwrap();
    let identity = format!("{{\"layout\":1,\"node\":1,\"shards\":32,\"buckets\":{BUCKETS}}}");
    std::fs::write(node.join("node.json"), identity).unwrap();
    let log = open_log(&node.join("log"));
    let keys =
        (0..MESSAGES).flat_map(|sequence| (0..DEVICES).map(move |device| (device, sequence)));
    let records: Vec<LogRecord> = keys
        .filter(|key| Some(*key) != missing)
        .map(log_record)
        .collect();
    append(&log, records.clone());
    store(&node.join("tsdb"), &log, &records, doubled);
    log.close();
    temporary
}

fn write_ledger(path: &Path) {
    let mut entries = Vec::new();
    for sequence in 0..MESSAGES {
        for device in 0..DEVICES {
            let (ts_ms, values) = (ts_of(sequence), profile::values(SEED, device, sequence));
            entries.push(Entry::Sent {
                device,
                sequence,
                ts_ms,
                values,
            });
            entries.push(Entry::Acknowledged {
                device,
                sequence,
                ts_ms,
            });
        }
    }
    let metrics = METRIC_NAMES.map(str::to_owned).to_vec();
    write(
        path,
        &Header {
            seed: SEED,
            devices: DEVICES,
            metrics,
        },
        &entries,
    );
}

fn ts_of(sequence: u64) -> i64 {
    START_MS + 1_000 * sequence as i64
}

fn open_log(path: &Path) -> EmbeddedLog {
    let config = log::Config {
        partitions: BUCKETS,
        ..log::Config::default()
    };
    EmbeddedLog::open(Arc::new(RealFs), path, config, |fatal| panic!("{fatal}")).unwrap()
}

fn log_record((device, sequence): Key) -> LogRecord {
    let id = profile::device_id(device);
    let payload = profile::payload(ts_of(sequence), &profile::values(SEED, device, sequence));
    LogRecord {
        partition: bucket_of(id.as_bytes(), u32::from(BUCKETS)),
        key: id.into(),
        payload: payload.into(),
        content_type: ContentType::Json,
        received_ms: ts_of(sequence) + 5,
        node: 1,
        connection_epoch: 1,
        packet_seq: sequence,
        retransmit: false,
        droppable: false,
    }
}

fn append(log: &EmbeddedLog, records: Vec<LogRecord>) {
    let (done, durable) = mpsc::sync_channel(1);
    log.append(records, move |result| done.send(result).unwrap())
        .unwrap_or_else(|refused| panic!("{:?}", refused.reason));
    durable.recv().unwrap().unwrap();
}

/// Seals message by message what is below [`SEALED`], so that a merge follows, and commits the
/// log's offsets with the last seal.
fn store(path: &Path, log: &EmbeddedLog, records: &[LogRecord], doubled: Option<Key>) {
    let config = tsdb::Config {
        buckets: BUCKETS,
        block_rows: 4,
        merge_fan_in: 4,
    };
    let blind = Defects {
        insert_without_lookup: true,
        ..Defects::default()
    };
    let tsdb = Tsdb::open_with_defects(Arc::new(RealFs), path, config, blind).unwrap();
    let insert = |record: &LogRecord| {
        let row = telemetry::payload::decode_json(&record.payload, record.received_ms)
            .unwrap()
            .row;
        let device = DeviceId::from_bytes(&record.key).unwrap();
        let stamp = Stamp {
            received_ms: record.received_ms,
            node: 1,
            sequence: 0,
        };
        tsdb.insert(record.partition, &device, &row, stamp).unwrap();
    };
    let mut offsets = vec![0; usize::from(BUCKETS)];
    for sequence in 0..SEALED {
        for record in records
            .iter()
            .filter(|record| record.packet_seq == sequence)
        {
            insert(record);
            offsets[usize::from(record.partition)] += 1;
        }
        if sequence + 1 == SEALED
            && let Some(doubled) = doubled
        {
            insert(&log_record(doubled));
        }
        let offsets: Vec<ReplayOffset> = (0..BUCKETS)
            .zip(&offsets)
            .map(|(partition, offset)| ReplayOffset {
                source: "log".to_owned(),
                partition,
                incarnation: log.incarnation().get(),
                offset: *offset,
            })
            .collect();
        tsdb.seal(&offsets).unwrap();
    }
    assert!(
        tsdb.merge(&AtomicBool::new(false)).unwrap(),
        "a merge was due"
    );
    let levels = tsdb.stats().levels;
    assert_eq!(
        levels.iter().filter(|level| level.segments > 0).count(),
        2,
        "{levels:?}"
    );
}

fn check(folder: &TempDir) -> Report {
    demo::check(folder.path()).unwrap()
}

#[test]
fn a_folder_of_merged_and_sealed_segments_and_a_log_passes_as_often_as_it_is_checked() {
    let folder = folder(None, None);
    for _ in 0..2 {
        let report = check(&folder);
        assert!(report.is_ok(), "{report}");
        assert_eq!((report.acked, report.stored), (3 * 8 * 20, 3 * 8 * 20));
    }
}

#[test]
fn a_row_missing_from_merged_segments_sealed_ones_or_the_log_is_named() {
    for (key, time) in [
        ((1, 0), "2026-01-02T03:04:05.000Z"),
        ((2, SEALED - 1), "2026-01-02T03:04:10.000Z"),
        ((0, MESSAGES - 1), "2026-01-02T03:04:12.000Z"),
    ] {
        let report = check(&folder(Some(key), None));

        assert_eq!(
            (report.lost, report.duplicates, report.exit_code()),
            (20, 0, 1),
            "{key:?}"
        );
        let [violation] = &report.violations[..] else {
            panic!("{report}")
        };
        assert_eq!(violation.kind, ViolationKind::Absent);
        assert_eq!(
            (&*violation.device, &*violation.time),
            (&*profile::device_id(key.0), time)
        );
    }
}

#[test]
fn a_row_in_two_segments_is_found_twice_whatever_their_level() {
    let report = check(&folder(None, Some((2, 1))));

    assert_eq!(
        (report.lost, report.duplicates, report.exit_code()),
        (0, 20, 1)
    );
    let [violation] = &report.violations[..] else {
        panic!("{report}")
    };
    assert_eq!(violation.kind, ViolationKind::Duplicate);
    assert_eq!(
        (&*violation.device, &*violation.time),
        ("demo-00002", "2026-01-02T03:04:06.000Z")
    );
}

#[test]
fn a_folder_without_a_store_is_an_error_and_not_a_loss() {
    let folder = folder(None, None);
    std::fs::remove_dir_all(folder.path().join("node-1/tsdb")).unwrap();

    let error = demo::check(folder.path()).unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("tsdb"), "{error}");
}

#[test]
fn a_demo_through_kafka_is_judged_only_if_it_reached_its_end() {
    let temporary = folder(None, None);
    let folder = Folder::at(temporary.path());
    let mut record = folder.read_record().unwrap();
    record.kafka = Some(Kafka {
        bootstrap: "k:9092".into(),
        topic: "tidewire.demo-1".into(),
    });
    folder.write_record(&record).unwrap();
    assert!(demo::check(temporary.path()).unwrap().is_ok());

    record.complete = false;
    folder.write_record(&record).unwrap();
    let error = demo::check(temporary.path()).unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("tidewire.demo-1"), "{error}");
}
