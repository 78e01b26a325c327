//! Stored bytes, as they must stay readable; and what is said of bytes that are not ours.

use std::path::Path;
use std::sync::Arc;

use telemetry::{DeviceId, MetricName, Row, Stamp};

use super::envelope::{self, EnvelopeError};
use super::manifest::{BucketV1, OffsetV1, SegmentV1, StoreV1, StoreV2};
use super::{Config, Error, Query, Tsdb};
use crate::fs::{FaultFs, Fs};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const FOLDER: &str = "/tsdb";
const SEGMENT: &str = "/tsdb/segment-0000000000000001.tws";

fn open(fs: &FaultFs) -> Result<Tsdb, Error> {
    let config = Config {
        buckets: 1,
        ..Config::default()
    };
    Tsdb::open(Arc::new(fs.clone()), Path::new(FOLDER), config)
}

/// A store with one sealed segment of two rows.
fn sealed() -> FaultFs {
    let fs = FaultFs::new(0);
    let store = open(&fs).expect("the store opens");
    let device = DeviceId::parse("car42").expect("a device id");
    for (ts_ms, value) in [(1_700_000_000_000, 81.5), (1_700_000_010_000, 81.25)] {
        let name = MetricName::parse("battery").expect("a name");
        let row = Row::from_pairs(ts_ms, [(name, value)]).expect("distinct");
        let stamp = Stamp {
            received_ms: ts_ms,
            node: 1,
            sequence: 0,
        };
        store.insert(0, &device, &row, stamp).expect("inserts");
    }
    store.seal(&[]).expect("seals");
    fs
}

fn read(fs: &FaultFs) -> Result<Vec<Row>, Error> {
    let device = DeviceId::parse("car42").expect("a device id");
    open(fs)?.query(&Query {
        bucket: 0,
        device: &device,
        metrics: &[],
        from_ms: i64::MIN,
        to_ms: i64::MAX,
        limit: 10,
    })
}

#[test]
fn a_segment_has_these_bytes() {
    let bytes = sealed()
        .read(Path::new(SEGMENT))
        .expect("the file is there");

    assert_eq!(hex(&bytes), GOLDEN_SEGMENT);
}

#[test]
fn manifest_values_have_these_bytes() {
    let segment = SegmentV1 {
        id: 1,
        level: 2,
        blocks: 3,
        rows: 4,
        points: 5,
        block_bytes: 6,
        bytes: 7,
        ts_min_ms: -8,
        ts_max_ms: 9,
    };
    let offset = OffsetV1 {
        incarnation: 1,
        offset: 2,
    };
    let store = StoreV1 { buckets: 64 };
    let moved = StoreV2 { buckets: 64 };
    let bucket = BucketV1 {
        standing: 2,
        epoch: 3,
        dead_upto: 4,
    };

    assert_eq!(hex(&envelope::seal(&segment)), GOLDEN_SEGMENT_VALUE);
    assert_eq!(hex(&envelope::seal(&offset)), GOLDEN_OFFSET_VALUE);
    assert_eq!(hex(&envelope::seal(&store)), GOLDEN_STORE_VALUE);
    assert_eq!(hex(&envelope::seal(&moved)), GOLDEN_STORE_MOVED_VALUE);
    assert_eq!(hex(&envelope::seal(&bucket)), GOLDEN_BUCKET_VALUE);
    assert_eq!(
        envelope::open::<SegmentV1>(&envelope::seal(&segment)),
        Ok(segment)
    );
    assert_eq!(
        envelope::open::<OffsetV1>(&envelope::seal(&offset)),
        Ok(offset)
    );
    assert_eq!(
        envelope::open::<StoreV1>(&envelope::seal(&store)),
        Ok(store)
    );
}

#[test]
fn any_changed_byte_of_a_value_is_noticed() {
    let good = envelope::seal(&OffsetV1 {
        incarnation: 1,
        offset: 2,
    });
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let opened = envelope::open::<OffsetV1>(&bad);
        assert!(
            matches!(opened, Err(EnvelopeError::Damaged(_))),
            "byte {at}: {opened:?}"
        );
        assert!(
            envelope::open::<OffsetV1>(&good[..at]).is_err(),
            "cut at {at}"
        );
    }
    assert!(envelope::open::<StoreV1>(&good).is_err(), "another kind");
}

