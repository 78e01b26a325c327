//! The store against a naive model, bit by bit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use telemetry::{DeviceId, MetricName, Row, Stamp};

use super::{Config, Query, RawPoint, ReplayOffset, Tsdb};
use crate::fs::FaultFs;

const DEVICES: [&str; 4] = ["a", "b", "car-with-a-longer-name", "é"];
const METRICS: [&str; 4] = ["battery", "m", "speed", "z"];
const FOLDER: &str = "/tsdb";

#[derive(Clone, Debug)]
enum Step {
    Insert {
        device: usize,
        ts_ms: i64,
        points: Vec<(usize, f64)>,
        received_ms: i64,
    },
    Seal,
    Merge,
    Reopen,
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-3_i32..3).prop_map(|n| f64::from(n) / 4.0),
        1 => prop_oneof![
            Just(f64::NAN), Just(-f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(5e-324),
        ],
        1 => any::<u64>().prop_map(f64::from_bits),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let points = proptest::collection::vec((0..METRICS.len(), value()), 1..4);
    let ts = prop_oneof![20 => -20_i64..20, 1 => Just(i64::MIN), 1 => Just(i64::MAX)];
    let insert = (0..DEVICES.len(), ts, points, 0_i64..50).prop_map(
        |(device, ts_ms, points, received_ms)| Step::Insert {
            device,
            ts_ms,
            points,
            received_ms,
        },
    );
    prop_oneof![12 => insert, 2 => Just(Step::Seal), 1 => Just(Step::Merge), 1 => Just(Step::Reopen)]
}

/// Device and time.
type Key = (usize, i64);
/// By metric.
type Values<V> = BTreeMap<&'static str, V>;

/// Values by device and time and metric; those of the head with their stamps.
#[derive(Default)]
struct Model {
    sealed: BTreeMap<Key, Values<u64>>,
    head: BTreeMap<Key, Values<(Stamp, u64)>>,
    conflicts: usize,
}

impl Model {
    fn insert(&mut self, key: (usize, i64), row: &Row, stamp: Stamp) {
        let sealed = self.sealed.get(&key);
        for (name, value) in row.metrics() {
            let metric = *METRICS
                .iter()
                .find(|m| **m == name.as_str())
                .expect("one of ours");
            let bits = value.to_bits();
            if let Some(stored) = sealed.and_then(|row| row.get(metric)) {
                self.conflicts += usize::from(*stored != bits);
                continue;
            }
            let held = self
                .head
                .entry(key)
                .or_default()
                .entry(metric)
                .or_insert((stamp, bits));
            // Of equal stamps the higher bits; an equal value keeps the higher stamp.
            *held = (*held).max((stamp, bits));
        }
    }

    fn seal(&mut self) {
        for (key, row) in std::mem::take(&mut self.head) {
            let sealed = self.sealed.entry(key).or_default();
            sealed.extend(row.into_iter().map(|(metric, (_, bits))| (metric, bits)));
        }
    }

    fn rows(&self, device: usize) -> BTreeMap<i64, BTreeMap<&'static str, u64>> {
        let mut rows: BTreeMap<i64, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for ((_, ts), row) in self.sealed.iter().filter(|((of, _), _)| *of == device) {
            rows.entry(*ts).or_default().extend(row);
        }
        for ((_, ts), row) in self.head.iter().filter(|((of, _), _)| *of == device) {
            let row = row.iter().map(|(metric, (_, bits))| (*metric, *bits));
            rows.entry(*ts).or_default().extend(row);
        }
        rows
    }
}

fn device(at: usize) -> (u16, DeviceId) {
    let device = DeviceId::parse(DEVICES[at]).expect("a device id");
    (telemetry::bucket_of(device.as_bytes(), 3), device)
}

fn open(fs: &FaultFs) -> Tsdb {
    let config = Config {
        buckets: 3,
        block_rows: 3,
        merge_fan_in: 2,
    };
    Tsdb::open(Arc::new(fs.clone()), Path::new(FOLDER), config).expect("the store opens")
}

fn bits_of(rows: &[Row]) -> BTreeMap<i64, BTreeMap<&'static str, u64>> {
    let metric = |name: &MetricName| *METRICS.iter().find(|m| **m == name.as_str()).expect("ours");
    let bits = |row: &Row| {
        row.metrics()
            .map(|(n, v)| (metric(n), v.to_bits()))
            .collect()
    };
    rows.iter().map(|row| (row.ts_ms, bits(row))).collect()
}

