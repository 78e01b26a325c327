use std::path::PathBuf;

use tempfile::TempDir;
use tidewire_benches::demo::check::{Store, StoredPoint, compare, compare_in_passes};
use tidewire_benches::demo::{Error, Record, Report, ViolationKind};
use tidewire_benches::ledger::{Entry, Header};
use tidewire_benches::profile::{self, METRIC_NAMES, METRICS};

use crate::ledger::write;

const SEED: u64 = 11;
const DEVICES: u32 = 4;
const MESSAGES: u64 = 5;
/// 2026-01-02T03:04:05.000Z
const START_MS: i64 = 1_767_323_045_000;

#[derive(Clone)]
struct Row {
    device: String,
    ts_ms: i64,
    metrics: Vec<(&'static str, f64)>,
}

struct Rows(Vec<Row>);

impl Store for Rows {
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
        for row in &self.0 {
            for (metric, value) in &row.metrics {
                let (device, ts_ms, value) = (row.device.as_str(), row.ts_ms, *value);
                each(StoredPoint {
                    device,
                    ts_ms,
                    metric,
                    value,
                });
            }
        }
        Ok(())
    }
}

fn ts_of(sequence: u64) -> i64 {
    START_MS + 1_000 * sequence as i64
}

fn row(device: u32, sequence: u64) -> Row {
    let values = profile::values(SEED, device, sequence);
    let metrics = METRIC_NAMES.into_iter().zip(values).collect();
    Row {
        device: profile::device_id(device),
        ts_ms: ts_of(sequence),
        metrics,
    }
}

/// A ledger of 4 devices with 5 messages each, all acknowledged, and the store of an exact node.
struct Fixture {
    folder: TempDir,
    record: Record,
    rows: Rows,
    entries: Vec<Entry>,
}

fn fixture() -> Fixture {
    let mut entries = Vec::new();
    let mut rows = Vec::new();
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
            rows.push(row(device, sequence));
        }
    }
    let mut record = Record::new(1, DEVICES, SEED);
    record.complete = true;
    record.points_counted_as_new = vec![u64::from(DEVICES) * MESSAGES * METRICS as u64];
    Fixture {
        folder: tempfile::tempdir().unwrap(),
        record,
        rows: Rows(rows),
        entries,
    }
}

impl Fixture {
    fn ledger(&self) -> PathBuf {
        let path = self.folder.path().join("ledger");
        if !path.exists() {
            let metrics = METRIC_NAMES.map(str::to_owned).to_vec();
            write(
                &path,
                &Header {
                    seed: SEED,
                    devices: DEVICES,
                    metrics,
                },
                &self.entries,
            );
        }
        path
    }

    fn check(&self) -> Report {
        compare(&self.ledger(), &self.record, &self.rows).unwrap()
    }

    /// Place of a message in `rows`.
    fn place(device: u32, sequence: u64) -> usize {
        (sequence * u64::from(DEVICES) + u64::from(device)) as usize
    }
}

#[test]
fn an_exact_store_passes_and_every_point_is_counted() {
    let report = fixture().check();

    let points = 4 * 5 * 20;
    assert_eq!(
        (report.published, report.acked, report.stored),
        (points, points, points)
    );
    assert_eq!(
        (report.unacked, report.lost, report.duplicates, report.late),
        (0, 0, 0, 0)
    );
    assert_eq!((report.exit_code(), report.violations.len()), (0, 0));
}

#[test]
fn a_removed_row_is_lost_and_named_by_device_and_time() {
    let mut fixture = fixture();
    fixture.rows.0.remove(Fixture::place(2, 3));

    let report = fixture.check();

    assert_eq!(
        (report.lost, report.duplicates, report.exit_code()),
        (20, 0, 1)
    );
    assert_eq!(report.stored, report.acked - 20);
    let [violation] = &report.violations[..] else {
        panic!("{report}")
    };
    assert_eq!(violation.kind, ViolationKind::Absent);
    assert_eq!(violation.device, "demo-00002");
    assert_eq!(violation.time, "2026-01-02T03:04:08.000Z");
    assert!(
        report
            .to_string()
            .contains("demo-00002 at 2026-01-02T03:04:08.000Z"),
        "{report}"
    );
}

#[test]
fn a_doubled_row_is_a_duplicate_and_named_by_device_and_time() {
    let mut fixture = fixture();
    fixture.rows.0.push(row(1, 4));

    let report = fixture.check();

    assert_eq!(
        (report.lost, report.duplicates, report.exit_code()),
        (0, 20, 1)
    );
    assert_eq!(report.stored, report.acked, "distinct points only");
    let [violation] = &report.violations[..] else {
        panic!("{report}")
    };
    assert_eq!(violation.kind, ViolationKind::Duplicate);
    assert_eq!(violation.device, "demo-00001");
    assert_eq!(violation.time, "2026-01-02T03:04:09.000Z");
}

#[test]
fn a_single_changed_point_is_lost_even_if_only_the_sign_of_zero_changed() {
    let mut fixture = fixture();
    let changed = Fixture::place(0, 0);
    let sequence = fixture.rows.0[changed].metrics.last_mut().unwrap();
    assert_eq!(*sequence, ("sequence", 0.0));
    sequence.1 = -0.0;

    let report = fixture.check();

    assert_eq!((report.lost, report.duplicates), (1, 0));
    assert_eq!(report.violations[0].kind, ViolationKind::Different);
    assert_eq!(
        report.violations[0].detail,
        "sequence was sent as 0 and is stored as -0"
    );
}