#[test]
fn any_changed_bit_of_a_segment_is_an_error_that_names_the_file() {
    let fs = sealed();
    let len = fs
        .read(Path::new(SEGMENT))
        .expect("the file is there")
        .len();
    for offset in 0..len as u64 {
        fs.flip_bit(Path::new(SEGMENT), offset, 3);

        let error = read(&fs).expect_err("a changed bit is noticed").to_string();

        assert!(
            error.contains("segment-0000000000000001.tws"),
            "offset {offset}: {error}"
        );
        fs.flip_bit(Path::new(SEGMENT), offset, 3);
    }
    assert_eq!(read(&fs).expect("whole again").len(), 2);
}

#[test]
fn a_damaged_block_names_file_and_offset() {
    let fs = sealed();
    fs.flip_bit(Path::new(SEGMENT), 44, 0);

    let error = read(&fs).expect_err("damaged").to_string();

    assert_eq!(
        error,
        format!("{SEGMENT} is damaged at offset 32: checksum")
    );
}

#[test]
fn a_segment_of_another_version_is_refused_by_name() {
    let fs = sealed();
    // Version 1 becomes version 3.
    fs.flip_bit(Path::new(SEGMENT), 10, 1);

    assert!(matches!(
        open(&fs),
        Err(Error::Version {
            found: 3,
            expected: 1,
            ..
        })
    ));
}

#[test]
fn a_foreign_folder_is_left_alone() {
    let fs = FaultFs::new(0);
    fs.create_dir_all(Path::new(FOLDER)).expect("creates");
    fs.create(Path::new("/tsdb/photo.jpg")).expect("creates");

    let error = open(&fs).expect_err("refused").to_string();

    assert!(error.contains("photo.jpg"), "{error}");
    assert_eq!(fs.list(Path::new(FOLDER)).expect("lists"), ["photo.jpg"]);
}

#[test]
fn segments_without_a_manifest_are_not_deleted() {
    let fs = sealed();
    fs.unlink(Path::new("/tsdb/manifest.redb"))
        .expect("unlinks");

    assert!(matches!(open(&fs), Err(Error::Damaged { .. })));

    assert!(fs.exists(Path::new(SEGMENT)).expect("looks"));
}

#[test]
fn a_file_that_the_manifest_does_not_name_is_deleted() {
    let fs = sealed();
    let unfinished = Path::new("/tsdb/segment-00000000000000ff.tws");
    fs.create(unfinished).expect("creates");

    assert_eq!(read(&fs).expect("opens").len(), 2);

    assert!(!fs.exists(unfinished).expect("looks"));
}

#[test]
fn another_number_of_buckets_is_refused() {
    let fs = sealed();
    let config = Config {
        buckets: 2,
        ..Config::default()
    };

    let refused = Tsdb::open(Arc::new(fs), Path::new(FOLDER), config);

    assert!(matches!(
        refused,
        Err(Error::Buckets {
            found: 1,
            asked: 2,
            ..
        })
    ));
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let fs = sealed();
    for offset in 0..8 {
        fs.flip_bit(Path::new("/tsdb/manifest.redb"), offset, 0);
    }

    let error = open(&fs).expect_err("refused").to_string();

    assert!(error.contains("manifest.redb"), "{error}");
}

const GOLDEN_SEGMENT: &str = "\
    5449444557534547010001000000000001000000000000000000000053218ebd14000000284f44520180800a\
    005af9f36207c40181080ed6bf90100029000000bcd1e9a10000050063617234320068e5cf8b010000108fe5\
    cf8b010000020000002000000000000000140000000f0000000118ff9f010100000001000762617474657279\
    150000001aea0f9e0000050063617234323c00000000000000290000005449444557454e446d000000000000\
    0084000000000000000f00000015000000010000000000000002000000000000000200000000000000140000\
    00000000000068e5cf8b010000108fe5cf8b0100000100000000000000000000000000000000000000000000\
    0000000000967fd23b";
const GOLDEN_SEGMENT_VALUE: &str = "\
    5457564c02010000440000004b8f5bee01000000000000000200000003000000000000000400000000000000\
    050000000000000006000000000000000700000000000000f8ffffffffffffff0900000000000000";
const GOLDEN_OFFSET_VALUE: &str = "\
    5457564c03010000100000004f43617201000000000000000200000000000000";
const GOLDEN_STORE_MOVED_VALUE: &str = "5457564c01020000020000001fecf1f04000";
const GOLDEN_BUCKET_VALUE: &str = "\
    5457564c0401000011000000aa40bab50203000000000000000400000000000000";
const GOLDEN_STORE_VALUE: &str = "\
    5457564c010100000200000036e05ee94000";
