//! The check of a folder with several nodes: their sealed stores together.

use std::path::Path;
use std::sync::Arc;

use storage::fs::RealFs;
use storage::tsdb::{self, ReplayOffset, Tsdb};
use telemetry::{DeviceId, Stamp, bucket_of};
use tempfile::TempDir;
use tidewire_benches::demo::{self, ClusterRecord, Folder, Record, Report, ViolationKind};
use tidewire_benches::ledger::{Entry, Header};
use tidewire_benches::pairs;
use tidewire_benches::profile::{self, METRIC_NAMES, METRICS};

use crate::ledger::write;

const SEED: u64 = 29;
const NODES: u32 = 3;
const DEVICES: u32 = 6;
const MESSAGES: u64 = 4;
const BUCKETS: u16 = 4;
/// 2026-01-02T03:04:05.000Z
const START_MS: i64 = 1_767_323_045_000;

type Key = (u32, u64);

/// Makes the folder of a demo whose nodes stored everything but `missing`, and `doubled` at two of
/// them.
fn folder(missing: Option<Key>, doubled: Option<Key>) -> TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::create(temporary.path()).unwrap();
    let mut record = Record::new(NODES, DEVICES, SEED);
    record.complete = true;
    record.cluster = Some(ClusterRecord::default());
    folder.write_record(&record).unwrap();
    write_ledger(&folder.ledger());
    for node in 0..NODES {
        let keys = (0..DEVICES).flat_map(|device| (0..MESSAGES).map(move |at| (device, at)));
        let owned = keys.filter(|key| {
            let owner = key.0 % NODES;
            let is_copy = Some(*key) == doubled && (owner + 1) % NODES == node;
            Some(*key) != missing && (owner == node || is_copy)
        });
        write_node(&folder.node_data(node + 1), owned);
    }
    temporary
}

fn write_ledger(path: &Path) {
    let keys = (0..MESSAGES).flat_map(|at| (0..DEVICES).map(move |device| (device, at)));
    let entries: Vec<Entry> = keys
        .flat_map(|(device, sequence)| {
            let (ts_ms, values) = (ts_of(sequence), profile::values(SEED, device, sequence));
            let sent = Entry::Sent {
                device,
                sequence,
                ts_ms,
                values,
            };
            let acknowledged = Entry::Acknowledged {
                device,
                sequence,
                ts_ms,
            };
            [sent, acknowledged]
        })
        .collect();
    let header = Header {
        seed: SEED,
        devices: DEVICES,
        metrics: METRIC_NAMES.map(str::to_owned).to_vec(),
    };
    write(path, &header, &entries);
}

fn ts_of(sequence: u64) -> i64 {
    START_MS + 1_000 * sequence as i64
}

/// Writes the data folder of a node that has sealed these rows.
fn write_node(data: &Path, keys: impl Iterator<Item = Key>) {
    std::fs::create_dir(data).unwrap();
    let identity = format!("{{\"layout\":1,\"node\":1,\"shards\":32,\"buckets\":{BUCKETS}}}");
    std::fs::write(data.join("node.json"), identity).unwrap();
    let config = tsdb::Config {
        buckets: BUCKETS,
        ..tsdb::Config::default()
    };
    let store = Tsdb::open(Arc::new(RealFs), &data.join("tsdb"), config).unwrap();
    for (device, sequence) in keys {
        let id = profile::device_id(device);
        let payload = profile::payload(ts_of(sequence), &profile::values(SEED, device, sequence));
        let received_ms = ts_of(sequence) + 5;
        let decoded = telemetry::payload::decode_json(payload.as_bytes(), received_ms).unwrap();
        let stamp = Stamp {
            received_ms,
            node: 1,
            sequence: 0,
        };
        let bucket = bucket_of(id.as_bytes(), u32::from(BUCKETS));
        let id = DeviceId::from_bytes(id.as_bytes()).unwrap();
        store.insert(bucket, &id, &decoded.row, stamp).unwrap();
    }
    let offsets = (0..BUCKETS).map(|partition| ReplayOffset {
        source: "log".to_owned(),
        partition,
        incarnation: 1,
        offset: 1,
    });
    store.seal(&offsets.collect::<Vec<_>>()).unwrap();
}

fn check(folder: &TempDir) -> Report {
    demo::check(folder.path()).unwrap()
}

fn with_cluster(cluster: ClusterRecord) -> Report {
    let temporary = folder(None, None);
    let folder = Folder::at(temporary.path());
    let mut record = folder.read_record().unwrap();
    record.cluster = Some(cluster);
    folder.write_record(&record).unwrap();
    check(&temporary)
}

#[test]
fn what_several_nodes_store_is_checked_together_and_left_as_it_is() {
    let folder = folder(None, None);
    for _ in 0..2 {
        let report = check(&folder);
        let points = u64::from(DEVICES) * MESSAGES * METRICS as u64;
        assert_eq!((report.acked, report.stored), (points, points));
        assert_eq!(report.exit_code(), 0, "{report}");
    }
}

#[test]
fn a_row_that_no_node_stores_is_lost_and_named() {
    let report = check(&folder(Some((4, 2)), None));

    assert_eq!(
        (report.lost, report.duplicates, report.exit_code()),
        (20, 0, 1)
    );
    let [violation] = &report.violations[..] else {
        panic!("{report}")
    };
    assert_eq!(violation.kind, ViolationKind::Absent);
    assert_eq!(
        (&*violation.device, &*violation.time),
        ("demo-00004", "2026-01-02T03:04:07.000Z")
    );
}

#[test]
fn a_row_that_two_nodes_store_is_there_twice_and_named() {
    let report = check(&folder(None, Some((1, 3))));

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
        ("demo-00001", "2026-01-02T03:04:08.000Z")
    );
}

#[test]
fn what_is_stored_and_no_node_answered_is_lost() {
    let report = with_cluster(ClusterRecord {
        lost_in_answers: 40,
        ..ClusterRecord::default()
    });

    assert_eq!((report.lost, report.exit_code()), (40, 1));
    assert!(
        report
            .to_string()
            .contains("40 acknowledged points were in no node's answer")
    );
}

#[test]
fn sessions_that_lost_a_message_its_order_or_themselves_fail_the_demo() {
    let good = pairs::Summary {
        acked: 7,
        repeated: 3,
        ..pairs::Summary::default()
    };
    let with = |sessions: pairs::Summary| {
        with_cluster(ClusterRecord {
            sessions,
            ..ClusterRecord::default()
        })
    };
    assert_eq!(with(good.clone()).exit_code(), 0, "QoS 1 may repeat");
    let bad = [
        pairs::Summary {
            lost: 1,
            ..good.clone()
        },
        pairs::Summary {
            out_of_order: 1,
            ..good.clone()
        },
        pairs::Summary {
            sessions_missing: 1,
            ..good
        },
    ];
    for sessions in bad {
        let report = with(sessions);
        assert_eq!((report.lost, report.exit_code()), (0, 1), "{report}");
    }
}

#[test]
fn a_demo_of_several_nodes_is_judged_only_if_it_reached_its_end() {
    let temporary = folder(None, None);
    let folder = Folder::at(temporary.path());
    let mut record = folder.read_record().unwrap();
    record.complete = false;
    folder.write_record(&record).unwrap();

    let error = demo::check(temporary.path()).unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("3 nodes"), "{error}");
}
