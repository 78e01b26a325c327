//! The store of a stopped node, looked into and tampered with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::fs::RealFs;
use storage::tsdb::{Config, Defects, Tsdb};
use telemetry::{DeviceId, MetricName, Stamp, bucket_of};

/// The node's default, which every test here leaves alone.
const BUCKETS: u16 = 64;

/// The file by which the store's folder is known.
const MANIFEST: &str = "manifest.redb";

/// Names a row as a report does.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) device: String,
    /// RFC 3339, UTC, with milliseconds.
    pub(crate) time: String,
}

/// The points that lie in more than one live block, as text.
pub(crate) fn points_twice(data: &Path) -> Vec<String> {
    let store = open(&folder(data), Defects::default());
    let mut points = BTreeMap::new();
    store
        .scan_raw(|point| {
            let key = (
                point.device.as_str().to_owned(),
                point.ts_ms,
                point.metric.to_owned(),
            );
            *points.entry(key).or_insert(0) += 1;
        })
        .expect("the store can be read");
    assert!(!points.is_empty(), "the store has points");
    points.retain(|_, count| *count > 1);
    points
        .keys()
        .map(|(device, ts, metric)| format!("{device} {ts} {metric}"))
        .collect()
}

/// Takes one row out of the store, leaving everything else as it is.
pub(crate) fn remove_a_row(data: &Path) -> Row {
    let folder = folder(data);
    let without = folder.with_extension("without");
    let old = open(&folder, Defects::default());
    let new = open(&without, Defects::default());
    let mut rows = rows(&old);
    let ((device, ts), _) = rows.pop_first().expect("the store has rows");
    for ((device, ts), metrics) in &rows {
        insert(&new, device, *ts, metrics);
    }
    let offsets = old.replay_offsets().expect("the manifest can be read");
    new.seal(&offsets).expect("the new store can be written");
    drop((old, new));
    fs::remove_dir_all(&folder).expect("the old store can be removed");
    fs::rename(&without, &folder).expect("the new store can take its place");
    Row {
        device,
        time: rfc3339(ts),
    }
}

/// Puts one row into the store a second time, in a block of its own.
pub(crate) fn double_a_row(data: &Path) -> Row {
    let blind = Defects {
        insert_without_lookup: true,
        ..Defects::default()
    };
    let store = open(&folder(data), blind);
    let ((device, ts), metrics) = rows(&store).pop_last().expect("the store has rows");
    insert(&store, &device, ts, &metrics);
    let offsets = store.replay_offsets().expect("the manifest can be read");
    store.seal(&offsets).expect("the store can be written");
    Row {
        device,
        time: rfc3339(ts),
    }
}

/// Rows by device and time, with their metrics.
type Rows = BTreeMap<(String, i64), Vec<(String, f64)>>;

fn rows(store: &Tsdb) -> Rows {
    let mut rows = Rows::new();
    store
        .scan_raw(|point| {
            let row = rows
                .entry((point.device.as_str().to_owned(), point.ts_ms))
                .or_default();
            row.push((point.metric.to_owned(), point.value));
        })
        .expect("the store can be read");
    rows
}

fn insert(store: &Tsdb, device: &str, ts: i64, metrics: &[(String, f64)]) {
    let bucket = bucket_of(device.as_bytes(), u32::from(BUCKETS));
    let device = DeviceId::parse(device).expect("it was stored");
    let pairs = metrics
        .iter()
        .map(|(name, value)| (MetricName::parse(name).expect("it was stored"), *value));
    let row = telemetry::Row::from_pairs(ts, pairs).expect("a point is there once");
    let stamp = Stamp {
        received_ms: ts,
        node: 1,
        sequence: 0,
    };
    store
        .insert(bucket, &device, &row, stamp)
        .expect("the store can be read");
}

fn open(folder: &Path, defects: Defects) -> Tsdb {
    let config = Config {
        buckets: BUCKETS,
        ..Config::default()
    };
    Tsdb::open_with_defects(Arc::new(RealFs), folder, config, defects)
        .expect("the store can be opened")
}

fn folder(data: &Path) -> PathBuf {
    let mut open = vec![data.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of the node can be listed") {
            let path = entry.expect("a folder of the node can be listed").path();
            if path.ends_with(MANIFEST) {
                return dir;
            }
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    panic!("no {MANIFEST} below {}", data.display());
}

fn rfc3339(ts_ms: i64) -> String {
    let (days, ms) = (ts_ms.div_euclid(86_400_000), ts_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        ms % 1_000
    )
}

/// Year, month and day of a number of days since 1970-01-01, counted forward one month at a time.
fn civil(mut days: i64) -> (i64, usize, i64) {
    let mut year = 1970;
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if leap { 29 } else { 28 };
        let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (index, length) in months.into_iter().enumerate() {
            if days < length {
                return (year, index + 1, days + 1);
            }
            days -= length;
        }
        year += 1;
    }
}

#[test]
fn a_time_is_written_as_reports_write_it() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(rfc3339(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
}