#[test]
fn a_row_in_parts_is_whole_and_a_metric_in_two_parts_is_a_duplicate() {
    let mut fixture = fixture();
    let whole = Fixture::place(3, 1);
    let mut rest = fixture.rows.0[whole].clone();
    rest.metrics = fixture.rows.0[whole].metrics.split_off(12);
    fixture.rows.0.push(rest.clone());
    assert!(fixture.check().is_ok());

    rest.metrics.truncate(1);
    fixture.rows.0.push(rest);

    let report = fixture.check();
    assert_eq!((report.lost, report.duplicates), (0, 1));
}

#[test]
fn a_message_without_puback_may_be_stored_or_not() {
    let mut fixture = fixture();
    let unacknowledged = |entry: &Entry| {
        matches!(
            entry,
            Entry::Acknowledged {
                device: 1,
                sequence: 0 | 1,
                ..
            }
        )
    };
    fixture.entries.retain(|entry| !unacknowledged(entry));
    fixture.rows.0.remove(Fixture::place(1, 1));

    let report = fixture.check();

    assert_eq!((report.unacked, report.lost, report.duplicates), (40, 0, 0));
    assert_eq!((report.stored, report.acked), (380, 360));
}

#[test]
fn points_counted_as_new_beyond_those_sent_are_duplicates() {
    let mut fixture = fixture();
    fixture.record.points_counted_as_new = vec![100, 400 + 7];

    let report = fixture.check();

    assert_eq!(
        (
            report.duplicates,
            report.counted_beyond_sent,
            report.exit_code()
        ),
        (7, 7, 1)
    );
}

#[test]
fn a_stored_row_that_was_never_sent_is_a_violation_and_a_foreign_device_is_not() {
    let mut fixture = fixture();
    let mut unsent = row(0, 0);
    unsent.ts_ms += 1;
    fixture.rows.0.push(unsent);
    fixture.rows.0.push(Row {
        device: "car42".to_owned(),
        ..row(0, 0)
    });
    fixture.rows.0.push(Row {
        device: profile::device_id(DEVICES),
        ..row(0, 0)
    });

    let report = fixture.check();

    assert_eq!(
        (report.duplicates, report.lost, report.stored),
        (20, 0, 400)
    );
    assert_eq!(report.violations.len(), 1);
    assert_eq!(report.violations[0].kind, ViolationKind::Unsent);
    assert_eq!(report.violations[0].time, "2026-01-02T03:04:05.001Z");
}

#[test]
fn of_a_demo_that_died_only_what_the_ledger_knows_is_judged() {
    let mut fixture = fixture();
    fixture.record = Record::new(1, DEVICES, SEED);
    fixture.entries.truncate(20);
    let report = fixture.check();
    assert!(!report.complete);
    assert_eq!((report.acked, report.lost, report.duplicates), (200, 0, 0));

    fixture.rows.0.remove(0);

    assert_eq!(fixture.check().lost, 20);
}

#[test]
fn sending_again_and_late_sending_are_counted() {
    let mut fixture = fixture();
    let (ts_ms, values) = (START_MS - 500, profile::values(SEED, 2, 99));
    fixture.entries.push(Entry::SentAgain {
        device: 0,
        sequence: 0,
    });
    fixture.entries.push(Entry::Sent {
        device: 2,
        sequence: 99,
        ts_ms,
        values,
    });

    let report = fixture.check();

    assert_eq!((report.resent, report.late, report.unacked), (20, 20, 20));
}

#[test]
fn a_check_in_many_passes_finds_what_a_check_in_one_finds() {
    let mut fixture = fixture();
    fixture.rows.0.remove(Fixture::place(2, 3));
    fixture.rows.0.push(row(1, 4));
    fixture.rows.0.push(row(3, 77));
    let mut whole = fixture.check();

    let mut parts =
        compare_in_passes(&fixture.ledger(), &fixture.record, &fixture.rows, 6).unwrap();

    let by_place = |report: &mut Report| {
        report
            .violations
            .sort_by(|a, b| (&a.device, &a.time).cmp(&(&b.device, &b.time)));
    };
    by_place(&mut whole);
    by_place(&mut parts);
    assert_eq!(parts, whole);
    assert_eq!(whole.violations.len(), 3);
}

#[test]
fn violations_beyond_the_limit_are_counted_and_not_listed() {
    let mut fixture = fixture();
    fixture.rows.0.clear();

    let report = fixture.check();

    assert_eq!(report.lost, 400);
    assert_eq!(report.violations.len(), 20);
}

#[test]
fn a_ledger_that_acknowledges_what_was_never_sent_is_refused() {
    let mut fixture = fixture();
    fixture.entries.insert(
        0,
        Entry::Acknowledged {
            device: 0,
            sequence: 9,
            ts_ms: 1,
        },
    );

    let error = compare(&fixture.ledger(), &fixture.record, &fixture.rows).unwrap_err();

    assert!(
        error
            .to_string()
            .contains("demo-00000 at 1970-01-01T00:00:00.001Z"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn the_line_of_json_has_every_promised_key() {
    let json: serde_json::Value = serde_json::from_str(&fixture().check().to_json()).unwrap();
    for key in [
        "nodes",
        "devices",
        "published",
        "acked",
        "unacked",
        "stored",
        "lost",
        "duplicates",
        "resent",
        "late",
        "points_per_s",
        "p99_ms",
    ] {
        assert!(json[key].is_number(), "{key}");
    }
}