fn check(store: &Tsdb, model: &Model) {
    for at in 0..DEVICES.len() {
        let (bucket, device) = device(at);
        let all = Query {
            bucket,
            device: &device,
            metrics: &[],
            from_ms: i64::MIN,
            to_ms: i64::MAX,
            limit: usize::MAX,
        };
        let expected = model.rows(at);
        assert_eq!(bits_of(&store.query(&all).expect("reads")), expected);

        let part = Query {
            from_ms: -5,
            to_ms: 5,
            limit: 3,
            ..all.clone()
        };
        let expected: BTreeMap<_, _> = expected.range(-5..=5).take(3).collect();
        let found = bits_of(&store.query(&part).expect("reads"));
        assert_eq!(found.iter().collect::<BTreeMap<_, _>>(), expected);
    }
    let mut raw: BTreeMap<(String, i64, String), u32> = BTreeMap::new();
    let visit = |p: &RawPoint<'_>| {
        *raw.entry((p.device.to_string(), p.ts_ms, p.metric.to_owned()))
            .or_default() += 1;
    };
    store.scan_raw(visit).expect("reads");
    assert!(raw.values().all(|count| *count == 1), "{raw:?}");
    let stats = store.stats();
    let points = stats.levels.iter().map(|level| level.points).sum::<u64>();
    assert_eq!((points + stats.head_points) as usize, raw.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sealed_merged_and_reopened_reads_back_bit_by_bit(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let fs = FaultFs::new(0);
        let mut store = open(&fs);
        let mut model = Model::default();
        let mut conflicts = 0;
        for (sequence, step) in (0_u64..).zip(steps) {
            match step {
                Step::Insert { device: at, ts_ms, mut points, received_ms } => {
                    points.sort_by_key(|point| point.0);
                    points.dedup_by_key(|point| point.0);
                    let name = |at: usize| MetricName::parse(METRICS[at]).expect("a name");
                    let pairs = points.into_iter().map(|(at, value)| (name(at), value));
                    let row = Row::from_pairs(ts_ms, pairs).expect("distinct");
                    let stamp = Stamp { received_ms, node: 1, sequence };
                    let (bucket, device) = device(at);
                    let inserted = store.insert(bucket, &device, &row, stamp).expect("inserts");
                    conflicts += inserted.conflicts.len();
                    model.insert((at, ts_ms), &row, stamp);
                }
                Step::Seal => {
                    store.seal(&[]).expect("seals");
                    model.seal();
                }
                Step::Merge => {
                    store.merge(&AtomicBool::new(false)).expect("merges");
                }
                Step::Reopen => {
                    drop(store);
                    store = open(&fs);
                    model.head.clear();
                }
            }
        }
        prop_assert_eq!(conflicts, model.conflicts);
        check(&store, &model);
    }
}

#[test]
fn merging_packs_small_blocks_and_leaves_one_segment() {
    let fs = FaultFs::new(0);
    let store = open(&fs);
    let (bucket, device) = device(0);
    for n in 0..8_i64 {
        let name = MetricName::parse("m").expect("a name");
        let row = Row::from_pairs(n, [(name, n as f64)]).expect("distinct");
        let stamp = Stamp {
            received_ms: n,
            node: 1,
            sequence: n as u64,
        };
        store.insert(bucket, &device, &row, stamp).expect("inserts");
        store.seal(&[]).expect("seals");
    }
    while store.merge(&AtomicBool::new(false)).expect("merges") {}

    let levels = store.stats().levels;

    assert_eq!(levels.len(), 1, "{levels:?}");
    assert_eq!(
        (levels[0].level, levels[0].segments, levels[0].rows),
        (3, 1, 8)
    );
    assert_eq!(store.stats().merges, 7);
    let files = crate::fs::Fs::list(&fs, Path::new(FOLDER)).expect("lists");
    let segments = files
        .iter()
        .filter(|name| name.starts_with("segment-"))
        .count();
    assert_eq!(segments, 1, "{files:?}");
}

#[test]
fn a_replaced_segment_stays_readable_for_who_reads_it() {
    let fs = FaultFs::new(0);
    let store = open(&fs);
    for n in 0..2_i64 {
        let row = Row::from_pairs(n, [(MetricName::parse("m").expect("a name"), 1.0)]);
        let stamp = Stamp {
            received_ms: n,
            node: 1,
            sequence: 0,
        };
        let (bucket, device) = device(0);
        store
            .insert(bucket, &device, &row.expect("distinct"), stamp)
            .expect("inserts");
        store.seal(&[]).expect("seals");
    }
    let reader = Arc::clone(&store.shared.state().live);
    store.merge(&AtomicBool::new(false)).expect("merges");
    let count = |live: &[Arc<super::segment::Segment>]| {
        live.iter()
            .flat_map(|segment| segment.entries().map(move |e| segment.rows(&e?)))
            .count()
    };

    assert_eq!((count(&reader), count(&store.shared.state().live)), (2, 1));

    drop(reader);
    let files = crate::fs::Fs::list(&fs, Path::new(FOLDER)).expect("lists");
    assert_eq!(
        files
            .iter()
            .filter(|name| name.starts_with("segment-"))
            .count(),
        1
    );
}

#[test]
fn offsets_move_with_the_seal_that_covers_them() {
    let fs = FaultFs::new(0);
    let at = |offset| ReplayOffset {
        source: "log".into(),
        partition: 2,
        incarnation: 7,
        offset,
    };
    let store = open(&fs);
    store.seal(&[at(5)]).expect("seals");
    store.seal(&[at(9)]).expect("seals");
    drop(store);

    assert_eq!(open(&fs).replay_offsets().expect("reads"), [at(9)]);
}

#[test]
fn the_devices_of_a_bucket_are_listed_in_pages() {
    let fs = FaultFs::new(0);
    let store = Tsdb::open(
        Arc::new(fs),
        Path::new(FOLDER),
        Config {
            buckets: 2,
            ..Config::default()
        },
    )
    .expect("opens");
    let id = |n: u32| DeviceId::parse(&format!("car{n:03}")).expect("a device id");
    for n in 0..300 {
        let name = MetricName::parse("m").expect("a name");
        let row = Row::from_pairs(0, [(name, 1.0)]).expect("distinct");
        let stamp = Stamp {
            received_ms: 0,
            node: 1,
            sequence: 0,
        };
        store
            .insert((n % 2) as u16, &id(n), &row, stamp)
            .expect("inserts");
        if n == 250 {
            store.seal(&[]).expect("seals");
        }
    }

    let page = store.devices(1, Some(&id(100)), 3).expect("reads");

    assert_eq!(page, [id(101), id(103), id(105)]);
    assert_eq!(store.devices(1, None, 1_000).expect("reads").len(), 150);
}
